"""Restricted Boltzmann machines, alone or stacked, and their training: for images and for tables.

Hinton 2002, Training Products of Experts by Minimizing Contrastive Divergence; Tieleman 2008,
Training Restricted Boltzmann Machines using Approximations to the Likelihood Gradient (persistent
chains); Hinton, Osindero & Teh 2006, A fast learning algorithm for deep belief nets (stacking);
Salakhutdinov, Mnih & Hinton 2007, Restricted Boltzmann Machines for Collaborative Filtering (groups
of visible units of which one is on); Melchior, Fischer & Wiskott 2016, How to Center Deep Boltzmann
Machines, arXiv 1311.1354.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .checkpoint import Parts

_WEIGHT_DECAY = 1e-4
# Of the mean of the hidden units, about which gradients are centred, towards that of a batch.
_SLIDING = 0.05


class Boltzmann(nn.Module):
    """One machine: binary visible units, groups of visible units of which one is on, hidden units.

    Attributes:
        units: binary visible units; the groups come after them.
        groups: the units of each group.
    """

    def __init__(self, units: int, groups: Sequence[int], hidden: int) -> None:
        super().__init__()
        self.units, self.groups = units, list(groups)
        width = units + sum(self.groups)
        # The last unit of each group, and of all.
        self._last = [end - 1 for end in itertools.accumulate(self.groups)]
        self.weight = nn.Parameter(torch.empty(hidden, width))
        self.visible = nn.Parameter(torch.empty(width))
        self.hidden = nn.Parameter(torch.empty(hidden))

    def initialise(self, generator: torch.Generator) -> None:
        """Small weights: all configurations are about equally likely."""
        self.weight.normal_(0.0, 0.01, generator=generator)
        self.visible.zero_()
        self.hidden.zero_()

    def start_from(self, shares: torch.Tensor) -> None:
        """Biases that give each visible unit its share (V,), while weights are small.

        Hinton 2010, A Practical Guide to Training Restricted Boltzmann Machines, section 8.
        """
        units, groups = torch.split(shares, [self.units, len(shares) - self.units])
        biases = [torch.logit(units.clamp(0.01, 0.99)), groups.clamp(min=1e-6).log()]
        with torch.no_grad():
            self.visible.copy_(torch.cat(biases))

    def free_energy(self, visible: torch.Tensor) -> torch.Tensor:
        """Minus the log of the unnormalised probability of ``visible`` (N, V); shape (N,)."""
        return -visible @ self.visible - F.softplus(self.inputs(visible)).sum(dim=1)

    def inputs(self, visible: torch.Tensor) -> torch.Tensor:
        """Log odds of the hidden units (N, H)."""
        return F.linear(visible, self.weight, self.hidden)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Log odds of the binary visible units, and of the groups logs up to a factor; (N, V)."""
        return torch.addmm(self.visible, hidden, self.weight)

    def outputs(self, hidden: torch.Tensor) -> torch.Tensor:
        """Probabilities of the visible units (N, V)."""
        return self.shares(self.logits(hidden))

    def shares(self, logits: torch.Tensor) -> torch.Tensor:
        """Probabilities of the visible units by ``logits`` (N, V)."""
        units, *groups = torch.split(logits, [self.units, *self.groups], dim=1)
        return torch.cat([units.sigmoid(), *(group.softmax(dim=1) for group in groups)], dim=1)

    def gibbs(self, visible: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """``visible`` after one step; ``uniform`` has ``draws`` numbers for each row."""
        size = len(self.hidden)
        hidden = (uniform[:, :size] < self.inputs(visible).sigmoid()).float()
        return self.drawn(self.outputs(hidden), uniform[:, size:])

    @property
    def draws(self) -> int:
        """The random numbers of a row in a step."""
        return len(self.hidden) + self.units + len(self.groups)

    def drawn(self, shares: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        """Visible units (N, V) of these probabilities; a number for each unit and each group.

        A unit of a group that has no share is never on.
        """
        units = (uniform[:, : self.units] < shares[:, : self.units]).float()
        if not self.groups:
            return units
        edges = shares[:, self.units :].double().cumsum(dim=1)
        above = edges[:, self._last]
        below = F.pad(above[:, :-1], (1, 0))
        point = below + uniform[:, self.units :] * (above - below)
        # Rounding must not reach the next group.
        point = torch.minimum(point, torch.nextafter(above, below))
        on = torch.searchsorted(edges, point, right=True)
        return torch.cat([units, torch.zeros_like(edges).scatter_(1, on, 1.0).float()], dim=1)


class Stack(nn.Module):
    """Machines on top of each other: the hidden units of one are the visible ones of the next."""

    def __init__(self, machines: Sequence[Boltzmann]) -> None:
        super().__init__()
        self.machines = nn.ModuleList(machines)

    def inputs_of(self, shares: torch.Tensor, at: int) -> torch.Tensor:
        """Probabilities of the visible units of machine ``at``, of those of the first (N, V)."""
        for lower in range(at):
            shares = self[lower].inputs(shares).sigmoid()
        return shares

    @property
    def top(self) -> Boltzmann:
        """The last machine."""
        return self[len(self) - 1]

    def __getitem__(self, at: int) -> Boltzmann:
        machine: Boltzmann = self.machines[at]  # type: ignore[assignment]
        return machine

    def __len__(self) -> int:
        return len(self.machines)


@dataclass(frozen=True)
class Schedule:
    """How machines are trained.

    Attributes:
        steps: of all machines together.
        rate: of learning, at the start; it falls to 0 for each machine.
        chains: that stand for the model.
        moves: Gibbs steps of the chains for each update.
        centred: whether gradients are centred (arXiv 1311.1354).
    """

    steps: int
    rate: float
    chains: int
    moves: int
    centred: bool = False


class PersistentDivergence:
    """Persistent contrastive divergence, one machine after the other (Tieleman 2008).

    Attributes:
        stack: the machines.
        random: decides all draws.
    """

    def __init__(
        self,
        stack: Stack,
        schedule: Schedule,
        random: torch.Generator,
        data: Callable[[int, int], torch.Tensor],
    ) -> None:
        """``data`` gives the visible units (B, V) of a step, of the machine that it names."""
        self.stack, self.schedule, self.random, self.data = stack, schedule, random, data
        self.each = max(1, schedule.steps // len(stack))
        self.optimisers = [
            torch.optim.Adam(stack[at].parameters(), lr=schedule.rate, fused=True)
            for at in range(len(stack))
        ]
        # Buffers of a module, so that a checkpoint holds them.
        self.chains = nn.Module()
        for at in range(len(stack)):
            hidden, width = stack[at].weight.shape
            device = stack[at].weight.device
            chain = torch.zeros((schedule.chains, width), device=device)
            self.chains.register_buffer(f"chain{at}", chain)
            self.chains.register_buffer(f"hidden{at}", torch.full((hidden,), 0.5, device=device))
            self.chains.register_buffer(f"visible{at}", torch.zeros(width, device=device))

    def step(self, index: int) -> torch.Tensor:
        """One update of the machine whose turn it is; gives its error of reconstruction."""
        at = min(index // self.each, len(self.stack) - 1)
        machine, data = self.stack[at], self.data(index, at)
        if index == at * self.each:
            self._start(at, data)
        chain = self.chains.get_buffer(f"chain{at}")
        with torch.no_grad():
            for _ in range(self.schedule.moves):
                chain.copy_(machine.gibbs(chain, self._uniform(len(chain), machine)))
        loss = machine.free_energy(data).mean() - machine.free_energy(chain).mean()
        loss = loss + _WEIGHT_DECAY * machine.weight.square().sum()
        self.optimisers[at].zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        with torch.no_grad():
            active = machine.inputs(data).sigmoid()
            self.chains.get_buffer(f"hidden{at}").lerp_(active.mean(dim=0), _SLIDING)
            self._update(at, index)
            return (data - machine.outputs(active)).square().mean()

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        adam = {f"adam {at}": optimiser for at, optimiser in enumerate(self.optimisers)}
        return {"stack": self.stack, "chains": self.chains, "random": self.random, **adam}

    def shares(self, at: int, data: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """How often each visible unit (V,) of machine ``at`` is on, which begins with ``data``."""
        return data.mean(dim=0)

    def _start(self, at: int, data: torch.Tensor) -> None:
        shares, chain = self.shares(at, data), self.chains.get_buffer(f"chain{at}")
        self.stack[at].start_from(shares)
        self.chains.get_buffer(f"visible{at}").copy_(shares)
        chain.copy_(data[torch.arange(len(chain), device=data.device) % len(data)])

    def _update(self, at: int, index: int) -> None:
        done = (index - at * self.each) / self.each
        for group in self.optimisers[at].param_groups:
            group["lr"] = self.schedule.rate * max(0.0, 1.0 - done)
        if not self.schedule.centred:
            self.optimisers[at].step()
            return
        means = (self.chains.get_buffer(f"{side}{at}") for side in ("visible", "hidden"))
        centred_step(self.stack[at], self.optimisers[at], *means)

    def _uniform(self, count: int, machine: Boltzmann) -> torch.Tensor:
        size = (count, machine.draws)
        return torch.rand(size, generator=self.random, device=machine.weight.device)


def centred_step(
    machine: Boltzmann,
    optimiser: torch.optim.Optimizer,
    visible: torch.Tensor,
    hidden: torch.Tensor,
) -> None:
    """A step of the machine whose units count from their means (V,) and (H,), by its gradient.

    So the weights do not have to say again what the biases say (arXiv 1311.1354). Its biases are
    those at the means: they move by the plain gradient, and with the weights.
    """
    weight, at, over = machine.weight, machine.visible.grad, machine.hidden.grad
    if weight.grad is None or at is None or over is None:
        raise TypeError("a step needs gradients, the machine has none; call backward first")
    weight.grad -= torch.outer(over, visible) + torch.outer(hidden, at)
    before = weight.detach().clone()
    optimiser.step()
    moved = weight - before
    machine.visible.sub_(hidden @ moved)
    machine.hidden.sub_(moved @ visible)
