"""Restricted Boltzmann machines, alone or stacked, with the class among the visible units.

Hinton 2002, Training Products of Experts by Minimizing Contrastive Divergence; Tieleman 2008,
Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (persistent
chains); Hinton, Osindero & Teh 2006, A fast learning algorithm for deep belief nets (stacking,
labels at the top); Larochelle & Bengio 2008, Classification using Discriminative Restricted
Boltzmann Machines (a group of label units of which one is on).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ..base import ParameterError
from ..checkpoint import Parts
from ..training import torch_generator
from .neural import NeuralImage, ResidentImages

_CHAIN_STEPS = 2
"""Gibbs steps of the persistent chains for each update."""


class Boltzmann(nn.Module):
    """One machine: binary units, and a group of label units of which exactly one is on.

    Attributes:
        units: binary visible units; the label units come after them.
        classes: label units; 0 for none.
    """

    def __init__(self, units: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.units, self.classes = units, classes
        self.weight = nn.Parameter(torch.empty(hidden, units + classes))
        self.visible = nn.Parameter(torch.empty(units + classes))
        self.hidden = nn.Parameter(torch.empty(hidden))

    def initialise(self, generator: torch.Generator) -> None:
        """Small weights: all configurations are about equally likely."""
        self.weight.normal_(0.0, 0.01, generator=generator)
        self.visible.zero_()
        self.hidden.zero_()

    def free_energy(self, visible: torch.Tensor) -> torch.Tensor:
        """Minus the log of the unnormalised probability of ``visible`` (N, V); shape (N,)."""
        return -visible @ self.visible - F.softplus(self.inputs(visible)).sum(dim=1)

    def inputs(self, visible: torch.Tensor) -> torch.Tensor:
        """Log odds of the hidden units (N, H)."""
        return F.linear(visible, self.weight, self.hidden)

    def outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Probabilities of the visible units (N, V)."""
        logits = hidden @ self.weight + self.visible
        units = logits[:, : self.units].sigmoid()
        return torch.cat([units, logits[:, self.units :].softmax(dim=1)], dim=1)

    def gibbs(self, visible: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """``visible`` after one step; ``uniform`` has H + units + 1 numbers for each row."""
        size = len(self.hidden)
        hidden = (uniform[:, :size] < self.inputs(visible).sigmoid()).float()
        shares = self.outputs(hidden)
        units = uniform[:, size : size + self.units] < shares[:, : self.units]
        if not self.classes:
            return units.float()
        edges = shares[:, self.units :].cumsum(dim=1)
        chosen = (uniform[:, -1:] * edges[:, -1:] >= edges[:, :-1]).sum(dim=1)
        return torch.cat([units.float(), F.one_hot(chosen, self.classes).float()], dim=1)


class BoltzmannStack(nn.Module):
    """Machines on top of each other; the last one has the label units.

    A chain with a held label starts at that class's mean input of the top machine: from elsewhere
    few label units would have to move many pixels, which takes very long.
    """

    def __init__(self, pixels: int, classes: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        below = (pixels, *layers[:-1])
        self.machines = nn.ModuleList(
            Boltzmann(units, classes if at == len(layers) - 1 else 0, hidden)
            for at, (units, hidden) in enumerate(zip(below, layers, strict=True))
        )
        self.register_buffer("starts", torch.empty(classes, below[-1]))

    def initialise(self, _: torch.Generator) -> None:
        """All units at a half."""
        self.get_buffer("starts").fill_(0.5)

    def inputs_of(self, shares: torch.Tensor, at: int) -> torch.Tensor:
        """Probabilities of the visible units of machine ``at``, of pixels (N, D) in [0, 1]."""
        for lower in range(at):
            shares = self[lower].inputs(shares).sigmoid()
        return shares

    def __getitem__(self, at: int) -> Boltzmann:
        machine: Boltzmann = self.machines[at]  # type: ignore[assignment]
        return machine

    def __len__(self) -> int:
        return len(self.machines)


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
        top = self._top()
        # The last ones are for the start.
        return torch.rand(self.gibbs + 1, len(top.hidden) + top.units + 1, generator=random)

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
        machine: Boltzmann = stack[len(stack) - 1]
        return machine


class Persistent:
    """Training by persistent contrastive divergence, one machine after the other."""

    def __init__(self, model: RBM, train: ResidentImages, total: int) -> None:
        self.model, self.train = model, train
        device = train.pixels.device
        self.stack: BoltzmannStack = model._built(device)
        self.random = torch_generator(device, model.name, model.seed, "training")
        self.each = max(1, total // len(self.stack))
        self.optimisers = [
            torch.optim.Adam(self.stack[at].parameters(), lr=model.learning_rate, fused=True)
            for at in range(len(self.stack))
        ]
        # Buffers of a module, so that a checkpoint holds them.
        self.chains = nn.Module()
        for at in range(len(self.stack)):
            shape = (model.batch_size, len(self.stack[at].visible))
            self.chains.register_buffer(f"chain{at}", torch.zeros(shape, device=device))

    def step(self, index: int) -> torch.Tensor:
        """One update of the machine whose turn it is; gives its error of reconstruction."""
        at = min(index // self.each, len(self.stack) - 1)
        machine, optimiser = self.stack[at], self.optimisers[at]
        done = (index - at * self.each) / self.each
        for group in optimiser.param_groups:
            group["lr"] = self.model.learning_rate * max(0.0, 1.0 - done)
        data = self._data(index, at)
        chain = self.chains.get_buffer(f"chain{at}")
        with torch.no_grad():
            if index == at * self.each:
                machine.visible.copy_(log_odds(data.mean(dim=0)))
                chain.copy_(data[torch.arange(len(chain), device=data.device) % len(data)])
            for _ in range(_CHAIN_STEPS):
                chain.copy_(machine.gibbs(chain, self._uniform(len(chain), machine)))
        loss = machine.free_energy(data).mean() - machine.free_energy(chain).mean()
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss + 1e-4 * machine.weight.square().sum())
        optimiser.step()
        with torch.no_grad():
            again = machine.outputs(machine.inputs(data).sigmoid())
        return (data - again)[:, : machine.units].square().mean()

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        adam = {f"adam {at}": optimiser for at, optimiser in enumerate(self.optimisers)}
        return {"stack": self.stack, "chains": self.chains, "random": self.random, **adam}

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
        if not self.stack[at].classes:
            return visible
        return torch.cat([visible, F.one_hot(labels, self.model.classes_).float()], dim=1)

    def _uniform(self, count: int, machine: Boltzmann) -> torch.Tensor:
        size = (count, len(machine.hidden) + machine.units + 1)
        return torch.rand(size, generator=self.random, device=machine.weight.device)


def log_odds(shares: torch.Tensor) -> torch.Tensor:
    """The bias that gives a unit this share (Hinton 2010, A Practical Guide, section 8)."""
    return torch.logit(shares.clamp(0.01, 0.99))
