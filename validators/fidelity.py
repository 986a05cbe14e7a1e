"""Fidelity: are the columns, and the columns in pairs, distributed as in the holdout?

The measure is the total variation distance over cells whose edges come from real data, freed of
the part that chance alone would show at this n (see ``statistics.tvd_signed_square``). The
yardstick is the holdout, not the training rows: those would reward copying.

Of each pair the strength of its association is compared too, by sign: an association that the real
data do not have is invented, one that they have and the synthetic data lack is lost. And the whole
is told as the share of a real sample that is as far from the holdout as the synthetic table is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from scipy import sparse

from .base import Score, skipped
from .binning import TableEncoding
from .comparison import Comparison, Rows
from .pair_counts import pair_counts
from .statistics import (
    clopper_pearson,
    cramers_v,
    max_statistic_quantile,
    normal_quantile,
    signed_root,
    tvd,
    upper_quantile,
)

PAIR_METRICS = (
    "pair_tvd_mean",
    "pair_tvd_p95",
    "association_invented",
    "association_lost",
    "equivalent_fraction",
)
METRICS = ("marginal_tvd_mean", "marginal_tvd_worst", *PAIR_METRICS)
# Beyond so many rows, blocks of rows are resampled instead of rows: the same spread, at the cost
# of a count.
_ROW_NOISE = 20_000
_BLOCKS = 400
# The largest of so many draws is beyond what equal tables show in 97.5 % of all cases.
_LEAST_DRAWS = 39
# Shares of a real sample whose distances the synthetic one is compared with.
_FRACTIONS = (0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.0)
_FRACTION_PAIRS = 60
# Of one table how many rows of each block lie in each cell, (size, G); and of the three tables,
# train first, synthetic last.
_Count: TypeAlias = sparse.csr_array | np.ndarray
_Counts: TypeAlias = tuple[_Count, _Count, _Count]
# One-sided 5 % and power 80 %: how many standard errors an effect needs to be found.
_POWER = 2.487
_ONE_SIDED = 1.645
_LEAST_ERROR = 1e-3


@dataclass(kw_only=True)
class Fidelity:
    """Distances of all columns and all pairs of columns to the holdout.

    Attributes:
        rows: at most so many rows of each table enter; all of them are counted.
        draws: resamples for the null and the interval of a column.
        pair_work: resamples of all pairs together; bounds the time of wide tables.
        pairs_shown: so many of the worst pairs get a row of their own.
    """

    rows: int = 1_000_000
    draws: int = 200
    pair_work: int = 8_000
    pairs_shown: int = 10

    name: ClassVar[str] = "fidelity"
    modality: ClassVar[Literal["table", "image"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """``marginal_tvd`` per column, ``pair_tvd`` of the worst pairs, and ``METRICS``."""
        if comparison.equal_size < 2:
            reason = f"needs at least 2 rows in each table, has {comparison.equal_size}"
            return [skipped(metric, "fidelity", reason) for metric in METRICS]
        if not comparison.table.columns:
            reason = "not applicable: no column is modelled, only ids and text"
            return [skipped(metric, "fidelity", reason) for metric in METRICS]
        rows = comparison.equal_rows(self.name, self.rows)
        noise = Noise.draw(len(rows), self.draws, comparison.rng(self.name))
        return self._marginals(comparison, rows, noise) + self.pairs_of(comparison, rows, noise)

    def _marginals(self, comparison: Comparison, rows: Rows, noise: Noise) -> list[Score]:
        table = comparison.table
        distances = column_distances(table, rows, noise)
        worst = max(distances, key=lambda distance: distance.root)
        # One quantile for the worst column: columns that depend on each other cost less than
        # Bonferroni's correction would take.
        quantile = max_statistic_quantile(np.array([d.draws for d in distances]))
        adjusted = [distance.ends(quantile) for distance in distances]
        summary = Score(
            metric="marginal_tvd_worst",
            dimension="fidelity",
            value=max(0.0, worst.root),
            low=max(low for low, _ in adjusted),
            high=max(high for _, high in adjusted),
            reference=max(0.0, *(distance.reference for distance in distances)),
            n=len(rows),
            minimum_detectable=worst.detects(quantile),
        )
        each = [distance.score("marginal_tvd", len(rows)) for distance in distances]
        return [*each, mean_distance("marginal_tvd_mean", distances, len(rows)), summary]

    def pairs_of(
        self, comparison: Comparison, rows: Rows, noise: Noise | None = None
    ) -> list[Score]:
        """``pair_tvd`` and ``association_drift`` of the worst pairs, and ``PAIR_METRICS``.

        Args:
            comparison: the three tables.
            rows: equally many row numbers of each.
            noise: resampling weights for these rows; drawn where they are not given.
        """
        noise = noise or Noise.draw(len(rows), self.draws, comparison.rng(self.name))
        coarse = comparison.coarse
        pairs = list(combinations(range(len(coarse.columns)), 2))
        if not pairs:
            reason = "not applicable: a pair needs two columns, the table has one"
            return [skipped(metric, "fidelity", reason) for metric in PAIR_METRICS]
        noise = noise.first(max(_LEAST_DRAWS, self.pair_work // len(pairs)))
        measured = [
            _pair_distance(subject, counts, shape, noise)
            for (subject, counts), shape in zip(
                _pair_counts(coarse, rows, pairs, noise), _shapes(coarse, pairs), strict=True
            )
        ]
        distances = [distance for distance, _ in measured]
        shown = sorted(distances, key=lambda distance: -distance.root)[: self.pairs_shown]
        # "At least so many pairs lie beyond this" is proven by intervals that hold together only:
        # of many pairs one in forty leaves its own on either side.
        quantile = max_statistic_quantile(np.array([distance.draws for distance in distances]))
        low, high = np.quantile([distance.ends(quantile) for distance in distances], 0.95, axis=0)
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
            minimum_detectable=float(np.median([d.detects(quantile) for d in distances])),
        )
        each = [distance.score("pair_tvd", len(rows)) for distance in shown]
        return [
            *each,
            mean_distance("pair_tvd_mean", distances, len(rows)),
            summary,
            *_associations([drift for _, drift in measured], len(rows), self.pairs_shown // 2),
            self._equivalent(comparison, distances, pairs),
        ]

    def _equivalent(
        self, comparison: Comparison, distances: list[Distance], pairs: list[tuple[int, int]]
    ) -> Score:
        """The share f for which f n real rows are as far from the holdout as the synthetic ones.

        The distance is the mean over pairs, not debiased: what a smaller sample has more of is
        noise. Source: the equivalent subsample of SDNist (NIST, 2023).
        """
        name = f"{self.name}/equivalent"
        rows = comparison.equal_rows(name, _ROW_NOISE)
        n, rng = len(rows), comparison.rng(name)
        kept = rng.permutation(len(pairs))[:_FRACTION_PAIRS]
        order = rng.permutation(n)
        curve, raw = np.zeros(len(_FRACTIONS)), 0.0
        for cells in _pair_cells(comparison.coarse, rows, [pairs[at] for at in kept]):
            holdout = np.bincount(cells.holdout, minlength=cells.size)
            raw += tvd(np.bincount(cells.synthetic, minlength=cells.size), holdout) / len(kept)
            for at, fraction in enumerate(_FRACTIONS):
                size = max(1, round(fraction * n))
                for part in (order[:size], order[-size:]):
                    counts = np.bincount(cells.train[part], minlength=cells.size)
                    curve[at] += tvd(counts, holdout) / 2 / len(kept)
        spread = float(np.mean([distances[at].draws for at in kept], axis=0).std(ddof=1))
        # The draws are of all rows, of which these may be a part.
        half = normal_quantile() * spread * float(np.sqrt(distances[0].n / n))
        value, low, high = (
            _fraction_of(curve, distance) for distance in (raw, raw + half, max(raw - half, 0.0))
        )
        return Score(
            metric="equivalent_fraction",
            dimension="fidelity",
            value=value,
            low=low,
            high=high,
            reference=1.0,
            n=n,
            higher_is_better=True,
        )


@dataclass(frozen=True)
class Noise:
    """Resampling weights that all columns share, so that sums over columns keep their dependence.

    Of many rows, random blocks are weighed and not rows: counts of independent rows vary between
    blocks as between rows, so the spread is the same, and the cost is one count.

    Attributes:
        split: ±1, float32 (2 G, B): random halves of the blocks of two tables together.
        synthetic, holdout: float32 (G, B): how often a bootstrap sample draws each block.
        block: int32 (n,): the block of each row of a table; G = n blocks of one row are rows.
    """

    split: np.ndarray
    synthetic: np.ndarray
    holdout: np.ndarray
    block: np.ndarray

    @classmethod
    def draw(cls, n: int, draws: int, rng: np.random.Generator) -> Noise:
        """Weights for n rows of each table."""
        block = np.arange(n, dtype=np.int32)
        if n > _ROW_NOISE:
            block = rng.permutation(block % _BLOCKS)
        count = min(n, _BLOCKS) if n > _ROW_NOISE else n
        halves = np.tile(np.repeat(np.array([1, -1], dtype=np.float32), count), (draws, 1))
        return cls(
            np.ascontiguousarray(rng.permuted(halves, axis=1).T),
            _bootstrap_weights(count, draws, rng),
            _bootstrap_weights(count, draws, rng),
            block,
        )

    def first(self, draws: int) -> Noise:
        """The same noise with at most so many draws."""
        return Noise(
            np.ascontiguousarray(self.split[:, :draws]),
            np.ascontiguousarray(self.synthetic[:, :draws]),
            np.ascontiguousarray(self.holdout[:, :draws]),
            self.block,
        )

    @property
    def blocks(self) -> int:
        """G, the number of blocks."""
        return len(self.synthetic)

    def placed(self, cells: np.ndarray) -> np.ndarray:
        """Cells (n,) and blocks as one number each, where rows come in blocks."""
        return cells if self.blocks == len(cells) else cells * np.int64(self.blocks) + self.block

    def apart(self, one: _Count, other: _Count) -> np.ndarray:
        """Differences, (size, B), of the counts of random halves of two tables' rows together.

        Args:
            one: ``counts`` of a table.
            other: those of another table.
        """
        half = len(self.split) // 2
        difference: np.ndarray = one @ self.split[:half] + other @ self.split[half:]
        return difference

    def counts(self, placed: np.ndarray, size: int) -> _Count:
        """How many rows of each block lie in each cell, (size, G); ``@`` weights gives counts."""
        if self.blocks == len(placed):
            ones = np.ones(len(placed), dtype=np.float32)
            at = np.arange(len(placed) + 1)
            return sparse.csr_array((ones, placed, at), shape=(len(placed), size)).T
        joint = np.bincount(placed, minlength=size * self.blocks)
        counts: np.ndarray = joint.reshape(size, self.blocks).astype(np.float32)
        return counts


@dataclass(frozen=True)
class _Cells:
    """Cells (n,) of one column or pair in the three tables."""

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
        draws: distances of bootstrap samples, shape (B,): of use is their spread, for they have
            the noise twice.
        chance: distances of random halves of the synthetic and the holdout rows together, (B,):
            what this distance would be if the two were samples of one source.
        reference: debiased distance of train and holdout, signed as ``root`` is.
        n: rows of each table.
    """

    subject: str
    raw: float
    null: float
    error: float
    draws: np.ndarray
    chance: np.ndarray
    reference: float
    n: int

    @property
    def root(self) -> float:
        """The debiased distance; negative where it is smaller than chance would have it."""
        return self._debias(self.raw)

    @property
    def detectable(self) -> float:
        """The distance that a 5 % test finds with probability 80 %."""
        return self.detects(_ONE_SIDED)

    def detects(self, quantile: float) -> float:
        """The same of a test at so many standard errors."""
        return min(1.0, self._debias(self.null + (quantile + _POWER - _ONE_SIDED) * self.error))

    @property
    def replicates(self) -> np.ndarray:
        """Signed roots of bootstrap draws around the distance, shape (B,)."""
        shifted = np.maximum(0.0, self.raw + self.draws - self.draws.mean())
        return signed_root(shifted**2 - self.null**2)

    @property
    def chance_roots(self) -> np.ndarray:
        """``root`` of each of the random halves, shape (B,)."""
        return signed_root(self.chance**2 - self.null**2)

    def interval(self, level: float) -> tuple[float, float]:
        """Ends of the interval of the debiased distance, within 0 and 1."""
        return self.ends(normal_quantile(level))

    def ends(self, quantile: float) -> tuple[float, float]:
        """The same, so many standard errors wide on either side."""
        half = quantile * self.error
        low, high = self._debias(max(0.0, self.raw - half)), self._debias(self.raw + half)
        # A bootstrap of identical rows has no spread; n equal rows prove no more than a count.
        certain = clopper_pearson(0, self.n).high
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


@dataclass(frozen=True)
class Drift:
    """How much stronger an association is in the synthetic than in the holdout rows.

    Cramér's V is a root cut at zero. Where an association is weak, or hangs on a few rows in rare
    cells, a bootstrap of it shows less spread than new samples have (D. W. K. Andrews (2000),
    Econometrica 68, 399-405), and where it is strong, random halves of the pooled rows say nothing
    of its error. So an interval reaches as far as the wider of the two; it leaves zero out only
    where a permutation test rejects, and that test is exact at every n.

    Attributes:
        value: difference of the bias-corrected Cramér's V.
        reference: the same of train and holdout.
        draws: of bootstrap samples, shape (B,); of use is their spread.
        chance: of random halves of the synthetic and the holdout rows together, shape (B,).
    """

    subject: str
    value: float
    reference: float
    draws: np.ndarray
    chance: np.ndarray

    @property
    def errors(self) -> tuple[float, float]:
        """Standard errors by bootstrap and by halves; never zero: n equal rows prove little."""
        by_bootstrap, by_halves = self.draws.std(ddof=1), self.chance.std(ddof=1)
        return max(float(by_bootstrap), _LEAST_ERROR), max(float(by_halves), _LEAST_ERROR)

    def half(self, quantiles: tuple[float, float]) -> float:
        """Half the width of an interval of so many standard errors of either kind."""
        return max(quantile * error for quantile, error in zip(quantiles, self.errors, strict=True))


@dataclass(frozen=True)
class _Drawn:
    """Counts of one column or pair.

    Attributes:
        tables: of train, holdout and synthetic rows, each (size,).
        synthetic, holdout: of bootstrap samples, (size, B).
        halves: of random halves of the synthetic and holdout rows together, each (size, B).
    """

    tables: tuple[np.ndarray, np.ndarray, np.ndarray]
    synthetic: np.ndarray
    holdout: np.ndarray
    halves: tuple[np.ndarray, np.ndarray]


def _pair_distance(
    subject: str, counts: _Counts, shape: tuple[int, int], noise: Noise
) -> tuple[Distance, Drift]:
    """The distance of a pair with joint cells of this shape, and the drift of its association."""
    distance, drawn = _measured(subject, counts, noise)
    train, holdout, synthetic = (cramers_v(counts.reshape(shape)) for counts in drawn.tables)
    draws, chance = (
        cramers_v(one.reshape(*shape, -1)) - cramers_v(other.reshape(*shape, -1))
        for one, other in ((drawn.synthetic, drawn.holdout), drawn.halves)
    )
    drift = Drift(subject, float(synthetic - holdout), float(train - holdout), draws, chance)
    return distance, drift


def _measured(subject: str, counts: _Counts, noise: Noise) -> tuple[Distance, _Drawn]:
    train, holdout, synthetic = counts
    n = len(noise.block)
    real, other, made = (count.sum(axis=1) for count in counts)
    expected = float((0.5 * np.abs(noise.apart(train, holdout)).sum(axis=0) / n).mean())
    apart, both = noise.apart(synthetic, holdout), (made + other)[:, None]
    drawn = _Drawn(
        (real, other, made),
        synthetic @ noise.synthetic,
        holdout @ noise.holdout,
        ((both + apart) / 2, (both - apart) / 2),
    )
    bootstrap = 0.5 * np.abs(drawn.synthetic - drawn.holdout).sum(axis=0) / n
    between = (0.5 * float(np.abs(real - other).sum()) / n) ** 2
    distance = Distance(
        subject=subject,
        raw=0.5 * float(np.abs(made - other).sum()) / n,
        null=expected,
        error=float(bootstrap.std(ddof=1)),
        draws=bootstrap,
        chance=0.5 * np.abs(apart).sum(axis=0) / n,
        reference=float(signed_root(between - expected**2)),
        n=n,
    )
    return distance, drawn


def column_distances(table: TableEncoding, rows: Rows, noise: Noise) -> list[Distance]:
    """The distance of every modelled column on these rows, equally many of each table."""
    found = []
    for position, column in enumerate(table.columns):
        cells = _column_cells(table, rows, position)
        counts = (
            noise.counts(noise.placed(cells.train), cells.size),
            noise.counts(noise.placed(cells.holdout), cells.size),
            noise.counts(noise.placed(cells.synthetic), cells.size),
        )
        found.append(_measured(column.name, counts, noise)[0])
    return found


def real_distances(
    table: TableEncoding, train: np.ndarray, holdout: np.ndarray, noise: Noise
) -> list[tuple[float, np.ndarray]]:
    """Of every column the distance of these train and holdout rows, and of random splits of them.

    Equally many rows of both; the distances of the splits have shape (B,).
    """
    found = []
    for position, size in enumerate(table.sizes):
        one = noise.counts(noise.placed(table.train.codes[train, position]), int(size))
        other = noise.counts(noise.placed(table.holdout.codes[holdout, position]), int(size))
        raw = 0.5 * float(np.abs(one.sum(axis=1) - other.sum(axis=1)).sum()) / len(train)
        found.append((raw, 0.5 * np.abs(noise.apart(one, other)).sum(axis=0) / len(train)))
    return found


class SplitTest(NamedTuple):
    """Distances of all columns with intervals that hold together, each of shape (D,).

    Attributes:
        values: debiased distances.
        lows, highs: their ends.
        detectable: the distance that the test of the column finds with probability 80 %.
    """

    values: np.ndarray
    lows: np.ndarray
    highs: np.ndarray
    detectable: np.ndarray


def split_test(measured: list[tuple[float, np.ndarray]], n: int, significance: float) -> SplitTest:
    """Whether a random split of the same rows would show distances as large as these.

    One quantile of the largest distance, in units of its own spread over random splits, serves all
    columns (a max-statistic, see ``statistics.max_statistic_quantile``), so that a column of many
    cells does not hide one of few.

    Args:
        measured: what ``real_distances`` gives.
        n: rows of each side.
        significance: how often the largest low end may be above zero by chance.
    """
    raw, splits = np.array([r for r, _ in measured]), np.array([s for _, s in measured])
    middle = splits.mean(axis=1)
    spread = np.maximum(splits.std(axis=1, ddof=1), 1 / n)
    largest = ((splits - middle[:, None]) / spread[:, None]).max(axis=0)
    quantile = float(np.quantile(largest, 1 - significance))
    values, lows, highs = (
        np.asarray(signed_root(np.maximum(0.0, raw + step * quantile * spread) ** 2 - middle**2))
        for step in (0, -1, 1)
    )
    power = (middle + (quantile + 0.84) * spread) ** 2 - middle**2
    return SplitTest(values, lows, highs, np.asarray(signed_root(power)))


def mean_distance(metric: str, distances: list[Distance], n: int, level: float = 0.95) -> Score:
    """The mean of signed roots: noise of columns without a difference cancels out.

    Roots are steep at zero, so a bootstrap of them is too narrow where nothing is wrong (see
    ``Drift``): the low end leaves zero out only where the exact permutation test rejects, too.
    """
    value = float(np.mean([distance.root for distance in distances]))
    draws = np.mean([distance.replicates for distance in distances], axis=0)
    half = normal_quantile(level) * float(draws.std(ddof=1))
    halves = np.mean([distance.chance_roots for distance in distances], axis=0)
    chance = upper_quantile(halves, 0.5 + level / 2)
    certain = clopper_pearson(0, n, level).high
    return Score(
        metric=metric,
        dimension="fidelity",
        value=max(0.0, value),
        low=max(0.0, min(value - max(half, chance), 1 - certain)),
        high=min(1.0, max(value + half, certain)),
        reference=max(0.0, float(np.mean([distance.reference for distance in distances]))),
        n=n,
        minimum_detectable=min(1.0, _POWER / normal_quantile(level) * half),
    )


def _associations(drifts: list[Drift], n: int, shown: int) -> list[Score]:
    """The pairs whose association drifts most, and the worst of each sign.

    One quantile of the largest deviation serves all pairs, see ``max_statistic_quantile``; there
    is one of the bootstrap and one of random halves, see ``Drift``.
    """
    quantiles = (
        max_statistic_quantile(np.array([drift.draws for drift in drifts])),
        max_statistic_quantile(np.array([drift.chance for drift in drifts])),
    )
    alone = normal_quantile(), normal_quantile()
    most = sorted(drifts, key=lambda drift: -abs(drift.value))[:shown]
    scores = [
        _drift_score("association_drift", drift, drift.half(alone), drift.subject, n)
        for drift in most
    ]
    halves = np.array([drift.half(quantiles) for drift in drifts])
    power = (_POWER - _ONE_SIDED) * np.array([max(drift.errors) for drift in drifts])
    for metric, sign in (("association_invented", 1.0), ("association_lost", -1.0)):
        values = np.array([sign * drift.value for drift in drifts])
        at = int(values.argmax())
        scores.append(
            replace(
                _drift_score(metric, drifts[at], float(halves[at]), "all", n),
                value=float(values.max()),
                low=float((values - halves).max()),
                high=float((values + halves).max()),
                reference=max(sign * drift.reference for drift in drifts),
                minimum_detectable=float(np.median(halves + power)),
            )
        )
    return scores


def _drift_score(metric: str, drift: Drift, half: float, subject: str, n: int) -> Score:
    return Score(
        metric=metric,
        dimension="fidelity",
        subject=subject,
        value=drift.value,
        low=drift.value - half,
        high=drift.value + half,
        reference=drift.reference,
        unit="cramers v",
        n=n,
        minimum_detectable=_POWER * max(drift.errors),
    )


def _fraction_of(curve: np.ndarray, distance: float) -> float:
    """Where the falling curve over ``_FRACTIONS`` has this distance; cut at both its ends."""
    falling = np.minimum.accumulate(curve)
    logs = np.interp(distance, falling[::-1], np.log(_FRACTIONS)[::-1])
    return float(np.exp(logs))


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


def _shapes(table: TableEncoding, pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(int(table.sizes[a]), int(table.sizes[b])) for a, b in pairs]


def _pair_cells(table: TableEncoding, rows: Rows, pairs: list[tuple[int, int]]) -> Iterator[_Cells]:
    """The joint cells of each pair; the first column is slow."""
    columns = [_column_cells(table, rows, j) for j in range(len(table.columns))]
    for first, second in pairs:
        a, b = columns[first], columns[second]
        yield _Cells(
            a.train * b.size + b.train,
            a.holdout * b.size + b.holdout,
            a.synthetic * b.size + b.synthetic,
            a.size * b.size,
        )


def _pair_counts(
    table: TableEncoding, rows: Rows, pairs: list[tuple[int, int]], noise: Noise
) -> Iterator[tuple[str, _Counts]]:
    """The name of each pair, and its counts in the three tables."""
    names = [f"{table.columns[a].name} × {table.columns[b].name}" for a, b in pairs]
    if noise.blocks == len(rows):
        for name, cells in zip(names, _pair_cells(table, rows, pairs), strict=True):
            yield (
                name,
                (
                    noise.counts(cells.train, cells.size),
                    noise.counts(cells.holdout, cells.size),
                    noise.counts(cells.synthetic, cells.size),
                ),
            )
        return
    tables = (
        (table.train.codes, rows.train),
        (table.holdout.codes, rows.holdout),
        (table.synthetic.codes, rows.synthetic),
    )
    counted = pair_counts(tables, table.sizes, pairs, noise.block)
    for name, (train, holdout, synthetic) in zip(names, counted, strict=True):
        yield name, (train, holdout, synthetic)
