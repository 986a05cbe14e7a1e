"""A regularised autoencoder, and a density of its latent vectors.

Ghosh, Sajjadi, Vergari, Black & Schölkopf 2019, From Variational to Deterministic Autoencoders,
arXiv 1903.12436: decoder noise and a penalty on the latent vectors instead of a prior, and a
density that is fitted afterwards; here a Gaussian of full covariance for each class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from ..base import OnProgress
from ..schema import Images, ImageSchema
from .neural import NeuralImage, scaled
from .vae import Decoder, Encoder, gaussian_loss

_PENALTY = 1e-2
_NOISE = 0.1
_SHRINK = 10.0
"""A class's covariance weighs so many images less than the covariance of all classes."""


class Autoencoder(nn.Module):
    """Encoder, decoder, and the Gaussians of the latent vectors of each class."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width: int, latent: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(channels, size, classes, width, latent)
        self.decoder = Decoder(channels, size, classes, width, latent)
        self.density = Gaussians(classes, latent)


class Gaussians(nn.Module):
    """A mean and the root of a covariance for each class."""

    def __init__(self, classes: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("means", torch.empty(classes, latent))
        self.register_buffer("roots", torch.empty(classes, latent, latent))

    def initialise(self, _: torch.Generator) -> None:
        """Standard normal."""
        self.get_buffer("means").zero_()
        roots = self.get_buffer("roots")
        roots.copy_(torch.eye(roots.shape[1]).expand_as(roots))

    def fit(self, latents: np.ndarray, labels: np.ndarray) -> None:
        """Take the moments of ``latents`` (N, latent); small classes lean on all classes."""
        counts = np.bincount(labels, minlength=len(self.get_buffer("means")))
        centred = latents.copy()
        means = np.zeros(self.get_buffer("means").shape)
        for label in np.flatnonzero(counts):
            means[label] = latents[labels == label].mean(axis=0)
            centred[labels == label] -= means[label]
        common = centred.T @ centred / max(len(latents) - 1, 1)
        ridge = 1e-6 * np.eye(latents.shape[1])
        roots = np.empty(self.get_buffer("roots").shape)
        for number in range(len(roots)):
            own = centred[labels == number]
            mixed = (own.T @ own + _SHRINK * common) / (len(own) + _SHRINK)
            roots[number] = np.linalg.cholesky(mixed + ridge)
        self.get_buffer("means").copy_(torch.from_numpy(means))
        self.get_buffer("roots").copy_(torch.from_numpy(roots))

    def forward(self, normal: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers (N, latent) as latent vectors of these classes."""
        drawn = torch.einsum("nij,nj->ni", self.get_buffer("roots")[labels], normal)
        return self.get_buffer("means")[labels] + drawn


@dataclass(kw_only=True)
class ImageAutoencoder(NeuralImage):
    """Autoencoder with a Gaussian of its latent vectors for each class (arXiv 1903.12436).

    Attributes:
        latent: length of the latent vector.
        width: channels of the first convolution; a multiple of 8.
    """

    latent: int = 16
    width: int = 32
    learning_rate: float = 2e-3

    name: ClassVar[str] = "image-autoencoder"
    suits: ClassVar[str] = "a fast baseline, sharper than `image-vae`"
    multiple: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("latent", "width")

    def _fit(self, data: Images, schema: ImageSchema, progress: OnProgress) -> None:
        super()._fit(data, schema, progress)
        pixels = self._padded(data.pixels)
        network: Any = self.network_
        device = next(network.parameters()).device
        parts = []
        with torch.inference_mode():
            for start in range(0, len(pixels), 256):
                rows = slice(start, start + 256)
                batch = torch.from_numpy(pixels[rows]).to(device)
                labels = torch.from_numpy(data.labels[rows]).to(device)
                parts.append(network.encoder(scaled(batch), labels).cpu().double().numpy())
        network.density.fit(np.concatenate(parts), data.labels)

    def _network(self) -> nn.Module:
        return Autoencoder(self.shape_[0], self.size_, self.classes_, self.width, self.latent)

    def _loss(
        self,
        network: Any,  # noqa: ANN401
        pixels: torch.Tensor,
        labels: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        x = scaled(pixels)
        latents = network.encoder(x, labels)
        noise = torch.randn(latents.shape, generator=random, device=latents.device)
        again = network.decoder(latents + _NOISE * noise, labels)
        penalty = _PENALTY * x[0].numel() * latents.square().mean(dim=1)
        loss: torch.Tensor = gaussian_loss(x, again) + penalty
        return loss

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        return torch.randn(self.latent, generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        network: Any = self.network_
        decoded: torch.Tensor = network.decoder(network.density(draws, labels), labels)
        return decoded
