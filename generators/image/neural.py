"""What the classic image families share: images on the device, the training, and sampling.

Sampling always runs in batches of one fixed shape, and each image has random numbers of its own, so
that an image depends on the model, its seed and its class alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import nn

from ..base import (
    Block,
    Labelled,
    Modality,
    OnProgress,
    ParameterError,
    Resumable,
    derive_seed,
)
from ..checkpoint import Parts
from ..replay import Replayed, changeable, replayable, set_rate
from ..schema import Images, ImageSchema
from ..training import (
    EMA,
    BestSoFar,
    build,
    load_module_arrays,
    module_arrays,
    planned_steps,
    resolve_device,
    run_steps,
    torch_generator,
    warmup_cosine,
)
from .diffusion import class_counts, spread_labels
from .trainer import inner_split

_MICRO_BATCH = 64
"""Images per forward pass of a sample. Part of the format: a change changes all samples."""
_EVALUATIONS, _PATIENCE = 20, 7
"""Evaluations of a training, and how many may pass without a lower held-out loss."""
_LEVELS = 64
"""Samples of a set with this few grey values are moved to those values."""


class ResidentImages:
    """Images on a device, in an order that is drawn anew for each epoch.

    Attributes:
        pixels: uint8, shape (N, C, H, W), borders repeated up to the size of the network.
        labels: int64, shape (N,).
        epoch: a module that holds the epoch's order, for checkpoints.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        self.pixels = torch.from_numpy(pixels).to(device)
        self.labels = torch.from_numpy(labels.astype(np.int64)).to(device)
        self.epoch = nn.Module()
        self.epoch.register_buffer("order", torch.arange(len(pixels), device=device))

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(
        self, index: int, size: int, random: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Pixels and labels of step ``index``; ``random`` draws the order of an epoch."""
        size = min(size, len(self))
        at = index % (len(self) // size)
        order = self.epoch.get_buffer("order")
        if at == 0:
            drawn = torch.randperm(len(self), generator=random, device=order.device)
            order.copy_(drawn)
        rows = order[at * size : (at + 1) * size]
        return self.pixels[rows], self.labels[rows]


class ImageTraining(Protocol):
    """What trains a network by steps."""

    def step(self, index: int) -> torch.Tensor:
        """One update; gives a scalar loss."""

    def parts(self) -> Parts:
        """All that ``step`` changes, by name."""

    def enough(self) -> bool:
        """Whether more steps would not help."""

    def finish(self) -> nn.Module:
        """The network to sample from, called after the last step."""

    @property
    def notes(self) -> list[str]:
        """What the owner should know of the training, a sentence each."""


@dataclass(kw_only=True)
class NeuralImage(Labelled, Resumable):
    """A neural image family.

    A family implements ``_network``, ``_draws`` and ``_decode``, and ``_loss`` where it trains by
    descent or ``_training`` where it does not.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step.
        learning_rate: its peak.
        max_minutes: training stops earlier, after as many steps as the first seconds promise to
            fit into this time; None for no limit. The number of steps then depends on the machine.
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    max_minutes: float | None = None
    device: str = "auto"

    modality: ClassVar[Modality] = "image"
    rows_per_block: ClassVar[int] = 1024
    multiple: ClassVar[int] = 1
    """The sides of the network's images are multiples of this."""

    def __post_init__(self) -> None:
        self._check_at_least_one("epochs", "batch_size")
        for field in ("learning_rate", "max_minutes"):
            value = getattr(self, field)
            if value is not None and not value > 0.0:
                raise ParameterError(f"{field} must be above 0, got {value}; raise it")

    def _check_at_least_one(self, *fields: str) -> None:
        for field in fields:
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} must be at least 1, got {getattr(self, field)}; raise it"
                )

    @property
    def steps_per_epoch(self) -> int:
        """Training steps in a pass over the images, those of the inner validation left out."""
        return max(1, self.trained_ // min(self.batch_size, self.trained_))

    def _fit(self, data: Images, schema: ImageSchema, progress: OnProgress) -> None:
        counts = class_counts(data.labels, len(schema.classes))
        device = resolve_device(self.device)
        self.frequencies_ = counts / counts.sum()
        self._prepare(data, schema)
        train, held = inner_split(data.labels, derive_seed(self.name, self.seed, "split"))
        self.trained_ = len(train)
        pixels = self._padded(data.pixels)
        parts = [ResidentImages(pixels[rows], data.labels[rows], device) for rows in (train, held)]
        total = self._total_steps(parts[0], parts[1])
        training = self._training(parts[0], parts[1], total)
        self.loss_history_ = run_steps(
            training.step,
            total,
            phase="fit",
            progress=progress,
            checkpoint=self.checkpoint,
            parts={**training.parts(), "epoch": parts[0].epoch},
            enough=training.enough,
        )
        self.network_ = training.finish().eval().requires_grad_(False)
        self.training_notes_ = training.notes

    def _prepare(self, data: Images, schema: ImageSchema) -> None:
        """Note what the networks are built from."""
        self.shape_ = (schema.channels, schema.height, schema.width)
        self.classes_ = len(schema.classes)
        found = np.unique(data.pixels)
        self.values_: list[int] = found.tolist() if len(found) <= _LEVELS else []

    @property
    def size_(self) -> tuple[int, int]:
        """Height and width within the network."""
        _, height, width = self.shape_
        return (
            -(-height // self.multiple) * self.multiple,
            -(-width // self.multiple) * self.multiple,
        )

    def _padded(self, pixels: np.ndarray) -> np.ndarray:
        """``pixels`` (N, H, W, C) as (N, C, H, W) of the network's size; borders are repeated."""
        (height, width), (_, own_height, own_width) = self.size_, self.shape_
        missing = (0, 0), (0, height - own_height), (0, width - own_width), (0, 0)
        return np.ascontiguousarray(np.pad(pixels, missing, mode="edge").transpose(0, 3, 1, 2))

    def _total_steps(self, train: ResidentImages, held: ResidentImages) -> int:
        def trial() -> tuple[Callable[[int], torch.Tensor], int]:
            total = self.epochs * self.steps_per_epoch
            return self._training(train, held, total).step, total

        return planned_steps(trial, self.max_minutes, self.checkpoint)

    def _built(self, device: torch.device) -> Any:  # noqa: ANN401 - a module of the family
        return build(self._network, device, torch_generator("cpu", self.name, self.seed, "weights"))

    def _training(self, train: ResidentImages, held: ResidentImages, total: int) -> ImageTraining:
        return Descent(self, train, held, total)

    def _loss(
        self,
        network: Any,  # noqa: ANN401 - what ``_network`` makes
        pixels: torch.Tensor,
        labels: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        """The loss of each image, shape (N,), of pixels uint8 (N, C, H, W)."""
        raise NotImplementedError

    def _sample_block(self, block: Block) -> Images:
        return self._images(
            block, spread_labels(block.size, self.frequencies_, block.rng().random())
        )

    def _images(self, block: Block, labels: np.ndarray) -> Images:
        device = next(self.network_.parameters()).device
        _, height, width = self.shape_
        whole = -(-len(labels) // _MICRO_BATCH) * _MICRO_BATCH
        padded = np.concatenate([labels, np.zeros(whole - len(labels), np.int64)])
        parts = []
        for start in range(0, whole, _MICRO_BATCH):
            numbers = range(start, start + _MICRO_BATCH)
            draws = [self._draws(torch_generator("cpu", block.seed, i)) for i in numbers]
            classes = torch.from_numpy(padded[start : start + _MICRO_BATCH]).to(device)
            with torch.inference_mode():
                decoded = self._decode(torch.stack(draws).to(device), classes)
            parts.append(decoded[:, :, :height, :width].cpu().numpy())
        shape = (0, self.shape_[0], height, width)
        grey = np.concatenate([np.zeros(shape, np.float32), *parts])[: len(labels)]
        pixels = self._snapped(np.clip(np.round((grey + 1.0) * 127.5), 0, 255).astype(np.uint8))
        return Images(np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)), labels.copy())

    def _snapped(self, pixels: np.ndarray) -> np.ndarray:
        """``pixels`` moved to the grey values of the data, where these are few."""
        if not self.values_:
            return pixels
        values = np.array(self.values_)
        nearest = np.abs(np.arange(256)[:, None] - values).argmin(axis=1)
        snapped: np.ndarray = values[nearest].astype(np.uint8)[pixels]
        return snapped

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = {
            "shape": list(self.shape_),
            "classes": self.classes_,
            "values": self.values_,
            "frequencies": self.frequencies_.tolist(),
            "loss_history": self.loss_history_,
            "training_notes": self.training_notes_,
        }
        return module_arrays(self.network_, "network."), state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        channels, height, width = state["shape"]
        self.shape_ = (int(channels), int(height), int(width))
        self.classes_ = int(state["classes"])
        self.values_ = [int(value) for value in state["values"]]
        self.frequencies_ = np.array(state["frequencies"])
        self.loss_history_ = [(int(step), float(loss)) for step, loss in state["loss_history"]]
        self.training_notes_ = list(state["training_notes"])
        self.network_ = self._built(resolve_device(self.device)).eval().requires_grad_(False)
        load_module_arrays(self.network_, arrays, "network.")

    @abstractmethod
    def _network(self) -> nn.Module:
        """The network, with weights of torch's own; see ``training.build``."""

    @abstractmethod
    def _draws(self, random: torch.Generator) -> torch.Tensor:
        """The random numbers that one image is made from, on the CPU."""

    @abstractmethod
    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Images in [-1, 1], float32 (N, C, H, W), of stacked ``_draws`` and labels."""


class Descent:
    """Training of one network by AdamW on a loss; the average with the lowest held-out loss wins.

    A share of the training images is held back: from where its loss rises, images are learned by
    heart.
    """

    def __init__(
        self, model: NeuralImage, train: ResidentImages, held: ResidentImages, total: int
    ) -> None:
        self.model, self.train, self.held, self.total = model, train, held, total
        device = train.pixels.device
        self.network = model._built(device)
        rate = changeable(model.learning_rate, device)
        self.adam = torch.optim.AdamW(
            self.network.parameters(), lr=rate, weight_decay=0.01, **replayable(device)
        )
        self.average = EMA(self.network, sigma_rel=0.1)
        self.best = BestSoFar(self.network)
        self.random = torch_generator(device, model.name, model.seed, "training")
        self.descent = Replayed(self._descend, self.random)
        self.every = max(10, math.ceil(total / _EVALUATIONS))

    def step(self, index: int) -> torch.Tensor:
        """One update; gives the mean loss of its images."""
        set_rate(self.adam, self.model.learning_rate * warmup_cosine(index, self.total))
        loss = self.descent(*self.train.batch(index, self.model.batch_size, self.random))
        self.average.update()
        if (index + 1) % self.every == 0 or index + 1 == self.total:
            self.best.take(self.average.module, self._held_out(index + 1))
        return loss

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "network": self.network,
            "adam": self.adam,
            "descent": self.descent,
            "average": self.average,
            "best": self.best,
            "random": self.random,
        }

    def enough(self) -> bool:
        """Whether the held-out loss has not fallen for long."""
        return self.best.waited >= _PATIENCE

    def finish(self) -> nn.Module:
        """The best average."""
        return self.best.module

    @property
    def notes(self) -> list[str]:
        """That the training ended early, where it did."""
        if not self.enough():
            return []
        return ["ended early: the loss of held-out images no longer fell"]

    def _descend(self, pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = self.model._loss(self.network, pixels, labels, self.random).mean()
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.adam.step()
        return loss.detach()

    @torch.no_grad()
    def _held_out(self, done: int) -> float:
        if len(self.held) == 0:
            return -float(done)  # nothing to judge by: the last one is kept
        random = torch_generator(self.train.pixels.device, self.model.name, "held out")
        total = 0.0
        for start in range(0, len(self.held), 256):
            rows = slice(start, start + 256)
            pixels, labels = self.held.pixels[rows], self.held.labels[rows]
            losses = self.model._loss(self.average.module, pixels, labels, random)
            total += float(losses.sum())
        return total / len(self.held)


def scaled(pixels: torch.Tensor) -> torch.Tensor:
    """Bytes as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1.0


def convolution(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution that keeps the size, or halves it."""
    return nn.Conv2d(before, after, 3, stride=stride, padding=1)
