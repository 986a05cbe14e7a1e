"""Sequential trees under conditions draw what filtering would leave, without filtering."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chi2_contingency, ks_2samp

from generators import TableSchema
from generators.base import NoSupport
from generators.conditions import Conditions
from generators.schema import to_numbers
from generators.tabular.forest import Forest
from generators.tabular.particles import effective_size
from generators.tabular.resampling import systematic


def dependent(rows: int = 4000) -> pd.DataFrame:
    """Columns that all hang together, one of them a function of another."""
    rng = np.random.default_rng(1)
    town = rng.choice(["Bern", "Basel", "Oslo", "Rome"], rows, p=[0.4, 0.3, 0.25, 0.05])
    pay = np.round(np.exp(rng.normal(8 + 0.4 * (town == "Oslo"), 0.5, rows)), 1)
    age = np.clip(np.round(40 + 0.006 * (pay - 3000) + rng.normal(0, 8, rows)), 18, 90)
    lists = rng.gamma(2, 1 + (age > 50), rows)
    return pd.DataFrame(
        {
            "town": town,
            "land": pd.Series(town).map({"Bern": "CH", "Basel": "CH", "Oslo": "NO", "Rome": "IT"}),
            "pay": pay,
            "age": age.astype(int),
            "owns": np.where(rng.random(rows) < 1 / (1 + np.exp((45 - age) / 6)), "yes", "no"),
            "visits": pd.Series(lists).mask(rng.random(rows) < 0.1 + 0.4 * (town == "Rome")),
        }
    )


@pytest.fixture(scope="module")
def model() -> Forest:
    frame = dependent()
    return Forest(trees=6).fit(frame, TableSchema.infer(frame))


@pytest.fixture(scope="module")
def many(model: Forest) -> pd.DataFrame:
    sample = model.sample(200_000, seed=7)
    assert isinstance(sample, pd.DataFrame)
    return sample


@pytest.mark.parametrize(
    "where",
    [
        ["town = Rome"],
        ["land != CH", "owns = yes"],
        ["pay > 6000.05"],
        ["age in 70..80"],
        ["visits is missing", "age >= 50"],
        ["visits in 6..6.5"],
        ["owns = no", "age > 45", "pay in 2000..4000"],
    ],
    ids=" and ".join,
)
def test_a_conditional_sample_is_that_of_filtering(
    model: Forest, many: pd.DataFrame, where: list[str]
) -> None:
    found = Conditions.parse(where, model.codec_.schema)
    held = many[found.matches(many)]
    assert 300 < len(held) < 100_000
    drawn = model.sample_where(where, 3000, seed=2)
    assert isinstance(drawn, pd.DataFrame)
    for column in model.codec_.schema.columns:
        one, other = drawn[column.name], held[column.name]
        if column.discrete:
            counts = pd.concat([one.value_counts(), other.value_counts()], axis=1).fillna(0)
            counts = counts[counts.sum(axis=1) > 20]
            p = chi2_contingency(counts).pvalue if len(counts) > 1 else 1.0
        else:
            both = to_numbers(one.dropna()), to_numbers(other.dropna())
            p = ks_2samp(*both).pvalue if all(map(len, both)) else 1.0
            gaps = [[f.isna().sum(), f.notna().sum()] for f in (one, other)]
            p = min(p, chi2_contingency(gaps).pvalue) if np.min(gaps) > 5 else p
        assert p > 1e-4, (column.name, p)


def test_rows_are_new_even_where_the_condition_comes_last(model: Forest) -> None:
    last = model.codec_.columns[model.order_[-1]].column
    assert last.kind == "numerical"
    cut = float(np.quantile(to_numbers(model.sample(5000, seed=1)[last.name].dropna()), 0.99))
    drawn = model.sample_where([f"{last.name} > {cut}"], 2000, seed=3)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn.duplicated().mean() < 0.05


def test_conditions_that_only_together_are_impossible_have_no_support(model: Forest) -> None:
    with pytest.raises(NoSupport, match=r"'town = Oslo' and 'land = CH'"):
        model.sample_where(["town = Oslo", "land = CH"], 10, seed=0)


def test_copies_are_as_rare_as_among_fresh_rows_that_fulfil_the_condition() -> None:
    rng = np.random.default_rng(0)

    def rows(n: int) -> pd.DataFrame:
        size = rng.normal(0, 1, (n, 1))
        grid = np.round(3 * (size + 0.4 * rng.normal(0, 1, (n, 5)))).astype(int)
        return pd.DataFrame(grid, columns=list("abcde"))

    train, fresh = rows(3000), rows(60_000)
    once = set(map(tuple, train.drop_duplicates(keep=False).to_numpy()))

    def rate(drawn: object) -> float:
        return float(np.mean([tuple(row) in once for row in np.asarray(drawn)]))

    def copies(guard: bool) -> float:
        careless = Forest(trees=4, min_leaf=2, privacy=0.0, honest=False, verbatim_guard=guard)
        model = careless.fit(train, TableSchema.infer(train))
        return rate(model.sample_where(["a >= 5"], 4000, seed=1))

    # Where real rows are rare so are natural copies: a third of what they are in the whole table.
    natural = rate(fresh[fresh["a"] >= 5])
    assert natural < rate(fresh) / 2
    assert copies(guard=False) > 2 * natural
    assert copies(guard=True) < 1.2 * natural


def test_what_is_given_decides_what_is_filled(model: Forest) -> None:
    frame = dependent(1500)
    full = model.fill(frame.drop(columns=["town", "age"]), seed=1)
    towns = {"CH": {"Bern", "Basel"}, "NO": {"Oslo"}, "IT": {"Rome"}}
    assert np.mean([t in towns[x] for t, x in zip(full["town"], full["land"], strict=True)]) > 0.99
    # Drawn ages follow pay as the real ones do: as alike as two real samples, not the mean.
    assert abs(full["age"].corr(frame["pay"]) - frame["age"].corr(frame["pay"])) < 0.08
    assert abs(full["age"].std() / frame["age"].std() - 1) < 0.1
    assert full.groupby("owns")["age"].mean().diff().iloc[-1] > 5


def test_systematic_resampling_repeats_no_row_of_little_weight() -> None:
    rng = np.random.default_rng(0)
    weights = rng.random(4000) + 0.2
    chosen = systematic(weights, 1000, rng)
    assert len(np.unique(chosen)) == 1000
    often = systematic(np.array([1.0, 0.0, 3.0]), 4000, rng)
    assert np.bincount(often).tolist() == [1000, 0, 3000]


def test_effective_size_has_its_closed_forms() -> None:
    assert effective_size(np.ones(7)) == pytest.approx(7)
    assert effective_size(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_size(np.zeros(3)) == 0
