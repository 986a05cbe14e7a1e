"""Codecs: a table survives encoding, and what comes back is in the column's domain."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.pandas import column, data_frames, range_indexes

from generators import TableSchema
from generators.base import DataError, SchemaError
from generators.encoding import MAX_ATOMS, ColumnCodec, TableCodec, surrogate
from generators.schema import infer_column

MODELLED = ("numerical", "categorical", "boolean", "datetime")


def codec_of(series: pd.Series, kind: str | None = None) -> ColumnCodec:
    return ColumnCodec.fit(series, infer_column("x", series, kind))


def round_trip(series: pd.Series, kind: str | None = None) -> pd.Series:
    codec = codec_of(series, kind)
    return codec.decode(*codec.encode(series))


def test_a_table_of_all_kinds_survives(toy_table: pd.DataFrame, toy_schema: TableSchema) -> None:
    codec = TableCodec.fit(toy_table, toy_schema)
    back = codec.decode(codec.encode(toy_table))
    names = [c.name for c in toy_schema.modelled]
    # An object column may hold None or NaN for missing; both mean the same.
    alike = toy_table[names].astype({"city": "string", "nothing": "string"})
    pd.testing.assert_frame_equal(
        back[names].astype({"city": "string", "nothing": "string"}), alike
    )
    assert list(back.columns) == list(toy_table.columns)


def test_json_keeps_the_codec(toy_table: pd.DataFrame, toy_schema: TableSchema) -> None:
    codec = TableCodec.fit(toy_table, toy_schema)
    again = TableCodec.from_json(toy_schema, json.loads(json.dumps(codec.to_json())))
    assert again == codec
    encoded, same = codec.encode(toy_table), again.encode(toy_table)
    np.testing.assert_array_equal(encoded.codes, same.codes)
    np.testing.assert_array_equal(encoded.values, same.values)


@settings(deadline=None, max_examples=40)
@given(
    frame=data_frames(
        columns=[
            column("i", elements=st.integers(-(2**31), 2**31), dtype="int64"),
            column("f", elements=st.floats(-1e9, 1e9, width=64) | st.just(np.nan), dtype="float64"),
            column("c", elements=st.sampled_from(["a", "b", "", "é", None]), dtype=object),
            column("b", elements=st.booleans(), dtype=bool),
        ],
        index=range_indexes(min_size=2, max_size=40),
    )
)
def test_any_table_survives(frame: pd.DataFrame) -> None:
    kinds = {"i": "numerical", "f": "numerical", "c": "categorical"}
    schema = TableSchema.infer(frame, kinds=kinds)
    codec = TableCodec.fit(frame, schema)
    back = codec.decode(codec.encode(frame))
    pd.testing.assert_frame_equal(back, frame, check_exact=False, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=40)
@given(cents=st.lists(st.integers(-10_000, 10_000), min_size=2, max_size=60))
def test_decimals_come_back_exactly(cents: list[int]) -> None:
    series = pd.Series([f"{cent / 100:.2f}" for cent in cents]).astype(float)
    pd.testing.assert_series_equal(round_trip(series, "numerical"), series)


@settings(deadline=None, max_examples=40)
@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30),
    tenths=st.lists(st.integers(0, 1000), min_size=2, max_size=30),
)
def test_snapped_values_lie_on_the_grid_and_in_range(
    values: list[float], tenths: list[int]
) -> None:
    codec = codec_of(pd.Series(tenths) / 10, "numerical")
    snapped = codec.snap(np.array(values))
    assert codec.column.low is not None
    assert codec.column.high is not None
    assert snapped.min() >= codec.column.low
    assert snapped.max() <= codec.column.high
    assert np.array_equal(np.round(snapped, 1), snapped)
    assert np.array_equal(codec.snap(snapped), snapped)


def test_a_spike_is_an_atom_and_the_rest_is_continuous() -> None:
    rng = np.random.default_rng(0)
    series = pd.Series(np.where(rng.random(2000) < 0.5, 0.0, rng.normal(5, 1, 2000)))
    codec = codec_of(series)
    assert codec.levels == (0.0,)
    assert codec.continuous
    codes, values = codec.encode(series)
    assert ((codes == 0) == (series == 0)).all()
    assert np.isnan(values[codes == 0]).all()
    assert np.array_equal(values[codes == 1], series[series != 0])


def test_few_repeated_values_are_all_atoms_and_single_ones_are_none() -> None:
    repeated = pd.Series(np.repeat(np.arange(20), 10))
    assert not codec_of(repeated).continuous
    assert len(codec_of(repeated).levels) == 20
    single = codec_of(pd.Series(np.arange(20.0) + 0.5))
    assert single.levels == ()
    assert single.continuous
    many = pd.Series(np.repeat(np.arange(MAX_ATOMS + 1), 6))
    assert codec_of(many, "numerical").continuous


def test_values_not_seen_in_fit_become_the_nearest_atom_or_continuous() -> None:
    atoms = codec_of(pd.Series(np.repeat([0.0, 10.0, 20.0], 10)))
    codes, _ = atoms.encode(pd.Series([-5.0, 4.9, 5.1, 99.0]))
    assert codes.tolist() == [0, 0, 1, 2]
    category = codec_of(pd.Series(["a", "b", "a"], dtype=object))
    assert category.encode(pd.Series(["b", "zz"], dtype=object))[0].tolist() == [1, -1]


def test_levels_outside_the_schema_are_refused_without_naming_them() -> None:
    described = infer_column("city", pd.Series(["Bern", "Oslo"], dtype=object))
    with pytest.raises(SchemaError, match=r"city.* 1 .*") as caught:
        ColumnCodec.fit(pd.Series(["Bern", "Secretville"], dtype=object), described)
    assert "Secretville" not in str(caught.value)


def test_infinite_values_are_refused() -> None:
    series = pd.Series([1.0, np.inf, 2.5, -np.inf])
    with pytest.raises(DataError, match=r"x.* 2 "):
        codec_of(series)


def test_time_zones_and_precision_survive() -> None:
    stamps = pd.Series(pd.date_range("2021-03-27", periods=60, freq="37min", tz="Europe/Berlin"))
    pd.testing.assert_series_equal(round_trip(stamps), stamps)
    seconds = stamps.dt.tz_localize(None).astype("datetime64[s]")
    pd.testing.assert_series_equal(round_trip(seconds), seconds)


@pytest.mark.parametrize("dtype", ["int64", "object", "string", "Int64", "float64"])
def test_surrogates_are_unique_and_continue(dtype: str) -> None:
    described = infer_column("key", pd.Series([1, 2]).astype(dtype), "id")
    first, second = surrogate(described, 5, 0), surrogate(described, 5, 5)
    assert pd.concat([first, second]).is_unique
    assert str(first.dtype) == dtype
