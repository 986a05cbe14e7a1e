"""Edge cases: rows that are meant to be hard, each derived from an ordinary one and tagged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from generators.base import derive_seed
from generators.dtypes import restored
from generators.schema import Column, TableSchema

from .order import CASE, NULLABLE, EdgeCases, Order

UNICODE = (
    "Ünïcødé çafé",
    "Ελληνικά",
    "Кириллица",
    "日本語テキスト",
    "한국어",
    "العربية ‏",
    "עברית",
    "हिन्दी",
    "👩‍👩‍👧‍👦 🇨🇭",
    "e\u0301 \u00e9",
    "ﬁ ™ ½",
    "\u200bzero\u200bwidth",
    "tab\there",
    "line\nbreak",
    "'; DROP TABLE users; --",
    '"quoted, comma"',
    "=1+1",
    "null",
    " ",
    "",
)
"""Texts that break programs: scripts, combined signs, bidirectional marks, quotes, formulas."""
_UNSEEN = "__UNSEEN__"
_HOW_MANY = 5
"""Rows of each boundary and each unseen category."""


@dataclass(frozen=True)
class _Case:
    """Rows of one tag: a cell of ``column`` each; a duplicate changes none."""

    what: str
    column: str
    cells: tuple[Any, ...]
    place: str = ""

    @property
    def rows(self) -> int:
        return len(self.cells)

    def tag(self, order: Order) -> str:
        """``boundary:age:least``, with the column as it is published."""
        parts = (self.what, order.rename.get(self.column, self.column), self.place)
        return ":".join(part for part in parts if part)


def plant(frame: pd.DataFrame, schema: TableSchema, order: Order) -> pd.DataFrame:
    """``frame`` with tagged edge cases mixed in, in the learned columns and ``CASE``.

    Each case is a copy of an ordinary row with one thing changed, so that what fails on it fails
    because of that. The ordinary rows stay as they are and keep their order.

    Args:
        frame: the ordinary rows, in the learned schema's columns.
        schema: the learned schema.
        order: what is asked.
    """
    rng = np.random.default_rng(derive_seed("edge cases", order.sample.seed))
    cases = _cases(len(frame), schema, order.cases)
    parts = [frame.assign(**{CASE: pd.Series([None] * len(frame), dtype=object)})]
    for case in cases:
        sources = rng.integers(0, len(frame), case.rows)
        rows = frame.iloc[sources].reset_index(drop=True)
        parts.append(_changed(rows, schema, case).assign(**{CASE: case.tag(order)}))
    loose = {name: NULLABLE.get(schema[name].dtype) for name in order.cases.null_rate}
    for name, dtype in loose.items():
        if dtype is not None:
            parts = [part.astype({name: dtype}) for part in parts]
    whole = pd.concat(parts, ignore_index=True)
    # Cases go to random places between the ordinary rows, which keep their own order.
    places = np.sort(rng.choice(len(whole), len(frame), replace=False))
    order_of = np.empty(len(whole), dtype=np.int64)
    rest = np.setdiff1d(np.arange(len(whole)), places)
    order_of[places] = np.arange(len(frame))
    order_of[rest] = rng.permutation(np.arange(len(frame), len(whole)))
    return whole.iloc[order_of].reset_index(drop=True)


def check_cases(schema: TableSchema, cases: EdgeCases) -> list[tuple[str, str]]:
    """What of ``cases`` this table cannot have: pairs of a field and what is wrong."""
    wrong: list[tuple[str, str]] = []
    asked: dict[str, Sequence[str]] = {
        "null_rate": list(cases.null_rate),
        "boundary": cases.boundary,
        "unseen_category": cases.unseen_category,
        "unicode": () if isinstance(cases.unicode, bool) else cases.unicode,
    }
    for field, names in asked.items():
        for name in names:
            if name not in schema.names:
                wrong.append((field, f"there is no column {name!r}"))
            elif problem := _unfit(field, schema[name]):
                wrong.append((field, f"{name!r} {problem}"))
    if cases.unicode is True and not _textual(schema):
        wrong.append(("unicode", "no column holds text"))
    return wrong


def count(rows: int, schema: TableSchema, cases: EdgeCases) -> int:
    """How many edge cases there are beside ``rows`` ordinary rows."""
    return sum(case.rows for case in _cases(rows, schema, cases))


def _cases(rows: int, schema: TableSchema, cases: EdgeCases) -> list[_Case]:
    fixed = [*_boundaries(schema, cases), *_unseen(schema, cases), *_unicode(schema, cases)]
    shares = sum(cases.null_rate.values()) + cases.duplicates
    total = (rows + sum(case.rows for case in fixed)) / (1 - shares)
    nulls = [
        _Case("null", name, (None,) * round(share * total))
        for name, share in cases.null_rate.items()
    ]
    repeated = _Case("duplicate", "", (None,) * round(cases.duplicates * total))
    return [case for case in (*nulls, *fixed, repeated) if case.rows]


def _boundaries(schema: TableSchema, cases: EdgeCases) -> list[_Case]:
    return [
        _Case("boundary", name, (value,) * _HOW_MANY, place)
        for name in cases.boundary
        for place, value in _ends(schema[name]).items()
    ]


def _ends(column: Column) -> dict[str, float]:
    """Least and greatest value and one step beyond, as far as the dtype holds them."""
    if column.low is None or column.high is None:
        return {}
    step = column.step or max(abs(column.low), abs(column.high), 1.0) * 1e-6
    ends = {
        "least": column.low,
        "greatest": column.high,
        "below": column.low - step,
        "above": column.high + step,
    }
    kind = column.stored.lower() or column.dtype.lower()
    if kind.startswith(("int", "uint")):
        room = np.iinfo(kind)
        ends = {place: end for place, end in ends.items() if room.min <= end <= room.max}
    return ends


def _unseen(schema: TableSchema, cases: EdgeCases) -> list[_Case]:
    return [
        _Case("unseen", name, (_unseen_level(schema[name]),) * _HOW_MANY)
        for name in cases.unseen_category
    ]


def _unseen_level(column: Column) -> object:
    numbers = [level for level in column.levels if not isinstance(level, str)]
    if numbers:
        return type(numbers[0])(max(numbers) + 1)
    name = _UNSEEN
    while name in column.levels:
        name += "_"
    return name


def _unicode(schema: TableSchema, cases: EdgeCases) -> list[_Case]:
    if cases.unicode is False:
        return []
    names = _textual(schema) if cases.unicode is True else list(cases.unicode)
    return [_Case("unicode", name, UNICODE) for name in names]


def _textual(schema: TableSchema) -> list[str]:
    return [column.name for column in schema.columns if not _unfit("unicode", column)]


def _unfit(field: str, column: Column) -> str:
    """Why ``column`` cannot have this edge case; empty where it can."""
    texts = column.dtype in ("object", "category") or column.dtype.startswith("string")
    words = texts and all(isinstance(level, str) for level in column.levels)
    if field == "boundary" and (column.discrete or column.low is None):
        return "has no range"
    if field == "unseen_category" and (not column.discrete or column.kind == "boolean"):
        return "is no category"
    if field == "unicode" and (not words or not (column.levels or column.kind == "text")):
        return "holds no text"
    return ""


def _changed(rows: pd.DataFrame, schema: TableSchema, case: _Case) -> pd.DataFrame:
    if case.column:
        rows[case.column] = _cells(list(case.cells), schema[case.column])
    return rows


def _cells(cells: list[Any], column: Column) -> pd.Series:
    """``cells`` as a series that can stand beside the column's."""
    if all(cell is None for cell in cells):
        dtype = NULLABLE.get(column.dtype, column.dtype)
        return pd.Series([None] * len(cells), dtype="object" if dtype == "category" else dtype)
    if column.kind == "datetime":
        moments = pd.to_datetime(pd.Series(cells, dtype="float64").astype("int64"), unit="us")
        return restored(moments, column.dtype)
    if column.kind == "numerical":
        return restored(pd.Series(cells, dtype="float64"), column.dtype)
    return pd.Series(cells, dtype=object)
