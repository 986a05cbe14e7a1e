"""Samples whose cells are as frequent as the model says, not only on average.

A model has the noise of its training table. Rows that are drawn from it independently have that and
their own, twice as much as real rows, and are told from these by it. So more rows are drawn than
asked for, and of these such are kept that pairs of columns, and pairs together with the target, are
as frequent as among all.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from generators.encoding import EncodedTable, TableCodec
from generators.tabular.cells import CellTable
from generators.tabular.resampling import balanced

# Cells of a column, at least and at most, and rows for each pair of cells.
_CELLS = (4, 48)
_ROWS_PER_PAIR = 16
# Pairs, at most.
_MOST_PAIRS = 150
# Rows on which pairs are compared where there are many columns.
_COMPARED_ROWS = 10_000
# Cells of a column, at most, where three columns are seen together.
_COARSE_CELLS = 12
# Rows of the table to learn from, at most.
_MOST_ROWS = 50_000


@dataclass(frozen=True)
class Balance:
    """The cells that samples are balanced by.

    Attributes:
        cells: of each column.
        pairs: positions of the columns that are seen together; int64, shape (P, 2).
        third: position of the column that every pair is seen with, too; None for none.
    """

    cells: CellTable
    pairs: np.ndarray
    third: int | None = None

    @classmethod
    def fit(
        cls,
        codec: TableCodec,
        encoded: EncodedTable,
        rng: np.random.Generator,
        third: int | None = None,
    ) -> Self:
        """Of a training table, by the pairs that depend on each other most."""
        some = subsample(encoded, rng)
        cells = fitted_cells(codec, some)
        states = cells.encode(some)
        return cls(cells, differing(states, rng.permuted(states, axis=0), cells.sizes), third)

    def pick(
        self,
        encoded: EncodedTable,
        n: int,
        rng: np.random.Generator,
        odds: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> EncodedTable:
        """``n`` of the rows, all alike, or each as likely as the ``odds`` (N,) of its cells (N, D).

        Rows stand in the order of their cells while every so-manieth is kept, the columns of the
        fewest cells counting first: so cells of these are as frequent as they should be, not only
        on average. Pairs of cells, and pairs together with ``third``, are balanced beside.
        """
        states = self.cells.encode(encoded)
        alike = np.lexsort(states.T[np.argsort(self.cells.sizes, kind="stable")[::-1]])
        weights = np.ones(len(states)) if odds is None else odds(states)[alike]
        chosen = balanced(weights, n, self._facets(states[alike]), rng)
        return encoded.take(rng.permutation(alike[chosen]))

    def arrays(self) -> dict[str, np.ndarray]:
        """For saving, beside ``to_json``."""
        return {"pairs": self.pairs, **self.cells.arrays()}

    def to_json(self) -> dict[str, Any]:
        """The rest of it; ``restore`` is the inverse of both."""
        return {"cells": self.cells.to_json(), "third": self.third}

    @classmethod
    def restore(
        cls, codec: TableCodec, arrays: dict[str, np.ndarray], state: dict[str, Any]
    ) -> Self:
        """What ``arrays`` and ``to_json`` gave."""
        cells = CellTable.restore(codec, arrays, state["cells"])
        return cls(cells, arrays["pairs"].reshape(-1, 2), state.get("third"))

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


def target_of(codec: TableCodec) -> int | None:
    """The position of the target, if the table has one that is modelled."""
    names = [column.column.name for column in codec.columns]
    target = codec.schema.target
    return names.index(target) if target in names else None


def subsample(encoded: EncodedTable, rng: np.random.Generator) -> EncodedTable:
    """Rows of a table that are enough to learn cells and pairs from."""
    rows = min(len(encoded), _MOST_ROWS)
    return encoded.take(np.sort(rng.choice(len(encoded), rows, replace=False)))


def fitted_cells(codec: TableCodec, some: EncodedTable) -> CellTable:
    """As many cells as these rows can fill pairs of."""
    most = int(np.clip(np.sqrt(len(some) / _ROWS_PER_PAIR), *_CELLS))
    return CellTable.fit(codec, some, most)


def pair_keys(states: np.ndarray, a: int, b: int, sizes: list[int]) -> np.ndarray:
    """The pair of cells of each row, as one number."""
    keys: np.ndarray = states[:, a] * sizes[b] + states[:, b]
    return keys


def differing(real: np.ndarray, made: np.ndarray, sizes: list[int]) -> np.ndarray:
    """The pairs of columns whose tables differ most, all where they are few; (P, 2)."""
    pairs = np.array(list(itertools.combinations(range(len(sizes)), 2)), np.int64).reshape(-1, 2)
    if len(pairs) <= _MOST_PAIRS:
        return pairs
    few = real[:_COMPARED_ROWS], made[: len(real[:_COMPARED_ROWS])]
    excess = np.empty(len(pairs))
    for place, (a, b) in enumerate(pairs.tolist()):
        size = sizes[a] * sizes[b]
        one, other = (np.bincount(pair_keys(s, a, b, sizes), minlength=size) for s in few)
        both = one + other
        # Of two samples of one distribution the first sum is about the second.
        excess[place] = ((one - other) ** 2 / np.maximum(both, 1)).sum() - (both > 0).sum()
    return pairs[np.sort(np.argsort(-excess, kind="stable")[:_MOST_PAIRS])]
