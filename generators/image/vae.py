"""A convolutional variational autoencoder, conditional on the class.

Kingma & Welling 2013, Auto-Encoding Variational Bayes, arXiv 1312.6114; conditional after Sohn, Lee
& Yan 2015, Learning Structured Output Representation using Deep Conditional Generative Models; the
variance of the pixels after Rybkin, Daniilidis & Levine 2020, Simple and Effective VAE Training
with Calibrated Decoders, arXiv 2006.13202.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from .networks import norm
from .neural import NeuralImage, convolution, scaled

_LEAST_ERROR = 1e-4


class Encoder(nn.Module):
    """Images and classes -> ``outputs`` numbers each."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width: int, outputs: int
    ) -> None:
        super().__init__()
        self.enter = convolution(channels, width)
        self.first = convolution(width, 2 * width, stride=2)
        self.second = convolution(2 * width, 2 * width, stride=2)
        self.norms = nn.ModuleList([norm(width), norm(2 * width)])
        self.classes = nn.Embedding(classes, width)
        self.leave = nn.Linear(2 * width * (size[0] // 4) * (size[1] // 4), outputs)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N,) -> (N, outputs)."""
        hidden = self.enter(x) + self.classes(labels)[:, :, None, None]
        hidden = self.first(F.silu(self.norms[0](hidden)))
        hidden = F.silu(self.second(F.silu(self.norms[1](hidden))))
        out: torch.Tensor = self.leave(hidden.flatten(1))
        return out


class Decoder(nn.Module):
    """Latent vectors and classes -> images in about [-1, 1]."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width: int, latent: int
    ) -> None:
        super().__init__()
        self.start = (2 * width, size[0] // 4, size[1] // 4)
        self.classes = nn.Embedding(classes, latent)
        self.enter = nn.Linear(2 * latent, 2 * width * self.start[1] * self.start[2])
        self.norms = nn.ModuleList([norm(2 * width), norm(2 * width), norm(width)])
        self.first = convolution(2 * width, 2 * width)
        self.second = convolution(2 * width, width)
        self.leave = convolution(width, channels)

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(N, latent) and (N,) -> (N, C, H, W)."""
        hidden = self.enter(torch.cat([z, self.classes(labels)], dim=1)).unflatten(1, self.start)
        hidden = F.interpolate(F.silu(self.norms[0](hidden)), scale_factor=2.0)
        hidden = F.interpolate(F.silu(self.norms[1](self.first(hidden))), scale_factor=2.0)
        out: torch.Tensor = self.leave(F.silu(self.norms[2](self.second(hidden))))
        return out


class VariationalAutoencoder(nn.Module):
    """Encoder to mean and log variance, and decoder."""

    def __init__(
        self, channels: int, size: tuple[int, int], classes: int, width: int, latent: int
    ) -> None:
        super().__init__()
        self.encoder = Encoder(channels, size, classes, width, 2 * latent)
        self.decoder = Decoder(channels, size, classes, width, latent)


@dataclass(kw_only=True)
class ImageVAE(NeuralImage):
    """Convolutional variational autoencoder, conditional on the class (arXiv 1312.6114).

    Samples are the decoder's means: smooth, as this family's are.

    Attributes:
        latent: length of the latent vector.
        width: channels of the first convolution; a multiple of 8.
    """

    latent: int = 24
    width: int = 32
    learning_rate: float = 2e-3

    name: ClassVar[str] = "image-vae"
    suits: ClassVar[str] = "a fast baseline: seconds to train, smooth images"
    multiple: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("latent", "width")

    def _network(self) -> nn.Module:
        return VariationalAutoencoder(
            self.shape_[0], self.size_, self.classes_, self.width, self.latent
        )

    def _loss(
        self,
        network: Any,  # noqa: ANN401
        pixels: torch.Tensor,
        labels: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        x = scaled(pixels)
        mean, log_variance = network.encoder(x, labels).clamp(-12.0, 12.0).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=random, device=mean.device)
        again = network.decoder(mean + (0.5 * log_variance).exp() * noise, labels)
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=1)
        loss: torch.Tensor = gaussian_loss(x, again) + divergence
        return loss

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        return torch.randn(self.latent, generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        decoded: torch.Tensor = self.network_.decoder(draws, labels)  # type: ignore[operator]
        return decoded


def gaussian_loss(x: torch.Tensor, again: torch.Tensor) -> torch.Tensor:
    """Negative log likelihood, up to a constant, of a Gaussian of the best variance; (N,).

    The variance is that of the batch (arXiv 2006.13202, section 3.3): no weight of the
    reconstruction against the divergence has to be tuned.
    """
    errors = (x - again).square().flatten(1)
    variance = errors.mean().clamp_min(_LEAST_ERROR).detach()
    loss: torch.Tensor = 0.5 * (errors / variance + variance.log()).sum(dim=1)
    return loss
