"""A table as whole numbers in two levels: coarse tokens first, then fine ones.

Every column gives one or two *sub-columns* of tokens. The first holds the column's codes (levels,
missing) and, where the column is continuous, coarse cells of its values; the second, fine cells
within the coarse one, equal in number of training rows (coarse-to-fine tokens: TabCascade,
arXiv 2601.22816). Within a fine cell values follow the training quantiles, interpolated, on the
column's grid: every quantile has several rows behind it, but for the bounds of the column.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from generators.conditions import Cells, Interval
from generators.encoding import ColumnCodec, EncodedTable, TableCodec

_COARSE = 64
_FINE = 16
_KNOTS_PER_FINE = 4
_ROWS_PER_KNOT = 8
# Added to every interval, so that each is possible.
_PRIOR_ROWS = 0.5
# Of an interval, where a condition allows one value of it.
_POINT = 1e-6
# Of a step, which differences of decimals may miss.
_EPSILON = 1e-6


@dataclass(frozen=True)
class Pieces:
    """Stretches of a continuous column, each within one fine cell.

    Attributes:
        low: where a stretch starts; shape (P,).
        width: how long it is, in steps where the column has a grid; shape (P,).
        cumulative: training rows in the stretches before; shape (P + 1,).
        start: the first stretch of each fine cell; shape (F + 1,).
        step: of the column's grid, or None.
    """

    low: np.ndarray
    width: np.ndarray
    cumulative: np.ndarray
    start: np.ndarray
    step: float | None

    @property
    def rows(self) -> np.ndarray:
        """Training rows in each fine cell, shape (F,)."""
        within: np.ndarray = np.diff(self.cumulative[self.start])
        return within

    def draw(self, cell: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A value (float64) within each fine cell, which must have a stretch."""
        first, after = self.start[cell], self.start[cell + 1]
        begin, end = self.cumulative[first], self.cumulative[after]
        row = begin + rng.random(len(cell)) * (end - begin)
        at = np.clip(np.searchsorted(self.cumulative, row, side="right") - 1, first, after - 1)
        share = rng.random(len(cell)) * self.width[at]
        steps = share if self.step is None else np.floor(share) * self.step
        values: np.ndarray = self.low[at] + steps
        return values

    def at(self, cell: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The value (float64) at a place of each fine cell; inverse of ``QuantileCells.place``."""
        begin, end = (self.cumulative[self.start[cell + more]] for more in (0, 1))
        row = begin + place * (end - begin)
        at = np.searchsorted(self.cumulative, row, side="right") - 1
        at = np.clip(at, self.start[cell], self.start[cell + 1] - 1)
        whole = self.cumulative[at + 1] - self.cumulative[at]
        share = np.clip((row - self.cumulative[at]) / whole, 0.0, 1.0) * self.width[at]
        if self.step is not None:
            share = np.minimum(np.floor(share), self.width[at] - 1) * self.step
        values: np.ndarray = self.low[at] + share
        return values


@dataclass(frozen=True)
class QuantileCells:
    """The cells of a continuous column: runs of intervals between quantiles (knots).

    Interval i reaches from ``knots[i]`` to below ``knots[i + 1]``.

    Attributes:
        knots: ascending, shape (I + 1,); on the column's grid where it has one, and then the last
            is one step above the greatest value.
        cumulative: training rows in the intervals before each knot, shape (I + 1,); ties make
            intervals unequal.
        per_fine: intervals in a fine cell.
        fine: fine cells in a coarse one.
        step: of the column's grid, or None.
    """

    knots: np.ndarray
    cumulative: np.ndarray
    per_fine: int
    fine: int
    step: float | None

    @classmethod
    def of(
        cls, codec: ColumnCodec, values: np.ndarray, coarse: int = _COARSE, fine: int = _FINE
    ) -> Self:
        """At most ``coarse`` cells of at most ``fine`` for these finite training values."""
        wanted = max(4, min(_COARSE * _FINE * _KNOTS_PER_FINE, len(values) // _ROWS_PER_KNOT))
        quantiles = np.quantile(values, np.linspace(0, 1, wanted + 1))
        knots = np.unique(codec.snap(quantiles))
        step = codec.column.step
        if step is not None:
            knots = np.append(knots, knots[-1] + step)
        elif len(knots) == 1:
            knots = np.append(knots, knots)
        intervals = len(knots) - 1
        rows = np.histogram(values, knots)[0] + _PRIOR_ROWS
        per_coarse = -(-intervals // min(coarse, max(2, intervals // 4)))
        fine = min(fine, per_coarse)
        per_fine = -(-per_coarse // fine)
        cumulative = np.concatenate([[0.0], np.cumsum(rows)])
        return cls(knots, cumulative, per_fine, -(-per_coarse // per_fine), step)

    @property
    def intervals(self) -> int:
        """I, the number of intervals."""
        return len(self.knots) - 1

    @property
    def coarse(self) -> int:
        """The number of coarse cells."""
        return -(-self.intervals // (self.per_fine * self.fine))

    def interval(self, values: np.ndarray) -> np.ndarray:
        """The interval (int64) that holds each value; those outside go to the nearest."""
        found = np.searchsorted(self.knots, values, side="right") - 1
        inside: np.ndarray = np.clip(found, 0, self.intervals - 1)
        return inside

    def place(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Which share of its fine cell's training rows lies below each value, within [0, 1].

        On a grid a value stands for all up to the next one, so its place is drawn from there.
        """
        interval = self.interval(values)
        first = interval // self.per_fine * self.per_fine
        after = np.minimum(first + self.per_fine, self.intervals)
        beyond = values - self.knots[interval]
        if self.step is not None:
            beyond = np.round(beyond / self.step) + rng.random(len(values))
        share = np.clip(beyond / self._widths()[interval], 0.0, 1.0)
        rows = self.cumulative[interval + 1] - self.cumulative[interval]
        below = self.cumulative[interval] - self.cumulative[first] + share * rows
        place: np.ndarray = below / (self.cumulative[after] - self.cumulative[first])
        return place

    def pieces(self, allowed: Iterable[Interval] = ((-np.inf, np.inf),)) -> Pieces:
        """All that is ``allowed`` (closed intervals, ascending, disjoint) of each interval."""
        whole, rows = self._widths(), np.diff(self.cumulative)
        nothing = np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        parts = [nothing, *(self._overlaps(least, most) for least, most in allowed)]
        at = np.concatenate([place for place, _, _ in parts])
        order = np.argsort(at, kind="stable")
        at = at[order]
        low = np.concatenate([start for _, start, _ in parts])[order]
        width = np.concatenate([part for _, _, part in parts])[order]
        # An interval of one value stands for little, but it is possible.
        share = rows[at] * np.maximum(width / whole[at], _POINT)
        cumulative = np.concatenate([[0.0], np.cumsum(share)])
        start_of = np.searchsorted(at // self.per_fine, np.arange(self.coarse * self.fine + 1))
        return Pieces(low, width, cumulative, start_of, self.step)

    def _overlaps(self, least: float, most: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The intervals that closed bounds meet, where the common part starts, and its width."""
        low, high = self.knots[:-1], self.knots[1:]
        if self.step is None:
            start = np.maximum(low, least)
            width = np.minimum(high, most) - start
            kept = np.flatnonzero(width >= 0)
        else:
            before = np.maximum(np.ceil((least - low) / self.step - _EPSILON), 0)
            last = np.floor((most - low) / self.step + _EPSILON)
            width = np.minimum(last, self._widths() - 1) - before + 1
            start = low + before * self.step
            kept = np.flatnonzero(width >= 1)
        return kept, start[kept], width[kept]

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Log of each value's density in its fine cell; its probability where there is a grid."""
        interval = self.interval(values)
        first = interval // self.per_fine * self.per_fine
        after = np.minimum(first + self.per_fine, self.intervals)
        rows = self.cumulative[interval + 1] - self.cumulative[interval]
        share = rows / (self.cumulative[after] - self.cumulative[first])
        density: np.ndarray = np.log(share) - np.log(self._widths()[interval])
        return density

    def _widths(self) -> np.ndarray:
        """The width of each interval, in steps where there is a grid."""
        widths = np.diff(self.knots)
        if self.step is not None:
            widths = np.maximum(np.round(widths / self.step), 1)
        smallest: np.ndarray = np.maximum(widths, np.finfo(float).tiny)
        return smallest


@dataclass(frozen=True)
class SubColumn:
    """One column of tokens.

    Attributes:
        column: position of the modelled column that it belongs to.
        size: number of tokens.
        fine: whether it refines the sub-column before it.
    """

    column: int
    size: int
    fine: bool


@dataclass(frozen=True)
class TwoLevelTokens:
    """The sub-columns of a table, and the way there and back.

    Attributes:
        codec: of the table.
        cells: of the continuous columns, None for the others.
        subcolumns: in the schema's order, a fine one after its coarse one.
    """

    codec: TableCodec
    cells: tuple[QuantileCells | None, ...]
    subcolumns: tuple[SubColumn, ...]

    @classmethod
    def fit(
        cls, codec: TableCodec, encoded: EncodedTable, coarse: int = _COARSE, fine: int = _FINE
    ) -> Self:
        """The tokens of this training table; with ``fine`` 1 a column has one sub-column."""
        made: list[QuantileCells | None] = []
        for position, column in enumerate(codec.columns):
            values = encoded.values[:, position]
            values = values[np.isfinite(values)]
            made.append(QuantileCells.of(column, values, coarse, fine) if len(values) else None)
        return cls(codec, tuple(made), tuple(_subcolumns(codec, made)))

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each sub-column."""
        return [sub.size for sub in self.subcolumns]

    def first_of(self, column: int) -> int:
        """The first sub-column of a modelled column."""
        return next(at for at, sub in enumerate(self.subcolumns) if sub.column == column)

    def encode(self, encoded: EncodedTable) -> np.ndarray:
        """Tokens, int64, shape (N, S); -1 where a category is unknown."""
        tokens = np.empty((len(encoded), len(self.subcolumns)), np.int64)
        for at, sub in enumerate(self.subcolumns):
            codes = encoded.codes[:, sub.column]
            values = encoded.values[:, sub.column]
            cells = self.cells[sub.column]
            tokens[:, at] = codes
            if cells is None:
                continue
            between = np.isfinite(values)
            fine_cell = cells.interval(values[between]) // cells.per_fine
            if sub.fine:
                tokens[:, at] = cells.fine
                tokens[between, at] = fine_cell % cells.fine
            else:
                tokens[between, at] = self._first(sub.column) + fine_cell // cells.fine
        return tokens

    def decode(
        self,
        tokens: np.ndarray,
        rng: np.random.Generator,
        restricted: Mapping[int, Cells] | None = None,
    ) -> EncodedTable:
        """Codes and values of tokens; values are drawn within their cells.

        Args:
            tokens: int64, (N, S).
            rng: for the values.
            restricted: what some columns may hold; the tokens must be possible under it.
        """
        shape = (len(tokens), len(self.cells))
        codes, values = np.empty(shape, np.int32), np.full(shape, np.nan)
        for column, cells in enumerate(self.cells):
            at = self.first_of(column)
            codes[:, column] = tokens[:, at]
            if cells is None:
                continue
            between = np.flatnonzero(tokens[:, at] >= self._first(column))
            codes[between, column] = self.codec.columns[column].continuous_code
            cell = (tokens[between, at] - self._first(column)) * cells.fine
            if cells.fine > 1:
                cell += tokens[between, at + 1]
            only = (restricted or {}).get(column)
            pieces = cells.pieces() if only is None else cells.pieces(only.intervals)
            values[between, column] = pieces.draw(cell, rng)
        return EncodedTable(codes, values)

    def weights(self, column: int, cells: Cells) -> list[np.ndarray]:
        """The share of each token of a column that ``cells`` allow.

        Returns:
            For the first sub-column shape (size,); for a fine one, if there is one, the share of
            each pair of coarse and fine token, shape (size of the first, size).
        """
        at, quantiles = self.first_of(column), self.cells[column]
        codes = self._first(column) if quantiles is not None else self.subcolumns[at].size
        first = np.zeros(self.subcolumns[at].size)
        first[:codes] = cells.codes[:codes]
        if quantiles is None:
            return [first]
        allowed, whole = quantiles.pieces(cells.intervals).rows, quantiles.pieces().rows
        shape = (quantiles.coarse, quantiles.fine)
        share = np.divide(allowed, whole, out=np.zeros_like(whole), where=whole > 0).reshape(shape)
        rows = whole.reshape(shape)
        first[codes:] = (share * rows).sum(axis=1) / rows.sum(axis=1)
        if quantiles.fine == 1:
            return [first]
        fine = np.zeros((len(first), quantiles.fine + 1))
        fine[:codes, -1] = 1.0
        fine[codes:, :-1] = share
        return [first, fine]

    def not_missing(self, column: int) -> np.ndarray:
        """The share of each token of a column's first sub-column where it must not be missing.

        All of them, where it is never anything else.
        """
        codec, share = self.codec.columns[column], np.ones(self.sizes[self.first_of(column)])
        if codec.missing and codec.size > 1:
            share[codec.missing_code] = 0.0
        return share

    def log_density(self, encoded: EncodedTable) -> np.ndarray:
        """What the values add to the log-likelihood of the tokens; nats, shape (N,)."""
        total = np.zeros(len(encoded))
        for column, cells in enumerate(self.cells):
            if cells is not None:
                between = np.isfinite(encoded.values[:, column])
                total[between] += cells.log_density(encoded.values[between, column])
        return total

    def arrays(self) -> dict[str, np.ndarray]:
        """The intervals, for saving."""
        made: dict[str, np.ndarray] = {}
        for column, cells in enumerate(self.cells):
            if cells is not None:
                made[f"{column}.knots"] = cells.knots
                made[f"{column}.cumulative"] = cells.cumulative
        return made

    def to_json(self) -> list[list[int] | None]:
        """The rest of the cells, for saving; ``restore`` is the inverse."""
        return [[cells.per_fine, cells.fine] if cells else None for cells in self.cells]

    @classmethod
    def restore(cls, codec: TableCodec, arrays: dict[str, np.ndarray], raw: list[Any]) -> Self:
        """The tokens that ``arrays`` and ``to_json`` wrote."""
        made = [
            QuantileCells(
                knots=arrays[f"{column}.knots"],
                cumulative=arrays[f"{column}.cumulative"],
                per_fine=pair[0],
                fine=pair[1],
                step=codec.columns[column].column.step,
            )
            if pair is not None
            else None
            for column, pair in enumerate(raw)
        ]
        return cls(codec, tuple(made), tuple(_subcolumns(codec, made)))

    def possible(self, at: int, before: np.ndarray) -> np.ndarray:
        """Which tokens of fine sub-column ``at`` go with the coarse tokens ``before`` them.

        Gives bool, shape (N, size): the cells of that coarse cell, or, where ``before`` is a code,
        the last token alone, which stands for no cell.
        """
        sub = self.subcolumns[at]
        cells = self.cells[sub.column]
        assert cells is not None
        first = self._first(sub.column)
        in_last = -(-cells.intervals // cells.per_fine) - (cells.coarse - 1) * cells.fine
        room = np.where(before == first + cells.coarse - 1, in_last, cells.fine)
        token = np.arange(sub.size)
        continuous = (before >= first)[:, None]
        allowed: np.ndarray = np.where(continuous, token < room[:, None], token == cells.fine)
        return allowed

    def _first(self, column: int) -> int:
        """The first token that means a continuous value."""
        return self.codec.columns[column].size - 1


def _subcolumns(codec: TableCodec, made: list[QuantileCells | None]) -> list[SubColumn]:
    subs = []
    for position, (column, cells) in enumerate(zip(codec.columns, made, strict=True)):
        size = column.size if cells is None else column.size - 1 + cells.coarse
        subs.append(SubColumn(position, size, fine=False))
        if cells is not None and cells.fine > 1:
            subs.append(SubColumn(position, cells.fine + 1, fine=True))
    return subs
