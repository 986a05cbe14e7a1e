"""Coverage, lost categories, repeated rows."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial import cKDTree

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.diversity import METRICS, Diversity, _thinned_coverage, clipped_ratios
from validators.privacy.neighbours import MixedPoints


def test_fresh_real_rows_cover_as_real_rows_do(people, number):
    alarms = 0
    for seed in range(10):
        scores = Diversity(rows=400)(people(500, seed))
        ratio = number(scores, "coverage_ratio")
        assert ratio.value == pytest.approx(1, abs=0.15)
        alarms += not ratio.low <= 1 <= ratio.high
        assert number(scores, "missing_categories").value == 0
        duplicates = number(scores, "duplicate_excess")
        assert duplicates.low <= 0 <= duplicates.high
    assert alarms <= 2


def gaussians(n, share, seed=0):
    """A comparison of numbers whose synthetic rows are a share of fresh ones and far ones else."""
    rng = np.random.default_rng(seed)
    frames = [pd.DataFrame(rng.normal(size=(n, 2)), columns=["a", "b"]) for _ in range(3)]
    frames[2].iloc[round(share * n) :] = 100 + rng.normal(size=(n - round(share * n), 2))
    return Comparison(frames[2], frames[0], frames[1], TableSchema.infer(frames[0]))


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_both_are_linear_in_the_share_of_bad_rows(number, share):
    """The property that the clipped measures were made for."""
    scores = Diversity()(gaussians(1500, share))
    for metric in METRICS:
        found = number(scores, metric)
        assert found.value == pytest.approx(share, abs=0.06)
        assert found.low < share < found.high


def test_clipped_coverage_equals_its_closed_form():
    """The mass of a ball to the k-th of N neighbours is Beta(k, N - k): counts are beta-binomial.

    Averaged over samples the curve at share 1 is E min(X, k) / k of X of n rows.
    """
    n, k, rng = 400, 5, np.random.default_rng(1)
    found = []
    for _ in range(10):
        points, others = rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
        within = np.abs(points - points.T)
        np.fill_diagonal(within, np.inf)
        radius = np.sort(within, axis=1)[:, k - 1, None]
        held = (np.abs(points - others.T) <= radius).sum(axis=1)
        found.append(_thinned_coverage(held, k))
    whole = stats.betabinom(n, k, n - k)
    expected = sum(1 - whole.cdf(j) for j in range(k)) / k
    curve = np.mean(found, axis=0)
    assert curve[-1] == pytest.approx(expected, abs=0.02)
    half = stats.betabinom(n // 2, k, n - k)
    assert curve[len(curve) // 2] == pytest.approx(
        sum(1 - half.cdf(j) for j in range(k)) / k, abs=0.02
    )
    assert curve[0] == 0


def test_balls_are_counted_as_a_tree_counts_them():
    """scipy's k-d tree, L1 balls: the same clipped coverage and density before calibration."""
    comparison = gaussians(300, 0.6)
    table = comparison.table
    trees = [cKDTree(v.numbers.astype(float)) for v in (table.holdout, table.synthetic)]
    radius = trees[0].query(trees[0].data, k=6, p=1)[0][:, 5]
    held = trees[1].query_ball_point(trees[0].data, radius, p=1, return_length=True)
    points = [MixedPoints.of(v) for v in (table.holdout, table.synthetic)]
    within, fake = points[0].distances(points[0]), points[0].distances(points[1])
    np.fill_diagonal(within, np.inf)
    coverage, density = clipped_ratios(within, fake, fake, 5)
    assert coverage == pytest.approx(1, abs=1e-6)
    assert density == 1
    ours = (fake <= np.partition(within, 4, axis=1)[:, 4, None]).sum(axis=1)
    assert np.mean(np.minimum(ours, 5)) == pytest.approx(np.mean(np.minimum(held, 5)), abs=0.02)


def test_collapsed_mode_loses_coverage(people, number):
    comparison = people(1000)
    one_mode = comparison.synthetic[comparison.synthetic["age"] < 30]
    collapsed = one_mode.sample(1000, replace=True, random_state=0).reset_index(drop=True)
    scores = Diversity()(
        Comparison(collapsed, comparison.train, comparison.holdout, comparison.schema)
    )
    assert number(scores, "coverage_ratio").high < 0.8
    assert number(scores, "duplicate_excess").low > 0.5


def test_dropped_category_is_counted_and_named(people, with_synthetic, number):
    comparison = people(2000)
    region = comparison.synthetic["region"].replace("isle", "north")
    scores = Diversity()(with_synthetic(comparison, region=region))
    assert number(scores, "missing_categories").value == 1
    assert number(scores, "missing_categories", "region").value == 1


def test_rare_levels_may_be_absent_by_chance(people, with_synthetic, number):
    """At 500 rows the level is expected 10 times only: its absence proves nothing."""
    comparison = people(500)
    region = comparison.synthetic["region"].replace("isle", "north")
    scores = Diversity()(with_synthetic(comparison, region=region))
    assert number(scores, "missing_categories").value == 0
