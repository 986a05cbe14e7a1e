"""What is inferred of a table, and that a schema survives JSON."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import ImageSchema, TableSchema
from generators.schema import infer_column, infer_step, schema_from_json, to_numbers

EXPECTED = {
    "customer_id": "id",
    "comment": "text",
    "age": "numerical",
    "income": "numerical",
    "score": "numerical",
    "debt": "numerical",
    "visits": "numerical",
    "joined": "datetime",
    "seen": "datetime",
    "member": "boolean",
    "opted": "boolean",
    "city": "categorical",
    "country": "categorical",
    "grade": "categorical",
    "constant": "categorical",
    "nothing": "categorical",
    "unknown": "numerical",
    "bought": "categorical",
}


def test_kinds_of_the_toy_table(toy_schema: TableSchema) -> None:
    assert {column.name: column.kind for column in toy_schema.columns} == EXPECTED


def test_ranges_grids_and_gaps(toy_table: pd.DataFrame, toy_schema: TableSchema) -> None:
    assert toy_schema["age"].low == toy_table["age"].min()
    assert toy_schema["age"].high == toy_table["age"].max()
    assert toy_schema["age"].step == 1
    assert toy_schema["income"].step == 0.01
    assert toy_schema["debt"].step == 0.1
    assert toy_schema["score"].step is None
    assert toy_schema["joined"].step == 86_400_000_000
    nullable = {column.name for column in toy_schema.columns if column.nullable}
    assert nullable == {name for name in toy_table if toy_table[name].isna().any()}
    assert toy_schema["city"].levels == ("Bern", "Oslo", "Rome")
    assert toy_schema["nothing"].levels == ()


def test_json_keeps_the_schema(toy_schema: TableSchema) -> None:
    assert schema_from_json(toy_schema.to_json()) == toy_schema
    images = ImageSchema(height=8, width=9, channels=3, classes=("a", "b"))
    assert schema_from_json(images.to_json()) == images


def test_an_unknown_kind_of_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="table"):
        schema_from_json('{"audio": {}}')


def test_the_owner_decides_on_the_kind(toy_table: pd.DataFrame) -> None:
    schema = TableSchema.infer(toy_table, kinds={"age": "categorical"})
    assert schema["age"].kind == "categorical"
    with pytest.raises(ValueError, match="numeric"):
        TableSchema.infer(toy_table, kinds={"age": "numeric"})


def test_ids_and_text_are_not_modelled(toy_schema: TableSchema) -> None:
    names = {column.name for column in toy_schema.modelled}
    assert names == set(toy_schema.names) - {"customer_id", "comment"}


def test_an_unknown_column_is_a_key_error(toy_schema: TableSchema) -> None:
    with pytest.raises(KeyError):
        toy_schema["absent"]


def test_the_input_is_not_modified(toy_table: pd.DataFrame) -> None:
    before = toy_table.copy(deep=True)
    TableSchema.infer(toy_table)
    pd.testing.assert_frame_equal(toy_table, before)


@settings(deadline=None, max_examples=50)
@given(
    whole=st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=50),
    decimals=st.integers(0, 6),
)
def test_the_step_is_a_grid_that_holds_all_values(whole: list[int], decimals: int) -> None:
    numbers = np.array(whole) / 10.0**decimals
    step = infer_step(numbers, "numerical")
    assert step is not None
    assert step >= 10.0**-decimals
    assert np.allclose(numbers / step, np.round(numbers / step), rtol=0, atol=1e-6)


def test_datetimes_are_microseconds_of_utc() -> None:
    stamps = pd.Series(pd.to_datetime(["1970-01-01 01:00:00.000001", None])).dt.tz_localize(
        "Europe/Berlin"
    )
    np.testing.assert_array_equal(to_numbers(stamps), [1.0, np.nan])


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0, 1] * 40, "categorical"),
        (list(range(80)), "id"),
        ([number**2 for number in range(80)], "numerical"),
        ([f"u{number}" for number in range(80)], "text"),
        (["red", "blue"] * 40, "categorical"),
    ],
)
def test_kind_by_values(values: list[object], kind: str) -> None:
    assert infer_column("colour", pd.Series(values)).kind == kind


def test_an_empty_frame_has_the_dtypes(toy_table: pd.DataFrame, toy_schema: TableSchema) -> None:
    empty = toy_schema.empty_frame()
    assert len(empty) == 0
    assert [str(dtype) for dtype in empty.dtypes] == [str(dtype) for dtype in toy_table.dtypes]
