"""The classifier two-sample test: guessing on real rows, near certain on broken ones."""

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.detection import Detection


def test_fresh_real_rows_cannot_be_told(people, number):
    alarms = 0
    for seed in range(12):
        scores = Detection(iterations=15)(people(500, seed))
        excess = number(scores, "c2st_excess")
        assert abs(excess.value) < 0.15
        assert number(scores, "c2st_auc").value == pytest.approx(0.5, abs=0.1)
        alarms += excess.low > 0
    assert alarms <= 2


def test_shuffled_column_is_told_and_named_defects_point_to_it(people, with_synthetic, number):
    comparison = people(2000)
    rng = np.random.default_rng(0)
    shuffled = with_synthetic(
        comparison, age=rng.permutation(comparison.synthetic["age"].to_numpy())
    )
    assert number(Detection()(shuffled), "c2st_excess").low > 0.03
    shifted = with_synthetic(comparison, gain=comparison.synthetic["gain"] + 1)
    scores = Detection()(shifted)
    assert number(scores, "c2st_auc").low > 0.95
    columns = [score for score in scores if score.metric == "c2st_column_auc"]
    assert columns[0].subject == "gain"
    assert columns[0].low > 0.9
    assert len(columns) == 5


def test_dependence_alone_is_found_as_by_another_classifier(number):
    """Marginals equal, correlation lost: a random forest of scikit-learn is the judge."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 1200))
    frames = [pd.DataFrame({"a": one, "b": one + rng.normal(0, 0.5, 1200)}) for one in x]
    frames[2]["b"] = rng.permutation(frames[2]["b"].to_numpy())
    comparison = Comparison(frames[2], frames[0], frames[1], TableSchema.infer(frames[0]))
    ours = number(Detection()(comparison), "c2st_auc").value
    features = pd.concat([frames[2], frames[1]])
    labels = np.repeat([1, 0], 1200)
    forest = RandomForestClassifier(100, min_samples_leaf=20, random_state=0)
    scores = cross_val_predict(forest, features, labels, cv=2, method="predict_proba")[:, 1]
    assert ours == pytest.approx(roc_auc_score(labels, scores), abs=0.06)
    assert ours > 0.75


def test_a_few_rows_that_are_certainly_synthetic_are_counted(people, with_synthetic, number):
    """One row in ten has an impossible income: the AUC hardly moves, the share does."""
    comparison = people(2000)
    income = comparison.synthetic["income"].mask(np.arange(2000) % 10 == 0, 1e7)
    scores = Detection()(with_synthetic(comparison, income=income))
    found = number(scores, "c2st_telltale")
    assert found.value == pytest.approx(0.1, abs=0.02)
    assert found.low > 0.07
    fresh = number(Detection()(comparison), "c2st_telltale")
    assert fresh.low <= 0 <= fresh.high
