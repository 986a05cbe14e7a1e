"""What a report may show of real data: aggregates of at least eleven rows, and nothing else.

Categories are named only where at least eleven training rows and eleven holdout rows have them;
the rest are lumped together until the lump has eleven too. Bins of numbers are cut at round
numbers between the 1 % and 99 % quantiles and joined until each holds eleven holdout rows, so that
no extreme, no single row and no small count can be read from a picture. (Eleven is the usual
minimum cell size of health-data releases.)
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from generators.schema import MICROSECONDS_PER_DAY, Column, TableSchema, to_numbers

from .charts import Bar
from .comparison import Comparison
from .statistics import cramers_v

MIN_ROWS = 11
_BINS = 14
_MAX_LEVELS = 7
_MAX_ASSOCIATED = 14
_MAX_ROWS = 50_000
OTHER = "all other"
_JOINTS = " &×,;∧()"
_PLACE = re.compile(r"part \d+ of \d+")


@dataclass(frozen=True)
class Marginal:
    """The shares of one column's cells among real (holdout) and synthetic rows.

    Attributes:
        column: its name.
        bars: the cells; their real shares rest on at least eleven rows each.
        ordered: whether the bars lie along an axis of numbers.
        missing: shares of missing values (real, synthetic) of an axis of numbers, where at least
            eleven real rows have none and at least eleven have one.
    """

    column: str
    bars: tuple[Bar, ...]
    ordered: bool
    missing: tuple[float, float] | None = None


@dataclass(frozen=True)
class Associations:
    """Bias-corrected Cramér's V of all pairs of some columns, each of shape (D, D)."""

    names: tuple[str, ...]
    real: np.ndarray
    synthetic: np.ndarray


def marginals(comparison: Comparison, limit: int = 24) -> tuple[Marginal, ...]:
    """The marginals of the first ``limit`` columns; columns without a cell to show are left out."""
    train, holdout, synthetic, schema = comparison.frames()
    found = []
    for column in schema.modelled[:limit]:
        name = column.name
        if column.discrete:
            bars = _level_bars(train[name], holdout[name], synthetic[name])
        else:
            bars = _number_bars(column, train[name], holdout[name], synthetic[name])
        missing = None if column.discrete else _missing(holdout[name], synthetic[name])
        if bars:
            found.append(Marginal(name, bars, not column.discrete, missing))
    return tuple(found)


def associations(comparison: Comparison) -> Associations:
    """Associations of the first columns, between holdout and synthetic rows at equal n."""
    encoding = comparison.coarse
    count = min(len(encoding.columns), _MAX_ASSOCIATED)
    rows = comparison.equal_rows("associations", _MAX_ROWS)
    real = encoding.holdout.codes[rows.holdout][:, :count]
    synthetic = encoding.synthetic.codes[rows.synthetic][:, :count]
    return Associations(
        tuple(column.name for column in encoding.columns[:count]),
        _matrix(real, encoding.sizes),
        _matrix(synthetic, encoding.sizes),
    )


class Discretion:
    """Takes names of rare categories out of text that goes into a report."""

    def __init__(self, comparison: Comparison | None) -> None:
        self._common: dict[str, set[str]] = {}
        self._named: re.Pattern[str] | None = None
        self._rare: list[str] = []
        if comparison is not None and isinstance(comparison.schema, TableSchema):
            self._learn(comparison)

    def subject(self, subject: str) -> str:
        """A score's subject; a group of fewer than eleven training rows is not named.

        Without a comparison nothing is known about the groups, and none is named.
        """
        if "=" not in subject:
            return self.text(subject)
        found = list(self._named.finditer(subject)) if self._named is not None else []
        if not found:
            return f"{subject.partition('=')[0]}=(withheld)"
        ends = [*(match.start() for match in found[1:]), len(subject)]
        parts = [
            self._part(match[1], subject[match.end() : end].strip(_JOINTS))
            for match, end in zip(found, ends, strict=True)
        ]
        return " & ".join(parts)

    def text(self, text: str) -> str:
        """Free text without the names of rare categories."""
        for level in self._rare:
            text = re.sub(rf"(?<!\w){re.escape(level)}(?!\w)", "(withheld)", text)
        return text

    def _part(self, column: str, level: str) -> str:
        # Ranges of numbers are named by their place (``part 2 of 4``), which holds no value.
        common = level in self._common.get(column, set()) or _PLACE.fullmatch(level)
        return f"{column}={level}" if common else f"{column}=(withheld)"

    def _learn(self, comparison: Comparison) -> None:
        train, _, _, schema = comparison.frames()
        names = {column.name for column in schema.columns}
        longest_first = sorted(names, key=len, reverse=True)
        either = "|".join(re.escape(name) for name in longest_first)
        self._named = re.compile(rf"(?:(?<=^)|(?<=[{re.escape(_JOINTS)}]))({either})\s*=")
        for column in schema.columns:
            if not column.discrete:
                continue
            counts = train[column.name].value_counts()
            self._common[column.name] = {str(k) for k, n in counts.items() if n >= MIN_ROWS}
            every = {str(level) for level in (*counts.index, *column.levels)}
            # A level such as "1" or a column's name says nothing by itself and stays.
            self._rare += [
                level
                for level in every - self._common[column.name]
                if len(level) > 2 and level not in names
            ]


def _level_bars(train: pd.Series, holdout: pd.Series, synthetic: pd.Series) -> tuple[Bar, ...]:
    counts = [_level_counts(series) for series in (train, holdout, synthetic)]
    of_train, of_holdout, of_synthetic = counts
    enough = [
        level for level in of_holdout if min(of_holdout[level], of_train.get(level, 0)) >= MIN_ROWS
    ]
    shown = sorted(enough, key=lambda level: (-of_holdout[level], level))
    lumped = sum(of_holdout.values()) - sum(of_holdout[level] for level in shown)
    # A lump of a few rows could be worked out from the other shares, so it takes in more levels.
    while shown and (len(shown) > _MAX_LEVELS or 0 < lumped < MIN_ROWS):
        lumped += of_holdout[shown.pop()]
    if not shown and lumped < MIN_ROWS:
        return ()
    bars = [
        Bar(level, of_holdout[level] / len(holdout), of_synthetic.get(level, 0) / len(synthetic))
        for level in shown
    ]
    rest = len(synthetic) - sum(of_synthetic.get(level, 0) for level in shown)
    if lumped or rest:
        bars.append(Bar(OTHER, lumped / len(holdout), rest / max(len(synthetic), 1)))
    return tuple(bars)


def _level_counts(series: pd.Series) -> dict[str, int]:
    counts = series.astype(object).map(str, na_action="ignore").fillna("missing").value_counts()
    return {str(level): int(count) for level, count in counts.items()}


def _missing(holdout: pd.Series, synthetic: pd.Series) -> tuple[float, float] | None:
    count = int(holdout.isna().sum())
    if not MIN_ROWS <= count <= len(holdout) - MIN_ROWS:
        return None
    return count / len(holdout), float(synthetic.isna().mean())


def _number_bars(
    column: Column, train: pd.Series, holdout: pd.Series, synthetic: pd.Series
) -> tuple[Bar, ...]:
    known, real, made = (to_numbers(series) for series in (train, holdout, synthetic))
    edges = _round_edges(known[np.isfinite(known)], column)
    if len(edges) < 2:
        return ()
    inner = edges[1:-1]
    real_counts = _counts(real, inner)
    starts = _joined(real_counts)
    if not starts:
        return ()
    made_counts = _counts(made, inner)
    bounds = [*starts, len(real_counts)]
    bars = []
    for first, last in itertools.pairwise(bounds):
        label = _range_label(edges, first, last, column)
        bars.append(
            Bar(
                label,
                float(real_counts[first:last].sum()) / max(len(real), 1),
                float(made_counts[first:last].sum()) / max(len(made), 1),
                float(edges[first]),
                float(edges[last]),
            )
        )
    return tuple(bars)


def _counts(numbers: np.ndarray, inner: np.ndarray) -> np.ndarray:
    finite = numbers[np.isfinite(numbers)]
    codes = np.searchsorted(inner, finite, side="right")
    return np.bincount(codes, minlength=len(inner) + 1)


def _round_edges(numbers: np.ndarray, column: Column) -> np.ndarray:
    """Edges at round numbers; the first and last bin are open, they only look closed."""
    if len(numbers) < MIN_ROWS:
        return np.empty(0)
    low, high = (float(q) for q in np.quantile(numbers, [0.01, 0.99]))
    unit = MICROSECONDS_PER_DAY if column.kind == "datetime" else 1.0
    if high <= low:
        high = low + unit
    raw = (high - low) / unit / _BINS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m for m in (1, 2, 5, 10) if m * power >= raw * 0.999) * power * unit
    if column.step is not None and step < column.step:
        step = column.step
    return np.arange(math.floor(low / step), math.ceil(high / step) + 1.5) * step


def _joined(counts: np.ndarray) -> list[int]:
    """First bins of the runs of neighbouring bins that hold at least eleven rows each."""
    starts, held = [0], 0
    for number, count in enumerate(counts):
        if held >= MIN_ROWS:
            starts.append(number)
            held = 0
        held += int(count)
    if held < MIN_ROWS:
        starts.pop()
    return starts


def _range_label(edges: np.ndarray, first: int, last: int, column: Column) -> str:
    low, high = (_number_label(edges[at], column) for at in (first, last))
    if first == 0 and last == len(edges) - 1:
        return "all"
    if first == 0:
        return f"< {high}"
    if last == len(edges) - 1:
        return f"≥ {low}"
    return f"{low} to {high}"


def _number_label(number: float, column: Column) -> str:
    if column.kind == "datetime":
        return str(pd.Timestamp(int(number), unit="us").date())
    return f"{number:,.6g}".replace(",", " ")


def _matrix(codes: np.ndarray, sizes: Sequence[int] | np.ndarray) -> np.ndarray:
    count = codes.shape[1]
    matrix = np.eye(count)
    for i in range(count):
        for j in range(i):
            rows, columns = int(sizes[i]), int(sizes[j])
            joint = np.bincount(codes[:, i] * columns + codes[:, j], minlength=rows * columns)
            matrix[i, j] = matrix[j, i] = float(cramers_v(joint.reshape(rows, columns)))
    return matrix
