"""Invertible column codecs: a table as integer codes and floats, and back.

Every cell becomes a *code*: one of the column's levels (a category, or an atom of a numerical
column), ``missing``, or ``continuous``; where it is continuous, a float holds the value.
Codes of a column: ``0 .. L-1`` levels in sorted order, then ``missing`` if the column is
nullable, then ``continuous`` if the column has a continuous part.

Atoms are values of a numerical column so frequent that a density would smear them: spikes such as
0 in money. A numerical column of few, often repeated values is all atoms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from .base import DataError, SchemaError
from .dtypes import ORDERED, pandas_dtype, plain, restored
from .moments import Part, moved, parts_of
from .schema import Column, Level, TableSchema, to_numbers

MAX_ATOMS = 256
# An atom stands for at least this share of the rows, and is this often as frequent as the median
# value: both, so that neither smooth nor coarse columns get spurious atoms.
_ATOM_SHARE = 0.005
_ATOM_OVER_MEDIAN = 10
# A column is all atoms only when its values repeat: single values would be copied verbatim.
_MIN_MEAN_COUNT = 5


@dataclass(frozen=True)
class ColumnCodec:
    """Codes and floats for one column.

    Attributes:
        column: the column it encodes.
        levels: category values, or atoms in the units of ``to_numbers``, ascending.
        missing: whether there is a code for missing values.
        continuous: whether there is a code for values between the atoms.
    """

    column: Column
    levels: tuple[Level, ...]
    missing: bool
    continuous: bool

    @property
    def size(self) -> int:
        """Number of codes."""
        return len(self.levels) + self.missing + self.continuous

    @property
    def missing_code(self) -> int:
        """The code of a missing value, or -1."""
        return len(self.levels) if self.missing else -1

    @property
    def continuous_code(self) -> int:
        """The code of a continuous value, or -1."""
        return self.size - 1 if self.continuous else -1

    @classmethod
    def fit(cls, series: pd.Series, column: Column) -> Self:
        """The codec for ``column`` that ``series`` asks for.

        Raises:
            SchemaError: the series holds categories that are no levels of the column.
            DataError: it holds infinite values.
        """
        missing = bool(series.isna().any())
        if column.discrete:
            codec = cls(column, column.levels, missing or not column.levels, continuous=False)
            codec.require_known(series)
            return codec
        numbers = finite_numbers(series, column)
        numbers = numbers[np.isfinite(numbers)]
        values, counts = np.unique(numbers, return_counts=True)
        if len(values) == 0:
            return cls(column, (), missing=True, continuous=False)
        if len(values) <= MAX_ATOMS and len(numbers) >= _MIN_MEAN_COUNT * len(values):
            return cls(column, tuple(values.tolist()), missing, continuous=False)
        frequent = (counts > _ATOM_SHARE * len(numbers)) & (
            counts > _ATOM_OVER_MEDIAN * np.median(counts)
        )
        atoms = tuple(values[frequent][:MAX_ATOMS].tolist())
        return cls(column, atoms, missing, continuous=bool((~frequent).any()))

    def encode(self, series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Codes (int32, shape (N,)) and values (float64, shape (N,), NaN where not continuous).

        A value that the codec has not seen becomes continuous, else the nearest atom, else (an
        unknown category) code -1.
        """
        if self.column.discrete:
            return self._encode_levels(series), np.full(len(series), np.nan)
        numbers = to_numbers(series)
        present = np.isfinite(numbers)
        codes = np.full(len(numbers), self.missing_code, dtype=np.int32)
        atoms = np.asarray(self.levels, dtype=np.float64)
        at = np.searchsorted(atoms, numbers)
        if len(atoms):
            exact = present & (atoms[np.minimum(at, len(atoms) - 1)] == numbers)
            codes[exact] = at[exact]
        else:
            exact = np.zeros(len(numbers), dtype=bool)
        between = present & ~exact
        values = np.full(len(numbers), np.nan)
        if self.continuous:
            codes[between] = self.continuous_code
            values[between] = numbers[between]
        elif len(atoms):
            codes[between] = _nearest(atoms, numbers[between])
        return codes, values

    def decode(self, codes: np.ndarray, values: np.ndarray) -> pd.Series:
        """A series of the column's dtype; inverse of ``encode``.

        Continuous values are clipped to the column's range and snapped to its step.
        """
        if self.column.discrete:
            return self._decode_levels(codes)
        return from_numbers(self.numbers(codes, values), self.column)

    def numbers(self, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Cells of a column whose levels are numbers, float64, NaN where missing or code -1."""
        known = (codes >= 0) & (codes < len(self.levels))
        atoms = np.append(np.asarray(self.levels, dtype=np.float64), np.nan)
        numbers = atoms[np.where(known, codes, len(self.levels))]
        if self.continuous:
            between = codes == self.continuous_code
            numbers[between] = self.snap(values[between])
        return numbers

    def snap(self, values: np.ndarray) -> np.ndarray:
        """``values`` moved to the column's grid and into its range."""
        column = self.column
        if column.step is not None:
            # Division by a whole number keeps decimals exact: 0.1 * 3 is not 0.3, 3 / 10 is.
            if column.step < 1:
                inverse = round(1 / column.step)
                values = np.round(values * inverse) / inverse
            else:
                values = np.round(values / column.step) * column.step
        low = -np.inf if column.low is None else column.low
        high = np.inf if column.high is None else column.high
        clipped: np.ndarray = np.clip(values, low, high)
        return clipped

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``from_json`` is the inverse."""
        return {
            "column": dataclasses.asdict(self.column),
            "levels": list(self.levels),
            "missing": self.missing,
            "continuous": self.continuous,
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The codec that ``to_json`` wrote."""
        column = Column(**{**raw["column"], "levels": tuple(raw["column"]["levels"])})
        return cls(column, tuple(raw["levels"]), raw["missing"], raw["continuous"])

    def require_known(self, series: pd.Series) -> None:
        """Raise SchemaError where a value is none of the levels."""
        unknown = int(((self._encode_levels(series) == -1) & series.notna().to_numpy()).sum())
        if unknown:
            raise SchemaError(
                f"column {self.column.name!r} must hold only the {len(self.levels)} levels of its "
                f"schema, but {unknown} rows hold others; infer the schema from this data"
            )

    def _encode_levels(self, series: pd.Series) -> np.ndarray:
        lookup: dict[object, int] = {level: code for code, level in enumerate(self.levels)}
        codes, uniques = pd.factorize(plain(series), use_na_sentinel=True)
        of_unique = [lookup.get(_key(value, lookup), -1) for value in uniques]
        table = np.array([*of_unique, self.missing_code], dtype=np.int32)
        return table[codes]

    def _decode_levels(self, codes: np.ndarray) -> pd.Series:
        objects = np.array([*self.levels, None], dtype=object)
        values = objects[np.where((codes >= 0) & (codes < len(self.levels)), codes, -1)]
        return cast_series(pd.Series(values, dtype=object), self.column)


@dataclass(frozen=True)
class EncodedTable:
    """A table as codes (int32, (N, D)) and values (float64, (N, D), NaN where not continuous)."""

    codes: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: np.ndarray | slice) -> EncodedTable:
        """These rows."""
        return EncodedTable(self.codes[rows], self.values[rows])


@dataclass(frozen=True)
class TableCodec:
    """Codecs of all modelled columns of a schema, in its order, and then of parts of moments.

    Attributes:
        schema: of the table.
        columns: a codec per encoded column.
        parts: what the last columns are parts of.
    """

    schema: TableSchema
    columns: tuple[ColumnCodec, ...]
    parts: tuple[Part, ...] = ()

    @classmethod
    def fit(cls, frame: pd.DataFrame, schema: TableSchema) -> Self:
        """The codec for ``frame``."""
        codecs = [ColumnCodec.fit(frame[c.name], c) for c in schema.modelled]
        parts: list[Part] = []
        for base, codec in enumerate(codecs[:]):
            if codec.continuous and codec.column.kind == "datetime":
                moments = to_numbers(frame[codec.column.name])
                for part in parts_of(moments, codec.column, base):
                    column = part.column(moments, codec.column.name)
                    codecs.append(ColumnCodec.fit(pd.Series(part.of(moments)), column))
                    parts.append(part)
        return cls(schema, tuple(codecs), tuple(parts))

    @property
    def sizes(self) -> np.ndarray:
        """Number of codes of each column."""
        return np.array([codec.size for codec in self.columns], dtype=np.int64)

    def encode(self, frame: pd.DataFrame) -> EncodedTable:
        """All modelled columns of ``frame``."""
        shape = (len(frame), len(self.columns))
        codes, values = np.empty(shape, np.int32), np.empty(shape, np.float64)
        columns = {column.name: frame[column.name] for column in self.schema.modelled}
        for position, codec in enumerate(self.columns):
            series = self.series(columns, position)
            if series is not None:
                codes[:, position], values[:, position] = codec.encode(series)
        return EncodedTable(codes, values)

    def series(self, columns: Mapping[str, pd.Series], position: int) -> pd.Series | None:
        """What the column at ``position`` encodes of these columns, or None where it is absent."""
        wide = len(self.columns) - len(self.parts)
        part = self.parts[position - wide] if position >= wide else None
        base = columns.get(self.columns[part.base if part else position].column.name)
        if part is None or base is None:
            return base
        return pd.Series(part.of(to_numbers(base)))

    def settle(
        self,
        encoded: EncodedTable,
        allowed: Mapping[int, Callable[[np.ndarray], np.ndarray]] | None = None,
    ) -> EncodedTable:
        """Rows whose moments agree with their parts, which are then used up (their code is -1).

        Args:
            encoded: rows; not modified.
            allowed: by position which continuous values a column may hold, where not all.
        """
        if not self.parts:
            return encoded
        codes, values = encoded.codes.copy(), encoded.values.copy()
        wide = len(self.columns) - len(self.parts)
        drawn: dict[int, dict[str, np.ndarray]] = {}
        for place, part in enumerate(self.parts, start=wide):
            drawn.setdefault(part.base, {})[part.what] = self.columns[place].numbers(
                codes[:, place], values[:, place]
            )
        for base, parts in drawn.items():
            codec, inside = self.columns[base], (allowed or {}).get(base)
            rows = np.flatnonzero(codes[:, base] == codec.continuous_code)
            limits = codec.column.low, codec.column.high

            def fits(x: np.ndarray, limits: Any = limits, inside: Any = inside) -> np.ndarray:  # noqa: ANN401
                within: np.ndarray = (x >= limits[0]) & (x <= limits[1])
                return within if inside is None else within & inside(x)

            weekday, time = (parts[w][rows] if w in parts else None for w in ("weekday", "time"))
            values[rows, base] = moved(values[rows, base], weekday, time, fits)
        codes[:, wide:], values[:, wide:] = -1, np.nan
        return EncodedTable(codes, values)

    def decode(self, encoded: EncodedTable, first_row: int = 0) -> pd.DataFrame:
        """A frame in the schema's order and dtypes.

        Ids become fresh surrogates counted from ``first_row``; text becomes a placeholder: neither
        is ever learned.
        """
        encoded = self.settle(encoded)
        series: dict[str, pd.Series] = {}
        for position, codec in enumerate(self.columns[: len(self.columns) - len(self.parts)]):
            cells = encoded.codes[:, position], encoded.values[:, position]
            series[codec.column.name] = codec.decode(*cells)
        for column in self.schema.columns:
            if not column.modelled:
                series[column.name] = surrogate(column, len(encoded), first_row)
        return pd.DataFrame(series, columns=list(self.schema.names))

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``from_json`` is the inverse."""
        return {
            "columns": [codec.to_json() for codec in self.columns],
            "parts": [dataclasses.asdict(part) for part in self.parts],
        }

    @classmethod
    def from_json(cls, schema: TableSchema, raw: Mapping[str, Any]) -> Self:
        """The codec that ``to_json`` wrote."""
        columns = tuple(ColumnCodec.from_json(entry) for entry in raw["columns"])
        return cls(schema, columns, tuple(Part(**entry) for entry in raw["parts"]))


def surrogate(column: Column, n: int, first_row: int) -> pd.Series:
    """Values that stand for an id or text column: new, unique, and tied to no real value."""
    numbers = np.arange(first_row + 1, first_row + n + 1)
    if pd.api.types.is_numeric_dtype(pandas_dtype(column.dtype)):
        return restored(pd.Series(numbers), column.dtype)
    width = 9
    texts = [f"{column.name}-{number:0{width}d}" for number in numbers]
    return cast_series(pd.Series(texts, dtype=object), column)


def finite_numbers(series: pd.Series, column: Column) -> np.ndarray:
    """``schema.to_numbers`` of a column; NaN is missing.

    Raises:
        DataError: a value is infinite.
    """
    numbers = to_numbers(series)
    infinite = int(np.isinf(numbers).sum())
    if infinite:
        raise DataError(
            f"values must be finite or missing, but column {column.name!r} has {infinite} "
            "infinite ones; replace them"
        )
    return numbers


def from_numbers(numbers: np.ndarray, column: Column) -> pd.Series:
    """A series of the column's dtype; NaN is missing; inverse of ``schema.to_numbers``."""
    if column.kind == "datetime":
        present = np.isfinite(numbers)
        micro = np.where(present, np.round(np.where(present, numbers, 0)), 0).astype(np.int64)
        stamps = pd.Series(micro.astype("datetime64[us]"))
        stamps[~present] = pd.NaT
        if "," in column.dtype:  # e.g. datetime64[ns, UTC]
            stamps = stamps.dt.tz_localize("UTC")
        return restored(stamps, column.dtype)
    dtype = pandas_dtype(column.dtype)
    if not pd.api.types.is_integer_dtype(dtype):
        return restored(pd.Series(numbers), column.dtype)
    whole = pd.Series(np.clip(np.round(numbers), *_range(dtype)))
    if pd.api.types.is_extension_array_dtype(dtype):
        unsigned = pd.api.types.is_unsigned_integer_dtype(dtype)
        return restored(whole.astype("UInt64" if unsigned else "Int64"), column.dtype)
    return restored(whole.fillna(0), column.dtype)


def _range(dtype: Any) -> tuple[float, float]:  # noqa: ANN401
    """The smallest and largest float that an integer dtype holds."""
    limits = np.iinfo(getattr(dtype, "numpy_dtype", dtype))
    high = float(limits.max)
    return float(limits.min), high if int(high) <= limits.max else float(np.nextafter(high, 0.0))


def cast_series(series: pd.Series, column: Column) -> pd.Series:
    """An object series of levels and None in the column's dtype."""
    if column.dtype == "object":
        return series
    if column.dtype in ("category", ORDERED):
        levels = list(column.levels)
        ordered = column.dtype == ORDERED
        return pd.Series(pd.Categorical(series, categories=levels, ordered=ordered))
    if column.levels and not any(isinstance(level, str | bool) for level in column.levels):
        series = pd.to_numeric(series)
    return restored(series, column.dtype)


def _nearest(atoms: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    right = np.clip(np.searchsorted(atoms, numbers), 1, max(len(atoms) - 1, 1))
    right = np.minimum(right, len(atoms) - 1)
    left = np.maximum(right - 1, 0)
    closer_left = np.abs(numbers - atoms[left]) <= np.abs(atoms[right] - numbers)
    nearest: np.ndarray = np.where(closer_left, left, right)
    return nearest


def _key(value: object, lookup: dict[object, int]) -> object:
    plain = value.item() if isinstance(value, np.generic) else value
    return plain if plain in lookup else str(plain)
