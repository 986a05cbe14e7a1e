"""A tree-shaped Bayesian network over the cells of the columns.

Chow, Liu (1968), "Approximating discrete probability distributions with dependence trees": of all
networks in which a column has at most one parent, the one that keeps the most mutual information
is nearest to the data. Its conditionals are exact, by messages along the tree (Pearl 1988,
"Probabilistic Reasoning in Intelligent Systems").
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import scipy.sparse
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from generators.base import OnProgress, ParameterError, Progress
from generators.encoding import EncodedTable
from generators.tabular.graphical import GraphicalModel
from generators.tabular.messages import Branching

# Rows of which the pairs are counted at once.
_BATCH = 100_000


@dataclass(kw_only=True)
class BayesianNetwork(GraphicalModel):
    """The Chow-Liu tree: each column depends on one other, that tells most about it.

    Attributes:
        cells: of each column, about, fewer in tables of few rows; a category has one for each
            level but the rarest.
        smoothing: rows of the column's marginal that are added to every conditional, so that
            nothing is impossible and a rare parent tells little.
    """

    smoothing: float = 4.0

    name: ClassVar[str] = "bayesian-network"
    suits: ClassVar[str] = "a model to read and audit, in a second: one table for each column"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.smoothing <= 0:
            raise ParameterError(f"smoothing must be above 0, got {self.smoothing}; try 1")

    def _branching(
        self,
        encoded: EncodedTable,  # noqa: ARG002 - the cells say it all
        states: np.ndarray,
        progress: OnProgress,
    ) -> Branching:
        begin = time.perf_counter()
        pairs = PairCounts.of(states, self.cells_.sizes)
        progress(Progress("fit", 1, 2, time.perf_counter() - begin))
        order, parent = spanning_tree(pairs.information())
        tables = [self._table(pairs, at, above) for at, above in enumerate(parent)]
        progress(Progress("fit", 2, 2, time.perf_counter() - begin))
        return Branching(tuple(order), tuple(parent), tuple(tables))

    def _table(self, pairs: PairCounts, at: int, above: int) -> np.ndarray:
        """P(cell | parent's cell), drawn towards the column's own frequencies."""
        marginal: np.ndarray = pairs.of_pair(at, at).diagonal() + 1.0 / self.smoothing
        marginal = marginal / marginal.sum()
        if above < 0:
            return marginal[np.newaxis]
        rows = pairs.of_pair(above, at) + self.smoothing * marginal
        table: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
        return table


@dataclass(frozen=True)
class PairCounts:
    """How many rows hold each pair of cells of each pair of columns.

    Attributes:
        counts: the rows, shape (V, V), where V is the number of cells of all columns.
        starts: the first cell of each column, and V; shape (D + 1,).
        rows: of the table.
    """

    counts: np.ndarray
    starts: np.ndarray
    rows: int

    @classmethod
    def of(cls, states: np.ndarray, sizes: list[int]) -> PairCounts:
        """Of these cells (int64, (N, D))."""
        starts = np.concatenate([[0], np.cumsum(sizes)])
        counts = np.zeros((starts[-1], starts[-1]))
        for begin in range(0, len(states), _BATCH):
            hot = one_hot(states[begin : begin + _BATCH], starts)
            counts += (hot.T @ hot).toarray()
        return cls(counts, starts, len(states))

    def of_pair(self, left: int, right: int) -> np.ndarray:
        """The rows of each pair of cells of two columns, shape (sizes of left and right)."""
        a, b = (slice(self.starts[at], self.starts[at + 1]) for at in (left, right))
        part: np.ndarray = self.counts[a, b]
        return part

    def information(self) -> np.ndarray:
        """Mutual information of all pairs in nats, less the bias of counting (Miller 1955)."""
        single = self.counts.diagonal()
        expected = np.outer(single, single) / self.rows
        ratio = np.divide(self.counts, expected, out=np.ones_like(expected), where=self.counts > 0)
        terms = self.counts / self.rows * np.log(ratio)
        plain = np.add.reduceat(np.add.reduceat(terms, self.starts[:-1], 0), self.starts[:-1], 1)
        used = np.add.reduceat(single > 0, self.starts[:-1], dtype=np.int64) - 1
        information: np.ndarray = np.maximum(plain - np.outer(used, used) / (2 * self.rows), 0)
        np.fill_diagonal(information, 0)
        return information


def one_hot(states: np.ndarray, starts: np.ndarray) -> scipy.sparse.csr_array:
    """Cells (N, D) as a sparse matrix of ones, shape (N, V)."""
    rows, wide = states.shape
    places = (states + starts[:-1]).ravel()
    pointer = np.arange(rows + 1) * wide
    return scipy.sparse.csr_array((np.ones(rows * wide), places, pointer), (rows, starts[-1]))


def spanning_tree(information: np.ndarray) -> tuple[list[int], list[int]]:
    """The tree of the greatest total information (D, D): columns in order, and their parents.

    Each tree of what may be a forest starts at its most telling column; -1 is no parent.
    """
    wide = len(information)
    cost = np.where(information > 0, 1.0 + information.max(initial=0) - information, 0.0)
    tree = minimum_spanning_tree(cost)
    order: list[int] = []
    parent = [-1] * wide
    for start in np.argsort(-information.sum(axis=1), kind="stable").tolist():
        if start in order:
            continue
        reached, before = breadth_first_order(tree, start, directed=False)
        for at in reached.tolist():
            parent[at] = int(before[at]) if at != start else -1
            order.append(at)
    return order, parent
