"""Columns as tokens, and draws from groups of training rows that smooth what would identify a row.

The ground that the independent columns and the forest stand on; a group is a leaf, or the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from generators.encoding import ColumnCodec, EncodedTable, TableCodec

# A value that this many training rows share identifies none of them and is emitted as it is.
_SHARED = 5
# The golden ratio: multiples of it, modulo 1, lie more evenly than those of any other number.
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Support:
    """One column's tokens: its codes, where every distinct continuous value is a code of its own.

    Tokens below ``codec.size - codec.continuous`` are codes; above, token ``first + i`` means the
    continuous value ``values[i]``.

    Attributes:
        codec: the column's codec.
        values: distinct continuous training values, ascending; shape (R,).
        shared: whether the value may be emitted unchanged, because many rows share it or it is a
            bound of the column; shape (R,).
    """

    codec: ColumnCodec
    values: np.ndarray
    shared: np.ndarray

    @property
    def first(self) -> int:
        """The first token that means a continuous value."""
        return self.codec.size - int(self.codec.continuous)

    @classmethod
    def of(cls, codec: ColumnCodec, values: np.ndarray) -> Self:
        """The support of a training column with these continuous ``values`` (NaN elsewhere)."""
        present = codec.snap(values[np.isfinite(values)])
        distinct, counts = np.unique(present, return_counts=True)
        shared = counts >= _SHARED
        # The ends are the column's bounds, and drawn values should reach them.
        shared[:1] = shared[-1:] = True
        return cls(codec, distinct, shared)

    def tokens(self, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Tokens (int32, shape (N,)) of training codes and values."""
        tokens = codes.astype(np.int32)
        between = np.isfinite(values)
        at = np.searchsorted(self.values, self.codec.snap(values[between]))
        tokens[between] = self.first + at
        return tokens


@dataclass(frozen=True)
class Leaves:
    """Groups of training rows, each as its distinct tokens in ascending order with their weights.

    Group g holds ``tokens[start[g]:start[g + 1]]``; token p stands for
    ``cumulative[p + 1] - cumulative[p]`` rows.
    """

    start: np.ndarray
    tokens: np.ndarray
    cumulative: np.ndarray

    @classmethod
    def build(cls, group: np.ndarray, tokens: np.ndarray, n_groups: int) -> Self:
        """Groups 0 .. ``n_groups - 1`` (none empty) of members with these ``tokens``."""
        key = group.astype(np.int64) << 32 | tokens
        distinct, counts = np.unique(key, return_counts=True)
        start = np.searchsorted(distinct, np.arange(n_groups + 1, dtype=np.int64) << 32)
        cumulative = np.concatenate([[0], np.cumsum(counts)])
        return cls(start.astype(np.int64), (distinct & 0xFFFFFFFF).astype(np.int32), cumulative)

    def draw(self, group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each entry of ``group`` the position of a member drawn with its weight.

        Entries of one group, and of groups next to each other, draw evenly from their members.
        """
        low = self.cumulative[self.start[group]]
        high = self.cumulative[self.start[group + 1]]
        member = low + (spread(group, rng) * (high - low)).astype(np.int64)
        found: np.ndarray = np.searchsorted(self.cumulative, member, side="right") - 1
        return found

    def cells(
        self, group: np.ndarray, position: np.ndarray, first: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The stretch of continuous tokens that each drawn member stands for.

        It reaches half-way to the member's distinct neighbours in the group. A lone member reaches
        one token to either side, so that it is not copied.
        """
        token = self.tokens[position].astype(np.float64)
        last = len(self.tokens) - 1
        left = self.tokens[np.maximum(position - 1, 0)]
        right = self.tokens[np.minimum(position + 1, last)]
        has_left = (position > self.start[group]) & (left >= first)
        has_right = position + 1 < self.start[group + 1]
        lone = ~has_left & ~has_right
        low = np.where(has_left, (token + left) / 2, token - lone)
        high = np.where(has_right, (token + right) / 2, token + lone)
        return low, high


def spread(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A number in [0, 1) for each entry of ``group``, even within groups and among neighbours.

    Each number is uniform by itself, but those of a group lie more evenly than independent ones,
    so what is drawn by them is nearer to the group's distribution (L'Ecuyer, Lecot, Tuffin 2008,
    "A randomized quasi-Monte Carlo simulation method for Markov chains"). Which entry of a group
    has which number is left to chance, lest two draws by the same groups depend on each other.
    """
    order = rng.permutation(len(group))
    # Radix sort, which is several times as fast, is for 16 bits.
    narrow = group if group.max(initial=0) > np.iinfo(np.uint16).max else group.astype(np.uint16)
    order = order[np.argsort(narrow[order], kind="stable")]
    numbers = np.empty(len(group))
    numbers[order] = (rng.random() + np.arange(len(group)) * _GOLDEN) % 1.0
    return numbers


def draw_cells(
    support: Support,
    leaves: Leaves,
    group: np.ndarray,
    rng: np.random.Generator,
    *,
    smooth: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Codes and values, one for each entry of ``group``, drawn from the members of that group.

    A continuous value is interpolated between the order statistics of the group's distinct values
    along the column's empirical quantile function, then snapped to the column's grid; so gaps of
    the column stay empty. With ``smooth`` off it is copied.
    """
    position = leaves.draw(group, rng)
    token = leaves.tokens[position]
    codes = np.minimum(token, support.first).astype(np.int32)
    values = np.full(len(group), np.nan)
    between = np.flatnonzero(token >= support.first)
    if not support.codec.continuous or len(between) == 0:
        return codes, values
    at = (token[between] - support.first).astype(np.float64)
    if smooth:
        low, high = leaves.cells(group[between], position[between], support.first)
        drawn = low + rng.random(len(between)) * (high - low) - support.first
        at = np.where(support.shared[at.astype(np.int64)], at, drawn)
    index = np.arange(len(support.values), dtype=np.float64)
    values[between] = support.codec.snap(np.interp(at, index, support.values))
    return codes, values


def supports(codec: TableCodec, encoded: EncodedTable) -> list[Support]:
    """The support of every modelled column."""
    return [
        Support.of(column, encoded.values[:, position])
        for position, column in enumerate(codec.columns)
    ]


def supports_state(columns: list[Support]) -> dict[str, np.ndarray]:
    """Arrays of the supports for saving; ``restore_supports`` is the inverse."""
    arrays: dict[str, np.ndarray] = {}
    for position, support in enumerate(columns):
        arrays[f"{position}.values"] = support.values
        arrays[f"{position}.shared"] = support.shared
    return arrays


def restore_supports(codec: TableCodec, arrays: dict[str, np.ndarray]) -> list[Support]:
    """The supports that ``supports_state`` wrote."""
    return [
        Support(column, arrays[f"{position}.values"], arrays[f"{position}.shared"])
        for position, column in enumerate(codec.columns)
    ]
