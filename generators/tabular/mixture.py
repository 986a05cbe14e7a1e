"""Latent classes: a mixture of products over the cells of the columns.

Within a class the columns are independent (Lazarsfeld 1950; Goodman 1974); classes and their
frequencies are learned by stepwise EM (arXiv 0712.4273). All conditionals and the density are sums
over the classes and exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp

from generators.base import OnProgress, ParameterError, derive_seed
from generators.encoding import EncodedTable
from generators.tabular.bayesian_network import one_hot
from generators.tabular.messages import Branching
from generators.tabular.stepwise import SEEDS, HiddenStates, StepwiseEM

# Rows that a class stands for, at least, where a table is small.
_ROWS_PER_CLASS = 100


@dataclass(kw_only=True)
class Mixture(HiddenStates):
    """A latent-class model: a hidden class makes the columns of a row independent.

    Attributes:
        classes: hidden classes, at most; a table has one for every 100 rows.
    """

    classes: int = 256
    epochs: int = 20

    name: ClassVar[str] = "mixture"
    suits: ClassVar[str] = "exact conditionals and likelihoods in seconds, whatever is asked"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 1:
            raise ParameterError(f"classes must be at least 1, got {self.classes}; raise it")

    def _branching(
        self,
        encoded: EncodedTable,  # noqa: ARG002 - the cells say it all
        states: np.ndarray,
        progress: OnProgress,
    ) -> Branching:
        em = _LatentClasses(states, self.cells_.sizes, self)
        self.loss_history_ = em.run(self.epochs, progress)
        prior, tables = em.parameters()
        wide = len(tables)
        return Branching(tuple(range(wide + 1)), (-1, *[0] * wide), (prior[None], *tables))


class _LatentClasses(StepwiseEM):
    """Expected counts of classes and cells.

    Attributes:
        rows: of each class, over all rows 1; shape (K,).
        counts: of each cell and class; shape (V, K).
    """

    def __init__(self, states: np.ndarray, sizes: list[int], settings: Mixture) -> None:
        super().__init__(states, np.random.default_rng(derive_seed(settings.name, settings.seed)))
        self.starts = np.concatenate([[0], np.cumsum(sizes)])
        seen = np.bincount((states + self.starts[:-1]).ravel(), minlength=self.starts[-1]) + 0.5
        columns = np.repeat(np.arange(len(sizes)), sizes)
        self.marginal = seen / np.bincount(columns, seen)[columns]
        self.smoothing = settings.smoothing / len(states)
        classes = max(1, min(settings.classes, len(states) // _ROWS_PER_CLASS))
        seeds = self.rng.choice(len(states), (SEEDS, classes))
        hot = sum(one_hot(states[some], self.starts) for some in seeds)
        self.rows = np.full(classes, 1.0 / classes)
        self.counts = (hot.T.toarray() / SEEDS + self.marginal[:, None]) / (2 * classes)

    def take(self, some: np.ndarray, weight: float) -> float:
        """Mix in the expected counts of these cells (B, D) by ``weight``; gives the loss."""
        hot = one_hot(some, self.starts)
        joint = hot @ self.log_tables() + np.log(np.maximum(self.rows, 1e-300))
        likely = logsumexp(joint, axis=1)
        shares = np.exp(joint - likely[:, None])
        self.rows += weight * (shares.mean(axis=0) - self.rows)
        self.counts += weight * (hot.T @ shares / len(some) - self.counts)
        return -float(likely.mean())

    def log_tables(self) -> np.ndarray:
        """The log of P(cell | class), shape (V, K)."""
        prior = self.smoothing * self.marginal[:, None]
        logs: np.ndarray = np.log((self.counts + prior) / (self.rows + self.smoothing))
        return logs

    def parameters(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """P(class), shape (K,), and for each column P(cell | class), shape (K, size)."""
        tables = np.split(np.exp(self.log_tables()).T, self.starts[1:-1], axis=1)
        exact = [table / table.sum(axis=1, keepdims=True) for table in tables]
        return self.rows / self.rows.sum(), exact
