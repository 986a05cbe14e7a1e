"""Diversity: do synthetic rows reach everywhere that real rows are, and repeat none?

Coverage and density are clipped (Salvy, Talbot, Thirion 2025, arXiv:2507.01761): a real row counts
as covered by the share of the rows that it should have near it, and a synthetic row as good by its
place among real rows, with no credit for crowding. Both are told beside fresh real rows, and on a
scale on which a table with a share p of bad rows scores 1 - p.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from scipy import stats

from .base import Score, skipped
from .comparison import Comparison
from .privacy.neighbours import MixedPoints
from .statistics import detectable_of, subsample_interval, two_proportion_difference

METRICS = ("coverage_ratio", "density_ratio")
_MIN_ROWS = 20
# Shares of the train rows whose coverage calibrates that of synthetic rows; and how far beyond all
# of them coverage may be read, by the slope at the end.
_SHARES = np.linspace(0, 1, 41)
_OVER = 0.25
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
        """``coverage_ratio``, ``density_ratio``, ``missing_categories``, ``duplicate_excess``."""
        return [
            *self._neighbourhoods(comparison),
            *_missing_categories(comparison),
            _duplicates(comparison),
        ]

    def _neighbourhoods(self, comparison: Comparison) -> list[Score]:
        """Clipped coverage and density of the holdout by synthetic rows, beside train rows."""
        if not comparison.table.columns:
            reason = "not applicable: no column is modelled, only ids and text"
            return [skipped(metric, "diversity", reason) for metric in METRICS]
        if comparison.equal_size < _MIN_ROWS:
            reason = f"needs at least {_MIN_ROWS} rows in each table, has {comparison.equal_size}"
            return [skipped(metric, "diversity", reason) for metric in METRICS]
        rows = comparison.equal_rows(self.name, self.rows)
        table = comparison.table
        holdout = MixedPoints.of(table.holdout.take(rows.holdout))
        within = holdout.distances(holdout)
        np.fill_diagonal(within, np.inf)
        fake = holdout.distances(MixedPoints.of(table.synthetic.take(rows.synthetic)))
        real = holdout.distances(MixedPoints.of(table.train.take(rows.train)))
        values = clipped_ratios(within, fake, real, self.neighbours)
        n, half = len(rows), len(rows) // 2
        rng = comparison.rng(self.name)
        replicates = np.empty((self.draws, len(METRICS)))
        for draw in range(self.draws):
            points, others, trains = (rng.choice(n, half, replace=False) for _ in range(3))
            replicates[draw] = clipped_ratios(
                within[np.ix_(points, points)],
                fake[np.ix_(points, others)],
                real[np.ix_(points, trains)],
                self.neighbours,
            )
        return [
            _ratio_score(metric, value, draws, half, n)
            for metric, value, draws in zip(METRICS, values, replicates.T, strict=True)
        ]


def clipped_ratios(
    within: np.ndarray, fake: np.ndarray, real: np.ndarray, neighbours: int
) -> tuple[float, float]:
    """Calibrated clipped coverage, and clipped density over that of real rows.

    Args:
        within: distances among N holdout rows, (N, N), infinite on the diagonal.
        fake: from each holdout row to n synthetic rows, (N, n).
        real: from each holdout row to as many train rows, (N, n).
        neighbours: a row's ball reaches to its so-manieth neighbour.

    Returns:
        the coverage as the share of the train rows that would cover as much: what m of the n train
        rows cover is computed for every m by thinning, so ties of discrete data need no theory;
        and the mean over synthetic rows of min(1, balls that hold the row / k), over the same of
        train rows, with balls no larger than the median one, so that outliers' balls do not count.
    """
    k = min(neighbours, within.shape[0] - 1)
    radius = np.partition(within, k - 1, axis=1)[:, k - 1, None]
    held = [(side <= radius).sum(axis=1) for side in (fake, real)]
    covered = float(np.minimum(held[0], k).mean()) / k
    curve = _thinned_coverage(held[1], k)
    slope = max((curve[-1] - curve[-2]) / (_SHARES[-1] - _SHARES[-2]), 1e-9)
    over = max(0.0, covered - float(curve[-1])) / slope
    coverage = float(np.interp(covered, curve, _SHARES)) + min(over, _OVER)
    cut = np.minimum(radius, np.median(radius))
    density = [float(np.minimum((side <= cut).sum(axis=0), k).mean()) for side in (fake, real)]
    return coverage, density[0] / density[1] if density[1] > 0 else 1.0


def _thinned_coverage(held: np.ndarray, k: int) -> np.ndarray:
    """Mean clipped coverage when each row that lies in a ball is kept with the shares _SHARES."""
    counts, weights = np.unique(held, return_counts=True)
    missed = stats.binom.cdf(np.arange(k)[:, None, None], counts[:, None], _SHARES)
    of_count = (1 - missed).sum(axis=0) / k
    covered: np.ndarray = weights @ of_count / len(held)
    return covered


def _ratio_score(metric: str, value: float, draws: np.ndarray, half: int, n: int) -> Score:
    _, low, high = subsample_interval(value, draws, half, n)
    return Score(
        metric=metric,
        dimension="diversity",
        value=value,
        low=min(max(0.0, low), value),
        # No row covered out of n is known no better than a count of zero.
        high=max(high, value + 3 / n),
        reference=1.0,
        unit="ratio",
        n=n,
        minimum_detectable=2.487 / 1.96 * (high - low) / 2,
        higher_is_better=True,
    )


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
    excess = two_proportion_difference(fake, n, real, n)
    return Score(
        metric="duplicate_excess",
        dimension="diversity",
        value=excess.value,
        low=excess.low,
        high=excess.high,
        reference=(holdout - real) / n,
        n=n,
        minimum_detectable=detectable_of(excess),
    )
