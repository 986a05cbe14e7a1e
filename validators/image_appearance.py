"""How bright images are and how fine their detail is: what the eye sees first, without networks.

Blur, noise, inversion, wrong contrast and compression show here, and can be drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .base import Score, skipped
from .comparison import Comparison
from .image_features import image_parts
from .statistics import signed_root, subsample_interval

BINS = 32
"""Cells of an intensity histogram, each of eight grey values."""
_MIN_IMAGES = 20
_POWER_Z = 2.486  # one-sided 5 %, power 80 %


@dataclass(frozen=True, kw_only=True)
class ImageAppearance:
    """Intensities and spatial frequencies of synthetic images beside those of real ones.

    Attributes:
        images: of each part, at most.
        draws: equal-size samples over which a distance is averaged.
        replicates: half-size samples from which its interval comes.
    """

    images: int = 5_000
    draws: int = 10
    replicates: int = 60

    name: ClassVar[str] = "image-appearance"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores ``intensity_excess`` and ``spectrum_excess``, 0 for a fresh real sample.

        Noise and bias add in quadrature, so each is the signed root of the squared distance to
        the holdout less the squared distance of as many real images.
        """
        train, holdout, synthetic, _ = image_parts(comparison)
        rng = comparison.rng(self.name)
        n = min(len(train), len(holdout), len(synthetic), self.images)
        metrics = ("intensity_excess", "spectrum_excess")
        if n < _MIN_IMAGES:
            reason = f"needs at least {_MIN_IMAGES} images of each part, got {n}; give more"
            return [skipped(metric, "fidelity", reason) for metric in metrics]
        pixels = [
            part.pixels[rng.choice(len(part), min(len(part), self.images), replace=False)]
            for part in (synthetic, train, holdout)
        ]
        return [
            self._excess("intensity_excess", "share", [intensities(p) for p in pixels], _tvd, rng),
            self._excess("spectrum_excess", "dB", [spectra(p) for p in pixels], _decibels, rng),
        ]

    def _excess(
        self,
        metric: str,
        unit: str,
        parts: list[np.ndarray],
        distance: Callable[[np.ndarray, np.ndarray], float],
        rng: np.random.Generator,
    ) -> Score:
        n = min(len(part) for part in parts)

        def squares(size: int) -> tuple[float, float]:
            synthetic, real, holdout = (
                part[rng.choice(len(part), size, replace=False)].mean(axis=0) for part in parts
            )
            return distance(synthetic, holdout) ** 2, distance(real, holdout) ** 2

        full = np.array([squares(n) for _ in range(self.draws)])
        half = np.array([squares(n // 2) for _ in range(self.replicates)])
        found = subsample_interval(
            float((full[:, 0] - full[:, 1]).mean()), half[:, 0] - half[:, 1], n // 2, n
        )
        value, low, high = (float(signed_root(end)) for end in found)
        return Score(
            metric=metric,
            dimension="fidelity",
            value=value,
            low=low,
            high=high,
            reference=0.0,
            unit=unit,
            n=n,
            minimum_detectable=float(signed_root(_POWER_Z * (found.high - found.low) / 3.92)),
        )


def intensities(pixels: np.ndarray) -> np.ndarray:
    """Share of each image's pixels in each cell of grey values, by channel, shape (N, C, 32)."""
    count, *_, channels = pixels.shape
    cells = (pixels.reshape(count, -1, channels) // (256 // BINS)).astype(np.int64)
    size = cells.shape[1]
    place = (np.arange(count)[:, None, None] * channels + np.arange(channels)) * BINS + cells
    counts = np.bincount(place.ravel(), minlength=count * channels * BINS)
    shares: np.ndarray = counts.reshape(count, channels, BINS) / size
    return shares


def spectra(pixels: np.ndarray) -> np.ndarray:
    """Power at each spatial frequency, from coarse to fine, mean over channels, shape (N, R).

    Ring r holds what turns about r times over the longer side; the mean brightness is left out.
    """
    height, width = pixels.shape[1:3]
    grey = pixels.astype(np.float32).mean(axis=3)
    power = np.abs(np.fft.rfft2(grey)) ** 2 / (height * width)
    longer = max(height, width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]) * longer
    ring = np.rint(radius).astype(int)
    rings = [power[:, ring == number].mean(axis=1) for number in range(1, longer // 2 + 1)]
    found: np.ndarray = np.stack(rings, axis=1)
    return found


def _tvd(first: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of mean histograms, mean over channels."""
    return float(0.5 * np.abs(first - other).sum(axis=1).mean())


def _decibels(first: np.ndarray, other: np.ndarray) -> float:
    """Root mean square of the ratio of mean powers, in dB; flat images count as 0.01."""
    ratio = 10 * np.log10((first + 1e-2) / (other + 1e-2))
    return float(np.sqrt((ratio**2).mean()))
