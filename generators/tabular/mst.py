"""A differentially private tree of columns, learned from noisy counts alone.

McKenna, Miklau, Sheldon 2021, "Winning the NIST Contest: A scalable and general approach to
differentially private synthetic data" (arXiv 2108.04978): measure every column with noise, choose
privately the pairs that these measurements explain least, so that they make a tree, measure them
with noise, and sample from the tree that agrees with all measurements. Whatever follows the
measurements reads no row again, so sampling, conditions and densities cost no privacy.

The training table is touched four times, each time through ``mechanisms``:

1. The values of each column are counted; of numbers those of stretches, each divided by 16, level
   by level, as long as enough rows are left to be worth it. A table of independent columns stands
   for these counts from then on: it alone decides the codec, the atoms and the cells.
2. Where the schema has a target of few levels, every column's cells are counted with the target:
   all of the tree is then one tree for each of its levels (Friedman, Geiger, Goldszmidt 1997, "Tree
   augmented naive Bayes"), so that what predicts the target is kept.
3. The pairs of columns are chosen by the exponential mechanism, by how far their cells are from
   independence, less what noise alone would make of them (McKenna et al. 2022, "AIM").
4. The cells of the chosen pairs are counted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generators.base import OnProgress, ParameterError, Privacy, Private, Progress
from generators.encoding import EncodedTable
from generators.mechanisms import RandomBits, rho_of
from generators.schema import TableSchema
from generators.tabular.cells import CellTable
from generators.tabular.graphical import GraphicalModel
from generators.tabular.independent import learnable
from generators.tabular.messages import Branching
from generators.tabular.noisy_columns import independent_rows
from generators.tabular.noisy_tree import NoisyTree

# The share of the privacy that the columns cost; the rest is the tree's.
_COLUMNS = 0.15
# A cell of a pair holds so many deviations of its noise, on average.
_CLEAR = 1.0
# A target of more cells is a column like others.
_MOST_TARGETS = 8


@dataclass(kw_only=True)
class MST(GraphicalModel, Private):
    """A tree of columns under differential privacy, from noisy counts (arXiv 2108.04978).

    Attributes:
        epsilon: the privacy loss ε, for one training row. What is taken as public: the names,
            kinds, types, levels and bounds of the columns, and the number of rows.
        delta: the probability δ with which the loss may be more; well below one in all rows.
        cells: of each column, about, at most; noise decides how many of them are worth it.
    """

    epsilon: float = 1.0
    delta: float = 1e-6

    name: ClassVar[str] = "mst"
    suits: ClassVar[str] = "a proven bound ε on what can be learned of any one row; at a price"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.epsilon < math.inf:
            raise ParameterError(f"epsilon must be a number above 0, got {self.epsilon}; try 1")
        if not 0 < self.delta < 1:
            raise ParameterError(f"delta must be between 0 and 1, got {self.delta}; try 1e-6")

    @property
    def privacy(self) -> Privacy:
        """What the training guarantees."""
        return Privacy(self.epsilon, self.delta)

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.rho_ = rho_of(self.epsilon, self.delta)
        if self.delta * len(data) >= 1:
            self.training_notes_.append(
                f"A δ of {self.delta:g} allows one of {len(data)} rows to be given away whole; "
                "choose a delta well below one in all rows."
            )
        self.key_ = self._noise(data)
        bits = RandomBits(self.key_, "columns")
        rows = independent_rows(data, schema, _COLUMNS * self.rho_, bits)
        self.codec_, known = learnable(rows, schema)
        progress(Progress("fit", 1, 2, time.perf_counter() - begin))
        groups = 1 if self._target is None else self.codec_.columns[self._target].size
        # What a pair's noise would be if nothing else cost privacy.
        deviation = math.sqrt(len(self.codec_.columns) / self.rho_)
        most = math.isqrt(int(len(data) / (_CLEAR * deviation * groups)))
        self.cells_ = CellTable.fit(self.codec_, known, int(np.clip(most, 2, self.cells)))
        # What the codec does not know is missing from the counts: it stands for the first cell.
        states = np.maximum(self.cells_.encode(self.codec_.encode(data)), 0)
        self._learn(known, states, progress)
        del self.key_
        progress(Progress("fit", 2, 2, time.perf_counter() - begin))

    def _branching(
        self,
        encoded: EncodedTable,
        states: np.ndarray,
        progress: OnProgress,  # noqa: ARG002 - two steps of ``_fit``
    ) -> Branching:
        """The tree of these rows' cells; ``encoded`` are rows that agree with the noisy columns."""
        columns = [
            np.bincount(cells, minlength=size).astype(np.float64)
            for cells, size in zip(self.cells_.encode(encoded).T, self.cells_.sizes, strict=True)
        ]
        tree = NoisyTree(states, columns, self._target, (1 - _COLUMNS) * self.rho_)
        return tree.learn(RandomBits(self.key_, "choice"), RandomBits(self.key_, "counting"))

    @property
    def _target(self) -> int | None:
        """The place of a target of few levels."""
        schema: Any = self.schema_
        for place, codec in enumerate(self.codec_.columns):
            if codec.column.name == schema.target:
                return place if codec.column.discrete and codec.size <= _MOST_TARGETS else None
        return None
