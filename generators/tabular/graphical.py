"""What the graphical families share: a tree of discrete variables and what follows from it.

A family learns a ``Branching`` over the cells of the columns and, before them, hidden variables.
All that is asked of it is then exact, up to what lies within a cell.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from generators.base import Density, OnProgress
from generators.encoding import EncodedTable
from generators.tabular.cell_model import CellModel, chunks, observed
from generators.tabular.messages import Branching


@dataclass(kw_only=True)
class GraphicalModel(CellModel, Density):
    """A table family that is a tree of discrete variables; a family implements ``_branching``."""

    @abstractmethod
    def _branching(
        self, encoded: EncodedTable, states: np.ndarray, progress: OnProgress
    ) -> Branching:
        """The model of the rows ``encoded``, whose cells are ``states`` (int64, (N, D)).

        Its last D variables are the columns, those before them are hidden.
        """

    def _learn(self, encoded: EncodedTable, states: np.ndarray, progress: OnProgress) -> None:
        self.branching_ = self._branching(encoded, states, progress)

    @property
    def _hidden(self) -> int:
        return len(self.branching_.order) - len(self.cells_.sizes)

    def _draw(
        self, evidence: list[np.ndarray] | None, n: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        columns = evidence or [np.ones((1, size)) for size in self.cells_.sizes]
        belief, mass = self.branching_.collect([*self._unseen(), *columns])
        if not np.isfinite(mass).all():
            return None
        drawn: np.ndarray = self.branching_.draw(belief, n, rng)[:, self._hidden :]
        return drawn

    def log_density(self, data: pd.DataFrame) -> np.ndarray:
        """The log of the model's density of each row, nats, float64, shape (N,).

        A density in the continuous columns without a grid, a probability in the others; minus
        infinity where a category is unknown or a missing value is met for the first time.
        Where a moment is learned with its weekday and time of day, those count as columns.
        """
        self._require_fitted()
        encoded = self.codec_.encode(data)
        states = np.maximum(self.cells_.encode(encoded), 0)
        logs = self.cells_.log_density(encoded)
        for rows in chunks(len(states)):
            evidence = [
                observed(states[rows, at], np.ones(size))
                for at, size in enumerate(self.cells_.sizes)
            ]
            logs[rows] += self.branching_.collect([*self._unseen(), *evidence])[1]
        return logs

    def _unseen(self) -> list[np.ndarray]:
        """No evidence of the hidden variables."""
        return [np.ones((1, each.shape[1])) for each in self.branching_.tables[: self._hidden]]

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, state = super()._state()
        tables = {f"table.{at}": each for at, each in enumerate(self.branching_.tables)}
        tree = {"order": list(self.branching_.order), "parent": list(self.branching_.parent)}
        return {**arrays, **tables}, {**state, **tree}

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        super()._restore(arrays, state)
        order, parent = tuple(state["order"]), tuple(state["parent"])
        tables = tuple(arrays[f"table.{at}"] for at in range(len(order)))
        self.branching_ = Branching(order, parent, tables)
