"""Rows of a declared schema: constraints, keys, patterns, two tables, and no real data at all."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.base import DataError, ParameterError
from pipelines.publication.log import resolve
from pipelines.publication.verify import verify
from pipelines.requests import Client, RequestError, parse_request
from pipelines.requests.declaration import TableDeclaration, compared
from pipelines.requests.invention import Table
from pipelines.requests.patterns import Pattern

PEOPLE: dict[str, Any] = {
    "primary_key": "id",
    "columns": {
        "id": {"kind": "id"},
        "code": {"kind": "text", "pattern": r"[A-Z]{2}-\d{4}(x|y)?", "unique": True},
        "email": {"kind": "text", "faker": "safe_email"},
        "age": {"kind": "integer", "min": 18, "max": 90, "mean": 40, "sd": 15},
        "price": {"kind": "number", "min": 0, "max": 100, "decimals": 2, "null_share": 0.1},
        "start": {"kind": "date", "min": "2020-01-01", "max": "2022-01-01"},
        "end": {"kind": "date", "min": "2020-01-01", "max": "2023-01-01", "null_share": 0.2},
        "state": {"kind": "category", "categories": {"open": 3, "closed": 1}},
        "rank": {"kind": "category", "categories": [1, 2, 3]},
        "ok": {"kind": "boolean", "true_share": 0.3},
    },
    "constraints": ["start <= end", {"when": "state = closed", "then": "end is not missing"}],
}


def request(source: dict[str, Any], rows: int = 500, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "likeness/v1",
        "kind": "DataRequest",
        "metadata": {"name": "people"},
        "spec": {"source": source, "rows": rows, **spec},
    }


def table(**columns: Any) -> Table:
    return Table(TableDeclaration.model_validate({"columns": columns}))


def test_a_schema_alone_becomes_a_published_version(tmp_path: Path) -> None:
    client = Client(tmp_path / "home")
    raw = request(
        {"schema": PEOPLE}, splits={"train": 0.8, "test": 0.2}, edge_cases={"boundary": ["age"]},
        preview=5,
    )  # fmt: skip
    status = client.run(client.submit(raw).id)
    assert status.state == "PUBLISHED", status.message
    frame = client.read(status.id)
    rows = frame[frame["_likeness_case"].isna()]
    assert len(rows) == 500
    assert rows["id"].is_unique
    assert rows["code"].is_unique
    assert rows["code"].map(lambda text: bool(re.fullmatch(r"[A-Z]{2}-\d{4}(x|y)?", text))).all()
    assert rows["age"].between(18, 90).all()
    assert rows["price"].isna().sum() == 50
    ended = rows.dropna(subset="end")
    assert (ended["start"] <= ended["end"]).all()
    assert rows.loc[rows["state"] == "closed", "end"].notna().all()
    version = resolve(client.home.lake, "people")
    card = (version.path / "README.md").read_text()
    assert "no real data were used" in card
    assert version.manifest().tags["source"] == "schema-only"
    assert verify(client.home.lake, "people").passed
    assert not [p for p in client.home.vault.rglob("*") if p.name in ("real", "models")]
    assert client.submit(raw).state == "PUBLISHED"
    assert len(pd.read_parquet(str(status.preview))) == 5


def test_two_tables_keep_their_keys_and_the_shares_of_children(tmp_path: Path) -> None:
    tables = {
        "orders": {
            "columns": {
                "id": {"kind": "id"},
                "customer": {"kind": "id"},
                "total": {"kind": "number", "min": 0, "max": 9},
            }
        },
        "customers": {
            "primary_key": "id",
            "columns": {"id": {"kind": "id", "pattern": "C[0-9]{6}"}, "vip": {"kind": "boolean"}},
        },
    }
    key = {"child": "orders.customer", "parent": "customers.id"}
    source = {"tables": tables, "keys": [{**key, "per_parent": {0: 0.2, 1: 0.5, 4: 0.3}}]}
    client = Client(tmp_path / "home")
    status = client.run(client.submit(request(source, rows=100)).id)
    assert status.versions == ("people.customers@1", "people.orders@1"), status.message
    orders, customers = (client.read(status.id, f"people.{n}") for n in ("orders", "customers"))
    assert len(customers) == 100
    assert orders["customer"].isin(customers["id"]).all()
    children = orders["customer"].value_counts().reindex(customers["id"], fill_value=0)
    assert children.value_counts().to_dict() == {1: 50, 4: 30, 0: 20}
    with pytest.raises(RequestError, match="per_parent"):
        parse_request(request({"tables": tables, "keys": [key]}))


def test_the_same_seed_gives_the_same_rows_and_a_new_column_changes_no_other() -> None:
    columns = {
        "a": {"kind": "integer", "min": 0, "max": 9},
        "b": {"kind": "text", "faker": "name"},
    }
    first = table(**columns).rows(200, 7)
    pd.testing.assert_frame_equal(first, table(**columns).rows(200, 7))
    more = table(**columns, c={"kind": "boolean"}).rows(200, 7)
    pd.testing.assert_frame_equal(first, more[["a", "b"]])
    assert not first.equals(table(**columns).rows(200, 8))


def test_a_cut_normal_has_the_mean_of_its_closed_form() -> None:
    """Truncated normal: mean + sd (φ(a) − φ(b)) / (Φ(b) − Φ(a)); Johnson, Kotz 1970, ch. 13."""
    from scipy import stats

    drawn = table(x={"kind": "number", "min": 0, "max": 50, "mean": 10, "sd": 10}).rows(40_000, 1)
    expected = stats.truncnorm(-1, 4, loc=10, scale=10)
    assert drawn["x"].mean() == pytest.approx(expected.mean(), abs=4 * expected.std() / 200)
    assert stats.kstest(drawn["x"], expected.cdf).pvalue > 1e-4


def test_weights_and_uniform_ranges_are_met() -> None:
    from scipy import stats

    made = table(
        c={"kind": "category", "categories": {"a": 8, "b": 1, "never": 0}},
        n={"kind": "integer", "min": -3, "max": 3},
    ).rows(20_000, 3)
    assert set(made["c"]) == {"a", "b"}
    assert stats.binomtest(int((made["c"] == "a").sum()), 20_000, 8 / 9).pvalue > 1e-4
    assert stats.chisquare(made["n"].value_counts()).pvalue > 1e-4
    assert set(made["n"]) == set(range(-3, 4))


def test_what_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="as many values as rows"):
        table(x={"kind": "integer", "min": 1, "max": 9, "unique": True}).rows(10, 0)
    impossible = TableDeclaration.model_validate(
        {
            "columns": {
                "a": {"kind": "integer", "min": 5, "max": 9},
                "b": {"kind": "integer", "min": 0, "max": 4},
            },
            "constraints": ["a < b"],
        }
    )
    with pytest.raises(DataError, match="constraints"):
        Table(impossible).rows(10, 0)
    client = Client(tmp_path / "home")
    wrong = {
        "columns": {
            "a": {"kind": "text", "pattern": "(?=x)"},
            "b": {"kind": "text", "faker": "no_such_provider"},
            "c": {"kind": "integer", "min": 0, "max": 1},
        },
        "constraints": [{"when": "c = x", "then": "d > 1"}],
    }
    status = client.status(client.submit(request({"schema": wrong})).id)
    assert status.state == "REJECTED"
    fields = {problem.field.removeprefix("spec.source.schema.") for problem in status.problems}
    assert fields == {"columns.a", "columns.b", "constraints.0.when", "constraints.0.then"}


@pytest.mark.parametrize(
    "column",
    [
        {"kind": "integer", "min": 3},
        {"kind": "integer", "min": 3, "max": 1},
        {"kind": "integer", "min": 0.5, "max": 1},
        {"kind": "date", "min": 1, "max": 2},
        {"kind": "category"},
        {"kind": "category", "categories": ["a", "a"]},
        {"kind": "category", "categories": {"a": 0}},
        {"kind": "text"},
        {"kind": "text", "pattern": "a", "faker": "name"},
        {"kind": "boolean", "min": 0, "max": 1},
        {"kind": "number", "min": 0, "max": 1, "mean": 0.5},
        {"kind": "number", "min": 0, "max": float("inf")},
        {"kind": "number", "min": float("-inf"), "max": 1},
    ],
)
def test_a_column_that_contradicts_itself_is_refused(column: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        parse_request(request({"schema": {"columns": {"x": column}}}))


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(
        ["[a-f0-9]{8}", r"\d{3}-\w+", "(foo|bar)+", "[^a-z]{3}", "x{0,2}y?z*", r"^\+\d{1,3} \S+$",
         ".", r"[\d\s]{4}", "(a(b|c){2}){2,3}", "[Α-Ω]{4}", r"\bab?\b", "(a?|bc)c{2,}$",
         "(?i)ab[^c]x", "(a|ab)(c|bcd)(d*)"]
    ),
    st.integers(0, 2**32),
)  # fmt: skip
def test_a_drawn_text_matches_its_pattern(pattern: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = Pattern(pattern).draw(rng)
    assert re.fullmatch(pattern, drawn)
    cut, other = drawn[: rng.integers(len(drawn) + 1)], "".join(rng.permutation(list(drawn)))
    for text in (drawn, cut, other, drawn + "\n", drawn * 2, "٣" + drawn, ""):
        assert Pattern(pattern).matches(text) == (re.fullmatch(pattern, text) is not None)


@pytest.mark.parametrize(
    "pattern",
    ["(", "a{2000}", "(a{999}){999}", r"(a)\1", "(?=a)b", "a{9,2}", "(){4000000000}"],
)
def test_a_pattern_that_cannot_be_drawn_is_refused(pattern: str) -> None:
    with pytest.raises(ParameterError):
        Pattern(pattern)


@pytest.mark.parametrize(
    ("constraint", "read"),
    [
        ("start <= end", ("start", "<=", "end")),
        ("`a b`>`c`", ("a b", ">", "c")),
        ("a!=b", ("a", "!=", "b")),
    ],
)
def test_a_constraint_names_two_columns(constraint: str, read: tuple[str, str, str]) -> None:
    assert compared(constraint) == read


@pytest.mark.parametrize("constraint", ["a", "a <", "< b", "<=", "a" + " " * 998 + "b"])
def test_what_compares_no_two_columns_is_refused(constraint: str) -> None:
    with pytest.raises(ValueError, match="must read like"):
        compared(constraint)


@pytest.mark.parametrize("pattern", ["(a|b?|a?){36}c?(a|a){36}b", "(a?){60}a{60}", "((a*)*)*b"])
def test_no_pattern_makes_its_check_long(pattern: str) -> None:
    """Where ``re`` tries all ways one after the other, it takes longer than anybody waits."""
    parsed = Pattern(pattern)
    drawn = [parsed.draw(np.random.default_rng(seed)) for seed in range(5)]
    assert all(parsed.matches(text) for text in drawn)
    assert not any(parsed.matches(text + "!") for text in drawn)
