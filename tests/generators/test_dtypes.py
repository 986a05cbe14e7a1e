"""Columns of every dtype come out as they went in."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import GENERATORS
from generators.dtypes import (
    dtype_name,
    exact_type,
    pandas_dtype,
    plain,
    plain_of_arrow,
)
from generators.encoding import ColumnCodec
from generators.schema import TableSchema, infer_column

N = 300
RNG = np.random.default_rng(0)
WHOLE = RNG.integers(0, 90, N)
REAL = RNG.normal(size=N).round(2)
FLAGS = RNG.random(N) < 0.3
GAPS = RNG.random(N) < 0.1
DAYS = [dt.date(2020, 1, 1) + dt.timedelta(days=int(i) * 7) for i in WHOLE]
MOMENTS = pd.Series(pd.to_datetime(DAYS)) + pd.to_timedelta(RNG.integers(0, 86_400, N), unit="s")
WORDS = np.array(["a", "b", "ü", "<x>"])[RNG.integers(0, 4, N)]
MONEY = [Decimal(round(value * 100)).scaleb(-2) for value in REAL]
SPANS = [dt.timedelta(seconds=int(i) * 61) for i in WHOLE]


def with_gaps(values: object) -> list[object]:
    return [None if gap else value for value, gap in zip(list(values), GAPS, strict=True)]  # type: ignore[call-overload]


def arrow(values: object, kind: pa.DataType) -> pd.Series:
    return pd.Series(with_gaps(values), dtype=pd.ArrowDtype(kind))


PLAIN_INTS = [int(i) for i in WHOLE]
ZONED = MOMENTS.dt.tz_localize("UTC").dt.tz_convert("Europe/Berlin")
SERIES = {
    **{name: pd.Series(with_gaps(WHOLE), dtype=name) for name in ("Int64", "Int8", "UInt16")},
    **{name: pd.Series(WHOLE, dtype=name) for name in ("int8", "uint16", "int64")},
    **{name: pd.Series(with_gaps(REAL), dtype=name) for name in ("Float64", "Float32", "float32")},
    "boolean": pd.Series(with_gaps(FLAGS), dtype="boolean"),
    "bool": pd.Series(FLAGS),
    "string": pd.Series(with_gaps(WORDS), dtype="string"),
    "string of pyarrow": pd.Series(with_gaps(WORDS), dtype="string[pyarrow]"),
    "object": pd.Series(with_gaps(WORDS), dtype=object),
    "category": pd.Series(with_gaps(WORDS), dtype="category"),
    "category of int": pd.Series(WHOLE % 5).astype("category"),
    "ordered": pd.Series(pd.Categorical(WORDS, categories=["ü", "b", "a", "<x>"], ordered=True)),
    "datetime64[s]": MOMENTS.astype("datetime64[s]"),
    "datetime64[ns]": MOMENTS.astype("datetime64[ns]"),
    "datetime64 of a zone": ZONED,
    "timedelta64": pd.Series(pd.to_timedelta(SPANS)),
    "period": pd.Series(pd.PeriodIndex(DAYS, freq="M")),
    "dates": pd.Series(with_gaps(DAYS), dtype=object),
    "decimals": pd.Series(with_gaps(MONEY), dtype=object),
    "times": pd.Series(with_gaps(MOMENTS.dt.time), dtype=object),
    "arrow int": arrow(PLAIN_INTS, pa.int64()),
    "arrow uint8": arrow(PLAIN_INTS, pa.uint8()),
    "arrow double": arrow(REAL, pa.float64()),
    "arrow bool": arrow([bool(flag) for flag in FLAGS], pa.bool_()),
    "arrow string": arrow(WORDS, pa.string()),
    "arrow date": arrow(DAYS, pa.date32()),
    "arrow timestamp": arrow(MOMENTS, pa.timestamp("us")),
    "arrow zone": arrow(ZONED, pa.timestamp("us", "Europe/Berlin")),
    "arrow decimal": arrow(MONEY, pa.decimal128(10, 2)),
    "arrow time": arrow(MOMENTS.dt.time, pa.time64("us")),
    "arrow duration": arrow(SPANS, pa.duration("s")),
    "arrow dictionary": pd.Series(
        pd.array(
            pa.array(WORDS).dictionary_encode(),
            dtype=pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())),
        )
    ),
}


@pytest.mark.parametrize("name", SERIES)
def test_a_column_survives_its_codec(name: str) -> None:
    series = SERIES[name]
    column = infer_column("c", series)
    assert column.modelled
    if not isinstance(series.dtype, pd.CategoricalDtype):
        assert pandas_dtype(column.dtype) == series.dtype
    codec = ColumnCodec.fit(series, column)
    codec = ColumnCodec.from_json(json.loads(json.dumps(codec.to_json())))
    pd.testing.assert_series_equal(codec.decode(*codec.encode(series)), series, check_names=False)


@pytest.mark.parametrize(
    "family", ["independent", "forest", "autoregressive", "table-diffusion", "tvae"]
)
def test_a_sample_has_the_dtypes_and_the_types_of_cells(family: str) -> None:
    frame = pd.DataFrame(SERIES)
    schema = TableSchema.infer(frame)
    settings = {"epochs": 2} if family not in ("independent", "forest") else {}
    drawn = GENERATORS[family].from_parameters(settings).fit(frame, schema).sample(500, seed=1)
    assert isinstance(drawn, pd.DataFrame)
    pd.testing.assert_series_equal(drawn.dtypes, frame.dtypes)
    for name in ("dates", "decimals", "times"):
        kinds = {type(cell) for cell in drawn[name].dropna()}
        assert kinds == {type(cell) for cell in frame[name].dropna()}
    assert {cell.as_tuple().exponent for cell in drawn["decimals"].dropna()} == {-2}


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("cells", [[f"person {i}" for i in range(N)], list(range(N))], ids=type)
def test_ids_that_are_categories_get_surrogates(cells: list[object], ordered: bool) -> None:
    frame = pd.DataFrame({"who": pd.Categorical(cells, ordered=ordered), "real": REAL})
    schema = TableSchema.infer(frame, kinds={"who": "id"})
    made = GENERATORS["independent"]().fit(frame, schema).sample(20_000, seed=0)["who"]
    assert made.is_unique
    assert made.notna().all()
    assert isinstance(made[0], str) == isinstance(cells[0], str)


def test_an_unused_category_is_forgotten() -> None:
    series = pd.Series(
        pd.Categorical(["b", "a"] * 9, categories=["b", "secret", "a"], ordered=True)
    )
    assert infer_column("c", series).levels == ("b", "a")


@pytest.mark.parametrize(
    ("cells", "held"),
    [([b"1", b"2"], "bytes"), ([1j, 2j], "complex"), ([[1], [2]], "lists"), ([{}, {}], "lists")],
)
def test_cells_that_are_no_values_are_refused_without_naming_them(
    cells: list[object], held: str
) -> None:
    with pytest.raises(ValueError, match=f"'c' must hold numbers.*{held}"):
        TableSchema.infer(pd.DataFrame({"c": cells}))


@pytest.mark.parametrize("dtype", ["int64", "uint64", "UInt64", "int8"])
def test_whole_numbers_at_the_end_of_their_range_do_not_wrap(dtype: str) -> None:
    limits = np.iinfo(dtype.lower())
    series = pd.Series([limits.min, limits.max] * 3, dtype=dtype)
    column = infer_column("c", series, "numerical")
    codec = ColumnCodec(column, (), missing=False, continuous=True)
    back = codec.decode(*codec.encode(series))
    assert back.dtype == series.dtype
    assert (back.astype("float64") == series.astype("float64")).all() or dtype != "int8"
    assert float(back.max()) > 0.99 * limits.max
    assert float(back.min()) <= 0.99 * limits.min


TYPES = [
    pa.int8(),
    pa.uint32(),
    pa.float32(),
    pa.date32(),
    pa.date64(),
    pa.time32("s"),
    pa.time64("us"),
    pa.duration("ms"),
    pa.decimal128(9, 3),
    pa.decimal128(18, 0),
    pa.timestamp("us", "America/Lima"),
]
TOLD = {"date64[ms]": "date32[day]", "time32[s]": "time64[us]", "duration[ms]": "duration[us]"}


@given(st.sampled_from(TYPES), st.lists(st.one_of(st.none(), st.integers(0, 100)), min_size=1))
def test_the_type_of_a_source_is_told(kind: pa.DataType, cells: list[int | None]) -> None:
    if pa.types.is_decimal(kind):
        part = 8 if kind.scale else 1
        exact = [None if cell is None else Decimal(cell) / part for cell in cells]
        column = pa.chunked_array([pa.array(exact, kind)])
    else:
        storage = pa.int64() if kind.bit_width == 64 else pa.int32()
        column = pa.chunked_array([pa.array(cells, storage)]).cast(kind)
    assert exact_type(column) == TOLD.get(str(kind), str(kind))
    assert len(plain_of_arrow(column)) == len(cells)


def test_a_type_that_the_inside_cannot_hold_is_not_told() -> None:
    fine = pa.chunked_array([pa.array([Decimal("0.1234567890123456789")])])
    assert exact_type(fine) == ""
    assert exact_type(pa.chunked_array([pa.array([2**64 - 1], pa.uint64())])) == ""
    assert exact_type(pa.chunked_array([pa.array([1], pa.int64())])) == ""


def test_what_is_plain_stays_the_same_object() -> None:
    for series in (pd.Series([1, 2]), pd.Series(["a", None]), pd.Series([1.5]), MOMENTS):
        assert plain(series) is series
        assert dtype_name(series) == str(series.dtype)
