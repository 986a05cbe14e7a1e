"""The way back when an adversarial training collapses or diverges."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch

from .checkpoint import Parts, Stateful

_LOST, _MARGIN = 0.5, 0.1
"""A training has collapsed that has lost this share of what it had gained, and at least so much."""
_SLOWER = 0.25
_ATTEMPTS = 3


class Rollback:
    """The best state of a training so far; goes back to it when the training has collapsed.

    The caller judges the training now and then by a distance between samples and data. After a
    collapse, or a loss that is not finite, the best state comes back and the learning rates fall to
    a quarter; after more than three it is enough.

    Args:
        parts: all that a step changes; random numbers go on.
        optimisers: whose rates fall.
        untrained: the distance before the first step.

    Attributes:
        distance: of the best state.
        loss: of that state.
        at: the step it is of.
        attempts: how often the training went back.
        notes: a sentence for every time it did.
    """

    def __init__(
        self, parts: Parts, optimisers: Sequence[torch.optim.Optimizer], untrained: float
    ) -> None:
        self.untrained = self.distance = untrained
        self.at, self.attempts, self.loss = 0, 0, 0.0
        self.notes: list[str] = []
        # The same random numbers would lead to the same end.
        self._parts: dict[str, Stateful] = {
            name: part for name, part in parts.items() if not isinstance(part, torch.Generator)
        }
        self._optimisers = optimisers
        self._rates = [[group["lr"] for group in opt.param_groups] for opt in optimisers]
        self._kept: dict[str, Any] = self._states()

    @property
    def enough(self) -> bool:
        """Whether more steps would not help."""
        return self.attempts > _ATTEMPTS

    @property
    def factor(self) -> float:
        """What is left of the learning rates, for whoever sets them by a schedule."""
        return _SLOWER**self.attempts

    def judge(self, step: int, distance: float, loss: float) -> bool:
        """Take note of the state after ``step`` steps; gives whether the training went back."""
        worst = self.distance + max(_LOST * (self.untrained - self.distance), _MARGIN)
        if not distance <= worst and (self.at or not math.isfinite(distance)):
            self._return(step, distance)
            return True
        if distance < self.distance:
            self.distance, self.at, self.loss = distance, step, loss
            self._kept = self._states()
        return False

    def restore(self) -> None:
        """Put the best state back."""
        for name, part in self._parts.items():
            part.load_state_dict(copy.deepcopy(self._kept[name]))

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {
            "numbers": [str(self.untrained), str(self.distance), str(self.loss)],
            "counts": [self.at, self.attempts],
            "notes": list(self.notes),
            "kept": self._kept,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Inverse of ``state_dict``."""
        self.untrained, self.distance, self.loss = (float(text) for text in state_dict["numbers"])
        self.at, self.attempts = (int(count) for count in state_dict["counts"])
        self.notes = list(state_dict["notes"])
        self._kept = state_dict["kept"]

    def _states(self) -> dict[str, Any]:
        return {name: copy.deepcopy(part.state_dict()) for name, part in self._parts.items()}

    def _return(self, step: int, distance: float) -> None:
        self.restore()
        self.attempts += 1
        for optimiser, rates in zip(self._optimisers, self._rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor
        fact = (
            f"samples collapsed (distance to the data {distance:.3f}, best {self.distance:.3f})"
            if math.isfinite(distance)
            else "the loss was not finite"
        )
        self.notes.append(
            f"after step {step:,} {fact}: went back to step {self.at:,}, learning rates × "
            f"{self.factor:g}"
        )


def check_every(total: int) -> int:
    """Steps between two judgements of a training of ``total`` steps: 40 in all, none in haste."""
    return max(100, total // 40)
