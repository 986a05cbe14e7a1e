"""Fidelity and utility of protected groups."""

import numpy as np
import pytest

from validators import subgroups
from validators.comparison import Comparison
from validators.subgroups import Subgroups


def replaced(comparison, synthetic):
    return Comparison(
        synthetic.reset_index(drop=True),
        comparison.train,
        comparison.holdout,
        comparison.schema,
        comparison.seed,
    )


def quick(**settings):
    return Subgroups(repeats=5, iterations=10, **settings)


def test_fresh_real_rows_are_not_accused(people, number):
    alarms = dict.fromkeys(subgroups.METRICS, 0)
    for seed in range(5):
        scores = quick()(people(1200, seed))
        for metric in alarms:
            alarms[metric] += number(scores, f"{metric}_worst").low > 0
    assert max(alarms.values()) <= 1, alarms


def test_a_group_with_broken_columns_is_named(people, number):
    """Women's ages are drawn from men and women alike, shifted: no column breaks for men."""
    comparison = people(2000)
    synthetic = comparison.synthetic.copy()
    women = synthetic["sex"] == "F"
    synthetic.loc[women, "age"] = 18 + (synthetic.loc[women, "age"] - 18) // 4
    scores = quick()(replaced(comparison, synthetic))
    assert number(scores, "subgroup_tvd", "sex=F").low > 0.03
    assert number(scores, "subgroup_tvd", "sex=M").low == 0
    assert number(scores, "subgroup_tvd_worst").low > 0.03


def test_labels_flipped_in_one_group_drift_the_odds_and_lose_skill(people, number):
    comparison = people(2500)
    synthetic = comparison.synthetic.copy()
    women = synthetic["sex"] == "F"
    synthetic.loc[women, "bought"] = synthetic.loc[women, "bought"].map({"yes": "no", "no": "yes"})
    scores = quick()(replaced(comparison, synthetic))
    assert number(scores, "equalised_odds_drift_worst").low > 0.05
    assert number(scores, "subgroup_auc_loss", "sex=F").low > 0.05
    assert number(scores, "subgroup_auc_loss", "sex=M").low <= 0.05
    assert number(scores, "subgroup_auc_loss_worst").low > 0.05


def test_odds_drift_of_known_decisions():
    """The group's TPR rises from 5/20 to 15/20; outside it the FPR falls from 10/20 to 0."""
    truth = np.repeat([True, False, True, False], 20)
    members = np.repeat([True, True, False, False], 20)
    other = np.zeros(80)
    other[[*range(5), *range(40, 45), *range(60, 70)]] = 1.0
    first = other.copy()
    first[:15], first[60:70] = 1.0, 0.0
    pair = subgroups._Pair(truth, np.tile(first, (3, 1)), np.tile(other, (3, 1)), 0.25)
    # 20 of 80 rows are called positive by each.
    tpr, fpr = subgroups._odds_drift(pair, members)
    assert tpr.value == pytest.approx(15 / 20 - 5 / 20)
    assert fpr.value == pytest.approx(10 / 20)


def test_what_cannot_be_measured_is_said(people):
    (reason,) = {s.skipped for s in quick()(people(200, protected=[]))}
    assert reason == "not applicable: no protected column declared"
    skips = [s for s in quick()(people(300, target="income")) if s.skipped is not None]
    assert any("need an outcome of classes" in s.skipped for s in skips)
    islanders = [
        s for s in quick()(people(1000, protected=["region"])) if s.subject == "region=isle"
    ]
    assert len(islanders) == 3
    assert all("not assessable" in s.skipped for s in islanders)
