"""Diversity: do synthetic rows reach everywhere that real rows are, and repeat none?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from .base import Score, skipped
from .comparison import Comparison
from .privacy.neighbours import MixedPoints
from .statistics import minimum_detectable_difference, subsample_interval, two_proportion_difference

_MIN_ROWS = 20
# A level expected so often is absent by chance once in 5e8 samples: no threshold to tune.
_EXPECTED = 20


@dataclass(kw_only=True)
class Diversity:
    """Coverage of the real space, lost categories, and repeated rows.

    Attributes:
        rows: at most so many rows of each table enter the coverage, which costs rows².
        neighbours: a real row is covered when a row lies nearer than its so-manieth neighbour.
        draws: subsamples for the interval of the coverage.
    """

    rows: int = 2_500
    neighbours: int = 5
    draws: int = 30

    name: ClassVar[str] = "diversity"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``coverage_ratio``, ``missing_categories`` and ``duplicate_excess``."""
        return [
            self._coverage(comparison),
            *_missing_categories(comparison),
            _duplicates(comparison),
        ]

    def _coverage(self, comparison: Comparison) -> Score:
        """Coverage of the holdout by synthetic rows over that by train rows.

        Source: M. F. Naeem et al. (2020), ICML, arXiv 2002.09797. Even equal distributions cover
        only about 1 - 2^-k, hence the ratio; the ties of discrete data count as covered.
        """
        if not comparison.table.columns:
            reason = "not applicable: no column is modelled, only ids and text"
            return skipped("coverage_ratio", "diversity", reason)
        if comparison.equal_size < _MIN_ROWS:
            reason = f"needs at least {_MIN_ROWS} rows in each table, has {comparison.equal_size}"
            return skipped("coverage_ratio", "diversity", reason)
        rows = comparison.equal_rows(self.name, self.rows)
        table = comparison.table
        holdout = MixedPoints.of(table.holdout.take(rows.holdout))
        within = holdout.distances(holdout)
        np.fill_diagonal(within, np.inf)
        fake = holdout.distances(MixedPoints.of(table.synthetic.take(rows.synthetic)))
        real = holdout.distances(MixedPoints.of(table.train.take(rows.train)))
        value = _ratio(within, fake, real, self.neighbours)
        n, half = len(rows), len(rows) // 2
        rng = comparison.rng(self.name)
        replicates = np.empty(self.draws)
        for draw in range(self.draws):
            points, others, trains = (rng.choice(n, half, replace=False) for _ in range(3))
            replicates[draw] = _ratio(
                within[np.ix_(points, points)],
                fake[np.ix_(points, others)],
                real[np.ix_(points, trains)],
                self.neighbours,
            )
        _, low, high = subsample_interval(value, replicates, half, n)
        return Score(
            metric="coverage_ratio",
            dimension="diversity",
            value=value,
            low=max(0.0, low),
            # Zero coverage of n points is known no better than a count of zero.
            high=max(high, value + 3 / n),
            reference=1.0,
            unit="ratio",
            n=n,
            minimum_detectable=2.487 / 1.96 * (high - low) / 2,
            higher_is_better=True,
        )


def _ratio(within: np.ndarray, fake: np.ndarray, real: np.ndarray, neighbours: int) -> float:
    k = min(neighbours, within.shape[0] - 1)
    radius = np.partition(within, k - 1, axis=1)[:, k - 1]
    covered = float((fake.min(axis=1) <= radius).mean())
    reachable = float((real.min(axis=1) <= radius).mean())
    return covered / reachable if reachable > 0 else 1.0


def _missing_categories(comparison: Comparison) -> list[Score]:
    """Levels that should occur at least 20 times and do not: exact counts, all and per column."""
    table = comparison.table
    if not table.category_columns:
        reason = "not applicable: no column has categories"
        return [skipped("missing_categories", "diversity", reason)]
    n = len(table.synthetic)
    if n == 0:
        reason = "needs at least 1 synthetic row, has 0"
        return [skipped("missing_categories", "diversity", reason)]
    real = np.concatenate([table.train.categories, table.holdout.categories])
    absent: dict[str, int] = {}
    for index, position in enumerate(table.category_columns):
        size = int(table.category_sizes[index])
        expected = np.bincount(real[:, index], minlength=size) / max(len(real), 1) * n
        counts = np.bincount(table.synthetic.categories[:, index], minlength=size)
        absent[table.columns[position].name] = int(((expected >= _EXPECTED) & (counts == 0)).sum())
    counts_by_subject = {"all": sum(absent.values())}
    counts_by_subject |= {name: count for name, count in absent.items() if count}
    return [
        Score(
            metric="missing_categories",
            dimension="diversity",
            subject=subject,
            value=float(count),
            low=float(count),
            high=float(count),
            reference=0.0,
            unit="levels",
            n=n,
        )
        for subject, count in counts_by_subject.items()
    ]


def _duplicates(comparison: Comparison) -> Score:
    """Share of rows equal to an earlier one, synthetic less train, at equal n."""
    if not comparison.table.columns:
        reason = "not applicable: no column is modelled, only ids and text"
        return skipped("duplicate_excess", "diversity", reason)
    if comparison.equal_size < 2:
        reason = f"needs at least 2 rows in each table, has {comparison.equal_size}"
        return skipped("duplicate_excess", "diversity", reason)
    rows = comparison.equal_rows("duplicates")
    n, table = len(rows), comparison.table
    fake, real, holdout = (
        n - len(np.unique(view.rows[kept]))
        for view, kept in (
            (table.synthetic, rows.synthetic),
            (table.train, rows.train),
            (table.holdout, rows.holdout),
        )
    )
    value, low, high = two_proportion_difference(fake, n, real, n)
    return Score(
        metric="duplicate_excess",
        dimension="diversity",
        value=value,
        low=low,
        high=high,
        reference=(holdout - real) / n,
        n=n,
        minimum_detectable=minimum_detectable_difference(max(real, 1) / n, n, n),
    )
