"""A differentially private tree of columns, learned from noisy counts alone.

McKenna, Miklau, Sheldon 2021, "Winning the NIST Contest: A scalable and general approach to
differentially private synthetic data" (arXiv 2108.04978): measure every column with noise, choose
privately the pairs that these measurements explain least, so that they make a tree, measure them
with noise, and sample from the tree that agrees with all measurements. Whatever follows the
measurements reads no row again, so sampling, conditions and densities cost no privacy.

The training table is touched three times, each time through ``mechanisms``:

1. The values of each column are counted; of numbers those of stretches, each divided by 16, level
   by level, as long as enough rows are left to be worth it. A table of independent columns stands
   for these counts from then on: it alone decides the codec, the atoms and the cells.
2. The pairs of columns are chosen by the exponential mechanism, by how far their cells are from
   independence, less what noise alone would make of them (McKenna et al. 2022, "AIM").
3. The cells of the chosen pairs are counted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, TypeAlias

import numpy as np
import pandas as pd

from generators.base import OnProgress, ParameterError, Privacy, Private, Progress
from generators.encoding import EncodedTable
from generators.mechanisms import RandomBits, choose, noisy_counts, rho_of
from generators.schema import TableSchema
from generators.tabular.bayesian_network import PairCounts, spanning_tree
from generators.tabular.cells import CellTable
from generators.tabular.graphical import GraphicalModel
from generators.tabular.independent import learnable
from generators.tabular.messages import Branching
from generators.tabular.noisy_columns import independent_rows, on_simplex

# Shares of the privacy that columns, the choice of pairs, and pairs cost.
_COLUMNS, _CHOICE, _PAIRS = 0.15, 0.1, 0.75
# Cells of a pair hold so many deviations of their noise, on average.
_CLEAR = 2.0
# Rounds in which the cells of a pair are scaled to the columns' counts.
_ROUNDS = 50

Pair: TypeAlias = tuple[int, int]


@dataclass(kw_only=True)
class MST(GraphicalModel, Private):
    """A tree of columns under differential privacy, from noisy counts (arXiv 2108.04978).

    Attributes:
        epsilon: the privacy loss ε, for one training row. What is taken as public: the names,
            kinds, types, levels and bounds of the columns, and the number of rows.
        delta: the probability δ with which the loss may be more; well below one in all rows.
        cells: of each column, at most; noise decides how many of them are worth it.
    """

    epsilon: float = 1.0
    delta: float = 1e-6

    name: ClassVar[str] = "mst"
    suits: ClassVar[str] = "a proven bound ε on what can be learned of any one row; at a price"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0:
            raise ParameterError(f"epsilon must be above 0, got {self.epsilon}; try 1")
        if not 0 < self.delta < 1:
            raise ParameterError(f"delta must be between 0 and 1, got {self.delta}; try 1e-6")

    @property
    def privacy(self) -> Privacy:
        """What the training guarantees."""
        return Privacy(self.epsilon, self.delta)

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.rho_ = rho_of(self.epsilon, self.delta)
        self.training_notes_ = [self.privacy.sentence]
        self.key_ = self._noise(data)
        bits = RandomBits(self.key_, "columns")
        rows = independent_rows(data, schema, _COLUMNS * self.rho_, bits)
        self.codec_, known = learnable(rows, schema)
        progress(Progress("fit", 1, 2, time.perf_counter() - begin))
        most = math.isqrt(int(len(data) / (_CLEAR * self._deviation)))
        self.cells_ = CellTable.fit(self.codec_, known, int(np.clip(most, 2, self.cells)))
        # What the codec does not know is missing from the counts: it stands for the first cell.
        states = np.maximum(self.cells_.encode(self.codec_.encode(data)), 0)
        self._learn(known, states, progress)
        del self.key_
        progress(Progress("fit", 2, 2, time.perf_counter() - begin))

    @property
    def _deviation(self) -> float:
        """Of the noise in the cells of a pair, where the pairs join all columns."""
        return math.sqrt(max(len(self.codec_.columns) - 1, 1) / (_PAIRS * self.rho_))

    def _branching(
        self,
        encoded: EncodedTable,
        states: np.ndarray,
        progress: OnProgress,  # noqa: ARG002 - two steps of ``_fit``
    ) -> Branching:
        """The tree of these rows' cells; ``encoded`` are rows that agree with the noisy columns."""
        sizes = self.cells_.sizes
        columns = [
            np.bincount(cells, minlength=size).astype(np.float64)
            for cells, size in zip(self.cells_.encode(encoded).T, sizes, strict=True)
        ]
        counts = PairCounts.of(states, sizes)
        chosen = self._chosen(counts, columns, RandomBits(self.key_, "choice"))
        return self._measured(counts, columns, chosen, RandomBits(self.key_, "pairs"))

    def _chosen(
        self, counts: PairCounts, columns: list[np.ndarray], bits: RandomBits
    ) -> list[Pair]:
        """Pairs of columns that make a tree, or a forest where more would be noise."""
        scores = {
            (a, b): _telling(counts.of_pair(a, b), columns[a], columns[b], self._deviation)
            for a, b in combinations(range(len(columns)), 2)
        }
        rho = _CHOICE * self.rho_ / max(len(columns) - 1, 1)
        chosen: list[Pair] = []
        tree = list(range(len(columns)))
        while len(chosen) < len(columns) - 1:
            open_pairs = [pair for pair in scores if tree[pair[0]] != tree[pair[1]]]
            # To stop is one of the choices: what tells nothing is not measured. A row that is
            # another one changes two cells by one.
            at = choose([0, *(scores[pair] for pair in open_pairs)], 2, rho, bits)
            if at == 0:
                break
            a, b = open_pairs[at - 1]
            chosen.append((a, b))
            tree = [tree[a] if each == tree[b] else each for each in tree]
        return chosen

    def _measured(
        self,
        counts: PairCounts,
        columns: list[np.ndarray],
        chosen: list[Pair],
        bits: RandomBits,
    ) -> Branching:
        joined = np.zeros((len(columns), len(columns)))
        tables: dict[Pair, np.ndarray] = {}
        for a, b in chosen:
            pair = counts.of_pair(a, b)
            noisy = noisy_counts(pair.ravel(), _PAIRS * self.rho_ / len(chosen), bits)
            held = on_simplex(noisy.counts[None], np.array([counts.rows])).reshape(pair.shape)
            table = agreeing(held, columns[a], columns[b])
            tables[a, b], tables[b, a] = table, table.T
            joined[a, b] = joined[b, a] = 1.0
        order, parent = spanning_tree(joined)
        given = [
            columns[at][None] if above < 0 else tables[above, at] for at, above in enumerate(parent)
        ]
        shares = [_shares(rows, columns[at]) for at, rows in enumerate(given)]
        return Branching(tuple(order), tuple(parent), tuple(shares))


def _telling(pair: np.ndarray, left: np.ndarray, right: np.ndarray, deviation: float) -> int:
    """By how many rows a pair's cells differ from independence, less what noise would differ."""
    alone = np.rint(np.outer(left, right) / max(left.sum(), 1.0))
    noise = math.sqrt(2 / math.pi) * deviation * pair.size
    return int(np.abs(pair - alone).sum()) - math.ceil(noise)


def agreeing(table: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The table scaled to these row and column sums (Deming, Stephan 1940).

    A thousandth of an independent row in every cell keeps each sum within reach.
    """
    scaled = table + 1e-3 * np.outer(left, right) / max(left.sum(), 1.0) + 1e-9
    for _ in range(_ROUNDS):
        scaled *= (left / scaled.sum(axis=1))[:, None]
        scaled *= right / np.maximum(scaled.sum(axis=0), 1e-12)
        scaled += 1e-12
    agreed: np.ndarray = scaled
    return agreed


def _shares(rows: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Each row in shares of itself; one without counts as the column alone."""
    filled = rows + 1e-6 * (otherwise + 1e-6)
    shares: np.ndarray = filled / filled.sum(axis=1, keepdims=True)
    return shares
