"""Image metrics: fidelity, diversity, utility and class bias.

Features come from small networks trained on the real images (``image_features``), so absolute
values are in units of their own; each is set against the same measure between two real samples of
equal size, from which the scale cancels (2306.04675: no single encoder is right; 1911.07023: the
Fréchet distance is biased in n, hence equal n always). A pretrained network that the user has goes
the same way, as a subject of its own. Privacy of images is in ``privacy.images``, brightness and
detail in ``image_appearance``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from scipy import stats

from .base import Dimension, Score, skipped
from .comparison import Comparison
from .image_distances import (
    clipped_coverage,
    clipped_density,
    detection_auc,
    frechet_distance,
    kernel_distance,
    sliced_wasserstein,
    spread,
)
from .image_features import FeatureSpace, ImageFeatures
from .statistics import (
    Estimate,
    bonferroni,
    bootstrap_interval,
    log_ratio_of_proportions,
    minimum_detectable_auc,
    minimum_detectable_difference,
    subsample_interval,
    two_proportion_difference,
    wilson,
)

NO_LABELS = "not applicable: no labels"
_MIN_IMAGES = 20
_MIN_CLASS = 10
_TINY = 1e-9
_POWER_Z = 2.486  # one-sided 5 %, power 80 %

Statistic = Callable[[np.ndarray, np.ndarray], float]


class Draws(NamedTuple):
    """A statistic of equal-size samples, shape (draws, spaces, 2); see ``equal_draws``.

    Attributes:
        full: samples of ``n`` images a side.
        half: samples of half as many, for the interval.
        n: images a side.
    """

    full: np.ndarray
    half: np.ndarray
    n: int

    def of(self, spaces: slice) -> Draws:
        """The draws of some of the spaces."""
        return Draws(self.full[:, spaces], self.half[:, spaces], self.n)

    def ratio(self) -> Estimate:
        """Synthetic over real, geometric mean over the spaces."""
        logs, half = np.log(self.full + _TINY), np.log(self.half + _TINY)
        change = (half[..., 0] - half[..., 1]).mean(axis=1)
        value = float((logs[..., 0] - logs[..., 1]).mean())
        found = subsample_interval(value, change, self.n // 2, self.n)
        return Estimate(*np.exp(found).tolist())

    def share(self, level: float = 0.95) -> Estimate:
        """Synthetic over real of a share that may be zero, mean over the spaces."""
        full = self.full.mean(axis=0)
        value = float((full[:, 0] / np.maximum(full[:, 1], _TINY)).mean())
        ratios = (self.half[..., 0] / np.maximum(self.half[..., 1], _TINY)).mean(axis=1)
        found = subsample_interval(value, ratios, self.n // 2, self.n, level)
        # Nothing reached among n images is known no better than a count of zero.
        return Estimate(value, max(0.0, found.low), max(found.high, value + 3 / self.n))

    def value(self) -> tuple[Estimate, float]:
        """The statistic of the synthetic images, and the mean of the real ones."""
        half = self.half[..., 0].mean(axis=1)
        found = subsample_interval(float(self.full[..., 0].mean()), half, self.n // 2, self.n)
        return found, float(self.full[..., 1].mean())


@dataclass(frozen=True, kw_only=True)
class ImageFidelity:
    """Whether synthetic images look like real ones, as networks see them.

    Attributes:
        draws: equal-size samples over which a distance is averaged.
        replicates: half-size samples from which its interval comes.
        limit: images a side for nearest neighbours and for the detection test.
    """

    draws: int = 5
    replicates: int = 30
    limit: int = 2_000

    name: ClassVar[str] = "image-fidelity"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores of distances, ``density_ratio``, ``c2st_auc`` and ``label_fidelity``.

        The distances are ``frechet_ratio``, ``frechet_distance``, ``kernel_distance`` and
        ``sliced_wasserstein_ratio``; ratios stand for every network too.
        """
        features = comparison.image_features
        labels = label_fidelity(features)
        if reason := _too_few(features):
            metrics = (
                "frechet_ratio",
                "frechet_distance",
                "kernel_distance",
                "sliced_wasserstein_ratio",
                "density_ratio",
                "c2st_auc",
            )
            return [*(skipped(metric, "fidelity", reason) for metric in metrics), *labels]
        rng = comparison.rng(self.name)
        return [
            *self._networks(features, rng),
            *kernel_scores(features, rng),
            self._detection(features, rng),
            *labels,
        ]

    def _networks(self, features: ImageFeatures, rng: np.random.Generator) -> Iterator[Score]:
        seed = int(rng.integers(2**32))

        def sliced(first: np.ndarray, other: np.ndarray) -> float:
            return sliced_wasserstein(first, other, np.random.default_rng(seed))

        for spaces in _families(features):
            n = equal_size(spaces)
            few = min(n, self.limit)
            frechet = self._drawn(spaces, frechet_distance, n, rng)
            yield from _by_network("frechet_ratio", "fidelity", frechet, spaces)
            if len(spaces) > 1:
                yield _distance("frechet_distance", frechet)
            apart = self._drawn(spaces, sliced, n, rng)
            yield from _by_network("sliced_wasserstein_ratio", "fidelity", apart, spaces)
            dense = self._drawn(spaces, clipped_density, few, rng)
            yield from _by_network("density_ratio", "fidelity", dense, spaces, higher=True)

    def _drawn(
        self,
        spaces: Sequence[FeatureSpace],
        statistic: Statistic,
        n: int,
        rng: np.random.Generator,
    ) -> Draws:
        return Draws(
            equal_draws(spaces, statistic, n, self.draws, rng),
            equal_draws(spaces, statistic, n // 2, self.replicates, rng),
            n,
        )

    def _detection(self, features: ImageFeatures, rng: np.random.Generator) -> Score:
        """Reported and never gated at one half: a network tells good images from real ones.

        Source: arXiv:2405.18029.
        """
        n = min(len(features.synthetic), len(features.holdout), len(features.train))
        n = min(n, self.limit)
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
    """Whether synthetic images reach what real ones reach, in every class, and repeat none.

    Attributes:
        draws: equal-size samples over which coverage is averaged.
        replicates: half-size samples from which its interval comes.
        limit: images a side for the nearest neighbours.
        class_limit: the same within a class.
        expected: a class with at least so many images expected must occur.
    """

    draws: int = 5
    replicates: int = 30
    limit: int = 2_000
    class_limit: int = 200
    expected: float = 20

    name: ClassVar[str] = "image-diversity"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores of coverage, of every class too, ``missing_classes`` and ``duplicate_excess``.

        ``coverage_ratio`` and ``class_coverage_worst`` are clipped coverage over that of a fresh
        real sample.
        """
        features = comparison.image_features
        others = [self._missing(features), duplicates(features)]
        if reason := _too_few(features):
            metrics = ("coverage_ratio", "class_coverage_worst")
            return [*(skipped(metric, "diversity", reason) for metric in metrics), *others]
        rng = comparison.rng(self.name)
        scores: list[Score] = []
        for spaces in _families(features):
            n = min(equal_size(spaces), self.limit)
            found = self._drawn(spaces, n, rng)
            scores += _by_network("coverage_ratio", "diversity", found, spaces, higher=True)
        return [*scores, *self._classes(features, rng), *others]

    def _drawn(self, spaces: Sequence[FeatureSpace], n: int, rng: np.random.Generator) -> Draws:
        return Draws(
            equal_draws(spaces, clipped_coverage, n, self.draws, rng),
            equal_draws(spaces, clipped_coverage, n // 2, self.replicates, rng),
            n,
        )

    def _classes(self, features: ImageFeatures, rng: np.random.Generator) -> Iterator[Score]:
        """``class_coverage`` of every class within itself, and the worst of them."""
        worst = "class_coverage_worst"
        if not features.schema.labelled:
            yield skipped(worst, "diversity", NO_LABELS)
            return
        found: dict[str, Draws] = {}
        for number, name in enumerate(features.schema.classes):
            spaces = features.of_class(number)
            n = min(equal_size(spaces), self.class_limit)
            if n < _MIN_IMAGES:
                reason = f"needs {_MIN_IMAGES} images of the class in each part, got {n}"
                yield skipped("class_coverage", "diversity", reason, name)
            else:
                found[name] = self._drawn(spaces, n, rng)
        if not found:
            reason = f"not applicable: no class has {_MIN_IMAGES} images in each part"
            yield skipped(worst, "diversity", reason)
            return
        for name, drawn in found.items():
            yield _relative("class_coverage", "diversity", drawn.share(), drawn.n, name, True)
        level = bonferroni(0.95, len(found))
        sure = {name: drawn.share(level) for name, drawn in found.items()}
        lowest = min(sure, key=lambda name: (sure[name].high, sure[name].value))
        yield _relative(worst, "diversity", sure[lowest], found[lowest].n, "all", True)

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
        """Accuracies, ``utility_retention``, ``tstr_gap`` of every class and ``tstr_gap_worst``.

        ``tstr_accuracy`` and ``trtr_accuracy`` are those of classifiers that learned synthetic and
        real images; the gap is the difference, in shares.
        """
        features = comparison.image_features
        metrics = (
            "tstr_accuracy",
            "trtr_accuracy",
            "utility_retention",
            "tstr_gap",
            "tstr_gap_worst",
        )
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
        yield self._gap("tstr_gap", hits, rng)
        groups = {name: hits[labels == number] for number, name in enumerate(classes)}
        assessed = {name: group for name, group in groups.items() if len(group) >= _MIN_CLASS}
        for name, group in groups.items():
            if name in assessed:
                yield replace(self._gap("tstr_gap", group, rng), subject=name)
            else:
                reason = f"needs {_MIN_CLASS} holdout images of the class, got {len(group)}"
                yield skipped("tstr_gap", "utility", reason, name)
        if not assessed:
            reason = f"not applicable: no class has {_MIN_CLASS} holdout images"
            yield skipped("tstr_gap_worst", "utility", reason)
            return
        level = bonferroni(0.95, len(assessed))
        sure = [self._gap("tstr_gap_worst", group, rng, level) for group in assessed.values()]
        yield max(sure, key=lambda score: (score.low or 0.0, score.value or 0.0))

    def _gap(
        self, metric: str, hits: np.ndarray, rng: np.random.Generator, level: float = 0.95
    ) -> Score:
        found = self._bootstrap(
            hits, rng, lambda drawn: float((drawn[:, 1] - drawn[:, 0]).mean()), 2, level
        )
        return _share(metric, "utility", found, len(hits), 0.0)

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
        level: float = 0.95,
    ) -> Estimate:
        # One made-up image in favour of each side: no interval has width zero (Bonett & Price
        # 2012, Statistics in Medicine 31, 1697).
        doubt = np.vstack([np.arange(columns) % 2, (np.arange(columns) + 1) % 2])
        padded = np.vstack([table, doubt])
        low, high = bootstrap_interval(padded, statistic, rng, self.bootstraps, level)[1:]
        value = statistic(table)
        return Estimate(value, min(value, low), max(value, high))


@dataclass(frozen=True, kw_only=True)
class ImageBias:
    """Whether every class has its real share."""

    name: ClassVar[str] = "image-bias"
    modality: ClassVar[Literal["image"]] = "image"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores ``class_share_ratio`` of every class, and ``class_representation_worst``.

        The latter is at least 1: the share of the worst class over its real share, or the
        reverse; Bonferroni over classes.
        """
        metric = "class_representation_worst"
        train, holdout, synthetic, schema = comparison.image_features.parts
        if not schema.labelled:
            return [skipped(metric, "bias", NO_LABELS)]
        classes = len(schema.classes)
        level = bonferroni(0.95, classes)
        found = _class_ratios(synthetic.labels, holdout.labels, classes, level)
        real = _class_ratios(train.labels, holdout.labels, classes, level)
        worst = max(found, key=_surely_off)
        shares = _class_ratios(synthetic.labels, holdout.labels, classes, 0.95)
        return [
            *(
                _class_share(name, share, other, len(synthetic))
                for name, share, other in zip(schema.classes, shares, real, strict=True)
            ),
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
            ),
        ]


def _class_share(name: str, share: Estimate, real: Estimate, n: int) -> Score:
    value, low, high = np.exp(share).tolist()
    return Score(
        metric="class_share_ratio",
        dimension="bias",
        subject=name,
        value=value,
        low=low,
        high=high,
        reference=float(np.exp(real.value)),
        unit="ratio",
        n=n,
    )


def label_fidelity(features: ImageFeatures) -> list[Score]:
    """Share of synthetic images to which real-trained classifiers give their label.

    The reference is the same share among the holdout's images. ``label_fidelity_loss_worst`` is
    how much rarer that is in the worst class than among real images of that class.
    """
    metric, worst = "label_fidelity", "label_fidelity_loss_worst"
    if not features.schema.labelled:
        return [skipped(name, "fidelity", NO_LABELS) for name in (metric, worst)]
    made = features.hits(features.real_classifiers, features.synthetic).mean(axis=0)
    real = features.hits(features.real_classifiers, features.holdout).mean(axis=0)
    scores, pairs = [_label_share(made, real, "all")], []
    for number, name in enumerate(features.schema.classes):
        pair = made[features.synthetic.labels == number], real[features.holdout.labels == number]
        if min(map(len, pair)) >= _MIN_CLASS:
            pairs.append(pair)
            scores.append(_label_share(*pair, name))
        else:
            reason = f"needs {_MIN_CLASS} synthetic and holdout images of the class"
            scores.append(skipped(metric, "fidelity", reason, name))
    if not pairs:
        reason = f"not applicable: no class has {_MIN_CLASS} images on both sides"
        return [*scores, skipped(worst, "fidelity", reason)]
    level = bonferroni(0.95, len(pairs))
    losses = [
        two_proportion_difference(known.sum(), len(known), shown.sum(), len(shown), level)
        for shown, known in pairs
    ]
    at = max(range(len(losses)), key=lambda number: (losses[number].low, losses[number].value))
    return [*scores, _share(worst, "fidelity", losses[at], len(pairs[at][0]), 0.0)]


def _label_share(made: np.ndarray, real: np.ndarray, subject: str) -> Score:
    right, n = float(made.mean()), len(made)
    bounds = wilson(right * n, n)
    estimate = Estimate(right, bounds.low, bounds.high)
    return _share(
        "label_fidelity", "fidelity", estimate, n, float(real.mean()), higher=True, subject=subject
    )


def duplicates(features: ImageFeatures) -> Score:
    """``duplicate_excess``: share of images equal to an earlier one, synthetic less train."""
    train, _, synthetic, _ = features.parts
    n = min(len(train), len(synthetic))
    found, natural = (
        n - len(np.unique(part.pixels[:n].reshape(n, -1), axis=0)) for part in (synthetic, train)
    )
    excess = two_proportion_difference(found, n, natural, n)
    return Score(
        metric="duplicate_excess",
        dimension="diversity",
        value=excess.value,
        low=excess.low,
        high=excess.high,
        reference=0.0,
        n=n,
        minimum_detectable=minimum_detectable_difference(max(natural, 1) / n, n, n),
    )


def kernel_scores(features: ImageFeatures, rng: np.random.Generator) -> Iterator[Score]:
    """``kernel_distance``: mean unbiased MMD² over disjoint blocks, with Student's interval.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401.
    """
    for spaces in _families(features):
        n = equal_size(spaces)
        blocks = int(np.clip(n // 50, 2, 10))
        found = np.mean([_kernel_blocks(space, n, blocks, rng) for space in spaces], axis=0)
        value, real_value = found.mean(axis=0)
        error = float(found[:, 0].std(ddof=1) / np.sqrt(blocks))
        half = float(stats.t.ppf(0.975, blocks - 1)) * error
        yield Score(
            metric="kernel_distance",
            dimension="fidelity",
            subject=_family_name(spaces),
            value=float(value),
            low=float(value) - half,
            high=float(value) + half,
            reference=float(real_value),
            unit="distance",
            n=n,
            minimum_detectable=_POWER_Z * error,
        )


def _kernel_blocks(
    space: FeatureSpace, n: int, blocks: int, rng: np.random.Generator
) -> np.ndarray:
    """Distances of synthetic and of real images to the holdout, shape (blocks, 2)."""
    # One kernel for both distances, centred where its cube is steady.
    centre, scale = space.reference.mean(axis=0), spread(space.reference)
    parts = [
        np.array_split((part[rng.choice(len(part), n, replace=False)] - centre) / scale, blocks)
        for part in (space.synthetic, space.reference, space.holdout)
    ]
    return np.array(
        [
            (kernel_distance(synthetic, holdout), kernel_distance(real, holdout))
            for synthetic, real, holdout in zip(*parts, strict=True)
        ]
    )


def _families(features: ImageFeatures) -> Iterator[Sequence[FeatureSpace]]:
    """The networks whose results are averaged; a pretrained one stands alone."""
    yield features.spaces
    if features.pretrained is not None:
        yield (features.pretrained,)


def _family_name(spaces: Sequence[FeatureSpace]) -> str:
    return "all" if len(spaces) > 1 else spaces[0].name


def _by_network(
    metric: str,
    dimension: Dimension,
    drawn: Draws,
    spaces: Sequence[FeatureSpace],
    *,
    higher: bool = False,
) -> Iterator[Score]:
    """The ratio over all networks together, then of each."""
    subjects = [(_family_name(spaces), slice(None))]
    if len(spaces) > 1:
        subjects += [(space.name, slice(at, at + 1)) for at, space in enumerate(spaces)]
    for subject, chosen in subjects:
        part = drawn.of(chosen)
        estimate = part.share() if higher else part.ratio()
        yield _relative(metric, dimension, estimate, drawn.n, subject, higher)


def _relative(
    metric: str, dimension: Dimension, estimate: Estimate, n: int, subject: str, higher: bool
) -> Score:
    width = _POWER_Z * (estimate.high - estimate.low) / 3.92
    if not higher:
        width = float(np.exp(_POWER_Z * np.log(estimate.high / estimate.low) / 3.92)) - 1
    return Score(
        metric=metric,
        dimension=dimension,
        subject=subject,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=1.0,
        unit="ratio",
        n=n,
        minimum_detectable=width,
        higher_is_better=higher,
    )


def _distance(metric: str, drawn: Draws) -> Score:
    found, real = drawn.value()
    return Score(
        metric=metric,
        dimension="fidelity",
        value=found.value,
        low=max(0.0, found.low),
        high=found.high,
        reference=real,
        unit="distance",
        n=drawn.n,
    )


def equal_size(spaces: Sequence[FeatureSpace]) -> int:
    """Images that synthetic, holdout and every real reference can all give."""
    return min(len(part) for s in spaces for part in (s.synthetic, s.holdout, s.reference))


def equal_draws(
    spaces: Sequence[FeatureSpace],
    statistic: Statistic,
    n: int,
    draws: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The statistic of ``n`` random images a side, shape (draws, spaces, 2).

    The last axis holds synthetic against holdout, and real reference against holdout. All spaces
    of a draw see the same synthetic and holdout images, so that averages over spaces are fair.
    """
    found = np.empty((draws, len(spaces), 2))
    for draw in range(draws):
        synthetic = rng.choice(len(spaces[0].synthetic), n, replace=False)
        holdout = rng.choice(len(spaces[0].holdout), n, replace=False)
        for position, space in enumerate(spaces):
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


def _retained(drawn: np.ndarray) -> float:
    synthetic, real, guess = drawn.mean(axis=0)
    return float((synthetic - guess) / max(real - guess, _TINY))


def _surely_off(estimate: Estimate) -> tuple[float, float]:
    """How far the interval of a log ratio surely is from 0, then how far the estimate is."""
    sure = max(0.0, estimate.low, -estimate.high)
    return sure, abs(estimate.value)


def _class_ratios(
    labels: np.ndarray, holdout: np.ndarray, classes: int, level: float
) -> list[Estimate]:
    """Log ratios of the class shares, first over holdout."""
    counts, others = (np.bincount(part, minlength=classes) for part in (labels, holdout))
    return [
        log_ratio_of_proportions(int(count), len(labels), int(other), len(holdout), level)
        for count, other in zip(counts, others, strict=True)
    ]
