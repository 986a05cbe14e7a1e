"""Intervals, nulls and power: the statistics that every validator's error bars come from.

Nothing here knows of tables or images; counts and scores go in, numbers come out. Intervals are
two-sided and hold 95 % unless ``level`` says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import special, stats

from generators.base import ParameterError


class Interval(NamedTuple):
    """Ends of a confidence interval."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A value and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def normal_quantile(level: float = 0.95) -> float:
    """The z for which a standard normal lies within ±z with probability ``level``."""
    _check_level(level)
    return float(special.ndtri(0.5 + level / 2))


def bonferroni(level: float, comparisons: int) -> float:
    """The level of each of so many intervals that all hold together with probability ``level``."""
    return 1 - (1 - level) / max(comparisons, 1)


def wilson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Score interval of a proportion; (0, 1) where ``n`` is 0.

    Source: E. B. Wilson (1927), JASA 22, 209-212.
    """
    _check_counts(successes, n)
    if n == 0:
        return Interval(0.0, 1.0)
    z, share = normal_quantile(level), successes / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(float(low), float(high))


def clopper_pearson(successes: float, n: float, level: float = 0.95) -> Interval:
    """Exact interval of a proportion: covers at least ``level``; (0, 1) where ``n`` is 0.

    Source: C. J. Clopper, E. S. Pearson (1934), Biometrika 26, 404-413.
    """
    _check_counts(successes, n)
    _check_level(level)
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return Interval(low, high)


def two_proportion_difference(
    successes: float, n: float, other_successes: float, other_n: float, level: float = 0.95
) -> Estimate:
    """Difference of two independent proportions, first minus other, by hybrid score.

    Source: R. G. Newcombe (1998), Statistics in Medicine 17, 873-890, method 10.
    """
    if n == 0 or other_n == 0:
        return Estimate(0.0, -1.0, 1.0)
    first, second = wilson(successes, n, level), wilson(other_successes, other_n, level)
    share, other = successes / n, other_successes / other_n
    down = np.hypot(share - first.low, second.high - other)
    up = np.hypot(first.high - share, other - second.low)
    return Estimate(share - other, float(share - other - down), float(share - other + up))


def log_ratio_of_proportions(
    successes: float, n: float, other_successes: float, other_n: float, level: float = 0.95
) -> Estimate:
    """Log of the ratio of two independent proportions, first over other; finite at zero counts.

    Half a success is added to each count, which leaves the estimate almost unbiased.

    Source: S. D. Walter (1975), Biometrika 62, 371-374; A. Agresti, Categorical Data Analysis,
    3rd ed., section 3.1.
    """
    _check_counts(successes, n)
    _check_counts(other_successes, other_n)
    a, b, c, d = successes + 0.5, n + 0.5, other_successes + 0.5, other_n + 0.5
    value = float(np.log(a / b) - np.log(c / d))
    half = normal_quantile(level) * float(np.sqrt(1 / a - 1 / b + 1 / c - 1 / d))
    return Estimate(value, value - half, value + half)


def auc_components(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DeLong's structural components of an AUC, in O(n log n).

    For every positive the share of negatives below it, and for every negative the share of
    positives above it; ties count half.

    Source: E. R. DeLong et al. (1988), Biometrics 44, 837-845; X. Sun, W. Xu (2014), IEEE Signal
    Processing Letters 21, 1389-1393.
    """
    positive, negative = _scores(positive), _scores(negative)
    joint = stats.rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    of_positive = (joint[:m] - stats.rankdata(positive)) / n
    of_negative = 1 - (joint[m:] - stats.rankdata(negative)) / m
    return of_positive, of_negative


def auc_with_interval(positive: np.ndarray, negative: np.ndarray, level: float = 0.95) -> Estimate:
    """Area under the ROC curve of scores, ties half, with DeLong's interval on the logit scale.

    Where the DeLong variance vanishes, the interval is that of a count (perfect separation) or of
    the null of the rank-sum test (all scores equal), never of width zero.

    Args:
        positive: scores of the positive class, shape (m,), m > 0.
        negative: scores of the negative class, shape (n,), n > 0.
        level: of the interval.

    Source: DeLong et al. (1988), see ``auc_components``; M. S. Pepe (2003), The Statistical
    Evaluation of Medical Tests, section 5.2.4 (logit interval).
    """
    of_positive, of_negative = auc_components(positive, negative)
    m, n = len(of_positive), len(of_negative)
    area = float(of_positive.mean())
    smallest = min(m, n)
    if area in (0.0, 1.0):
        bound = clopper_pearson(smallest * area, smallest, level)
        return Estimate(area, bound.low, bound.high)
    variance = _variance(of_positive) / m + _variance(of_negative) / n
    if variance <= 0 or smallest < 2:
        variance = auc_null_error(m, n) ** 2
    half = normal_quantile(level) * np.sqrt(variance) / (area * (1 - area))
    centre = special.logit(area)
    return Estimate(area, float(special.expit(centre - half)), float(special.expit(centre + half)))


def auc_difference(
    first: tuple[np.ndarray, np.ndarray],
    other: tuple[np.ndarray, np.ndarray],
    level: float = 0.95,
) -> Estimate:
    """Difference of two AUCs, first minus other, whose negatives are the same cases.

    Args:
        first: scores of (positives, negatives) by one classifier.
        other: scores of other positives and of the same negatives, in the same order, by another.
        level: of the interval.

    Source: DeLong et al. (1988): the covariance that the shared negatives induce.
    """
    up, shared = auc_components(*first)
    down, other_shared = auc_components(*other)
    if len(shared) != len(other_shared):
        raise ParameterError(
            "both classifiers must score the same negatives, got "
            f"{len(shared)} and {len(other_shared)} of them"
        )
    value = float(up.mean() - down.mean())
    variance = (
        _variance(up) / len(up)
        + _variance(down) / len(down)
        + _variance(shared - other_shared) / len(shared)
    )
    floor = 2 / (len(up) + len(shared)) ** 2  # one pair of ranks: never a width of zero
    half = normal_quantile(level) * float(np.sqrt(max(variance, floor)))
    return Estimate(value, value - half, value + half)


def auc_null_error(positives: int, negatives: int) -> float:
    """Standard error of an AUC whose true value is one half.

    Source: H. B. Mann, D. R. Whitney (1947), Annals of Mathematical Statistics 18, 50-60.
    """
    return float(np.sqrt((positives + negatives + 1) / (12 * positives * negatives)))


def minimum_detectable_auc(
    positives: int, negatives: int, significance: float = 0.05, power: float = 0.8
) -> float:
    """The AUC above one half that a one-sided test finds with probability ``power``; at most 1.

    Source: normal approximation with the null variance, see ``auc_null_error``.
    """
    z = special.ndtri(1 - significance) + special.ndtri(power)
    return float(min(1.0, 0.5 + z * auc_null_error(positives, negatives)))


def minimum_detectable_difference(
    share: float, n: int, other_n: int, significance: float = 0.05, power: float = 0.8
) -> float:
    """The difference between two proportions near ``share`` that a one-sided test finds.

    Source: J. L. Fleiss, Statistical Methods for Rates and Proportions, 3rd ed., chapter 4.
    """
    z = special.ndtri(1 - significance) + special.ndtri(power)
    spread = np.sqrt(share * (1 - share) * (1 / max(n, 1) + 1 / max(other_n, 1)))
    return float(min(1.0, z * spread))


def detectable_of(
    estimate: Estimate, significance: float = 0.05, power: float = 0.8, level: float = 0.95
) -> float:
    """The deviation that a one-sided test finds with probability ``power``, from an interval.

    It is that of the standard error from which an interval as wide as this one of ``level`` comes.
    """
    z = special.ndtri(1 - significance) + special.ndtri(power)
    return float(z * (estimate.high - estimate.low) / (2 * normal_quantile(level)))


def tvd(counts: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two count vectors over the same cells: half the L1 distance."""
    total, other_total = counts.sum(), other.sum()
    if total == 0 or other_total == 0:
        raise ParameterError("a distance needs at least one case on both sides; got none on one")
    return float(0.5 * np.abs(counts / total - other / other_total).sum())


def split_null(
    train: np.ndarray, holdout: np.ndarray, n: int, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """TVDs between two random disjoint samples of ``n`` real cases each, shape (draws,).

    The pool of real counts is split without replacement, so that sparse cells do not bias the
    null the way a plug-in multinomial does.

    Raises:
        ParameterError: the pool has fewer than 2 n cases.
    """
    pool = (train + holdout).astype(np.int64)
    if pool.sum() < 2 * n or n < 1:
        raise ParameterError(
            f"the real pool must hold twice the {n} cases of a side, it holds {pool.sum()}; "
            "take smaller samples"
        )
    if pool.sum() > 2 * n:
        both = rng.multivariate_hypergeometric(pool, 2 * n, size=draws, method="marginals")
        side = np.array(
            [rng.multivariate_hypergeometric(row, n, method="marginals") for row in both]
        )
    else:
        both = np.broadcast_to(pool, (draws, len(pool)))
        side = rng.multivariate_hypergeometric(pool, n, size=draws, method="marginals")
    distances: np.ndarray = 0.5 * np.abs(2 * side - both).sum(axis=1) / n
    return distances


def tvd_signed_square(
    synthetic: np.ndarray,
    holdout: np.ndarray,
    train: np.ndarray,
    rng: np.random.Generator,
    draws: int = 200,
) -> tuple[float, np.ndarray]:
    """Squared TVD of synthetic and holdout less the square that equal distributions would show.

    Noise and bias add in quadrature, so the signed square has mean zero under the null, while a
    difference of distances under-reads the error. All three are integer count vectors over the
    same cells with equal totals.

    Returns:
        the signed square, and the null distances, shape (draws,).
    """
    totals = {int(counts.sum()) for counts in (synthetic, holdout, train)}
    if len(totals) != 1:
        raise ParameterError(
            f"the three samples must have equal size, got {sorted(totals)}; subsample first"
        )
    null = split_null(train, holdout, totals.pop(), draws, rng)
    return tvd(synthetic, holdout) ** 2 - float(null.mean()) ** 2, null


def signed_root(squares: np.ndarray | float) -> np.ndarray:
    """The square root with the sign of its argument: symmetric, so noise averages to zero."""
    values = np.asarray(squares, dtype=np.float64)
    roots: np.ndarray = np.sign(values) * np.sqrt(np.abs(values))
    return roots


def max_statistic_quantile(draws: np.ndarray, level: float = 0.95) -> float:
    """How many standard errors wide intervals must be to hold all together with ``level``.

    The largest deviation over the statistics, each in its own standard errors, is computed in
    every resample; its quantile keeps the dependence that Bonferroni's correction gives away.

    Args:
        draws: resampled statistics, shape (statistics, B); constant ones cannot deviate.
        level: that all intervals hold.

    Source: P. H. Westfall, S. S. Young (1993), Resampling-Based Multiple Testing, section 2.3.
    """
    _check_level(level)
    centred = draws - draws.mean(axis=1, keepdims=True)
    errors = draws.std(axis=1, ddof=1)
    moving = errors > 0
    if not moving.any():
        return normal_quantile(level)
    largest = np.abs(centred[moving] / errors[moving, None]).max(axis=0)
    return upper_quantile(largest, level)


def upper_quantile(draws: np.ndarray, probability: float) -> float:
    """The draw that one more of the same kind exceeds with probability 1 - ``probability`` at most.

    A quantile between the draws would be exceeded more often. The largest draw where there are
    too few: B of them reach probability B / (B + 1).

    Source: B. Phipson, G. K. Smyth (2010), Statistical Applications in Genetics and Molecular
    Biology 9, article 39.
    """
    rank = min(len(draws), math.ceil((len(draws) + 1) * probability))
    return float(np.sort(draws)[rank - 1])


def cramers_v(counts: np.ndarray) -> np.ndarray:
    """Bias-corrected Cramér's V of contingency tables.

    Args:
        counts: shape (rows, columns), or (rows, columns, tables); empty rows and columns count
            for nothing.

    Returns:
        one number a table, 0 where a side has a single level.

    Source: W. Bergsma (2013), Journal of the Korean Statistical Society 42, 323-328, eq. 5 to 7.
    """
    table = np.asarray(counts, dtype=np.float64)
    over_rows, over_columns = table.sum(axis=0), table.sum(axis=1)
    n = over_rows.sum(axis=0)
    expected = over_columns[:, None] * over_rows[None]
    terms = np.divide(table**2, expected, out=np.zeros_like(table), where=expected > 0)
    rows, columns = ((side > 0).sum(axis=0) for side in (over_columns, over_rows))
    free = np.maximum(n - 1, 1)
    phi = np.maximum(0.0, terms.sum(axis=(0, 1)) - 1 - (rows - 1) * (columns - 1) / free)
    least = np.minimum(rows - (rows - 1) ** 2 / free, columns - (columns - 1) ** 2 / free) - 1
    usable = (np.minimum(rows, columns) > 1) & (least > 0) & (n > 1)
    values: np.ndarray = np.sqrt(np.divide(phi, least, out=np.zeros_like(phi), where=usable))
    return values


def bootstrap_interval(
    values: np.ndarray,
    statistic: Callable[[np.ndarray], float],
    rng: np.random.Generator,
    draws: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """The statistic of ``values`` and its percentile bootstrap interval over their first axis.

    Source: B. Efron, R. J. Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
    """
    if len(values) == 0:
        raise ParameterError("a bootstrap needs at least one value; got none")
    rows = rng.integers(0, len(values), size=(draws, len(values)))
    replicates = np.array([statistic(values[row]) for row in rows])
    low, high = percentiles(replicates, level)
    return Estimate(float(statistic(values)), low, high)


def percentiles(replicates: np.ndarray, level: float = 0.95) -> Interval:
    """The central interval that holds a share ``level`` of the replicates."""
    _check_level(level)
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, [tail, 1 - tail])
    return Interval(float(low), float(high))


def subsample_interval(
    value: float, replicates: np.ndarray, size: int, n: int, level: float = 0.95
) -> Estimate:
    """Interval from statistics of subsamples of ``size`` out of ``n`` without replacement.

    The spread of the replicates shrinks by sqrt(size / n), and is corrected for the overlap of
    samples drawn without replacement; statistics of nearest neighbours need this, since ties of
    an ordinary bootstrap sit at distance zero.

    Source: D. N. Politis, J. P. Romano, M. Wolf (1999), Subsampling, sections 2.2 and 2.5.
    """
    if not 0 < size < n:
        raise ParameterError(f"a subsample must be smaller than the sample of {n}, got {size}")
    shrink = np.sqrt(size / n) / np.sqrt(1 - size / n)
    half = normal_quantile(level) * float(np.std(replicates, ddof=1)) * float(shrink)
    return Estimate(value, value - half, value + half)


def _variance(values: np.ndarray) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _scores(values: np.ndarray) -> np.ndarray:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 1 or len(scores) == 0 or np.isnan(scores).any():
        raise ParameterError(
            "scores must be a non-empty vector of numbers, got shape "
            f"{scores.shape} with {int(np.isnan(scores).sum())} missing"
        )
    return scores


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ParameterError(f"a level must lie between 0 and 1, got {level}; e.g. 0.95")


def _check_counts(successes: float, n: float) -> None:
    if not 0 <= successes <= n:
        raise ParameterError(f"successes must lie between 0 and n, got {successes} of {n}")
