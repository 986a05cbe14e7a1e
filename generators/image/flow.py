"""A normalizing flow: invertible layers between images and a normal distribution.

Dinh, Sohl-Dickstein & Bengio 2016, Density estimation using Real NVP, arXiv 1605.08803 (affine
coupling, squeezing, factoring out, logit of dequantised pixels); Kingma & Dhariwal 2018, Glow,
arXiv 1807.03039 (mixing of channels by 1 x 1 convolutions; here fixed rotations).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..schema import Images
from ..training import torch_generator
from .networks import zero
from .neural import NeuralImage, convolution

_ALPHA = 0.05
"""Keeps the logit of black and of white finite (arXiv 1605.08803, section 4.1)."""
_STRONGEST = 2.0
"""The logarithm of a layer's scale stays within this."""


class Rotation(nn.Module):
    """Mixes channels by a fixed random rotation: its Jacobian has determinant 1 or -1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.empty(channels, channels))

    def initialise(self, generator: torch.Generator) -> None:
        """A rotation drawn uniformly, by the QR decomposition of a normal matrix."""
        matrix = self.get_buffer("matrix")
        normal = torch.randn(matrix.shape, generator=generator, dtype=torch.float64)
        matrix.copy_(torch.linalg.qr(normal)[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) rotated."""
        return F.conv2d(x, self.get_buffer("matrix")[:, :, None, None])

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """The inverse of ``forward``."""
        return F.conv2d(y, self.get_buffer("matrix").T[:, :, None, None])


class Coupling(nn.Module):
    """Half of the channels are scaled and shifted by what the other half and the class say."""

    def __init__(self, channels: int, classes: int, features: int) -> None:
        super().__init__()
        self.kept = channels // 2
        self.enter = convolution(self.kept, features)
        self.classes = nn.Embedding(classes, features)
        self.middle = nn.Conv2d(features, features, 1)
        self.leave = zero(convolution(features, 2 * (channels - self.kept)))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The image of ``x`` and the log determinant of the Jacobian, (N,)."""
        kept, changed = x[:, : self.kept], x[:, self.kept :]
        log_scale, shift = self._of(kept, labels)
        changed = changed * log_scale.exp() + shift
        return torch.cat([kept, changed], dim=1), log_scale.flatten(1).sum(dim=1)

    def inverse(self, y: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The inverse of ``forward``."""
        kept, changed = y[:, : self.kept], y[:, self.kept :]
        log_scale, shift = self._of(kept, labels)
        return torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)

    def _of(self, kept: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = F.silu(self.enter(kept) + self.classes(labels)[:, :, None, None])
        raw, shift = self.leave(F.silu(self.middle(hidden))).chunk(2, dim=1)
        return _STRONGEST * torch.tanh(raw / _STRONGEST), shift


class FlowNetwork(nn.Module):
    """Two levels of couplings; half of the channels leave after the first."""

    def __init__(self, channels: int, classes: int, features: int, depth: int) -> None:
        super().__init__()
        widths = (4 * channels, 8 * channels)
        self.rotations = nn.ModuleList(
            nn.ModuleList(Rotation(width) for _ in range(depth)) for width in widths
        )
        self.couplings = nn.ModuleList(
            nn.ModuleList(Coupling(width, classes, features) for _ in range(depth))
            for width in widths
        )

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latent numbers (N, D) of ``x`` (N, C, H, W), and the log determinant (N,)."""
        total = torch.zeros(len(x), device=x.device, dtype=x.dtype)
        x, early = F.pixel_unshuffle(x, 2), []
        for level in range(2):
            for rotation, coupling in self._layers(level):
                x, log = coupling(rotation(x), labels)
                total = total + log
            if level == 0:
                left, x = x.chunk(2, dim=1)
                early.append(left.flatten(1))
                x = F.pixel_unshuffle(x, 2)
        return torch.cat([*early, x.flatten(1)], dim=1), total

    def inverse(
        self, z: torch.Tensor, labels: torch.Tensor, shape: tuple[int, int, int]
    ) -> torch.Tensor:
        """The images (N, C, H, W) of ``shape`` (C, H, W) of latent numbers (N, D)."""
        channels, height, width = shape
        half = z.shape[1] // 2
        left = z[:, :half].reshape(-1, 2 * channels, height // 2, width // 2)
        x = z[:, half:].reshape(-1, 8 * channels, height // 4, width // 4)
        for level in (1, 0):
            if level == 0:
                x = torch.cat([left, F.pixel_shuffle(x, 2)], dim=1)
            for rotation, coupling in reversed(self._layers(level)):
                x = rotation.inverse(coupling.inverse(x, labels))
        return F.pixel_shuffle(x, 2)

    def _layers(self, level: int) -> list[tuple[Any, Any]]:
        rotations: Any = self.rotations[level]
        couplings: Any = self.couplings[level]
        return list(zip(rotations, couplings, strict=True))


@dataclass(kw_only=True)
class ImageFlow(NeuralImage):
    """Normalizing flow of affine couplings, conditional on the class (Real NVP, arXiv 1605.08803).

    Attributes:
        features: channels within a coupling.
        depth: couplings of each of the two levels.
        temperature: deviation of the latent numbers of samples; below 1 clearer and less diverse.
    """

    features: int = 64
    depth: int = 6
    temperature: float = 0.9

    name: ClassVar[str] = "image-flow"
    suits: ClassVar[str] = "tells likelihoods in one pass; needs long training for good images"
    multiple: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("features", "depth")

    def bits_per_dimension(self, images: Images, *, seed: int = 0) -> np.ndarray:
        """How many bits the model needs for a channel of a pixel of each image: float64, (N,).

        By the change of variables, of the pixels with uniform noise within their grey value: in the
        mean over the noise an upper bound of the bits for the grey values themselves (Theis et al.
        2015, arXiv 1511.01844, section 3.1).

        Args:
            images: of the schema.
            seed: of the noise.
        """
        self._require_fitted()
        device = next(self.network_.parameters()).device
        random = torch_generator(device, self.name, "bits", seed)
        parts = []
        for start in range(0, len(images), 256):
            rows = slice(start, start + 256)
            pixels = torch.from_numpy(self._padded(images.pixels[rows])).to(device)
            labels = torch.from_numpy(images.labels[rows]).to(device)
            with torch.inference_mode():
                parts.append(self._loss(self.network_, pixels, labels, random).cpu().double())
        dimensions = self.shape_[0] * math.prod(self.size_)
        bits: np.ndarray = torch.cat(parts).numpy() / (dimensions * math.log(2.0))
        return bits

    def _network(self) -> nn.Module:
        return FlowNetwork(self.shape_[0], self.classes_, self.features, self.depth)

    def _loss(
        self,
        network: Any,  # noqa: ANN401
        pixels: torch.Tensor,
        labels: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        noise = torch.rand(pixels.shape, generator=random, device=pixels.device)
        y, log_logit = to_logit((pixels.float() + noise) / 256.0)
        z, log = network(y, labels)
        normal = 0.5 * (z.square() + math.log(2.0 * math.pi)).sum(dim=1)
        # A grey value is 1/256 wide.
        loss: torch.Tensor = normal - log - log_logit + y[0].numel() * math.log(256.0)
        return loss

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        return torch.randn(self.shape_[0] * math.prod(self.size_), generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        network: Any = self.network_
        shape = (self.shape_[0], *self.size_)
        y = network.inverse(self.temperature * draws, labels, shape)
        share = ((y.sigmoid() - _ALPHA) / (1.0 - 2.0 * _ALPHA)).clamp(0.0, 1.0 - 1e-6)
        grey: torch.Tensor = (share * 256.0).floor() / 127.5 - 1.0
        return grey


def to_logit(share: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logit of shares (N, ...) moved off 0 and 1, and its log determinant (N,)."""
    inner = _ALPHA + (1.0 - 2.0 * _ALPHA) * share
    log = math.log(1.0 - 2.0 * _ALPHA) - inner.log() - (1.0 - inner).log()
    return torch.logit(inner), log.flatten(1).sum(dim=1)
