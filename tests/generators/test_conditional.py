"""What every family promises that samples under conditions and completes rows."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from generators import GENERATORS, TableSchema, load_generator
from generators.base import (
    Conditional,
    DataError,
    NoSupport,
    NotFittedError,
    ParameterError,
    Private,
    Progress,
    SchemaError,
)
from generators.conditions import Conditions
from generators.schema import to_numbers

TINY: dict[str, dict[str, Any]] = {
    name: {"epochs": 2}
    for name in ("autoregressive", "ctgan", "table-diffusion", "table-flow", "table-rbm", "tvae")
} | {"mst": {"epsilon": 100.0}}
FAMILIES = [name for name in GENERATORS if issubclass(GENERATORS[name], Conditional)]
# Of every kind of column; each leaves rows of the toy table.
WHERE = [
    ["age >= 40", "age < 60"],
    ["income in 9000.005..15000"],
    ["score is missing", "debt = 0"],
    ["score < -0.5", "debt > 0", "debt != 100"],
    ["visits in (0, 3)", "joined > 2020-08-28"],
    ["seen in 2020-06-01..2020-12-31", "member = true"],
    ["opted != true", "visits is not missing"],
    ["city not in (Oslo)", "bought = yes"],
    ["grade in (a, c)", "country = CH", "age > 30"],
    ["nothing is missing", "constant = 7"],
]


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(
    request: pytest.FixtureRequest, toy_table: pd.DataFrame, toy_schema: TableSchema
) -> Conditional:
    family = GENERATORS[request.param].from_parameters(TINY.get(request.param, {}))
    if isinstance(family, Private):
        family.noise_key = b"of these tests"
    made = family.fit(toy_table, toy_schema)
    assert isinstance(made, Conditional)
    return made


@pytest.mark.parametrize("where", WHERE, ids=" and ".join)
def test_exactly_n_rows_fulfil_every_condition(
    fitted: Conditional, toy_schema: TableSchema, where: list[str]
) -> None:
    sample = fitted.sample_where(where, 83, seed=1)
    assert len(sample) == 83
    assert Conditions.parse(where, toy_schema).matches(sample).all()
    assert list(sample.columns) == list(toy_schema.names)
    assert {c.name: str(sample[c.name].dtype) for c in toy_schema.columns} == {
        c.name: c.dtype for c in toy_schema.columns
    }
    assert sample.index.equals(pd.RangeIndex(83))


def test_other_columns_stay_in_their_domain(fitted: Conditional, toy_schema: TableSchema) -> None:
    sample = fitted.sample_where(["age >= 30", "income < 12000.5"], 150, seed=2)
    for column in toy_schema.modelled:
        present = sample[column.name].dropna()
        assert column.nullable or len(present) == 150, column.name
        if column.discrete:
            assert set(present) <= set(column.levels), column.name
        elif column.low is not None:
            numbers = to_numbers(present)
            assert column.low <= numbers.min() <= numbers.max() <= column.high, column.name
            if column.step is not None:
                steps = numbers / column.step
                assert np.allclose(steps, np.round(steps), rtol=0, atol=1e-6), column.name


def test_the_seed_decides(fitted: Conditional) -> None:
    first = fitted.sample_where(["age >= 40"], 60, seed=5)
    assert first.equals(fitted.sample_where(["age >= 40"], 60, seed=5))
    assert not first.equals(fitted.sample_where(["age >= 40"], 60, seed=6))


def test_without_conditions_it_is_a_sample(fitted: Conditional) -> None:
    assert fitted.sample_where([], 50, seed=3).equals(fitted.sample(50, seed=3))


def test_blocks_are_the_sample(fitted: Conditional, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(fitted), "rows_per_block", 40)
    reports: list[Progress] = []
    sample = fitted.sample_where(["member = false"], 100, seed=4, progress=reports.append)
    assert len(sample) == 100
    assert sample["customer_id"].is_unique
    assert not sample["member"].any()
    assert [report.step for report in reports] == [40, 80, 100]
    assert sample[:40].equals(fitted.sample_where(["member = false"], 40, seed=4))


def test_a_saved_model_samples_the_same(fitted: Conditional, tmp_path: Any) -> None:
    fitted.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, Conditional)
    where = ["income > 9000", "city = Bern"]
    assert loaded.sample_where(where, 40, seed=5).equals(fitted.sample_where(where, 40, seed=5))


def test_no_rows_can_be_asked_for(fitted: Conditional, toy_schema: TableSchema) -> None:
    nothing = fitted.sample_where(["age > 30"], 0, seed=0)
    assert nothing.equals(toy_schema.empty_frame())


@pytest.mark.parametrize("name", ["autoregressive", "table-diffusion", "table-flow"])
def test_what_is_rare_but_likely_is_found(name: str) -> None:
    """Whatever the rows asked for: among few candidates there would be none."""
    rng = np.random.default_rng(0)
    rare = rng.random(3000) < 0.03
    kind = np.where(rare, "rare", rng.choice(["one", "two"], 3000))
    alarm = np.where(rare | (rng.random(3000) < 0.003), "yes", "no")
    frame = pd.DataFrame({"kind": kind, "alarm": alarm})
    model = GENERATORS[name].from_parameters({"max_steps": 250, "width": 16})
    assert isinstance(model, Conditional)
    model.fit(frame, TableSchema.infer(frame))
    # The order in which the conditions are given must not matter either.
    for where in (
        ["kind in (rare, one, two)", "alarm = yes"],
        ["alarm = yes", "kind in (rare, one, two)"],
    ):
        drawn = pd.concat([model.sample_where(where, 1, seed=seed) for seed in range(15)])
        assert (drawn["alarm"] == "yes").all()
        # Nine of ten real rows; 1 in 10 of what eight candidates find.
        assert (drawn["kind"] == "rare").mean() > 0.6
    filled = model.fill(pd.DataFrame({"alarm": ["yes"] * 100}), seed=1)
    assert (filled["kind"] == "rare").mean() > 0.8


@pytest.mark.parametrize("text", ["age > 200", "joined < 1990-01-01", "age is missing"])
def test_a_condition_without_support_is_named(fitted: Conditional, text: str) -> None:
    with pytest.raises(NoSupport, match=text):
        fitted.sample_where(["member = true", text], 5, seed=0)


def test_bad_requests_are_refused(fitted: Conditional) -> None:
    with pytest.raises(ParameterError, match="-1"):
        fitted.sample_where(["age > 30"], -1, seed=0)
    with pytest.raises(ParameterError, match="did you mean 'age'"):
        fitted.sample_where(["agee > 30"], 1, seed=0)
    fresh = type(fitted)()
    with pytest.raises(NotFittedError):
        fresh.sample_where(["age > 30"], 1, seed=0)
    with pytest.raises(NotFittedError):
        fresh.fill(pd.DataFrame({"age": [1]}), seed=0)


def punched(table: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``table`` with cells knocked out at random, and which cells are left."""
    rng = np.random.default_rng(seed)
    kept = pd.DataFrame(rng.random(table.shape) < 0.6, columns=table.columns)
    return table.astype(object).where(kept, None), kept & table.notna()


def test_fill_keeps_given_cells_and_completes_the_rest(
    fitted: Conditional, toy_table: pd.DataFrame, toy_schema: TableSchema
) -> None:
    part, kept = punched(toy_table.iloc[:120], 1)
    part = part[["bought", "age", "city", "score", "joined", "opted", "grade", "customer_id"]]
    before = part.copy(deep=True)
    full = fitted.fill(part, seed=1)
    assert part.equals(before)
    assert list(full.columns) == list(toy_schema.names)
    assert {c.name: str(full[c.name].dtype) for c in toy_schema.columns} == {
        c.name: c.dtype for c in toy_schema.columns
    }
    for name in part.columns:
        there = kept[name].to_numpy()
        given = toy_table[name].iloc[:120][there]
        assert (full[name][there].astype(object) == given.astype(object)).all(), name
        assert full[name].notna().all(), name
    assert full["income"].between(toy_table["income"].min(), toy_table["income"].max()).all()


def test_fill_of_a_whole_table_changes_nothing(
    fitted: Conditional, toy_table: pd.DataFrame, toy_schema: TableSchema
) -> None:
    whole = toy_table.dropna(subset=["score", "visits", "joined", "opted", "city"])
    full = fitted.fill(whole, seed=1)
    pd.testing.assert_frame_equal(full, whole.reset_index(drop=True))


def test_fill_of_nothing_but_ids_is_a_sample(fitted: Conditional) -> None:
    full = fitted.fill(pd.DataFrame({"customer_id": [5, 7, 9]}), seed=1)
    assert list(full["customer_id"]) == [5, 7, 9]
    assert full["age"].between(18, 90).all()


def test_fill_depends_on_the_seed_alone(fitted: Conditional, toy_table: pd.DataFrame) -> None:
    part = toy_table[["age", "city"]].iloc[:50]
    first = fitted.fill(part, seed=5)
    assert first.equals(fitted.fill(part, seed=5))
    assert not first.equals(fitted.fill(part, seed=6))


@pytest.mark.parametrize(
    ("frame", "error", "message"),
    [
        ({"aeg": [1]}, SchemaError, "aeg"),
        ({"city": ["Bern", "Atlantis"]}, DataError, "'city' has 1 others"),
        ({"age": ["old"]}, SchemaError, "'age' is numerical"),
        ({"age": [30.5]}, SchemaError, "dtype int16"),
        ({"age": [70_000]}, SchemaError, "dtype int16"),
        ({"joined": ["2024-13-01"]}, SchemaError, "'joined' is datetime"),
    ],
)
def test_fill_refuses_what_is_not_of_the_table(
    fitted: Conditional, frame: dict[str, list[object]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        fitted.fill(pd.DataFrame(frame), seed=0)
    assert "Atlantis" not in str(caught.value)


def test_fill_reads_what_a_csv_holds(fitted: Conditional, toy_table: pd.DataFrame) -> None:
    frame = pd.DataFrame(
        {"age": ["30", None], "joined": ["2020-03-01", None], "member": ["True", None]}
    )
    full = fitted.fill(frame, seed=0)
    assert full["age"][0] == 30
    assert full["joined"][0] == pd.Timestamp("2020-03-01")
    assert full["member"].dtype == bool
    assert full["member"][0]
    assert full.notna()[["age", "joined", "member"]].all(axis=None)


@pytest.mark.parametrize(
    "where", [["income in 9000..12000"], ["debt > 60"], ["age != 40"], ["score < 0.3"]], ids=str
)
def test_independent_columns_are_cut_exactly(
    toy_table: pd.DataFrame, toy_schema: TableSchema, where: list[str]
) -> None:
    model = GENERATORS["independent"]().fit(toy_table, toy_schema)
    assert isinstance(model, Conditional)
    name = where[0].split()[0]
    cut = to_numbers(model.sample_where(where, 20_000, seed=1)[name])
    whole = model.sample(60_000, seed=2)
    held = to_numbers(whole[Conditions.parse(where, toy_schema).matches(whole)][name])
    assert ks_2samp(cut, held).pvalue > 1e-3


@st.composite
def conditions(draw: st.DrawFn) -> list[str]:
    """Conditions on a few columns of the toy table, each with support, maybe not together."""
    low = draw(st.integers(18, 80))
    pool = [
        f"age in {low}..{low + draw(st.integers(0, 40))}",
        f"income >= {draw(st.floats(2000, 20_000)):.3f}",
        f"score < {draw(st.floats(-1, 3))!r}",
        f"debt {draw(st.sampled_from(['=', '!=', '>']))} 0",
        f"joined >= {draw(st.dates(date(2020, 1, 1), date(2022, 1, 1)))}",
        f"visits not in ({draw(st.integers(0, 3))}, 7)",
        f"city {draw(st.sampled_from(['= Bern', '!= Oslo', 'is missing', 'in (Oslo, Rome)']))}",
        f"member = {draw(st.booleans())}",
    ]
    return draw(st.lists(st.sampled_from(pool), min_size=1, max_size=3, unique=True))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(where=conditions(), n=st.integers(1, 30), seed=st.integers(0, 2**62))
def test_every_row_fulfils_whatever_is_asked(
    fitted: Conditional, toy_schema: TableSchema, where: list[str], n: int, seed: int
) -> None:
    try:
        sample = fitted.sample_where(where, n, seed=seed)
    except NoSupport:
        # No model may find that one of these alone is impossible.
        assert len(where) > 1
        return
    assert len(sample) == n
    assert Conditions.parse(where, toy_schema).matches(sample).all()
    assert sample.equals(fitted.sample_where(where, n, seed=seed))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data(), seed=st.integers(0, 2**62))
def test_no_given_cell_is_touched(
    fitted: Conditional, toy_table: pd.DataFrame, data: st.DataObject, seed: int
) -> None:
    names = ["age", "income", "score", "debt", "visits", "joined", "city", "grade", "bought"]
    columns = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    whole = toy_table[columns].iloc[:25]
    kept = np.random.default_rng(seed).random(whole.shape) < data.draw(st.floats(0, 1))
    part = whole.astype(object).where(kept, None)
    full = fitted.fill(part, seed=seed)[columns]
    there = part.notna().to_numpy()
    assert (full.astype(object).to_numpy()[there] == whole.astype(object).to_numpy()[there]).all()
    assert full.notna().all(axis=None)
