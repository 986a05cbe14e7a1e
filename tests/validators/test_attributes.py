"""Attribute inference: nothing where fresh rows are published, much where train is."""

import numpy as np
import pandas as pd
import pytest

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.privacy.attributes import METRICS, Attributes, _Secret, excess
from validators.statistics import log_ratio_of_proportions


def with_synthetic(comparison, synthetic):
    return Comparison(
        synthetic.reset_index(drop=True), comparison.train, comparison.holdout, comparison.schema
    )


def test_fresh_rows_give_nothing_away(people, number):
    alarms = 0
    for seed in range(4):
        scores = Attributes()(people(800, seed))
        whole, worst = (number(scores, metric) for metric in METRICS)
        assert whole.high < 0.09
        assert whole.low < 0.02
        alarms += worst.low > 0
        assert worst.high > whole.high
    assert alarms <= 1


def test_published_training_rows_give_all_away(people, number):
    comparison = people(800)
    scores = Attributes()(with_synthetic(comparison, comparison.train))
    assert number(scores, "attribute_excess").low > 0.5
    assert number(scores, "attribute_excess", "age").low > 0.9
    assert number(scores, "attribute_excess_worst").low > 0.9


def test_copies_of_a_tenth_are_seen_as_a_tenth(people, number):
    """A tenth of the training rows is handed out; their secrets are hit, the others are not."""
    comparison = people(2000)
    some = comparison.train.sample(200, random_state=0)
    mixed = pd.concat([comparison.synthetic, some])
    found = number(Attributes()(with_synthetic(comparison, mixed)), "attribute_excess")
    assert 0.03 < found.value < 0.13
    assert found.low > 0.01


def test_the_excess_is_the_published_formula():
    """400 of 1,000 training and 250 of 1,000 control secrets: (0.4 - 0.25) / 0.75 = 0.2."""
    train, control = np.repeat([1.0, 0.0], [400, 600]), np.repeat([1.0, 0.0], [250, 750])
    found = excess(train, control)
    assert found.value == pytest.approx(0.2, abs=1e-3)
    ratio = log_ratio_of_proportions(600, 1000, 750, 1000)
    assert found.low == pytest.approx(1 - np.exp(ratio.high))
    assert found.high == pytest.approx(1 - np.exp(ratio.low))


def test_the_interval_covers_no_excess():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(400):
        train, control = (rng.random(300) < 0.4).astype(float), (rng.random(500) < 0.4)
        found = excess(train, control.astype(float))
        covered.append(found.low <= 0 <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_a_number_is_hit_within_a_twentieth_of_the_quartiles_and_no_sign_helps():
    """Guesses independent of N(0, 1): 2.7 % are within 0.05 of an interquartile range of 1.35."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=20_000), "y": rng.integers(0, 3, 20_000)})
    comparison = Comparison(frame, frame, frame, TableSchema.infer(frame))
    task = _Secret.of(comparison.coarse, 0)
    view = comparison.coarse.train
    guesses = rng.permutation(task.values(view))
    # The density of the difference, N(0, 2), at 0, times the width of 2 * 0.05 * 1.349.
    expected = 2 * 0.05 * 1.349 / np.sqrt(4 * np.pi)
    assert task.hit(guesses, view).mean() == pytest.approx(expected, rel=0.1)
    below = task.hit(np.full(len(view), -50.0), view)
    assert below.sum() == 0


def test_missing_secrets_are_not_guessed_and_small_tables_say_so(people):
    comparison = people(300)
    view = comparison.coarse.holdout
    place = [column.name for column in comparison.coarse.columns].index("income")
    hits = _Secret.of(comparison.coarse, place).hit(np.zeros(len(view)), view)
    assert np.isnan(hits).sum() == comparison.holdout["income"].isna().sum()
    tiny = people(30)
    assert all("hold out more" in score.skipped for score in Attributes()(tiny))
