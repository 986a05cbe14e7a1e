"""A hidden Chow-Liu tree: every column has a hidden state, and the states form a tree.

Liu, Van den Broeck (2021), "Tractable regularization of probabilistic circuits", arXiv 2106.02264:
the tree is Chow and Liu's (1968) of the columns, but it joins hidden states, of which each column
shows one cell; with one column's state copied to all it is a latent-class model, without hidden
states a Bayesian network. It is learned by stepwise EM (Cappé, Moulines 2009, arXiv 0712.4273),
whose expectations come from messages up and down the tree (Baum, Welch; Pearl 1988). Sampling,
conditions, completion and the density are exact.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from generators.base import OnProgress, ParameterError, Progress, derive_seed
from generators.tabular.bayesian_network import PairCounts, one_hot, spanning_tree
from generators.tabular.graphical import GraphicalModel
from generators.tabular.messages import Branching

_BATCH = 1024
# The weight of batch t is (t + 2) to the minus this.
_FADING = 0.6
# Rows that a state begins with, beside the table's marginals, which weigh as many.
_SEEDS = 4
# Rows that a state stands for, at least, where a table is small.
_ROWS_PER_STATE = 40
# Batches, at most, whatever the epochs.
_MOST_STEPS = 4000
# How likely a state begins to be that of its parent.
_ALIKE = 0.9


@dataclass(kw_only=True)
class HiddenTree(GraphicalModel):
    """A hidden Chow-Liu tree (arXiv 2106.02264), a probabilistic circuit.

    Attributes:
        cells: of each column, about; a category has one for each level but the rarest.
        states: of each hidden variable, at most; a table has one for every 40 rows.
        epochs: passes over the table.
        smoothing: rows of the column's marginal that are added to every state, and of the states'
            own frequencies to every transition.
    """

    cells: int = 64
    states: int = 64
    epochs: int = 15
    smoothing: float = 0.5

    name: ClassVar[str] = "hidden-tree"
    suits: ClassVar[str] = "the most faithful of the families with exact conditionals and density"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("states", "epochs"):
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} must be at least 1, got {getattr(self, field)}; raise it"
                )
        if self.smoothing <= 0:
            raise ParameterError(f"smoothing must be above 0, got {self.smoothing}; try 0.5")

    def _branching(self, states: np.ndarray, progress: OnProgress) -> Branching:
        begin = time.perf_counter()
        sizes = self.cells_.sizes
        order, parent = spanning_tree(PairCounts.of(states, sizes).information())
        em = _StepwiseEM(states, sizes, (order, parent), self)
        total = min(self.epochs * em.batches, _MOST_STEPS)
        for index in range(total):
            em.step(index)
            if (index + 1) % 50 == 0 or index + 1 == total:
                seconds = time.perf_counter() - begin
                progress(Progress("fit", index + 1, total, seconds, em.loss))
                self.loss_history_.append((index + 1, em.loss))
        wide = len(sizes)
        hidden = [em.transition(at).astype(np.float64) for at in range(wide)]
        shown = [em.emission(at).astype(np.float64) for at in range(wide)]
        tables = tuple(table / table.sum(axis=1, keepdims=True) for table in [*hidden, *shown])
        return Branching((*order, *range(wide, 2 * wide)), (*parent, *range(wide)), tables)


class _StepwiseEM:
    """Expected counts of states, transitions and cells, faded.

    Attributes:
        moves: for each column, of its parent's and its own state, over all rows 1; of a root the
            first has one value; shapes (K or 1, K), float32.
        cells: of each column, of its state and its cell; shapes (K, size), float32.
        loss: minus the mean log-likelihood of the last batch's cells, nats.
    """

    def __init__(
        self,
        states: np.ndarray,
        sizes: list[int],
        tree: tuple[list[int], list[int]],
        settings: HiddenTree,
    ) -> None:
        self.states = states
        self.order, self.parent = tree
        self.smoothing = settings.smoothing / len(states)
        self.rng = np.random.default_rng(derive_seed(settings.name, settings.seed))
        count = max(1, min(settings.states, len(states) // _ROWS_PER_STATE))
        self.batch = min(_BATCH, max(len(states) // 4, 1))
        self.batches = max(1, len(states) // self.batch)
        self.places = np.empty(0, np.int64)
        self.loss = float("nan")
        seeds = states[self.rng.choice(len(states), (_SEEDS, count))]
        alike = _ALIKE * np.eye(count) + (1 - _ALIKE) / count
        self.marginals, self.moves, self.cells = [], [], []
        for at, size in enumerate(sizes):
            counts = np.bincount(states[:, at], minlength=size) + 0.5
            self.marginals.append((counts / counts.sum()).astype(np.float32))
            begin = np.eye(size)[seeds[:, :, at]].mean(axis=0) + self.marginals[at]
            self.cells.append((begin / (2 * count)).astype(np.float32))
            move = alike / count if self.parent[at] >= 0 else np.full((1, count), 1.0 / count)
            self.moves.append(move.astype(np.float32))

    def transition(self, at: int) -> np.ndarray:
        """P(state | parent's state), shape (K or 1, K)."""
        own = self.moves[at].sum(axis=0)
        rows = self.moves[at] + self.smoothing * own
        made: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
        return made

    def emission(self, at: int) -> np.ndarray:
        """P(cell | state), shape (K, size)."""
        rows = self.cells[at] + self.smoothing * self.marginals[at]
        made: np.ndarray = rows / rows.sum(axis=1, keepdims=True)
        return made

    def step(self, index: int) -> None:
        """Take in one batch."""
        place = index % self.batches
        if place == 0:
            self.places = self.rng.permutation(len(self.states))
        some = self.states[self.places[place * self.batch : (place + 1) * self.batch]]
        moves = [self.transition(at) for at in range(some.shape[1])]
        below, messages, self.loss = self._up(some, moves)
        fading = np.float32((index + 2) ** -_FADING)
        shares: dict[int, np.ndarray] = {}
        for at in self.order:
            above = self.parent[at]
            outside = (
                shares[above] / messages[at] if above >= 0 else 1.0 / messages[at]
            )  # the share of the parent's states, but for what this column says of them
            shares[at] = below[at] * (outside @ moves[at])
            found = moves[at] * (outside.T @ below[at]) / len(some)
            self.moves[at] += fading * (found - self.moves[at])
            starts = np.array([0, self.cells[at].shape[1]])
            shown = (one_hot(some[:, at : at + 1], starts).T @ shares[at]).T / len(some)
            self.cells[at] += fading * (shown.astype(np.float32) - self.cells[at])

    def _up(
        self, some: np.ndarray, moves: list[np.ndarray]
    ) -> tuple[list[np.ndarray], list[np.ndarray], float]:
        """Scaled weights of each state by what is below, the messages to the parents, the loss."""
        below = [
            np.ascontiguousarray(self.emission(at).T)[some[:, at]] for at in range(some.shape[1])
        ]
        messages: list[np.ndarray] = [np.empty(0, np.float32)] * len(below)
        logs = 0.0
        for at in reversed(self.order):
            scale = below[at].max(axis=1, keepdims=True)
            below[at] /= scale
            logs += float(np.log(scale).mean())
            messages[at] = below[at] @ moves[at].T
            if self.parent[at] >= 0:
                below[self.parent[at]] *= messages[at]
            else:
                logs += float(np.log(messages[at]).mean())
        return below, messages, -logs
