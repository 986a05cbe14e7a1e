"""The one-run audit: published bounds, validity under a known ε, power against copying."""

import numpy as np
import pytest

from generators.base import DataError
from validators.privacy.canaries import (
    audit_canaries,
    bound_epsilon,
    epsilon_bounds,
    plant,
)


@pytest.mark.parametrize(
    ("correct", "guesses", "published"),
    [
        (100, 100, 3.49),
        (95, 100, 2.17),
        (80, 100, 0.96),
        (60, 100, 0.05),
        (1000, 1000, 5.81),
        (900, 1000, 2.02),
        (600, 1000, 0.30),
        (550, 1000, 0.09),
        (40, 100, 0.0),
    ],
)
def test_the_lower_bound_is_the_one_of_the_theorem(correct, guesses, published):
    found = epsilon_bounds(correct, guesses)
    assert found.low == pytest.approx(published, abs=0.01)
    assert found.low <= found.value <= found.high < np.inf


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_a_known_epsilon_is_exceeded_in_one_of_twenty_audits_at_most(epsilon):
    """Randomised response of that ε: every score agrees with its coin with e^ε / (1 + e^ε)."""
    rng = np.random.default_rng(0)
    over = 0
    for _ in range(300):
        inserted = rng.random(200) < 0.5
        right = rng.random(200) < 1 / (1 + np.exp(-epsilon))
        scores = np.where(right == inserted, 1.0, 0.0) + 1e-3 * rng.random(200)
        over += bound_epsilon(scores, inserted).epsilon.low > epsilon
    assert over / 300 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 300)


def planted(people, n=600):
    comparison = people(n)
    rng = np.random.default_rng(0)
    canaries, unseen = plant(comparison.train, comparison.holdout, comparison.schema, 200, rng)
    return comparison, canaries, unseen, rng.random(len(canaries)) < 0.5


def test_canaries_are_isolated_rows_and_rows_of_independent_columns(people):
    comparison, canaries, unseen, _ = planted(people)
    assert len(canaries) == 200
    assert len(unseen) == 400
    assert (canaries.dtypes == comparison.holdout.dtypes).all()
    assert not set(unseen["id"]) & set(canaries["id"])
    isolated, mixed = canaries[:100], canaries[100:]
    spread = comparison.holdout["gain"].std()
    assert isolated["gain"].std() > 1.5 * spread
    real = comparison.train[["age", "income"]].corr("spearman").iloc[0, 1]
    assert mixed[["age", "income"]].corr("spearman").iloc[0, 1] < real - 0.1


def test_fresh_rows_prove_no_epsilon(people):
    comparison, canaries, unseen, inserted = planted(people)
    found = audit_canaries(comparison.synthetic, canaries, inserted, unseen, comparison.schema)
    assert found.epsilon.low < 0.5
    assert (found.canaries, found.inserted) == (200, int(inserted.sum()))


def test_copied_canaries_prove_a_large_epsilon(people):
    comparison, canaries, unseen, inserted = planted(people)
    copied = comparison.synthetic.copy()
    copied.iloc[: inserted.sum()] = canaries[inserted].to_numpy()
    copied = copied.astype(comparison.synthetic.dtypes)
    found = audit_canaries(copied, canaries, inserted, unseen, comparison.schema)
    assert found.epsilon.low > 2
    assert found.correct / found.guesses > 0.95


def test_too_few_unseen_rows_are_said_to_be_too_few(people):
    with pytest.raises(DataError, match="hold out more rows"):
        planted(people, 60)
