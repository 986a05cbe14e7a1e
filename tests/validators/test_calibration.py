"""The yardstick: a random split is accepted, one that is not random or that leaks is refused."""

import numpy as np
import pandas as pd
import pytest

from generators.schema import TableSchema
from validators import Scorecard
from validators.calibration import METRICS, Calibration
from validators.comparison import Comparison
from validators.contract import load_contract

PRECONDITIONS = [gate for gate in load_contract("standard").gates if gate.precondition]


def refused(comparison, **settings):
    """The preconditions of the standard contract that a comparison breaks."""
    card = Scorecard(tuple(Calibration(**settings)(comparison)))
    return {gate.metric for gate in PRECONDITIONS if gate.answer(card).blocks}


def replaced(comparison, *, train=None, holdout=None, entity=()):
    return Comparison(
        comparison.synthetic,
        comparison.train if train is None else train,
        comparison.holdout if holdout is None else holdout,
        comparison.schema,
        entity=entity,
    )


def test_random_splits_are_accepted(people):
    assert [refused(people(700, seed), iterations=15) for seed in range(6)] == [set()] * 6


def test_the_three_tests_err_together_once_in_a_hundred():
    """The null of the marginal and the overlap test, over many splits of one coarse table."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"a": rng.integers(0, 6, 800), "b": rng.integers(0, 9, 800)})
    schema = TableSchema.infer(table)
    alarms = np.zeros(2)
    for seed in range(60):
        mixed = table.sample(frac=1, random_state=seed)
        split = Comparison(mixed, mixed[:500], mixed[500:], schema, seed)
        found = {score.metric: score for score in Calibration(draws=300, iterations=1)(split)}
        alarms += [found[metric].low > 0 for metric in METRICS[1:3]]
    assert alarms.max() <= 2


def test_a_holdout_of_another_time_is_refused(people):
    comparison = people(1500)
    later = comparison.holdout.assign(age=comparison.holdout["age"] + 4)
    assert refused(replaced(comparison, holdout=later)) >= {"holdout_detection"}


def test_one_shifted_column_is_refused_by_the_worst_column(people):
    comparison = people(1500)
    rng = np.random.default_rng(0)
    other = comparison.holdout["region"].mask(rng.random(1500) < 0.2, "north")
    found = refused(replaced(comparison, holdout=comparison.holdout.assign(region=other)))
    assert "holdout_marginals" in found


@pytest.mark.parametrize("leaked", [40, 1000])
def test_a_leaked_holdout_is_refused_by_the_overlap_alone(people, leaked):
    """Train holds holdout rows: both stay alike in law, so only the rows themselves tell."""
    comparison = people(1000)
    train = pd.concat([comparison.train[leaked:], comparison.holdout[:leaked]], ignore_index=True)
    assert refused(replaced(comparison, train=train)) == {"holdout_overlap"}


def test_natural_duplicates_are_no_leak():
    """Every row of a coarse table has hundreds of equals."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.integers(0, 2, (1800, 3)), columns=list("abc"))
    split = Comparison(table[:600], table[600:1200], table[1200:], TableSchema.infer(table))
    assert refused(split) == set()


def test_subjects_on_both_sides_are_counted(people):
    comparison = people(300, kinds={"id": "id"})
    holdout = comparison.holdout.assign(
        id=comparison.holdout["id"].where(np.arange(300) >= 30, comparison.train["id"])
    )
    split = replaced(comparison, holdout=holdout, entity=("id",))
    (found,) = (s for s in Calibration()(split) if s.metric == "holdout_subjects")
    assert found.value == pytest.approx(0.1)
    assert refused(split) == {"holdout_subjects"}
    assert refused(replaced(comparison, entity=("id",))) == set()


def test_rows_of_one_subject_are_one_piece_of_evidence():
    """Ten visits a person: as independent rows they would be told apart by the person."""
    rng = np.random.default_rng(0)
    person = pd.DataFrame({"height": rng.normal(size=240), "person": np.arange(240)})
    visits = person.loc[np.repeat(person.index, 10)].reset_index(drop=True)
    parts = [visits[visits["person"] % 3 == part] for part in range(3)]
    schema = TableSchema.infer(visits, kinds={"person": "id"})
    assert refused(Comparison(*parts, schema, entity=("person",))) == set()
    assert refused(Comparison(*parts, schema)) != set()


def test_too_few_rows_refuse_to_gate(people):
    card = Scorecard(tuple(Calibration()(people(12))))
    answers = [gate.answer(card) for gate in PRECONDITIONS[:3]]
    assert all(answer.blocks for answer in answers)
    assert "hold out more" in answers[0].reason
