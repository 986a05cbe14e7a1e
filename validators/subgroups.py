"""Subgroups: is every protected group drawn as faithfully, and served as well, as the rest?

An average hides a group that the generator learned badly. For each group: the distance of its
columns to the same group of the holdout, and what a model trained on synthetic rows does to it
beside one trained on real rows (TPR, FPR, AUC). Model skill differs from one training sample to the
next; the intervals hold that error too, since fresh real rows must not be accused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from .base import Score, skipped
from .bias import MIN_PART, Bias, Group, Labels, largest, outcome
from .binning import TableView
from .comparison import Comparison, Rows
from .features import Features
from .fidelity import Distance, Noise, column_distances, mean_distance
from .statistics import Estimate, auc_components, bonferroni

METRICS = ("subgroup_tvd", "equalised_odds_drift", "subgroup_auc_loss")
_POWER = 2.487


@dataclass(kw_only=True)
class Subgroups:
    """Fidelity and utility of each protected group, and of their two-way intersections.

    Attributes:
        min_rows: groups with fewer rows in a table are listed as not assessable.
        fidelity_rows: at most so many rows of a group enter its fidelity.
        draws: resamples for the null and the interval of a group's fidelity.
        rows: at most so many rows train a model.
        repeats: models for each training set, each on a bootstrap sample of its rows.
        iterations: trees of a model.
    """

    min_rows: int = 30
    fidelity_rows: int = 2_000
    draws: int = 60
    rows: int = 8_000
    repeats: int = 8
    iterations: int = 30

    name: ClassVar[str] = "subgroups"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``METRICS`` per group, and the worst group of each (``..._worst``)."""
        schema = comparison.frames()[3]
        if not schema.protected:
            return _none("not applicable: no protected column declared", *METRICS)
        if comparison.equal_size < self.min_rows:
            return _none(f"needs at least {self.min_rows} rows in each table", *METRICS)
        groups = list(Bias(min_rows=self.min_rows).groups(comparison))
        return [*self._fidelity(comparison, groups), *self._odds(comparison, groups)]

    def _fidelity(self, comparison: Comparison, groups: list[Group]) -> list[Score]:
        metric = METRICS[0]
        if not comparison.coarse.columns:
            return _none("not applicable: no column is modelled, only ids and text", metric)
        found: list[tuple[Group, list[Distance], int]] = []
        small: list[Score] = []
        for group in groups:
            rows = self._rows_of(comparison, group)
            if len(rows) < self.min_rows:
                small.append(self._small(metric, group))
                continue
            rng = comparison.rng(f"{self.name}/{group.subject}/noise")
            noise = Noise.draw(len(rows), self.draws, rng)
            distances = [
                distance
                for distance in column_distances(comparison.coarse, rows, noise)
                if distance.subject not in group.columns
            ]
            if distances:
                found.append((group, distances, len(rows)))
        if not found:
            return [*small, *_none(f"no group has {self.min_rows} rows in each table", metric)]
        each = [
            replace(mean_distance(metric, distances, n), dimension="bias", subject=group.subject)
            for group, distances, n in found
        ]
        level = bonferroni(0.95, len(found))
        sure = [mean_distance(metric, distances, n, level) for _, distances, n in found]
        worst = max(sure, key=lambda score: score.value or 0.0)
        summary = replace(
            worst,
            metric=f"{metric}_worst",
            dimension="bias",
            low=max(score.low or 0.0 for score in sure),
            high=max(score.high or 0.0 for score in sure),
            reference=max(score.reference or 0.0 for score in sure),
        )
        return [*each, *small, summary]

    def _rows_of(self, comparison: Comparison, group: Group) -> Rows:
        """Equally many random rows of the group in each table: the null depends on their number."""
        rng = comparison.rng(f"{self.name}/{group.subject}/rows")
        members = [np.flatnonzero(part) for part in (group.train, group.holdout, group.synthetic)]
        size = min(self.fidelity_rows, *(len(part) for part in members))
        return Rows(*(np.sort(rng.choice(part, size, replace=False)) for part in members))

    def _odds(self, comparison: Comparison, groups: list[Group]) -> list[Score]:
        labels = outcome(comparison)
        if isinstance(labels, str):
            return _none(labels, *METRICS[1:])
        if labels.unit != "share":
            return _none("not applicable: TPR and FPR need an outcome of classes", *METRICS[1:])
        models = self._models(comparison, labels)
        if isinstance(models, str):
            return _none(models, *METRICS[1:])
        groups = [group for group in groups if labels.column not in group.columns]
        scores: list[Score] = []
        for metric, measure in ((METRICS[1], _odds_drift), (METRICS[2], _auc_loss)):
            scores += self._measured(metric, measure, models, groups)
        return scores

    def _measured(
        self,
        metric: str,
        measure: Callable[[_Pair, np.ndarray], list[_Change]],
        models: _Models,
        groups: list[Group],
    ) -> list[Score]:
        scores: list[Score] = []
        changes: list[_Change] = []
        references: list[float] = []
        for group in groups:
            members = group.holdout[models.tested]
            of_group = measure(models.candidate, members)
            if members.sum() < self.min_rows or not of_group:
                scores.append(self._small(metric, group))
                continue
            reference = _worst(
                metric, [c.estimate(0.95) for c in measure(models.real, members)]
            ).value
            sure = bonferroni(0.95, len(of_group))
            size = _worst(metric, [change.estimate(sure) for change in of_group])
            scores.append(_score(metric, group.subject, size, reference, models.n))
            changes += of_group
            references.append(reference)
        if not changes:
            return [*scores, *_none(f"no group has {MIN_PART} holdout rows a class", metric)]
        level = bonferroni(0.95, len(changes))
        worst = _worst(metric, [change.estimate(level) for change in changes])
        return [*scores, _score(f"{metric}_worst", "all", worst, max(references), models.n)]

    def _models(self, comparison: Comparison, labels: Labels) -> _Models | str:
        table = comparison.coarse
        features = Features.of(table, without=(table.position(labels.column),))
        if not features.numbers and not features.levels:
            return "not applicable: a prediction needs two columns that are modelled"
        rng = comparison.rng(f"{self.name}/models")
        train, synthetic, tested = (
            rng.permutation(np.flatnonzero(~np.isnan(labels.values[name])))
            for name in ("train", "synthetic", "holdout")
        )
        tested = np.sort(tested)
        size = min(len(train), len(synthetic), self.rows)
        if size < self.min_rows or len(tested) < self.min_rows:
            return f"needs {self.min_rows} rows with an outcome in each table"
        inputs = features.for_trees(table.holdout.take(tested))

        def fitted(view: TableView, targets: np.ndarray, rows: np.ndarray) -> np.ndarray:
            learn = features.for_trees(view.take(rows)), targets[rows]
            return self._predictions(*learn, inputs, features.categorical, rng)

        halves = train[:size][::2], train[:size][1::2]
        of_real = labels.values["train"]
        predictions = [
            fitted(table.synthetic, labels.values["synthetic"], synthetic[:size]),
            *(fitted(table.train, of_real, rows) for rows in (train[:size], *halves)),
        ]
        truth = labels.values["holdout"][tested] > 0
        share = float(np.nanmean(of_real))
        return _Models(
            tested,
            _Pair(truth, predictions[0], predictions[1], share),
            _Pair(truth, predictions[2], predictions[3], share),
            size,
        )

    def _predictions(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        holdout: np.ndarray,
        categorical: list[bool],
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Scores of the holdout rows by each repeat's model, (repeats, N)."""
        scores = np.zeros((self.repeats, len(holdout)))
        for repeat in range(self.repeats):
            rows = rng.integers(0, len(targets), len(targets))
            seed = int(rng.integers(2**31))
            if len(np.unique(targets[rows])) < 2:
                continue
            model = HistGradientBoostingClassifier(
                max_iter=self.iterations,
                max_leaf_nodes=15,
                categorical_features=categorical,
                min_samples_leaf=20 if len(targets) >= 200 else 2,
                early_stopping=False,
                random_state=seed,
            )
            scores[repeat] = model.fit(inputs[rows], targets[rows]).predict_proba(holdout)[:, 1]
        return scores

    def _small(self, metric: str, group: Group) -> Score:
        reason = f"not assessable: fewer than {self.min_rows} rows in the group, or few of a class"
        return skipped(metric, "bias", reason, group.subject)


@dataclass(frozen=True)
class _Pair:
    """What two training sets make of the same holdout rows.

    Attributes:
        truth: which of them are positive, (N,).
        first, other: scores by the models of each, (repeats, N).
        share: of positives in train; so many rows each model calls positive.
    """

    truth: np.ndarray
    first: np.ndarray
    other: np.ndarray
    share: float

    def decisions(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that each model calls positive: the share that is positive, its highest scores.

        A fixed cut of one half would call nobody positive where positives are rare, and mix a
        shifted label rate, which ``label_drift`` measures, into the odds.
        """
        cuts = [
            np.quantile(scores, 1 - self.share, axis=1, keepdims=True)
            for scores in (self.first, self.other)
        ]
        return self.first > cuts[0], self.other > cuts[1]


@dataclass(frozen=True)
class _Models:
    """Synthetic against real training rows, and one half of the real ones against the other.

    Attributes:
        tested: holdout rows that are scored.
        n: training rows.
    """

    tested: np.ndarray
    candidate: _Pair
    real: _Pair
    n: int


@dataclass(frozen=True)
class _Change:
    """A signed change, with the variances that holdout rows and training samples give it.

    The second one is known from few repeats, so the interval is Student's, with the degrees of
    freedom of F. E. Satterthwaite (1946), Biometrics Bulletin 2, 110-114.
    """

    value: float
    rows: float
    training: float
    repeats: int

    @classmethod
    def of(cls, repeated: np.ndarray, *sides: np.ndarray) -> _Change:
        """From the change in each repeat, and the holdout rows whose means it is made of."""
        training = float(repeated.var(ddof=1))
        rows = sum(_variance(side) for side in sides)
        return cls(float(repeated.mean()), rows, training, len(repeated))

    def estimate(self, level: float) -> Estimate:
        variance = self.rows + self.training
        degrees = (self.repeats - 1) * (variance / max(self.training, 1e-12)) ** 2
        half = float(stats.t.ppf(0.5 + level / 2, degrees) * np.sqrt(variance))
        return Estimate(self.value, self.value - half, self.value + half)


def _odds_drift(pair: _Pair, members: np.ndarray) -> list[_Change]:
    """Change of the gap in TPR, and in FPR, between the group and the rest.

    Source: M. Hardt, E. Price, N. Srebro (2016), Equality of Opportunity, arXiv:1610.02413.
    """
    first, other = (decided.astype(np.float64) for decided in pair.decisions())
    changes = []
    for positive in (True, False):
        of_class = pair.truth == positive
        inside, outside = np.flatnonzero(of_class & members), np.flatnonzero(of_class & ~members)
        if min(len(inside), len(outside)) < MIN_PART:
            return []
        moved = first - other  # paired: the same rows, judged by both
        gaps = moved[:, inside].mean(axis=1) - moved[:, outside].mean(axis=1)
        rows = moved.mean(axis=0)
        changes.append(_Change.of(gaps, rows[inside], rows[outside]))
    return changes


def _auc_loss(pair: _Pair, members: np.ndarray) -> list[_Change]:
    """AUC within the group that the first training set loses against the other."""
    positive, negative = members & pair.truth, members & ~pair.truth
    if min(positive.sum(), negative.sum()) < MIN_PART:
        return []
    lost = []
    for one, two in zip(pair.first, pair.other, strict=True):
        up, down = auc_components(two[positive], two[negative])
        other_up, other_down = auc_components(one[positive], one[negative])
        lost.append((up - other_up, down - other_down))
    losses = np.array([up.mean() for up, _ in lost])
    rows = [np.mean([parts[side] for parts in lost], axis=0) for side in (0, 1)]
    return [_Change.of(losses, *rows)]


def _variance(values: np.ndarray) -> float:
    """Variance of a mean, at least that of one row that moves by one."""
    return max(float(values.var(ddof=1)), 1 / len(values)) / len(values)


def _worst(metric: str, estimates: list[Estimate]) -> Estimate:
    """The largest change: either way for the odds, but a gain of skill is no loss."""
    if metric == METRICS[1]:
        return largest(estimates)
    return Estimate(*(max(ends) for ends in zip(*estimates, strict=True)))


def _score(metric: str, subject: str, size: Estimate, reference: float, n: int) -> Score:
    return Score(
        metric=metric,
        dimension="bias",
        subject=subject,
        value=size.value,
        low=size.low,
        high=size.high,
        reference=reference,
        unit="auc" if metric.startswith("subgroup_auc") else "share",
        n=n,
        minimum_detectable=_POWER / 1.96 * (size.high - size.low) / 2,
    )


def _none(reason: str, *metrics: str) -> list[Score]:
    return [skipped(f"{metric}_worst", "bias", reason) for metric in metrics]
