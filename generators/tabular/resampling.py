"""Rows drawn by weight, with the least variance."""

from __future__ import annotations

import numpy as np


def systematic(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` ascending positions, each as often as its weight says, rounded down or up.

    So a row is not repeated unless its weight is above that of an average row of the result
    (Kitagawa 1996, "Monte Carlo filter and smoother", systematic resampling).
    """
    cumulative = np.cumsum(weights)
    points = (np.arange(size) + rng.random()) / size * cumulative[-1]
    points = np.minimum(points, np.nextafter(cumulative[-1], 0))
    chosen: np.ndarray = np.searchsorted(cumulative, points, side="right")
    return chosen


def systematic_each(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``systematic`` for each row of ``weights`` (N, K): ascending positions, (N, size)."""
    ends = np.cumsum(weights, axis=1)
    ends /= ends[:, -1:]
    rows = np.arange(len(weights))[:, None]
    points = (np.arange(size) + rng.random((len(weights), 1))) / size
    found = np.searchsorted((ends + rows).ravel(), (points + rows).ravel(), side="right")
    # Rounding must not reach another row.
    chosen = found.reshape(points.shape) - rows * weights.shape[1]
    inside: np.ndarray = np.clip(chosen, 0, weights.shape[1] - 1)
    return inside
