"""Leaves under a condition: only what it allows is drawn, and how likely that was is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from generators.conditions import Cells
from generators.tabular.leaves import Leaves, Support

# A given number is as likely as the share of a group within this share of the column's values.
_BANDWIDTH = 0.02
# Rows of the whole column that are added to a group, so that nothing given is impossible.
_PRIOR_ROWS = 1.0


@dataclass(frozen=True)
class RestrictedLeaves:
    """The members of leaves, each with the share of what it stands for that is allowed.

    Draws are those of ``leaves.draw_cells`` given that they fall into ``cells``.

    Attributes:
        support: the column's.
        leaves: of the column.
        cells: what is allowed.
        low, high: the stretch of tokens within which a member is interpolated, for each interval
            of ``cells``; both 0 where the member is not interpolated; shape (I, P).
        cumulative: allowed rows up to a member; shape (P + 1,).
        mass: the allowed share of each group; shape (G,).
    """

    support: Support
    leaves: Leaves
    cells: Cells
    low: np.ndarray
    high: np.ndarray
    cumulative: np.ndarray
    mass: np.ndarray

    @classmethod
    def of(cls, support: Support, leaves: Leaves, cells: Cells, *, smooth: bool = True) -> Self:
        """``leaves`` restricted to ``cells``; with ``smooth`` off values are copied."""
        share = cells.codes[np.minimum(leaves.tokens, support.first)].astype(np.float64)
        between = np.flatnonzero(leaves.tokens >= support.first)
        shape = (len(cells.intervals), len(leaves.tokens))
        low, high = np.zeros(shape), np.zeros(shape)
        if len(between):
            at = leaves.tokens[between] - support.first
            group = np.repeat(np.arange(len(leaves.start) - 1), np.diff(leaves.start))
            start, end = leaves.cells(group[between], between, support.first)
            moves = ~support.shared[at] if smooth else np.zeros(len(at), dtype=bool)
            for number, (first, last) in enumerate(_token_ranges(support, cells)):
                low[number, between] = np.where(moves, np.clip(first, start, end), 0.0)
                high[number, between] = np.where(moves, np.clip(last, start, end), 0.0)
            within = (high - low)[:, between].sum(axis=0) / (end - start)
            share[between] = np.where(moves, within, cells.inside(support.values[at]))
        rows = np.diff(leaves.cumulative)
        cumulative = np.concatenate([[0.0], np.cumsum(share * rows)])
        whole = leaves.cumulative[leaves.start[1:]] - leaves.cumulative[leaves.start[:-1]]
        mass = np.maximum(np.diff(cumulative[leaves.start]), 0.0) / whole
        return cls(support, leaves, cells, low, high, cumulative, mass)

    def draw(self, group: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Codes and values, one for each entry of ``group``.

        Where nothing of the group is allowed, they come from the whole column.
        """
        none = self.mass[group] <= 0
        begin = np.where(none, 0.0, self.cumulative[self.leaves.start[group]])
        end = np.where(none, self.cumulative[-1], self.cumulative[self.leaves.start[group + 1]])
        point = np.minimum(begin + rng.random(len(group)) * (end - begin), np.nextafter(end, begin))
        position = np.searchsorted(self.cumulative, point, side="right") - 1
        token = self.leaves.tokens[position]
        codes = np.minimum(token, self.support.first).astype(np.int32)
        values = np.full(len(group), np.nan)
        between = np.flatnonzero(token >= self.support.first)
        if self.support.codec.continuous and len(between):
            values[between] = self._values(position[between], rng)
        return codes, values

    def _values(self, position: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        values: np.ndarray = self.support.values[
            self.leaves.tokens[position] - self.support.first
        ].copy()
        lengths = (self.high - self.low)[:, position]
        ends = np.cumsum(lengths, axis=0)
        whole = ends[-1]
        moves = np.flatnonzero(whole > 0)
        left = rng.random(len(position)) * whole
        left = np.minimum(left, np.nextafter(whole, 0))[moves]
        # The first stretch that ends behind the point has a length.
        stretch = (ends[:, moves] <= left).sum(axis=0)
        into = left - (ends - lengths)[stretch, moves]
        at = self.low[stretch, position[moves]] + into - self.support.first
        index = np.arange(len(self.support.values), dtype=np.float64)
        drawn = self.support.codec.snap(np.interp(at, index, self.support.values))
        least, most = np.array(self.cells.intervals).T
        values[moves] = np.clip(drawn, least[stretch], most[stretch])
        return values


def _token_ranges(support: Support, cells: Cells) -> list[tuple[float, float]]:
    """The stretch of tokens that each interval of ``cells`` means.

    A value within half a step of the interval is snapped into it. The first and the last value
    stand for all beyond them.
    """
    index = np.arange(len(support.values), dtype=np.float64)
    half = (support.codec.column.step or 0.0) / 2
    ranges = []
    for low, high in cells.intervals:
        low, high = low - half, high + half
        at = np.interp([low, high], support.values, index) + support.first
        first, last = float(at[0]), float(at[1])
        if high < support.values[0] or low > support.values[-1]:
            last = first
        else:
            first = -np.inf if low <= support.values[0] else first
            last = np.inf if high >= support.values[-1] else last
        ranges.append((first, last))
    return ranges


@dataclass(frozen=True)
class LeafLikelihood:
    """How likely given cells are under the leaves that their rows fall into.

    A group's frequencies are drawn towards those of the whole column. A continuous value counts
    as its neighbourhood, which is as wide for every group.

    Attributes:
        support: the column's.
        leaves: of the column.
        keys: group and token of every member, ascending; int64, shape (P,).
        marginal: rows of the column up to each token, over all trees; shape (T + 1,).
    """

    support: Support
    leaves: Leaves
    keys: np.ndarray
    marginal: np.ndarray

    @classmethod
    def of(cls, support: Support, leaves: Leaves) -> Self:
        """Of a column with these leaves."""
        group = np.repeat(np.arange(len(leaves.start) - 1, dtype=np.int64), np.diff(leaves.start))
        size = support.first + len(support.values)
        rows = np.bincount(leaves.tokens, np.diff(leaves.cumulative), minlength=size)
        marginal = np.concatenate([[0.0], np.cumsum(rows)])
        return cls(support, leaves, group << 32 | leaves.tokens, marginal)

    def __call__(self, group: np.ndarray, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """The likelihood of each cell, up to a factor that depends on the cell alone; (N,)."""
        low, high = codes.astype(np.int64), codes.astype(np.int64) + 1
        between = np.isfinite(values)
        if between.any():
            size = len(self.support.values)
            index = np.arange(size, dtype=np.float64)
            at = np.interp(values[between], self.support.values, index)
            reach = max(1.0, _BANDWIDTH * size)
            low[between] = self.support.first + np.ceil(np.maximum(at - reach, 0))
            high[between] = self.support.first + np.floor(np.minimum(at + reach, size - 1)) + 1
        key = group.astype(np.int64) << 32
        first, last = (np.searchsorted(self.keys, key | end) for end in (low, high))
        rows = self.leaves.cumulative[last] - self.leaves.cumulative[first]
        start = self.leaves.start[group], self.leaves.start[group + 1]
        whole = self.leaves.cumulative[start[1]] - self.leaves.cumulative[start[0]]
        prior = (self.marginal[high] - self.marginal[low]) / self.marginal[-1]
        likelihood: np.ndarray = (rows + _PRIOR_ROWS * prior) / (whole + _PRIOR_ROWS)
        return likelihood


def without_missing(support: Support) -> Cells:
    """All cells of a column but the missing one, unless there is no other."""
    codec = support.codec
    codes = np.ones(codec.size, dtype=bool)
    if codec.missing and codec.size > 1:
        codes[codec.missing_code] = False
    return Cells(codes, ((-np.inf, np.inf),) if codec.continuous else ())
