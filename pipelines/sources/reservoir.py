"""A uniform sample of a stream of rows, in memory that does not grow with the stream.

Every row draws a number; the rows with the smallest stay (bottom-k sampling without replacement,
as in Vitter, Random Sampling with a Reservoir, 1985, and Cohen, Kaplan 2007). What stays keeps its
order, and the same stream gives the same sample.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from generators.base import derive_seed


class Reservoir:
    """Takes batches of one schema; keeps at most ``rows`` rows and about ``size`` bytes of them.

    Args:
        rows: the most rows that are kept.
        size: the most bytes; where rows are wide, fewer of them are kept.
    """

    def __init__(self, rows: int, size: int) -> None:
        self.seen = 0
        self._rows = rows
        self._size = size
        self._tables: list[pa.Table] = []
        self._draws: list[np.ndarray] = []
        self._threshold = 1.0
        self._rng = np.random.default_rng(derive_seed("reservoir", rows))

    def add(self, batch: pa.Table) -> None:
        """Take the rows of ``batch``."""
        self.seen += len(batch)
        draws = self._rng.random(len(batch))
        chosen = np.flatnonzero(draws < self._threshold)
        if len(chosen) == 0:
            return
        part = batch if len(chosen) == len(batch) else batch.take(pa.array(chosen))
        self._tables.append(part)
        self._draws.append(draws[chosen])
        held = sum(len(draw) for draw in self._draws)
        if held > 2 * self._rows or sum(table.nbytes for table in self._tables) > self._size:
            self._prune()

    def cast(self, schema: pa.Schema) -> None:
        """Change the types of what is kept."""
        self._tables = [table.cast(schema) for table in self._tables]

    def table(self, schema: pa.Schema) -> pa.Table:
        """The sample; ``schema`` is that of the batches."""
        self._prune()
        return pa.concat_tables(self._tables) if self._tables else schema.empty_table()

    def _prune(self) -> None:
        if not self._tables:
            return
        table, draws = pa.concat_tables(self._tables), np.concatenate(self._draws)
        keep = min(self._rows, len(draws))
        if table.nbytes > self._size // 2:
            keep = min(keep, max(1, int(len(draws) * self._size / 2 / table.nbytes)))
        if keep < len(draws):
            self._rows = min(self._rows, keep)
            self._threshold = float(np.partition(draws, keep)[keep])
            chosen = np.flatnonzero(draws < self._threshold)
            table, draws = table.take(pa.array(chosen)).combine_chunks(), draws[chosen]
        self._tables, self._draws = [table], [draws]
