"""What a model gets wrong about pairs of columns, learned by telling its rows from the table's.

The log of the odds that a row is of the table rather than of the model is a sum of one table for
each pair of columns (a generalised additive model with pairs: Lou, Caruana, Gehrke, Hooker 2013,
"Accurate intelligible models with pairwise interactions"), fitted by ridge-penalised Newton steps,
one pair after the other. Rows of the model that are drawn again by these odds are nearer to the
table (Azadi et al. 2018, "Discriminator rejection sampling", arXiv 1810.06758). As the tables hold
pairs of coarse cells only, each drawn towards nothing by the ridge, no single row shows in them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import expit

from generators.encoding import EncodedTable, TableCodec
from generators.tabular.balance import Balance, differing, fitted_cells, pair_keys, subsample

POOL = 3
"""Rows of the model for each row that is kept; no row counts for more than this."""
_SWEEPS = 3
# Cells that are one in the coarse and the fine table of a pair.
_STEPS = (4, 1)


@dataclass(frozen=True)
class Tilt:
    """The log-odds of a row's pairs of cells.

    Attributes:
        balance: the cells, the pairs of columns that have tables, and the column that kept rows
            are balanced by together with every pair.
        tables: the log-odds of each pair of cells, all tables one after the other; float64.
        shift: added, so that the odds of the model's rows are 1 on average.
    """

    balance: Balance
    tables: np.ndarray
    shift: float

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
            third: of ``Balance``.
        """
        some = subsample(encoded, rng)
        cells = fitted_cells(codec, some)
        real, made = cells.encode(some), cells.encode(draw(POOL * len(some), rng))
        pairs = differing(real, made, cells.sizes)
        is_real = np.arange(len(real) + len(made)) < len(real)
        both = np.concatenate([real, made])
        tables, logs = _fitted(both, pairs, cells.sizes, is_real, ridge)
        shift = -float(np.log(np.exp(logs[~is_real]).mean()))
        return cls(Balance(cells, pairs, third), np.concatenate([np.zeros(0), *tables]), shift)

    def odds(self, encoded: EncodedTable) -> np.ndarray:
        """How much too rare the model makes each row, within (0, POOL]; shape (N,)."""
        return self._odds(self.balance.cells.encode(encoded))

    def _odds(self, states: np.ndarray) -> np.ndarray:
        sizes = self.balance.cells.sizes
        logs, start = np.full(len(states), self.shift), 0
        for a, b in self.balance.pairs.tolist():
            logs += self.tables[start + pair_keys(states, a, b, sizes)]
            start += sizes[a] * sizes[b]
        odds: np.ndarray = np.exp(np.minimum(logs, np.log(POOL)))
        return odds

    def pick(self, encoded: EncodedTable, n: int, rng: np.random.Generator) -> EncodedTable:
        """``n`` of the rows, each as likely as its odds say, and balanced."""
        return self.balance.pick(encoded, n, rng, self._odds)

    def pick_each(self, encoded: EncodedTable, rng: np.random.Generator) -> EncodedTable:
        """One of every ``POOL`` rows that stand together, each as likely as its odds say."""
        logs = np.log(self.odds(encoded)).reshape(-1, POOL)
        # The greatest of the logs with Gumbel noise is a draw by the odds.
        best = np.argmax(logs + rng.gumbel(size=logs.shape), axis=1)
        return encoded.take(np.arange(len(best)) * POOL + best)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """For saving; ``restore`` is the inverse."""
        own = {"tables": self.tables, **self.balance.arrays()}
        arrays = {f"tilt.{name}": array for name, array in own.items()}
        return arrays, {"shift": self.shift, **self.balance.to_json()}

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
        return cls(Balance.restore(codec, own, state), own["tables"], float(state["shift"]))


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
        _Part.of(
            pair_keys(states // step, a, b, coarse), coarse[a] * coarse[b], place, step, weight
        )
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
