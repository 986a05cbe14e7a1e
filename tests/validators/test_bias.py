"""Representation and outcome of protected groups."""

import numpy as np
import pandas as pd
import pytest

from validators.bias import Bias
from validators.comparison import Comparison


def replaced(comparison, synthetic):
    return Comparison(
        synthetic.reset_index(drop=True),
        comparison.train,
        comparison.holdout,
        comparison.schema,
        comparison.seed,
    )


def test_fresh_real_rows_drift_by_chance_only(people, number):
    alarms = {"representation_worst": 0, "label_drift_worst": 0}
    for seed in range(25):
        scores = Bias()(people(600, seed, protected=["sex", "region", "age"]))
        alarms["representation_worst"] += number(scores, "representation_worst").low > 1
        alarms["label_drift_worst"] += number(scores, "label_drift_worst").low > 0
    assert max(alarms.values()) <= 4, alarms


def test_representation_equals_the_ratio_of_shares(people, number):
    comparison = people(2000)
    score = number(Bias()(comparison), "representation_ratio", "sex=F")
    expected = (comparison.synthetic["sex"] == "F").mean() / (
        comparison.holdout["sex"] == "F"
    ).mean()
    assert score.value == pytest.approx(expected, rel=1e-3)
    assert score.low < score.value < score.high


def test_lost_group_is_proven(people, number):
    comparison = people(2000, protected=["sex", "region"])
    kept = comparison.synthetic[comparison.synthetic["region"] != "west"]
    scores = Bias()(replaced(comparison, kept))
    assert number(scores, "representation_ratio", "region=west").high < 0.1
    assert number(scores, "representation_worst").low > 4


def test_lost_intersection_with_both_margins_kept(people, number):
    """Women of the west become women elsewhere, men elsewhere move west: margins stay."""
    comparison = people(4000, protected=["sex", "region"])
    synthetic = comparison.synthetic.copy()
    women = synthetic.index[(synthetic["sex"] == "F") & (synthetic["region"] == "west")]
    men = synthetic.index[(synthetic["sex"] == "M") & (synthetic["region"] == "north")]
    synthetic.loc[women, "region"] = "north"
    synthetic.loc[men[: len(women)], "region"] = "west"
    scores = Bias()(replaced(comparison, synthetic))
    assert number(scores, "representation_ratio", "region=west").high > 0.8
    assert number(scores, "representation_ratio", "sex=F & region=west").high < 0.2
    assert number(scores, "representation_worst").low > 2


def test_labels_flipped_in_one_group(people, number):
    comparison = people(2000)
    synthetic = comparison.synthetic.copy()
    women = synthetic["sex"] == "F"
    synthetic.loc[women, "bought"] = synthetic.loc[women, "bought"].map({"yes": "no", "no": "yes"})
    honest, broken = Bias()(comparison), Bias()(replaced(comparison, synthetic))
    assert number(honest, "label_drift_worst").low == 0
    assert number(broken, "label_drift_worst").low > 0.05

    def gap(frame):
        rates = (frame["bought"] == "no").groupby(frame["sex"]).mean()
        return rates["F"] - rates["M"]

    expected = abs(gap(synthetic) - gap(comparison.holdout))
    assert number(broken, "label_drift", "sex=F").value == pytest.approx(expected)


def test_numerical_target_drifts_in_standard_deviations(people, number):
    comparison = people(2000, target="income")
    synthetic = comparison.synthetic.copy()
    synthetic.loc[synthetic["sex"] == "F", "income"] *= 0.5
    honest, broken = Bias()(comparison), Bias()(replaced(comparison, synthetic))
    assert number(honest, "label_drift", "sex=F").unit == "standard deviations"
    assert number(honest, "label_drift_worst").low == 0
    assert number(broken, "label_drift_worst").low > 0.2


def test_numeric_groups_are_parts_without_real_values(people):
    scores = Bias()(people(800, protected=["age"]))
    subjects = [s.subject for s in scores if s.metric == "representation_ratio"]
    assert subjects == [f"age=part {part} of 4" for part in range(1, 5)]


def test_rare_levels_are_never_named(people):
    comparison = people(600)
    comparison.train.loc[0, "sex"] = "very rare"
    comparison.synthetic.loc[:400, "sex"] = "new level"
    scores = Bias()(comparison)
    names = {score.subject for score in scores}
    assert not any("rare" in name or "new" in name for name in names)
    assert "sex=other" in names


def test_small_groups_are_listed_not_dropped(people):
    comparison = people(1000, protected=["region"])
    scores = Bias()(comparison)
    islanders = [s for s in scores if s.subject == "region=isle"]
    assert len(islanders) == 2
    assert all("not assessable" in score.skipped for score in islanders)


def test_without_declaration_it_does_not_apply(people):
    for score in Bias()(people(100, protected=[])):
        assert score.skipped == "not applicable: no protected column declared"
    without_target = Bias()(people(200, target=None))
    (worst,) = (s for s in without_target if s.metric == "label_drift_worst")
    assert worst.skipped == "not applicable: no target declared"


def test_missing_is_a_group_and_an_outcome_of_none(people, number):
    comparison = people(1000)
    rng = np.random.default_rng(0)
    for frame in (comparison.train, comparison.holdout, comparison.synthetic):
        frame.loc[rng.random(1000) < 0.1, "sex"] = None
        frame.loc[rng.random(1000) < 0.1, "bought"] = None
    scores = Bias()(comparison)
    expected = comparison.synthetic["sex"].isna().mean() / comparison.holdout["sex"].isna().mean()
    assert number(scores, "representation_ratio", "sex=missing").value == pytest.approx(
        expected, rel=0.02
    )
    gone = comparison.synthetic.assign(bought=pd.Series([None] * 1000, dtype=object))
    (worst,) = (s for s in Bias()(replaced(comparison, gone)) if s.metric == "label_drift_worst")
    assert worst.skipped
