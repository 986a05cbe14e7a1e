"""Images by diffusion: a small EDM, trained in minutes on two cores or one GPU.

Sources: preconditioning, noise distribution and noise levels after Karras et al. 2022
(arXiv 2206.00364, "EDM"); label dropping and guidance after Ho & Salimans 2022 (arXiv 2207.12598);
translation by the source's channels as further input after Saharia et al. 2021 (arXiv 2111.05826).
The mathematics are in ``edm``, the training in ``trainer``, the edits in ``editing``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from ..base import (
    Block,
    DataError,
    Described,
    Editable,
    ExampleLoss,
    Modality,
    OnProgress,
    ParameterError,
    Progress,
    Resumable,
    SchemaError,
    check_images,
    derive_seed,
)
from ..ranks import Ranks, helpers
from ..schema import Images, ImageSchema
from ..training import (
    fast_bfloat16,
    load_module_arrays,
    module_arrays,
    resolve_device,
    steps_for_minutes,
    torch_generator,
)
from .consistency import STUDENT_EVALUATIONS, Tuner, consistent
from .editing import Projection, keep_outside, keep_pooled, restore
from .edm import Denoiser, denoise, denoising_loss, ipndm, level_of, noise_levels
from .networks import Given, Network, NetworkPlan, plan_network
from .pixels import PixelScale
from .trainer import Course, Examples, Trainer, inner_split, new_network

BEST_EVALUATIONS = 35
AUDIT_LEVELS = (0.1, 0.3, 1.0)
_AUDIT_DRAWS = 3
# Levels and rounds on each of them when an image is completed.
_RESTORE = {"fast": (25, 6), "best": (35, 10), "student": (25, 6)}
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0
_COMPILE_MINUTES = 5.0
"""Kernels are compiled for a GPU from this budget on; on a CPU 100 s of compiling bring nothing."""


@dataclass(kw_only=True)
class Diffusion(Editable, Described, Resumable, ExampleLoss):
    """A class-conditional diffusion model of images.

    From 8 pixels a side it is a U-Net, below a residual MLP. A share of the training images is
    held back inside ``fit``: the denoising loss on it chooses the averaged weights and ends the
    training before the images are learned by heart.

    With ``steps`` given, the same data and seed give the same model on a CPU, bit for bit. With
    ``steps=None`` the first seconds are timed and ``max_minutes`` becomes a number of steps, which
    depends on the machine: it is kept in ``steps_``; pass it as ``steps`` to fit the same model
    again.

    Labels of a sample follow the class frequencies of the training data, spread evenly: every run
    of rows has nearly its share of each class. An image depends on the sample's seed and its
    index alone, not on how many are asked for.

    Attributes:
        steps: training steps, or None to derive them from ``max_minutes``.
        max_minutes: training time where ``steps`` is None.
        batch_size: images per step; None: 128 on a CPU, 256 or 512 on a GPU.
        learning_rate: its peak.
        width: hidden features; None: chosen by image size.
        depth: residual blocks (per resolution in a U-Net); None: chosen by image size and device.
        dropout: share of features dropped in training.
        label_drop: share of training images shown without their class; as many, others, are
            shown without what is known of their row.
        augment: ``hflip`` mirrors half of the training images, left to right: declare it only
            where a mirrored image is as good (no digits, no text, no organs).
        source_channels: the last so many channels of each training image are given and not made:
            ``translate`` makes the others from them. 0 is off.
        guidance: 0 samples the learned distribution; more gives clearer and less diverse images.
        nfe: network evaluations per image with ``quality="fast"``.
        quality: ``fast`` takes ``nfe`` evaluations per image, ``best`` takes 35, ``student`` 2.
        student: whether a student for ``quality="student"`` is tuned after the training, in half
            as many steps; that time comes on top of ``max_minutes``.
        precision: ``bfloat16`` computes products in half the bits, ``float32`` does not; ``auto``
            is bfloat16 where the processor has instructions for it.
        compiled: whether torch.compile makes the kernels of the training; None: on a GPU, from a
            budget of five minutes on.
        processes: of the training, on this machine: each takes a share of every batch, and a GPU
            of its own where there are GPUs. Under ``torchrun`` its processes are taken instead.
        device: ``auto``, ``cpu`` or ``cuda``.

    Fitted attributes: ``steps_``; ``loss_history_`` (step, training loss) and
    ``validation_history_`` (step, held-out loss of the best average), both in units where 1 is the
    loss of knowing nothing but the noise; ``chosen_`` (the step and EMA width of the weights kept)
    and ``gap_`` (held-out minus training loss of those weights; None without held-out images).
    """

    steps: int | None = None
    max_minutes: float = 5.0
    batch_size: int | None = None
    learning_rate: float = 3e-3
    width: int | None = None
    depth: int | None = None
    dropout: float = 0.1
    label_drop: float = 0.1
    augment: Literal["none", "hflip"] = "none"
    source_channels: int = 0
    guidance: float = 0.0
    nfe: int = 10
    quality: Literal["fast", "best", "student"] = "fast"
    student: bool = False
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    compiled: bool | None = None
    processes: int = 1
    device: str = "auto"

    name: ClassVar[str] = "diffusion"
    suits: ClassVar[str] = "the default for images"
    modality: ClassVar[Modality] = "image"
    rows_per_block: ClassVar[int] = 1024

    def __post_init__(self) -> None:
        for field in ("steps", "batch_size", "width", "depth", "nfe", "processes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ParameterError(f"{field} must be at least 1, got {value}; raise it")
        for field in ("max_minutes", "learning_rate"):
            if not getattr(self, field) > 0.0:
                raise ParameterError(f"{field} must be above 0, got {getattr(self, field)}")
        for field in ("dropout", "label_drop"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ParameterError(f"{field} must lie in [0, 1), got {getattr(self, field)}")
        for field in ("guidance", "source_channels"):
            if getattr(self, field) < 0:
                raise ParameterError(
                    f"{field} must be at least 0, got {getattr(self, field)}; 0 is off"
                )
        choices = {
            "quality": ("fast", "best", "student"),
            "augment": ("none", "hflip"),
            "precision": ("auto", "float32", "bfloat16"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ParameterError(
                    f"{field} must be one of {', '.join(allowed)}, got {getattr(self, field)!r}"
                )
        if self.width is not None and self.width % 8:
            raise ParameterError(f"width must be a multiple of 8, got {self.width}")

    def _fit(self, data: Images, schema: ImageSchema, progress: OnProgress) -> None:
        if self.source_channels >= schema.channels:
            raise ParameterError(
                f"source_channels must leave channels to make, it is {self.source_channels} of "
                f"{schema.channels}; put the source behind the target"
            )
        counts = class_counts(data.labels, len(schema.classes))
        with helpers(self, data, schema, self.processes):
            self._train(data, schema, counts, progress)

    def _train(
        self, data: Images, schema: ImageSchema, counts: np.ndarray, progress: OnProgress
    ) -> None:
        ranks = Ranks.current()
        device = ranks.device(resolve_device(self.device))
        made = schema.channels - self.source_channels
        self.shape_ = (schema.height, schema.width, made)
        traits = 0 if data.traits is None else data.traits.shape[1]
        self.plan_ = replace(self._plan(len(schema.classes), device), traits=traits)
        self.scale_ = PixelScale.fit(data.pixels[..., :made])
        self.source_scale_ = (
            PixelScale.fit(data.pixels[..., made:]) if self.source_channels else None
        )
        self.frequencies_ = counts / counts.sum()
        padded = self.scale_.pad(data.pixels, self.plan_)
        train, held_out = inner_split(data.labels, derive_seed(self.name, self.seed, "split"))
        whole = Examples(
            torch.from_numpy(padded).to(device),
            torch.from_numpy(data.labels.astype(np.int64)).to(device),
            self.scale_,
            self.source_scale_,
            None if data.traits is None else torch.from_numpy(data.traits).to(device),
        )
        parts = whole.take(torch.from_numpy(train)), whole.take(torch.from_numpy(held_out))
        course = self._course(len(train), device)
        # What an interrupted run has timed stands.
        begun = self.checkpoint.facts() if self.checkpoint is not None else None
        timed = int(begun["total"]) if begun is not None else None
        self.steps_ = self.steps or timed or self._steps_for_budget(course, parts, ranks)
        trainer = Trainer(replace(course, total=self.steps_), *parts, ranks)
        trainer.run(progress, self.checkpoint)
        self.loss_history_ = trainer.history
        self.validation_history_ = trainer.validation
        self.chosen_ = trainer.chosen
        self.gap_ = trainer.gap()
        self.network_ = trainer.best()
        self.student_ = self._tuned(replace(course, total=-(-self.steps_ // 2)), parts[0], progress)

    def _tuned(self, course: Course, train: Examples, progress: OnProgress) -> Network | None:
        """The student, where one is asked for; each process of a training tunes its own."""
        if not self.student:
            return None
        kept = Ranks.current().checkpoint(self.checkpoint)
        if kept is not None:
            kept = replace(kept, path=kept.path.with_name(f"{kept.path.name}.student"))
        student = Tuner(course, train, self.network_).run(progress, kept)
        if kept is not None:
            kept.discard()
        return student

    def _plan(self, classes: int, device: torch.device) -> NetworkPlan:
        plan = plan_network(
            self.shape_,
            classes,
            features=self.width,
            depth=self.depth,
            dropout=self.dropout,
            accelerated=device.type == "cuda",
            half=self.precision == "bfloat16"
            or (self.precision == "auto" and fast_bfloat16(device)),
        )
        return replace(plan, given=self.source_channels)

    def _course(self, images: int, device: torch.device) -> Course:
        """The training, of a length that no run reaches."""
        worth = (
            device.type == "cuda" and self.steps is None and self.max_minutes >= _COMPILE_MINUTES
        )
        return Course(
            name=self.name,
            seed=self.seed,
            plan=self.plan_,
            batch=self.batch_size or automatic_batch_size(images, device),
            learning_rate=self.learning_rate,
            label_drop=self.label_drop,
            flips=self.augment == "hflip",
            compiled=worth if self.compiled is None else self.compiled,
            total=1_000_000,
        )

    def _steps_for_budget(
        self, course: Course, parts: tuple[Examples, Examples], ranks: Ranks
    ) -> int:
        trial = Trainer(course, *parts, ranks.alone())
        begun = time.monotonic()
        if course.compiled:
            # The first step makes the kernels: that minute or so is spent.
            float(trial.step(0))
        spent = (time.monotonic() - begun) / 60.0
        # A tenth is left for the evaluations.
        minutes = max(0.9 * self.max_minutes - spent, 0.5 * self.max_minutes)
        seconds = min(3.0, 20.0 * self.max_minutes)
        steps = steps_for_minutes(trial.step, minutes, seconds=seconds)
        return ranks.least(steps, trial.device)

    def _sample_block(self, block: Block) -> Images:
        labels = spread_labels(block.size, self.frequencies_, block.rng().random())
        return self._images(block, labels)

    def _described(self, block: Block, labels: np.ndarray, traits: np.ndarray | None) -> Images:
        if self.source_channels:
            raise ParameterError(
                "a model of image pairs makes images from given ones and has none of its own; "
                "use translate (likeness edit --translate)"
            )

        def work(batch: _Batch) -> torch.Tensor:
            return self._made(batch)

        return self._in_batches(block, labels, work, traits=traits)

    @torch.no_grad()
    def example_losses(self, data: Images, *, seed: int) -> np.ndarray:
        """Denoising losses at noise levels 0.1, 0.3 and 1, mean of three draws, shape (N, 3).

        All images meet the same noise, so that their differences are their own (SecMI, Duan et
        al. 2023, arXiv 2302.01316, uses denoising error in this way).
        """
        self._require_fitted()
        check_images(data, self.schema_)
        device = next(self.network_.parameters()).device
        shape = (self.plan_.channels, self.plan_.height, self.plan_.width)
        found = np.zeros((len(data), len(AUDIT_LEVELS)))
        for level, sigma in enumerate(AUDIT_LEVELS):
            for draw in range(_AUDIT_DRAWS):
                random = torch_generator("cpu", self.name, seed, "audit", level, draw)
                noise = torch.randn(shape, generator=random).to(device)
                found[:, level] += self._losses(data, noise, sigma)
        return found / _AUDIT_DRAWS

    def _losses(self, data: Images, noise: torch.Tensor, sigma: float) -> np.ndarray:
        parts = []
        for start in range(0, len(data), 256):
            rows = slice(start, start + 256)
            padded = self.scale_.pad(data.pixels[rows], self.plan_)
            examples = Examples(
                torch.from_numpy(padded).to(noise.device),
                torch.from_numpy(data.labels[rows]).to(noise.device),
                self.scale_,
                self.source_scale_,
            )
            clean = examples.clean
            sigmas = torch.full((len(clean),), sigma, device=noise.device)
            every = noise.expand_as(clean)
            losses = denoising_loss(self.network_, clean, every, sigmas, examples.given)
            parts.append(losses.double().cpu().numpy())
        return np.concatenate(parts)

    def inpaint(
        self,
        images: Images,
        mask: np.ndarray,
        *,
        seed: int,
        progress: OnProgress | None = None,
    ) -> Images:
        """See ``Editable.inpaint``; by resampling (Lugmayr et al. 2022, arXiv 2201.09865)."""
        self._check(images, "inpaint")
        masks = self._masks(mask, len(images))

        def work(batch: _Batch) -> torch.Tensor:
            pixels, anew = images.pixels[batch.rows], masks[batch.rows]
            known = self._encode(pixels)
            padded = self.scale_.pad(anew[..., None].astype(np.uint8), self.plan_)
            where = torch.from_numpy(padded.astype(bool)).to(known.device)
            return self._restored(batch, keep_outside(known, where))

        made = self._edit(images, seed, progress, work)
        pixels = np.where(masks[..., None], made.pixels, images.pixels)
        return Images(pixels, made.labels)

    def vary(
        self,
        images: Images,
        strength: float,
        *,
        seed: int,
        progress: OnProgress | None = None,
    ) -> Images:
        """See ``Editable.vary``; by adding noise and removing it (SDEdit, arXiv 2108.01073)."""
        self._check(images, "vary")
        if not 0.0 < strength <= 1.0:
            raise ParameterError(f"strength must lie in (0, 1], got {strength}; try 0.4")
        evaluations = BEST_EVALUATIONS if self.quality == "best" else self.nfe
        levels = noise_levels(evaluations + 1, level_of(strength))

        def work(batch: _Batch) -> torch.Tensor:
            known = self._encode(images.pixels[batch.rows])
            noisy = known + levels[0] * batch.noise()
            return ipndm(self._denoiser(batch), noisy, levels)

        return self._edit(images, seed, progress, work)

    def upscale(self, low: Images, *, seed: int, progress: OnProgress | None = None) -> Images:
        """See ``Editable.upscale``; in the null space (DDNM, arXiv 2212.00490)."""
        height, width, channels = self.shape_
        rows, columns, layers = low.pixels.shape[1:]
        factor = height // max(rows, 1)
        self._refuse_pairs("upscale")
        if layers != channels or (rows * factor, columns * factor) != (height, width):
            raise SchemaError(
                f"images to be enlarged must have {channels} channels and sides of {height} x "
                f"{width} divided by one whole number, got {rows} x {columns} with {layers}; "
                "resize them"
            )

        def work(batch: _Batch) -> torch.Tensor:
            device = batch.labels.device
            small = torch.from_numpy(low.pixels[batch.rows].transpose(0, 3, 1, 2).copy())
            known = self.scale_.encode(small.to(device))
            return self._restored(batch, keep_pooled(known, factor, self.scale_.bounds(device)))

        # Grey values of the data alone would not have the averages that are asked for.
        return self._edit(low, seed, progress, work, snap=False)

    def translate(self, source: Images, *, seed: int, progress: OnProgress | None = None) -> Images:
        """See ``Editable.translate``."""
        scale = self.source_scale_
        if scale is None:
            raise ParameterError(
                "a model must have learned image pairs to translate, this one has not; fit it "
                "with source_channels (likeness fit --paired)"
            )
        expected = (*self.shape_[:2], self.source_channels)
        if source.pixels.shape[1:] != expected:
            raise SchemaError(
                f"images to be translated must be {expected} (height, width, channels), got "
                f"{source.pixels.shape[1:]}; resize or convert them"
            )

        def work(batch: _Batch) -> torch.Tensor:
            given = self._encode(source.pixels[batch.rows], scale)
            return self._made(batch, given)

        return self._edit(source, seed, progress, work)

    def _edit(
        self,
        images: Images,
        seed: int,
        progress: OnProgress | None,
        work: Work,
        *,
        snap: bool = True,
    ) -> Images:
        """What ``work`` makes of each image, block by block."""
        self._require_fitted()
        if len(images) and images.labels.max() >= self.plan_.classes:
            raise DataError(
                f"labels must be class numbers below {self.plan_.classes}, or -1 where the class "
                "is not known; some are above"
            )
        parts = []
        for block in self.blocks(len(images), seed):
            labels = images.labels[block.start : block.start + block.size]
            parts.append(self._in_batches(block, labels, work, snap=snap))
            if progress is not None:
                progress(Progress("edit", block.start + block.size, len(images), 0.0))
        pixels = [part.pixels for part in parts] or [np.zeros((0, *self.shape_), np.uint8)]
        return Images(np.concatenate(pixels), images.labels.copy())

    def _in_batches(
        self,
        block: Block,
        labels: np.ndarray,
        work: Work,
        *,
        traits: np.ndarray | None = None,
        snap: bool = True,
    ) -> Images:
        """The images that ``work`` makes with these labels; -1 stands for no class.

        Always in whole batches of one size: an image must not depend on its neighbours' number.
        """
        device = next(self.network_.parameters()).device
        size = self._micro_batch(device)
        height, width, _ = self.shape_
        shape = (self.plan_.channels, self.plan_.height, self.plan_.width)
        known = np.where(labels < 0, self.plan_.classes, labels).astype(np.int64)

        def make(start: int) -> np.ndarray:
            numbers = np.arange(start, start + size)
            within = np.minimum(numbers, block.size - 1)
            seeds = [torch_generator("cpu", block.seed, int(number)) for number in numbers]
            batch = _Batch(
                rows=block.start + within,
                labels=torch.from_numpy(known[within]).to(device),
                traits=None if traits is None else torch.from_numpy(traits[within]).to(device),
                noise=lambda: torch.stack(
                    [torch.randn(shape, generator=seed) for seed in seeds]
                ).to(device),
            )
            with torch.no_grad():
                return self.scale_.decode(work(batch), height, width, snap=snap)

        parts = _side_by_side(make, range(0, block.size, size), device)
        return Images(np.concatenate(parts)[: block.size], labels.copy())

    def _micro_batch(self, device: torch.device) -> int:
        if device.type == "cuda":
            return 1024
        if self.plan_.kind == "mlp":
            return 256
        # What fits into the cache is fastest.
        return 128 if self.plan_.height * self.plan_.width <= 256 else 64

    @property
    def evaluations(self) -> int:
        """Network evaluations that an image of a sample takes (NFE)."""
        few = {"best": BEST_EVALUATIONS, "student": STUDENT_EVALUATIONS}
        return few.get(self.quality, self.nfe)

    def _made(self, batch: _Batch, source: torch.Tensor | None = None) -> torch.Tensor:
        """Images from noise."""
        denoiser = self._denoiser(batch, source, student=self.quality == "student")
        if self.quality == "student":
            return consistent(denoiser, batch.noise, self.evaluations)
        levels = noise_levels(self.evaluations + 1)
        return ipndm(denoiser, batch.noise() * levels[0], levels)

    def _denoiser(
        self, batch: _Batch, source: torch.Tensor | None = None, *, student: bool = False
    ) -> Denoiser:
        network = self.student_ if student else self.network_
        if network is None:
            raise ParameterError(
                "quality='student' needs a model that was fitted with student=True, this one was "
                "not; choose 'fast' or fit it again"
            )
        told = Given(batch.labels, batch.traits, source)
        untold = Given(torch.full_like(batch.labels, self.plan_.classes), None, source)

        def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
            sigmas = torch.full((len(x),), sigma, device=x.device)
            given = denoise(network, x, sigmas, told)
            if self.guidance == 0.0:
                return given
            free = denoise(network, x, sigmas, untold)
            return given + self.guidance * (given - free)

        return denoiser

    def _restored(self, batch: _Batch, project: Projection) -> torch.Tensor:
        levels, rounds = _RESTORE[self.quality]
        denoiser = self._denoiser(batch)
        return restore(denoiser, project, batch.noise, levels, rounds)

    def _encode(self, pixels: np.ndarray, scale: PixelScale | None = None) -> torch.Tensor:
        """Pixels (N, H, W, C) as the network takes them."""
        used = scale or self.scale_
        device = next(self.network_.parameters()).device
        return used.encode(torch.from_numpy(used.pad(pixels, self.plan_)).to(device))

    def _check(self, images: Images, edit: str) -> None:
        self._require_fitted()
        self._refuse_pairs(edit)
        if images.pixels.shape[1:] != self.shape_:
            raise SchemaError(
                f"images to {edit} must be {self.shape_} (height, width, channels) as those the "
                f"model has learned, got {images.pixels.shape[1:]}; resize or convert them"
            )

    def _refuse_pairs(self, edit: str) -> None:
        if self.source_channels:
            raise ParameterError(
                f"a model of image pairs can translate, not {edit}; fit one without pairs"
            )

    def _masks(self, mask: np.ndarray, count: int) -> np.ndarray:
        shape = self.shape_[:2]
        if mask.dtype != np.bool_ or mask.shape not in (shape, (count, *shape)):
            raise SchemaError(
                f"a mask must be boolean and {shape}, or {(count, *shape)} for a mask an image; "
                f"got {mask.dtype} and {mask.shape}; resize it"
            )
        masks: np.ndarray = np.broadcast_to(mask, (count, *shape))
        return masks

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        source = self.source_scale_
        state = {
            "shape": list(self.shape_),
            "plan": self.plan_.to_json(),
            "scale": self.scale_.to_json(),
            "source_scale": None if source is None else source.to_json(),
            "frequencies": self.frequencies_.tolist(),
            "steps": self.steps_,
            "chosen": list(self.chosen_),
            "gap": self.gap_,
            "loss_history": self.loss_history_,
            "validation_history": self.validation_history_,
        }
        arrays = module_arrays(self.network_, "network.")
        if self.student_ is not None:
            arrays |= module_arrays(self.student_, "student.")
        return arrays, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        height, width, channels = state["shape"]
        self.shape_ = (int(height), int(width), int(channels))
        self.plan_ = NetworkPlan(**state["plan"])
        self.scale_ = PixelScale(**state["scale"])
        source = state.get("source_scale")
        self.source_scale_ = None if source is None else PixelScale(**source)
        self.frequencies_ = np.array(state["frequencies"])
        self.steps_ = int(state["steps"])
        self.chosen_ = (int(state["chosen"][0]), float(state["chosen"][1]))
        self.gap_ = state["gap"]
        self.loss_history_ = [(int(s), float(v)) for s, v in state["loss_history"]]
        self.validation_history_ = [(int(s), float(v)) for s, v in state["validation_history"]]
        device = resolve_device(self.device)
        self.network_ = self._loaded(arrays, "network.", device)
        found = any(name.startswith("student.") for name in arrays)
        self.student_ = self._loaded(arrays, "student.", device) if found else None

    def _loaded(self, arrays: dict[str, np.ndarray], prefix: str, device: torch.device) -> Network:
        random = torch_generator("cpu", self.name, self.seed, "weights")
        network = new_network(self.plan_, device, random).eval().requires_grad_(False)
        load_module_arrays(network, arrays, prefix)
        return network


@dataclass(frozen=True)
class _Batch:
    """Images that are made at once.

    Attributes:
        rows: their numbers among all that are asked for, shape (N,); the last one may repeat.
        labels: class numbers (N,), on the device.
        traits: what else they show (N, F), on the device, if known.
        noise: standard normal numbers (N, C, H, W); each call goes on, each image has its own.
    """

    rows: np.ndarray
    labels: torch.Tensor
    traits: torch.Tensor | None
    noise: Callable[[], torch.Tensor]


Work = Callable[[_Batch], torch.Tensor]


def _side_by_side(
    make: Callable[[int], np.ndarray], starts: Sequence[int], device: torch.device
) -> list[np.ndarray]:
    """What ``make`` gives for each of ``starts``; on a CPU as many at once as torch has threads.

    A batch is the work of one thread then: that is faster than sharing it, and an image does not
    depend on the number of threads.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [make(start) for start in starts]

    def alone(start: int) -> np.ndarray:
        torch.set_num_threads(1)
        return make(start)

    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(alone, starts))
    finally:
        torch.set_num_threads(threads)


def spread_labels(count: int, frequencies: np.ndarray, offset: float) -> np.ndarray:
    """``count`` labels (int64) in proportion to ``frequencies``, evenly spread.

    Label i is where (offset + i/phi) mod 1 falls among the classes: the golden ratio keeps every
    run of labels near its share (a Kronecker sequence), whatever ``count`` is.
    """
    points = np.mod(offset + _GOLDEN * np.arange(count), 1.0)
    edges = np.cumsum(frequencies)[:-1]
    labels: np.ndarray = np.searchsorted(edges, points, side="right").astype(np.int64)
    spread: np.ndarray = np.minimum(labels, np.flatnonzero(frequencies)[-1])
    return spread


def class_counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """Images per class.

    Raises:
        DataError: a label is not a class number.
    """
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"labels must be class numbers from 0 to {classes - 1}; some are outside; "
            "name all classes in the schema"
        )
    return np.bincount(labels, minlength=classes)


def automatic_batch_size(images: int, device: torch.device) -> int:
    """Images per training step on ``device`` where the owner has not chosen."""
    if device.type == "cpu":
        return 128
    return 512 if images >= 10_000 else 256
