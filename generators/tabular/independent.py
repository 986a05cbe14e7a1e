"""Independent columns: the floor that every other table generator must beat."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from generators.base import Block, Conditional, DataError, Modality, OnProgress, Progress
from generators.conditions import Cells, Conditions, allowed_values
from generators.encoding import EncodedTable, TableCodec
from generators.schema import TableSchema
from generators.tabular.leaves import (
    Leaves,
    Support,
    draw_cells,
    restore_supports,
    supports,
    supports_state,
)
from generators.tabular.restricted import RestrictedLeaves, without_missing


def learnable(data: pd.DataFrame, schema: TableSchema) -> tuple[TableCodec, EncodedTable]:
    """The codec of a table and the encoded table.

    Raises:
        DataError: no column can be learned.
    """
    if not schema.modelled:
        raise DataError(
            "a table needs at least one column that is neither an id nor text, got "
            f"{len(schema.columns)} columns of these kinds only; declare the kind of a column"
        )
    codec = TableCodec.fit(data, schema)
    return codec, codec.encode(data)


@dataclass(kw_only=True)
class Independent(Conditional):
    """Every column from its own marginal, as if columns had nothing to do with each other.

    Codes follow their empirical frequencies, continuous values the interpolated empirical
    quantiles. Marginal metrics are perfect by construction, which is why they are no headline.
    """

    name: ClassVar[str] = "independent"
    suits: ClassVar[str] = "the floor of a comparison; keeps no relation between columns"
    modality: ClassVar[Modality] = "table"

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.codec_, encoded = learnable(data, schema)
        self.supports_: list[Support] = supports(self.codec_, encoded)
        self.leaves_: list[Leaves] = []
        everyone = np.zeros(len(encoded), dtype=np.int64)
        for position, support in enumerate(self.supports_):
            tokens = support.tokens(encoded.codes[:, position], encoded.values[:, position])
            self.leaves_.append(Leaves.build(everyone, tokens, 1))
            seconds = time.perf_counter() - begin
            progress(Progress("fit", position + 1, len(self.supports_), seconds))

    def _sample_block(self, block: Block) -> pd.DataFrame:
        drawn: pd.DataFrame = self.codec_.decode(self._draw(block, {}), first_row=block.start)
        return drawn

    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        restricted = {place: self._restricted(place, cell) for place, cell in cells.items()}
        empty = [place for place, leaves in restricted.items() if leaves.mass[0] <= 0]
        if empty:
            raise conditions.unsupported(self.codec_.columns[p].column.name for p in empty)
        drawn = self._draw(block, restricted)
        settled: EncodedTable = self.codec_.settle(drawn, allowed_values(cells))
        return settled

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        drawn = self._draw(
            block,
            {
                place: self._restricted(place, without_missing(self.supports_[place]))
                for place in np.flatnonzero(present).tolist()
            },
        )
        codes = np.where(given, encoded.codes, drawn.codes)
        return EncodedTable(codes, np.where(given, encoded.values, drawn.values))

    def _restricted(self, place: int, cells: Cells) -> RestrictedLeaves:
        return RestrictedLeaves.of(self.supports_[place], self.leaves_[place], cells)

    def _draw(self, block: Block, restricted: Mapping[int, RestrictedLeaves]) -> EncodedTable:
        rng = block.rng()
        everyone = np.zeros(block.size, dtype=np.int64)
        drawn = [
            restricted[place].draw(everyone, rng)
            if place in restricted
            else draw_cells(self.supports_[place], self.leaves_[place], everyone, rng)
            for place in range(len(self.supports_))
        ]
        codes = np.column_stack([codes for codes, _ in drawn])
        return EncodedTable(codes, np.column_stack([values for _, values in drawn]))

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = supports_state(self.supports_)
        for position, leaves in enumerate(self.leaves_):
            arrays[f"{position}.tokens"] = leaves.tokens
            arrays[f"{position}.cumulative"] = leaves.cumulative
        return arrays, {"codec": self.codec_.to_json()}

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.supports_ = restore_supports(self.codec_, arrays)
        self.leaves_ = []
        for position in range(len(self.supports_)):
            tokens = arrays[f"{position}.tokens"]
            start = np.array([0, len(tokens)], dtype=np.int64)
            self.leaves_.append(Leaves(start, tokens, arrays[f"{position}.cumulative"]))
