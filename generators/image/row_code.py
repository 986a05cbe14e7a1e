"""A row as numbers that an image family can be told: ``Images.traits``.

Only what a row shares with others is told: an image of a value that few rows have would be learned
by heart (conditions that name single images drive diffusion to copies, arXiv 2310.02664).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from ..encoding import ColumnCodec
from ..schema import TableSchema, to_numbers

_SHARED = 50
"""A level is told where the rows per level are at least as many."""
_KNOTS = 65
_REACH = 3.0**0.5
"""Evenly spread numbers from -_REACH to _REACH have variance 1."""


@dataclass(frozen=True)
class RowCode:
    """How rows become numbers.

    A column of levels is one number a level, 1 or 0; a range is its rank among the rows learned,
    from -1.73 to 1.73, and a 1 where the cell is missing. The last number is always 1, so that a
    row of zeros is one of which nothing is known.

    Attributes:
        levels: the columns of levels.
        ranges: of each other column its name, values in ascending order, and their ranks.
        untold: names of columns with too many levels.
    """

    levels: tuple[ColumnCodec, ...]
    ranges: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]
    untold: tuple[str, ...] = ()

    @classmethod
    def fit(cls, rows: pd.DataFrame, schema: TableSchema, label: str) -> Self:
        """The code of all modelled columns but ``label``."""
        levels, ranges, untold = [], [], []
        for column in schema.modelled:
            if column.name == label:
                continue
            if not column.discrete:
                ranges.append((column.name, *_ranks(to_numbers(rows[column.name]))))
            elif len(column.levels) * _SHARED > len(rows):
                untold.append(column.name)
            else:
                levels.append(ColumnCodec.fit(rows[column.name], column))
        return cls(tuple(levels), tuple(ranges), tuple(untold))

    @property
    def told(self) -> bool:
        """Whether there is anything to tell."""
        return bool(self.levels or self.ranges)

    def encode(self, rows: pd.DataFrame) -> np.ndarray:
        """The numbers of ``rows``, float32, shape (N, F)."""
        parts = [np.eye(c.size + 1)[c.encode(rows[c.column.name])[0], :-1] for c in self.levels]
        for name, values, ranks in self.ranges:
            numbers = to_numbers(rows[name])
            missing = ~np.isfinite(numbers)
            placed = np.interp(np.where(missing, 0.0, numbers), values, ranks)
            parts.append(np.stack([np.where(missing, 0.0, placed), missing], axis=1))
        parts.append(np.ones((len(rows), 1)))
        told: np.ndarray = np.concatenate(parts, axis=1).astype(np.float32)
        return told

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``from_json`` is the inverse."""
        return {
            "levels": [codec.to_json() for codec in self.levels],
            "ranges": [list(one) for one in self.ranges],
            "untold": list(self.untold),
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The code that ``to_json`` wrote."""
        return cls(
            tuple(ColumnCodec.from_json(codec) for codec in raw["levels"]),
            tuple((name, tuple(values), tuple(ranks)) for name, values, ranks in raw["ranges"]),
            tuple(raw["untold"]),
        )


def _ranks(numbers: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Some values in ascending order, and the rank of each."""
    present = numbers[np.isfinite(numbers)]
    if len(present) == 0:
        return (0.0,), (0.0,)
    shares = np.linspace(0.0, 1.0, _KNOTS)
    values, at = np.unique(np.quantile(present, shares), return_inverse=True)
    # A value that fills several knots has their mean rank.
    ranks = np.bincount(at, shares) / np.bincount(at)
    return tuple(values.tolist()), tuple(((2.0 * ranks - 1.0) * _REACH).tolist())
