"""Conditions mean what the same sentence means to pandas, and wrong ones are one clear error."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import TableSchema
from generators.base import NoSupport, ParameterError
from generators.conditions import Condition, Conditions
from generators.encoding import TableCodec


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    rows = 300
    day = pd.Timestamp("2024-02-20") + pd.to_timedelta(rng.integers(0, 40 * 24, rows), unit="h")
    return pd.DataFrame(
        {
            "age": rng.integers(18, 80, rows),
            "hours per week": rng.integers(0, 3, rows) * 20.0,
            "income": rng.choice(["<=50K", ">50K"], rows),
            "income in CHF": np.round(rng.normal(0, 50, rows), 2),
            "bmi": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(25, 4, rows)),
            "weight": rng.normal(70, 9, rows).astype("float32"),
            "state": pd.Series(rng.choice(["CA", "NY", "it's", 'a, "b"'], rows)).mask(
                rng.random(rows) < 0.1
            ),
            "member": pd.array(rng.choice([True, False, None], rows), dtype="boolean"),
            "children": rng.choice([0, 1], rows),
            "seen": pd.Series(day),
            "heard": pd.Series(day).dt.tz_localize("UTC"),
            "user_id": [f"u{i:05d}" for i in range(rows)],
        }
    )


@pytest.fixture(scope="module")
def schema(people: pd.DataFrame) -> TableSchema:
    return TableSchema.infer(people, kinds={"user_id": "id"})


def day(text: str) -> pd.Timestamp:
    return pd.Timestamp(text)


MEANINGS = {
    "age>=30": lambda t: t["age"] >= 30,
    " age < 30 ": lambda t: t["age"] < 30,
    "age <= 30.0": lambda t: t["age"] <= 30,
    "age > 3e1": lambda t: t["age"] > 30,
    "age == 40": lambda t: t["age"] == 40,
    "age != 40": lambda t: t["age"] != 40,
    "age in 20..40": lambda t: t["age"].between(20, 40),
    "age in (20, 30,40)": lambda t: t["age"].isin([20, 30, 40]),
    "age not in (20, 30)": lambda t: ~t["age"].isin([20, 30]),
    "age not in 20..40": lambda t: ~t["age"].between(20, 40),
    "hours per week = 20": lambda t: t["hours per week"] == 20,
    "income='>50K'": lambda t: t["income"] == ">50K",
    'income=">50K"': lambda t: t["income"] == ">50K",
    "income = >50K": lambda t: t["income"] == ">50K",
    "income != <=50K": lambda t: t["income"] == ">50K",
    "income in CHF < -1.25": lambda t: t["income in CHF"] < -1.25,
    "`income in CHF` in -10.5..-.5": lambda t: t["income in CHF"].between(-10.5, -0.5),
    "bmi is missing": lambda t: t["bmi"].isna(),
    "bmi IS  NOT Missing": lambda t: t["bmi"].notna(),
    "bmi != 25": lambda t: t["bmi"].notna(),
    "bmi > 25": lambda t: t["bmi"] > 25,
    "state is null": lambda t: t["state"].isna(),
    "state in (CA, NY)": lambda t: t["state"].isin(["CA", "NY"]),
    'state not in (\'it\'\'s\', "a, ""b""")': lambda t: t["state"].isin(["CA", "NY"]),
    "state != CA": lambda t: t["state"].notna() & (t["state"] != "CA"),
    "member = true": lambda t: t["member"].fillna(False),
    "member != TRUE": lambda t: ~t["member"].fillna(True),
    "children=1": lambda t: t["children"] == 1,
    "children > 0": lambda t: t["children"] == 1,
    "seen = 2024-02-29": lambda t: t["seen"].dt.normalize() == day("2024-02-29"),
    "seen > 2024-02-29": lambda t: t["seen"] >= day("2024-03-01"),
    "seen <= 2024-02-29": lambda t: t["seen"] < day("2024-03-01"),
    "seen < 2024-02-29T12:00": lambda t: t["seen"] < day("2024-02-29 12:00"),
    "seen in 2024-02-28..2024-03-02": lambda t: t["seen"].between(
        day("2024-02-28"), day("2024-03-02 23:59:59")
    ),
    "heard >= 2024-03-01T00:00+01:00": lambda t: (
        t["heard"] >= day("2024-02-29 23:00").tz_localize("UTC")
    ),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_condition_means_what_pandas_means(
    people: pd.DataFrame, schema: TableSchema, text: str
) -> None:
    expected = MEANINGS[text](people).to_numpy(dtype=bool)
    found = Conditions.parse([text], schema).matches(people)
    assert np.array_equal(found, expected)
    assert 0 < expected.sum() < len(people)


@pytest.mark.parametrize("text", MEANINGS)
def test_the_negation_is_the_rest(people: pd.DataFrame, schema: TableSchema, text: str) -> None:
    one = Condition.parse(text, schema)
    held = Conditions(schema, (one,)).matches(people)
    rest = Conditions(schema, (one.negated(),)).matches(people)
    assert np.array_equal(held, ~rest)
    twice = Conditions(schema, (one.negated().negated(),)).matches(people)
    assert np.array_equal(held, twice)


def test_several_conditions_are_joined_by_and(people: pd.DataFrame, schema: TableSchema) -> None:
    found = Conditions.parse(["age>=30", "age<50", "income=>50K", "age != 40"], schema)
    expected = people["age"].between(30, 49) & (people["income"] == ">50K") & (people["age"] != 40)
    assert np.array_equal(found.matches(people), expected)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("agee>=30", ["'agee'", "did you mean 'age'"]),
        ("zzz=1", ["'zzz'", "income in CHF"]),
        ("user_id=u00001", ["id column 'user_id'", "invented"]),
        ("state=TX", ["'state'", "'state=TX'", "unknown"]),
        ("state in (CA, TX)", ["'state'", "unknown"]),
        ("state >= CA", ["'state'", "categories", "no order"]),
        ("age >= old", ["'age'", "a number"]),
        ("age = nan", ["'age'", "a number"]),
        ("age = 1e999", ["'age'", "a number"]),
        ("seen > 3", ["'seen'", "a date"]),
        ("seen > 2024-13-01", ["'seen'", "a date"]),
        ("seen > 2024-01-01T00:00+02:00", ["'seen'", "a date"]),
        ("age in 40..20", ["'age'", "lower to its upper"]),
        ("age", ["must read like"]),
        ("age >=", ["must read like"]),
        ("", ["must read like"]),
        ("age is old", ["must read like"]),
        ("age in 30", ["must read like"]),
        ("state in ()", ["must read like"]),
        ("state in (CA", ["must read like"]),
        ("state in (CA,)", ["must read like"]),
        ("state in (CA) or 1=1", ["must read like"]),
        ("state = 'CA", ["must read like"]),
    ],
)
def test_a_wrong_condition_is_one_clear_error(
    schema: TableSchema, text: str, parts: list[str]
) -> None:
    with pytest.raises(ParameterError) as caught:
        Conditions.parse([text], schema)
    assert all(part in str(caught.value) for part in parts), caught.value
    # The categories of the model are real values: the message must not list them.
    assert "NY" not in str(caught.value)


def test_conditions_that_exclude_each_other_have_no_support(schema: TableSchema) -> None:
    with pytest.raises(NoSupport, match=r"'age>40' and 'age<30'"):
        Conditions.parse(["age>40", "income=>50K", "age<30"], schema)


@pytest.mark.parametrize("text", ["age > 100", "age = 30.5", "age is missing", "bmi > 1000"])
def test_what_the_model_cannot_hold_has_no_support(
    people: pd.DataFrame, schema: TableSchema, text: str
) -> None:
    codec = TableCodec.fit(people, schema)
    with pytest.raises(NoSupport, match=text):
        Conditions.parse([text], schema).cells(codec)


@settings(max_examples=60, deadline=None)
@given(
    low=st.floats(-200, 200),
    span=st.floats(0, 100),
    column=st.sampled_from(["age", "income in CHF"]),
)
def test_cells_hold_exactly_the_encoded_rows_that_match(
    people: pd.DataFrame, schema: TableSchema, low: float, span: float, column: str
) -> None:
    codec = TableCodec.fit(people, schema)
    found = Conditions.parse([f"{column} in {low!r}..{low + span!r}"], schema)
    encoded = codec.encode(people)
    try:
        cells = found.cells(codec)
    except NoSupport:
        assert not found.matches(people).any()
        return
    ((place, cell),) = cells.items()
    codes, values = encoded.codes[:, place], encoded.values[:, place]
    between = np.isfinite(values)
    held = cell.codes[codes] & (~between | cell.inside(values))
    assert np.array_equal(held, found.matches(people))
    for ends in cell.intervals:
        assert np.array_equal(codec.columns[place].snap(np.array(ends)), np.array(ends))
