"""A training that stops by rows it holds out, and keeps the average that suits them best."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import nn

from generators.checkpoint import Parts
from generators.training import EMA, BestSoFar, warmup_cosine

N = TypeVar("N", bound=nn.Module)

_SHARE = 0.05
_ROWS = (100, 20_000)
# Fewer rows than this are all learned from, with nothing held out to stop by.
_STOPPABLE_ROWS = 400
_EVALUATIONS = 24
# Half of the training: what is learned by a cosine gains most when the rate is low.
_PATIENCE = 12
_EMA_HALF_LIFE = 500.0
_EMA_RAMP_UP = 0.1
_SMALLEST_BATCH = 32
_JUDGED_ROWS = 1024


@dataclass(frozen=True)
class Pace:
    """How a training goes.

    Attributes:
        batch_size: rows per step, at most; small tables take fewer.
        lr: highest learning rate (AdamW, a short warm-up, then a cosine).
        weight_decay: of all parameters but biases.
        clip: greatest norm of the gradient.
    """

    batch_size: int
    lr: float
    weight_decay: float
    clip: float


def held_out(rows: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the rows to stop by, which may be none, and of those to learn from."""
    order = torch.randperm(rows, generator=random, device=random.device)
    few, many = _ROWS
    held = min(max(round(_SHARE * rows), few), many)
    held = held if rows >= _STOPPABLE_ROWS else 0
    return order[:held], order[held:]


class HeldOutTraining(ABC, Generic[N]):
    """A network, its optimiser, the average that is kept, and one step.

    Args:
        network: with which it begins.
        learned: what is learned: tensors of a row each.
        held: the same of the rows to stop by.
        pace: of the training.
        total: steps.
        random: of all that the steps draw.
        judge: seed of what the evaluations draw, always the same.
    """

    def __init__(
        self,
        network: N,
        learned: Sequence[torch.Tensor],
        held: Sequence[torch.Tensor],
        pace: Pace,
        total: int,
        random: torch.Generator,
        judge: int,
    ) -> None:
        self.network, self.pace, self.total = network, pace, total
        self.learned, self.held, self.random, self.judge = learned, held, random, judge
        rows = len(learned[0])
        smaller = 2 ** int(math.log2(max(rows / 32, 1)))
        self.batch = min(pace.batch_size, max(smaller, _SMALLEST_BATCH), rows)
        self.steps_per_epoch = rows // self.batch
        self.adam = torch.optim.AdamW(self._groups(), lr=pace.lr, fused=True)
        self.ema = EMA(network, half_life=_EMA_HALF_LIFE, ramp_up=_EMA_RAMP_UP)
        self.best = BestSoFar(network)
        # A buffer of a module, so that a checkpoint holds the epoch's order.
        self.epoch = nn.Module()
        order = torch.zeros(rows, dtype=torch.int64, device=random.device)
        self.epoch.register_buffer("order", order)

    @abstractmethod
    def loss(
        self, network: N, batch: Sequence[torch.Tensor], random: torch.Generator
    ) -> torch.Tensor:
        """The mean loss of these rows under ``network``, a scalar."""

    def step(self, index: int) -> torch.Tensor:
        """One update; gives the loss."""
        batch = self._next(index)
        for group in self.adam.param_groups:
            group["lr"] = self.pace.lr * warmup_cosine(index, self.total)
        device = self.random.device.type
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = self.loss(self.network, batch, self.random)
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.pace.clip)
        self.adam.step()
        self.ema.update()
        every = max(1, self.total // _EVALUATIONS)
        if (index + 1) % every == 0 or index + 1 == self.total:
            self._evaluate()
        return loss.detach()

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "network": self.network,
            "adam": self.adam,
            "ema": self.ema,
            "best": self.best,
            "epoch": self.epoch,
            "random": self.random,
        }

    def enough(self) -> bool:
        """Whether the loss of the rows held out has not fallen for long."""
        return self.best.waited >= _PATIENCE and len(self.held[0]) > 0

    def result(self) -> N:
        """The best average, on the CPU."""
        kept = self.best.module if len(self.held[0]) else self.ema.module
        network: N = copy.deepcopy(kept).to("cpu")  # type: ignore[assignment]
        return network.eval().requires_grad_(False)

    def _groups(self) -> list[dict[str, object]]:
        named = list(self.network.named_parameters())
        decayed = [p for name, p in named if not name.endswith("bias")]
        others = [p for name, p in named if name.endswith("bias")]
        return [
            {"params": decayed, "weight_decay": self.pace.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def _next(self, index: int) -> list[torch.Tensor]:
        at = index % self.steps_per_epoch
        order: torch.Tensor = self.epoch.get_buffer("order")
        if at == 0:
            order.copy_(torch.randperm(len(order), generator=self.random, device=order.device))
        rows = order[at * self.batch : (at + 1) * self.batch]
        return [part[rows] for part in self.learned]

    @torch.no_grad()
    def _evaluate(self) -> None:
        """The loss of the average on the held-out rows, always by the same draws."""
        rows = len(self.held[0])
        if rows == 0:
            return
        same = torch.Generator(device=self.random.device)
        same.manual_seed(self.judge)
        network: N = self.ema.module  # type: ignore[assignment]
        # Few rows are judged by several draws each.
        times = max(1, _JUDGED_ROWS // rows)
        judged = [part.repeat(times, 1) for part in self.held]
        batches = zip(*(torch.split(part, _JUDGED_ROWS) for part in judged), strict=True)
        losses = [self.loss(network, batch, same) * len(batch[0]) for batch in batches]
        self.best.take(network, float(torch.stack(losses).sum()) / (times * rows))
