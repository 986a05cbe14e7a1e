"""Restricted Boltzmann machines, alone or stacked, with the class among the visible units.

Hinton, Osindero & Teh 2006, A fast learning algorithm for deep belief nets (labels at the top);
Larochelle & Bengio 2008, Classification using Discriminative Restricted
Boltzmann Machines (a group of label units of which one is on).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..base import ParameterError
from ..boltzmann import Boltzmann, PersistentDivergence, Schedule, Stack
from ..training import torch_generator
from .neural import NeuralImage, ResidentImages

_CHAIN_STEPS = 2
"""Gibbs steps of the persistent chains for each update."""


class BoltzmannStack(Stack):
    """Machines on top of each other; the last one has the label units.

    A chain with a held label starts at that class's mean input of the top machine: from elsewhere
    few label units would have to move many pixels, which takes very long.
    """

    def __init__(self, pixels: int, classes: int, layers: tuple[int, ...]) -> None:
        below, top = (pixels, *layers[:-1]), len(layers) - 1
        super().__init__(
            [
                Boltzmann(units, [classes] if at == top else [], hidden)
                for at, (units, hidden) in enumerate(zip(below, layers, strict=True))
            ]
        )
        self.register_buffer("starts", torch.empty(classes, below[-1]))

    def initialise(self, _: torch.Generator) -> None:
        """All units at a half."""
        self.get_buffer("starts").fill_(0.5)


@dataclass(kw_only=True)
class RBM(NeuralImage):
    """Restricted Boltzmann machine; with several ``layers`` a deep belief net.

    Grey values are taken as probabilities of binary pixels. A sample is a Gibbs chain in the top
    machine whose label is held, and then the probabilities of the pixels: smooth images.

    Attributes:
        layers: hidden units of each machine, from the pixels upwards; each is trained for
            ``epochs``.
        gibbs: steps of the chain that makes a sample.
    """

    epochs: int = 150
    learning_rate: float = 2e-3
    layers: tuple[int, ...] = (384,)
    gibbs: int = 150

    name: ClassVar[str] = "rbm"
    suits: ClassVar[str] = "to compare with the literature; near black and white images"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("gibbs")
        self.layers = tuple(self.layers)
        if not self.layers or min(self.layers) < 1:
            raise ParameterError(f"layers must be at least 1 unit each, got {self.layers}")

    @property
    def evaluations(self) -> int:
        """Gibbs steps of a sample."""
        return self.gibbs

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the images, of all machines."""
        return super().steps_per_epoch * len(self.layers)

    def _network(self) -> nn.Module:
        channels, height, width = self.shape_
        return BoltzmannStack(channels * height * width, self.classes_, self.layers)

    def _training(self, train: ResidentImages, _: ResidentImages, total: int) -> Persistent:
        return Persistent(self, train, total)

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        # The last ones are for the start.
        return torch.rand(self.gibbs + 1, self._top().draws, generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        stack: Any = self.network_
        top = self._top()
        given = F.one_hot(labels, self.classes_).float()
        start = draws[:, -1, -top.units - 1 : -1] < stack.get_buffer("starts")[labels]
        visible = torch.cat([start.float(), given], dim=1)
        for step in range(self.gibbs):
            visible = top.gibbs(visible, draws[:, step])
            visible = torch.cat([visible[:, : top.units], given], dim=1)
        shares = top.outputs(top.inputs(visible).sigmoid())[:, : top.units]
        for at in reversed(range(len(stack) - 1)):
            shares = stack[at].outputs(shares)
        images: torch.Tensor = shares.reshape(-1, *self.shape_) * 2.0 - 1.0
        return images

    def _top(self) -> Boltzmann:
        stack: Any = self.network_
        machine: Boltzmann = stack.top
        return machine


class Persistent(PersistentDivergence):
    """Training on images, whose grey values are drawn as black or white at each step."""

    def __init__(self, model: RBM, train: ResidentImages, total: int) -> None:
        self.model, self.train = model, train
        device = train.pixels.device
        schedule = Schedule(
            steps=total, rate=model.learning_rate, chains=model.batch_size, moves=_CHAIN_STEPS
        )
        random = torch_generator(device, model.name, model.seed, "training")
        super().__init__(model._built(device), schedule, random, self._data)

    def enough(self) -> bool:
        """Never: the schedule decides."""
        return False

    def finish(self) -> nn.Module:
        """The stack, with the starts of its chains."""
        starts, labels = self.stack.get_buffer("starts"), self.train.labels
        with torch.no_grad():
            for label in torch.unique(labels):
                pixels = self.train.pixels[labels == label]
                shares = (pixels.float() / 255.0).flatten(1)
                top = self.stack.inputs_of(shares, len(self.stack) - 1)
                starts[label] = top.mean(dim=0)
        return self.stack

    @property
    def notes(self) -> list[str]:
        """Nothing to say."""
        return []

    @torch.no_grad()
    def _data(self, index: int, at: int) -> torch.Tensor:
        pixels, labels = self.train.batch(index, self.model.batch_size, self.random)
        shares = self.stack.inputs_of((pixels.float() / 255.0).flatten(1), at)
        drawn = torch.rand(shares.shape, generator=self.random, device=shares.device)
        visible = (drawn < shares).float()
        if not self.stack[at].groups:
            return visible
        return torch.cat([visible, F.one_hot(labels, self.model.classes_).float()], dim=1)
