"""Conditions on the rows of a table, as text and as what each column may hold.

The grammar, one condition a text; several are joined by AND::

    age >= 30          income = '>50K'        sex != Male       (also  >  <  <=)
    age in 20..40      state in (CA, NY)      state not in (CA, NY)
    bmi is missing     bmi is not missing     joined < 2024-03-01

Names and values may be quoted by ``'`` or ``"``, a quote inside is written twice; names by `` ` ``,
too. Both ends of a range belong to it. A date means its whole day. As in SQL, no comparison
holds for a missing cell. Nothing is evaluated: values are looked up or read as numbers and dates.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Self, TypeAlias

import numpy as np
import pandas as pd

from .base import NoSupport, ParameterError
from .encoding import ColumnCodec, TableCodec
from .schema import Column, Level, TableSchema, to_numbers

Interval: TypeAlias = tuple[float, float]

_OPERATOR = re.compile(
    r"\s*(>=|<=|!=|<>|==|=|>|<|(?<=\s)(?:is\s+not|is|not\s+in|in)\b)", re.IGNORECASE
)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_QUOTED = re.compile(r"'((?:[^']|'')*)'|\"((?:[^\"]|\"\")*)\"")
_SAME = {"==": "=", "<>": "!="}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True)
class Allowed:
    """What the cells of one column may be.

    Attributes:
        levels: of a discrete column, else empty.
        intervals: closed, ascending and disjoint, of a numerical or datetime column in the units
            of ``schema.to_numbers``, else empty.
        missing: whether a cell may be missing.
    """

    levels: frozenset[Level] = frozenset()
    intervals: tuple[Interval, ...] = ()
    missing: bool = False

    def __and__(self, other: Allowed) -> Allowed:
        pairs = [(max(a, c), min(b, d)) for a, b in self.intervals for c, d in other.intervals]
        return Allowed(
            self.levels & other.levels,
            tuple(sorted((low, high) for low, high in pairs if low <= high)),
            self.missing and other.missing,
        )

    def complement(self, column: Column) -> Allowed:
        """All that is not allowed, missing cells included."""
        if column.discrete:
            return Allowed(frozenset(column.levels) - self.levels, (), not self.missing)
        gaps, low = [], -math.inf
        for start, end in self.intervals:
            gaps.append((low, _before(start, column)))
            low = _after(end, column)
        gaps.append((low, math.inf))
        return Allowed(
            intervals=tuple((a, b) for a, b in gaps if a <= b and a < math.inf and b > -math.inf),
            missing=not self.missing,
        )

    def matches(self, series: pd.Series, column: Column) -> np.ndarray:
        """Whether each cell of ``series`` is allowed; bool, shape (N,)."""
        gap = series.isna().to_numpy(dtype=bool)
        if column.discrete:
            codec = ColumnCodec(column, column.levels, missing=True, continuous=False)
            held = np.array([*(level in self.levels for level in codec.levels), False, False])
            fits = held[codec.encode(series)[0]]
        else:
            numbers = to_numbers(series)
            fits = np.zeros(len(numbers), dtype=bool)
            for low, high in self.intervals:
                fits |= (numbers >= low) & (numbers <= high)
        answer: np.ndarray = np.where(gap, self.missing, fits)
        return answer


@dataclass(frozen=True)
class Condition:
    """One condition: a column, what it may hold, and how that was written."""

    column: Column
    allowed: Allowed
    text: str

    @classmethod
    def parse(cls, text: str, schema: TableSchema) -> Self:
        """The condition that ``text`` writes about a table of this schema.

        Raises:
            ParameterError: bad syntax, an unknown column or category, a value of another type, an
                empty range, or a column that is not learned.
        """
        column, rest = _column_of(text, schema)
        if not column.modelled:
            raise ParameterError(
                f"a condition must be on a column that is learned, {text!r} is on the "
                f"{column.kind} column {column.name!r}, which is invented; choose another"
            )
        operator, value = _operator_of(rest, text)
        reader = _Reader(column, text)
        if operator in ("is", "is not"):
            if value.lower() not in ("missing", "null"):
                raise _syntax(text)
            allowed = reader.missing() if operator == "is" else reader.present()
        elif operator in ("in", "not in"):
            allowed = reader.members(value)
        else:
            allowed = reader.compared(operator, value)
        if operator in ("!=", "not in"):
            allowed = allowed.complement(column) & reader.present()
        return cls(column, allowed, text)

    def negated(self) -> Self:
        """The rows that do not fulfil it, those with a missing cell included."""
        allowed = self.allowed.complement(self.column)
        return replace(self, allowed=allowed, text=f"not ({self.text})")


@dataclass(frozen=True)
class Cells:
    """What one encoded column may hold: of its codes, and of the values between its atoms.

    Attributes:
        codes: bool, shape (codec.size,); ``continuous_code`` is allowed where an interval is.
        intervals: of continuous values: within the column's range, both ends on its grid.
    """

    codes: np.ndarray
    intervals: tuple[Interval, ...]

    def inside(self, values: np.ndarray) -> np.ndarray:
        """Whether each continuous value is allowed; bool, shape of ``values``."""
        answer = np.zeros(values.shape, dtype=bool)
        for low, high in self.intervals:
            answer |= (values >= low) & (values <= high)
        return answer


def allowed_values(cells: Mapping[int, Cells]) -> dict[int, Callable[[np.ndarray], np.ndarray]]:
    """By position, which continuous values ``cells`` allow: what ``TableCodec.settle`` asks."""
    return {position: allowed.inside for position, allowed in cells.items()}


@dataclass(frozen=True)
class Conditions:
    """Conditions that must all hold.

    Attributes:
        schema: of the table.
        items: the conditions, in the order given; any number may be on one column.
    """

    schema: TableSchema
    items: tuple[Condition, ...]

    @classmethod
    def parse(cls, texts: Iterable[str], schema: TableSchema) -> Self:
        """The conditions that ``texts`` write.

        Raises:
            ParameterError: one of them is wrong.
            NoSupport: no row could fulfil them together.
        """
        found = cls(schema, tuple(Condition.parse(text, schema) for text in texts))
        for name, allowed in found.allowed.items():
            if not (allowed.levels or allowed.intervals or allowed.missing):
                raise found.unsupported([name])
        return found

    @property
    def allowed(self) -> dict[str, Allowed]:
        """What each column with a condition may hold, in the order of the conditions."""
        merged: dict[str, Allowed] = {}
        for item in self.items:
            name = item.column.name
            merged[name] = merged[name] & item.allowed if name in merged else item.allowed
        return merged

    def __and__(self, other: Conditions) -> Conditions:
        return Conditions(self.schema, (*self.items, *other.items))

    def matches(self, frame: pd.DataFrame) -> np.ndarray:
        """Whether each row of ``frame`` fulfils every condition; bool, shape (N,)."""
        fits = np.ones(len(frame), dtype=bool)
        for name, allowed in self.allowed.items():
            fits &= allowed.matches(frame[name], self.schema[name])
        return fits

    def cells(self, codec: TableCodec) -> dict[int, Cells]:
        """What an encoded row may hold, by the position of the column in ``codec``.

        Raises:
            NoSupport: a column of the model holds nothing that is allowed.
        """
        positions = {c.column.name: place for place, c in enumerate(codec.columns)}
        found: dict[int, Cells] = {}
        for name, allowed in self.allowed.items():
            cells = cells_of(allowed, codec.columns[positions[name]])
            if not cells.codes.any():
                raise self.unsupported([name])
            found[positions[name]] = cells
        return found

    def unsupported(self, names: Iterable[str]) -> NoSupport:
        """The error that the conditions on these columns have no support."""
        wanted = set(names)
        texts = [repr(item.text) for item in self.items if item.column.name in wanted]
        listed = " and ".join(texts) or "a condition"
        return NoSupport(
            f"rows must be possible under the model, {listed} leaves none; widen the condition"
        )


def cells_of(allowed: Allowed, codec: ColumnCodec) -> Cells:
    """``allowed`` in the terms of an encoded column."""
    column, codes = codec.column, np.zeros(codec.size, dtype=bool)
    if column.discrete:
        codes[: len(codec.levels)] = [level in allowed.levels for level in codec.levels]
        intervals: tuple[Interval, ...] = ()
    else:
        atoms = np.asarray(codec.levels, dtype=np.float64)
        for low, high in allowed.intervals:
            codes[: len(atoms)] |= (atoms >= low) & (atoms <= high)
        intervals = _on_grid(allowed.intervals, column) if codec.continuous else ()
    if codec.missing:
        codes[codec.missing_code] = allowed.missing
    if codec.continuous:
        codes[codec.continuous_code] = bool(intervals)
    return Cells(codes, intervals)


def _on_grid(intervals: Iterable[Interval], column: Column) -> tuple[Interval, ...]:
    """The intervals cut to the column's range, their ends moved inwards to its grid."""
    least = -math.inf if column.low is None else column.low
    most = math.inf if column.high is None else column.high
    cut = [(max(low, least), min(high, most)) for low, high in intervals]
    if column.step is not None:
        cut = [(_up(low, column.step), -_up(-high, column.step)) for low, high in cut]
    return tuple((low, high) for low, high in cut if low <= high)


def _merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same numbers in ascending intervals that do not overlap."""
    made: list[Interval] = []
    for low, high in sorted(intervals):
        if made and low <= made[-1][1]:
            made[-1] = (made[-1][0], max(made[-1][1], high))
        else:
            made.append((low, high))
    return tuple(made)


def _up(value: float, step: float) -> float:
    """The least multiple of ``step`` that is at least ``value``, written as the codec snaps it."""
    if not math.isfinite(value):
        return value
    inverse = round(1 / step) if step < 1 else None

    def on_grid(number: int) -> float:
        return number / inverse if inverse else number * step

    at = round(value * inverse if inverse else value / step)
    return on_grid(at) if on_grid(at) >= value else on_grid(at + 1)


@dataclass(frozen=True)
class _Reader:
    """Reads the values of one condition as its column's type."""

    column: Column
    text: str

    def missing(self) -> Allowed:
        return Allowed(missing=True)

    def present(self) -> Allowed:
        if self.column.discrete:
            return Allowed(levels=frozenset(self.column.levels))
        return Allowed(intervals=((-math.inf, math.inf),))

    def compared(self, operator: str, value: str) -> Allowed:
        """Cells that stand in this relation to ``value``; of ``!=`` those that are equal."""
        if operator in ("=", "!="):
            return self._equal(_unquoted(value, self.text))
        first, last = self._span(_unquoted(value, self.text))
        ranges = {
            ">=": (first, math.inf),
            ">": (_after(last, self.column), math.inf),
            "<=": (-math.inf, last),
            "<": (-math.inf, _before(first, self.column)),
        }
        return self._within(*ranges[operator])

    def members(self, value: str) -> Allowed:
        """Cells in a list ``(a, b)`` or a range ``a..b``."""
        if value.startswith("("):
            allowed = Allowed()
            for item in _items(value, self.text):
                one = self._equal(item)
                both = _merged([*allowed.intervals, *one.intervals])
                allowed = Allowed(allowed.levels | one.levels, both)
            return allowed
        low, dots, high = value.partition("..")
        if not dots:
            raise _syntax(self.text)
        first = self._span(_unquoted(low.strip(), self.text))[0]
        last = self._span(_unquoted(high.strip(), self.text))[1]
        if first > last:
            raise ParameterError(
                f"a range must go from its lower to its upper end, {self.text!r} on column "
                f"{self.column.name!r} does not; exchange them"
            )
        return self._within(first, last)

    def _within(self, low: float, high: float) -> Allowed:
        if self.column.discrete:
            fits = [level for level in self.column.levels if low <= float(level) <= high]
            return Allowed(levels=frozenset(fits))
        return Allowed(intervals=((low, high),))

    def _equal(self, value: str) -> Allowed:
        if not self.column.discrete:
            return Allowed(intervals=(self._span(value),))
        found = [level for level in self.column.levels if _is_level(value, level)]
        found = found or [x for x in self.column.levels if str(x).strip() == value.strip()]
        if not found:
            raise ParameterError(
                f"a condition must name a category that the model knows, {self.text!r} names an "
                f"unknown one of column {self.column.name!r}; rare categories may have been merged "
                "by protection: choose another"
            )
        return Allowed(levels=frozenset(found))

    def _span(self, value: str) -> Interval:
        """The first and last number that ``value`` means: a date means its whole day."""
        numeric = self.column.kind == "numerical" or (
            self.column.discrete and all(_is_number(level) for level in self.column.levels)
        )
        if numeric and _NUMBER.fullmatch(value) and math.isfinite(float(value)):
            number = float(value)
            # What float32 stores of 0.1 is another number than 0.1.
            number = float(np.float32(number)) if self.column.dtype.lower() == "float32" else number
            return number, number
        if self.column.kind == "datetime" and (span := self._moments(value)):
            return span
        wanted = "a date as 2024-03-01" if self.column.kind == "datetime" else "a number"
        if not numeric and self.column.kind != "datetime":
            wanted = "one of its categories after =, != or in, for they have no order"
        raise ParameterError(
            f"a condition on the {self.column.kind} column {self.column.name!r} must give "
            f"{wanted}; {self.text!r} does not"
        )

    def _moments(self, value: str) -> Interval | None:
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        aware = "," in self.column.dtype  # e.g. datetime64[ns, UTC]
        if moment.tzinfo is not None and not aware:
            return None
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        first = (moment - _EPOCH) // timedelta(microseconds=1)
        length = timedelta(days=1) if _DAY.fullmatch(value) else timedelta(microseconds=1)
        return float(first), float(first + length // timedelta(microseconds=1) - 1)


def _column_of(text: str, schema: TableSchema) -> tuple[Column, str]:
    """The column that ``text`` begins with, and the rest of it."""
    stripped = text.strip()
    for opening in "`'\"":
        end = stripped.find(opening, 1)
        if stripped.startswith(opening) and end > 0:
            return _known(stripped[1:end], text, schema), stripped[end + 1 :]
    for name in sorted(schema.names, key=len, reverse=True):
        rest = stripped[len(name) :]
        if stripped.startswith(name) and _OPERATOR.match(rest):
            return schema[name], rest
    found = _OPERATOR.search(stripped)
    if found is None:
        raise _syntax(text)
    return _known(stripped[: found.start()].strip(), text, schema), stripped[found.start() :]


def _known(name: str, text: str, schema: TableSchema) -> Column:
    if name in schema.names:
        return schema[name]
    near = difflib.get_close_matches(name, schema.names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(schema.names)}"
    raise ParameterError(
        f"a condition must name a column of the table, {text!r} names {name!r}; {hint}"
    )


def _operator_of(rest: str, text: str) -> tuple[str, str]:
    """The operator that ``rest`` begins with, and the value after it."""
    found = _OPERATOR.match(rest)
    value = rest[found.end() :].strip() if found else ""
    if found is None or not value:
        raise _syntax(text)
    operator = " ".join(found[1].lower().split())
    return _SAME.get(operator, operator), value


def _unquoted(value: str, text: str) -> str:
    if found := _QUOTED.fullmatch(value):
        return _content(found)
    if value[:1] in ("'", '"'):
        raise _syntax(text)
    return value


def _content(found: re.Match[str]) -> str:
    single, double = found.groups()
    return single.replace("''", "'") if single is not None else double.replace('""', '"')


def _items(value: str, text: str) -> list[str]:
    """The items of a list in brackets."""
    items, at = [], 1
    while True:
        while value[at : at + 1].isspace():
            at += 1
        if found := _QUOTED.match(value, at):
            item, at = _content(found), found.end()
        else:
            end = at
            while end < len(value) and value[end] not in ",)":
                end += 1
            item, at = value[at:end].strip(), end
        while value[at : at + 1].isspace():
            at += 1
        closing = value[at : at + 1]
        if not item or closing not in (",", ")"):
            raise _syntax(text)
        items.append(item)
        at += 1
        if closing == ")":
            if value[at:].strip():
                raise _syntax(text)
            return items


def _syntax(text: str) -> ParameterError:
    return ParameterError(
        f"a condition must read like age>=30, income='>50K', age in 20..40, city in (Bern, Oslo) "
        f"or bmi is not missing; got {text!r}"
    )


def _is_level(value: str, level: Level) -> bool:
    if isinstance(level, bool):
        return _TRUTH.get(value.lower()) is level
    if isinstance(level, str):
        return value == level
    return bool(_NUMBER.fullmatch(value)) and float(value) == level


def _is_number(level: Level) -> bool:
    return isinstance(level, int | float) and not isinstance(level, bool)


def _after(value: float, column: Column) -> float:
    return value + 1 if column.kind == "datetime" else math.nextafter(value, math.inf)


def _before(value: float, column: Column) -> float:
    return value - 1 if column.kind == "datetime" else math.nextafter(value, -math.inf)
