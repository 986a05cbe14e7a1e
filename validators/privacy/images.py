"""Copies and membership among images, each beside a holdout that the generator has not seen.

Sources: Carlini et al. 2023 (arXiv:2301.13188) and Somepalli et al. 2023 for extraction; the ratio
test of nearest neighbours from Yoon et al. 2023, "Diffusion probabilistic models generalize when
they fail to memorize"; membership by denoising error from Duan et al. 2023 (arXiv:2302.01316).
Without a holdout beside it none of these numbers means anything. Measures of authenticity that
look at synthetic images alone are left out: they do not tell memorising from underfitting
(arXiv:2306.04675).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from generators.base import DataError
from generators.schema import Images
from validators.base import Score, skipped
from validators.comparison import Comparison, ModelLosses
from validators.image_features import ImageFeatures, shrink
from validators.statistics import Estimate, two_proportion_difference

from .canaries import MIN_CANARIES, CanaryAudit, bound_epsilon, pick_canaries
from .copies import Pull, copy_excess, pick_rows, privacy_score
from .membership import (
    MIN_NON_MEMBERS,
    Attacks,
    auc_score,
    distance_scores,
    join,
    tpr_score,
)
from .neighbours import ImagePoints, PixelPoints, ShiftedPoints, nearest

RATIO = 1 / 3
"""An image is memorised when its nearest train image is this much nearer than the second."""
IN_FEATURES = "in features"
"""Subject of what is measured as networks see the images, not pixel by pixel."""


@dataclass(frozen=True, kw_only=True)
class ImageCopies:
    """Exact copies, memorised images, the pull towards train, and membership inference.

    Exact copies are sought among all images. Elsewhere the images that ask are fewer, and the
    train images among which a neighbour is sought are as many as memory allows: a copy of an
    image that is left out would not be found.

    Attributes:
        queries: synthetic and holdout images whose neighbours are sought.
        shifted: of them, those sought at every shift and mirrored, which costs 18 times as much.
        reference: train images among which neighbours are sought.
    """

    queries: int = 5_000
    shifted: int = 1_000
    reference: int = 20_000

    name: ClassVar[str] = "image-copies"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores of exact copies, memorised images, nearest images and membership.

        Named ``copy_excess``, ``memorisation_excess``, ``nearest_is_train`` and
        ``membership_auc``, ``membership_tpr_at_fpr1``; the same in the features of networks under
        the subject ``in features``; and of the fitted model's own losses ``membership_loss_auc``.
        """
        features = comparison.image_features
        train, holdout, synthetic, _ = features.parts
        ids = identities(train.pixels, holdout.pixels, synthetic.pixels)
        rng = comparison.rng(self.name)
        return [
            privacy_score("copy_excess", copy_excess(ids[2], ids[0], ids[1]), len(synthetic)),
            *self._memorised(features, rng),
            *self._pull(features, rng),
            *membership_scores(*self._points(features, rng), rng),
            *loss_scores(comparison.losses, rng),
        ]

    def _memorised(self, features: ImageFeatures, rng: np.random.Generator) -> Iterator[Score]:
        train, *others = features.parts[:3]
        known = shifted_points(some(train, self.reference, rng).pixels)
        holdout, synthetic = (
            shifted_points(some(part, self.shifted, rng).pixels) for part in others
        )
        yield memorisation_score(known, holdout, synthetic)
        if features.schema.labelled:
            seen = (PixelPoints(part) for part in features.classifier_features)
            yield replace(memorisation_score(*seen), subject=IN_FEATURES)

    def _pull(self, features: ImageFeatures, rng: np.random.Generator) -> Iterator[Score]:
        yield pull_score(*self._points(features, rng), rng)
        holdout, synthetic, train = (PixelPoints(part) for part in features.neutral)
        yield replace(pull_score(train, holdout, synthetic, rng), subject=IN_FEATURES)

    def _points(
        self, features: ImageFeatures, rng: np.random.Generator
    ) -> tuple[PixelPoints, PixelPoints, PixelPoints]:
        train, holdout, synthetic = (
            points_of(some(part, self.queries, rng).pixels) for part in features.parts[:3]
        )
        return train, holdout, synthetic


def some(images: Images, limit: int, rng: np.random.Generator) -> Images:
    """At most ``limit`` of the images, at random."""
    return images.take(pick_rows(len(images), limit, rng))


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


def shifted_points(pixels: np.ndarray) -> ShiftedPoints:
    """Images to be compared at every shift by a pixel, and mirrored; large ones averaged down."""
    return ShiftedPoints(shrink(pixels))


def memorisation_score(train: ImagePoints, holdout: ImagePoints, synthetic: ImagePoints) -> Score:
    """``memorisation_excess``: rate of memorised synthetic images less that of holdout images.

    Repeated train images count once, else two copies of one image would hide each other.
    """
    first = np.unique(train.pixels.reshape(len(train), -1), axis=0, return_index=True)[1]
    distinct = train.take(np.sort(first))
    found, natural = (memorised(part, distinct) for part in (synthetic, holdout))
    excess = two_proportion_difference(found.sum(), len(found), natural.sum(), len(natural))
    return privacy_score("memorisation_excess", excess, len(synthetic))


def memorised(images: ImagePoints, train: ImagePoints) -> np.ndarray:
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


def membership_scores(
    train: PixelPoints, holdout: PixelPoints, synthetic: PixelPoints, rng: np.random.Generator
) -> list[Score]:
    """AUC and sure hits of distance attacks, raw and calibrated by half of the holdout.

    The halves of the holdout are reference and non-members in turn, with other members each.
    """
    if min(len(holdout), len(train)) < MIN_NON_MEMBERS:
        reason = (
            f"needs at least {MIN_NON_MEMBERS} train and holdout images, got {len(train)} and "
            f"{len(holdout)}; hold out more"
        )
        metrics = ("membership_auc", "membership_tpr_at_fpr1")
        return [skipped(metric, "privacy", reason) for metric in metrics]
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
    attacks = join(parts)
    return [auc_score(attacks, rng), tpr_score(attacks, rng)]


def loss_scores(losses: ModelLosses | None, rng: np.random.Generator) -> list[Score]:
    """``membership_loss_auc``: is the model's own error smaller on images that it has learned?

    The attacker holds the model, which no release gives away: a bound on what can be learned from
    its images. Each noise level is an attack, and their mean is one. The best is chosen on one
    half of the images and scored on the other.
    """
    metric = "membership_loss_auc"
    if losses is None:
        reason = "not applicable: the model itself is not at hand"
        return [skipped(metric, "privacy", reason)]
    smaller = min(len(losses.members), len(losses.others))
    if smaller < MIN_NON_MEMBERS:
        reason = f"needs {MIN_NON_MEMBERS} train and holdout images, got {smaller}; hold out more"
        return [skipped(metric, "privacy", reason)]
    members, others = (
        np.vstack([-part.T, -np.log(part + 1e-9).mean(axis=1)[None, :]])
        for part in (losses.members, losses.others)
    )
    return [auc_score(Attacks(members, others), rng, metric)]


def plant_images(
    real: Images, unseen: Images, count: int, rng: np.random.Generator
) -> tuple[Images, Images]:
    """At most ``count`` canaries, and the unseen images that remain to compare with.

    Half of them are the most isolated unseen images; the other half are chimeras, the upper half
    of an unseen image above the lower half of a random train image: no other image explains them.

    Args:
        real: the train images.
        unseen: images that the generator does not see; at most half of them become canaries.
        count: of canaries.
        rng: of the choice.

    Raises:
        DataError: the unseen images are too few.
    """
    wanted = min(count, len(unseen) // 2) // 2
    if 2 * wanted < MIN_CANARIES:
        raise DataError(
            f"an audit needs at least {MIN_CANARIES} canaries, {len(unseen)} unseen images give "
            f"{2 * wanted}; hold out more images"
        )
    isolated, chosen, kept = pick_canaries(points_of(unseen.pixels), wanted, rng)
    chimeras = unseen.pixels[chosen].copy()
    half = chimeras.shape[1] // 2
    chimeras[:, half:] = real.pixels[rng.integers(0, len(real), wanted), half:]
    canaries = Images(
        np.concatenate([unseen.pixels[isolated], chimeras]),
        np.concatenate([unseen.labels[isolated], unseen.labels[chosen]]),
    )
    return canaries, unseen.take(kept)


def audit_image_canaries(
    synthetic: Images, canaries: Images, inserted: np.ndarray, unseen: Images
) -> CanaryAudit:
    """Guess from the synthetic images which canaries were trained on, and bound ε by the hits.

    A canary's score is its nearness to the synthetic images, calibrated by how isolated it lies
    among unseen ones.

    Args:
        synthetic: sampled from the model that was trained with the canaries.
        canaries: all of them.
        inserted: which ones were among the train images, boolean (N,), by fair coins.
        unseen: real images that were neither trained on nor canaries.
    """
    released, known = points_of(synthetic.pixels), points_of(unseen.pixels)
    scores = distance_scores(points_of(canaries.pixels), released, known)[0][2]
    return bound_epsilon(scores, np.asarray(inserted, dtype=bool))
