"""A partly given table beside what a generator draws for the rest of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from pandas.api.types import is_datetime64_any_dtype, is_integer_dtype

from .base import DataError, SchemaError
from .dtypes import dtype_name, pandas_dtype, plain, restored
from .encoding import ColumnCodec, EncodedTable, TableCodec
from .schema import Column, TableSchema, to_numbers


@dataclass(frozen=True)
class Completion:
    """Rows of which some cells are given.

    Attributes:
        codec: of the table.
        frame: the given columns as they came.
        encoded: all modelled columns; arbitrary where nothing is given.
        given: bool, shape (N, D).
        present: whether a column is given, so that none of its cells may stay missing; bool, (D,).
    """

    codec: TableCodec
    frame: pd.DataFrame
    encoded: EncodedTable
    given: np.ndarray
    present: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame, codec: TableCodec) -> Self:
        """The rows of ``frame``.

        Raises:
            SchemaError: an unknown column, or cells of another type than the column's.
            DataError: categories that the model does not know.
        """
        columns = {
            column.name: _typed(frame[column.name].reset_index(drop=True), column)
            for column in _given_columns(frame, codec.schema)
        }
        shape = (len(frame), len(codec.columns))
        codes, values = np.zeros(shape, np.int32), np.full(shape, np.nan)
        given, present = np.zeros(shape, dtype=bool), np.zeros(shape[1], dtype=bool)
        for place, one in enumerate(codec.columns):
            series = codec.series(columns, place)
            if series is None:
                continue
            codes[:, place], values[:, place] = one.encode(series)
            given[:, place], present[place] = series.notna(), True
            unknown = int((given[:, place] & (codes[:, place] < 0)).sum())
            if unknown:
                raise DataError(
                    f"given cells must be of categories that the model knows, column "
                    f"{one.column.name!r} has {unknown} others; leave them empty or replace them"
                )
        index = pd.RangeIndex(len(frame))
        kept = pd.DataFrame(columns, index=index)
        return cls(codec, kept, EncodedTable(codes, values), given, present)

    def put(self, rows: slice, drawn: EncodedTable) -> None:
        """Take what was drawn for these rows."""
        self.encoded.codes[rows], self.encoded.values[rows] = drawn.codes, drawn.values

    def decode(self) -> pd.DataFrame:
        """The whole table in the schema's order and dtypes, the given cells as they came."""
        made = self.codec.decode(self.encoded)
        for name in self.frame.columns:
            column = self.codec.schema[str(name)]
            made[name] = _joined(self.frame[name], made[name], column)
        return made


def _given_columns(frame: pd.DataFrame, schema: TableSchema) -> list[Column]:
    names = [str(name) for name in frame.columns]
    unknown = sorted(set(names) - set(schema.names))
    if unknown or len(set(names)) < len(names):
        raise SchemaError(
            f"given columns must be the model's, each once; unknown {unknown or 'none'}, of "
            f"{len(names)} columns {len(set(names))} are distinct; rename or drop some"
        )
    return [column for column in schema.columns if column.name in names]


def _typed(series: pd.Series, column: Column) -> pd.Series:
    """``series`` as numbers or moments where the column holds such; texts of a file are read."""
    failed = SchemaError(
        f"given cells must be of the column's kind, {column.name!r} is {column.kind} and has "
        f"others of dtype {series.dtype}; correct them"
    )
    try:
        if column.kind == "numerical":
            return pd.to_numeric(plain(series))
        if column.kind == "datetime":
            aware = "," in column.dtype
            typed = plain(series)
            if not is_datetime64_any_dtype(typed.dtype):
                typed = _moments(typed, aware)
            if aware != (typed.dt.tz is not None):
                raise failed
            return typed
    except (ValueError, TypeError, OverflowError):
        raise failed from None
    named = {str(level).lower(): level for level in column.levels if not isinstance(level, str)}
    if not named or series.dtype != object:
        return series
    return series.map(lambda cell: named.get(cell.lower(), cell) if isinstance(cell, str) else cell)


def _moments(series: pd.Series, aware: bool) -> pd.Series:
    return pd.to_datetime(series, format="ISO8601", utc=aware)


def _joined(given: pd.Series, made: pd.Series, column: Column) -> pd.Series:
    """``given``, and ``made`` where nothing is given, in the column's dtype."""
    there = given.notna()
    if not there.any():
        return made
    present = given[there]
    try:
        kept = _cast(present, column)
    except (ValueError, TypeError, OverflowError):
        kept = None
    if kept is None or not _equal(present, kept, column):
        raise SchemaError(
            f"given cells must fit the column's dtype {column.dtype}, some of {column.name!r} do "
            "not; round or shorten them"
        ) from None
    if there.all():
        return kept
    # Both parts have the column's dtype, so joining them changes no cell.
    joined: pd.Series = pd.concat([kept, made[~there]]).sort_index()
    return joined


def _cast(present: pd.Series, column: Column) -> pd.Series:
    if dtype_name(present) == column.dtype:
        return present
    if column.discrete:
        levels = ColumnCodec(column, column.levels, missing=True, continuous=False)
        return levels.decode(*levels.encode(present)).set_axis(present.index)
    return restored(present, column.dtype).set_axis(present.index)


def _equal(present: pd.Series, kept: pd.Series, column: Column) -> bool:
    """Whether the cast lost nothing but digits that the dtype cannot hold."""
    dtype = pandas_dtype(column.dtype)
    if column.kind == "datetime" or (column.kind == "numerical" and is_integer_dtype(dtype)):
        return bool(np.array_equal(to_numbers(present), to_numbers(kept)))
    return True
