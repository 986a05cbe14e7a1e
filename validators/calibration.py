"""Calibration: is the holdout a fair yardstick, or would every comparison with it mislead?

All that is measured rests on the holdout being a sample of what train is a sample of. Three tests
ask whether a random split could have given these two tables: a classifier between them, the worst
column, and rows that occur in both. A fourth counts subjects that are in both, where they are
known. A holdout that leaked into train would make every attack on the training rows look harmless.

The intervals of the three tests hold together with 99 %: a fair split is refused once in a hundred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from scipy import special
from sklearn.ensemble import HistGradientBoostingClassifier

from .base import Score, skipped
from .comparison import Comparison, one_each
from .features import Features
from .fidelity import Noise, real_distances, split_test
from .statistics import (
    Estimate,
    auc_with_interval,
    minimum_detectable_auc,
)

METRICS = ("holdout_detection", "holdout_marginals", "holdout_overlap", "holdout_subjects")
SIGNIFICANCE = 0.01
_TESTS = 3
_MIN_ROWS = 20
_FOLDS = 2


@dataclass(kw_only=True)
class Calibration:
    """Whether train and holdout could be a random split of one table.

    Of a subject with several rows one is tested: the others are no new evidence.

    Attributes:
        rows: at most so many rows of each enter the classifier and the columns.
        iterations: trees of the classifier.
        draws: random splits that the columns and the overlap are compared with.
    """

    rows: int = 10_000
    iterations: int = 40
    draws: int = 600

    name: ClassVar[str] = "calibration"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``METRICS``, each of dimension structure: they judge the yardstick."""
        train, holdout, _, _ = comparison.frames()
        shared = _shared_subjects(comparison)
        if not comparison.table.columns:
            return [*_none("not applicable: no column is modelled, only ids and text"), shared]
        rng = comparison.rng(self.name)
        kept = [np.sort(one_each(comparison.subjects(part), rng)) for part in (train, holdout)]
        size = min(self.rows, *(len(rows) for rows in kept))
        if size < _MIN_ROWS:
            reason = f"needs at least {_MIN_ROWS} subjects in train and holdout, has {size}"
            return [*_none(f"{reason}; hold out more"), shared]
        equal = [np.sort(rng.choice(rows, size, replace=False)) for rows in kept]
        return [
            self._detection(comparison, equal[0], equal[1]),
            self._marginals(comparison, equal[0], equal[1]),
            self._overlap(comparison, kept[0], kept[1]),
            shared,
        ]

    def _detection(self, comparison: Comparison, train: np.ndarray, holdout: np.ndarray) -> Score:
        """AUC of boosted trees between train and holdout rows, out of fold."""
        table = comparison.table
        features = Features.of(table)
        inputs = [
            features.for_trees(view.take(rows))
            for view, rows in ((table.train, train), (table.holdout, holdout))
        ]
        folds = comparison.rng(f"{self.name}/folds").permutation(np.arange(len(train)) % _FOLDS)
        areas = []
        for fold in range(_FOLDS):
            learn, test = folds != fold, folds == fold
            model = HistGradientBoostingClassifier(
                max_iter=self.iterations,
                max_leaf_nodes=15,
                categorical_features=features.categorical,
                min_samples_leaf=20 if learn.sum() >= 200 else 2,
                early_stopping=False,
                random_state=comparison.seed_for(self.name),
            )
            labels = np.repeat([1, 0], [learn.sum(), learn.sum()])
            model.fit(np.vstack([part[learn] for part in inputs]), labels)
            scores = [model.decision_function(part[test]) for part in inputs]
            areas.append(auc_with_interval(scores[0], scores[1], _two_sided()))
        values, lows, highs = np.array(areas).T
        value = float(values.mean())
        down, up = (np.hypot.reduce(gap) / _FOLDS for gap in (values - lows, highs - values))
        found = Estimate(value, max(0.0, value - float(down)), min(1.0, value + float(up)))
        power = minimum_detectable_auc(len(train), len(train), SIGNIFICANCE / _TESTS) - 0.5
        return _score(METRICS[0], found, len(train), 0.5, power, unit="auc")

    def _marginals(self, comparison: Comparison, train: np.ndarray, holdout: np.ndarray) -> Score:
        """Distance of the most different column, beside random splits of the same rows."""
        noise = Noise.draw(len(train), self.draws, comparison.rng(f"{self.name}/splits"))
        columns = real_distances(comparison.table, train, holdout, noise)
        test = split_test(columns, len(train), SIGNIFICANCE / _TESTS)
        value, low, high = (
            max(0.0, float(end.max())) for end in (test.values, test.lows, test.highs)
        )
        power = float(test.detectable.max())
        return _score(METRICS[1], Estimate(value, low, high), len(train), 0.0, power)

    def _overlap(self, comparison: Comparison, train: np.ndarray, holdout: np.ndarray) -> Score:
        """Share of holdout rows that are train rows, beyond what random splits would share.

        Given the rows that are there, a split is random: a value that occurs twice is on both
        sides with a known probability, however common or rare duplicates are in this table. A
        leaked row is on both sides for certain.
        """
        table = comparison.table
        rows = np.concatenate([table.train.rows[train], table.holdout.rows[holdout]])
        values = np.unique(rows, return_inverse=True)[1]
        total = np.bincount(values)
        held = np.bincount(values[len(train) :], minlength=len(total))
        repeated = total > 1
        shared = int(held[repeated & (held < total)].sum())
        pool = np.append(total[repeated], int((~repeated).sum()))
        rng = comparison.rng(f"{self.name}/overlap")
        draws = max(60, min(self.draws, 4_000_000 // len(pool)))
        random = rng.multivariate_hypergeometric(
            pool, len(holdout), size=draws, method="marginals"
        )[:, :-1]
        null = np.where(random < pool[:-1], random, 0).sum(axis=1)
        quantile = float(special.ndtri(1 - SIGNIFICANCE / _TESTS))
        spread = max(float(null.std(ddof=1)), 0.5)
        middle = float(null.mean())
        # The largest of the draws where counts are so small that they are not normal.
        beyond = max(middle + quantile * spread, float(np.quantile(null, 1 - 1 / draws)))
        n = len(holdout)
        found = Estimate(
            (shared - middle) / n, (shared - beyond) / n, (shared - middle + quantile * spread) / n
        )
        return _score(METRICS[2], found, n, 0.0, (quantile + 0.84) * spread / n)


def _shared_subjects(comparison: Comparison) -> Score:
    """Share of the holdout's subjects that are in train, too: exact, and none may be."""
    train, holdout, _, _ = comparison.frames()
    names = [n for n in comparison.entity if n in train.columns and n in holdout.columns]
    if not names:
        return skipped(METRICS[3], "structure", "not applicable: no column names the subjects")
    known, held = (
        np.unique(pd.util.hash_pandas_object(part[names], index=False)) for part in (train, holdout)
    )
    share = float(np.isin(held, known).mean()) if len(held) else 0.0
    return _score(METRICS[3], Estimate(share, share, share), len(held), 0.0, None)


def _two_sided() -> float:
    """The level of a two-sided interval whose low end errs as seldom as one test may."""
    return 1 - 2 * SIGNIFICANCE / _TESTS


def _score(
    metric: str,
    found: Estimate,
    n: int,
    reference: float,
    detectable: float | None,
    unit: str = "share",
) -> Score:
    return Score(
        metric=metric,
        dimension="structure",
        value=found.value,
        low=found.low,
        high=found.high,
        reference=reference,
        unit=unit,
        n=n,
        minimum_detectable=detectable,
    )


def _none(reason: str) -> list[Score]:
    return [skipped(metric, "structure", reason) for metric in METRICS[:3]]
