"""Types of columns: the few that the inside works on, and all that a table may come and go in.

Inside, a column is *plain*: a NumPy or pandas number, boolean or ``datetime64``, or text as
objects. Dates, decimals, times of day and durations, be they objects of Python or of an Arrow
type, are made plain on the way in (a date is its midnight; a time and a duration are seconds) and
are restored on the way out. A *dtype name* says what to restore: what pandas prints, where that is
unambiguous; ``string:pyarrow``, ``category:ordered`` and ``object:TYPE`` (the Python objects of an
Arrow type) where it is not.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

_OBJECT, _ARROW = "object:", "[pyarrow]"
_TEXT_OF_ARROW, _TEXT = "string:pyarrow", "string"
ORDERED = "category:ordered"
"""The dtype name of a category whose levels have an order."""
_DECIMAL = re.compile(r"decimal(?:32|64|128|256)\((\d+), (-?\d+)\)")
_ZONED = re.compile(r"timestamp\[(s|ms|us|ns), tz=(.+)\]")


def dtype_name(series: pd.Series) -> str:
    """The name of the dtype of ``series``; ``restored`` takes it."""
    dtype = series.dtype
    if isinstance(dtype, pd.StringDtype):
        return _TEXT if dtype.storage == "python" else _TEXT_OF_ARROW
    if isinstance(dtype, pd.CategoricalDtype) and dtype.ordered:
        return ORDERED
    if isinstance(dtype, pd.ArrowDtype):
        return f"{dtype.pyarrow_dtype}{_ARROW}"
    if _holds_objects(series):
        return f"{_OBJECT}{pa.array(series, from_pandas=True).type}"
    return str(dtype)


def pandas_dtype(name: str) -> Any:  # noqa: ANN401
    """The dtype of that name; of an ordered category, without its categories."""
    if name.startswith(_OBJECT):
        return np.dtype(object)
    if name in (_TEXT, _TEXT_OF_ARROW):
        return pd.StringDtype("python" if name == _TEXT else "pyarrow")
    if name == ORDERED:
        return pd.CategoricalDtype(ordered=True)
    if name.endswith(_ARROW):
        return pd.ArrowDtype(arrow_type(name.removesuffix(_ARROW)))
    return pd.api.types.pandas_dtype(name)


def arrow_type(text: str) -> pa.DataType:
    """The Arrow type that prints as ``text``.

    Raises:
        ValueError: there is no such type, or it is nested.
    """
    if found := _DECIMAL.fullmatch(text):
        precision, scale = int(found[1]), int(found[2])
        return (pa.decimal128 if precision <= 38 else pa.decimal256)(precision, scale)
    if found := _ZONED.fullmatch(text):
        return pa.timestamp(found[1], found[2])
    if text.startswith("dictionary<"):
        return pa.dictionary(pa.int32(), pa.string())
    return pa.type_for_alias(text)


def plain(series: pd.Series) -> pd.Series:
    """``series`` in a plain dtype, with its index; itself where it is plain."""
    kind = _arrow_type_of(series)
    if kind is None:
        return series
    made = plain_of_arrow(pa.chunked_array([pa.array(series, from_pandas=True)]))
    if pa.types.is_timestamp(kind) and kind.tz:
        made = made.dt.tz_localize("UTC")
    made.index, made.name = series.index, series.name
    return made


def plain_of_arrow(column: pa.ChunkedArray) -> pd.Series:
    """A column of numbers, dates, times, durations or text as a plain series; moments in UTC.

    Raises:
        pa.ArrowException: it is of another type.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        return plain_of_arrow(column.cast(kind.value_type))
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale <= 0):
        with suppress(pa.ArrowInvalid):  # beyond 64 bits
            return _nullable(column.cast(pa.int64()), pd.Int64Dtype())
        return _series(column.cast(pa.float64(), safe=False))
    if pa.types.is_boolean(kind):
        return _nullable(column, pd.BooleanDtype())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _series(column.cast(pa.float64()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _series(column.cast(pa.timestamp("us"), safe=False)).astype("datetime64[us]")
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        whole = column.cast(_microseconds(kind), safe=False).cast(pa.int64())
        return _series(pc.divide(whole.cast(pa.float64()), 1e6))
    return _series(column.cast(pa.string())).astype(object)


def arrow_of_plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A plain column in another type, the inverse of ``plain_of_arrow``.

    Raises:
        pa.ArrowException: a value does not fit.
    """
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        whole = pc.round(pc.multiply(column.cast(pa.float64()), 1e6)).cast(pa.int64())
        return whole.cast(_microseconds(kind)).cast(kind)
    if pa.types.is_decimal(kind):
        if pa.types.is_floating(column.type):
            return pc.round(column, ndigits=kind.scale).cast(kind)
        # Arrow wants room for all of int64 first, whatever the values are.
        return column.cast(pa.decimal128(19, 0)).cast(kind)
    if pa.types.is_dictionary(kind):
        return column.cast(kind.value_type).dictionary_encode()
    return column.cast(kind)


def exact_type(column: pa.ChunkedArray) -> str:
    """The Arrow type in which a table can publish this column, which is plain inside, exactly.

    Times are in microseconds, the unit of the digest. Empty where the plain type says it all, or
    where making the column plain loses something.
    """
    kind = _published(column.type)
    if kind is None:
        return ""
    same = column.cast(kind, safe=False)
    try:
        made = arrow_of_plain(pa.array(plain_of_arrow(column), from_pandas=True), kind)
    except pa.ArrowException:
        return ""
    made = pa.chunked_array(made.chunks if isinstance(made, pa.ChunkedArray) else [made], kind)
    return str(kind) if made.equals(same) else ""


def _published(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_timestamp(kind):
        return None if kind.tz is None else pa.timestamp("us", kind.tz)
    if pa.types.is_date(kind):
        return pa.date32()
    if pa.types.is_time(kind) or pa.types.is_duration(kind):
        return _microseconds(kind)
    if pa.types.is_decimal(kind) and kind.precision <= 38 and kind.scale >= 0:
        return pa.decimal128(kind.precision, kind.scale)
    small = pa.types.is_integer(kind) and not pa.types.is_int64(kind)
    return kind if small or pa.types.is_float32(kind) else None


def _microseconds(kind: pa.DataType) -> pa.DataType:
    return pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us")


def _nullable(column: pa.ChunkedArray, dtype: Any) -> pd.Series:  # noqa: ANN401
    """With a dtype that has missing values only where some are missing."""
    gaps = {column.type: dtype} if column.null_count else {}
    series: pd.Series = column.to_pandas(types_mapper=gaps.get)
    return series


def _series(column: pa.ChunkedArray) -> pd.Series:
    series: pd.Series = column.to_pandas()
    return series


def restored(series: pd.Series, name: str) -> pd.Series:
    """A plain series in the dtype of that name, the inverse of ``plain``.

    Raises:
        ValueError, TypeError, pa.ArrowException: a value does not fit.
    """
    if not (name.startswith((_OBJECT, "timedelta64")) or name.endswith(_ARROW)):
        return series.astype(pandas_dtype(name))
    if name.startswith("timedelta64"):
        column = arrow_of_plain(pa.array(series, from_pandas=True), pa.duration("us"))
        return _series(column).astype(pandas_dtype(name))
    kind = arrow_type(name.removeprefix(_OBJECT).removesuffix(_ARROW))
    column = arrow_of_plain(pa.array(series, from_pandas=True), kind)
    if name.startswith(_OBJECT):
        return pd.Series(column.to_pylist(), dtype=object)
    return pd.Series(pd.arrays.ArrowExtensionArray(column))


def _holds_objects(series: pd.Series) -> bool:
    """Whether the cells are dates, decimals, times or durations of Python."""
    return bool(
        series.dtype == object
        and pd.api.types.infer_dtype(series, skipna=True)
        in ("date", "decimal", "time", "timedelta")
    )


def _arrow_type_of(series: pd.Series) -> pa.DataType | None:
    """The Arrow type of a series that is not plain."""
    dtype = series.dtype
    if isinstance(dtype, pd.ArrowDtype):
        kind = dtype.pyarrow_dtype
        return None if pa.types.is_null(kind) else kind
    if dtype.kind == "m":
        return pa.duration("us")
    if _holds_objects(series):
        return pa.array(series, from_pandas=True).type
    return None
