"""Networks and features for the image metrics, learned from the real images themselves.

Small convolutional networks are trained on real *training* images, and a random one stands beside
them. A network that has seen an image places it apart from one that it has not, so each trained
network learns one half of the train images and the other half is the real reference for it:
two-fold, from several seeds. An untrained network is a domain-neutral second opinion (Naeem et al.
2020, arXiv:2002.09797, section 4.2). A pretrained one joins where the user has its weights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from generators.base import SchemaError, check_images, derive_seed
from generators.schema import Images, ImageSchema

if TYPE_CHECKING:
    from .comparison import Comparison

MAX_IMAGES = 5_000
"""Images of each part that enter the networks; exact copies are sought among all."""
MAX_SIDE = 32
"""Larger images are averaged down to this many pixels a side first."""
FEATURES = 64
"""Width of the layer that serves as features."""
_BATCH = 64
_PEAK_RATE = 4e-3


@dataclass(frozen=True)
class FeatureSpace:
    """The images as one network sees them.

    Attributes:
        name: of the network.
        reference: real train images that the network has not seen, shape (N, F).
        holdout: real holdout images, shape (N, F).
        synthetic: shape (N, F).
        labels: of the three, in this order.
    """

    name: str
    reference: np.ndarray
    holdout: np.ndarray
    synthetic: np.ndarray
    labels: tuple[np.ndarray, np.ndarray, np.ndarray]

    def of_class(self, label: int) -> FeatureSpace:
        """The images of one class."""
        reference, holdout, synthetic = (labels == label for labels in self.labels)
        return FeatureSpace(
            self.name,
            self.reference[reference],
            self.holdout[holdout],
            self.synthetic[synthetic],
            (self.labels[0][reference], self.labels[1][holdout], self.labels[2][synthetic]),
        )


class ImageFeatures:
    """All networks of one comparison, each trained when first needed.

    ``places`` holds the numbers, in the synthetic data, of the synthetic images that entered.
    """

    def __init__(self, comparison: Comparison, *, networks: int = 2, steps: int = 300) -> None:
        """Prepare; nothing is trained yet.

        Args:
            comparison: the three image sets.
            networks: seeds: classifiers per training set, and feature networks per half of train.
            steps: gradient steps of each training.

        Raises:
            SchemaError: the comparison does not hold images of its schema.
        """
        self.parts = image_parts(comparison)
        self.schema = self.parts[3]
        self.encoder = comparison.encoder
        self._seed = comparison.seed
        self._networks = networks
        self._steps = steps
        rng = comparison.rng("image-features")
        self.train, self.holdout = (_limit(part, MAX_IMAGES, rng) for part in self.parts[:2])
        self.places = _limited(len(self.parts[2]), MAX_IMAGES, rng)
        self.synthetic = self.parts[2].take(self.places)
        order = rng.permutation(len(self.train))
        self._halves = order[: len(order) // 2], order[len(order) // 2 :]

    @cached_property
    def spaces(self) -> tuple[FeatureSpace, ...]:
        """Trained networks of each seed, each with its unseen half of train, and a random one."""
        first, second = self._halves
        folds = ((first, second), (second, first))
        spaces = [
            self._space(
                f"trained network {seed * 2 + fold + 1}",
                self._trained(learn, seed, fold),
                self.train.take(unseen),
            )
            for seed in range(self._networks)
            for fold, (learn, unseen) in enumerate(folds)
        ]
        return (*spaces, self._space("random network", self._random, self.train))

    def of_class(self, label: int) -> tuple[FeatureSpace, ...]:
        """The images of one class, as each network sees them."""
        return tuple(space.of_class(label) for space in self.spaces)

    @cached_property
    def pretrained(self) -> FeatureSpace | None:
        """The images as the user's pretrained network sees them, where there is one."""
        if self.encoder is None:
            return None
        rng = np.random.default_rng(derive_seed("image-encoder", self._seed))
        train, holdout, synthetic = (
            _limit(part, self.encoder.images, rng) for part in self.parts[:3]
        )
        return _seen(self.encoder.name, self.encoder.encode, train, holdout, synthetic)

    @cached_property
    def classifier_features(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Train, holdout and synthetic images in the features of the classifiers of train.

        Train images are known to these networks: holdout and synthetic images are compared with
        them alike, never with each other.
        """
        train, holdout, synthetic = (
            np.hstack([run(network[:-1], inputs) for network in self.real_classifiers])
            for inputs in map(self._inputs, (self.train, self.holdout, self.synthetic))
        )
        return train, holdout, synthetic

    @cached_property
    def real_classifiers(self) -> tuple[nn.Sequential, ...]:
        """Classifiers that learned real train images (as many as of the synthetic ones)."""
        return self._classifiers(self.train, "real")

    @cached_property
    def synthetic_classifiers(self) -> tuple[nn.Sequential, ...]:
        """Classifiers that learned synthetic images (as many as of the real ones)."""
        return self._classifiers(self.synthetic, "synthetic")

    def hits(self, classifiers: Sequence[nn.Sequential], images: Images) -> np.ndarray:
        """Whether each classifier gives each image its label, bool, shape (classifiers, N)."""
        inputs = self._inputs(images)
        guesses = [run(network, inputs).argmax(axis=1) for network in classifiers]
        matches: np.ndarray = np.stack(guesses) == images.labels
        return matches

    @cached_property
    def neutral(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Holdout, synthetic and train as coarse pixels beside features of the random network.

        No network that learned from any of the images takes part.
        """
        body = self._random[:-1]
        holdout, synthetic, train = (
            np.hstack([_coarse(inputs), run(body, inputs)])
            for inputs in map(self._inputs, (self.holdout, self.synthetic, self.train))
        )
        return holdout, synthetic, train

    @cached_property
    def _random(self) -> nn.Sequential:
        return build_network(self._shape, len(self.schema.classes), self._generator("random"))

    @property
    def _shape(self) -> tuple[int, int, int]:
        height, width, channels = shrink(self.train.pixels[:1]).shape[1:]
        return height, width, channels

    @cached_property
    def _scale(self) -> tuple[float, float]:
        pixels = shrink(self.train.pixels)
        return float(pixels.mean()), float(pixels.std()) or 1.0

    def _inputs(self, images: Images) -> torch.Tensor:
        mean, deviation = self._scale
        return to_tensor((shrink(images.pixels) - mean) / deviation)

    def _generator(self, *purpose: object) -> torch.Generator:
        return torch.Generator().manual_seed(derive_seed("image-network", *purpose, self._seed))

    def _classifiers(self, images: Images, source: str) -> tuple[nn.Sequential, ...]:
        rng = np.random.default_rng(derive_seed("image-classifier", source, self._seed))
        learn = _limit(images, min(len(self.train), len(self.synthetic)), rng)
        inputs, labels = self._inputs(learn), torch.from_numpy(learn.labels)
        return tuple(
            train_network(
                inputs,
                labels,
                len(self.schema.classes),
                generator=self._generator(source, number),
                steps=self._steps,
            )
            for number in range(self._networks)
        )

    def _trained(self, rows: np.ndarray, seed: int, fold: int) -> nn.Sequential:
        inputs, labels = self._inputs(self.train), torch.from_numpy(self.train.labels)
        inputs, labels, classes = inputs[rows], labels[rows], len(self.schema.classes)
        if not self.schema.labelled:
            inputs, labels, classes = turned(inputs)
        generator = self._generator("features", seed, fold)
        return train_network(inputs, labels, classes, generator=generator, steps=self._steps)

    def _space(self, name: str, network: nn.Sequential, reference: Images) -> FeatureSpace:
        def features(images: Images) -> np.ndarray:
            return run(network[:-1], self._inputs(images))

        return _seen(name, features, reference, self.holdout, self.synthetic)


def build_network(
    shape: tuple[int, int, int], outputs: int, generator: torch.Generator
) -> nn.Sequential:
    """A small convolutional network with weights drawn from ``generator`` (He et al. 2015).

    Args:
        shape: height, width and channels of its images.
        outputs: classes. All layers but the last give ``FEATURES`` features.
        generator: the only source of randomness; torch's global state stays as it is.
    """
    height, width, channels = shape
    stride = 1 if max(height, width) <= 16 else 2
    for step in (stride, 2, 2):
        height, width = math.ceil(height / step), math.ceil(width / step)
    network = nn.Sequential(
        nn.Conv2d(channels, 16, 3, stride, 1, device="meta"),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1, device="meta"),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1, device="meta"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64 * height * width, FEATURES, device="meta"),
        nn.ReLU(),
        nn.Linear(FEATURES, outputs, device="meta"),
    ).to_empty(device="cpu")
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    return network


def train_network(
    inputs: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    generator: torch.Generator,
    steps: int,
) -> nn.Sequential:
    """A classifier of ``inputs`` after ``steps`` steps of Adam with a cosine learning rate.

    The number of steps does not depend on the number of images, so that two training sets of
    different size get the same effort.
    """
    channels, height, width = inputs.shape[1:]
    network = build_network((height, width, channels), classes, generator)
    optimizer = torch.optim.Adam(network.parameters(), lr=_PEAK_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for batch in itertools.islice(_batches(len(inputs), generator), steps):
        loss = functional.cross_entropy(network(inputs[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return network


def run(network: nn.Module, inputs: torch.Tensor) -> np.ndarray:
    """Outputs of ``network``, float64, shape (N, outputs)."""
    with torch.no_grad():
        outputs = [network(batch) for batch in torch.split(inputs, 1024)]
    return torch.cat(outputs).double().numpy()


def shrink(pixels: np.ndarray) -> np.ndarray:
    """Pixels as float32, averaged over blocks so that no side is longer than ``MAX_SIDE``."""
    factor = math.ceil(max(pixels.shape[1:3]) / MAX_SIDE)
    if factor == 1:
        return pixels.astype(np.float32)
    pooled = functional.avg_pool2d(
        to_tensor(pixels), factor, ceil_mode=True, count_include_pad=False
    )
    return np.ascontiguousarray(pooled.permute(0, 2, 3, 1).numpy())


def to_tensor(pixels: np.ndarray) -> torch.Tensor:
    """Float32 tensor in torch's order (N, C, H, W)."""
    return torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2).contiguous()


def turned(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Images turned or mirrored in four ways, and which way: labels where there are none.

    Telling quarter turns apart teaches features without labels (Gidaris et al. 2018,
    arXiv:1803.07728). Images that are not square are mirrored instead.
    """
    if inputs.shape[-1] == inputs.shape[-2]:
        images = [torch.rot90(inputs, turns, (2, 3)) for turns in range(4)]
    else:
        mirrors: tuple[tuple[int, ...], ...] = ((), (2,), (3,), (2, 3))
        images = [torch.flip(inputs, axes) for axes in mirrors]
    labels = torch.arange(len(images)).repeat_interleave(len(inputs))
    return torch.cat(images), labels, len(images)


def image_parts(comparison: Comparison) -> tuple[Images, Images, Images, ImageSchema]:
    """Train, holdout and synthetic images with the schema.

    Raises:
        SchemaError: the data are not images of the schema.
    """
    train, holdout, synthetic = comparison.train, comparison.holdout, comparison.synthetic
    for part in (train, holdout, synthetic):
        check_images(part, comparison.schema)
    if (
        not isinstance(comparison.schema, ImageSchema)
        or not isinstance(train, Images)
        or not isinstance(holdout, Images)
        or not isinstance(synthetic, Images)
    ):
        raise SchemaError("an image metric needs Images and an ImageSchema; convert the data")
    return train, holdout, synthetic, comparison.schema


def _seen(
    name: str,
    features: Callable[[Images], np.ndarray],
    reference: Images,
    holdout: Images,
    synthetic: Images,
) -> FeatureSpace:
    return FeatureSpace(
        name,
        features(reference),
        features(holdout),
        features(synthetic),
        (reference.labels, holdout.labels, synthetic.labels),
    )


def _coarse(inputs: torch.Tensor) -> np.ndarray:
    """Pixels averaged over blocks to at most 8 x 8, shape (N, F)."""
    factor = math.ceil(max(inputs.shape[2:]) / 8)
    pooled = functional.avg_pool2d(inputs, factor, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(1).double().numpy()


def _batches(n: int, generator: torch.Generator) -> itertools.chain[torch.Tensor]:
    epochs = (
        torch.split(torch.randperm(n, generator=generator), _BATCH) for _ in itertools.count()
    )
    return itertools.chain.from_iterable(epochs)


def _limit(images: Images, n: int, rng: np.random.Generator) -> Images:
    return images if len(images) <= n else images.take(_limited(len(images), n, rng))


def _limited(count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``n`` of ``count`` places, sorted."""
    return np.arange(count) if count <= n else np.sort(rng.choice(count, n, replace=False))
