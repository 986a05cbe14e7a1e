"""What a model gets wrong about pairs of columns, learned by telling its rows from the table's.

The log of the odds that a row is of the table rather than of the model is a sum of one table for
each pair of columns (a generalised additive model with pairs: Lou, Caruana, Gehrke, Hooker 2013,
"Accurate intelligible models with pairwise interactions"), fitted by ridge-penalised Newton steps,
one pair after the other. Rows of the model that are drawn again by these odds are nearer to the
table (Azadi et al. 2018, "Discriminator rejection sampling", arXiv 1810.06758). As the tables hold
pairs of coarse cells only, each drawn towards nothing by the ridge, no single row shows in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import expit

from generators.encoding import EncodedTable, TableCodec
from generators.tabular.cells import CellTable
from generators.tabular.resampling import balanced

POOL = 3
"""Rows of the model for each row that is kept; no row counts for more than this."""
# Cells of a column, at least and at most, and rows for each pair of cells.
_CELLS = (4, 48)
_ROWS_PER_PAIR = 16
# Pairs, at most: those whose tables differ most.
_MOST_PAIRS = 150
_SWEEPS = 3
# Cells that are one in the coarse and the fine table of a pair.
_STEPS = (4, 1)
# Cells of a column, at most, where three columns are seen together.
_COARSE_CELLS = 12
# Rows of the table to learn from, at most.
_MOST_ROWS = 50_000
# Rows on which pairs are compared where there are many columns.
_COMPARED_ROWS = 10_000


@dataclass(frozen=True)
class Tilt:
    """The log-odds of a row's pairs of cells.

    Attributes:
        cells: of the columns.
        pairs: positions of the columns of each table; int64, shape (P, 2).
        tables: the log-odds of each pair of cells, all tables one after the other; float64.
        shift: added, so that the odds of the model's rows are 1 on average.
        third: position of the column that kept rows are balanced by together with every pair;
            None in models saved before there was one.
    """

    cells: CellTable
    pairs: np.ndarray
    tables: np.ndarray
    shift: float
    third: int | None = None

    @classmethod
    def fit(
        cls,
        codec: TableCodec,
        encoded: EncodedTable,
        draw: Callable[[int, np.random.Generator], EncodedTable],
        ridge: float,
        rng: np.random.Generator,
        third: int | None = None,
    ) -> Self:
        """Of a model that ``draw`` samples, against its training rows.

        Args:
            codec: of the table.
            encoded: the training rows.
            draw: gives so many rows of the model.
            ridge: rows of no difference that are added to every cell, in units of p (1 - p).
            rng: decides which rows are compared.
            third: position of a column, as below.
        """
        rows = min(len(encoded), _MOST_ROWS)
        some = encoded.take(np.sort(rng.choice(len(encoded), rows, replace=False)))
        most = int(np.clip(np.sqrt(rows / _ROWS_PER_PAIR), *_CELLS))
        cells = CellTable.fit(codec, some, most)
        real, made = cells.encode(some), cells.encode(draw(POOL * rows, rng))
        pairs = _differing(real, made, cells.sizes)
        is_real = np.arange(len(real) + len(made)) < len(real)
        both = np.concatenate([real, made])
        tables, logs = _fitted(both, pairs, cells.sizes, is_real, ridge)
        shift = -float(np.log(np.exp(logs[~is_real]).mean()))
        return cls(cells, pairs, np.concatenate([np.zeros(0), *tables]), shift, third)

    def odds(self, encoded: EncodedTable) -> np.ndarray:
        """How much too rare the model makes each row, within (0, POOL]; shape (N,)."""
        return self._odds(self.cells.encode(encoded))

    def _odds(self, states: np.ndarray) -> np.ndarray:
        sizes = self.cells.sizes
        logs, start = np.full(len(states), self.shift), 0
        for a, b in self.pairs.tolist():
            logs += self.tables[start + _keys(states, a, b, sizes)]
            start += sizes[a] * sizes[b]
        odds: np.ndarray = np.exp(np.minimum(logs, np.log(POOL)))
        return odds

    def pick(self, encoded: EncodedTable, n: int, rng: np.random.Generator) -> EncodedTable:
        """``n`` of the rows, each as likely as its odds say.

        Rows stand in the order of their cells while every so-manieth is kept, the columns of the
        fewest cells counting first: so cells of these are as frequent as they should be, not only
        on average. Pairs of cells, and pairs together with ``third``, are balanced beside.
        """
        states = self.cells.encode(encoded)
        alike = np.lexsort(states.T[np.argsort(self.cells.sizes, kind="stable")[::-1]])
        chosen = balanced(self._odds(states)[alike], n, self._facets(states[alike]), rng)
        return encoded.take(rng.permutation(alike[chosen]))

    def _facets(self, states: np.ndarray) -> np.ndarray:
        """The pairs of cells that each row is in, and coarser ones together with ``third``.

        All are numbered through; int32, shape (N, facets).
        """
        sizes = self.cells.sizes
        sets: list[tuple[list[int], np.ndarray, list[int]]] = [
            (pair, states, sizes) for pair in self.pairs.tolist()
        ]
        if self.third is not None:
            widths = [-(-size // _COARSE_CELLS) for size in sizes]
            fewer = [-(-size // width) for size, width in zip(sizes, widths, strict=True)]
            coarse = states // np.array(widths)
            others = self.pairs[(self.pairs != self.third).all(axis=1)].tolist()
            sets += [([self.third, *pair], coarse, fewer) for pair in others]
        facets, start = np.empty((len(states), len(sets)), np.int32), 0
        for at, (columns, cells, width) in enumerate(sets):
            keys = np.zeros(len(states), np.int64)
            for column in columns:
                keys = keys * width[column] + cells[:, column]
            facets[:, at] = start + keys
            start += math.prod(width[column] for column in columns)
        return facets

    def pick_each(self, encoded: EncodedTable, rng: np.random.Generator) -> EncodedTable:
        """One of every ``POOL`` rows that stand together, each as likely as its odds say."""
        logs = np.log(self.odds(encoded)).reshape(-1, POOL)
        # The greatest of the logs with Gumbel noise is a draw by the odds.
        best = np.argmax(logs + rng.gumbel(size=logs.shape), axis=1)
        return encoded.take(np.arange(len(best)) * POOL + best)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For saving; ``restore`` is the inverse."""
        own = {"pairs": self.pairs, "tables": self.tables}
        arrays = {f"tilt.{name}": array for name, array in {**self.cells.arrays(), **own}.items()}
        return arrays, {"cells": self.cells.to_json(), "shift": self.shift, "third": self.third}

    @classmethod
    def restore(
        cls, codec: TableCodec, arrays: dict[str, np.ndarray], state: dict[str, Any]
    ) -> Self:
        """What ``state`` gave."""
        own = {
            name.removeprefix("tilt."): array
            for name, array in arrays.items()
            if name.startswith("tilt.")
        }
        cells = CellTable.restore(codec, own, state["cells"])
        pairs, third = own["pairs"].reshape(-1, 2), state.get("third")
        return cls(cells, pairs, own["tables"], float(state["shift"]), third)


def _keys(states: np.ndarray, a: int, b: int, sizes: list[int]) -> np.ndarray:
    """The pair of cells of each row, as one number."""
    keys: np.ndarray = states[:, a] * sizes[b] + states[:, b]
    return keys


def _differing(real: np.ndarray, made: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The pairs of columns whose tables differ most, all where they are few; (P, 2)."""
    pairs = np.array(list(itertools.combinations(range(len(sizes)), 2)), np.int64).reshape(-1, 2)
    if len(pairs) <= _MOST_PAIRS:
        return pairs
    few = real[:_COMPARED_ROWS], made[: len(real[:_COMPARED_ROWS])]
    excess = np.empty(len(pairs))
    for place, (a, b) in enumerate(pairs.tolist()):
        size = sizes[a] * sizes[b]
        one, other = (np.bincount(_keys(s, a, b, sizes), minlength=size) for s in few)
        both = one + other
        # Of two samples of one distribution the first sum is about the second.
        excess[place] = ((one - other) ** 2 / np.maximum(both, 1)).sum() - (both > 0).sum()
    return pairs[np.sort(np.argsort(-excess, kind="stable")[:_MOST_PAIRS])]


def _fitted(
    states: np.ndarray, pairs: np.ndarray, sizes: list[int], real: np.ndarray, ridge: float
) -> tuple[list[np.ndarray], np.ndarray]:
    """The table of each pair, and the log-odds that rows are ``real``; both sides weigh alike.

    A table is a sum of a coarse one and a fine one, so that what is alike in many cells is not
    lost to the ridge in each.
    """
    weight = np.where(real, 1.0, real.sum() / (~real).sum())
    logs = np.zeros(len(real))
    parts = [
        _Part.of(_keys(states // step, a, b, coarse), coarse[a] * coarse[b], place, step, weight)
        for step in _STEPS
        for coarse in [[-(-size // step) for size in sizes]]
        for place, (a, b) in enumerate(pairs.tolist())
    ]
    for _ in range(_SWEEPS):
        for part in parts:
            rest = weight * (real - expit(logs))
            slope = np.bincount(part.keys, rest, minlength=len(part.table))
            change = (slope - ridge * part.table) / (part.curve + ridge)
            part.table[:] += change
            logs += change[part.keys]
    tables = [np.zeros(sizes[a] * sizes[b]) for a, b in pairs.tolist()]
    for part in parts:
        other = sizes[pairs[part.pair, 1]]
        row, column = np.divmod(np.arange(len(tables[part.pair])), other)
        width = -(-other // part.step)
        tables[part.pair] += part.table[row // part.step * width + column // part.step]
    return tables, logs


@dataclass(frozen=True)
class _Part:
    """A table of one pair of columns, ``step`` cells of which are one.

    Attributes:
        keys: the cell of each row.
        table: the log-odds of each cell.
        curve: the curvature of the log-likelihood where both sides are as likely, which bounds
            that everywhere else, so that no step is too long (Boehning, Lindsay 1988).
        pair: number of the pair.
        step: cells in one.
    """

    keys: np.ndarray
    table: np.ndarray
    curve: np.ndarray
    pair: int
    step: int

    @classmethod
    def of(cls, keys: np.ndarray, size: int, pair: int, step: int, weight: np.ndarray) -> Self:
        """An empty table of so many cells, for rows of this ``weight`` (N,)."""
        curve = np.bincount(keys, weight, minlength=size) / 4
        return cls(keys, np.zeros(size), curve, pair, step)
