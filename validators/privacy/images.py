"""Copies and membership among images, each beside a holdout that the generator has not seen.

Sources: Carlini et al. 2023 (arXiv:2301.13188) and Somepalli et al. 2023 for extraction; the ratio
test of nearest neighbours from Yoon et al. 2023, "Diffusion probabilistic models generalize when
they fail to memorize". Without a holdout beside it none of these numbers means anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from validators.base import Score, skipped
from validators.comparison import Comparison
from validators.image_features import shrink
from validators.statistics import Estimate, two_proportion_difference

from .copies import Pull, copy_excess, pick_rows, privacy_score
from .membership import MIN_NON_MEMBERS, Attacks, auc_score, distance_scores, join
from .neighbours import PixelPoints, nearest

RATIO = 1 / 3
"""An image is memorised when its nearest train image is this much nearer than the second."""


@dataclass(frozen=True, kw_only=True)
class ImageCopies:
    """Exact copies, memorised images, the pull towards train, and membership inference.

    Attributes:
        images: synthetic, train and holdout images at most, for all but exact copies.
    """

    images: int = 5_000

    name: ClassVar[str] = "image-copies"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores of exact copies, memorised images, nearest images and membership.

        Named ``copy_excess``, ``memorisation_excess``, ``nearest_is_train``, ``membership_auc``.
        """
        train, holdout, synthetic, _ = comparison.image_features.parts
        pixels = (train.pixels, holdout.pixels, synthetic.pixels)
        ids = identities(*pixels)
        rng = comparison.rng(self.name)
        real, unseen, drawn = (
            points_of(part[pick_rows(len(part), self.images, rng)]) for part in pixels
        )
        copies = copy_excess(ids[2], ids[0], ids[1])
        return [
            privacy_score("copy_excess", copies, len(synthetic)),
            memorisation_score(real, unseen, drawn),
            pull_score(real, unseen, drawn, rng),
            membership_score(real, unseen, drawn, rng),
        ]


def identities(*parts: np.ndarray) -> list[np.ndarray]:
    """A number for each image, equal exactly where all pixels are, over all parts together."""
    flat = [np.ascontiguousarray(part.reshape(len(part), -1)) for part in parts]
    whole = np.concatenate(flat)
    keys = whole.view(np.dtype((np.void, whole.shape[1]))).ravel()
    numbers = np.unique(keys, return_inverse=True)[1].ravel()
    return np.split(numbers, np.cumsum([len(part) for part in flat])[:-1])


def points_of(pixels: np.ndarray) -> PixelPoints:
    """Images as points; large ones are averaged down first."""
    return PixelPoints(shrink(pixels).reshape(len(pixels), -1).astype(np.float64))


def memorisation_score(train: PixelPoints, holdout: PixelPoints, synthetic: PixelPoints) -> Score:
    """``memorisation_excess``: rate of memorised synthetic images less that of holdout images.

    Repeated train images count once, else two copies of one image would hide each other.
    """
    distinct = PixelPoints(np.unique(train.pixels, axis=0))
    found, natural = (memorised(part, distinct) for part in (synthetic, holdout))
    excess = two_proportion_difference(found.sum(), len(found), natural.sum(), len(natural))
    return privacy_score("memorisation_excess", excess, len(synthetic))


def memorised(images: PixelPoints, train: PixelPoints) -> np.ndarray:
    """Whether the nearest train image is less than ``RATIO`` as far as the second, shape (N,)."""
    found = nearest(images, train, 2)
    return found[:, 0] < RATIO * found[:, 1]


def pull_score(
    train: PixelPoints, holdout: PixelPoints, synthetic: PixelPoints, rng: np.random.Generator
) -> Score:
    """``nearest_is_train``: share of images nearer to train than to equally many holdout images."""
    size = min(len(train), len(holdout))
    train, holdout = (part.take(pick_rows(len(part), size, rng)) for part in (train, holdout))
    share: Estimate = Pull.measure(synthetic, train, holdout).share()
    return privacy_score("nearest_is_train", share, len(synthetic), reference=0.5)


def membership_score(
    train: PixelPoints, holdout: PixelPoints, synthetic: PixelPoints, rng: np.random.Generator
) -> Score:
    """``membership_auc`` of distance attacks, raw and calibrated by half of the holdout.

    The halves of the holdout are reference and non-members in turn, with other members each.
    """
    if min(len(holdout), len(train)) < MIN_NON_MEMBERS:
        return skipped(
            "membership_auc",
            "privacy",
            f"needs at least {MIN_NON_MEMBERS} train and holdout images, got {len(train)} and "
            f"{len(holdout)}; hold out more",
        )
    halves = np.array_split(rng.permutation(len(holdout)), 2)
    members = np.array_split(rng.permutation(len(train)), 2)
    parts = []
    for role in (0, 1):
        reference = holdout.take(halves[role])
        seen, unseen = train.take(members[role]), holdout.take(halves[1 - role])
        parts.append(
            Attacks(
                distance_scores(seen, synthetic, reference)[0],
                distance_scores(unseen, synthetic, reference)[0],
            )
        )
    return auc_score(join(parts), rng)
