"""A hidden Chow-Liu tree: every column has a hidden state, and the states form a tree.

Liu, Van den Broeck (2021), "Tractable regularization of probabilistic circuits", arXiv 2106.02264:
the tree is Chow and Liu's (1968) of the columns, but it joins hidden states, of which each column
shows one cell; with one column's state copied to all it is a latent-class model, without hidden
states a Bayesian network. It is learned by stepwise EM, whose expectations are messages up
and down the tree (Pearl 1988). Sampling, conditions, completion and the density are exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from generators.base import OnProgress, ParameterError, derive_seed
from generators.encoding import EncodedTable
from generators.tabular.bayesian_network import PairCounts, one_hot, spanning_tree
from generators.tabular.messages import Branching
from generators.tabular.stepwise import SEEDS, HiddenStates, StepwiseEM

# Rows that a state stands for, at least, where a table is small.
_ROWS_PER_STATE = 100
# How likely a state begins to be that of its parent.
_ALIKE = 0.9


@dataclass(kw_only=True)
class HiddenTree(HiddenStates):
    """A hidden Chow-Liu tree (arXiv 2106.02264), a probabilistic circuit.

    Attributes:
        states: of each hidden variable, at most; a table has one for every 100 rows.
    """

    states: int = 64

    name: ClassVar[str] = "hidden-tree"
    suits: ClassVar[str] = "the most faithful of the families with exact conditionals and density"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.states < 1:
            raise ParameterError(f"states must be at least 1, got {self.states}; raise it")

    def _branching(
        self,
        encoded: EncodedTable,  # noqa: ARG002 - the cells say it all
        states: np.ndarray,
        progress: OnProgress,
    ) -> Branching:
        sizes = self.cells_.sizes
        order, parent = spanning_tree(PairCounts.of(states, sizes).information())
        em = _TreeOfStates(states, sizes, (order, parent), self)
        self.loss_history_ = em.run(self.epochs, progress)
        wide = len(sizes)
        hidden = [em.transition(at).astype(np.float64) for at in range(wide)]
        shown = [em.emission(at).astype(np.float64) for at in range(wide)]
        tables = tuple(table / table.sum(axis=1, keepdims=True) for table in [*hidden, *shown])
        return Branching((*order, *range(wide, 2 * wide)), (*parent, *range(wide)), tables)


class _TreeOfStates(StepwiseEM):
    """Expected counts of states, transitions and cells.

    Attributes:
        moves: for each column, of its parent's and its own state, over all rows 1; of a root the
            first has one value; shapes (K or 1, K), float32.
        cells: of each column, of its state and its cell; shapes (K, size), float32.
    """

    def __init__(
        self,
        states: np.ndarray,
        sizes: list[int],
        tree: tuple[list[int], list[int]],
        settings: HiddenTree,
    ) -> None:
        super().__init__(states, np.random.default_rng(derive_seed(settings.name, settings.seed)))
        self.order, self.parent = tree
        self.smoothing = settings.smoothing / len(states)
        count = max(1, min(settings.states, len(states) // _ROWS_PER_STATE))
        seeds = states[self.rng.choice(len(states), (SEEDS, count))]
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

    def take(self, some: np.ndarray, weight: float) -> float:
        """Mix in the expected counts of these cells (B, D) by ``weight``; gives the loss."""
        moves = [self.transition(at) for at in range(some.shape[1])]
        below, messages, loss = self._up(some, moves)
        fading = np.float32(weight)
        shares: dict[int, np.ndarray] = {}
        for at in self.order:
            above = self.parent[at]
            # The share of the parent's states, but for what this column says of them.
            outside = (shares[above] if above >= 0 else np.float32(1)) / messages[at]
            shares[at] = below[at] * (outside @ moves[at])
            found = moves[at] * (outside.T @ below[at]) / len(some)
            self.moves[at] += fading * (found - self.moves[at])
            starts = np.array([0, self.cells[at].shape[1]])
            shown = (one_hot(some[:, at : at + 1], starts).T @ shares[at]).T / len(some)
            self.cells[at] += fading * (shown.astype(np.float32) - self.cells[at])
        return loss

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
