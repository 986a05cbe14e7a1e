"""Attributes: does the table tell more about the people it was learned from than about others?

The attacker knows all columns of a record but one, the secret, and guesses it from the synthetic
table. What counts is how much better that works for training records than for records of the
holdout, as a share of what the attacker could not have guessed anyway: (a - b) / (1 - b), with hit
rates a among training and b among control records. Without the control it would measure utility.

Sources: the train-against-control excess of Giomi et al. (2023), PoPETs, arXiv:2211.10459; the
attacker's model as in Annamalai et al. (2024), USENIX Security, arXiv:2301.10053. A number is hit
when the guess is within 5 % of the interquartile range: a tolerance relative to the guess, as tools
have it, calls every negative guess right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from validators.base import Score, skipped
from validators.binning import TableEncoding, TableView
from validators.comparison import Comparison, one_each
from validators.features import Features
from validators.statistics import Estimate, bonferroni, log_ratio_of_proportions, normal_quantile

from .copies import nothing_to_compare, pick_rows
from .neighbours import MixedPoints, nearest_rows

METRICS = ("attribute_excess", "attribute_excess_worst")
_MIN_RECORDS = 40
_TOLERANCE = 0.05
_ATTACKS = 2
_POWER = 2.487 / 1.96


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The excess of attribute inference on training records over control records, per secret.

    Two attackers guess: boosted trees that learned from the synthetic table, and the synthetic
    record that agrees best in the other columns. Which one is better is decided on one half of the
    records and scored on the other.

    Attributes:
        records: training and control records each, at most; one of a subject.
        learned: synthetic rows that the trees learn from, at most.
        secrets: so many columns are secrets in turn, those that are hardest to guess.
        iterations: trees of an attacker's model.
        pairs: distances that may be computed for a secret and a side; fewer records are attacked
            where the synthetic table is so long that this would be exceeded.
    """

    records: int = 2_000
    learned: int = 6_000
    secrets: int = 8
    iterations: int = 20
    pairs: float = 2e8

    name: ClassVar[str] = "attributes"
    modality: ClassVar[Literal["table"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``attribute_excess`` per secret and of all, and the worst secret."""
        table = comparison.table
        if (nothing := nothing_to_compare(table)) is not None:
            return [skipped(metric, "privacy", nothing) for metric in METRICS]
        if len(table.columns) < 2:
            reason = "not applicable: to guess one column takes another"
            return [skipped(metric, "privacy", reason) for metric in METRICS]
        train, control = self._records(comparison)
        if min(len(train), len(control)) < _MIN_RECORDS:
            reason = (
                f"needs at least {_MIN_RECORDS} training and control records, got {len(train)} and "
                f"{len(control)}; hold out more rows"
            )
            return [skipped(metric, "privacy", reason) for metric in METRICS]
        found = [
            (comparison.coarse.columns[secret].name, self._hits(comparison, secret, train, control))
            for secret in self._secrets(comparison.coarse)
        ]
        return _scores(found, len(train))

    def _records(self, comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
        rng = comparison.rng(f"{self.name}/records")
        train, control = (
            one_each(comparison.subjects(frame), rng) for frame in comparison.frames()[:2]
        )
        # The table is searched whole: fewer records are attacked where it is long.
        limit = min(self.records, max(400, int(self.pairs / max(len(comparison.synthetic), 1))))
        return train[:limit], control[:limit]

    def _secrets(self, table: TableEncoding) -> list[int]:
        """The columns whose most frequent cell is rarest among real records."""
        real = np.concatenate([table.train.codes, table.holdout.codes])
        common = [
            float(np.bincount(real[:, at]).max()) / max(len(real), 1)
            for at in range(len(table.columns))
        ]
        order = sorted(range(len(common)), key=lambda at: (common[at], at))
        # Of a constant nothing is secret.
        return sorted(at for at in order[: self.secrets] if common[at] < 1)

    def _hits(
        self, comparison: Comparison, secret: int, train: np.ndarray, control: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which train and control records are hit, as floats; NaN where the secret is missing."""
        table = comparison.coarse
        task = _Secret.of(table, secret)
        rng = comparison.rng(f"{self.name}/{secret}")
        views = (table.train.take(train), table.holdout.take(control))
        learned = table.synthetic.take(pick_rows(len(table.synthetic), self.learned, rng))
        seed = int(rng.integers(2**31))
        model = _model(task, learned, self.iterations, seed)
        hits = []
        for view in views:
            trees = task.hit(model(view), view)
            record = task.hit(_nearest_guess(task, view, table.synthetic), view)
            hits.append(np.stack([trees, record]))
        return _crossfit(hits[0], hits[1], rng)


@dataclass(frozen=True)
class _Secret:
    """One column as a secret: a cell to name, or a number to come near to.

    Attributes:
        number: its place among ``numbers``, or None of a column of levels.
        tolerance: how near a number must be, on the encoding's scale.
    """

    table: TableEncoding
    position: int
    features: Features
    number: int | None
    tolerance: float

    @classmethod
    def of(cls, table: TableEncoding, position: int) -> _Secret:
        features = Features.of(table, without=(position,))
        if position not in table.number_columns:
            return cls(table, position, features, None, 0.0)
        number = table.number_columns.index(position)
        both = (table.train, table.holdout)
        real = np.concatenate([v.numbers[~v.missing[:, number], number] for v in both])
        # Where the middle half is one value, the next wider range that is not.
        ranges = ((25, 75), (5, 95), (1, 99), (0, 100))
        spreads = [float(np.subtract(*np.percentile(real, ends[::-1]))) for ends in ranges]
        spread = next((one for one in spreads if one > 0), 0.0)
        return cls(table, position, features, number, _TOLERANCE * spread)

    def values(self, view: TableView) -> np.ndarray:
        """Cells, or numbers; NaN where the secret is missing."""
        if self.number is None:
            return view.codes[:, self.position].astype(np.float64)
        numbers = view.numbers[:, self.number].astype(np.float64)
        return np.where(view.missing[:, self.number], np.nan, numbers)

    def hit(self, guesses: np.ndarray, view: TableView) -> np.ndarray:
        """1 where the guess is right, 0 where it is not, NaN where there is nothing to guess."""
        truth = self.values(view)
        near = np.abs(guesses - truth) <= self.tolerance + 1e-9
        return np.where(np.isnan(truth), np.nan, near.astype(np.float64))


def _model(
    task: _Secret, learned: TableView, iterations: int, seed: int
) -> Callable[[TableView], np.ndarray]:
    """Boosted trees that guess the secret from the other columns, or the only value there is."""
    values = task.values(learned)
    known = np.flatnonzero(~np.isnan(values))
    targets = values[known]
    if len(np.unique(targets)) < 2:
        constant = float(targets[0]) if len(targets) else 0.0
        return lambda view: np.full(len(view), constant)
    settings = {
        "max_iter": iterations,
        "learning_rate": 0.2,
        "categorical_features": task.features.categorical or None,
        "min_samples_leaf": 10 if len(known) >= 200 else 2,
        "early_stopping": False,
        "random_state": seed,
    }
    if task.number is None:
        trees = HistGradientBoostingClassifier(**settings)
    else:
        # The median comes near more numbers than the mean does.
        trees = HistGradientBoostingRegressor(loss="absolute_error", **settings)
    trees.fit(task.features.for_trees(learned.take(known)), targets)
    return lambda view: np.asarray(trees.predict(task.features.for_trees(view)))


def _nearest_guess(task: _Secret, view: TableView, synthetic: TableView) -> np.ndarray:
    """The secret of the synthetic record that agrees best in the other columns."""
    queries, released = (_without(task, part) for part in (view, synthetic))
    guesses: np.ndarray = task.values(synthetic)[nearest_rows(queries, released)]
    return np.where(np.isnan(guesses), np.inf, guesses)


def _without(task: _Secret, view: TableView) -> MixedPoints:
    """The points of a view without the secret."""
    points = MixedPoints.of(view)
    marks = view.categories.shape[1]
    if task.number is not None:
        numbers = np.delete(points.numbers, task.number, axis=1)
        return MixedPoints(numbers, np.delete(points.marks, marks + task.number, axis=1))
    category = task.table.category_columns.index(task.position)
    return MixedPoints(points.numbers, np.delete(points.marks, category, axis=1))


def _crossfit(
    train: np.ndarray, control: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hits by the attack that is better on the other half; (attacks, N) and (attacks, M) in."""
    sides = [rng.permutation(part.shape[1]) % 2 for part in (train, control)]
    hits = [np.full(part.shape[1], np.nan) for part in (train, control)]
    for half in (0, 1):
        gaps = [
            _mean(train[attack, sides[0] != half]) - _mean(control[attack, sides[1] != half])
            for attack in range(_ATTACKS)
        ]
        best = int(np.argmax(gaps))
        for found, part, side in zip(hits, (train, control), sides, strict=True):
            found[side == half] = part[best, side == half]
    return hits[0], hits[1]


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else 0.0


def _scores(found: list[tuple[str, tuple[np.ndarray, np.ndarray]]], n: int) -> list[Score]:
    """One score a secret that enough records have, all pooled, and the worst."""
    scores, measured = [], []
    for name, (train, control) in found:
        sides = [part[~np.isnan(part)] for part in (train, control)]
        if min(map(len, sides)) < _MIN_RECORDS:
            reason = f"fewer than {_MIN_RECORDS} training or control records have a value"
            scores.append(skipped(METRICS[0], "privacy", reason, name))
            continue
        measured.append((name, sides))
        scores.append(_score(METRICS[0], name, excess(sides[0], sides[1]), len(sides[0])))
    if not measured:
        reason = "not applicable: no column has a value to guess"
        return [*scores, *(skipped(metric, "privacy", reason) for metric in METRICS)]
    level = bonferroni(0.95, len(measured))
    sure = [excess(train, control, level) for _, (train, control) in measured]
    worst = Estimate(*(max(ends) for ends in zip(*sure, strict=True)))
    return [
        _score(METRICS[0], "all", _pooled([hits for _, hits in found]), n),
        *scores,
        _score(METRICS[1], "all", worst, n),
    ]


def excess(train: np.ndarray, control: np.ndarray, level: float = 0.95) -> Estimate:
    """(a - b) / (1 - b) of hits, as one less the ratio of the rates at which secrets are missed."""
    misses, others = float((1 - train).sum()), float((1 - control).sum())
    ratio = log_ratio_of_proportions(misses, len(train), others, len(control), level)
    return Estimate(*(1 - float(np.exp(end)) for end in (ratio.value, ratio.high, ratio.low)))


def _pooled(found: list[tuple[np.ndarray, np.ndarray]]) -> Estimate:
    """The excess over all secrets: the secrets of one record are one piece of evidence.

    The share that is missed of each record's secrets has a mean on either side; the interval of
    their ratio is on the log scale by the delta method.
    """
    logs, variance = [], 0.0
    for side in (0, 1):
        hits = np.stack([pair[side] for pair in found])
        known = ~np.isnan(hits)
        some = known.any(axis=0)
        missed = np.where(known, 1 - hits, 0.0).sum(axis=0)[some] / known.sum(axis=0)[some]
        # Half a missed secret more keeps the ratio finite, as in log_ratio_of_proportions.
        mean = (missed.sum() + 0.5 / len(found)) / (len(missed) + 0.5 / len(found))
        spread = max(float(missed.var(ddof=1)), mean / len(missed))
        logs.append(float(np.log(mean)))
        variance += spread / len(missed) / mean**2
    value = logs[0] - logs[1]
    half = normal_quantile() * float(np.sqrt(variance))
    return Estimate(*(1 - float(np.exp(end)) for end in (value, value + half, value - half)))


def _score(metric: str, subject: str, found: Estimate, n: int) -> Score:
    return Score(
        metric=metric,
        dimension="privacy",
        subject=subject,
        value=found.value,
        low=found.low,
        high=found.high,
        reference=0.0,
        n=n,
        minimum_detectable=_POWER * (found.high - found.low) / 2,
    )
