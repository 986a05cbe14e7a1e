"""Fidelity: are the columns, and the columns in pairs, distributed as in the holdout?

The measure is the total variation distance over cells whose edges come from real data, freed of
the part that chance alone would show at this n (see ``statistics.tvd_signed_square``). The
yardstick is the holdout, not the training rows: those would reward copying.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar, Literal

import numpy as np
from scipy import sparse

from .base import Score, skipped
from .binning import TableEncoding
from .comparison import Comparison, Rows
from .statistics import bonferroni, clopper_pearson, normal_quantile, signed_root

METRICS = (
    "marginal_tvd_mean",
    "marginal_tvd_worst",
    "pair_tvd_mean",
    "pair_tvd_p95",
)
# One-sided 5 % and power 80 %: how many standard errors an effect needs to be found.
_POWER = 2.487


@dataclass(kw_only=True)
class Fidelity:
    """Distances of all columns and all pairs of columns to the holdout.

    Attributes:
        rows: at most so many rows of each table enter.
        draws: resamples for the null and the interval of a column.
        pair_work: resamples of all pairs together; bounds the time of wide tables.
        pairs_shown: so many of the worst pairs get a row of their own.
    """

    rows: int = 20_000
    draws: int = 100
    pair_work: int = 8_000
    pairs_shown: int = 10

    name: ClassVar[str] = "fidelity"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``marginal_tvd`` per column, ``pair_tvd`` of the worst pairs, and their summaries."""
        if comparison.equal_size < 2:
            reason = f"needs at least 2 rows in each table, has {comparison.equal_size}"
            return [skipped(metric, "fidelity", reason) for metric in METRICS]
        if not comparison.table.columns:
            reason = "not applicable: no column is modelled, only ids and text"
            return [skipped(metric, "fidelity", reason) for metric in METRICS]
        rows = comparison.equal_rows(self.name, self.rows)
        noise = Noise.draw(len(rows), self.draws, comparison.rng(self.name))
        return self._marginals(comparison, rows, noise) + self._pairs(comparison, rows, noise)

    def _marginals(self, comparison: Comparison, rows: Rows, noise: Noise) -> list[Score]:
        table = comparison.table
        distances = column_distances(table, rows, noise)
        level = bonferroni(0.95, len(distances))
        worst = max(distances, key=lambda distance: distance.root)
        adjusted = [distance.interval(level) for distance in distances]
        summary = Score(
            metric="marginal_tvd_worst",
            dimension="fidelity",
            value=max(0.0, worst.root),
            low=max(low for low, _ in adjusted),
            high=max(high for _, high in adjusted),
            reference=max(0.0, *(distance.reference for distance in distances)),
            n=len(rows),
            minimum_detectable=worst.detectable,
        )
        each = [distance.score("marginal_tvd", len(rows)) for distance in distances]
        return [*each, mean_distance("marginal_tvd_mean", distances, len(rows)), summary]

    def _pairs(self, comparison: Comparison, rows: Rows, noise: Noise) -> list[Score]:
        coarse = comparison.coarse
        pairs = list(combinations(range(len(coarse.columns)), 2))
        if not pairs:
            reason = "not applicable: a pair needs two columns, the table has one"
            return [skipped(m, "fidelity", reason) for m in ("pair_tvd_mean", "pair_tvd_p95")]
        noise = noise.first(max(12, self.pair_work // len(pairs)))
        distances = [
            _distance(subject, cells, noise) for subject, cells in _pair_cells(coarse, rows, pairs)
        ]
        shown = sorted(distances, key=lambda distance: -distance.root)[: self.pairs_shown]
        ends = np.array([distance.interval(0.95) for distance in distances])
        low, high = np.quantile(ends, 0.95, axis=0)
        value = float(np.quantile([max(0.0, distance.root) for distance in distances], 0.95))
        summary = Score(
            metric="pair_tvd_p95",
            dimension="fidelity",
            value=value,
            # A quantile of noisy distances is biased upwards, that of their low ends is not.
            low=min(value, float(low)),
            high=max(value, float(high)),
            reference=float(np.quantile([max(0.0, d.reference) for d in distances], 0.95)),
            n=len(rows),
        )
        each = [distance.score("pair_tvd", len(rows)) for distance in shown]
        return [*each, mean_distance("pair_tvd_mean", distances, len(rows)), summary]


@dataclass(frozen=True)
class Noise:
    """Resampling weights that all columns share, so that sums over columns keep their dependence.

    Attributes:
        split: ±1, float32 (2 n, B): random halves of the real rows, train first.
        synthetic, holdout: float32 (n, B): how often a bootstrap sample draws each row.
    """

    split: np.ndarray
    synthetic: np.ndarray
    holdout: np.ndarray

    @classmethod
    def draw(cls, n: int, draws: int, rng: np.random.Generator) -> Noise:
        """Weights for n rows of each table."""
        halves = np.tile(np.repeat(np.array([1, -1], dtype=np.float32), n), (draws, 1))
        return cls(
            np.ascontiguousarray(rng.permuted(halves, axis=1).T),
            _bootstrap_weights(n, draws, rng),
            _bootstrap_weights(n, draws, rng),
        )

    def first(self, draws: int) -> Noise:
        """The same noise with at most so many draws."""
        return Noise(
            np.ascontiguousarray(self.split[:, :draws]),
            np.ascontiguousarray(self.synthetic[:, :draws]),
            np.ascontiguousarray(self.holdout[:, :draws]),
        )


@dataclass(frozen=True)
class _Cells:
    """Cell numbers (n,) of one column or pair in the three tables."""

    train: np.ndarray
    holdout: np.ndarray
    synthetic: np.ndarray
    size: int


@dataclass(frozen=True)
class Distance:
    """The distance of one column or pair, with what is needed to judge it.

    Attributes:
        raw: total variation distance of synthetic and holdout.
        null: its expectation between two real samples of this size.
        error: its standard error.
        replicates: signed roots of bootstrap draws, shape (B,).
        reference: debiased distance of train and holdout, signed as ``root`` is.
        n: rows of each table.
    """

    subject: str
    raw: float
    null: float
    error: float
    replicates: np.ndarray
    reference: float
    n: int

    @property
    def root(self) -> float:
        """The debiased distance; negative where it is smaller than chance would have it."""
        return self._debias(self.raw)

    @property
    def detectable(self) -> float:
        """The distance that a 5 % test finds with probability 80 %."""
        return min(1.0, self._debias(self.null + _POWER * self.error))

    def interval(self, level: float) -> tuple[float, float]:
        """Ends of the interval of the debiased distance, within 0 and 1."""
        half = normal_quantile(level) * self.error
        low, high = self._debias(max(0.0, self.raw - half)), self._debias(self.raw + half)
        # A bootstrap of identical rows has no spread; n equal rows prove no more than a count.
        certain = clopper_pearson(0, self.n, level).high
        low, high = min(low, 1 - certain), max(high, certain)
        return max(0.0, low), min(1.0, max(high, self.root))

    def score(self, metric: str, n: int) -> Score:
        """The distance with its 95 % interval, cut at zero."""
        low, high = self.interval(0.95)
        value = max(0.0, self.root)
        return Score(
            metric=metric,
            dimension="fidelity",
            subject=self.subject,
            value=value,
            low=min(low, value),
            high=high,
            reference=max(0.0, self.reference),
            n=n,
            minimum_detectable=self.detectable,
        )

    def _debias(self, raw: float) -> float:
        return float(signed_root(raw**2 - self.null**2))


def _distance(subject: str, cells: _Cells, noise: Noise) -> Distance:
    n = len(cells.synthetic)
    train, holdout, synthetic = (
        np.bincount(codes, minlength=cells.size)
        for codes in (cells.train, cells.holdout, cells.synthetic)
    )
    raw = 0.5 * float(np.abs(synthetic - holdout).sum()) / n
    pool = np.concatenate([cells.train, cells.holdout])
    null = 0.5 * np.abs(_weighted_counts(pool, cells.size, noise.split)).sum(axis=0) / n
    drawn = _weighted_counts(cells.synthetic, cells.size, noise.synthetic)
    drawn -= _weighted_counts(cells.holdout, cells.size, noise.holdout)
    bootstrap = 0.5 * np.abs(drawn).sum(axis=0) / n
    expected = float(null.mean())
    # The bootstrap adds the noise a second time: its spread is used, its level is not.
    shifted = np.maximum(0.0, raw + bootstrap - bootstrap.mean())
    real = (0.5 * float(np.abs(train - holdout).sum()) / n) ** 2
    return Distance(
        subject=subject,
        raw=raw,
        null=expected,
        error=float(bootstrap.std(ddof=1)),
        replicates=signed_root(shifted**2 - expected**2),
        reference=float(signed_root(real - expected**2)),
        n=n,
    )


def column_distances(table: TableEncoding, rows: Rows, noise: Noise) -> list[Distance]:
    """The distance of every modelled column on these rows, equally many of each table."""
    return [
        _distance(column.name, _column_cells(table, rows, position), noise)
        for position, column in enumerate(table.columns)
    ]


def mean_distance(metric: str, distances: list[Distance], n: int, level: float = 0.95) -> Score:
    """The mean of signed roots: noise of columns without a difference cancels out."""
    value = float(np.mean([distance.root for distance in distances]))
    draws = np.mean([distance.replicates for distance in distances], axis=0)
    half = normal_quantile(level) * float(draws.std(ddof=1))
    certain = clopper_pearson(0, n, level).high
    return Score(
        metric=metric,
        dimension="fidelity",
        value=max(0.0, value),
        low=max(0.0, min(value - half, 1 - certain)),
        high=min(1.0, max(value + half, certain)),
        reference=max(0.0, float(np.mean([distance.reference for distance in distances]))),
        n=n,
        minimum_detectable=min(1.0, _POWER / normal_quantile(level) * half),
    )


def _weighted_counts(codes: np.ndarray, size: int, weights: np.ndarray) -> np.ndarray:
    """Sums of the weights (n, B) of the rows in each cell, shape (size, B)."""
    ones = np.ones(len(codes), dtype=np.float32)
    rows = sparse.csr_array((ones, codes, np.arange(len(codes) + 1)), shape=(len(codes), size))
    counts: np.ndarray = rows.T @ weights
    return counts


def _bootstrap_weights(n: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    weights = np.empty((n, draws), dtype=np.float32)
    for draw in range(draws):
        weights[:, draw] = np.bincount(rng.integers(0, n, size=n), minlength=n)
    return weights


def _column_cells(table: TableEncoding, rows: Rows, position: int) -> _Cells:
    return _Cells(
        table.train.codes[rows.train, position],
        table.holdout.codes[rows.holdout, position],
        table.synthetic.codes[rows.synthetic, position],
        int(table.sizes[position]),
    )


def _pair_cells(
    table: TableEncoding, rows: Rows, pairs: list[tuple[int, int]]
) -> Iterator[tuple[str, _Cells]]:
    columns = [_column_cells(table, rows, j) for j in range(len(table.columns))]
    for first, second in pairs:
        a, b = columns[first], columns[second]
        cells = _Cells(
            a.train * b.size + b.train,
            a.holdout * b.size + b.holdout,
            a.synthetic * b.size + b.synthetic,
            a.size * b.size,
        )
        yield f"{table.columns[first].name} × {table.columns[second].name}", cells
