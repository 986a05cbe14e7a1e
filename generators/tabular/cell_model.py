"""What families over cells share: sampling, conditions, completion, state.

A family gives the cells of rows, whatever evidence there is of them; within a cell the training
table's frequencies stand for every row alike.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generators.base import Block, Conditional, Modality, OnProgress, ParameterError
from generators.conditions import Cells, Conditions, allowed_values
from generators.encoding import EncodedTable, TableCodec
from generators.schema import TableSchema
from generators.tabular.cells import CellTable
from generators.tabular.independent import learnable

# Rows whose evidence is in memory at once.
_CHUNK = 1024
# Cells of a column that any table may have; more need rows that fill their pairs.
_FEW = 16
# Cells of all columns together, at most: pairs of them are counted.
_MOST_CELLS = 4096


@dataclass(kw_only=True)
class CellModel(Conditional):
    """A table family over cells; a family implements ``_learn``, ``_draw`` and the state.

    Attributes:
        cells: of each column, about, fewer in tables of few rows; a category has one for each
            level but the rarest.
    """

    cells: int = 32

    modality: ClassVar[Modality] = "table"
    rows_per_cell: ClassVar[int] = 128
    """Rows of a table for each cell of a column, where these are more than a few."""

    def __post_init__(self) -> None:
        if self.cells < 2:
            raise ParameterError(f"cells must be at least 2, got {self.cells}; raise it")

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        self.codec_, encoded = learnable(data, schema)
        filled = max(_FEW, len(encoded) // self.rows_per_cell)
        most = max(2, min(self.cells, filled, _MOST_CELLS // len(self.codec_.columns)))
        self.cells_ = CellTable.fit(self.codec_, encoded, most)
        self._learn(encoded, self.cells_.encode(encoded), progress)

    @abstractmethod
    def _learn(self, encoded: EncodedTable, states: np.ndarray, progress: OnProgress) -> None:
        """Learn the table; its cells are ``states`` (int64, (N, D)), of ``cells_.sizes``."""

    @abstractmethod
    def _draw(
        self, evidence: list[np.ndarray] | None, n: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Cells (int64, (n, D)), or None where the evidence rules all of a row out.

        Args:
            evidence: of each column weights of its cells, at most 1; shape (n, size), or (1, size)
                where it is the same for all rows; None where there is none.
            n: number of rows.
            rng: decides all draws.
        """

    def _sample_block(self, block: Block) -> pd.DataFrame:
        rng = block.rng()
        states = self._draw(None, block.size, rng)
        assert states is not None  # nothing is ruled out
        frame: pd.DataFrame = self.codec_.decode(self.cells_.decode(states, rng), block.start)
        return frame

    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        rng = block.rng()
        wide = len(self.cells_.sizes)
        evidence = [self.cells_.evidence(at, cells.get(at))[None] for at in range(wide)]
        states = self._draw(evidence, block.size, rng)
        if states is None:
            raise conditions.unsupported(self.codec_.columns[at].column.name for at in cells)
        drawn = self.cells_.decode(states, rng, cells)
        settled: EncodedTable = self.codec_.settle(drawn, allowed_values(cells))
        return settled

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        rng = block.rng()
        known = np.where(given, self.cells_.encode(encoded), -1)
        free = [
            self.cells_.not_missing(at) if present[at] else np.ones(size)
            for at, size in enumerate(self.cells_.sizes)
        ]
        states = np.empty_like(known)
        for rows in chunks(len(known)):
            evidence = [observed(known[rows, at], other) for at, other in enumerate(free)]
            drawn_states = self._draw(evidence, len(known[rows]), rng)
            assert drawn_states is not None  # no family rules a single cell out
            states[rows] = drawn_states
        drawn = self.cells_.decode(states, rng, present=present)
        codes = np.where(given, encoded.codes, drawn.codes)
        return EncodedTable(codes, np.where(given, encoded.values, drawn.values))

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = {"codec": self.codec_.to_json(), "cells": self.cells_.to_json()}
        return self.cells_.arrays(), state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.cells_ = CellTable.restore(self.codec_, arrays, state["cells"])


def observed(states: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Evidence (N, size): the state where it is known, else (-1) what ``free`` (size,) says."""
    rows: np.ndarray = np.eye(len(free))[np.maximum(states, 0)]
    rows[states < 0] = free
    return rows


def chunks(n: int, rows: int = _CHUNK) -> Iterator[slice]:
    """Runs of ``n`` rows, at most so many, that are in memory at once."""
    return (slice(start, start + rows) for start in range(0, n, rows))
