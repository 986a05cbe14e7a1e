"""Encoded rows as inputs of scikit-learn models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .binning import TableEncoding, TableView

_FAR = 5.0
# Below every number that an encoding has (its clip is ±1e6), so that missing is one split away.
_MISSING = -2e6


@dataclass(frozen=True)
class Features:
    """Which columns of an encoding a model sees, and in which form.

    Attributes:
        table: the encoding.
        numbers: columns of ``numbers``.
        levels: columns of ``codes`` that are categorical.
    """

    table: TableEncoding
    numbers: tuple[int, ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, table: TableEncoding, without: Sequence[int] = ()) -> Features:
        """All columns but those at the positions ``without``."""
        kept = [i for i, p in enumerate(table.number_columns) if p not in without]
        levels = [position for position in table.category_columns if position not in without]
        return cls(table, tuple(kept), tuple(levels))

    @property
    def categorical(self) -> list[bool]:
        """Which columns of ``for_trees`` are categorical."""
        return [False] * len(self.numbers) + [True] * len(self.levels)

    def for_trees(self, view: TableView) -> np.ndarray:
        """Numbers, then cell codes of categories; float32 (N, D).

        Missing is a number far below all others and not NaN: boosted trees of scikit-learn refuse
        a column without any number.
        """
        numbers = view.numbers[:, self.numbers].copy()
        numbers[view.missing[:, self.numbers]] = _MISSING
        return np.hstack([numbers, view.codes[:, self.levels].astype(np.float32)])

    def for_lines(self, view: TableView) -> np.ndarray:
        """Clipped numbers, missing flags and one column per cell of categories; float64."""
        blocks = [
            np.clip(view.numbers[:, self.numbers], -_FAR, _FAR).astype(np.float64),
            view.missing[:, self.numbers].astype(np.float64),
        ]
        for position in self.levels:
            cells = np.arange(self.table.sizes[position])
            blocks.append((view.codes[:, [position]] == cells).astype(np.float64))
        return np.hstack(blocks)
