"""Drift: are the newest real data still what the model has learned from?

The question of ``calibration`` asked of two times instead of two halves: could a random split have
given the old and the new rows? A classifier between them, and every column with simultaneous
intervals, answer; the two together are wrong once in a hundred times. What is proven may still be
too small to matter, so a tolerance is part of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .base import Score
from .calibration import SIGNIFICANCE, Calibration
from .comparison import Comparison, one_each
from .fidelity import Noise, real_distances, split_test

TOLERANCE = 0.02
"""A distance of a column, and an AUC above one half, that does not matter."""
_TESTS = 3


@dataclass(frozen=True)
class Drift:
    """What has changed between the rows that were learned from and the newest ones.

    Attributes:
        detection: AUC of boosted trees between old and new rows; 0.5 where they are alike.
        columns: distance of each column, largest first, with simultaneous intervals.
    """

    detection: Score
    columns: tuple[Score, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """The columns that are proven to have changed by more than the tolerance."""
        return tuple(score.subject for score in self.columns if (score.low or 0.0) > TOLERANCE)

    @property
    def proven(self) -> bool:
        """Whether anything is proven to have changed by more than the tolerance."""
        return bool(self.drifted) or (self.detection.low or 0.0) > 0.5 + TOLERANCE

    @property
    def sentence(self) -> str:
        """The answer in words: columns and numbers, no value."""
        if not self.proven:
            return "no drift beyond the tolerance is proven"
        named = ", ".join(self.drifted[:5]) or "the columns together"
        more = f" and {len(self.drifted) - 5} more" if len(self.drifted) > 5 else ""
        return f"drift is proven in {named}{more}"


def drift(comparison: Comparison, settings: Calibration | None = None) -> Drift:
    """What has changed.

    Args:
        comparison: the rows that were learned from as ``train``, the newest as ``holdout``.
        settings: rows, trees and draws.
    """
    made = settings or Calibration()
    detection = replace(made(comparison)[0], metric="drift_detection", dimension="fidelity")
    if detection.skipped is not None:
        return Drift(detection, ())
    return Drift(
        detection, tuple(sorted(_columns(comparison, made), key=lambda s: -(s.value or 0)))
    )


def _columns(comparison: Comparison, settings: Calibration) -> list[Score]:
    rng = comparison.rng("drift")
    train, holdout, *_ = comparison.frames()
    kept = [one_each(comparison.subjects(part), rng) for part in (train, holdout)]
    size = min(settings.rows, *(len(rows) for rows in kept))
    old, new = (np.sort(rng.choice(rows, size, replace=False)) for rows in kept)
    noise = Noise.draw(size, settings.draws, comparison.rng("drift/splits"))
    measured = real_distances(comparison.table, old, new, noise)
    test = split_test(measured, size, SIGNIFICANCE / _TESTS)
    ends = (np.maximum(0.0, end) for end in (test.values, test.lows, test.highs))
    return [
        Score("drift", "fidelity", column.name, float(value), float(low), float(high), 0.0, n=size)
        for column, value, low, high in zip(comparison.table.columns, *ends, strict=True)
    ]
