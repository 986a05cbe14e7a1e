"""The training of a denoising network: averages, evaluation, the way back, and when to stop.

Learned loss uncertainty and power-function EMA after Karras et al. 2024 (arXiv 2312.02696, "EDM2").
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base import OnProgress, derive_seed
from ..checkpoint import Checkpoint, Parts
from ..ranks import Ranks
from ..training import (
    EMA,
    EXPLODED,
    LOG_EVERY,
    build,
    run_steps,
    torch_generator,
    warmup_cosine,
)
from .edm import denoising_loss, noise_distribution
from .networks import Given, Network, NetworkPlan, Uncertainty, make_network
from .pixels import PixelScale

EMA_WIDTHS = (0.05, 0.10)
_EMA_STRIDE = 4
# Evaluations of a run, and the fewest steps between two of them.
_EVALUATIONS = 16
_STRETCH = 20
_VALIDATION_SHARE = 0.08
_VALIDATION_DRAWS = 1024
_VALIDATION_BATCH = 256
# A run stops when this share of its steps has brought no lower held-out loss: from there on the
# network learns its images by heart.
_PATIENCE = 0.35
_ROLLBACKS = 3
_TRAIT_NOISE = 0.1
# What the checkpoint holds besides networks, averages and random numbers.
_STATE = (
    "done",
    "order",
    "slow_down",
    "rollbacks",
    "reading",
    "validation",
    "chosen",
    "kept",
    "safe",
)


@dataclass(frozen=True)
class Examples:
    """Images on the training device, as bytes: scaled a batch at a time.

    Attributes:
        pixels: uint8 (N, C + S, H, W); the last S channels are given, the others are made.
        labels: class numbers, int64 (N,).
        scale: of the channels that are made.
        source_scale: of those that are given, if any.
        traits: what else each image shows, float32 (N, F), if known.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    scale: PixelScale
    source_scale: PixelScale | None = None
    traits: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: torch.Tensor) -> Examples:
        """The images of these rows."""
        traits = None if self.traits is None else self.traits[rows]
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows], traits=traits)

    def mirrored(self, which: torch.Tensor) -> Examples:
        """The images, those of ``which`` (bool, (N,)) with left and right exchanged."""
        pixels = torch.where(which[:, None, None, None], self.pixels.flip(3), self.pixels)
        return replace(self, pixels=pixels)

    @property
    def clean(self) -> torch.Tensor:
        """The channels that are made, float32, of standard deviation ``SIGMA_DATA``."""
        return self.scale.encode(self.pixels[:, : len(self.scale.means)])

    @property
    def source(self) -> torch.Tensor | None:
        """The channels that are given, likewise, if any."""
        if self.source_scale is None:
            return None
        return self.source_scale.encode(self.pixels[:, len(self.scale.means) :])

    @property
    def given(self) -> Given:
        """All that a network is told of them."""
        return Given(self.labels, self.traits, self.source)


@dataclass(frozen=True, kw_only=True)
class Course:
    """The settings of a training.

    Attributes:
        name, seed: of the model; all random numbers follow from them.
        plan: the network.
        batch: images per step, over all processes.
        learning_rate: its peak.
        label_drop: share of images shown without their class, and of those without their traits.
        flips: whether half of the images are mirrored, left to right.
        compiled: whether ``torch.compile`` makes the network's kernels.
        total: steps.
    """

    name: str
    seed: int
    plan: NetworkPlan
    batch: int
    learning_rate: float
    label_drop: float
    flips: bool
    compiled: bool
    total: int

    def random(self, purpose: str, device: torch.device | str) -> torch.Generator:
        """Random numbers of their own for a purpose."""
        return torch_generator(device, self.name, self.seed, purpose)

    def network(self, device: torch.device | str) -> Network:
        """The network before its first step."""
        return new_network(self.plan, device, self.random("weights", "cpu"))


class Trainer:
    """One training run: the network, its averages, its random numbers, and what was best.

    Attributes:
        history: (step, training loss), in units where 1 is the loss of knowing only the noise.
        validation: (step, held-out loss of the better average).
        chosen: the step and the EMA width of the best weights.
    """

    def __init__(
        self, course: Course, train: Examples, held_out: Examples, ranks: Ranks | None = None
    ) -> None:
        self.course, self.plan = course, course.plan
        self.ranks = ranks or Ranks()
        self.train, self.held_out = train, held_out
        self.device = device = train.pixels.device
        self.network = course.network(device)
        self.forward: nn.Module = self.network
        if course.compiled:
            self.forward = torch.compile(self.network)  # type: ignore[assignment]
        self.uncertainty = build(Uncertainty, device, course.random("uncertainty", "cpu"))
        self.parameters = [*self.network.parameters(), *self.uncertainty.parameters()]
        self.optimiser = torch.optim.AdamW(
            self.parameters,
            lr=course.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=0.01,
            fused=True,
        )
        self.averages = [EMA(self.network, sigma_rel=width) for width in EMA_WIDTHS]
        self.random = course.random("training", device)
        self.dropping = torch.Generator(device=device)
        self.noise_mean, self.noise_deviation = noise_distribution(self.plan)
        self.stretch = max(_STRETCH, math.ceil(course.total / _EVALUATIONS))
        self.history: list[tuple[int, float]] = []
        self.done = 0
        self.order = torch.empty(0, dtype=torch.long, device=device)
        self.slow_down = 1.0
        self.rollbacks = 0
        # The last loss that was read; before the first, that of knowing only the noise.
        self.reading = 1.0
        self.validation: list[tuple[int, float]] = []
        self.chosen: tuple[int, float] = (course.total, EMA_WIDTHS[-1])
        self.kept: dict[str, torch.Tensor] | None = None
        self.safe = self._weights()

    def run(self, progress: OnProgress, checkpoint: Checkpoint | None) -> None:
        """Train to the end, or until the held-out loss has long not fallen."""
        self.history = run_steps(
            self.step,
            self.course.total,
            phase="fit",
            progress=progress,
            log_every=self._log_every,
            checkpoint=self.ranks.checkpoint(checkpoint),
            parts=self.parts(),
            enough=self._stale,
        )

    def step(self, index: int) -> torch.Tensor:
        """One optimiser step; gives the loss before the learned weighting."""
        course = self.course
        factor = warmup_cosine(index, course.total) * self.slow_down
        for group in self.optimiser.param_groups:
            group["lr"] = course.learning_rate * factor
        loss = self._descend(index)
        self.done = index + 1
        last = self.done == course.total
        if self.done % _EMA_STRIDE == 0 or last:
            for average in self.averages:
                average.update(self.done - average.steps)
        if self.done % self._log_every == 0 or last:
            loss = self._judge(loss)
        if (self.done % self.stretch == 0 or last) and math.isfinite(float(loss)):
            self.safe = self._weights()
            self._evaluate()
        return loss

    def best(self) -> Network:
        """The averaged network with the lowest held-out loss, in evaluation mode."""
        network: Network = self.averages[-1].module  # type: ignore[assignment]
        if self.kept is not None:
            network.load_state_dict(self.kept)
        return network

    def gap(self) -> float | None:
        """Held-out minus training denoising loss of the best network, on equally many images."""
        if not self.validation:
            return None
        network, count = self.best(), len(self.held_out)
        seen = self.train.take(torch.arange(count, device=self.device))
        return self.loss_on(network, self.held_out) - self.loss_on(network, seen)

    @torch.no_grad()
    def loss_on(self, network: nn.Module, examples: Examples) -> float:
        """Mean loss over fixed noise at fixed levels: the same for all networks and image sets."""
        draws = _VALIDATION_DRAWS
        rows = torch.arange(draws, device=self.device) % len(examples)
        random = self.course.random("validation", self.device)
        part = torch.randperm(draws, device=self.device, generator=random)
        sigma = self._level_at((part + 0.5) / draws)
        total = 0.0
        for number, start in enumerate(range(0, draws, _VALIDATION_BATCH)):
            chosen = slice(start, start + _VALIDATION_BATCH)
            batch = examples.take(rows[chosen])
            clean = batch.clean
            noise = torch.randn(clean.shape, device=self.device, generator=random)
            if number % self.ranks.size == self.ranks.rank:
                loss = denoising_loss(network, clean, noise, sigma[chosen], batch.given)
                total += float(loss.sum())
        return self.ranks.total(total, self.device) / draws

    def parts(self) -> Parts:
        """All that a step changes."""
        averages = {f"average {at}": average for at, average in enumerate(self.averages)}
        return {
            "network": self.network,
            "uncertainty": self.uncertainty,
            "optimiser": self.optimiser,
            "random": self.random,
            "trainer": self,
            **averages,
        }

    def state_dict(self) -> dict[str, Any]:
        """What changes in training, besides networks, averages and random numbers."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        for name in _STATE:
            setattr(self, name, state_dict[name])
        self.order = self.order.to(self.device)

    def _descend(self, index: int) -> torch.Tensor:
        # The same numbers in every process, of which each takes its share.
        course, share = self.course, self.ranks.share
        rows = self._next_rows()
        labels = self._drop_labels(self.train.labels[rows])
        traits = self._blurred(rows)
        sigma = self._noise_levels(len(rows))
        flipped = self._flipped(len(rows))
        batch = self.train.take(share(rows))
        if flipped is not None:
            batch = batch.mirrored(share(flipped))
        clean = batch.clean
        shape = (len(rows), *clean.shape[1:])
        noise = share(torch.randn(shape, device=self.device, generator=self.random))
        sigma, labels = share(sigma), share(labels)
        given = Given(labels, None if traits is None else share(traits), batch.source)
        dropping = ("dropout", index, self.ranks.rank)
        self.dropping.manual_seed(derive_seed(course.name, course.seed, *dropping))
        loss = denoising_loss(
            self.forward,
            clean,
            noise,
            sigma,
            given,
            random=self.dropping,
        )
        spread = self.uncertainty(sigma.log() / 4.0)
        weighted = (loss * (-spread).exp() + spread).sum() * (self.ranks.size / len(rows))
        self.optimiser.zero_grad(set_to_none=True)
        weighted.backward()
        self.ranks.average([parameter.grad for parameter in self.parameters])
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimiser.step()
        return loss.detach().mean()

    def _next_rows(self) -> torch.Tensor:
        batch = self.course.batch
        while len(self.order) < batch:
            epoch = torch.randperm(len(self.train), device=self.device, generator=self.random)
            self.order = torch.cat([self.order, epoch])
        rows, self.order = self.order[:batch], self.order[batch:]
        return rows

    def _drop_labels(self, labels: torch.Tensor) -> torch.Tensor:
        draw = torch.rand(labels.shape, device=self.device, generator=self.random)
        return torch.where(draw < self.course.label_drop, self.plan.classes, labels)

    def _blurred(self, rows: torch.Tensor) -> torch.Tensor | None:
        """The traits of these images, with noise, some of them unknown.

        A row of many columns is one of a kind: by its exact numbers an image would be learned by
        heart (noise on conditions as in Ho et al. 2021, arXiv 2106.15282).
        """
        if self.train.traits is None:
            return None
        traits = self.train.traits[rows]
        noise = torch.randn(traits.shape, device=self.device, generator=self.random)
        draw = torch.rand((len(rows), 1), device=self.device, generator=self.random)
        return (traits + _TRAIT_NOISE * noise) * (draw >= self.course.label_drop)

    def _flipped(self, count: int) -> torch.Tensor | None:
        if not self.course.flips:
            return None
        return torch.rand(count, device=self.device, generator=self.random) < 0.5

    def _noise_levels(self, count: int) -> torch.Tensor:
        # One level from each of ``count`` equal parts of the distribution: less variance.
        part = torch.randperm(count, device=self.device, generator=self.random)
        draw = torch.rand(count, device=self.device, generator=self.random)
        return self._level_at((part + draw) / count)

    def _level_at(self, quantile: torch.Tensor) -> torch.Tensor:
        normal = torch.special.ndtri(quantile.clamp(1e-6, 1.0 - 1e-6))
        level: torch.Tensor = (self.noise_mean + self.noise_deviation * normal).exp()
        return level

    @property
    def _log_every(self) -> int:
        return min(LOG_EVERY, self.stretch)

    def _judge(self, loss: torch.Tensor) -> torch.Tensor:
        """The mean of ``loss`` over all processes; after a divergence, the way back.

        The training goes back at most three times, and the loss is the last one that was finite.
        """
        mean = self.ranks.total(float(loss), self.device) / self.ranks.size
        if math.isfinite(mean) and mean < EXPLODED:
            self.reading = mean
        elif self.rollbacks == _ROLLBACKS or self._nothing_left():
            return torch.tensor(mean)
        else:
            self.rollbacks += 1
            self._roll_back()
        return torch.tensor(self.reading)

    def _nothing_left(self) -> bool:
        """Whether the training is over and the way back leads to its start."""
        return self.done == self.course.total and self.safe["steps"][0] == 0

    def _evaluate(self) -> None:
        if len(self.held_out) == 0:
            return
        losses = [self.loss_on(average.module, self.held_out) for average in self.averages]
        at = min(range(len(losses)), key=losses.__getitem__)
        lowest = min((loss for _, loss in self.validation), default=math.inf)
        self.validation.append((self.done, losses[at]))
        if losses[at] < lowest:
            self.chosen = (self.done, EMA_WIDTHS[at])
            state = self.averages[at].module.state_dict()
            self.kept = {name: tensor.clone() for name, tensor in state.items()}

    def _stale(self) -> bool:
        if not self.validation:
            return False
        return self.validation[-1][0] - self.chosen[0] > _PATIENCE * self.course.total

    def _weights(self) -> dict[str, Any]:
        modules = [self.network, self.uncertainty, *(average.module for average in self.averages)]
        return {
            "modules": [
                {name: tensor.clone() for name, tensor in module.state_dict().items()}
                for module in modules
            ],
            "steps": [average.steps for average in self.averages],
        }

    def _roll_back(self) -> None:
        modules = [self.network, self.uncertainty, *(average.module for average in self.averages)]
        for module, state in zip(modules, self.safe["modules"], strict=True):
            module.load_state_dict(state)
        for average, steps in zip(self.averages, self.safe["steps"], strict=True):
            average.steps = steps
        self.optimiser.state.clear()
        self.slow_down *= 0.5


def inner_split(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers to train on and to hold back, by class; a small class is all trained on."""
    rng = np.random.default_rng(seed)
    held: list[np.ndarray] = []
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held.append(rows[: int(_VALIDATION_SHARE * len(rows))])
    held_out = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def new_network(plan: NetworkPlan, device: torch.device | str, random: torch.Generator) -> Network:
    """The network of ``plan`` with weights drawn from ``random``, channels last."""
    network = build(lambda: make_network(plan), device, random)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
