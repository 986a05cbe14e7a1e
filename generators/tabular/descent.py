"""Training of a density of rows by AdamW, stopped by rows that are held out of it."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from generators.base import OnProgress
from generators.checkpoint import Checkpoint, Parts
from generators.replay import Replayed, changeable, replayable, set_rate
from generators.training import (
    EMA,
    BestSoFar,
    planned_steps,
    run_steps,
    torch_generator,
    warmup_cosine,
)

EVALUATION_BATCH = 1024
"""Rows held out that are judged at once."""
_VALIDATION_SHARE = 0.05
_VALIDATION_ROWS = (100, 20_000)
# Fewer rows than this are all learned from, with nothing held out to stop by.
_STOPPABLE_ROWS = 400
_EVALUATIONS = 24
_CLIP = 1.0
_EMA_HALF_LIFE = 500.0
_EMA_RAMP_UP = 0.1
_SMALLEST_BATCH = 32
# Steps of a training that only tells how long a step takes.
_TRIAL_STEPS = 1000


class Settings(Protocol):
    """The hyper-parameters of a family that its training needs."""

    name: ClassVar[str]
    seed: int
    epochs: int
    max_steps: int
    max_minutes: float | None
    batch_size: int
    lr: float
    weight_decay: float


class RowNetwork(nn.Module, ABC):
    """A network that tells how likely rows of whole numbers are."""

    @abstractmethod
    def start_from(self, rows: torch.Tensor) -> None:
        """Begin as the marginals of these training rows (N, S)."""


N = TypeVar("N", bound=RowNetwork)


class HeldOutDescent(ABC, Generic[N]):
    """A network, its optimiser, the average that is kept, and one step.

    The average with the lowest loss on the rows held out is the result.

    Attributes:
        network: in training.
        held: positions of the rows to stop by, which may be none.
        rows, held_out: those to learn from, and those to stop by.
        batch: rows per step.
        random: decides all draws.
        patience: of 24 evaluations, how many may pass without a better one.
        judged: rows to judge at least; fewer held out are judged by several draws each.
    """

    patience: ClassVar[int] = 6
    judged: ClassVar[int] = 0

    def __init__(self, network: N, rows: torch.Tensor, settings: Settings, total: int) -> None:
        self.network, self.settings, self.total, self.device = network, settings, total, rows.device
        self.random = torch_generator(rows.device, settings.name, settings.seed, "steps")
        self.held, learned = self._split(rows)
        self.rows, self.held_out = rows[learned], rows[self.held]
        self.network.start_from(self.rows)
        smaller = 2 ** int(math.log2(max(len(self.rows) / 32, 1)))
        self.batch = min(settings.batch_size, max(smaller, _SMALLEST_BATCH), len(self.rows))
        self.steps_per_epoch = len(self.rows) // self.batch
        rate = changeable(settings.lr, self.device)
        self.adam = torch.optim.AdamW(self._groups(), lr=rate, **replayable(self.device))
        self.descent = Replayed(self._descend, self.random)
        self.ema = EMA(self.network, half_life=_EMA_HALF_LIFE, ramp_up=_EMA_RAMP_UP)
        self.best = BestSoFar(self.network)
        # A buffer of a module, so that a checkpoint holds the epoch's order.
        self.epoch = nn.Module()
        order = torch.zeros(len(self.rows), dtype=torch.int64, device=rows.device)
        self.epoch.register_buffer("order", order)

    @abstractmethod
    def losses(self, network: N, batch: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Minus the log-probability of each part of each row (int64, (B, S)); (parts, B)."""

    def step(self, index: int) -> torch.Tensor:
        """One update; gives the loss per row in nats."""
        set_rate(self.adam, self.settings.lr * warmup_cosine(index, self.total))
        loss = self.descent(self._next(index))
        self.ema.update()
        if (index + 1) % self.evaluate_every == 0 or index + 1 == self.total:
            self._evaluate()
        return loss

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations."""
        return max(1, self.total // _EVALUATIONS)

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "network": self.network,
            "adam": self.adam,
            "descent": self.descent,
            "ema": self.ema,
            "best": self.best,
            "epoch": self.epoch,
            "random": self.random,
        }

    def enough(self) -> bool:
        """Whether the held-out likelihood has not risen for long."""
        return self.best.waited >= self.patience and len(self.held_out) > 0

    def result(self) -> N:
        """The best average, on the CPU."""
        kept: Any = self.best.module if len(self.held_out) else self.ema.module
        network: N = copy.deepcopy(kept).to("cpu")
        return network.eval().requires_grad_(False)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Positions of the rows to stop by, which may be none, and of those to learn from."""
        order = torch.randperm(len(rows), generator=self.random, device=rows.device)
        few, many = _VALIDATION_ROWS
        held = min(max(round(_VALIDATION_SHARE * len(rows)), few), many)
        held = held if len(rows) >= _STOPPABLE_ROWS else 0
        return order[:held], order[held:]

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for n, p in self.network.named_parameters() if not n.endswith("bias")]
        others = [p for n, p in self.network.named_parameters() if n.endswith("bias")]
        decay = self.settings.weight_decay
        return [
            {"params": decayed, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def _descend(self, batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            each = self.losses(self.network, batch, self.random)
        loss = each.mean(dim=1).sum()
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP * len(each))
        self.adam.step()
        return loss.detach()

    def _next(self, index: int) -> torch.Tensor:
        at = index % self.steps_per_epoch
        order: torch.Tensor = self.epoch.get_buffer("order")
        if at == 0:
            order.copy_(torch.randperm(len(order), generator=self.random, device=self.device))
        return self.rows[order[at * self.batch : (at + 1) * self.batch]].long()

    @torch.no_grad()
    def _evaluate(self) -> None:
        """The loss of the average on the held-out rows, always by the same draws."""
        if len(self.held_out) == 0:
            return
        same = torch_generator(self.device, self.settings.name, self.settings.seed, "evaluate")
        network: Any = self.ema.module
        rows = self.held_out.long().repeat(max(1, self.judged // len(self.held_out)), 1)
        losses = [
            self.losses(network, part, same).sum() for part in torch.split(rows, EVALUATION_BATCH)
        ]
        self.best.take(network, float(torch.stack(losses).sum()) / len(rows))


T = TypeVar("T", bound=HeldOutDescent[Any])


def descend(
    begin: Callable[[int], T],
    settings: Settings,
    checkpoint: Checkpoint | None,
    progress: OnProgress,
) -> tuple[T, list[tuple[int, float]]]:
    """Train as long as the settings say, or until it is enough.

    Args:
        begin: makes a training of so many steps.
        settings: of the family.
        checkpoint: where to keep the state, and to go on from.
        progress: called with a ``Progress``.

    Returns:
        The training after its last step, and pairs (steps done, loss).
    """

    def trial() -> tuple[Callable[[int], torch.Tensor], int]:
        training = begin(_TRIAL_STEPS)
        wanted = settings.epochs * training.steps_per_epoch
        return training.step, min(wanted, settings.max_steps)

    total = planned_steps(trial, settings.max_minutes, checkpoint)
    training = begin(total)
    history = run_steps(
        training.step,
        total,
        phase="fit",
        progress=progress,
        checkpoint=checkpoint,
        parts=training.parts(),
        enough=training.enough,
    )
    return training, history
