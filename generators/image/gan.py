"""A convolutional generative adversarial network, conditional on the class.

Goodfellow et al. 2014, Generative Adversarial Networks, arXiv 1406.2661 (non-saturating loss);
Radford, Metz & Chintala 2015, arXiv 1511.06434 (convolutions); Miyato & Koyama 2018, cGANs with
Projection Discriminator, arXiv 1802.05637; Mescheder, Geiger & Nowozin 2018, Which Training Methods
for GANs do actually Converge?, arXiv 1801.04406 (R1 penalty).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..base import ParameterError, TrainingError
from ..checkpoint import Parts
from ..rollback import Rollback, check_every
from ..training import EMA, EXPLODED, LOG_EVERY, build, torch_generator, warmup_cosine
from .neural import NeuralImage, ResidentImages, convolution, scaled
from .vae import Decoder

_PENALTY_EVERY = 4
_SLOPE = 0.2
_BETAS = (0.0, 0.99)
_JUDGED = 1024
_DIRECTIONS = 32


class Discriminator(nn.Module):
    """How real an image looks, given its class."""

    def __init__(self, channels: int, size: tuple[int, int], classes: int, width: int) -> None:
        super().__init__()
        self.enter = convolution(channels, width)
        self.first = convolution(width, 2 * width, stride=2)
        self.second = convolution(2 * width, 4 * width, stride=2)
        self.features = nn.Linear(4 * width * (size[0] // 4) * (size[1] // 4), 4 * width)
        self.classes = nn.Embedding(classes, 4 * width)
        self.leave = nn.Linear(4 * width, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) and (N,) -> log odds (N,)."""
        hidden = F.leaky_relu(self.enter(x), _SLOPE)
        hidden = F.leaky_relu(self.first(hidden), _SLOPE)
        hidden = F.leaky_relu(self.second(hidden), _SLOPE)
        hidden = F.leaky_relu(self.features(hidden.flatten(1)), _SLOPE)
        match = (hidden * self.classes(labels)).sum(dim=1) / math.sqrt(hidden.shape[1])
        odds: torch.Tensor = self.leave(hidden)[:, 0] + match
        return odds


@dataclass(kw_only=True)
class ImageGAN(NeuralImage):
    """Adversarial network with R1 penalty, conditional on the class (arXiv 1406.2661, 1801.04406).

    Samples are compared with the images during the training: where they collapse to few, or the
    loss is not finite, the training goes back to its best state with slower rates, and says so.

    Attributes:
        latent: length of the latent vector.
        width: channels of the first convolution; a multiple of 8.
        penalty: weight of the R1 penalty; more is steadier and slower.
    """

    epochs: int = 150
    learning_rate: float = 1e-3
    latent: int = 48
    width: int = 32
    penalty: float = 0.3

    name: ClassVar[str] = "image-gan"
    suits: ClassVar[str] = "to compare with the literature; sharp images, uneven diversity"
    multiple: ClassVar[int] = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("latent", "width")
        if self.penalty < 0.0:
            raise ParameterError(f"penalty must be at least 0, got {self.penalty}; 0 is off")

    def _network(self) -> nn.Module:
        return Decoder(self.shape_[0], self.size_, self.classes_, self.width, self.latent)

    def _training(self, train: ResidentImages, _: ResidentImages, total: int) -> Adversarial:
        return Adversarial(self, train, total)

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        return torch.randn(self.latent, generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return painted(self.network_, draws, labels)


class Adversarial:
    """Generator, discriminator, and the way back when they collapse."""

    def __init__(self, model: ImageGAN, train: ResidentImages, total: int) -> None:
        self.model, self.train, self.total = model, train, total
        device = train.pixels.device
        self.random = torch_generator(device, model.name, model.seed, "training")
        self.generator: Decoder = model._built(device)
        weights = torch_generator("cpu", model.name, model.seed, "discriminator")
        self.discriminator = build(
            lambda: Discriminator(model.shape_[0], model.size_, model.classes_, model.width),
            device,
            weights,
        )
        self.average = EMA(self.generator, sigma_rel=0.1)
        self.optimisers = [
            torch.optim.Adam(module.parameters(), lr=model.learning_rate, betas=_BETAS, fused=True)
            for module in (self.generator, self.discriminator)
        ]
        self.every = check_every(total)
        self.distance = ProjectionDistance(train.pixels)
        untrained = self._now() if total >= self.every else 1.0
        self.rollback = Rollback(self._trained(), self.optimisers, untrained)
        self.rates = [float(optimiser.param_groups[0]["lr"]) for optimiser in self.optimisers]

    def step(self, index: int) -> torch.Tensor:
        """One update of both; gives the generator's loss, or that of the state it went back to."""
        self._schedule(index)
        pixels, labels = self.train.batch(index, self.model.batch_size, self.random)
        self._teach(index, scaled(pixels), labels)
        odds = self.discriminator(self._made(labels), labels)
        loss = F.softplus(-odds).mean()
        self._descend(0, loss)
        self.average.update()
        loss = loss.detach()
        done, went_back = index + 1, False
        if done % LOG_EVERY == 0 and not abs(float(loss)) < EXPLODED:
            went_back = self.rollback.judge(done, math.nan, math.nan)
        elif done % self.every == 0:
            went_back = self.rollback.judge(done, self._now(), float(loss))
        return torch.tensor(self.rollback.loss) if went_back else loss

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {**self._trained(), "random": self.random, "rollback": self.rollback}

    def enough(self) -> bool:
        """Whether it has collapsed too often."""
        return self.rollback.enough

    def finish(self) -> nn.Module:
        """The best average.

        Raises:
            TrainingError: nothing better than the start was found.
        """
        if self.total >= self.every:
            if self.rollback.attempts and not self.rollback.at:
                raise TrainingError(
                    "a training must come nearer to the data than it began, this one did not "
                    f"({'; '.join(self.rollback.notes)}); lower the learning rate"
                )
            if self.rollback.at:
                self.rollback.judge(self.total, self._now(), self.rollback.loss)
        return self.average.module

    @property
    def notes(self) -> list[str]:
        """A sentence for each time it went back."""
        return self.rollback.notes

    def _trained(self) -> Parts:
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
            "generator's adam": self.optimisers[0],
            "discriminator's adam": self.optimisers[1],
        }

    def _schedule(self, index: int) -> None:
        """The rates of this step: the plan's, times what a collapse has left of them."""
        factor = warmup_cosine(index, self.total) * self.rollback.factor
        for optimiser, rate in zip(self.optimisers, self.rates, strict=True):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def _teach(self, index: int, real: torch.Tensor, labels: torch.Tensor) -> None:
        """One update of the discriminator."""
        with torch.no_grad():
            made = self._made(labels)
        penalised = self.model.penalty > 0.0 and index % _PENALTY_EVERY == 0
        real.requires_grad_(penalised)
        odds = self.discriminator(real, labels)
        loss = F.softplus(-odds).mean() + F.softplus(self.discriminator(made, labels)).mean()
        if penalised:
            (slope,) = torch.autograd.grad(odds.sum(), real, create_graph=True)
            steepness = slope.square().flatten(1).sum(dim=1).mean()
            loss = loss + 0.5 * self.model.penalty * _PENALTY_EVERY * steepness
        self._descend(1, loss)

    def _made(self, labels: torch.Tensor) -> torch.Tensor:
        z = torch.randn(len(labels), self.model.latent, generator=self.random, device=labels.device)
        return painted(self.generator, z, labels)

    def _descend(self, at: int, loss: torch.Tensor) -> None:
        # The gradients of the other one are by-products: they are thrown away before its turn.
        self.optimisers[at].zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.optimisers[at].step()

    @torch.no_grad()
    def _now(self) -> float:
        device = self.train.pixels.device
        random = torch_generator(device, self.model.name, self.model.seed, "judged")
        labels = self.train.labels[torch.arange(_JUDGED, device=device) % len(self.train)]
        z = torch.randn(_JUDGED, self.model.latent, generator=random, device=device)
        made = [
            painted(self.average.module, z[start : start + 256], labels[start : start + 256])
            for start in range(0, _JUDGED, 256)
        ]
        return self.distance(torch.cat(made))


class ProjectionDistance:
    """How far a sample is from the images, in [0, 1]: near 1 where it has collapsed.

    The mean Kolmogorov-Smirnov distance along the 32 principal directions of the images.
    """

    def __init__(self, pixels: torch.Tensor) -> None:
        """Take the directions of ``pixels``, uint8 (N, C, H, W)."""
        real = scaled(pixels[:4096]).flatten(1).double().cpu().numpy()
        self._mean = real.mean(axis=0)
        wanted = min(_DIRECTIONS, *real.shape)
        self._directions = np.linalg.svd(real - self._mean, full_matrices=False)[2][:wanted]
        self._real = np.sort((real - self._mean) @ self._directions.T, axis=0)

    def __call__(self, made: torch.Tensor) -> float:
        """Of a sample in [-1, 1], float32 (M, C, H, W); NaN where it is not finite."""
        points = made.flatten(1).double().cpu().numpy()
        if not np.isfinite(points).all():
            return math.nan
        drawn = np.sort((points - self._mean) @ self._directions.T, axis=0)
        found = [_kolmogorov(real, own) for real, own in zip(self._real.T, drawn.T, strict=True)]
        return float(np.mean(found))


def painted(generator: nn.Module, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Images in [-1, 1]."""
    return torch.tanh(generator(z, labels))


def _kolmogorov(left: np.ndarray, right: np.ndarray) -> float:
    """The greatest distance of two empirical distributions, both sorted."""
    points = np.concatenate([left, right])
    shares = [np.searchsorted(part, points, side="right") / len(part) for part in (left, right)]
    return float(np.abs(shares[0] - shares[1]).max())
