"""How many rows of each block lie in each joint cell of two columns: all pairs, fast.

Rows are put in the order of their blocks, so that a count touches the few cells of the blocks at
hand, which stay in the nearest cache, and cells are small integers, so that two columns are joined
in one pass over little memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter

import numpy as np

# Rows that are counted at once: their codes, joined cells and counts fit the second-level cache.
_ROWS_AT_ONCE = 40_000


def pair_counts(
    tables: Sequence[tuple[np.ndarray, np.ndarray]],
    sizes: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    block: np.ndarray,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Of each pair the counts of every table, in the order of ``pairs``.

    Args:
        tables: codes (N, D) and the numbers (n,) of the rows that are counted, of each table.
        sizes: number of cells of each column, (D,).
        pairs: positions of two columns each; those with the same first one must be neighbours.
        block: the block of each counted row, (n,), from 0 on.

    Yields:
        a float32 matrix (cells, blocks) a table; the first column's cell is the slow one.
    """
    order = np.argsort(block, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(block))])
    widest = int(sizes.max())
    whole = [_by_column(codes, rows[order], widest * widest) for codes, rows in tables]
    for first, group in groupby(pairs, key=itemgetter(0)):
        seconds = [second for _, second in group]
        size = int(sizes[first])
        counted = [_counts(columns, first, seconds, (size, widest), ends) for columns in whole]
        for at, second in enumerate(seconds):
            width = int(sizes[second])
            yield tuple(
                counts[at, :, :, :width].reshape(len(ends) - 1, size * width).T
                for counts in counted
            )


def _by_column(codes: np.ndarray, rows: np.ndarray, cells: int) -> np.ndarray:
    """The codes of these rows, (D, n), as integers that hold the cells of any pair."""
    kind = np.uint16 if cells <= np.iinfo(np.uint16).max else np.int64
    columns = np.empty((codes.shape[1], len(rows)), dtype=kind)
    for position, column in enumerate(columns):
        np.take(codes[:, position].astype(kind), rows, out=column)
    return columns


def _counts(
    columns: np.ndarray, first: int, seconds: list[int], shape: tuple[int, int], ends: np.ndarray
) -> np.ndarray:
    """Counts (seconds, blocks, *shape) of one column with some others."""
    cells, blocks = shape[0] * shape[1], len(ends) - 1
    counts = np.empty((len(seconds), blocks, *shape), dtype=np.float32)
    step = max(1, _ROWS_AT_ONCE * blocks // max(int(ends[-1]), 1))
    if columns.dtype == np.uint16:  # what is joined must not overflow
        step = min(step, np.iinfo(np.uint16).max // cells)
    for start in range(0, blocks, step):
        stop = min(start + step, blocks)
        rows = slice(ends[start], ends[stop])
        lengths = np.diff(ends[start : stop + 1])
        offset = np.repeat(np.arange(stop - start, dtype=columns.dtype) * cells, lengths)
        slow = columns[first, rows] * columns.dtype.type(shape[1]) + offset
        joined = np.empty_like(slow)
        for at, second in enumerate(seconds):
            np.add(slow, columns[second, rows], out=joined)
            found = np.bincount(joined, minlength=cells * (stop - start))
            counts[at, start:stop] = found.reshape(stop - start, *shape)
    return counts
