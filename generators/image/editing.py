"""Images completed from what is known of them, by an unconditional denoiser.

What is known is put into every estimate of the clean image; the noise is added and removed again
several times at each level, so that the rest learns of it (resampling, Lugmayr et al. 2022, arXiv
2201.09865; for averages instead of pixels Wang et al. 2022, arXiv 2212.00490, DDNM+).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from .edm import Denoiser, ancestral, noise_levels

Projection = Callable[[torch.Tensor], torch.Tensor]
"""The nearest images to given ones (N, C, H, W) that agree with what is known."""

_CLAMPS = 8
"""Rounds in which an image is brought into the range of pixels and to its averages in turn."""


# Above the first level nothing of an image is seen, below the last one not a grey value is moved.
_TOP, _BOTTOM = 10.0, 0.01


def restore(
    denoiser: Denoiser,
    project: Projection,
    noise: Callable[[], torch.Tensor],
    levels: int,
    rounds: int,
) -> torch.Tensor:
    """Images of the model that agree with what is known.

    For two pixels of correlation 0.8, where the answer is known, 25 levels with 6 rounds find 91 %
    of what one pixel says of the other, and 35 with 10 rounds 95 %; the deviation that is left is
    9 to 12 % too small.

    Args:
        denoiser: D(x, sigma).
        project: puts what is known into an estimate.
        noise: standard normal numbers, new ones at each call.
        levels: steps from noise to image.
        rounds: evaluations at each level; more follow the known parts more closely.
    """
    sigmas = noise_levels(levels + 1, _TOP, _BOTTOM)
    x = sigmas[0] * noise()
    for now, then in itertools.pairwise(sigmas):
        rise = math.sqrt(now**2 - then**2)
        for left in reversed(range(rounds)):
            lower = ancestral(x, project(denoiser(x, now)), noise(), now, then)
            x = lower + rise * noise() if left else lower
    return project(denoiser(x, sigmas[-1]))


def keep_outside(known: torch.Tensor, anew: torch.Tensor) -> Projection:
    """Keeps the pixels of ``known`` but where ``anew`` (bool, broadcast to it) is true."""
    return lambda clean: torch.where(anew, clean, known)


def keep_pooled(
    low: torch.Tensor, factor: int, bounds: tuple[torch.Tensor, torch.Tensor]
) -> Projection:
    """Keeps the mean of each block of ``factor`` x ``factor`` pixels.

    Args:
        low: the means (N, C, h, w).
        factor: side of a block.
        bounds: least and greatest value of a pixel, (1, C, 1, 1).
    """
    height, width = low.shape[2] * factor, low.shape[3] * factor

    def project(clean: torch.Tensor) -> torch.Tensor:
        # Pixels beyond the known ones are the network's margin.
        margin = (0, clean.shape[3] - width, 0, clean.shape[2] - height)
        inner = clean[:, :, :height, :width]
        for _ in range(_CLAMPS):
            missing = low - F.avg_pool2d(inner, factor)
            inner = (inner + F.interpolate(missing, scale_factor=float(factor))).clamp(*bounds)
        return F.pad(inner, margin, mode="replicate")

    return project
