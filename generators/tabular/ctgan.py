"""CTGAN: a conditional GAN for tables, written from the paper.

Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019), Modeling Tabular Data using Conditional
GAN, arXiv 1907.00503. The critic is a WGAN-GP (Gulrajani et al. 2017, arXiv 1704.00028) that sees
packs of rows (PacGAN, Lin et al. 2018, arXiv 1712.04086).

A step makes no copy to the host and has no loop over rows or columns. Three things are cheaper
than in a literal reading, with the same mathematics: one-hot conditions are looked up, not
multiplied; the generator runs once per step, for the critic's update and its own; the gradient in
the penalty is written out, because the critic is piecewise linear.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..base import ParameterError
from ..checkpoint import Parts
from ..replay import Replayed, replayable
from ..training import EMA, build, torch_generator
from .latent import AllowedTokens, Outputs
from .modes import Spans, TableTokens, gumbel
from .neural import (
    Latents,
    NeuralTable,
    ResidentTable,
    TableTraining,
    check_positive,
    check_widths,
)

_SLOPE = 0.2
_DROPOUT = 0.5
_REFRESH_BATCHES = 50
_AVERAGE_EVERY = 5


class Condition(nn.Module):
    """The linear image of ``slots`` one-hot conditions of ``size`` positions each, looked up.

    It is what a linear layer would add for the conditional vector; ``fan_in`` is that layer's.
    """

    def __init__(self, size: int, slots: int, out: int, fan_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(slots * size, out))
        self.fan_in = fan_in
        self.size = size

    def initialise(self, generator: torch.Generator) -> None:
        """The bounds of a linear layer."""
        bound = self.fan_in**-0.5
        self.weight.uniform_(-bound, bound, generator=generator)

    def forward(self, condition: torch.Tensor) -> torch.Tensor:
        """(B, slots) positions -> (B, out)."""
        slots = condition.shape[1]
        if slots == 1:
            return F.embedding(condition[:, 0], self.weight)
        start = torch.arange(slots, device=condition.device) * self.size
        return F.embedding(condition + start, self.weight).sum(dim=1)


class ConditionedLinear(nn.Module):
    """A linear layer over (x, conditional vector), which is absent where ``size`` is 0."""

    def __init__(self, inputs: int, out: int, size: int, slots: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, out)
        fan_in = inputs + slots * size
        self.condition = Condition(size, slots, out, fan_in) if size else None

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B, inputs) and (B, slots) -> (B, out)."""
        out: torch.Tensor = self.linear(x)
        return out if self.condition is None else out + self.condition(condition).to(out.dtype)


class RowGenerator(nn.Module):
    """Noise and condition -> alphas and logits (section 4.4 of the paper).

    Each layer sees the input and the outputs of all layers before it.
    """

    def __init__(self, noise: int, conditions: int, widths: tuple[int, ...], out: int) -> None:
        super().__init__()
        inputs = list(itertools.accumulate(widths, initial=noise))
        self.hidden = nn.ModuleList(
            ConditionedLinear(total, width, conditions)
            for total, width in zip(inputs, widths, strict=False)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths)
        self.last = ConditionedLinear(inputs[-1], out, conditions)

    def forward(self, noise: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B, noise) and (B,) -> (B, A + K)."""
        h, at = noise, condition[:, None]
        for layer, norm in zip(self.hidden, self.norms, strict=True):
            made = F.relu(norm(layer(h, at)))
            h = torch.cat([made, h.to(made.dtype)], dim=1)
        out: torch.Tensor = self.last(h, at)
        return out


class Critic(nn.Module):
    """Scores packs of rows (section 4.4 of the paper).

    Its parts are separate, because the gradient penalty needs them: ``enter`` is the first linear
    layer, ``score`` the rest, ``gradient`` the derivative of the whole by the rows.
    """

    def __init__(self, width: int, conditions: int, pac: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.pac = pac
        self.widths = widths
        self.first = ConditionedLinear(pac * width, widths[0], conditions, slots=pac)
        self.hidden = nn.ModuleList(nn.Linear(i, o) for i, o in itertools.pairwise(widths))
        self.last = nn.Linear(widths[-1], 1)

    def enter(self, rows: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """(B, A + K) and (B,) -> (B / pac, widths[0]), before the activation."""
        packs = rows.reshape(len(rows) // self.pac, -1)
        out: torch.Tensor = self.first(packs, condition.reshape(-1, self.pac))
        return out

    def masks(self, packs: int, generator: torch.Generator) -> list[torch.Tensor]:
        """Dropout masks for that many packs, one per layer, with mean 1."""
        drawn = torch.rand(packs, sum(self.widths), generator=generator, device=generator.device)
        return list(((drawn >= _DROPOUT) / (1 - _DROPOUT)).split_with_sizes(self.widths, dim=1))

    def score(self, entered: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
        """(P, widths[0]) -> (P,)."""
        h = F.leaky_relu(entered, _SLOPE) * masks[0]
        for layer, mask in zip(self.hidden, masks[1:], strict=True):
            h = F.leaky_relu(layer(h), _SLOPE) * mask
        out: torch.Tensor = self.last(h)
        return out[:, 0]

    def gradient(self, entered: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
        """Derivative of the score by the rows of the pack, (P, widths[0]) -> (P, pac * (A + K)).

        Leaky ReLU and dropout only scale, so it is a product of matrices, which depends on the
        weights and, through the signs, on ``entered``.
        """
        slopes = []
        with torch.no_grad():
            for layer, mask in zip([*self.hidden, None], masks, strict=True):
                slopes.append(torch.where(entered > 0, 1.0, _SLOPE) * mask)
                if layer is not None:
                    entered = layer(F.leaky_relu(entered, _SLOPE) * mask)
        layers: list[Any] = [*self.hidden]
        out = self.last.weight * slopes.pop()
        for layer in reversed(layers):
            out = (out @ layer.weight) * slopes.pop()
        gradient: torch.Tensor = out @ self.first.linear.weight
        return gradient


def gradient_penalty(gradient: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of the gradients' norms from 1 (arXiv 1704.00028, equation 3)."""
    excess: torch.Tensor = gradient.norm(dim=1) - 1.0
    return (excess**2).mean()


class Conditions:
    """Training-by-sampling (section 4.3 of the paper): conditions, and rows that meet them.

    A condition is a position among the C tokens of all conditional columns. Rows of a condition
    are a slice of one list, sorted by (column, token), so that a batch is a few look-ups.

    Args:
        table: the training table.
        columns: positions of the conditional columns; none is allowed.
        sizes: number of tokens of each of them.
    """

    def __init__(self, table: ResidentTable, columns: list[int], sizes: list[int]) -> None:
        self.n, self.size, self.device = len(table), sum(sizes), table.device
        if not columns:
            return
        tokens = table.tokens[:, columns].long()
        offsets = np.cumsum([0, *sizes[:-1]])
        position = tokens + torch.from_numpy(offsets).to(self.device)
        self.rows = torch.argsort(tokens, dim=0, stable=True).T.flatten()
        self.count = torch.bincount(position.flatten(), minlength=self.size)
        self.start = self.count.cumsum(0) - self.count
        spans = Spans(sizes, self.device)
        self.token = torch.arange(self.size, device=self.device) - spans.first[spans.segment]
        self.column = torch.tensor(columns, device=self.device)[spans.segment]
        counts = self.count.double().cpu()
        self.frequencies = _cumulative(counts, spans.segment.cpu(), len(sizes))
        self.log_frequencies = _cumulative(counts.log1p(), spans.segment.cpu(), len(sizes)).to(
            self.device
        )

    def draw(self, n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """``n`` conditions by log frequency, and a row for each, both int64 of shape (n,)."""
        if self.size == 0:
            rows = torch.randint(self.n, (n,), generator=generator, device=self.device)
            return torch.zeros_like(rows), rows
        uniform = torch.rand(2, n, generator=generator, device=self.device, dtype=torch.float64)
        condition = draw_conditions(self.log_frequencies, uniform[0])
        within = (uniform[1] * self.count[condition]).long()
        return condition, self.rows[self.start[condition] + within]

    def usual(self, uniform: torch.Tensor) -> torch.Tensor:
        """A condition for each uniform number by true frequency, int64, shape (n,)."""
        if self.size == 0:
            return torch.zeros(uniform.shape, dtype=torch.int64, device=self.device)
        return draw_conditions(self.frequencies.to(self.device), uniform)


def _cumulative(mass: torch.Tensor, segment: torch.Tensor, columns: int) -> torch.Tensor:
    """Cumulative probabilities of positions: a column evenly, then a token by its mass."""
    total = torch.zeros(columns, dtype=mass.dtype).index_add_(0, segment, mass)
    return (mass / total[segment] / columns).cumsum(0)


def draw_conditions(cumulative: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Positions by inverse transform; (B,) uniforms -> (B,) int64."""
    at = torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)
    return at.clamp_(max=len(cumulative) - 1)


@dataclass(kw_only=True)
class CTGAN(NeuralTable):
    """Conditional tabular GAN (arXiv 1907.00503).

    Attributes:
        pac: rows that the critic sees together; divides ``batch_size``.
        embedding_dim: length of the noise vector.
        generator_dim: widths of the generator's hidden layers.
        discriminator_dim: widths of the critic's hidden layers.
        generator_lr: learning rate of the generator (Adam) for 500 rows per step; it grows with the
            root of the batch (Malladi et al. 2022, arXiv 2205.10287).
        generator_decay: its weight decay.
        discriminator_lr: learning rate of the critic (Adam), likewise.
        discriminator_decay: its weight decay.
        penalty: weight of the gradient penalty.
        temperature: of the Gumbel softmax.
        average: relative width of the average over the generator's weights that samples use
            (arXiv 2312.02696, section 3.1). Not in the CTGAN paper, whose weights circle around
            the optimum: on Adult (30 epochs, one seed) the mean distance of a column fell to a
            third.
    """

    pac: int = 10
    embedding_dim: int = 128
    generator_dim: tuple[int, ...] = (256, 256)
    discriminator_dim: tuple[int, ...] = (256, 256)
    generator_lr: float = 2e-4
    generator_decay: float = 1e-6
    discriminator_lr: float = 2e-4
    discriminator_decay: float = 0.0
    penalty: float = 10.0
    temperature: float = 0.2
    average: float = 0.1

    name: ClassVar[str] = "ctgan"
    suits: ClassVar[str] = (
        "to compare with the literature; `forest` is closer to the data and faster"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator_dim = tuple(self.generator_dim)
        self.discriminator_dim = tuple(self.discriminator_dim)
        check_positive(
            self.name,
            pac=self.pac,
            embedding_dim=self.embedding_dim,
            generator_lr=self.generator_lr,
            discriminator_lr=self.discriminator_lr,
            temperature=self.temperature,
        )
        check_widths(
            self.name, generator_dim=self.generator_dim, discriminator_dim=self.discriminator_dim
        )
        if not 0.0 < self.average < 0.28:
            raise ParameterError(
                f"average of {self.name} must lie within (0, 0.28), got {self.average}; try 0.1"
            )
        if self.batch_size and (self.batch_size % self.pac or self.batch_size < 2):
            raise ParameterError(
                f"batch_size of {self.name} must be a multiple of pac and at least 2, "
                f"got {self.batch_size} and {self.pac}; change one of them"
            )

    def _network(self) -> RowGenerator:
        conditions, width = _widths(self.layout_)
        return RowGenerator(self.embedding_dim, conditions, self.generator_dim, width)

    def _training(self, table: ResidentTable) -> TableTraining:
        training = _Training(self, table)
        self._frequencies = training.conditions.frequencies if training.conditions.size else None
        return training

    def _latents(self, n: int, generator: torch.Generator) -> Latents:
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        condition = torch.zeros(n, dtype=torch.int64)
        if self._frequencies is not None:
            condition = draw_conditions(self._frequencies, uniform)
        return torch.randn(n, self.embedding_dim, generator=generator), condition

    def _outputs(self, *latents: torch.Tensor) -> Outputs:
        out = self.network_(*latents)
        scalars = len(self.layout_.continuous)
        return Outputs(out[:, scalars:], out[:, :scalars].tanh())

    def _proposals(
        self, n: int, generator: torch.Generator, allowed: Mapping[int, AllowedTokens]
    ) -> tuple[Latents, torch.Tensor]:
        """Half of them with the conditional vector of what is allowed, the paper's own way."""
        if self._frequencies is None or not set(allowed) & set(self.layout_.conditional):
            return super()._proposals(n, generator, allowed)
        prior = torch.diff(self._frequencies, prepend=torch.zeros(1, dtype=torch.float64))
        shares = [
            allowed[at].share
            if at in allowed
            else torch.zeros(self.layout_.sizes[at], dtype=torch.float64)
            for at in self.layout_.conditional
        ]
        wanted = prior * torch.cat(shares)
        if not float(wanted.sum()) > 0:
            return super()._proposals(n, generator, allowed)
        proposal = 0.5 * prior / prior.sum() + 0.5 * wanted / wanted.sum()
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        condition = draw_conditions(proposal.cumsum(0), uniform)
        noise = torch.randn(n, self.embedding_dim, generator=generator)
        return (noise, condition), (prior / prior.sum() / proposal)[condition]

    def _arrays(self) -> dict[str, np.ndarray]:
        if self._frequencies is None:
            return {}
        return {"frequencies": self._frequencies.numpy()}

    def _restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        found = arrays.get("frequencies")
        self._frequencies = None if found is None else torch.from_numpy(found.copy())


def _widths(layout: TableTokens) -> tuple[int, int]:
    """Length of the conditional vector, and of a dense row."""
    sizes = layout.sizes
    conditions = sum(sizes[at] for at in layout.conditional)
    return conditions, len(layout.continuous) + sum(sizes)


class _Training:
    """The two networks, their optimisers and one step of both."""

    def __init__(self, settings: CTGAN, table: ResidentTable) -> None:
        layout = settings.layout_
        columns = layout.conditional
        self.settings, self.table = settings, table
        self.products = partial(settings.products, table.device)
        self.batch = settings.rows_per_step(len(table), settings.pac)
        self.steps = max(1, len(table) // self.batch)
        rates = (
            settings.rate(settings.generator_lr, self.batch),
            settings.rate(settings.discriminator_lr, self.batch),
        )
        self.conditions = Conditions(table, columns, [layout.sizes[at] for at in columns])
        self.random = torch_generator(table.device, settings.name, settings.seed, "steps")
        self.generator: RowGenerator = settings.network_.train()
        self.averaged = EMA(self.generator, sigma_rel=settings.average)
        width = self.conditions.size, settings.pac, settings.discriminator_dim
        weights = torch_generator("cpu", settings.name, settings.seed, "critic")
        self.critic = build(lambda: Critic(table.width, *width), table.device, weights)
        self.generator_adam = _adam(self.generator, rates[0], settings.generator_decay)
        self.critic_adam = _adam(self.critic, rates[1], settings.discriminator_decay)

        self.optimisers: list[torch.optim.Optimizer] = [self.generator_adam, self.critic_adam]
        self.descent = Replayed(self._descend, self.random)

    def step(self, index: int) -> torch.Tensor:
        """One update of the critic, then one of the generator; gives the generator's loss."""
        loss = self.descent()
        if (index + 1) % _AVERAGE_EVERY == 0:
            self.averaged.update(_AVERAGE_EVERY)
        return loss

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "generator": self.generator,
            "critic": self.critic,
            "generator_adam": self.generator_adam,
            "critic_adam": self.critic_adam,
            "descent": self.descent,
            "averaged": self.averaged,
            "random": self.random,
        }

    def critic_loss(
        self, real: torch.Tensor, fake: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """Wasserstein loss and gradient penalty; no gradient reaches ``fake``."""
        packs = len(real) // self.settings.pac
        both = torch.cat([real, fake.detach()]), torch.cat([condition, condition])
        share = torch.rand(packs, 1, generator=self.random, device=self.table.device)
        with self.products():
            entered = self.critic.enter(*both).float()
            scores = self.critic.score(entered, self.critic.masks(2 * packs, self.random)).float()
            # The first layer is linear: between two rows it gives what lies between its outputs.
            between = torch.lerp(entered[:packs].detach(), entered[packs:].detach(), share)
            gradient = self.critic.gradient(between, self.critic.masks(packs, self.random))
        wasserstein = scores[packs:].mean() - scores[:packs].mean()
        return wasserstein + self.settings.penalty * gradient_penalty(gradient.float())

    def generator_loss(
        self, out: torch.Tensor, fake: torch.Tensor, condition: torch.Tensor
    ) -> torch.Tensor:
        """The critic's verdict, and the cross-entropy of the column that was conditioned on."""
        packs = len(fake) // self.settings.pac
        masks = self.critic.masks(packs, self.random)
        with self.products():
            scores = self.critic.score(self.critic.enter(fake, condition), masks)
        adversarial = -scores.float().mean()
        if self.conditions.size == 0:
            return adversarial
        column, token = self.conditions.column[condition], self.conditions.token[condition]
        within = self.table.spans.within(out[:, self.table.scalars :], column)
        return adversarial + F.cross_entropy(within, token)

    @torch.no_grad()
    def tokens(self, n: int) -> torch.Tensor:
        """The tokens of ``n`` rows of the averaged generator, int64, shape (n, D)."""
        settings = self.settings
        random = torch_generator(self.table.device, settings.name, settings.seed, "judged")
        averaged: Any = copy.deepcopy(self.averaged.module)
        self._settle_norms(averaged, random, n)
        uniform = torch.rand(n, generator=random, device=self.table.device, dtype=torch.float64)
        condition = self.conditions.usual(uniform)
        out = averaged(self._noise(n, random), condition)
        return self.table.spans.draw(out[:, self.table.scalars :], random)

    @torch.no_grad()
    def finish(self) -> None:
        """The averaged weights, and the batch-norm statistics that belong to them."""
        if self.averaged.steps:
            self.averaged.copy_to(self.generator)
        self._settle_norms(self.generator, self.random, _REFRESH_BATCHES * self.batch)

    def _settle_norms(self, network: RowGenerator, random: torch.Generator, rows: int) -> None:
        """The statistics of batch norm that belong to the weights, from about so many rows."""
        norms: list[Any] = [*network.norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average of all batches
        network.train()
        for _ in range(-(-rows // self.batch)):
            condition = self.conditions.draw(self.batch, random)[0]
            network(self._noise(self.batch, random), condition)
        network.eval()

    def _descend(self) -> torch.Tensor:
        condition, rows = self.conditions.draw(self.batch, self.random)
        out = self._forward(condition)
        fake = self._activate(out)
        self._update(self.critic_adam, self.critic_loss(self.table.dense(rows), fake, condition))
        loss = self.generator_loss(out, fake, condition)
        self._update(self.generator_adam, loss)
        return loss.detach()

    def _forward(self, condition: torch.Tensor) -> torch.Tensor:
        noise = self._noise(len(condition), self.random)
        with self.products():
            out: torch.Tensor = self.generator(noise, condition)
        return out.float()

    def _noise(self, n: int, random: torch.Generator) -> torch.Tensor:
        return torch.randn(
            n, self.settings.embedding_dim, generator=random, device=self.table.device
        )

    def _activate(self, out: torch.Tensor) -> torch.Tensor:
        scalars = self.table.scalars
        logits = out[:, scalars:]
        noisy = (logits + gumbel(logits, self.random)) / self.settings.temperature
        return torch.cat([out[:, :scalars].tanh(), self.table.spans.softmax(noisy)], dim=1)

    @staticmethod
    def _update(optimiser: torch.optim.Optimizer, loss: torch.Tensor) -> None:
        """Gradients of this optimiser's parameters only, and its step."""
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss, inputs=optimiser.param_groups[0]["params"])
        optimiser.step()


def _adam(module: nn.Module, rate: float, decay: float) -> torch.optim.Adam:
    parameters = list(module.parameters())
    usable = replayable(parameters[0].device)
    return torch.optim.Adam(parameters, lr=rate, betas=(0.5, 0.9), weight_decay=decay, **usable)
