"""Exact inference in a forest of discrete variables, by messages (Pearl 1988).

Every variable has at most one parent. Evidence weighs the states of each variable, for each row or
alike for all; messages go up to the roots, states are drawn on the way down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from generators.tabular.cells import draw_each, draw_rows


@dataclass(frozen=True)
class Branching:
    """Which variable depends on which, and how.

    Attributes:
        order: the variables, parents before children.
        parent: of each variable, -1 of a root.
        tables: P(state | parent's state) of each variable, shape (parent's states, states); of a
            root shape (1, states).
    """

    order: tuple[int, ...]
    parent: tuple[int, ...]
    tables: tuple[np.ndarray, ...]

    def collect(self, evidence: Sequence[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
        """What is below each variable.

        Args:
            evidence: of each variable weights of its states, not negative; shape (N, states), or
                (1, states) where it is the same for all rows.

        Returns:
            The weight of each state by all evidence at and below it, up to a factor for each row,
            shapes (N or 1, states); and the log of the mass of all evidence, nats, (N or 1,).
        """
        belief = [np.asarray(each, dtype=np.float64) for each in evidence]
        logs: np.ndarray = np.zeros(1)
        for at in reversed(self.order):
            scale = belief[at].max(axis=1, keepdims=True)
            belief[at] = belief[at] / np.where(scale > 0, scale, 1.0)
            message = belief[at] @ self.tables[at].T
            with np.errstate(divide="ignore"):
                logs = logs + np.log(scale[:, 0])
                if self.parent[at] < 0:
                    logs = logs + np.log(message[:, 0])
                else:
                    belief[self.parent[at]] = belief[self.parent[at]] * message
        return belief, logs

    def draw(self, belief: Sequence[np.ndarray], n: int, rng: np.random.Generator) -> np.ndarray:
        """``n`` rows of states (int64, (n, D)), given the ``belief`` that ``collect`` returns."""
        states = np.zeros((n, len(self.order)), np.int64)
        for at in self.order:
            above = self.parent[at]
            mine = states[:, above] if above >= 0 else np.zeros(n, np.int64)
            if len(belief[at]) == 1:
                states[:, at] = draw_rows(self.tables[at] * belief[at], mine, rng)
            else:
                states[:, at] = draw_each(self.tables[at][mine] * belief[at], rng)
        return states
