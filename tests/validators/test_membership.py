"""Membership inference: blind where nothing leaks, certain where train is handed out."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from generators.schema import TableSchema
from validators.base import Scorecard
from validators.comparison import Comparison
from validators.privacy.membership import (
    Attacks,
    Membership,
    crossfit_auc,
    distance_scores,
    tpr_score,
)
from validators.privacy.neighbours import MixedPoints


def people(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.normal(45, 15, n)
    return pd.DataFrame(
        {
            "age": age,
            "income": rng.lognormal(10, 1, n) * (1 + age / 90),
            "height": rng.normal(170, 10, n),
            "sex": rng.choice(["F", "M"], n),
            "town": rng.choice([f"t{k}" for k in range(9)], n),
        }
    )


def measure(synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame) -> dict:
    schema = TableSchema.infer(pd.concat([train, holdout], ignore_index=True))
    comparison = Comparison(
        synthetic=synthetic.reset_index(drop=True), train=train, holdout=holdout, schema=schema
    )
    return {score.metric: score for score in Membership()(comparison)}


@pytest.fixture(scope="module")
def real() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return people(2000, 0), people(1600, 1), people(2000, 2)


def test_fresh_rows_tell_nothing(real):
    train, holdout, fresh = real
    found = measure(fresh, train, holdout)
    assert found["membership_auc"].low <= 0.5 <= found["membership_auc"].high
    assert found["membership_auc"].high < 0.57
    assert found["membership_tpr_at_fpr1"].low <= 0.01 <= found["membership_tpr_at_fpr1"].high
    assert found["membership_auc_isolated"].low <= 0.5 <= found["membership_auc_isolated"].high
    assert abs(found["membership_auc"].reference - 0.5) < 0.1
    assert 0.02 < found["membership_auc"].minimum_detectable < 0.1


def test_train_as_synthetic_gives_everybody_away(real):
    train, holdout, _ = real
    found = measure(train, train, holdout)
    assert found["membership_auc"].low > 0.97
    assert found["membership_tpr_at_fpr1"].value > 0.95
    assert found["membership_auc_isolated"].low > 0.85


def test_noisy_copies_are_caught(real):
    train, holdout, _ = real
    noisy = train.copy()
    rng = np.random.default_rng(5)
    for column in ("age", "income", "height"):
        noisy[column] += rng.normal(0, 0.05 * train[column].std(), len(train))
    found = measure(noisy, train, holdout)
    assert found["membership_auc"].low > 0.7
    assert found["membership_tpr_at_fpr1"].low > 0.05


def test_copies_of_isolated_rows_alone_are_caught_among_the_isolated(real):
    train, holdout, fresh = real
    scaled = (train["income"] - train["income"].median()) / train["income"].std()
    rare = train.loc[scaled.abs().nlargest(80).index]
    found = measure(pd.concat([fresh, rare]), train, holdout)
    assert found["membership_auc"].high < 0.6
    assert found["membership_auc_isolated"].low > 0.55


def test_a_guard_against_copies_is_a_signal_too():
    rng = np.random.default_rng(0)
    scores = np.vstack([rng.normal(0, 1, 900), rng.normal(0, 1, 900)])
    others = np.vstack([rng.normal(1, 1, 900), rng.normal(0, 1, 900)])
    assert crossfit_auc(Attacks(scores, others), rng).low > 0.7


def test_cross_fitted_auc_is_the_mean_of_two_roc_areas():
    rng = np.random.default_rng(1)
    attacks = Attacks(rng.normal(0.5, 1, (1, 300)), rng.normal(0, 1, (1, 200)))
    found = crossfit_auc(attacks, np.random.default_rng(7))
    fold = np.random.default_rng(7)
    members, others = fold.permutation(300), fold.permutation(200)
    areas = [
        roc_auc_score(
            [1] * len(members[part::2]) + [0] * len(others[part::2]),
            np.r_[attacks.members[0, members[part::2]], attacks.others[0, others[part::2]]],
        )
        for part in (0, 1)
    ]
    assert found.value == pytest.approx(np.mean(areas), abs=1e-12)


def test_null_coverage_of_both_intervals():
    rng = np.random.default_rng(2)
    covered, tails = [], []
    for _ in range(60):
        attacks = Attacks(rng.normal(size=(4, 600)), rng.normal(size=(4, 600)))
        area, tail = crossfit_auc(attacks, rng), tpr_score(attacks, rng)
        covered.append(area.low <= 0.5 <= area.high)
        tails.append(tail.low <= 0.01 <= tail.high)
    assert np.mean(covered) >= 0.88
    assert np.mean(tails) >= 0.88


def test_tail_rate_matches_the_closed_form():
    rng = np.random.default_rng(3)
    attacks = Attacks(rng.normal(2, 1, (1, 30000)), rng.normal(0, 1, (1, 30000)))
    found = tpr_score(attacks, rng)
    assert found.value == pytest.approx(0.3720, abs=0.03)  # 1 - Phi(2.326 - 2)
    assert found.reference == pytest.approx(0.01, abs=0.004)


def test_calibration_divides_by_the_usual_distance():
    point = MixedPoints(np.array([[0.0]]), np.zeros((1, 0)))
    released = MixedPoints(np.array([[2.0], [5.0]]), np.zeros((2, 0)))
    known = MixedPoints(np.array([[1.0], [3.0]]), np.zeros((2, 0)))
    scores, isolation = distance_scores(point, released, known)
    np.testing.assert_allclose(scores[:, 0], [-np.log(2), -np.log(2), 0.26236], atol=1e-3)
    assert isolation[0] == pytest.approx((1 + 3 * 4) / 5)


def test_small_holdouts_are_said_to_be_too_small():
    found = measure(people(200, 0), people(200, 1), people(120, 2))
    assert found["membership_auc"].value is not None
    assert "hold out more" in found["membership_tpr_at_fpr1"].skipped
    assert "hold out more" in found["membership_auc_isolated"].skipped
    tiny = measure(people(200, 0), people(200, 1), people(30, 2))
    assert all(score.skipped for score in tiny.values())


def test_rows_of_one_subject_do_not_look_like_a_leak():
    person = people(900, 4).drop(columns="sex").assign(person=np.arange(900))
    rows = person.loc[np.repeat(person.index, 5)].reset_index(drop=True)
    rows["visits"] = np.random.default_rng(0).integers(0, 9, len(rows)).astype(float)
    train, holdout, fresh = (
        rows[rows["person"] % 3 == part].reset_index(drop=True) for part in range(3)
    )
    schema = TableSchema.infer(rows, kinds={"person": "id"})
    comparison = Comparison(fresh, train, holdout, schema, entity=("person",))
    found = {score.metric: score for score in Membership()(comparison)}
    assert found["membership_auc"].low <= 0.5 <= found["membership_auc"].high
    assert found["membership_auc"].n == 300
    ignored = Membership()(Comparison(fresh, train, holdout, schema))[0]
    assert ignored.low > 0.6


def test_scores_repeat_and_serialise(real):
    train, holdout, fresh = (frame.iloc[:700] for frame in real)
    first, again = (measure(fresh, train, holdout) for _ in range(2))
    assert first == again
    card = Scorecard(tuple(first.values()))
    assert Scorecard.from_json(card.to_json()) == card
    assert json.loads(card.to_json())


def test_a_group_that_is_copied_is_found_and_the_rest_is_not(real):
    """The women of the training table are handed out; the men are fresh rows."""
    train, holdout, fresh = real
    given = pd.concat([train[train["sex"] == "F"], fresh[fresh["sex"] == "M"]])
    schema = TableSchema.infer(pd.concat([train, holdout], ignore_index=True), protected=["sex"])
    honest, leaky = (
        {
            (score.metric, score.subject): score
            for score in Membership()(
                Comparison(rows.reset_index(drop=True), train, holdout, schema)
            )
        }
        for rows in (fresh, given)
    )
    assert leaky["membership_auc_group", "sex=F"].low > 0.9
    assert leaky["membership_auc_group", "sex=M"].low < 0.5
    assert leaky["membership_auc_group_worst", "all"].low > 0.9
    worst = honest["membership_auc_group_worst", "all"]
    assert worst.low < 0.5 < worst.high
    wider = honest["membership_auc_group", "sex=F"]
    assert worst.high > min(wider.high, honest["membership_auc_group", "sex=M"].high)


def test_small_groups_are_listed_as_not_assessable(real):
    train, holdout, fresh = real
    train = train.assign(sex=np.where(np.arange(len(train)) < 40, "X", train["sex"]))
    schema = TableSchema.infer(train, protected=["sex"])
    scores = Membership()(Comparison(fresh, train, holdout, schema))
    (small,) = (score for score in scores if score.subject == "sex=X")
    assert small.skipped is not None
    assert "not assessable" in small.skipped
