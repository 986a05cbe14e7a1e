"""Image metrics without pretrained weights: fidelity, diversity, utility and class bias.

Features come from small networks trained on the real images (``image_features``), so absolute
values are in units of their own; each is set against the same measure between two real samples of
equal size, from which the scale cancels (2306.04675: no single encoder is right; 1911.07023: the
Fréchet distance is biased in n, hence equal n always). Privacy of images is in ``privacy.images``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.ensemble import HistGradientBoostingClassifier

from .base import Dimension, Score, skipped
from .comparison import Comparison
from .image_features import FeatureSpace, ImageFeatures
from .statistics import (
    Estimate,
    auc_with_interval,
    bonferroni,
    bootstrap_interval,
    log_ratio_of_proportions,
    minimum_detectable_auc,
    minimum_detectable_difference,
    subsample_interval,
    wilson,
)

NO_LABELS = "not applicable: no labels"
_MIN_IMAGES = 20
_MIN_CLASS = 10
_NEIGHBOURS = 5
_TINY = 1e-9
_POWER_Z = 2.486  # one-sided 5 %, power 80 %

Statistic = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True, kw_only=True)
class ImageFidelity:
    """Whether synthetic images look like real ones, as networks see them.

    Attributes:
        draws: equal-size samples over which a distance is averaged.
        replicates: half-size samples from which its interval comes.
        detection_limit: images a side for the detection test.
    """

    draws: int = 5
    replicates: int = 30
    detection_limit: int = 2_000

    name: ClassVar[str] = "image-fidelity"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores of distances, ``c2st_auc`` and ``label_fidelity``.

        The distances are ``frechet_ratio``, ``frechet_distance`` and ``kernel_distance``.
        """
        features = comparison.image_features
        metrics = ("frechet_ratio", "frechet_distance", "kernel_distance", "c2st_auc")
        label = label_fidelity(features)
        if reason := _too_few(features):
            return [*(skipped(metric, "fidelity", reason) for metric in metrics), label]
        rng = comparison.rng(self.name)
        return [
            *self._frechet(features, rng),
            kernel_score(features, rng),
            self._detection(features, rng),
            label,
        ]

    def _frechet(self, features: ImageFeatures, rng: np.random.Generator) -> list[Score]:
        n = equal_size(features)
        full = equal_draws(features, frechet_distance, n, self.draws, rng)
        half = equal_draws(features, frechet_distance, n // 2, self.replicates, rng)
        logs = np.log(full + _TINY)
        half_logs = np.log(half + _TINY)
        change = half_logs[..., 0] - half_logs[..., 1]
        ratio = subsample_interval(
            float((logs[..., 0] - logs[..., 1]).mean()), change.mean(axis=1), n // 2, n
        )
        distance = subsample_interval(
            float(full[..., 0].mean()), half[..., 0].mean(axis=1), n // 2, n
        )
        return [
            Score(
                metric="frechet_ratio",
                dimension="fidelity",
                value=float(np.exp(ratio.value)),
                low=float(np.exp(ratio.low)),
                high=float(np.exp(ratio.high)),
                reference=1.0,
                unit="ratio",
                n=n,
                minimum_detectable=float(np.exp(_POWER_Z * (ratio.high - ratio.low) / 3.92)) - 1,
            ),
            Score(
                metric="frechet_distance",
                dimension="fidelity",
                value=distance.value,
                low=max(0.0, distance.low),
                high=distance.high,
                reference=float(full[..., 1].mean()),
                unit="distance",
                n=n,
            ),
        ]

    def _detection(self, features: ImageFeatures, rng: np.random.Generator) -> Score:
        n = min(len(features.synthetic), len(features.holdout), len(features.train))
        n = min(n, self.detection_limit)
        holdout, synthetic, train = (
            part[rng.choice(len(part), n, replace=False)] for part in features.neutral
        )
        found = detection_auc(synthetic, holdout, rng)
        return Score(
            metric="c2st_auc",
            dimension="fidelity",
            value=found.value,
            low=found.low,
            high=found.high,
            reference=detection_auc(train, holdout, rng).value,
            unit="auc",
            n=n,
            minimum_detectable=minimum_detectable_auc(n, n) - 0.5,
        )


@dataclass(frozen=True, kw_only=True)
class ImageDiversity:
    """Whether synthetic images reach what real ones reach.

    Attributes:
        draws: equal-size samples over which coverage is averaged.
        replicates: half-size samples from which its interval comes.
        limit: images a side for the nearest neighbours.
        expected: a class with at least so many images expected must occur.
    """

    draws: int = 5
    replicates: int = 30
    limit: int = 2_000
    expected: float = 20

    name: ClassVar[str] = "image-diversity"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores ``coverage_ratio`` and ``missing_classes``."""
        features = comparison.image_features
        missing = self._missing(features)
        if reason := _too_few(features):
            return [skipped("coverage_ratio", "diversity", reason), missing]
        rng = comparison.rng(self.name)
        n = min(equal_size(features), self.limit)
        full = equal_draws(features, coverage, n, self.draws, rng).mean(axis=0)
        half = equal_draws(features, coverage, n // 2, self.replicates, rng)
        value = float((full[:, 0] / np.maximum(full[:, 1], _TINY)).mean())
        ratios = (half[..., 0] / np.maximum(half[..., 1], _TINY)).mean(axis=1)
        ratio = subsample_interval(value, ratios, n // 2, n)
        score = Score(
            metric="coverage_ratio",
            dimension="diversity",
            value=ratio.value,
            low=max(0.0, ratio.low),
            high=ratio.high,
            reference=1.0,
            unit="ratio",
            n=n,
            minimum_detectable=_POWER_Z * (ratio.high - ratio.low) / 3.92,
            higher_is_better=True,
        )
        return [score, missing]

    def _missing(self, features: ImageFeatures) -> Score:
        if not features.schema.labelled:
            return skipped("missing_classes", "diversity", NO_LABELS)
        train, holdout, synthetic, schema = features.parts
        classes = len(schema.classes)
        real = np.bincount(np.concatenate([train.labels, holdout.labels]), minlength=classes)
        drawn = np.bincount(synthetic.labels, minlength=classes)
        expected = len(synthetic) * real / real.sum()
        count = float(((expected >= self.expected) & (drawn == 0)).sum())
        return Score(
            metric="missing_classes",
            dimension="diversity",
            value=count,
            low=count,
            high=count,
            reference=0.0,
            unit="classes",
            n=len(synthetic),
        )


@dataclass(frozen=True, kw_only=True)
class ImageUtility:
    """Train on synthetic, test on real, beside train on real: one holdout, equal sizes and effort.

    Intervals are paired bootstraps over the holdout's images; networks are averaged (their own
    chance is not in the interval).

    Attributes:
        bootstraps: draws of the bootstrap.
    """

    bootstraps: int = 1_000

    name: ClassVar[str] = "image-utility"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores ``tstr_accuracy``, ``trtr_accuracy``, ``utility_retention`` and ``tstr_gap``.

        The gap, in shares, is given for every class too.
        """
        features = comparison.image_features
        metrics = ("tstr_accuracy", "trtr_accuracy", "utility_retention", "tstr_gap")
        if not features.schema.labelled:
            return [skipped(metric, "utility", NO_LABELS) for metric in metrics]
        if reason := _too_few(features):
            return [skipped(metric, "utility", reason) for metric in metrics]
        rng = comparison.rng(self.name)
        hits = np.stack(
            [
                features.hits(classifiers, features.holdout).mean(axis=0)
                for classifiers in (features.synthetic_classifiers, features.real_classifiers)
            ],
            axis=1,
        )
        reference = float(hits[:, 1].mean())
        return [
            self._accuracy("tstr_accuracy", hits[:, :1], reference, rng),
            self._accuracy("trtr_accuracy", hits[:, 1:], reference, rng),
            self._retention(features, hits, rng),
            *self._gaps(features, hits, rng),
        ]

    def _accuracy(
        self, metric: str, hits: np.ndarray, reference: float, rng: np.random.Generator
    ) -> Score:
        estimate = self._bootstrap(hits, rng, lambda drawn: float(drawn.mean()), 1)
        return _share(metric, "utility", estimate, len(hits), reference, higher=True)

    def _gaps(
        self, features: ImageFeatures, hits: np.ndarray, rng: np.random.Generator
    ) -> Iterator[Score]:
        labels, classes = features.holdout.labels, features.schema.classes
        groups = [("all", np.ones(len(labels), dtype=bool))]
        groups += [(name, labels == number) for number, name in enumerate(classes)]
        for name, members in groups:
            count = int(members.sum())
            if count < _MIN_CLASS:
                reason = f"needs {_MIN_CLASS} holdout images of the class, got {count}"
                yield skipped("tstr_gap", "utility", reason, name)
                continue
            gap = self._bootstrap(
                hits[members], rng, lambda drawn: float((drawn[:, 1] - drawn[:, 0]).mean()), 2
            )
            yield _share("tstr_gap", "utility", gap, count, 0.0, subject=name)

    def _retention(
        self, features: ImageFeatures, hits: np.ndarray, rng: np.random.Generator
    ) -> Score:
        metric = "utility_retention"
        common = np.bincount(features.train.labels).argmax()
        guess = (features.holdout.labels == common).astype(np.float64)[:, None]
        table = np.hstack([hits, guess])
        lift = self._bootstrap(
            table, rng, lambda drawn: float((drawn[:, 1] - drawn[:, 2]).mean()), 3
        )
        if lift.low <= 0:
            reason = "real images teach no more than guessing the commonest class; nothing to keep"
            return skipped(metric, "utility", reason)
        kept = self._bootstrap(table, rng, _retained, 3)
        return Score(
            metric=metric,
            dimension="utility",
            value=kept.value,
            low=kept.low,
            high=kept.high,
            reference=1.0,
            unit="ratio",
            n=len(hits),
            minimum_detectable=_POWER_Z * (kept.high - kept.low) / 3.92,
            higher_is_better=True,
        )

    def _bootstrap(
        self,
        table: np.ndarray,
        rng: np.random.Generator,
        statistic: Callable[[np.ndarray], float],
        columns: int,
    ) -> Estimate:
        # One made-up image in favour of each side: no interval has width zero (Bonett & Price
        # 2012, Statistics in Medicine 31, 1697).
        doubt = np.vstack([np.arange(columns) % 2, (np.arange(columns) + 1) % 2])
        padded = np.vstack([table, doubt])
        low, high = bootstrap_interval(padded, statistic, rng, self.bootstraps)[1:]
        value = statistic(table)
        return Estimate(value, min(value, low), max(value, high))


@dataclass(frozen=True, kw_only=True)
class ImageBias:
    """Whether every class has its real share."""

    name: ClassVar[str] = "image-bias"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Score ``class_representation_worst``, at least 1.

        The share of the worst class over its real share, or the reverse; Bonferroni over classes.
        """
        metric = "class_representation_worst"
        train, holdout, synthetic, schema = comparison.image_features.parts
        if not schema.labelled:
            return [skipped(metric, "bias", NO_LABELS)]
        classes = len(schema.classes)
        found = _class_ratios(synthetic.labels, holdout.labels, classes)
        real = _class_ratios(train.labels, holdout.labels, classes)
        worst = max(found, key=_surely_off)
        return [
            Score(
                metric=metric,
                dimension="bias",
                value=float(np.exp(abs(worst.value))),
                low=float(np.exp(_surely_off(worst)[0])),
                high=float(np.exp(max(abs(worst.low), abs(worst.high)))),
                reference=float(np.exp(max(abs(estimate.value) for estimate in real))),
                unit="ratio",
                n=len(synthetic),
                minimum_detectable=float(np.exp((worst.high - worst.low) / 2)) - 1,
            )
        ]


def label_fidelity(features: ImageFeatures) -> Score:
    """Share of synthetic images to which real-trained classifiers give their label.

    The reference is the same share among the holdout's images.
    """
    if not features.schema.labelled:
        return skipped("label_fidelity", "fidelity", NO_LABELS)
    right = float(features.hits(features.real_classifiers, features.synthetic).mean())
    n = len(features.synthetic)
    bounds = wilson(right * n, n)
    reference = float(features.hits(features.real_classifiers, features.holdout).mean())
    estimate = Estimate(right, bounds.low, bounds.high)
    return _share("label_fidelity", "fidelity", estimate, n, reference, higher=True)


def kernel_score(features: ImageFeatures, rng: np.random.Generator) -> Score:
    """``kernel_distance``: mean unbiased MMD² over disjoint blocks, with Student's interval.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401.
    """
    n = equal_size(features)
    blocks = int(np.clip(n // 50, 2, 10))
    found = np.zeros((blocks, 2))
    for space in features.spaces:
        # One kernel for both distances, centred where its cube is steady.
        centre, scale = space.reference.mean(axis=0), _spread(space.reference)
        parts = [
            np.array_split((part[rng.choice(len(part), n, replace=False)] - centre) / scale, blocks)
            for part in (space.synthetic, space.reference, space.holdout)
        ]
        for number, (synthetic, real, holdout) in enumerate(zip(*parts, strict=True)):
            found[number] += kernel_distance(synthetic, holdout), kernel_distance(real, holdout)
    found /= len(features.spaces)
    value, real_value = found.mean(axis=0)
    error = float(found[:, 0].std(ddof=1) / np.sqrt(blocks))
    half = float(stats.t.ppf(0.975, blocks - 1)) * error
    return Score(
        metric="kernel_distance",
        dimension="fidelity",
        value=float(value),
        low=float(value) - half,
        high=float(value) + half,
        reference=float(real_value),
        unit="distance",
        n=n,
        minimum_detectable=_POWER_Z * error,
    )


def frechet_distance(first: np.ndarray, other: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two samples, shape (N, F) each.

    Source: Dowson & Landau 1982, J. Multivariate Analysis 12, 450; Heusel et al. 2017.
    """
    shift = first.mean(axis=0) - other.mean(axis=0)
    one, two = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (first, other))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ two @ root)
    overlap = np.sqrt(np.maximum(between, 0)).sum()
    distance = shift @ shift + np.trace(one) + np.trace(two) - 2 * overlap
    return max(0.0, float(distance))


def kernel_distance(first: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel (x·y / F + 1)³."""
    width = first.shape[1]
    within = []
    for sample in (first, other):
        kernel = (sample @ sample.T / width + 1) ** 3
        size = len(sample)
        within.append((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))
    between = ((first @ other.T / width + 1) ** 3).mean()
    return float(sum(within) - 2 * between)


def coverage(candidate: np.ndarray, holdout: np.ndarray) -> float:
    """Share of holdout points with a candidate within the distance of their k-th neighbour.

    Source: Naeem et al. 2020, arXiv:2002.09797, equation 10, k = 5.
    """
    k = min(_NEIGHBOURS, len(holdout) - 1)
    radius = np.partition(cdist(holdout, holdout), k, axis=1)[:, k]
    return float((cdist(holdout, candidate).min(axis=1) <= radius).mean())


def detection_auc(synthetic: np.ndarray, holdout: np.ndarray, rng: np.random.Generator) -> Estimate:
    """AUC of boosted trees that tell two samples apart, two-fold out of fold."""
    data = np.vstack([synthetic, holdout])
    labels = np.repeat([1, 0], [len(synthetic), len(holdout)])
    fold = rng.permutation(len(data)) % 2
    scores = np.empty(len(data))
    for part in (0, 1):
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=0
        )
        model.fit(data[fold != part], labels[fold != part])
        scores[fold == part] = model.decision_function(data[fold == part])
    return auc_with_interval(scores[labels == 1], scores[labels == 0])


def equal_size(features: ImageFeatures) -> int:
    """Images that synthetic, holdout and every real reference can all give."""
    smallest = min(len(space.reference) for space in features.spaces)
    return min(len(features.synthetic), len(features.holdout), smallest)


def equal_draws(
    features: ImageFeatures, statistic: Statistic, n: int, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """The statistic of ``n`` random images a side, shape (draws, spaces, 2).

    The last axis holds synthetic against holdout, and real reference against holdout. All spaces
    of a draw see the same synthetic and holdout images, so that averages over spaces are fair.
    """
    found = np.empty((draws, len(features.spaces), 2))
    for draw in range(draws):
        synthetic = rng.choice(len(features.synthetic), n, replace=False)
        holdout = rng.choice(len(features.holdout), n, replace=False)
        for position, space in enumerate(features.spaces):
            found[draw, position] = _against(space, statistic, synthetic, holdout, rng)
    return found


def _against(
    space: FeatureSpace,
    statistic: Statistic,
    synthetic: np.ndarray,
    holdout: np.ndarray,
    rng: np.random.Generator,
) -> tuple[float, float]:
    real = rng.choice(len(space.reference), len(synthetic), replace=False)
    against = space.holdout[holdout]
    return (
        statistic(space.synthetic[synthetic], against),
        statistic(space.reference[real], against),
    )


def _too_few(features: ImageFeatures) -> str | None:
    counts = {
        "synthetic": len(features.synthetic),
        "train": len(features.train) // 2,
        "holdout": len(features.holdout),
    }
    for part, count in counts.items():
        if count < _MIN_IMAGES:
            needed = _MIN_IMAGES * 2 if part == "train" else _MIN_IMAGES
            return f"needs at least {needed} {part} images; give more"
    return None


def _share(
    metric: str,
    dimension: Dimension,
    estimate: Estimate,
    n: int,
    reference: float,
    *,
    higher: bool = False,
    subject: str = "all",
) -> Score:
    return Score(
        metric=metric,
        dimension=dimension,
        subject=subject,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=reference,
        n=n,
        minimum_detectable=minimum_detectable_difference(max(reference, 1 / n), n, n)
        if reference
        else _POWER_Z * (estimate.high - estimate.low) / 3.92,
        higher_is_better=higher,
    )


def _spread(points: np.ndarray) -> float:
    """Root mean variance over the features; a dead feature does not blow up the others."""
    return float(np.sqrt(points.var(axis=0).mean())) or 1.0


def _retained(drawn: np.ndarray) -> float:
    synthetic, real, guess = drawn.mean(axis=0)
    return float((synthetic - guess) / max(real - guess, _TINY))


def _surely_off(estimate: Estimate) -> tuple[float, float]:
    """How far the interval of a log ratio surely is from 0, then how far the estimate is."""
    sure = max(0.0, estimate.low, -estimate.high)
    return sure, abs(estimate.value)


def _class_ratios(labels: np.ndarray, holdout: np.ndarray, classes: int) -> list[Estimate]:
    """Log ratios of the class shares, first over holdout, that hold together at 95 %."""
    level = bonferroni(0.95, classes)
    counts, others = (np.bincount(part, minlength=classes) for part in (labels, holdout))
    return [
        log_ratio_of_proportions(int(count), len(labels), int(other), len(holdout), level)
        for count, other in zip(counts, others, strict=True)
    ]
