"""The graphical families against enumeration, closed forms and data whose structure is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from generators import GENERATORS, TableSchema
from generators.base import Conditional, Density, ParameterError
from generators.encoding import TableCodec
from generators.tabular.bayesian_network import PairCounts, spanning_tree
from generators.tabular.cells import CellTable, draw_rows
from generators.tabular.messages import Branching

FAMILIES = ("bayesian-network", "hidden-tree", "mixture")


def random_branching(rng: np.random.Generator) -> Branching:
    """Five variables of two to four states: a root with two children, one of them a parent."""
    sizes, parent = [3, 2, 4, 2, 3], (-1, 0, 0, 2, -1)
    tables = []
    for at, above in enumerate(parent):
        table = rng.dirichlet(np.ones(sizes[at]), 1 if above < 0 else sizes[above])
        tables.append(table)
    return Branching((0, 4, 1, 2, 3), parent, tuple(tables))


def enumerated(tree: Branching, evidence: list[np.ndarray]) -> dict[tuple[int, ...], float]:
    """The weight of every combination of states under evidence that is alike for all rows."""
    weights = {}
    for states in itertools.product(*(range(t.shape[1]) for t in tree.tables)):
        weight = 1.0
        for at, state in enumerate(states):
            above = tree.parent[at]
            weight *= tree.tables[at][states[above] if above >= 0 else 0, state]
            weight *= evidence[at][0, state]
        weights[states] = weight
    return weights


def test_messages_are_the_sums_over_all_states() -> None:
    rng = np.random.default_rng(0)
    tree = random_branching(rng)
    evidence = [rng.random((1, table.shape[1])) for table in tree.tables]
    evidence[2][0, 1] = 0.0
    weights = enumerated(tree, evidence)
    belief, logs = tree.collect(evidence)
    assert np.isclose(logs[0], np.log(sum(weights.values())))
    n = 40_000
    drawn = tree.draw(belief, n, rng)
    found = {states: 0 for states, weight in weights.items() if weight > 0}
    for row in map(tuple, drawn.tolist()):
        found[row] += 1  # a KeyError is an impossible row
    expected = np.array([weights[states] for states in found]) * n / sum(weights.values())
    assert chisquare(list(found.values()), expected).pvalue > 1e-3


def test_rows_have_evidence_of_their_own() -> None:
    rng = np.random.default_rng(1)
    tree = random_branching(rng)
    rows = [[rng.random((1, t.shape[1])) for t in tree.tables] for _ in range(3)]
    together = [np.concatenate([row[at] for row in rows]) for at in range(5)]
    _, logs = tree.collect(together)
    assert np.allclose(logs, [tree.collect(row)[1][0] for row in rows])
    impossible = [np.ones((1, t.shape[1])) for t in tree.tables]
    impossible[3][:] = 0.0
    assert tree.collect(impossible)[1][0] == -np.inf


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    weights=st.lists(
        st.lists(st.sampled_from([0.0, 1e-9, 0.3, 1.0]), min_size=4, max_size=4),
        min_size=1,
        max_size=5,
    ),
    seed=st.integers(0, 2**32),
)
def test_nothing_impossible_is_drawn(weights: list[list[float]], seed: int) -> None:
    table, rng = np.array(weights), np.random.default_rng(seed)
    rows = rng.integers(len(table), size=500)
    drawn = draw_rows(table, rows, rng)
    possible = table[rows].sum(axis=1) > 0
    assert (table[rows, drawn][possible] > 0).all()


def test_the_tree_is_that_of_the_data() -> None:
    rng = np.random.default_rng(2)
    n = 5000
    a = rng.integers(3, size=n)
    b = np.where(rng.random(n) < 0.8, a, rng.integers(3, size=n))
    c = np.where(rng.random(n) < 0.8, b, rng.integers(3, size=n))
    alone = rng.integers(3, size=n)
    states = np.column_stack([c, alone, a, b])
    order, parent = spanning_tree(PairCounts.of(states, [3, 3, 3, 3]).information())
    edges = {frozenset((at, above)) for at, above in enumerate(parent) if above >= 0}
    assert {frozenset((2, 3)), frozenset((3, 0))} <= edges
    assert all(order.index(above) < order.index(at) for at, above in enumerate(parent) if above > 0)


def test_mutual_information_is_sklearns() -> None:
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(3)
    left = rng.integers(4, size=3000)
    right = (left + rng.integers(2, size=3000)) % 5
    found = PairCounts.of(np.column_stack([left, right]), [4, 5]).information()[0, 1]
    bias = (4 - 1) * (5 - 1) / (2 * 3000)
    assert np.isclose(found, mutual_info_score(left, right) - bias)


def small_table(rows: int = 3000) -> pd.DataFrame:
    """Three related categories and a number of few values."""
    rng = np.random.default_rng(4)
    kind = rng.choice(np.array(["a", "b", "c"], object), rows, p=[0.5, 0.3, 0.2])
    flag = np.where(rng.random(rows) < np.where(kind == "a", 0.9, 0.2), "yes", "no")
    count = rng.poisson(np.where(flag == "yes", 1, 4)).clip(0, 6)
    return pd.DataFrame({"kind": kind, "flag": flag.astype(object), "count": count})


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Conditional:
    frame = small_table()
    made = GENERATORS[request.param]().fit(frame, TableSchema.infer(frame))
    assert isinstance(made, Conditional)
    return made


def every_row(model: Conditional) -> pd.DataFrame:
    rows = itertools.product(["a", "b", "c"], ["yes", "no"], range(7))
    frame = pd.DataFrame(rows, columns=["kind", "flag", "count"])
    return frame.astype({"kind": object, "flag": object})


def test_probabilities_sum_to_one(model: Conditional) -> None:
    assert isinstance(model, Density)
    assert np.isclose(np.exp(model.log_density(every_row(model))).sum(), 1.0)


def test_samples_follow_the_density(model: Conditional) -> None:
    assert isinstance(model, Density)
    rows, n = every_row(model), 30_000
    chances = np.exp(model.log_density(rows))
    drawn = model.sample(n, seed=1).value_counts()
    counts = np.array([drawn.get(tuple(row), 0) for row in rows.to_numpy().tolist()])
    assert chisquare(counts, chances / chances.sum() * n).pvalue > 1e-3


def test_conditions_and_gaps_follow_the_density(model: Conditional) -> None:
    assert isinstance(model, Density)
    rows, n = every_row(model), 20_000
    chances = np.exp(model.log_density(rows))
    given_count = (rows["count"] >= 3) & (rows["count"] <= 4)
    exact = chances[given_count & (rows["flag"] == "yes")].sum() / chances[given_count].sum()
    drawn = model.sample_where(["count in 3..4"], n, seed=2)
    assert abs((drawn["flag"] == "yes").mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / n)
    exact = chances[(rows["count"] == 3) & (rows["kind"] == "a")].sum()
    exact /= chances[rows["count"] == 3].sum()
    full = model.fill(pd.DataFrame({"count": [3] * n}), seed=3)
    assert abs((full["kind"] == "a").mean() - exact) < 4 * np.sqrt(exact * (1 - exact) / n)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_density_of_numbers_integrates_to_one(family: str) -> None:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"x": np.where(rng.random(2000) < 0.2, 0.0, rng.gamma(2.0, size=2000))})
    model = GENERATORS[family]().fit(frame, TableSchema.infer(frame))
    assert isinstance(model, Density)
    edges = np.linspace(frame["x"].min(), frame["x"].max(), 200_001)
    middle = pd.DataFrame({"x": (edges[:-1] + edges[1:]) / 2})
    mass = np.exp(model.log_density(middle)).sum() * (edges[1] - edges[0])
    atom = np.exp(model.log_density(pd.DataFrame({"x": [0.0]})))[0]
    assert abs(mass + atom - 1) < 0.01
    assert abs(atom - 0.2) < 0.03


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unknown_category_has_no_probability(family: str) -> None:
    frame = small_table()
    model = GENERATORS[family]().fit(frame, TableSchema.infer(frame))
    assert isinstance(model, Density)
    strange = frame.head(2).assign(kind=["z", "a"])
    logs = model.log_density(strange)
    assert logs[0] == -np.inf
    assert np.isfinite(logs[1])


def test_a_mixture_finds_what_no_tree_can_hold() -> None:
    """Six coins that all follow a hidden one: a tree keeps the pairs, a mixture the whole."""
    rng = np.random.default_rng(6)
    hidden = rng.random(6000) < 0.5
    coins = {f"c{i}": rng.random(6000) < np.where(hidden, 0.9, 0.1) for i in range(6)}
    frame = pd.DataFrame(coins)
    schema = TableSchema.infer(frame)
    train, rest = frame[:4000], frame[4000:].reset_index(drop=True)
    logs = {}
    for family in FAMILIES:
        few = {"mixture": {"classes": 2}, "hidden-tree": {"states": 2}}.get(family, {})
        model = GENERATORS[family].from_parameters(few)
        fitted: Any = model.fit(train, schema)
        logs[family] = float(fitted.log_density(rest).mean())
    heads = rest.sum(axis=1).to_numpy()
    truth = np.log(0.5 * 0.9**heads * 0.1 ** (6 - heads) + 0.5 * 0.1**heads * 0.9 ** (6 - heads))
    for family in ("mixture", "hidden-tree"):
        assert logs[family] > logs["bayesian-network"] + 0.05
        assert abs(logs[family] - truth.mean()) < 0.01


def test_a_hidden_tree_finds_what_no_few_classes_can_hold() -> None:
    """A chain of six columns, each a noisy copy of a state that wanders: two states a column."""
    rng = np.random.default_rng(8)
    rows = 8000
    state, columns = rng.random(rows) < 0.5, {}
    for at in range(6):
        state = np.where(rng.random(rows) < 0.85, state, ~state)
        columns[f"c{at}"] = np.where(rng.random(rows) < 0.9, state, ~state)
    frame = pd.DataFrame(columns)
    train, rest = frame[:6000], frame[6000:].reset_index(drop=True)
    logs = {}
    for family, few in (("mixture", {"classes": 2}), ("hidden-tree", {"states": 2})):
        made: Any = GENERATORS[family].from_parameters(few).fit(train, TableSchema.infer(frame))
        logs[family] = float(made.log_density(rest).mean())
    assert logs["hidden-tree"] > logs["mixture"] + 0.05
    assert abs(logs["hidden-tree"] - wandering(rest.to_numpy()).mean()) < 0.02


def wandering(seen: np.ndarray) -> np.ndarray:
    """The log-probability of such a chain, by the forward algorithm."""
    share = np.full((len(seen), 2), 0.5)
    move = np.array([[0.85, 0.15], [0.15, 0.85]])
    logs = np.zeros(len(seen))
    for at in range(seen.shape[1]):
        share = share @ move * np.where(seen[:, at : at + 1] == np.array([False, True]), 0.9, 0.1)
        logs += np.log(share.sum(axis=1))
        share /= share.sum(axis=1, keepdims=True)
    return logs


def test_cells_of_many_levels_and_values() -> None:
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "level": [f"v{min(int(x), 299)}" for x in rng.exponential(20, 8000)],
            "number": np.round(rng.normal(size=8000), 2),
        }
    )
    schema = TableSchema.infer(frame, kinds={"level": "categorical"})
    codec = TableCodec.fit(frame, schema)
    encoded = codec.encode(frame)
    cells = CellTable.fit(codec, encoded, 16)
    states = cells.encode(encoded)
    assert cells.sizes[0] == 16
    assert 8 <= cells.sizes[1] <= 32
    back = codec.decode(cells.decode(states, rng))
    again = cells.encode(codec.encode(back))
    assert np.array_equal(again, states)
    assert back["level"].nunique() > 80  # the rare ones, too
    for at in range(2):
        assert np.allclose(np.bincount(cells.groups[at].of_token, cells.groups[at].share), 1.0)


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("bayesian-network", {"cells": 1}),
        ("bayesian-network", {"smoothing": 0.0}),
        ("hidden-tree", {"states": 0}),
        ("hidden-tree", {"smoothing": 0.0}),
        ("mixture", {"classes": 0}),
        ("mixture", {"epochs": 0}),
        ("mixture", {"smoothing": -1.0}),
    ],
)
def test_bad_settings_are_refused(family: str, setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        GENERATORS[family].from_parameters(setting)
