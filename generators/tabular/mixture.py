"""Latent classes: a mixture of products over the cells of the columns.

Within a class the columns are independent (Lazarsfeld 1950; Goodman 1974); classes and their
frequencies are learned by stepwise EM (Cappé, Moulines 2009, "On-line expectation-maximization
algorithm for latent data models", arXiv 0712.4273), in batches of rows, so the memory is bounded.
All conditionals and the density are sums over the classes and exact.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp

from generators.base import OnProgress, ParameterError, Progress, derive_seed
from generators.tabular.bayesian_network import one_hot
from generators.tabular.graphical import GraphicalModel
from generators.tabular.messages import Branching

_BATCH = 1024
# The weight of batch t is (t + 2) to the minus this.
_FADING = 0.6
# Rows that a class begins with, beside the table's marginals, which weigh as many.
_SEEDS = 4
# Rows that a class stands for, at least, where a table is small.
_ROWS_PER_CLASS = 20
# Batches, at most, whatever the epochs.
_MOST_STEPS = 4000


@dataclass(kw_only=True)
class Mixture(GraphicalModel):
    """A latent-class model: a hidden class makes the columns of a row independent.

    Attributes:
        cells: of each column, about; a category has one for each level but the rarest.
        classes: hidden classes, at most; a table has one for every 20 rows.
        epochs: passes over the table.
        smoothing: rows of the column's marginal that are added to every class.
    """

    cells: int = 64
    classes: int = 256
    epochs: int = 20
    smoothing: float = 0.5

    name: ClassVar[str] = "mixture"
    suits: ClassVar[str] = "exact conditionals and likelihoods in seconds, whatever is asked"

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("classes", "epochs"):
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} must be at least 1, got {getattr(self, field)}; raise it"
                )
        if self.smoothing <= 0:
            raise ParameterError(f"smoothing must be above 0, got {self.smoothing}; try 0.5")

    def _branching(self, states: np.ndarray, progress: OnProgress) -> Branching:
        begin = time.perf_counter()
        em = _StepwiseEM.of(states, self.cells_.sizes, self)
        total = min(self.epochs * em.batches, _MOST_STEPS)
        for index in range(total):
            em.step(index)
            if (index + 1) % 50 == 0 or index + 1 == total:
                seconds = time.perf_counter() - begin
                progress(Progress("fit", index + 1, total, seconds, em.loss))
                self.loss_history_.append((index + 1, em.loss))
        prior, tables = em.parameters()
        wide = len(tables)
        return Branching(tuple(range(wide + 1)), (-1, *[0] * wide), (prior[None], *tables))


class _StepwiseEM:
    """Expected counts of classes and cells, faded, and the parameters that they mean.

    Attributes:
        rows: of each class, over all rows 1; shape (K,).
        counts: of each class and cell; shape (V, K).
        loss: minus the mean log-likelihood of the last batch's cells, nats.
    """

    def __init__(
        self, states: np.ndarray, starts: np.ndarray, marginal: np.ndarray, settings: Mixture
    ) -> None:
        self.states, self.starts, self.marginal = states, starts, marginal
        self.smoothing = settings.smoothing / len(states)
        self.rng = np.random.default_rng(derive_seed(settings.name, settings.seed))
        classes = max(1, min(settings.classes, len(states) // _ROWS_PER_CLASS))
        self.batch = min(_BATCH, max(len(states) // 4, 1))
        self.batches = max(1, len(states) // self.batch)
        seeds = self.rng.choice(len(states), (_SEEDS, classes))
        hot = sum(one_hot(states[some], starts) for some in seeds)
        self.rows = np.full(classes, 1.0 / classes)
        self.counts = (hot.T.toarray() / _SEEDS + marginal[:, None]) / (2 * classes)
        self.order = np.empty(0, np.int64)
        self.loss = float("nan")

    @classmethod
    def of(cls, states: np.ndarray, sizes: list[int], settings: Mixture) -> _StepwiseEM:
        """Classes that begin at a few rows each."""
        starts = np.concatenate([[0], np.cumsum(sizes)])
        counts = np.bincount((states + starts[:-1]).ravel(), minlength=starts[-1]) + 0.5
        columns = np.repeat(np.arange(len(sizes)), sizes)
        return cls(states, starts, counts / np.bincount(columns, counts)[columns], settings)

    def step(self, index: int) -> None:
        """Take in one batch."""
        at = index % self.batches
        if at == 0:
            self.order = self.rng.permutation(len(self.states))
        some = self.states[self.order[at * self.batch : (at + 1) * self.batch]]
        hot = one_hot(some, self.starts)
        joint = hot @ self.log_tables() + np.log(np.maximum(self.rows, 1e-300))
        likely = logsumexp(joint, axis=1)
        shares = np.exp(joint - likely[:, None])
        self.loss = -float(likely.mean())
        fading = (index + 2) ** -_FADING
        self.rows += fading * (shares.mean(axis=0) - self.rows)
        self.counts += fading * (hot.T @ shares / len(some) - self.counts)

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
