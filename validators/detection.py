"""Detection: can a classifier tell synthetic rows from rows of the holdout?

A classifier two-sample test (D. Lopez-Paz, M. Oquab (2017), ICLR, arXiv 1610.06545) with boosted
trees, since linear detectors saturate. The yardstick is the same test between train and holdout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from .base import Score, skipped
from .comparison import Comparison
from .features import Features
from .statistics import (
    Estimate,
    auc_difference,
    auc_with_interval,
    detectable_of,
    minimum_detectable_auc,
    two_proportion_difference,
)

METRICS = ("c2st_auc", "c2st_excess", "c2st_telltale")
FOLDS = 2
# The logit of 0.9.
_SURE_LOGIT = 2.1972
_MIN_ROWS = 8
_POWER = 2.487 / 1.96

Scored = tuple[np.ndarray, np.ndarray]
"""Out-of-fold scores of (positives, holdout) in one fold."""


@dataclass(kw_only=True)
class Detection:
    """The AUC of boosted trees between synthetic and holdout rows, out of fold.

    Attributes:
        rows: at most so many rows of each table enter.
        iterations: trees of the classifier.
        columns_shown: so many of the most telling columns get a row of their own.
    """

    rows: int = 20_000
    iterations: int = 60
    columns_shown: int = 5

    name: ClassVar[str] = "detection"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``METRICS``, and ``c2st_column_auc`` of the most telling columns."""
        reason = self._obstacle(comparison)
        if reason is not None:
            return [skipped(metric, "fidelity", reason) for metric in METRICS]
        rows = comparison.equal_rows(self.name, self.rows)
        table = comparison.table
        features = Features.of(table)
        train, holdout, synthetic = (
            features.for_trees(view.take(kept))
            for view, kept in (
                (table.train, rows.train),
                (table.holdout, rows.holdout),
                (table.synthetic, rows.synthetic),
            )
        )
        folds = comparison.rng(self.name).permutation(np.arange(len(rows)) % FOLDS)
        seed = comparison.seed_for(self.name)
        fake = self._scores(synthetic, holdout, folds, features, seed)
        real = self._scores(train, holdout, folds, features, seed)
        return [
            *_summary(fake, real, len(rows)),
            _telltale(fake, real, len(rows)),
            *self._columns(comparison, (rows.train, rows.holdout, rows.synthetic), folds),
        ]

    def _obstacle(self, comparison: Comparison) -> str | None:
        if not comparison.table.columns:
            return "not applicable: no column is modelled, only ids and text"
        if comparison.equal_size < _MIN_ROWS:
            return f"needs at least {_MIN_ROWS} rows in each table, has {comparison.equal_size}"
        return None

    def _scores(
        self,
        positive: np.ndarray,
        holdout: np.ndarray,
        folds: np.ndarray,
        features: Features,
        seed: int,
    ) -> list[Scored]:
        """Scores of each fold by the model that was fitted on the other."""
        scored = []
        for fold in range(FOLDS):
            learn, test = folds != fold, folds == fold
            model = HistGradientBoostingClassifier(
                max_iter=self.iterations,
                categorical_features=features.categorical,
                min_samples_leaf=20 if learn.sum() >= 200 else 2,
                early_stopping=False,
                random_state=seed,
            )
            labels = np.repeat([1, 0], [learn.sum(), learn.sum()])
            model.fit(np.vstack([positive[learn], holdout[learn]]), labels)
            scored.append(
                (model.decision_function(positive[test]), model.decision_function(holdout[test]))
            )
        return scored

    def _columns(
        self,
        comparison: Comparison,
        rows: tuple[np.ndarray, np.ndarray, np.ndarray],
        folds: np.ndarray,
    ) -> list[Score]:
        table = comparison.table
        scores = []
        for position, column in enumerate(table.columns):
            train, holdout, synthetic = (
                view.codes[kept, position]
                for view, kept in zip(
                    (table.train, table.holdout, table.synthetic), rows, strict=True
                )
            )
            size = int(table.sizes[position])
            fake = _average(
                [auc_with_interval(*s) for s in _cell_scores(synthetic, holdout, folds, size)]
            )
            real = _average(
                [auc_with_interval(*s) for s in _cell_scores(train, holdout, folds, size)]
            )
            scores.append(_auc_score("c2st_column_auc", column.name, fake, real.value, len(folds)))
        return sorted(scores, key=lambda score: -(score.value or 0.0))[: self.columns_shown]


def _summary(fake: list[Scored], real: list[Scored], n: int) -> list[Score]:
    area = _average([auc_with_interval(*scores) for scores in fake])
    reference = _average([auc_with_interval(*scores) for scores in real]).value
    excess = _average([auc_difference(f, r) for f, r in zip(fake, real, strict=True)])
    return [
        _auc_score("c2st_auc", "all", area, reference, n),
        Score(
            metric="c2st_excess",
            dimension="fidelity",
            value=excess.value,
            low=max(-1.0, excess.low),
            high=min(1.0, excess.high),
            reference=0.0,
            unit="auc",
            n=n,
            minimum_detectable=min(1.0, _POWER * (excess.high - excess.low) / 2),
        ),
    ]


def _telltale(fake: list[Scored], real: list[Scored], n: int) -> Score:
    """Share of synthetic rows that the trees call synthetic with p > 0.9, less that of train rows.

    An AUC averages: a few rows that are certainly synthetic hide among many that could be real.
    """
    given, usual = (
        int(sum((positive > _SURE_LOGIT).sum() for positive, _ in scored))
        for scored in (fake, real)
    )
    excess = two_proportion_difference(given, n, usual, n)
    return Score(
        metric="c2st_telltale",
        dimension="fidelity",
        value=excess.value,
        low=excess.low,
        high=excess.high,
        reference=0.0,
        n=n,
        minimum_detectable=detectable_of(excess),
    )


def _auc_score(metric: str, subject: str, area: Estimate, reference: float, n: int) -> Score:
    return Score(
        metric=metric,
        dimension="fidelity",
        subject=subject,
        value=area.value,
        low=area.low,
        high=area.high,
        reference=reference,
        unit="auc",
        n=n,
        minimum_detectable=minimum_detectable_auc(n, n) - 0.5,
    )


def _average(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates; their half widths add in quadrature."""
    value, low, high = np.array(estimates).T
    count = len(estimates)
    down, up = np.sqrt(((value - low) ** 2).sum()), np.sqrt(((high - value) ** 2).sum())
    mean = float(value.mean())
    return Estimate(mean, float(mean - down / count), float(mean + up / count))


def _cell_scores(
    positive: np.ndarray, holdout: np.ndarray, folds: np.ndarray, size: int
) -> list[Scored]:
    """Scores by how much more often the other fold has a value's cell among the positives."""
    scored = []
    for fold in range(FOLDS):
        learn, test = folds != fold, folds == fold
        up = np.bincount(positive[learn], minlength=size)
        down = np.bincount(holdout[learn], minlength=size)
        odds = (up + 0.5) / (up + down + 1)
        scored.append((odds[positive[test]], odds[holdout[test]]))
    return scored
