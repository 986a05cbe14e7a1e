"""Rows that equal a training row, found by hash."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from generators.base import derive_seed
from generators.encoding import EncodedTable, TableCodec

_REDRAWS = 10
# Rows that are drawn to see how often rows held out are hit, at least and at most.
_PROBE_ROWS = (1000, 50_000)
SECRET_ARRAYS = ("once",)
"""The name under which a family keeps the hashes of rows seen once: who has them may try rows."""


@dataclass(frozen=True)
class CopyGuard:
    """Draws rows again that equal a training row, until they are as rare as among fresh real rows.

    Were every copy drawn again, the absence of a row would tell that it was learned from.

    Attributes:
        once: hashes of the training rows seen once, ascending.
        natural: the share of rows that may equal one of them.
    """

    once: np.ndarray
    natural: float

    def keep(self, encoded: EncodedTable) -> float:
        """The share of the copies among snapped rows that leaves them at the natural rate."""
        return self._share(len(self._copies(encoded)), len(encoded))

    def clean(
        self,
        encoded: EncodedTable,
        rng: np.random.Generator,
        draw: Callable[[np.ndarray], EncodedTable],
        *,
        keep: float | None = None,
    ) -> None:
        """Replace copies beyond the natural rate, in place.

        Args:
            encoded: snapped rows.
            rng: decides which copies stay.
            draw: gives new rows for these positions.
            keep: the share of copies that stays, by default that of ``keep(encoded)``.
        """
        copied = self._copies(encoded)
        keep = self._share(len(copied), len(encoded)) if keep is None else keep
        rows = copied[rng.random(len(copied)) >= keep]
        for _ in range(_REDRAWS):
            if len(rows) == 0:
                return
            fresh = draw(rows)
            encoded.codes[rows], encoded.values[rows] = fresh.codes, fresh.values
            rows = rows[self._copies(fresh)]

    def _copies(self, encoded: EncodedTable) -> np.ndarray:
        return np.flatnonzero(contains(self.once, row_hashes(encoded)))

    def _share(self, copied: int, rows: int) -> float:
        return min(1.0, self.natural * rows / max(copied, 1))


def judged_guard(
    encoded: EncodedTable,
    held: np.ndarray,
    codec: TableCodec,
    seed: int,
    draw: Callable[[int, int], EncodedTable] | None,
) -> tuple[CopyGuard, float]:
    """The guard of a model that held rows out, and the share of copies that stays in any sample.

    A fresh real row hits the rows seen once at the Good-Turing rate, a model less often, for it is
    smoother than the truth; the rows held out from the training tell how often. Under conditions
    copies are natural that are rare among all rows, so there the share decides.

    Args:
        encoded: rows of the table.
        held: positions of those held out, which may be none.
        codec: of the table.
        seed: of the model's rows.
        draw: gives so many rows of the model for a seed; None where nothing is guarded.
    """
    rows = snapped(encoded, codec)
    guard = CopyGuard(*copy_profile(rows))
    if guard.natural == 0 or draw is None:
        return guard, 0.0
    few, many = _PROBE_ROWS
    n = min(max(len(rows), few), many)
    drawn = snapped(draw(n, seed), codec)
    if len(held):
        hashes = row_hashes(rows.take(held))
        unseen = np.sort(hashes[contains(guard.once, hashes)])
        hits = int(contains(unseen, row_hashes(drawn)).sum())
        rate = hits / n * len(guard.once) / max(len(unseen), 1)
        guard = CopyGuard(guard.once, min(guard.natural, rate))
    return guard, guard.keep(drawn)


def replace_copies(
    encoded: EncodedTable,
    guard: CopyGuard,
    codec: TableCodec,
    seed: int,
    draw: Callable[[int, int], EncodedTable],
    keep: float | None = None,
) -> None:
    """Take copies beyond the natural rate out of rows, in place; values come to their grid.

    Args:
        encoded: rows.
        guard: of the model.
        codec: of the table.
        seed: of the rows.
        draw: gives so many new rows for a seed.
        keep: the share of copies that stays, by default the one that leaves the natural rate.
    """
    encoded.values[:] = snapped(encoded, codec).values
    seeds = itertools.count()

    def again(rows: np.ndarray) -> EncodedTable:
        return snapped(draw(len(rows), derive_seed("again", seed, next(seeds))), codec)

    rng = np.random.default_rng(derive_seed("copies", seed))
    guard.clean(encoded, rng, again, keep=keep)


def copy_profile(encoded: EncodedTable) -> tuple[np.ndarray, float]:
    """What the guard against copies needs to know of the training rows.

    Returns:
        Hashes of the rows seen once, ascending, and the rate at which a fresh real row would equal
        one of them: twice the number of distinct rows seen twice, over all rows (Good 1953).
    """
    hashes, counts = np.unique(row_hashes(encoded), return_counts=True)
    return hashes[counts == 1], float(2 * (counts == 2).sum() / len(encoded))


def snapped(encoded: EncodedTable, codec: TableCodec) -> EncodedTable:
    """The rows with their values on the columns' grids, as they would be published."""
    encoded = codec.settle(encoded)
    values = [column.snap(encoded.values[:, at]) for at, column in enumerate(codec.columns)]
    return EncodedTable(encoded.codes, np.column_stack(values))


def row_hashes(encoded: EncodedTable) -> np.ndarray:
    """A 64-bit hash of every row (uint64, shape (N,)), mixed as in SplitMix64 (Steele 2014)."""
    hashes = np.zeros(len(encoded), dtype=np.uint64)
    for position in range(encoded.codes.shape[1]):
        values = encoded.values[:, position]
        between = np.isfinite(values)
        # Adding zero turns -0.0 into 0.0.
        bits = (np.where(between, values, 0.0) + 0.0).view(np.uint64)
        code = encoded.codes[:, position].astype(np.uint64)
        hashes = _mix(hashes ^ _mix(np.where(between, bits, code)))
    return hashes


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


def contains(ascending: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Whether each of ``items`` is among ``ascending``."""
    if len(ascending) == 0:
        return np.zeros(len(items), dtype=bool)
    at = np.minimum(np.searchsorted(ascending, items), len(ascending) - 1)
    found: np.ndarray = ascending[at] == items
    return found
