"""Rows that equal a training row, found by hash."""

from __future__ import annotations

import numpy as np

from generators.encoding import EncodedTable


def copy_profile(encoded: EncodedTable) -> tuple[np.ndarray, float]:
    """What the guard against copies needs to know of the training rows.

    Returns:
        Hashes of the rows seen once, ascending, and the rate at which a fresh real row would equal
        one of them: twice the number of distinct rows seen twice, over all rows (Good 1953).
    """
    hashes, counts = np.unique(row_hashes(encoded), return_counts=True)
    return hashes[counts == 1], float(2 * (counts == 2).sum() / len(encoded))


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
