"""Planted defects of images are caught by the dimension they belong to; fresh ones by none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_digits

from generators.schema import Images, ImageSchema
from validators import Comparison, Scorecard
from validators.contract import load_contract
from validators.image import ImageBias, ImageDiversity, ImageFidelity, ImageUtility
from validators.image_appearance import ImageAppearance
from validators.image_features import ImageFeatures
from validators.privacy.images import ImageCopies

SCHEMA = ImageSchema(8, 8, 1, tuple("0123456789"))
CONTRACT = load_contract("standard").for_modality("image")
DRAWS = {"draws": 2, "replicates": 6}
BY_DIMENSION = {
    "fidelity": (ImageFidelity(limit=200, **DRAWS), ImageAppearance()),
    "utility": (ImageUtility(bootstraps=500),),
    "diversity": (ImageDiversity(**DRAWS),),
    "privacy": (ImageCopies(),),
    "bias": (ImageBias(),),
}
Mutation = Callable[[Images, Images, np.random.Generator], Images]


def split(seed: int) -> tuple[Images, Images, Images]:
    digits = load_digits()
    pixels = (digits.images * 15.9).astype(np.uint8)[..., None]
    everything = Images(pixels, digits.target.astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(everything))
    train, holdout, fresh = (everything.take(part) for part in np.split(order, [760, 1260]))
    return train, holdout, fresh


@pytest.fixture(scope="module")
def real() -> tuple[Images, Images, Images]:
    return split(0)


def accused(synthetic: Images, train: Images, holdout: Images, dimension: str) -> set[str]:
    """The gates of a dimension that prove the images bad; too few images prove nothing."""
    comparison = Comparison(synthetic, train, holdout, SCHEMA)
    vars(comparison)["image_features"] = ImageFeatures(comparison, networks=1, steps=100)
    scores = Scorecard(
        tuple(s for validator in BY_DIMENSION[dimension] for s in validator(comparison))
    )
    answers = (gate.answer(scores) for gate in CONTRACT.gates if gate.dimension == dimension)
    return {answer.gate for answer in answers if answer.status == "failed"}


def noisy(pixels: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    moved = pixels + rng.normal(0, deviation, pixels.shape)
    return moved.clip(0, 255).astype(np.uint8)


def planted(synthetic: Images, pixels: np.ndarray, labels: np.ndarray) -> Images:
    """The synthetic images with others in the place of the first."""
    count = len(pixels)
    return Images(
        np.concatenate([pixels, synthetic.pixels[count:]]),
        np.concatenate([labels, synthetic.labels[count:]]),
    )


def verbatim_copies(s, train, rng):
    return planted(s, train.pixels[:30], train.labels[:30])


def noised_copies(s, train, rng):
    return planted(s, noisy(train.pixels[:60], 6, rng), train.labels[:60])


def shifted_copies(s, train, rng):
    moved = np.zeros_like(train.pixels[:60])
    moved[:, 1:, 1:] = train.pixels[:60, :-1, :-1]
    return planted(s, moved, train.labels[:60])


def mirrored_copies(s, train, rng):
    return planted(s, train.pixels[:60, :, ::-1], train.labels[:60])


def copies_of_one_class(s, train, rng):
    rows = np.flatnonzero(train.labels == 4)[:40]
    return planted(s, noisy(train.pixels[rows], 6, rng), train.labels[rows])


def collapsed(s, train, rng):
    rows = rng.integers(0, 15, len(s))
    return Images(noisy(s.pixels[rows], 3, rng), s.labels[rows])


def collapsed_class(s, train, rng):
    threes = np.flatnonzero(s.labels == 3)
    pixels = s.pixels.copy()
    pixels[threes] = noisy(pixels[rng.choice(threes[:2], len(threes))], 3, rng)
    return Images(pixels, s.labels)


def lost_class(s, train, rng):
    return s.take(np.flatnonzero(s.labels != 3))


def rare_class(s, train, rng):
    nines = np.flatnonzero(s.labels == 9)
    return s.take(np.setdiff1d(np.arange(len(s)), nines[: int(0.8 * len(nines))]))


def duplicated(s, train, rng):
    half = len(s) // 2
    return s.take(np.concatenate([np.arange(len(s) - half), np.arange(half)]))


def swapped_labels(s, train, rng):
    table = np.arange(10)
    table[[3, 8]] = 8, 3
    return Images(s.pixels, table[s.labels])


def shuffled_labels(s, train, rng):
    return Images(s.pixels, rng.permutation(s.labels))


def one_class_in_another(s, train, rng):
    """Every label 1 shows a 7."""
    pixels = s.pixels.copy()
    sevens = np.flatnonzero(s.labels == 7)
    ones = np.flatnonzero(s.labels == 1)
    pixels[ones] = noisy(pixels[rng.choice(sevens, len(ones))], 6, rng)
    return Images(pixels, s.labels)


def blurred(s, train, rng):
    return Images(uniform_filter(s.pixels.astype(float), (0, 3, 3, 0)).astype(np.uint8), s.labels)


def noised(s, train, rng):
    return Images(noisy(s.pixels, 60, rng), s.labels)


def inverted(s, train, rng):
    return Images(254 - s.pixels, s.labels)


def washed_out(s, train, rng):
    return Images((60 + 0.5 * s.pixels).astype(np.uint8), s.labels)


def turned(s, train, rng):
    return Images(np.ascontiguousarray(np.rot90(s.pixels, axes=(1, 2))), s.labels)


@pytest.mark.parametrize(
    ("mutation", "dimension", "gate"),
    [
        (verbatim_copies, "privacy", "image-copies"),
        (noised_copies, "privacy", "image-memorisation"),
        (shifted_copies, "privacy", "image-memorisation"),
        pytest.param(mirrored_copies, "privacy", "image-memorisation", marks=pytest.mark.slow),
        pytest.param(copies_of_one_class, "privacy", "image-memorisation", marks=pytest.mark.slow),
        (collapsed, "diversity", "image-coverage"),
        (collapsed_class, "diversity", "image-coverage-class"),
        (lost_class, "diversity", "image-missing-classes"),
        (duplicated, "diversity", "image-duplicates"),
        (rare_class, "bias", "image-class-representation"),
        (swapped_labels, "fidelity", "image-label-fidelity-class"),
        pytest.param(swapped_labels, "utility", "image-tstr-gap-class", marks=pytest.mark.slow),
        pytest.param(shuffled_labels, "utility", "image-utility-retention", marks=pytest.mark.slow),
        (one_class_in_another, "fidelity", "image-label-fidelity-class"),
        (one_class_in_another, "utility", "image-tstr-gap-class"),
        (blurred, "fidelity", "image-detail"),
        pytest.param(noised, "fidelity", "image-intensity", marks=pytest.mark.slow),
        (inverted, "fidelity", "image-intensity"),
        pytest.param(washed_out, "fidelity", "image-intensity", marks=pytest.mark.slow),
        (turned, "fidelity", "image-frechet"),
    ],
)
def test_a_defect_is_caught_by_its_dimension(real, mutation: Mutation, dimension, gate):
    train, holdout, fresh = real
    changed = mutation(fresh, train, np.random.default_rng(1))
    assert gate in accused(changed, train, holdout, dimension)


@pytest.mark.parametrize("dimension", BY_DIMENSION)
def test_fresh_real_images_are_not_accused(real, dimension):
    train, holdout, fresh = real
    assert accused(fresh, train, holdout, dimension) == set()


def test_fresh_real_images_are_cleared(real):
    """The privacy gates, which ask for proof, give it."""
    train, holdout, fresh = real
    comparison = Comparison(fresh, train, holdout, SCHEMA)
    scores = Scorecard(tuple(ImageCopies()(comparison)))
    answers = [gate.answer(scores) for gate in CONTRACT.gates if gate.dimension == "privacy"]
    assert [answer.gate for answer in answers if answer.blocks] == []


@pytest.mark.slow
def test_false_accusations_are_rare():
    """At most two of 20 splits: one gate accused in one of them is what 5 % would give."""
    found = []
    for seed in range(1, 21):
        train, holdout, fresh = split(seed)
        found.append(set.union(*(accused(fresh, train, holdout, d) for d in BY_DIMENSION)))
    assert sum(bool(gates) for gates in found) <= 2, found
