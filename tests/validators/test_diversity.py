"""Coverage, lost categories, repeated rows."""

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.diversity import Diversity


def test_fresh_real_rows_cover_as_real_rows_do(people, number):
    alarms = 0
    for seed in range(10):
        scores = Diversity(rows=400)(people(500, seed))
        ratio = number(scores, "coverage_ratio")
        assert ratio.value == pytest.approx(1, abs=0.08)
        alarms += not ratio.low <= 1 <= ratio.high
        assert number(scores, "missing_categories").value == 0
        duplicates = number(scores, "duplicate_excess")
        assert duplicates.low <= 0 <= duplicates.high
    assert alarms <= 2


def test_coverage_equals_a_tree_search(number):
    """One dimension pair, numbers only: scipy's k-d tree with the same scaling and L1 balls."""
    rng = np.random.default_rng(0)
    frames = [pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"]) for _ in range(3)]
    frames[2] *= 0.4
    comparison = Comparison(frames[2], frames[0], frames[1], TableSchema.infer(frames[0]))
    table = comparison.table
    tree = cKDTree(table.holdout.numbers.astype(float))
    radius = tree.query(table.holdout.numbers.astype(float), k=6, p=1)[0][:, 5]
    covered = [
        (cKDTree(v.numbers.astype(float)).query(tree.data, p=1)[0] <= radius).mean()
        for v in (table.synthetic, table.train)
    ]
    ours = number(Diversity()(comparison), "coverage_ratio").value
    assert ours == pytest.approx(covered[0] / covered[1])


def test_collapsed_mode_loses_coverage(people, number):
    comparison = people(1000)
    one_mode = comparison.synthetic[comparison.synthetic["age"] < 30]
    collapsed = one_mode.sample(1000, replace=True, random_state=0).reset_index(drop=True)
    scores = Diversity()(
        Comparison(collapsed, comparison.train, comparison.holdout, comparison.schema)
    )
    assert number(scores, "coverage_ratio").high < 0.8
    assert number(scores, "duplicate_excess").low > 0.5


def test_dropped_category_is_counted_and_named(people, with_synthetic, number):
    comparison = people(2000)
    region = comparison.synthetic["region"].replace("isle", "north")
    scores = Diversity()(with_synthetic(comparison, region=region))
    assert number(scores, "missing_categories").value == 1
    assert number(scores, "missing_categories", "region").value == 1


def test_rare_levels_may_be_absent_by_chance(people, with_synthetic, number):
    """At 500 rows the level is expected 10 times only: its absence proves nothing."""
    comparison = people(500)
    region = comparison.synthetic["region"].replace("isle", "north")
    scores = Diversity()(with_synthetic(comparison, region=region))
    assert number(scores, "missing_categories").value == 0
