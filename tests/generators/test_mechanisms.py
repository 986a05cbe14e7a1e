"""Mechanisms against their closed forms and against an independent account of privacy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from generators.mechanisms import (
    RandomBits,
    bernoulli_exp,
    choose,
    delta_of,
    discrete_gaussian,
    discrete_laplace,
    noisy_counts,
    rho_of,
)


@pytest.fixture
def bits() -> RandomBits:
    return RandomBits(b"of these tests", "bits")


def test_integers_are_even(bits: RandomBits) -> None:
    for bound in (1, 2, 7, 300):
        drawn = np.bincount([bits.below(bound) for _ in range(3000)], minlength=bound)
        assert stats.chisquare(drawn).pvalue > 1e-4 if bound > 1 else drawn[0] == 3000


def test_bits_hang_on_key_and_label() -> None:
    def first(key: bytes, label: str) -> int:
        return RandomBits(key, label).below(2**64)

    assert first(b"a", "x") == first(b"a", "x")
    assert len({first(b"a", "x"), first(b"b", "x"), first(b"a", "y"), first(b"ax", "")}) == 4


@pytest.mark.parametrize(("numerator", "denominator"), [(0, 1), (1, 3), (1, 1), (7, 3)])
def test_bernoulli_exp(numerator: int, denominator: int, bits: RandomBits) -> None:
    hits = sum(bernoulli_exp(numerator, denominator, bits) for _ in range(4000))
    assert stats.binomtest(hits, 4000, math.exp(-numerator / denominator)).pvalue > 1e-4


@pytest.mark.parametrize("variance", [1, 9, 400])
def test_discrete_gaussian_is_what_it_says(variance: int, bits: RandomBits) -> None:
    drawn = np.array([discrete_gaussian(variance, bits) for _ in range(4000)])
    support = np.arange(-200, 201)
    mass = np.exp(-(support**2) / (2 * variance))
    mass /= mass.sum()
    wide = math.isqrt(variance)
    edges = np.unique(np.round(np.linspace(-2 * wide, 2 * wide, 7)).astype(int))
    cells = np.searchsorted(edges, drawn, side="right")
    expected = np.bincount(np.searchsorted(edges, support, side="right"), mass)
    assert (
        stats.chisquare(np.bincount(cells, minlength=len(expected)), 4000 * expected).pvalue > 1e-4
    )


def test_discrete_laplace_is_what_it_says(bits: RandomBits) -> None:
    drawn = np.array([discrete_laplace(3, bits) for _ in range(4000)])
    falling = math.exp(-1 / 3)
    at_zero = (1 - falling) / (1 + falling)
    for value in (0, 1, -1, 4):
        expected = at_zero * falling ** abs(value)
        assert stats.binomtest(int((drawn == value).sum()), 4000, expected).pvalue > 1e-4


def test_choices_follow_the_exponential_mechanism(bits: RandomBits) -> None:
    scores, rho = [10, 8, 0, 9], 0.05
    weights = np.exp(math.sqrt(8 * rho) * np.array(scores) / (2 * 2))
    drawn = np.bincount([choose(scores, 2, rho, bits) for _ in range(4000)], minlength=4)
    assert stats.chisquare(drawn, 4000 * weights / weights.sum()).pvalue > 1e-4


def test_noise_has_the_deviation_that_the_budget_asks_for(bits: RandomBits) -> None:
    noisy = noisy_counts(np.full((40, 50), 7), 0.02, bits)
    assert noisy.deviation == pytest.approx(math.sqrt(1 / 0.02), rel=0.01)
    assert (noisy.counts == np.round(noisy.counts)).all()
    assert np.std(noisy.counts) == pytest.approx(noisy.deviation, rel=0.08)
    assert abs(noisy.counts.mean() - 7) < 4 * noisy.deviation / math.sqrt(2000)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 4.0, 10.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5])
def test_the_account_is_safe_and_tight(epsilon: float, delta: float) -> None:
    rho = rho_of(epsilon, delta)
    assert delta_of(rho, epsilon) <= delta * (1 + 1e-6)
    # Better than the simple conversion of Bun and Steinke, rho + 2 sqrt(rho log(1 / delta)).
    simple = (math.sqrt(epsilon + math.log(1 / delta)) - math.sqrt(math.log(1 / delta))) ** 2
    assert simple <= rho
    # What Gaussian noise of this rho really costs (Balle, Wang 2018) is below what is claimed.
    deviation = 1 / math.sqrt(2 * rho)
    at = epsilon * deviation
    exact = stats.norm.cdf(0.5 / deviation - at) - math.exp(epsilon) * stats.norm.cdf(
        -0.5 / deviation - at
    )
    assert exact <= delta
    assert exact > delta / 1000


def test_a_budget_beyond_measure_has_an_account_too() -> None:
    assert rho_of(1e9, 1e-6) == pytest.approx(1e9, rel=0.02)


def test_the_exact_cost_is_computed_rightly() -> None:
    """The closed form of the test above, by integration over the outcomes."""
    deviation, epsilon = 2.0, 1.0

    def over(x: float) -> float:
        return max(
            stats.norm.pdf(x, 1, deviation) - math.exp(epsilon) * stats.norm.pdf(x, 0, deviation),
            0.0,
        )

    integral = integrate.quad(over, -20, 30, limit=500)[0]
    closed = stats.norm.cdf(0.25 - 2.0) - math.e * stats.norm.cdf(-0.25 - 2.0)
    assert closed == pytest.approx(integral, rel=1e-4)
