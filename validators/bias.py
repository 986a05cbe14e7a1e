"""Bias: are protected groups as frequent as in the real data, and is their outcome the same?

What is judged is drift: what the generator added. The level of an inequality belongs to the
source. Groups are the levels of each protected column and their two-way intersections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from generators.schema import Column, to_numbers

from .base import Score, skipped
from .comparison import Comparison
from .statistics import Estimate, bonferroni, log_ratio_of_proportions, normal_quantile

METRICS = ("representation_worst", "label_drift_worst")
_POWER = 2.487 / 1.96
# A positive label rarer than this says little about any group.
_RARE_LABEL = 0.01
# A mean of fewer rows has no variance to speak of; such a loss shows in the representation.
MIN_PART = 10

Table = Literal["train", "holdout", "synthetic"]
TABLES: tuple[Table, ...] = ("train", "holdout", "synthetic")


@dataclass(kw_only=True)
class Bias:
    """Representation and outcome of protected groups, synthetic beside holdout.

    Attributes:
        min_rows: groups with fewer holdout rows are listed as not assessable.
        min_named: levels with fewer train rows are lumped into "other" and never named.
        parts: a numerical or datetime column becomes so many groups of equal size.
    """

    min_rows: int = 30
    min_named: int = 11
    parts: int = 4

    name: ClassVar[str] = "bias"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``representation_ratio`` and ``label_drift`` per group, and the worst of each."""
        schema = comparison.frames()[3]
        if not schema.protected:
            reason = "not applicable: no protected column declared"
            return [skipped(metric, "bias", reason) for metric in METRICS]
        if comparison.equal_size < 1:
            return [skipped(metric, "bias", "needs rows in each table") for metric in METRICS]
        groups = list(self.groups(comparison))
        return [*self._representation(groups), *self._labels(comparison, groups)]

    def _representation(self, groups: list[Group]) -> list[Score]:
        assessed = [group for group in groups if group.holdout.sum() >= self.min_rows]
        if not assessed:
            reason = f"no group has the {self.min_rows} holdout rows that a ratio needs"
            return [*self._unassessed("representation_ratio", groups), _none(METRICS[0], reason)]
        level = bonferroni(0.95, len(assessed))
        each = [_ratio_score(group) for group in assessed]
        worst = largest([_log_ratio(group, level) for group in assessed])
        reference = largest([_log_ratio(group, level, "train") for group in assessed])
        low, high = np.exp(worst.low), np.exp(worst.high)
        summary = Score(
            metric="representation_worst",
            dimension="bias",
            value=float(np.exp(worst.value)),
            low=float(low),
            high=float(high),
            reference=float(np.exp(reference.value)),
            unit="ratio",
            n=len(assessed[0].synthetic),
        )
        return [*each, *self._unassessed("representation_ratio", groups), summary]

    def _labels(self, comparison: Comparison, groups: list[Group]) -> list[Score]:
        labels = outcome(comparison)
        if isinstance(labels, str):
            return [_none("label_drift_worst", labels)]
        scores, drifts, references = [], [], []
        rivals = [group for group in groups if labels.column not in group.columns]
        assessed = [group for group in rivals if self._has_rest(group)]
        level = bonferroni(0.95, len(assessed))
        for group in assessed:
            drift = labels.drift(group, "synthetic", level)
            if drift is None:
                reason = "the synthetic data has too few rows in the group, or outside it"
                scores.append(skipped("label_drift", "bias", reason, group.subject))
                continue
            real = labels.drift(group, "train", level)
            drifts.append(drift)
            references.extend([real] if real is not None else [])
            scores.append(_drift_score(labels, group, real))
        scores += self._unassessed("label_drift", [g for g in rivals if not self._has_rest(g)])
        if not drifts:
            reason = f"no group has the {self.min_rows} holdout rows that a drift needs"
            return [*scores, _none("label_drift_worst", reason)]
        worst = largest(drifts)
        summary = Score(
            metric="label_drift_worst",
            dimension="bias",
            value=worst.value,
            low=worst.low,
            high=worst.high,
            reference=largest(references).value if references else None,
            unit=labels.unit,
            n=len(comparison.synthetic),
        )
        return [*scores, summary]

    def _has_rest(self, group: Group) -> bool:
        inside = int(group.holdout.sum())
        return min(inside, len(group.holdout) - inside) >= self.min_rows

    def _unassessed(self, metric: str, groups: list[Group]) -> list[Score]:
        """Small groups are listed, never dropped."""
        return [
            skipped(
                metric,
                "bias",
                f"not assessable: fewer than {self.min_rows} holdout rows in the group or outside",
                group.subject,
            )
            for group in groups
            if metric == "label_drift" or group.holdout.sum() < self.min_rows
        ]

    def groups(self, comparison: Comparison) -> Iterator[Group]:
        """Levels of the protected columns and their two-way intersections; rare ones lumped."""
        train, holdout, synthetic, schema = comparison.frames()
        protected = []
        for name in schema.protected:
            series = {"train": train[name], "holdout": holdout[name], "synthetic": synthetic[name]}
            divide = self._levels if not _numeric(schema[name]) else self._ranges
            protected.append((name, divide(series)))
        for name, division in protected:
            for label in division["train"].cat.categories:
                yield _group((name,), (label,), (division,))
        for (first, one), (second, two) in combinations(protected, 2):
            for a in one["train"].cat.categories:
                for b in two["train"].cat.categories:
                    group = _group((first, second), (a, b), (one, two))
                    if group.train.any() or group.holdout.any():
                        yield group

    def _levels(self, series: dict[str, pd.Series]) -> dict[str, pd.Series]:
        """Group names of a column of levels; rare, unseen and missing ones are not named."""
        counts = _texts(series["train"]).value_counts()
        named = sorted(counts.index[counts >= self.min_named])
        missing = any(bool(series[name].isna().any()) for name in ("train", "holdout"))
        names = [*named, *([] if len(named) == len(counts) else ["other"])]
        categories = list(dict.fromkeys([*names, *(["missing"] if missing else [])]))
        return {
            table: _categorical(_name_levels(values, set(named)), categories)
            for table, values in series.items()
        }

    def _ranges(self, series: dict[str, pd.Series]) -> dict[str, pd.Series]:
        """Parts of equal size of a numerical column; the names hold no value of the data."""
        real = np.concatenate([to_numbers(series["train"]), to_numbers(series["holdout"])])
        finite = real[np.isfinite(real)]
        inner = np.arange(1, self.parts) / self.parts
        edges = np.unique(np.quantile(finite, inner)) if len(finite) else np.empty(0)
        # An edge at the top would leave a part without rows.
        edges = edges[edges < finite.max()] if len(finite) else edges
        names = [f"part {part} of {len(edges) + 1}" for part in range(1, len(edges) + 2)]
        categories = names + (["missing"] if np.isnan(real).any() else [])
        return {
            table: _categorical(_name_ranges(to_numbers(values), edges, names), categories)
            for table, values in series.items()
        }


@dataclass(frozen=True)
class Group:
    """Which rows of each table belong to a group: boolean (N,)."""

    subject: str
    columns: tuple[str, ...]
    train: np.ndarray
    holdout: np.ndarray
    synthetic: np.ndarray

    def of(self, table: Table) -> np.ndarray:
        """The rows of the group in a table."""
        members = {"train": self.train, "holdout": self.holdout, "synthetic": self.synthetic}
        return members[table]


@dataclass(frozen=True)
class Labels:
    """The outcome in each table: 0 or 1, or a number over its real standard deviation.

    A missing outcome is NaN and counts in no mean.
    """

    column: str
    unit: str
    values: dict[Table, np.ndarray]

    def drift(self, group: Group, table: Table, level: float) -> Estimate | None:
        """Signed difference, to the holdout, of (mean in the group - mean outside)."""
        signed, variance = 0.0, 0.0
        sides: tuple[tuple[Table, int], ...] = ((table, 1), ("holdout", -1))
        for name, sign in sides:
            values, members = self.values[name], group.of(name)
            known = ~np.isnan(values)
            for part, side in ((values[known & members], 1), (values[known & ~members], -1)):
                if len(part) < MIN_PART:
                    return None
                signed += sign * side * float(part.mean())
                variance += self._variance(part)
        half = normal_quantile(level) * float(np.sqrt(variance))
        return Estimate(signed, signed - half, signed + half)

    def _variance(self, part: np.ndarray) -> float:
        """Variance of the mean; of a share with two successes and failures added, so never 0.

        Source: A. Agresti, B. Caffo (2000), The American Statistician 54, 280-288.
        """
        if self.unit != "share":
            return float(part.var(ddof=1)) / len(part)
        n, successes = len(part) + 2, float(part.sum()) + 1
        return successes / n * (1 - successes / n) / n


def outcome(comparison: Comparison) -> Labels | str:
    """The outcome of the schema's target, or why there is none."""
    train, holdout, synthetic, schema = comparison.frames()
    if schema.target is None:
        return "not applicable: no target declared"
    target = schema[schema.target]
    if not target.modelled:
        return "not applicable: the target is an id or text, which is never modelled"
    frames: dict[Table, pd.DataFrame] = {
        "train": train,
        "holdout": holdout,
        "synthetic": synthetic,
    }
    if _numeric(target):
        numbers = {name: to_numbers(frame[target.name]) for name, frame in frames.items()}
        numbers = {name: np.where(np.isfinite(v), v, np.nan) for name, v in numbers.items()}
        real = np.concatenate([numbers["train"], numbers["holdout"]])
        real = real[~np.isnan(real)]
        spread = float(real.std()) if len(real) else 0.0
        if spread == 0:
            return "not applicable: the target is constant in the real data"
        return Labels(
            target.name, "standard deviations", {k: v / spread for k, v in numbers.items()}
        )
    return _positive_labels(target.name, frames)


def _positive_labels(target: str, frames: dict[Table, pd.DataFrame]) -> Labels | str:
    """The rarest level that at least 1 % of the real rows have, against all others."""
    texts = {name: _texts(frame[target]) for name, frame in frames.items()}
    shares = pd.concat([texts["train"], texts["holdout"]]).value_counts(normalize=True)
    if len(shares) < 2:
        return "not applicable: the target is constant in the real data"
    common = shares[shares >= _RARE_LABEL]
    positive = min(common.index, key=lambda level: (common[level], level))
    values: dict[Table, np.ndarray] = {}
    for name, frame in frames.items():
        positives = np.zeros(len(frame))
        positives[frame[target].isna().to_numpy()] = np.nan
        known = ~np.isnan(positives)
        positives[known] = (texts[name] == positive).to_numpy()
        values[name] = positives
    return Labels(target, "share", values)


def _ratio_score(group: Group) -> Score:
    value, low, high = np.exp(_log_ratio(group, 0.95))
    return Score(
        metric="representation_ratio",
        dimension="bias",
        subject=group.subject,
        value=float(value),
        low=float(low),
        high=float(high),
        reference=float(np.exp(_log_ratio(group, 0.95, "train").value)),
        unit="ratio",
        n=int(group.synthetic.sum()),
        minimum_detectable=float(np.expm1(_POWER * (np.log(high) - np.log(low)) / 2)),
    )


def _log_ratio(group: Group, level: float, table: Table = "synthetic") -> Estimate:
    members = group.of(table)
    return log_ratio_of_proportions(
        float(members.sum()),
        len(members),
        float(group.holdout.sum()),
        len(group.holdout),
        level,
    )


def _drift_score(labels: Labels, group: Group, real: Estimate | None) -> Score:
    drift = labels.drift(group, "synthetic", 0.95)
    if drift is None:
        reason = "the synthetic data has too few rows in the group, or outside it"
        return skipped("label_drift", "bias", reason, group.subject)
    size = magnitude(drift)
    return Score(
        metric="label_drift",
        dimension="bias",
        subject=group.subject,
        value=size.value,
        low=size.low,
        high=size.high,
        reference=None if real is None else abs(real.value),
        unit=labels.unit,
        n=int(group.synthetic.sum()),
        minimum_detectable=_POWER * (drift.high - drift.low) / 2,
    )


def magnitude(estimate: Estimate) -> Estimate:
    """The absolute value, with the interval that the signed one implies."""
    value, low, high = estimate
    nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return Estimate(abs(value), nearest, max(abs(low), abs(high)))


def largest(estimates: list[Estimate]) -> Estimate:
    """The largest absolute value; simultaneous intervals of all hold for it too."""
    sizes = [magnitude(estimate) for estimate in estimates]
    value, low, high = (max(ends) for ends in zip(*sizes, strict=True))
    return Estimate(value, low, high)


def _none(metric: str, reason: str) -> Score:
    return skipped(metric, "bias", reason)


def _numeric(column: Column) -> bool:
    return column.kind in ("numerical", "datetime")


def _group(
    columns: tuple[str, ...], labels: tuple[str, ...], divisions: tuple[dict[str, pd.Series], ...]
) -> Group:
    def members(table: Table) -> np.ndarray:
        of_each = [
            (division[table] == label).to_numpy(dtype=bool)
            for division, label in zip(divisions, labels, strict=True)
        ]
        inside: np.ndarray = np.logical_and.reduce(of_each)
        return inside

    subject = " & ".join(f"{name}={label}" for name, label in zip(columns, labels, strict=True))
    return Group(subject, columns, *(members(table) for table in TABLES))


def _texts(series: pd.Series) -> pd.Series:
    """Present values as text, 1.0 and 1 alike; the index is that of the present values."""
    present = series.dropna()
    uniques: Callable[[object], str] = _text
    return present.astype(object).map(uniques)


def _text(value: object) -> str:
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and plain.is_integer():
        return str(int(plain))
    return str(plain)


def _name_levels(series: pd.Series, named: set[str]) -> np.ndarray:
    names = np.full(len(series), "missing", dtype=object)
    texts = _texts(series).to_numpy(dtype=object)
    names[series.notna().to_numpy()] = [text if text in named else "other" for text in texts]
    return names


def _name_ranges(numbers: np.ndarray, edges: np.ndarray, names: list[str]) -> np.ndarray:
    labels = np.array([*names, "missing"], dtype=object)
    parts = np.searchsorted(edges, numbers, side="left")
    found: np.ndarray = labels[np.where(np.isnan(numbers), len(names), parts)]
    return found


def _categorical(names: np.ndarray, categories: list[str]) -> pd.Series:
    """Names outside the categories (a new level in synthetic rows only) belong to no group."""
    return pd.Series(pd.Categorical(names, categories=categories))
