"""The request as a form: fields of a page to a request, and a request's problems to fields.

The page is made anew from what was filled in, so it works without a script; with one, only the
parts that change are replaced.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from ..requests.model import DataRequest, Problem, RequestError, parse_request
from .shelf import ColumnFacts

OPERATORS = {
    "=": "is",
    "!=": "is not",
    ">=": "at least",
    "<=": "at most",
    ">": "more than",
    "<": "less than",
    "between": "between",
    "in": "one of",
    "not in": "none of",
    "is missing": "is missing",
    "is not missing": "is not missing",
}
DESCRIBED = "-"
"""Chosen instead of a dataset: columns that are described here, without real data."""
DESCRIBED_KINDS = {
    "id": ("Id", r"none, or a pattern: K-\d{6}"),
    "integer": ("Whole number", "18 .. 90"),
    "number": ("Number", "0.00 .. 500.00"),
    "category": ("Category", "paid: 70, open: 30"),
    "boolean": ("Yes or no", "% of yes"),
    "date": ("Date", "2026-01-01 .. 2026-12-31"),
    "datetime": ("Date and time", "2026-01-01 .. 2026-12-31"),
    "text": ("Text", r"company, or a pattern: [A-Z]{2}\d{4}"),
}
"""Kinds of described columns: in words, and how their values are written."""
SHARES = ("none", "balance", "quotas", "fairness")
REPEATED = {
    "where": ("where_column", "where_op", "where_value"),
    "quota": ("quota_op", "quota_value", "quota_share"),
    "null": ("null_column", "null_share"),
    "described": (
        "described_name",
        "described_kind",
        "described_values",
        "described_missing",
    ),
}
"""Groups of fields that may be there several times, and the fields of one of each."""
_LISTS = ("fair_sensitive", "boundary", "unseen", "include")
_TYPES = {"category": "string", "text": "string", "id": "string"}
_WEIGHED = re.compile(r"(.+?)\s*[:=]\s*([0-9.]+)\s*%?")
_ENDS = re.compile(r"\.\.|–|,|;|\band\b|\bto\b")
_OF_SCHEMA = "spec.source.schema.columns."
# Where a problem of the request is shown; the first that fits, the number is that of the row.
_PLACES: tuple[tuple[str, str], ...] = (
    (r"metadata\.(name|owner|purpose|ticket)\b", r"\1"),
    (r"spec\.where\.(\d+)", r"where-\1"),
    (r"spec\.quotas\.(\d+)", r"quota-\1"),
    (r"spec\.edge_cases\.null_rate", "nulls"),
    (r"spec\.edge_cases\.(boundary|unicode|duplicates)", r"\1"),
    (r"spec\.edge_cases\.unseen_category", "unseen"),
    (r"spec\.edge_cases", "nulls"),
    (r"spec\.(quotas|balance|fairness)", "shares"),
    (r"spec\.privacy\.(level|k)", r"\1"),
    (r"spec\.(rows|seed|preview)\b", r"\1"),
    (r"spec\.splits", "test_share"),
    (r"spec\.source", "dataset"),
    (r"spec\.columns", "include"),
    (r"spec\.lifecycle\.expires", "expires"),
)


@dataclass
class Form:
    """What is filled in.

    Attributes:
        fields: of single fields, what is in them.
        lists: of groups of check boxes, what is ticked.
        rows: of repeated groups, the rows with their fields.
        columns: of the dataset, as its published version shows them.
        faults: what is wrong, by the id of the element it is shown at; ``""`` is the whole form.
    """

    fields: dict[str, str] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, list[dict[str, str]]] = field(default_factory=dict)
    columns: tuple[ColumnFacts, ...] = ()
    faults: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_pairs(cls, pairs: Sequence[tuple[str, str]]) -> Form:
        """The form that a browser sent, with a row more or less where a button asked for it."""
        form = cls(lists={name: [] for name in _LISTS})
        for name, value in pairs:
            if name in form.lists:
                form.lists[name].append(value)
            else:
                form.fields[name] = value
        for group, names in REPEATED.items():
            values = [[value for other, value in pairs if other == name] for name in names]
            rows = zip_longest(*values, fillvalue="")
            form.rows[group] = [dict(zip(names, row, strict=True)) for row in rows]
        form._press(form.fields.pop("press", ""))
        return form

    @classmethod
    def empty(cls, dataset: str) -> Form:
        """The form before anything is filled in."""
        name = f"{dataset}-test"[:63] if dataset and dataset != DESCRIBED else ""
        fields = {"dataset": dataset, "name": name, "rows": "1000", "shares": "none", "csv": ""}
        return cls(fields, {name: [] for name in _LISTS}, {name: [] for name in REPEATED})

    def get(self, name: str) -> str:
        """What is in a field."""
        return self.fields.get(name, "").strip()

    def column(self, name: str) -> ColumnFacts | None:
        """What is known of a column."""
        return next((column for column in self.columns if column.name == name), None)

    def choices(self) -> tuple[ColumnFacts, ...]:
        """The columns of which categories are known."""
        return tuple(column for column in self.columns if column.values)

    def shown_rows(self, group: str) -> list[dict[str, str]]:
        """The rows of a repeated group, at least one."""
        blank = dict.fromkeys(REPEATED[group], "")
        return self.rows.get(group) or [blank]

    def parse(self) -> DataRequest | None:
        """The request, or None with all its faults noted."""
        self.faults = {}
        raw = self.to_request()
        try:
            request = parse_request(raw)
        except RequestError as error:
            self.note(error.problems)
            return None
        return None if self.faults else request

    def note(self, problems: Sequence[Problem]) -> None:
        """Note problems at the fields where they can be mended."""
        for problem in problems:
            self._fault(self._place(problem.field), problem.message)

    def to_request(self) -> dict[str, Any]:
        """The request as ``parse_request`` takes it; notes what cannot be read as a number."""
        metadata = {name: self.get(name) for name in ("name", "owner", "purpose", "ticket")}
        days = self._number("expires", int)
        spec: dict[str, Any] = {
            "source": self._source(),
            "rows": self._number("rows", int),
            "seed": self._number("seed", int),
            "where": [self._condition("where", row) for row in self._filled("where")],
            **self._shares(),
            "edge_cases": self._edge_cases(),
            "privacy": {"level": self.get("level") or None, "k": self._number("k", int)},
            "columns": self._columns(),
            "splits": self._splits(),
            "output": {"formats": ["parquet", "csv"] if self.get("csv") else ["parquet"]},
            "lifecycle": {} if days is None else {"expires": f"{days}d"},
            "preview": self._number("preview", int),
        }
        return {
            "apiVersion": "likeness/v1",
            "kind": "DataRequest",
            "metadata": {name: value for name, value in metadata.items() if value},
            "spec": {name: value for name, value in spec.items() if value not in (None, [], {})},
        }

    def idempotency_key(self, request: DataRequest) -> str:
        """The same for a form that is sent twice, another for one that was changed."""
        said = f"{self.get('once')} {request.to_yaml()}"
        return f"form-{hashlib.sha256(said.encode()).hexdigest()}"

    def _press(self, button: str) -> None:
        """Do what ``add:where`` or ``drop:where:2`` says."""
        action, _, what = button.partition(":")
        group, _, number = what.partition(":")
        if group not in REPEATED:
            return
        rows = self.rows[group]
        if action == "add":
            rows.append(dict.fromkeys(REPEATED[group], ""))
        elif action == "drop" and re.fullmatch(r"[0-9]{1,4}", number) and int(number) < len(rows):
            del rows[int(number)]

    @property
    def described(self) -> bool:
        """Whether columns are described here, instead of a dataset's."""
        return self.get("dataset") == DESCRIBED

    def described_columns(self) -> tuple[ColumnFacts, ...]:
        """What a form may offer of the columns that are described in it."""
        found = []
        for row in self._filled("described"):
            name, kind = row["described_name"].strip(), row["described_kind"] or "id"
            given = self._declared(row)
            facts = ColumnFacts(
                name,
                kind,
                _TYPES.get(kind, kind),
                values=tuple(given.get("categories", ())),
                low=given.get("min"),
                high=given.get("max"),
            )
            found.extend([facts] if name else [])
        return tuple(found)

    def _source(self) -> dict[str, Any]:
        if not self.described:
            return {"dataset": self.get("dataset")}
        columns: dict[str, Any] = {}
        for row in self._filled("described"):
            name, place = row["described_name"].strip(), f"described-{row['number']}"
            if not name:
                self._fault(place, "a name is needed")
            elif name in columns:
                self._fault(place, f"there is another column {name}")
            columns[name] = self._declared(row)
        if not columns:
            self._fault("described-0", "describe at least one column")
        return {"schema": {"columns": columns}}

    def _declared(self, row: dict[str, str]) -> dict[str, Any]:
        """A described column, as a declaration has it."""
        place, kind = f"described-{row['number']}", row["described_kind"] or "id"
        column: dict[str, Any] = {"kind": kind}
        if missing := self._as_number(place, row["described_missing"], float, 0.01):
            column["null_share"] = missing
        text = row["described_values"].strip()
        if kind == "boolean":
            share = self._as_number(place, text, float, 0.01)
            return column if share is None else {**column, "true_share": share}
        if kind == "category":
            return {**column, "categories": self._categories(place, text)}
        if kind in ("id", "text"):
            way = "faker" if re.fullmatch(r"[a-z][a-z0-9_]*", text) else "pattern"
            return {**column, way: text} if text else column
        return column | self._range(place, kind, text)

    def _categories(self, place: str, text: str) -> list[str] | dict[str, float]:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        weighed = [_WEIGHED.fullmatch(part) for part in parts]
        if not any(weighed):
            return parts
        weights = {found[1]: _number(found[2]) for found in weighed if found}
        if not all(weighed) or None in weights.values():
            self._fault(place, "give each value its weight, or none: paid: 70, open: 30")
        return {value: float(weight or 0) for value, weight in weights.items()}

    def _range(self, place: str, kind: str, text: str) -> dict[str, Any]:
        """Both ends; a number has as many decimals as they are written with."""
        ends = [part.strip() for part in _ENDS.split(text) if part.strip()]
        if len(ends) != 2:
            self._fault(place, f"the range is needed: {DESCRIBED_KINDS[kind][1]}")
            return {}
        if kind not in ("integer", "number"):
            return {"min": _moment(ends[0], kind), "max": _moment(ends[1], kind)}
        low, high = (_number(end) for end in ends)
        if low is None or high is None:
            self._fault(place, "both ends are numbers")
        decimals = max(len(end.partition(".")[2]) for end in ends)
        return {"min": low, "max": high, **({"decimals": decimals} if kind == "number" else {})}

    def _filled(self, group: str) -> Iterator[dict[str, str]]:
        """The rows of a group that are not empty, each with its number on the page."""
        for number, row in enumerate(self.rows.get(group, [])):
            chosen = ("_op", "_kind")
            if any(text.strip() for name, text in row.items() if not name.endswith(chosen)):
                yield {**row, "number": str(number)}

    def _condition(self, group: str, row: dict[str, str]) -> dict[str, Any]:
        """One condition, with its value as the column's type wants it."""
        name = row["where_column"] if group == "where" else self.get("quota_column")
        op, text = row[f"{group}_op"] or "=", row[f"{group}_value"].strip()
        place = f"{group}-{row['number']}"
        if not name:
            self._fault(place, "choose a column")
        column = self.column(name)
        if name and self.columns and column is None:
            self._fault(place, f"this dataset has no column {name}")
        condition: dict[str, Any] = {"column": name, "op": op}
        if op in ("is missing", "is not missing"):
            return condition
        if not text:
            self._fault(place, "a value is needed")
        if op == "between":
            parts = _ENDS.split(text)
        else:
            parts = text.split(",") if "in" in op.split() else [text]
        values = [self._value(place, column, part.strip()) for part in parts if part.strip()]
        several = op in ("in", "not in", "between")
        return {**condition, "value": values if several else values[0] if values else ""}

    def _value(self, place: str, column: ColumnFacts | None, text: str) -> Any:  # noqa: ANN401
        if column is None:
            return text
        if column.values and text not in {str(value) for value in column.values}:
            known = ", ".join(str(value) for value in column.values[:8])
            more = ", …" if len(column.values) > 8 else ""
            self._fault(place, f"the published values of {column.name} are {known}{more}")
        if column.type in ("integer", "number"):
            number = _number(text)
            if number is None:
                self._fault(place, f"{column.name} is a number")
            return text if number is None else number
        return text

    def _shares(self) -> dict[str, Any]:
        way = self.get("shares")
        if way == "balance":
            return {"balance": self._balance()}
        if way == "quotas":
            return {"quotas": [self._quota(row) for row in self._filled("quota")]}
        if way == "fairness":
            sensitive = self.lists.get("fair_sensitive", [])
            return {"fairness": {"target": self.get("fair_target") or None, "sensitive": sensitive}}
        return {}

    def _balance(self) -> dict[str, Any]:
        name = self.get("balance_column")
        column = self.column(name)
        given = {}
        for place, value in enumerate(column.values if column else ()):
            share = self._number(f"balance_{place}", float, 0.01)
            if share is not None:
                given[str(value)] = share
        if not name:
            self._fault("shares", "choose the column to balance")
        elif not given:
            self._fault("shares", f"give the share of at least one value of {name}")
        return {"column": name, "probabilities": given}

    def _quota(self, row: dict[str, str]) -> dict[str, Any]:
        from ..requests.model import StructuredCondition

        place = f"quota-{row['number']}"
        raw = self._condition("quota", row)
        try:
            condition = StructuredCondition.model_validate(raw).text
        except ValueError:
            self._fault(place, "choose a column and give a value")
            condition = "incomplete"
        share = self._as_number(place, row["quota_share"], float, 0.01)
        if share is None:
            self._fault(place, "give its share in per cent")
        return {"condition": condition, "share": share}

    def _edge_cases(self) -> dict[str, Any]:
        nulls = {}
        for row in self._filled("null"):
            place = f"null-{row['number']}"
            share = self._as_number(place, row["null_share"], float, 0.01)
            if not row["null_column"] or share is None:
                self._fault(place, "choose a column and give its share in per cent")
            else:
                nulls[row["null_column"]] = share
        cases = {
            "null_rate": nulls,
            "boundary": self.lists.get("boundary", []),
            "unseen_category": self.lists.get("unseen", []),
            "unicode": bool(self.get("unicode")),
            "duplicates": self._number("duplicates", float, 0.01),
        }
        return {name: value for name, value in cases.items() if value}

    def _columns(self) -> dict[str, Any]:
        """The ticked columns; all of them where the page did not show the boxes."""
        if self.get("columns_shown") != self.get("dataset"):
            return {}
        kept = self.lists.get("include", [])
        if not kept:
            self._fault("include", "keep at least one column")
        left_out = [column.name for column in self.columns if column.name not in kept]
        return {"exclude": left_out} if left_out else {}

    def _splits(self) -> dict[str, float]:
        share = self._number("test_share", float, 0.01)
        return {"train": 1 - share, "test": share} if share else {}

    def _number(self, name: str, kind: type[int] | type[float], scale: float = 1.0) -> Any:  # noqa: ANN401
        return self._as_number(name, self.fields.get(name, ""), kind, scale)

    def _as_number(
        self, place: str, text: str, kind: type[int] | type[float], scale: float = 1.0
    ) -> Any:  # noqa: ANN401
        text = text.strip().rstrip("%").replace("_", "")
        if not text:
            return None
        value = _number(text.replace(",", "") if kind is int else text)
        if value is None or (kind is int and not isinstance(value, int)):
            self._fault(place, "a whole number is needed" if kind is int else "a number is needed")
            return None
        return value if kind is int else round(value * scale, 12)

    def _place(self, said: str) -> str:
        if said.startswith(_OF_SCHEMA):
            return self._place_of_column(said.removeprefix(_OF_SCHEMA))
        for pattern, place in _PLACES:
            if found := re.match(pattern, said):
                return self._renumbered(found.expand(place))
        return ""

    def _place_of_column(self, said: str) -> str:
        """The row of the described column that a problem begins with; names may hold dots."""
        for row in self._filled("described"):
            name = row["described_name"].strip()
            if said == name or said.startswith(f"{name}."):
                return f"described-{row['number']}"
        return "dataset"

    def _renumbered(self, place: str) -> str:
        """The row on the page of the n-th condition of the request: empty rows do not count."""
        group, _, number = place.partition("-")
        if group not in REPEATED or not number:
            return place
        filled = list(self._filled(group))
        place_on_page = filled[int(number)]["number"] if int(number) < len(filled) else number
        return f"{group}-{place_on_page}"

    def _fault(self, place: str, message: str) -> None:
        self.faults.setdefault(place, message)


def _moment(text: str, kind: str) -> dt.date | str:
    """A day as such; what is none, and a moment with its time, is left to the request to read."""
    try:
        return dt.date.fromisoformat(text) if kind == "date" else text
    except ValueError:
        return text


def _number(text: str) -> int | float | None:
    """A finite number, whole where it is written so."""
    try:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,30}", text) else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
