"""A student of one or two evaluations, by consistency tuning of a fitted denoiser.

Source: Geng et al. 2024, arXiv 2406.14548 ("ECT"): the denoiser is tuned so that its answer at a
noise level agrees with its answer at a lower one along the same noise; the distance between the two
shrinks in stages. Sampling in two evaluations after Song et al. 2023 (arXiv 2303.01469).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import nn

from ..base import OnProgress, derive_seed
from ..checkpoint import Checkpoint
from ..training import EMA, run_steps, warmup_cosine
from .edm import SIGMA_MAX, Denoiser, denoise, wide
from .networks import Network
from .trainer import Course, Examples

STUDENT_EVALUATIONS = 2
MIDDLE = 0.8
"""The level to which the second evaluation goes back."""
_STAGES = 8
"""How often the distance between the two levels is halved."""
_SHARPNESS, _SLOPE = 8.0, 1.0
"""Of the mapping n(t) = 1 + k sigmoid(-b t), which brings small levels closer (ECT, eq. 26)."""
_MEAN, _DEVIATION = -1.1, 2.0
_RATE = 0.1
"""The peak learning rate as a share of the teacher's."""
_AVERAGE = 0.05
_STRIDE = 4


class Tuner:
    """The tuning of one student.

    Args:
        course: of the teacher's training, with the steps of the tuning as its total.
        train: the images that the teacher has learned.
        teacher: the fitted denoiser; not modified.
    """

    def __init__(self, course: Course, train: Examples, teacher: Network) -> None:
        self.course, self.train = course, train
        self.device = train.pixels.device
        self.network = copy.deepcopy(teacher).requires_grad_(True)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=course.learning_rate * _RATE, fused=True
        )
        self.average = EMA(self.network, sigma_rel=_AVERAGE)
        self.random = course.random("tuning", self.device)
        self.dropping = torch.Generator(device=self.device)

    def run(self, progress: OnProgress, checkpoint: Checkpoint | None) -> Network:
        """The student after all steps, averaged."""
        parts = {
            "network": self.network,
            "optimiser": self.optimiser,
            "average": self.average,
            "random": self.random,
        }
        run_steps(
            self.step,
            self.course.total,
            phase="tune",
            progress=progress,
            checkpoint=checkpoint,
            parts=parts,
        )
        network: Network = self.average.module  # type: ignore[assignment]
        return network

    def step(self, index: int) -> torch.Tensor:
        """One optimiser step; gives the mean distance of the two answers."""
        course = self.course
        for group in self.optimiser.param_groups:
            group["lr"] = course.learning_rate * _RATE * warmup_cosine(index, course.total)
        count = course.batch
        rows = torch.randint(len(self.train), (count,), device=self.device, generator=self.random)
        batch = self.train.take(rows)
        clean = batch.clean
        noise = torch.randn(clean.shape, device=self.device, generator=self.random)
        normal = torch.randn(count, device=self.device, generator=self.random)
        high = (_MEAN + _DEVIATION * normal).exp().clamp(max=SIGMA_MAX)
        low = lower_level(high, index / course.total)
        seed = derive_seed(course.name, course.seed, "tuning dropout", index)
        answer = self._answer(batch, clean + wide(high) * noise, high, seed)
        with torch.no_grad():
            # At no noise at all the answer is the image itself.
            goal = self._answer(batch, clean + wide(low) * noise, low.clamp(min=1e-4), seed)
            goal = torch.where(wide(low) > 0.0, goal, clean)
        distance = (answer - goal).square().flatten(1).sum(dim=1).add(1e-12).sqrt()
        loss = (distance / (high - low)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        if (index + 1) % _STRIDE == 0 or index + 1 == course.total:
            self.average.update(index + 1 - self.average.steps)
        return distance.detach().mean()

    def _answer(
        self, batch: Examples, x: torch.Tensor, sigma: torch.Tensor, seed: int
    ) -> torch.Tensor:
        # Both answers drop the same features.
        self.dropping.manual_seed(seed)
        return denoise(self.network, x, sigma, batch.given, self.dropping)


def lower_level(high: torch.Tensor, done: float) -> torch.Tensor:
    """The level to agree with, after a share ``done`` of the tuning; from 0 up towards ``high``.

    r = t (1 - n(t) / 2^(stage + 1)), at least 0 (ECT, section 3.2).
    """
    stage = math.floor(done * _STAGES)
    near = 1.0 + _SHARPNESS * torch.sigmoid(-_SLOPE * high)
    return (high * (1.0 - near / 2.0 ** (stage + 1))).clamp(min=0.0)


def consistent(
    denoiser: Denoiser, noise: Callable[[], torch.Tensor], evaluations: int
) -> torch.Tensor:
    """Images in one or two evaluations of a student."""
    clean = denoiser(SIGMA_MAX * noise(), SIGMA_MAX)
    for _ in range(evaluations - 1):
        clean = denoiser(clean + MIDDLE * noise(), MIDDLE)
    return clean
