"""Independent columns: the floor that every other table generator must beat.

Also the ground the forest stands on: columns as tokens, and draws from a group of training rows
(a leaf; here the whole table) that smooth values which would identify a row.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from generators.base import Block, DataError, Generator, Modality, OnProgress, Progress
from generators.encoding import ColumnCodec, EncodedTable, TableCodec
from generators.schema import TableSchema

# A value that this many training rows share identifies none of them and is emitted as it is.
_SHARED = 5


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
        """For each entry of ``group`` the position of a member drawn with its weight."""
        low = self.cumulative[self.start[group]]
        high = self.cumulative[self.start[group + 1]]
        member = low + (rng.random(len(group)) * (high - low)).astype(np.int64)
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


def learnable(data: pd.DataFrame, schema: TableSchema) -> tuple[TableCodec, EncodedTable]:
    """The codec of a table and the encoded table.

    Raises:
        DataError: no column can be learned.
    """
    if not schema.modelled:
        raise DataError(
            "a table needs at least one column that is neither an id nor text, got "
            f"{len(schema.columns)} columns of these kinds only; declare the kind of a column"
        )
    codec = TableCodec.fit(data, schema)
    return codec, codec.encode(data)


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


@dataclass(kw_only=True)
class Independent(Generator):
    """Every column from its own marginal, as if columns had nothing to do with each other.

    Codes follow their empirical frequencies, continuous values the interpolated empirical
    quantiles. Marginal metrics are perfect by construction, which is why they are no headline.
    """

    name: ClassVar[str] = "independent"
    suits: ClassVar[str] = "the floor of a comparison; keeps no relation between columns"
    modality: ClassVar[Modality] = "table"

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.codec_, encoded = learnable(data, schema)
        self.supports_ = supports(self.codec_, encoded)
        self.leaves_: list[Leaves] = []
        everyone = np.zeros(len(encoded), dtype=np.int64)
        for position, support in enumerate(self.supports_):
            tokens = support.tokens(encoded.codes[:, position], encoded.values[:, position])
            self.leaves_.append(Leaves.build(everyone, tokens, 1))
            seconds = time.perf_counter() - begin
            progress(Progress("fit", position + 1, len(self.supports_), seconds))

    def _sample_block(self, block: Block) -> pd.DataFrame:
        rng = block.rng()
        everyone = np.zeros(block.size, dtype=np.int64)
        cells = [
            draw_cells(support, leaves, everyone, rng)
            for support, leaves in zip(self.supports_, self.leaves_, strict=True)
        ]
        codes = np.column_stack([codes for codes, _ in cells])
        values = np.column_stack([values for _, values in cells])
        return self.codec_.decode(EncodedTable(codes, values), first_row=block.start)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = supports_state(self.supports_)
        for position, leaves in enumerate(self.leaves_):
            arrays[f"{position}.tokens"] = leaves.tokens
            arrays[f"{position}.cumulative"] = leaves.cumulative
        return arrays, {"codec": self.codec_.to_json()}

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.supports_ = restore_supports(self.codec_, arrays)
        self.leaves_ = []
        for position in range(len(self.supports_)):
            tokens = arrays[f"{position}.tokens"]
            start = np.array([0, len(tokens)], dtype=np.int64)
            self.leaves_.append(Leaves(start, tokens, arrays[f"{position}.cumulative"]))
