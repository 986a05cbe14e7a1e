"""What can be asked: all problems at once, each with its field; the published JSON Schema."""

import contextlib
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.conditions import Conditions
from generators.schema import Column, TableSchema
from pipelines.requests.model import (
    SCHEMA_FILE,
    DataRequest,
    RequestError,
    StructuredCondition,
    json_schema,
    parse_request,
    request_key,
    schema_text,
)

WHOLE: dict[str, Any] = {
    "apiVersion": "likeness/v1",
    "kind": "DataRequest",
    "metadata": {"name": "adult-test", "owner": "team-risk", "labels": {"env": "ci"}},
    "spec": {
        "source": {"dataset": "adult", "version": 3},
        "generator": {"use": "forest", "parameters": {"min_leaf": 50}},
        "rows": 500,
        "splits": {"train": 0.8, "test": 0.2},
        "columns": {"exclude": ["fnlwgt"], "rename": {"sex": "gender"}},
        "where": ["age >= 30", {"column": "age", "op": "between", "value": [18, 60]}],
        "balance": {"column": "income", "probabilities": {">50K": 0.5}},
        "edge_cases": {"null_rate": {"age": 0.02}, "unicode": True},
        "pii": {"policy": "mask", "locale": "de_DE", "columns": {"email": "drop"}},
        "privacy": {"level": "strict", "k": 20},
        "acceptance": {"fidelity-detection": {"max": 0.1}},
        "output": {"formats": ["parquet", "csv"]},
        "lifecycle": {"expires": "90d", "on_expiry": "purge"},
        "preview": 20,
    },
}


def changed(**spec: Any) -> dict[str, Any]:
    return {**WHOLE, "spec": {**WHOLE["spec"], **spec}}


def test_the_published_schema_is_the_models_and_judges_as_it_does() -> None:
    assert SCHEMA_FILE.read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft202012Validator.check_schema(json_schema())
    jsonschema.validate(WHOLE, json_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(rows=0), json_schema())


def test_a_request_comes_back_from_yaml_and_json() -> None:
    request = parse_request(WHOLE)
    assert parse_request(request.to_yaml()) == request
    assert parse_request(json.dumps(WHOLE)) == request


def test_all_problems_are_told_at_once_each_with_its_field() -> None:
    wrong = changed(
        rows=-1, splits={"train": 0.5}, seed="x", generators={}, where=[{"column": "a"}]
    )
    wrong["metadata"] = {"name": "../etc"}
    wrong["kind"] = "Wish"
    with pytest.raises(RequestError) as caught:
        parse_request(wrong)
    fields = {problem.field for problem in caught.value.problems}
    assert {"kind", "metadata.name", "spec.rows", "spec.splits", "spec.seed"} <= fields
    assert {"spec.generators"} <= fields
    assert any(field.startswith("spec.where.0") for field in fields)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"scale": 0.5}, "spec"),
        ({"quotas": ["income = x:0.5"]}, "spec"),
        ({"balance": {"column": "a", "probabilities": {"x": 0.7, "y": 0.7}}}, "spec.balance"),
        ({"source": {"dataset": "a", "schema": {"columns": {"x": {"kind": "id"}}}}}, "spec.source"),
        ({"source": {}}, "spec.source"),
        ({"source": {"dataset": "a", "version": 1, "max_age": "1d"}}, "spec.source"),
        ({"edge_cases": {"null_rate": {"a": 0.4}, "duplicates": 0.2}}, "spec.edge_cases"),
        ({"lifecycle": {"expires": "soon"}}, "spec.lifecycle.expires"),
        ({"columns": {"include": ["a"], "exclude": ["b"]}}, "spec.columns"),
        ({"pii": {"columns": {"email": "keep"}}}, "spec.pii.columns.email"),
        ({"acceptance": {"x": {}}}, "spec.acceptance.x"),
        ({"delivery": {"notify": ["https://x"]}}, "spec.delivery.notify.0"),
        ({"preview": 10_000}, "spec.preview"),
    ],
)
def test_what_contradicts_itself_is_refused(spec: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(changed(**spec))
    assert field in {problem.field for problem in caught.value.problems}


def test_no_message_quotes_a_value() -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(changed(rows="zanzibar-7e1c", seed="zanzibar-7e1c"))
    assert "zanzibar" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- 1",
        "a: [",
        "\x00",
        "a: &x [1]\nb: *x",
        "x" * 1_000_001,
        b"\xff\xfe",
        "!!python/object:a",
        # Read as the tag says, each of these breaks the reader with another exception.
        *(f"rows: {text}" for text in ('!!int ""', "!!timestamp x", "!!bool x", '!!float ""')),
        # A number to the base of 60, beyond what a float holds.
        "rows: 1" + ":1" * 200 + ".5",
    ],
)
def test_what_is_no_mapping_is_one_problem(text: str | bytes) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request(text)
    assert [problem.field for problem in caught.value.problems] == ["request"]


def test_a_password_is_refused() -> None:
    wrong = {**WHOLE, "metadata": {"name": "a", "purpose": "postgres://me:secret@host/db"}}
    with pytest.raises(RequestError, match="password"):
        parse_request(wrong)


def test_a_long_text_is_checked_in_time_that_grows_with_its_length() -> None:
    """A search that tries every sign anew would take an hour for this."""
    long = {**WHOLE["spec"]["generator"], "parameters": {"text": "a" * 900_000}}
    assert parse_request(changed(generator=long)).spec.generator.use == "forest"


def test_the_key_follows_what_decides_and_nothing_else() -> None:
    request = parse_request(WHOLE)
    key = request_key(request, "data")
    same = {**changed(preview=5, lifecycle={}), "metadata": {**WHOLE["metadata"], "purpose": "p"}}
    assert request_key(parse_request(same), "data") == key
    assert request_key(request, "other data") != key
    assert request_key(parse_request(changed(rows=501)), "data") != key
    renamed = {**WHOLE, "metadata": {"name": "other"}}
    assert request_key(parse_request(renamed), "data") != key


SCHEMA = TableSchema(
    (
        Column("age", "numerical", "int64", low=0, high=99, step=1),
        Column("job title", "categorical", "object", levels=("it's", "a, b", "c")),
    )
)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"column": "age", "op": ">=", "value": 30}, "age >= 30"),
        ({"column": "age", "op": "between", "value": [18, 30]}, "age in 18..30"),
        ({"column": "age", "op": "in", "value": [1, 2]}, "age in (1, 2)"),
        ({"column": "job title", "op": "=", "value": "it's"}, "`job title` = 'it''s'"),
        ({"column": "job title", "op": "not in", "value": ["a, b"]}, "`job title` not in ('a, b')"),
        ({"column": "age", "op": "is missing"}, "age is missing"),
    ],
)
def test_a_condition_in_fields_means_the_same_as_its_text(fields: Any, text: str) -> None:
    made = StructuredCondition.model_validate(fields).text
    assert Conditions.parse([made], SCHEMA).allowed == Conditions.parse([text], SCHEMA).allowed


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from([*WHOLE, *WHOLE["spec"], "name", "dataset"]), inner)
        ),
        max_leaves=12,
    )
)
def test_nothing_but_a_request_error_comes_of_nonsense(spec: Any) -> None:
    for raw in (changed(source=spec), {**WHOLE, "spec": spec}, {**WHOLE, "metadata": spec}):
        with contextlib.suppress(RequestError):
            found = parse_request(raw)
            assert isinstance(found, DataRequest)
            assert parse_request(found.to_yaml()) == found
