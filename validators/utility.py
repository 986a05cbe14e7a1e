"""Utility: does a model trained on synthetic rows predict real rows as one trained on real rows?

Train on synthetic, test on real (TSTR) beside train on real, test on real (TRTR), on one holdout
that neither has seen: C. Esteban et al. (2017), arXiv 1706.02633. What counts is the share of the
lift over a constant guess that is kept. One target can be learned well by luck or by design, so
every column is a target in turn, too (global utility: TabStruct, arXiv 2509.11950). The intervals
speak of new holdout rows and seeds; the training samples are what they are, as it is these rows
that would be published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from generators.base import derive_seed

from .base import Score, skipped
from .binning import TableEncoding, TableView
from .comparison import Comparison
from .features import Features
from .statistics import auc_components, percentiles

METRICS = ("tstr", "trtr", "utility_retention", "utility_global")
_MIN_ROWS = 20
_MIN_CLASS = 5
_WORST = 5
_NO_SKILL = (
    "not applicable: a model trained on real rows is no better than a constant guess, so there is "
    "no skill to keep"
)
# Beyond these a retention says "lost" or "more than real"; the ratio itself is unbounded.
_RANGE = (-1.0, 2.0)


@dataclass(kw_only=True)
class Utility:
    """Skill of models trained on synthetic and on real rows, on the same holdout.

    Each seed fits boosted trees and a linear model on its own random part of the rows.

    Attributes:
        rows: at most so many rows train a model, and as many test it.
        seeds: repeats for a declared target.
        targets: without a declared target, so many of the best predictable columns are targets.
        iterations: trees of a boosted model.
        draws: bootstrap samples of the holdout rows and of the seeds.
        global_rows: at most so many rows train a model where every column is a target.
        global_columns: so many columns at most, random ones of a wider table.
        global_iterations: trees of their boosted models.
    """

    rows: int = 16_000
    seeds: int = 3
    targets: int = 5
    iterations: int = 50
    draws: int = 1000
    global_rows: int = 4_000
    global_columns: int = 20
    global_iterations: int = 20

    name: ClassVar[str] = "utility"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``METRICS``: skills per target, retention of all, and with every column as target."""
        reason = _obstacle(comparison)
        if reason is not None:
            return [skipped(metric, "utility", reason) for metric in METRICS]
        rows = _rows(comparison, self.rows)
        whole = self._global(comparison, rows)
        positions = self._targets(comparison, rows)
        results = [self._result(comparison, rows, position) for position in positions]
        measured = [result for result in results if result is not None and result.lifts]
        if not measured:
            return [*(skipped(metric, "utility", _NO_SKILL) for metric in METRICS[:3]), *whole]
        each = [score for result in measured for score in result.scores()]
        return [*each, *_retentions(measured, METRICS[2]), *whole]

    def _global(self, comparison: Comparison, rows: _Rows) -> list[Score]:
        """Retention with every column as the target in turn: the mean, and the worst columns."""
        quick = replace(
            self, iterations=self.global_iterations, draws=max(self.draws // 4, 50), seeds=1
        )
        few = rows.first(self.global_rows)
        count = len(comparison.table.columns)
        chosen = comparison.rng(f"{self.name}/columns").permutation(count)[: self.global_columns]
        results = [quick._result(comparison, few, int(position)) for position in sorted(chosen)]
        measured = [result for result in results if result is not None and result.lifts]
        if not measured:
            return [skipped(METRICS[3], "utility", _NO_SKILL)]
        whole, *each = _retentions(measured, METRICS[3])
        return [whole, *sorted(each, key=lambda score: score.value or 0.0)[:_WORST]]

    def _targets(self, comparison: Comparison, rows: _Rows) -> list[int]:
        table, (_, _, _, schema) = comparison.table, comparison.frames()
        if schema.target is not None:
            return [table.position(schema.target)]
        lifts = [
            (_screen(comparison, rows, position), -position)
            for position in range(len(table.columns))
        ]
        best = sorted(lifts, reverse=True)[: self.targets]
        return [-position for lift, position in best if lift > 0]

    def _result(self, comparison: Comparison, rows: _Rows, position: int) -> _Result | None:
        """Skills with synthetic and with real training rows, or None where none is defined."""
        table, (_, _, _, schema) = comparison.coarse, comparison.frames()
        task = _task(comparison, position)
        holdout = table.holdout.take(rows.holdout)
        if not task.testable(holdout):
            return None
        seeds = self.seeds if schema.target is not None else 1
        skills: dict[str, list[_Skill]] = {"synthetic": [], "train": []}
        for source, view, kept in (
            ("synthetic", table.synthetic, rows.synthetic),
            ("train", table.train, rows.train),
        ):
            for repeat in range(seeds):
                # The same part of the rows on both sides, so that seeds are paired.
                rng = comparison.rng(f"{self.name}/{position}/{repeat}")
                part = kept[np.sort(rng.permutation(len(kept))[: max(1, 4 * len(kept) // 5)])]
                seed = derive_seed(comparison.seed, self.name, position, repeat) % 2**32
                skills[source].append(task.skill(view.take(part), holdout, self.iterations, seed))
        return _Result.of(
            table.columns[position].name,
            task,
            skills["synthetic"],
            skills["train"],
            len(rows.synthetic),
            self.draws,
            comparison.rng(f"{self.name}/{position}/bootstrap"),
        )


def uplift(comparison: Comparison, settings: Utility | None = None) -> Score:
    """What synthetic rows add to the real ones: skill of models that learn both, less of real ones.

    Both kinds of models are tested on the holdout, with the same parts of the real rows and the
    same seeds, so that their difference is paired; the interval is a bootstrap of holdout rows and
    seeds.

    Args:
        comparison: the synthetic rows to be added, beside train and holdout.
        settings: how many rows, seeds, trees and draws.
    """
    made = settings or Utility()
    train, _, synthetic, schema = comparison.frames()
    reason = _obstacle(comparison)
    if reason is None and schema.target is None:
        reason = "not applicable: no target is declared, so there is nothing to predict"
    if reason is not None or schema.target is None:
        return skipped("uplift", "utility", reason or "")
    both = replace(comparison, synthetic=pd.concat([train, synthetic], ignore_index=True))
    table = both.coarse
    position = table.position(schema.target)
    task, tested = _task(both, position), table.holdout
    if not task.testable(tested):
        return skipped("uplift", "utility", "the holdout has too few rows of two outcomes")
    skills: dict[str, list[_Skill]] = {"both": [], "real": []}
    for repeat in range(made.seeds):
        rng = both.rng(f"uplift/{repeat}")
        real = np.sort(rng.permutation(len(train))[: min(made.rows, 4 * len(train) // 5)])
        added = rng.permutation(len(synthetic))[: made.rows] + len(train)
        seed = derive_seed(both.seed, "uplift", repeat) % 2**32
        for source, rows in (("both", np.concatenate([real, np.sort(added)])), ("real", real)):
            learn = table.synthetic.take(rows)
            skills[source].append(task.skill(learn, tested, made.iterations, seed))
    result = _Result.of(
        schema.target,
        task,
        skills["both"],
        skills["real"],
        len(synthetic),
        made.draws,
        both.rng("uplift/bootstrap"),
    )
    low, high = percentiles(result.draws[:, 0] - result.draws[:, 1])
    value = result.tstr - result.trtr
    return Score(
        metric="uplift",
        dimension="utility",
        subject=schema.target,
        value=value,
        low=min(low, value),
        high=max(high, value),
        reference=0.0,
        unit=task.unit,
        n=len(synthetic),
        minimum_detectable=2.487 / 1.96 * (high - low) / 2,
        higher_is_better=True,
    )


@dataclass(frozen=True)
class _Rows:
    """Row numbers: equally many of train and synthetic, and those of the holdout."""

    train: np.ndarray
    synthetic: np.ndarray
    holdout: np.ndarray

    def first(self, limit: int) -> _Rows:
        """At most so many of each: a random sample, for the row numbers are shuffled."""
        return _Rows(self.train[:limit], self.synthetic[:limit], self.holdout[:limit])


@dataclass(frozen=True)
class _Skill:
    """How well one source's models do: the mean, and each holdout row's influence on it.

    A weight w_i on holdout row i changes the skill by (w_i - 1) influence_i / n: the infinitesimal
    jackknife (B. Efron (1982), The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6),
    so that a bootstrap needs no new ranking.
    """

    value: float
    influence: np.ndarray


@dataclass(frozen=True)
class _Task:
    """A column to predict: its classes where it is discrete, else its scaled number."""

    table: TableEncoding
    position: int
    features: Features
    classes: int

    @property
    def dummy(self) -> float:
        """What a constant guess scores: AUC one half, or R² zero."""
        return 0.5 if self.classes else 0.0

    @property
    def unit(self) -> str:
        return "auc" if self.classes else "r2"

    def known(self, view: TableView) -> TableView:
        """The rows whose target is known and a value that real data have."""
        if not self.classes:
            number = self.table.number_columns.index(self.position)
            return view.take(np.flatnonzero(~view.missing[:, number]))
        return view.take(np.flatnonzero(view.codes[:, self.position] < self.classes))

    def target(self, view: TableView) -> np.ndarray:
        """Class numbers, or the number within five robust ranges (else one outlier decides)."""
        if self.classes:
            return view.codes[:, self.position].astype(np.int64)
        number = self.table.number_columns.index(self.position)
        return np.clip(view.numbers[:, number].astype(np.float64), -5, 5)

    def testable(self, holdout: TableView) -> bool:
        """Whether the holdout can tell skill from none."""
        if not self.classes and self.position not in self.table.number_columns:
            return False  # a column of levels that has none
        target = self.target(self.known(holdout))
        if len(target) < _MIN_ROWS:
            return False
        if self.classes:
            return bool((np.bincount(target) >= _MIN_CLASS).sum() >= 2)
        return float(target.std()) > 0

    def skill(self, learn: TableView, holdout: TableView, iterations: int, seed: int) -> _Skill:
        """Mean skill of the two models that learn from ``learn``."""
        learn, holdout = self.known(learn), self.known(holdout)
        truth = self.target(holdout)
        predictions = [
            self._trees(learn, holdout, iterations, seed),
            self._line(learn, holdout),
        ]
        skills = [self._measure(truth, prediction) for prediction in predictions]
        return _mean_skill(skills)

    def line_skill(self, learn: TableView, holdout: TableView) -> float:
        """Skill of the linear model alone: quick, for choosing targets."""
        learn, holdout = self.known(learn), self.known(holdout)
        return self._measure(self.target(holdout), self._line(learn, holdout)).value

    def _trees(
        self, learn: TableView, holdout: TableView, iterations: int, seed: int
    ) -> np.ndarray:
        target = self.target(learn)
        constant = len(np.unique(target)) < 2
        if constant:
            return self._constant(target, len(holdout))
        settings = {
            "max_iter": iterations,
            "categorical_features": self.features.categorical or None,
            "min_samples_leaf": 20 if len(target) >= 200 else 2,
            "max_features": 0.5,
            "early_stopping": False,
            "random_state": seed,
        }
        inputs = self.features.for_trees(holdout)
        if not self.classes:
            regressor = HistGradientBoostingRegressor(**settings)
            predicted: np.ndarray = regressor.fit(self.features.for_trees(learn), target).predict(
                inputs
            )
            return predicted[:, None]
        model = HistGradientBoostingClassifier(**settings)
        model.fit(self.features.for_trees(learn), target)
        scores = np.zeros((len(holdout), self.classes))
        scores[:, model.classes_] = model.predict_proba(inputs)
        return scores

    def _line(self, learn: TableView, holdout: TableView) -> np.ndarray:
        """Ridge regression of the number, or of class indicators (Hastie et al., ESL, 4.2)."""
        target = self.target(learn)
        if len(np.unique(target)) < 2:
            return self._constant(target, len(holdout))
        wanted = np.eye(self.classes)[target] if self.classes else target[:, None]
        model = Ridge(alpha=1.0).fit(self.features.for_lines(learn), wanted)
        predicted: np.ndarray = model.predict(self.features.for_lines(holdout))
        return predicted.reshape(len(holdout), -1)

    def _constant(self, target: np.ndarray, length: int) -> np.ndarray:
        """What can be predicted when the training target is empty or constant."""
        if self.classes or len(target) == 0:
            return np.zeros((length, max(1, self.classes)))
        return np.full((length, 1), float(target.mean()))

    def _measure(self, truth: np.ndarray, prediction: np.ndarray) -> _Skill:
        if not self.classes:
            return _r2(truth, prediction[:, 0])
        counts = np.bincount(truth, minlength=self.classes)
        present = np.flatnonzero((counts >= _MIN_CLASS) & (counts < len(truth)))
        if len(present) == 2:  # two classes: their curves are mirror images
            present = present[-1:]
        return _mean_skill([_auc(truth == label, prediction[:, label]) for label in present])


@dataclass(frozen=True)
class _Result:
    """Skills for one target with their joint bootstrap draws.

    Attributes:
        tstr, trtr: mean skills.
        draws: (B, 2): draws of (tstr, trtr) over holdout rows and seeds.
    """

    subject: str
    dummy: float
    unit: str
    tstr: float
    trtr: float
    draws: np.ndarray
    n: int

    @classmethod
    def of(
        cls,
        subject: str,
        task: _Task,
        synthetic: Sequence[_Skill],
        real: Sequence[_Skill],
        n: int,
        draws: int,
        rng: np.random.Generator,
    ) -> _Result:
        seeds, rows = len(real), len(real[0].influence)
        sources = (synthetic, real)
        values = np.array([[skill.value for skill in source] for source in sources])
        influences = np.array([[skill.influence for skill in source] for source in sources])
        replicates = np.empty((draws, 2))
        for draw in range(draws):
            picked = rng.integers(0, seeds, size=(2, seeds))
            sampled = influences[:, :, rng.integers(0, rows, size=rows)].mean(axis=2)
            replicates[draw] = np.take_along_axis(values + sampled, picked, axis=1).mean(axis=1)
        tstr, trtr = values.mean(axis=1)
        return cls(subject, task.dummy, task.unit, float(tstr), float(trtr), replicates, n)

    @property
    def lifts(self) -> bool:
        """Whether real rows train a model that is better than a constant guess, beyond doubt."""
        return percentiles(self.draws[:, 1]).low > self.dummy

    @property
    def retention(self) -> float:
        return float(_retention(self.tstr, self.trtr, self.dummy))

    @property
    def retention_draws(self) -> np.ndarray:
        return _retention(self.draws[:, 0], self.draws[:, 1], self.dummy)

    def scores(self) -> list[Score]:
        scores = []
        for column, (metric, value) in enumerate((("tstr", self.tstr), ("trtr", self.trtr))):
            low, high = percentiles(self.draws[:, column])
            scores.append(
                Score(
                    metric=metric,
                    dimension="utility",
                    subject=self.subject,
                    value=value,
                    low=min(low, value),
                    high=max(high, value),
                    reference=self.trtr,
                    unit=self.unit,
                    n=self.n,
                    higher_is_better=True,
                )
            )
        return scores


def _retentions(results: Sequence[_Result], metric: str) -> list[Score]:
    """Retention of all targets together, and of each where there are several."""
    draws = np.mean([result.retention_draws for result in results], axis=0)
    mean = float(np.mean([result.retention for result in results]))
    scores = [_retention_score(metric, "all", mean, draws, results[0].n)]
    if len(results) > 1:
        scores += [
            _retention_score(metric, r.subject, r.retention, r.retention_draws, r.n)
            for r in results
        ]
    return scores


def _retention_score(metric: str, subject: str, value: float, draws: np.ndarray, n: int) -> Score:
    low, high = percentiles(draws)
    return Score(
        metric=metric,
        dimension="utility",
        subject=subject,
        value=value,
        low=min(low, value),
        high=max(high, value),
        reference=1.0,
        unit="ratio",
        n=n,
        minimum_detectable=2.487 / 1.96 * (high - low) / 2,
        higher_is_better=True,
    )


def _retention(tstr: np.ndarray | float, trtr: np.ndarray | float, dummy: float) -> np.ndarray:
    lift = np.maximum(np.asarray(trtr) - dummy, 1e-6)
    kept: np.ndarray = np.clip((np.asarray(tstr) - dummy) / lift, *_RANGE)
    return kept


def _auc(positive: np.ndarray, scores: np.ndarray) -> _Skill:
    """AUC and its influence: DeLong's components, centred, over the share of their class."""
    above, below = auc_components(scores[positive], scores[~positive])
    area = float(above.mean())
    influence = np.empty(len(scores))
    influence[positive] = (above - area) / positive.mean()
    influence[~positive] = (below - area) / (1 - positive.mean())
    return _Skill(area, influence)


def _r2(truth: np.ndarray, prediction: np.ndarray) -> _Skill:
    """R², the share of variance explained, and its influence by the delta method."""
    squares = (truth - truth.mean()) ** 2
    errors = (truth - prediction) ** 2
    value = 1 - float(errors.sum() / squares.sum())
    return _Skill(value, -(errors - (1 - value) * squares) / float(squares.mean()))


def _mean_skill(skills: Sequence[_Skill]) -> _Skill:
    return _Skill(
        float(np.mean([skill.value for skill in skills])),
        np.mean([skill.influence for skill in skills], axis=0),
    )


def _screen(comparison: Comparison, rows: _Rows, position: int) -> float:
    """Lift of a linear model trained on real rows, for choosing targets among all columns."""
    task = _task(comparison, position)
    table = comparison.coarse
    holdout = table.holdout.take(rows.holdout[:2_000])
    if not task.testable(holdout):
        return 0.0
    skill = task.line_skill(table.train.take(rows.train[:4_000]), holdout)
    scale = 1.0 if not task.classes else 0.5
    return (skill - task.dummy) / scale


def _task(comparison: Comparison, position: int) -> _Task:
    """Predict the column at ``position`` from all others, in coarse cells where it is discrete."""
    table = comparison.coarse
    features = Features.of(table, without=(position,))
    discrete = table.columns[position].discrete
    return _Task(table, position, features, int(table.sizes[position]) - 2 if discrete else 0)


def _rows(comparison: Comparison, limit: int) -> _Rows:
    """The first rows are a random sample too: the row numbers are shuffled."""
    rng = comparison.rng("rows/utility")
    size = min(len(comparison.train), len(comparison.synthetic), limit)
    train = rng.permutation(len(comparison.train))[:size]
    synthetic = rng.permutation(len(comparison.synthetic))[:size]
    return _Rows(train, synthetic, rng.permutation(len(comparison.holdout))[:limit])


def _obstacle(comparison: Comparison) -> str | None:
    columns = comparison.table.columns
    if len(columns) < 2:
        return "not applicable: a prediction needs two columns that are modelled"
    target = comparison.frames()[3].target
    if target is not None and target not in {column.name for column in columns}:
        return f"not applicable: the target {target!r} is an id or text, which is never modelled"
    size = comparison.equal_size
    if size < _MIN_ROWS:
        return f"needs at least {_MIN_ROWS} rows in each table, has {size}"
    return None
