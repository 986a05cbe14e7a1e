"""The forest: relations kept, rows not copied, odd tables survived."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import mutual_info_score
from sklearn.tree import DecisionTreeClassifier

from generators import TableSchema
from generators.base import DataError, ParameterError
from generators.encoding import EncodedTable, TableCodec
from generators.tabular import trees as module
from generators.tabular.forest import Forest
from generators.tabular.independent import Independent
from generators.tabular.leaves import Leaves, spread
from generators.tabular.ordering import mutual_information, telling_scale
from generators.tabular.verbatim import copy_profile, row_hashes

LEAKY: dict[str, Any] = {
    "trees": 1,
    "min_leaf": 1,
    "subsample": 1.0,
    "honest": False,
    "smooth": False,
    "verbatim_guard": False,
}


def copied(synthetic: pd.DataFrame, real: pd.DataFrame) -> float:
    """Share of synthetic rows that equal a real row."""
    known = {tuple(row) for row in real.to_numpy()}
    return float(np.mean([tuple(row) in known for row in synthetic.to_numpy()]))


def fit_sample(frame: pd.DataFrame, n: int, target: str | None = None, **kw: Any) -> pd.DataFrame:
    model = Forest(**kw).fit(frame, TableSchema.infer(frame, target=target))
    return model.sample(n, seed=1)


@pytest.fixture(scope="module")
def randhie() -> tuple[pd.DataFrame, pd.DataFrame]:
    frame = sm.datasets.randhie.load_pandas().data.sample(12_000, random_state=0)
    return frame[:9000].reset_index(drop=True), frame[9000:].reset_index(drop=True)


@pytest.fixture(scope="module")
def unique_rows() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train and holdout of mostly unique rows: dependent integers on a coarse grid."""
    rng = np.random.default_rng(0)
    size = rng.normal(0, 1, (6000, 1))
    frame = pd.DataFrame(
        np.round(30 * (size + rng.normal(0, 0.4, (6000, 3)))).astype(int), columns=list("abc")
    )
    return frame[:3000].reset_index(drop=True), frame[3000:].reset_index(drop=True)


def test_relations_are_kept_where_independence_loses_them(
    randhie: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    train, holdout = randhie
    schema = TableSchema.infer(train, target="mdvis")
    truth = holdout.corr(method="spearman").to_numpy()

    def error(synthetic: pd.DataFrame) -> float:
        return float(np.abs(synthetic.corr(method="spearman").to_numpy() - truth).mean())

    forest = error(Forest().fit(train, schema).sample(9000, seed=1))
    independent = error(Independent().fit(train, schema).sample(9000, seed=1))
    assert forest < 0.02
    assert independent > 3 * forest


def test_marginals_are_those_of_the_train_rows(randhie: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    train, _ = randhie
    synthetic = fit_sample(train, 9000, "mdvis")
    for name in train:
        points = np.unique(train[name])
        ours = np.searchsorted(np.sort(synthetic[name]), points, side="right") / len(synthetic)
        real = np.searchsorted(np.sort(train[name]), points, side="right") / len(train)
        # 2.2 / sqrt(n/2) is far beyond the Kolmogorov-Smirnov 0.1 % point of two equal samples.
        assert np.abs(ours - real).max() < 2.2 / np.sqrt(4500), name


def test_floats_of_a_small_wide_table_keep_their_relations() -> None:
    frame = load_breast_cancer(as_frame=True).frame
    synthetic = fit_sample(frame, 569, "target")
    error = np.abs(synthetic.corr().to_numpy() - frame.corr().to_numpy()).mean()
    assert error < 0.13
    assert copied(synthetic, frame) == 0


def test_copies_are_as_rare_as_in_fresh_real_rows(
    unique_rows: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    train, holdout = unique_rows
    natural = copied(holdout, train)
    synthetic = fit_sample(train, 20_000)
    assert 0 < natural < 0.02
    assert copied(synthetic, train) <= natural + 0.002


def test_the_guard_brings_copies_down_to_the_natural_rate_not_to_zero(
    unique_rows: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    train, holdout = unique_rows
    natural = copied(holdout, train)
    careless = {"honest": False, "min_leaf": 3, "privacy": 0.25}
    bare = copied(fit_sample(train, 10_000, **careless, verbatim_guard=False), train)
    guarded = copied(fit_sample(train, 10_000, **careless), train)
    assert bare > 10 * natural
    assert natural / 4 < guarded < 1.5 * natural


def test_extreme_settings_leak_on_purpose(unique_rows: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    train, holdout = unique_rows
    leaked = copied(fit_sample(train, 2000, **LEAKY), train)
    assert leaked > 0.99
    assert copied(holdout, train) < 0.02


def test_leaky_randhie_copies_far_beyond_the_holdout(
    randhie: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    train, holdout = randhie
    leaked = copied(fit_sample(train, 3000, "mdvis", **LEAKY), train)
    assert leaked > 0.99
    assert leaked > copied(holdout, train) + 0.25
    assert copied(fit_sample(train, 3000, "mdvis"), train) < copied(holdout, train)


def test_the_natural_rate_is_estimated_from_the_train_rows_alone(
    randhie: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    train, holdout = randhie
    codec = TableCodec.fit(train, TableSchema.infer(train))
    _, natural = copy_profile(codec.encode(train))
    counts = train.value_counts()
    once = counts[counts == 1].reset_index().drop(columns="count")
    assert natural == pytest.approx(copied(holdout, once), abs=0.03)


def test_the_thread_count_does_not_matter(
    toy_table: pd.DataFrame, toy_schema: TableSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(workers: int) -> pd.DataFrame:
        monkeypatch.setattr(os, "cpu_count", lambda: workers)
        return Forest(min_leaf=5).fit(toy_table, toy_schema).sample(200, seed=1)

    pd.testing.assert_frame_equal(run(1), run(7))


def test_fits_may_run_side_by_side(toy_table: pd.DataFrame, toy_schema: TableSchema) -> None:
    alone = Forest(seed=1).fit(toy_table, toy_schema).sample(50, seed=1)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: Forest(seed=1).fit(toy_table, toy_schema), range(2)))
    for model in both:
        pd.testing.assert_frame_equal(model.sample(50, seed=1), alone)


def test_leaves_are_honest_and_full() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=4000)})
    frame["y"] = np.round(10 * np.sin(3 * frame["x"]) + rng.normal(size=4000), 1)
    model = Forest(min_leaf=40).fit(frame, TableSchema.infer(frame))
    trees = model.trees_[model.order_[1]]
    rows = np.diff(trees.leaves.cumulative[trees.leaves.start])
    assert rows.min() >= 40
    # Every tree's leaves hold the half of the rows that did not shape it.
    assert rows.sum() == len(trees.roots) * 2000


def test_trees_fall_as_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(3000, 4)).astype(np.float32)
    cells = (scores[:, 0] * scores[:, 1] + rng.normal(size=3000) > 0).astype(np.int32)
    model = DecisionTreeClassifier(min_samples_leaf=20, random_state=0).fit(scores, cells)
    reached = model.apply(scores)
    whole = np.arange(model.tree_.node_count)
    branches = module.cut_back(model.tree_, whole, np.arange(3000), reached)
    tokens = np.arange(3000, dtype=np.int32)
    trees = module.merge([branches], tokens)
    ours = trees.apply(scores, np.zeros(3000, dtype=np.int64))
    assert len(np.unique(reached)) == len(trees.leaves.start) - 1
    assert len(set(zip(ours.tolist(), reached.tolist(), strict=True))) == len(np.unique(reached))
    for leaf in range(0, len(trees.leaves.start) - 1, 7):
        held = trees.leaves.tokens[trees.leaves.start[leaf] : trees.leaves.start[leaf + 1]]
        assert set(held) == set(np.flatnonzero(ours == leaf))


def test_the_leave_one_out_likelihood_is_that_of_each_row_by_the_others() -> None:
    held = np.array([[6.0, 3.0, 1.0], [4.0, 0.0, 1.0]])
    prior = held[0] / 10
    want = [
        sum(
            count * np.log((count - 1 + prior[cell]) / (node.sum() - 1 + 1))
            for cell, count in enumerate(node)
            if count
        )
        for node in held
    ]
    assert module.leave_one_out(held) == pytest.approx(want)


@pytest.mark.parametrize("price", [0.0, 40.0])
def test_splits_on_noise_are_pruned_and_splits_that_tell_stay(price: float) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3)).astype(np.float32)
    shape = np.arange(2000)
    growth = module.Growth(min_leaf=20, price=price)
    binned = module.Binned.of(scores)
    noise = module.grow(binned, rng.integers(0, 3, 4000).astype(np.int32), shape, growth, 0)
    assert (noise.feature < 0).sum() <= 3
    telling = (scores[:, 1] > 0.5).astype(np.int32)
    tree = module.grow(binned, telling, shape, growth, 0)
    assert (tree.feature < 0).sum() == 2
    assert tree.feature[0] == 1
    assert tree.threshold[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("distinct", [3, 100, 4000])
def test_bins_split_as_their_edges_do(distinct: int) -> None:
    rng = np.random.default_rng(0)
    scores = (rng.integers(0, distinct, (4000, 1)) / distinct).astype(np.float32)
    binned = module.Binned.of(scores)
    last = len(binned.edges[0]) - 1
    for edge in (0, last // 2, last):
        [threshold] = binned.thresholds(np.array([0]), np.array([edge + 0.5]))
        assert ((binned.bins[:, 0] <= edge + 0.5) == (scores[:, 0] <= threshold)).all()


def test_levels_stand_in_the_order_that_tells_the_target() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, 6000)
    share = np.array([0.9, 0.1, 0.7, 0.3, 0.5, 0.0])
    cells = (rng.random(6000) < share[codes]).astype(np.int32)
    place = telling_scale(codes, cells, 6).of_code[:6]
    order = np.argsort(place).tolist()
    assert order in (np.argsort(share).tolist(), np.argsort(-share).tolist())


def test_the_privacy_knob_makes_leaves_larger() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=6000)})
    frame["y"] = frame["x"] + rng.normal(size=6000)
    schema = TableSchema.infer(frame)
    leaves = [
        len(model.trees_[model.order_[1]].leaves.start)
        for model in (Forest(privacy=p, min_leaf=20).fit(frame, schema) for p in (0.0, 0.5, 1.0))
    ]
    assert leaves[0] > leaves[1] > leaves[2]


@settings(deadline=None, max_examples=25)
@given(
    members=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=4, max_size=60
    ).filter(lambda pairs: {group for group, _ in pairs} == {0, 1, 2, 3})
)
def test_a_leaf_draws_its_members_by_weight(members: list[tuple[int, int]]) -> None:
    group, token = (np.array(side) for side in zip(*members, strict=True))
    leaves = Leaves.build(group, token, 4)
    asked = np.repeat(np.arange(4), 4000)
    drawn = leaves.tokens[leaves.draw(asked, np.random.default_rng(0))]
    for number in range(4):
        got = np.bincount(drawn[asked == number], minlength=10) / 4000
        want = np.bincount(token[group == number], minlength=10) / (group == number).sum()
        assert np.abs(got - want).max() < 0.04


def test_even_draws_are_nearer_to_the_leaf_than_chance_and_hang_together_by_nothing() -> None:
    rng = np.random.default_rng(0)
    group = rng.integers(0, 20, 4000)
    one, other = spread(group, rng), spread(group, rng)
    assert one.min() >= 0
    assert one.max() < 1
    for number in range(20):
        mine = np.sort(one[group == number])
        # The discrepancy of so many independent numbers is about 0.06.
        assert np.abs(mine - (np.arange(len(mine)) + 0.5) / len(mine)).max() < 0.02
        both = np.corrcoef(one[group == number], other[group == number])[0, 1]
        assert abs(both) < 4 / np.sqrt(len(mine))
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 4 / np.sqrt(len(one))
    assert 0 <= spread(np.zeros(1, np.int64), rng)[0] < 1


def test_a_node_is_drawn_towards_its_parent_by_so_many_rows() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (120, 1)).astype(np.float32)
    tokens = rng.integers(0, 5, 120).astype(np.int32)
    lone = module.lookup(scores[:, 0])
    trees = module.merge([lone, lone], tokens, shrink=15.0)
    reached = np.repeat(trees.apply(np.array([[2.0]], np.float32), np.array([1])), 60_000)
    leaf = trees.shrunk(reached, rng)
    drawn = trees.leaves.tokens[trees.leaves.draw(leaf, rng)]
    want = np.bincount(tokens, minlength=5) / 120
    for rows in (scores[:, 0] >= 2, scores[:, 0] == 2):
        want = (np.bincount(tokens[rows], minlength=5) + 15 * want) / (rows.sum() + 15)
    assert np.abs(np.bincount(drawn, minlength=5) / 60_000 - want).max() < 0.01
    assert (module.merge([lone], tokens).shrunk(reached, rng) == reached).all()


def test_a_tree_without_some_rows_keeps_all_its_leaves() -> None:
    scores = np.repeat(np.arange(4.0), 5)[:, None].astype(np.float32)
    left_out = (np.arange(20) % 2 == 0) | (np.arange(20) < 5)
    trees = module.merge([module.without(module.lookup(scores[:, 0]), left_out)], np.arange(20))
    leaf = trees.apply(scores, np.zeros(20, np.int64))
    for number in range(4):
        start, end = trees.leaves.start[leaf[5 * number] + np.arange(2)]
        held = trees.leaves.tokens[start:end]
        assert len(held)
        assert not left_out[held].any()


@pytest.mark.parametrize("size", [1200, 3000])
def test_samples_reach_the_bounds_that_one_row_holds(size: int) -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=3000), "b": rng.normal(size=3000)})
    frame["c"] = frame["a"] + rng.normal(size=3000)
    model = Forest(trees=2, calibrate=False).fit(frame, TableSchema.infer(frame))
    for seed in range(3):
        made = model.sample(size, seed=seed)
        bounds = [frame.min(), frame.max()]
        held = [int((made[name] == bound[name]).sum()) for bound in bounds for name in "abc"]
        assert max(held) <= 6
        if size == 3000:
            assert min(held) >= 1


def test_mutual_information_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    one = rng.integers(0, 5, 5000)
    other = np.where(rng.random(5000) < 0.5, one, rng.integers(0, 5, 5000))
    frame = pd.DataFrame({"a": one, "b": other, "c": rng.integers(0, 5, 5000)}).astype(str)
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    ours = mutual_information(codec.encode(frame), codec, seed=0)
    bias = 4 * 4 / (2 * 5000)
    assert ours[0, 1] == pytest.approx(mutual_info_score(one, other) - bias, abs=1e-9)
    assert ours[0, 2] < 0.002
    assert np.allclose(ours, ours.T, rtol=0, atol=1e-12)


def test_the_target_comes_first_and_the_most_telling_column_next() -> None:
    rng = np.random.default_rng(0)
    hub = rng.normal(size=2000)
    frame = pd.DataFrame(
        {
            "noise": rng.normal(size=2000),
            "one": hub + rng.normal(size=2000),
            "hub": hub,
            "two": hub + rng.normal(size=2000),
            "target": rng.choice(["a", "b", "c"], 2000),
        }
    )
    model = Forest(trees=1).fit(frame, TableSchema.infer(frame, target="target"))
    assert model.order_[:2] == [4, 2]


def test_a_function_of_a_column_stays_one() -> None:
    rng = np.random.default_rng(0)
    code = rng.choice(300, 6000, p=rng.dirichlet(np.ones(300)))
    region = np.array([f"r{number % 37}" for number in range(300)], dtype=object)
    frame = pd.DataFrame({"code": [f"c{number}" for number in code], "region": region[code]})
    kinds = {"code": "categorical", "region": "categorical"}
    schema = TableSchema.infer(frame, kinds=kinds)
    synthetic = Forest().fit(frame, schema).sample(5000, seed=1)
    truth = dict(zip(frame["code"], frame["region"], strict=True))
    assert (synthetic["code"].map(truth) == synthetic["region"]).all()


def test_ten_thousand_categories() -> None:
    rng = np.random.default_rng(0)
    number = rng.integers(0, 10_000, 20_000)
    frame = pd.DataFrame(
        {
            "many": [f"k{value}" for value in number],
            "value": np.where(number < 5000, 0, 10) + rng.normal(size=20_000),
        }
    )
    schema = TableSchema.infer(frame, kinds={"many": "categorical"}, target="many")
    synthetic = Forest(trees=2).fit(frame, schema).sample(5000, seed=1)
    low = synthetic["many"].str[1:].astype(int) < 5000
    assert (low == (synthetic["value"] < 5)).mean() > 0.98


def test_hashes_tell_rows_apart_and_ignore_the_sign_of_zero() -> None:
    codes = np.array([[0, 1], [1, 0], [0, 1], [2, 2], [2, 2]], dtype=np.int32)
    values = np.full((5, 2), np.nan)
    values[3:, 1] = [0.0, -0.0]
    hashes = row_hashes(EncodedTable(codes, values))
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]
    assert hashes[3] == hashes[4]


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"only": [1.5, 2.5, 3.5]}),
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}),
        pd.DataFrame({"a": [1.0, np.nan], "b": [None, None], "c": [True, True]}),
        pd.DataFrame({"same": [3] * 50, "also": ["x"] * 50}),
        pd.DataFrame({"a": pd.array([None, None, 3], dtype="Int64"), "b": [1.0, np.nan, np.nan]}),
    ],
    ids=["one column", "two rows", "mostly missing", "constant", "nullable"],
)
@pytest.mark.parametrize("parameters", [{}, LEAKY], ids=["default", "leaky"])
def test_tiny_tables(frame: pd.DataFrame, parameters: dict[str, Any]) -> None:
    synthetic = fit_sample(frame, 20, **parameters)
    assert len(synthetic) == 20
    pd.testing.assert_series_equal(synthetic.dtypes, frame.dtypes)


def test_a_wide_table_asks_only_the_best_predictors() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 60)), columns=[f"c{i}" for i in range(60)])
    frame["copy"] = frame["c3"] + rng.normal(0, 0.1, 300)
    model = Forest(max_predictors=2, trees=2, min_leaf=5)
    synthetic = model.fit(frame, TableSchema.infer(frame)).sample(600, seed=1)
    assert synthetic["copy"].corr(synthetic["c3"]) > 0.85
    for column in model.order_:
        trees = model.trees_[column]
        assert len(set(trees.feature) - {-1}) <= 2


def test_nothing_to_learn_is_an_error_that_names_the_remedy() -> None:
    frame = pd.DataFrame({"note": [f"text {i}" for i in range(90)], "user_id": range(90)})
    with pytest.raises(DataError, match="declare the kind"):
        fit_sample(frame, 1)


@pytest.mark.parametrize(
    "parameters",
    [
        {"trees": 0},
        {"min_leaf": 0},
        {"privacy": -0.1},
        {"privacy": 1.5},
        {"max_predictors": 0},
        {"subsample": 0.0},
        {"subsample": 1.5},
        {"subsample": 1.0},
    ],
)
def test_parameters_out_of_range_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        Forest(**parameters)


def test_continuous_values_are_not_copied_and_gaps_stay_empty() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, 500), rng.normal(100, 1, 500)])
    frame = pd.DataFrame({"value": values})
    for model in (Forest(), Independent()):
        drawn = model.fit(frame, TableSchema.infer(frame)).sample(5000, seed=1)["value"]
        # The ends are bounds of the column, which its schema tells anyhow.
        assert not drawn.isin(np.sort(values)[1:-1]).any()
        assert drawn.between(5, 95).mean() < 0.003
        assert drawn.mean() == pytest.approx(50, abs=2)
        assert drawn.between(values.min(), values.max()).all()
