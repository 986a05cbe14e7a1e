"""Stepwise EM: hidden variables learned in batches of rows, so that the memory is bounded.

Cappé, Moulines (2009), "On-line expectation-maximization algorithm for latent data models",
arXiv 0712.4273: the expected counts of a batch are mixed into those so far, with a weight that
fades.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from generators.base import OnProgress, ParameterError, Progress
from generators.tabular.graphical import GraphicalModel

_BATCH = 1024
# The weight of batch t is (t + 2) to the minus this.
_FADING = 0.6
# Batches, at most, whatever the epochs.
_MOST_STEPS = 4000
_REPORT_EVERY = 50
SEEDS = 4
"""Rows that a hidden state begins with, beside the table's marginals, which weigh as many."""


class StepwiseEM(ABC):
    """A model in training, batch by batch.

    Attributes:
        states: the cells that are learned, int64, shape (N, D).
        loss: minus the mean log-likelihood of the last batch's cells, nats.
    """

    def __init__(self, states: np.ndarray, rng: np.random.Generator) -> None:
        self.states, self.rng = states, rng
        self.loss = float("nan")
        self._batch = min(_BATCH, max(len(states) // 4, 1))
        self._order = np.empty(0, np.int64)

    @abstractmethod
    def take(self, some: np.ndarray, weight: float) -> float:
        """Mix in the expected counts of these cells (B, D) by ``weight``; gives the loss."""

    def run(self, epochs: int, progress: OnProgress) -> list[tuple[int, float]]:
        """So many passes, within a bound; gives pairs (batches done, loss)."""
        begin, history = time.perf_counter(), []
        batches = max(1, len(self.states) // self._batch)
        total = min(epochs * batches, _MOST_STEPS)
        for index in range(total):
            place = index % batches * self._batch
            if place == 0:
                self._order = self.rng.permutation(len(self.states))
            some = self.states[self._order[place : place + self._batch]]
            self.loss, done = self.take(some, (index + 2) ** -_FADING), index + 1
            if done % _REPORT_EVERY == 0 or done == total:
                history.append((done, self.loss))
                progress(Progress("fit", done, total, time.perf_counter() - begin, self.loss))
        return history


@dataclass(kw_only=True)
class HiddenStates(GraphicalModel):
    """A graphical family with hidden variables, learned by stepwise EM (arXiv 0712.4273).

    Attributes:
        epochs: passes over the table.
        smoothing: rows of the table's own frequencies that are added to every hidden state.
    """

    cells: int = 64
    epochs: int = 15
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs < 1:
            raise ParameterError(f"epochs must be at least 1, got {self.epochs}; raise it")
        if self.smoothing <= 0:
            raise ParameterError(f"smoothing must be above 0, got {self.smoothing}; try 1")
