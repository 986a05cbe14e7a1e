"""Bytes as the numbers that a diffusion works on, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .edm import SIGMA_DATA
from .networks import NetworkPlan

# Samples of a set with this few grey values are moved to those values.
_MAX_LEVELS = 64


@dataclass(frozen=True)
class PixelScale:
    """Bytes to numbers of mean 0 and standard deviation ``SIGMA_DATA``, and back.

    EDM's noise levels are right for data of that deviation: measuring it makes them right for any.

    Attributes:
        means: mean of each channel, in grey values.
        deviation: root mean square distance from them over all channels.
        values: the grey values that occur, where there are few; else empty.
    """

    means: list[float]
    deviation: float
    values: list[int]

    @classmethod
    def fit(cls, pixels: np.ndarray) -> PixelScale:
        """The scale of uint8 ``pixels`` (N, H, W, C)."""
        flat = pixels.reshape(-1, pixels.shape[-1])
        counts = np.stack([np.bincount(channel, minlength=256) for channel in flat.T])
        grey = np.arange(256)
        means = counts @ grey / len(flat)
        squares = (counts * (grey - means[:, None]) ** 2).sum() / flat.size
        present = np.flatnonzero(counts.sum(axis=0))
        values = present.tolist() if len(present) <= _MAX_LEVELS else []
        return cls(means.tolist(), max(math.sqrt(squares), 1.0), values)

    def pad(self, pixels: np.ndarray, plan: NetworkPlan) -> np.ndarray:
        """``pixels`` as (N, C, H, W) of the network's size; borders are repeated."""
        down, right = plan.height - pixels.shape[1], plan.width - pixels.shape[2]
        padded = np.pad(pixels, ((0, 0), (0, down), (0, right), (0, 0)), mode="edge")
        return np.ascontiguousarray(padded.transpose(0, 3, 1, 2))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float32 of uint8 (N, C, H, W)."""
        means = _wide(tuple(self.means), pixels.device)
        return (pixels.float() - means) * (SIGMA_DATA / self.deviation)

    def bounds(self, device: torch.device | str = "cpu") -> tuple[torch.Tensor, torch.Tensor]:
        """What black and white become, each (1, C, 1, 1)."""
        ends = torch.tensor([0, 255], dtype=torch.uint8, device=device)
        shape = (2, len(self.means), 1, 1)
        values = self.encode(ends[:, None, None, None].expand(shape))
        return values[:1], values[1:]

    def decode(self, x: torch.Tensor, height: int, width: int, *, snap: bool = True) -> np.ndarray:
        """Uint8 (N, height, width, C); inverse of ``encode`` and ``pad``.

        Where few grey values occur in the data, the result has only those, unless ``snap`` is off.
        """
        grey = x * (self.deviation / SIGMA_DATA) + _wide(tuple(self.means), x.device)
        whole = grey.round().clamp(0.0, 255.0).to(torch.uint8).cpu().numpy()
        cropped = whole[:, :, :height, :width].transpose(0, 2, 3, 1)
        if not (self.values and snap):
            return np.ascontiguousarray(cropped)
        values = np.array(self.values)
        nearest = np.abs(np.arange(256)[:, None] - values).argmin(axis=1)
        table: np.ndarray = values[nearest].astype(np.uint8)
        snapped: np.ndarray = table[cropped]
        return snapped

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary of the fields."""
        return {"means": self.means, "deviation": self.deviation, "values": self.values}


@lru_cache(maxsize=16)
def _wide(means: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Means of channels, (1, C, 1, 1); kept: a copy at each step would wait for the device."""
    return torch.tensor(means, dtype=torch.float32, device=device)[None, :, None, None]
