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
