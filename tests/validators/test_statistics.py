"""Intervals against scipy, scikit-learn and statsmodels, and their coverage by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from generators.base import ParameterError
from validators import statistics as ours

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.9, 0.95, 0.99]))
@settings(deadline=None, max_examples=50)
def test_proportion_intervals_agree_with_statsmodels(count, level):
    successes, n = count
    for mine, method in ((ours.wilson, "wilson"), (ours.clopper_pearson, "beta")):
        expected = proportion_confint(successes, n, alpha=1 - level, method=method)
        assert mine(successes, n, level) == pytest.approx(expected, abs=1e-9)


def test_no_cases_give_the_whole_range():
    assert ours.wilson(0, 0) == (0, 1)
    assert ours.clopper_pearson(0, 0) == (0, 1)
    assert ours.two_proportion_difference(0, 0, 1, 2) == (0, -1, 1)


@given(COUNTS, COUNTS)
@settings(deadline=None, max_examples=50)
def test_newcombe_agrees_with_statsmodels(first, other):
    expected = confint_proportions_2indep(*first, *other, method="newcomb", compare="diff")
    estimate = ours.two_proportion_difference(*first, *other)
    assert estimate[1:] == pytest.approx(expected, abs=1e-6)
    assert estimate.low <= estimate.value <= estimate.high


@given(COUNTS, COUNTS)
@settings(deadline=None, max_examples=50)
def test_log_ratio_agrees_with_statsmodels(first, other):
    expected = confint_proportions_2indep(*first, *other, method="log-adjusted", compare="ratio")
    estimate = ours.log_ratio_of_proportions(*first, *other)
    assert np.exp(estimate[1:]) == pytest.approx(expected, rel=1e-6)
    swapped = ours.log_ratio_of_proportions(*other, *first)
    assert swapped.value == pytest.approx(-estimate.value)


SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=60)


@given(SCORES, SCORES)
@settings(deadline=None, max_examples=60)
def test_auc_equals_scikit_learn_with_ties(positive, negative):
    labels = np.r_[np.ones(len(positive)), np.zeros(len(negative))]
    estimate = ours.auc_with_interval(np.array(positive), np.array(negative))
    assert estimate.value == pytest.approx(roc_auc_score(labels, positive + negative))
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.high > estimate.low


def test_delong_variance_equals_the_quadratic_formula():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.5, 1, 40).round(1), rng.normal(0, 1, 55).round(1)
    order = positive[:, None] - negative[None, :]
    kernel = (order > 0) + 0.5 * (order == 0)
    up, down = ours.auc_components(positive, negative)
    np.testing.assert_allclose(up, kernel.mean(axis=1))
    np.testing.assert_allclose(down, kernel.mean(axis=0))


def test_auc_interval_covers_the_truth():
    truth = stats.norm.cdf(1 / np.sqrt(2))
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        estimate = ours.auc_with_interval(rng.normal(1, 1, 60), rng.normal(0, 1, 40))
        hits += estimate.low <= truth <= estimate.high
    assert 0.92 <= hits / 400 <= 0.98


def test_auc_difference_uses_the_shared_negatives():
    """Both classifiers see the same negatives: their common noise must not widen the interval."""
    rng = np.random.default_rng(2)
    hits, wide, narrow = 0, [], []
    for _ in range(300):
        shared = rng.normal(0, 1, 60)
        other = shared + rng.normal(0, 0.1, 60)
        first, second = rng.normal(1, 1, 400), rng.normal(1, 1, 400)
        paired = ours.auc_difference((first, shared), (second, other))
        hits += paired.low <= 0 <= paired.high
        narrow.append(paired.high - paired.low)
        unpaired = ours.auc_difference((first, shared), (second, rng.normal(0, 1, 60)))
        wide.append(unpaired.high - unpaired.low)
    assert 0.9 <= hits / 300 <= 0.99
    assert np.mean(narrow) < 0.75 * np.mean(wide)


def test_what_an_interval_can_detect_is_found_four_times_in_five():
    """By simulation: a normal estimate, shifted by so much, has its one-sided 5 % bound above 0."""
    rng = np.random.default_rng(8)
    error = 0.03
    step = ours.detectable_of(ours.Estimate(0.0, -1.959964 * error, 1.959964 * error))
    estimates = step + error * rng.normal(size=20_000)
    assert np.mean(estimates - 1.644854 * error > 0) == pytest.approx(0.8, abs=0.01)


def test_minimum_detectable_auc_is_the_published_table():
    """Closed form: 100, 1,000, 2,500 and 10,000 cases per class."""
    for n, expected in ((100, 0.10), (1000, 0.032), (2500, 0.020), (10_000, 0.010)):
        assert ours.minimum_detectable_auc(n, n) - 0.5 == pytest.approx(expected, abs=0.002)
    labels = np.random.default_rng(3).normal(size=(2000, 2, 30))
    spread = np.std([ours.auc_components(*pair)[0].mean() for pair in labels])
    assert ours.auc_null_error(30, 30) == pytest.approx(spread, rel=0.06)


def test_detectable_difference_has_the_promised_power():
    n, share = 2000, 0.3
    step = ours.minimum_detectable_difference(share, n, n)
    rng = np.random.default_rng(4)
    low, high = rng.binomial(n, share, 4000) / n, rng.binomial(n, share + step, 4000) / n
    error = np.sqrt(2 * share * (1 - share) / n)
    assert np.mean(high - low > stats.norm.ppf(0.95) * error) == pytest.approx(0.8, abs=0.03)


def test_signed_square_is_unbiased_on_sparse_cells():
    """2,500 cells and 5,000 rows: the raw distance is far from zero, its signed square is not."""
    rng = np.random.default_rng(5)
    probabilities = rng.dirichlet(np.ones(2500))
    squares, raw = [], []
    for _ in range(30):
        s, h, r = rng.multinomial(5000, probabilities, size=3)
        square, null = ours.tvd_signed_square(s, h, r, rng, draws=20)
        squares.append(square)
        raw.append(ours.tvd(s, h))
        assert null.shape == (20,)
    assert np.mean(raw) > 0.2
    assert abs(np.mean(squares)) < 0.002


def test_signed_square_recovers_a_true_distance():
    rng = np.random.default_rng(6)
    real = np.full(50, 0.02)
    moved = real * np.where(np.arange(50) % 2, 1.2, 0.8)  # true distance 0.1
    squares = [
        ours.tvd_signed_square(
            rng.multinomial(4000, moved), *rng.multinomial(4000, real, size=2), rng, draws=50
        )[0]
        for _ in range(60)
    ]
    # The quadrature reads a spread-out difference some 10 % low; subtraction would read 0.055.
    assert ours.signed_root(np.mean(squares)) == pytest.approx(0.1, abs=0.015)


def test_split_null_takes_equal_samples_of_a_larger_pool():
    rng = np.random.default_rng(7)
    pool = np.array([300, 200, 500])
    null = ours.split_null(pool, pool, 100, 400, rng)
    direct = [
        ours.tvd(*np.random.default_rng(s).multinomial(100, [0.3, 0.2, 0.5], size=2))
        for s in range(400)
    ]
    assert null.mean() == pytest.approx(np.mean(direct), rel=0.15)
    with pytest.raises(ParameterError, match="twice the 2000"):
        ours.split_null(pool, pool, 2000, 5, rng)


def test_signed_square_refuses_unequal_samples():
    counts = np.array([3, 4])
    with pytest.raises(ParameterError, match="equal size"):
        ours.tvd_signed_square(counts, counts, counts + 1, np.random.default_rng(0))


def test_bootstrap_interval_covers_a_mean():
    rng = np.random.default_rng(8)
    hits = 0
    for _ in range(300):
        estimate = ours.bootstrap_interval(
            rng.exponential(size=80), lambda x: float(x.mean()), rng, draws=200
        )
        hits += estimate.low <= 1 <= estimate.high
    assert 0.88 <= hits / 300 <= 0.98


def test_subsample_interval_of_a_mean_matches_its_standard_error():
    rng = np.random.default_rng(9)
    values = rng.normal(size=2000)
    replicates = np.array([rng.choice(values, 1000, replace=False).mean() for _ in range(2000)])
    estimate = ours.subsample_interval(values.mean(), replicates, 1000, 2000)
    expected = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert estimate.high - estimate.value == pytest.approx(expected, rel=0.06)


def test_bad_arguments_are_refused():
    for call in (
        lambda: ours.wilson(3, 2),
        lambda: ours.wilson(1, 2, level=1.5),
        lambda: ours.auc_with_interval(np.array([]), np.array([1.0])),
        lambda: ours.auc_with_interval(np.array([np.nan]), np.array([1.0])),
        lambda: ours.subsample_interval(0.5, np.ones(3), 10, 10),
        lambda: ours.tvd(np.zeros(3), np.ones(3)),
    ):
        with pytest.raises(ParameterError):
            call()


def test_cramers_v_agrees_with_its_definition_and_takes_many_tables_at_once():
    rng = np.random.default_rng(5)
    tables = rng.integers(0, 30, (4, 3, 6))
    tables[1, :, 2] = 0  # an empty row counts for nothing
    found = ours.cramers_v(tables)
    for at in range(6):
        table = tables[:, :, at][tables[:, :, at].sum(axis=1) > 0]
        n, (r, c) = table.sum(), table.shape
        chi2 = stats.chi2_contingency(table, correction=False).statistic
        phi = max(0.0, chi2 / n - (r - 1) * (c - 1) / (n - 1))
        least = min(r - (r - 1) ** 2 / (n - 1), c - (c - 1) ** 2 / (n - 1)) - 1
        assert found[at] == pytest.approx(np.sqrt(phi / least), abs=1e-12)
        assert ours.cramers_v(tables[:, :, at]) == pytest.approx(found[at], abs=1e-12)


def test_max_statistic_of_independent_and_of_equal_statistics():
    """k independent normals need the quantile of their maximum; k equal ones that of one."""
    rng = np.random.default_rng(6)
    draws = rng.normal(size=(20, 20_000))
    closed_form = stats.norm.ppf((1 + 0.95 ** (1 / 20)) / 2)
    assert ours.max_statistic_quantile(draws) == pytest.approx(closed_form, abs=0.06)
    equal = np.repeat(draws[:1] * 7 + 3, 20, axis=0)
    assert ours.max_statistic_quantile(equal) == pytest.approx(1.96, abs=0.04)
    assert ours.max_statistic_quantile(np.ones((3, 10))) == pytest.approx(1.96, abs=0.01)


@pytest.mark.parametrize(("draws", "probability"), [(39, 0.975), (42, 0.95), (199, 0.95)])
def test_one_more_draw_rarely_exceeds_the_upper_quantile(draws, probability):
    """The probability is rank / (B + 1) in closed form; a quantile between draws gives more."""
    rng = np.random.default_rng(7)
    more = np.mean(
        [rng.random() > ours.upper_quantile(rng.random(draws), probability) for _ in range(20_000)]
    )
    rank = np.ceil((draws + 1) * probability)
    assert more == pytest.approx(1 - rank / (draws + 1), abs=0.006)
    assert 1 - rank / (draws + 1) <= 1 - probability + 1e-12
    assert ours.upper_quantile(np.arange(10.0), 0.99) == 9
