"""TSTR beside TRTR: full retention for real rows, none for rows without the relation."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score, roc_auc_score

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.utility import METRICS, Utility, _auc, _r2

QUICK = Utility(global_columns=1, iterations=15, seeds=2, draws=300)


def test_fresh_real_rows_keep_the_skill(people, number):
    alarms = 0
    for seed in range(8):
        scores = QUICK(people(800, seed))
        retention = number(scores, "utility_retention")
        assert retention.value == pytest.approx(1, abs=0.35)
        alarms += retention.high < 0.9
    assert alarms <= 1


def test_labels_without_relation_keep_none(people, with_synthetic, number):
    comparison = people(1500)
    shuffled = np.random.default_rng(0).permutation(comparison.synthetic["bought"].to_numpy())
    scores = QUICK(with_synthetic(comparison, bought=shuffled))
    assert number(scores, "trtr", "bought").low > 0.6
    # Random labels of one sample point somewhere by luck; the gate stands at 0.9.
    assert number(scores, "utility_retention").high < 0.75


def test_flipped_labels_are_worse_than_a_guess(people, with_synthetic, number):
    comparison = people(1500)
    flipped = comparison.synthetic["bought"].map({"yes": "no", "no": "yes"})
    scores = QUICK(with_synthetic(comparison, bought=flipped))
    assert number(scores, "utility_retention").high < 0


def test_numerical_target_and_missing_targets(people, with_synthetic, number):
    comparison = people(1500, target="income")
    scores = QUICK(comparison)
    assert number(scores, "trtr", "income").unit == "r2"
    assert number(scores, "utility_retention").value == pytest.approx(1, abs=0.25)
    noise = np.random.default_rng(0).permutation(comparison.synthetic["income"].to_numpy())
    broken = QUICK(with_synthetic(comparison, income=noise))
    assert number(broken, "utility_retention").high < 0.5


def test_class_absent_from_synthetic_counts_as_unskilled():
    """Three classes that one column decides; the synthetic rows lack the third."""
    rng = np.random.default_rng(0)

    def draw(n):
        x = rng.normal(size=n)
        return pd.DataFrame({"x": x, "y": np.digitize(x, [-0.5, 0.5]).astype(str)})

    train, holdout, fresh = draw(600), draw(600), draw(900)
    schema = TableSchema.infer(train, target="y")
    lacking = fresh[fresh["y"] != "2"].reset_index(drop=True)
    full, part = (
        next(
            s
            for s in QUICK(Comparison(rows, train, holdout, schema))
            if s.metric == "utility_retention"
        )
        for rows in (fresh, lacking)
    )
    assert full.value == pytest.approx(1, abs=0.05)
    assert part.high < 0.85


def test_without_a_target_the_best_predictable_columns_serve(people, number):
    scores = QUICK(people(1000, target=None))
    assert number(scores, "utility_retention").value == pytest.approx(1, abs=0.3)
    subjects = {score.subject for score in scores if score.metric == "trtr"}
    assert 2 <= len(subjects) <= 5
    assert "id" not in subjects


def test_without_signal_it_does_not_apply():
    rng = np.random.default_rng(0)
    frames = [
        pd.DataFrame({"x": rng.normal(size=200), "y": rng.choice(["a", "b"], 200)})
        for _ in range(3)
    ]
    schema = TableSchema.infer(frames[0], target="y")
    scores = QUICK(Comparison(frames[2], frames[0], frames[1], schema))
    assert {score.metric for score in scores} == set(METRICS)
    assert all(score.skipped.startswith("not applicable:") for score in scores)


def test_real_medical_data(number):
    data = load_breast_cancer(as_frame=True).frame.iloc[:, [0, 1, 4, 7, 30]]
    data = data.sample(frac=1, random_state=0).reset_index(drop=True)
    parts = [data[i * 189 : (i + 1) * 189].reset_index(drop=True) for i in range(3)]
    schema = TableSchema.infer(data, target="target")
    scores = QUICK(Comparison(parts[2], parts[0], parts[1], schema))
    assert number(scores, "trtr", "target").value > 0.95
    assert number(scores, "utility_retention").low > 0.85


def test_measures_equal_scikit_learn_and_influence_predicts_a_bootstrap():
    rng = np.random.default_rng(1)
    truth = rng.random(400) < 0.3
    scores = rng.normal(truth, 1).round(1)
    skill = _auc(truth, scores)
    assert skill.value == pytest.approx(roc_auc_score(truth, scores))
    assert skill.influence.mean() == pytest.approx(0, abs=1e-12)
    x, y = scores[:, None], rng.normal(scores, 1)
    prediction = Ridge(alpha=1.0).fit(x, y).predict(x)
    fit = _r2(y, prediction)
    assert fit.value == pytest.approx(r2_score(y, prediction))
    rows = rng.integers(0, 400, (300, 400))
    exact = [
        [roc_auc_score(truth[r], scores[r]) for r in rows],
        [r2_score(y[r], prediction[r]) for r in rows],
    ]
    for measure, values in zip((skill, fit), exact, strict=True):
        linear = measure.value + measure.influence[rows].mean(axis=1)
        assert np.corrcoef(linear, values)[0, 1] > 0.98
        assert linear.std() == pytest.approx(np.std(values), rel=0.1)


def test_every_column_is_a_target_in_turn(people, number):
    """Labels are right, but all other columns are shuffled: the declared target alone is kept."""
    comparison = people(1500)
    rng = np.random.default_rng(0)
    shuffled = comparison.synthetic.assign(
        income=rng.permutation(comparison.synthetic["income"]),
    )
    fresh = Utility(rows=800, seeds=1)(comparison)
    broken = Utility(rows=800, seeds=1)(
        Comparison(shuffled, comparison.train, comparison.holdout, comparison.schema)
    )
    assert number(fresh, "utility_global").high >= 0.9
    assert number(fresh, "utility_global").value > 0.8
    assert number(broken, "utility_global").value < number(fresh, "utility_global").value - 0.2
    assert number(broken, "utility_global", "income").value < 0.3
