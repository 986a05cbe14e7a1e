"""What a published version says of itself to machines, beside its manifest.

``manifest.schema.json`` is the JSON Schema (draft 2020-12) of ``manifest.json``; ``schema.json`` is
a Table Schema (https://datapackage.org/standard/table-schema/) of the columns; ``croissant.json``
is for machine learning tools, ``openlineage.json`` for lineage catalogues. All of it is made from
the declared schema and the synthetic rows alone, and the same release gives the same bytes.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .croissant import CROISSANT, croissant
from .lineage import OPEN_LINEAGE, open_lineage
from .manifest import ColumnInfo, Manifest, canonical_json

MANIFEST_SCHEMA = "manifest.schema.json"
TABLE_SCHEMA = "schema.json"

# A column of more categories than this is described by its type; a list would help nobody.
_MAX_CATEGORIES = 1_000
_CATEGORIES = (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)
_TABLE_SCHEMA_PROFILE = "https://datapackage.org/profiles/2.0/tableschema.json"
_FIELD_TYPES = {
    "bool": "boolean",
    "string": "string",
    "date": "date",
    "time": "time",
    "duration": "duration",
}


class Shown:
    """What the rows of a version show, column by column, taken in parts."""

    def __init__(self) -> None:
        self.missing: dict[str, int] = {}
        self._levels: dict[str, pa.Array | None] = {}

    def update(self, table: pa.Table) -> None:
        """Take the next rows."""
        for name in table.column_names:
            values = table.column(name)
            self.missing[name] = self.missing.get(name, 0) + values.null_count
            kind = values.type
            if any(test(kind) for test in _CATEGORIES):
                self._levels[name] = self._joined(name, pc.unique(values).drop_null())

    def levels(self, name: str) -> list[int] | list[str] | None:
        """The values of a column, sorted; None where they are too many, or no categories."""
        found = self._levels.get(name)
        return None if found is None else sorted(found.to_pylist())

    def _joined(self, name: str, new: pa.Array) -> pa.Array | None:
        known = self._levels.get(name, new)
        if known is None:
            return None
        joined = pc.unique(pa.concat_arrays([known, new]))
        return joined if len(joined) <= _MAX_CATEGORIES else None


def describe(manifest: Manifest, shown: Shown) -> dict[str, bytes]:
    """The files that describe a version to machines: name in the snapshot -> bytes.

    Args:
        manifest: of the version, as far as it is known: without these files.
        shown: what all rows of the version show.
    """
    return {
        MANIFEST_SCHEMA: manifest_schema(),
        TABLE_SCHEMA: canonical_json(table_schema(manifest.columns, shown)),
        CROISSANT: canonical_json(croissant(manifest)),
        OPEN_LINEAGE: canonical_json(open_lineage(manifest)),
    }


def manifest_schema() -> bytes:
    """The JSON Schema of ``manifest.json`` that this version of Likeness publishes."""
    return (files("pipelines.publication") / "schemas" / "manifest-1.json").read_bytes()


def table_schema(columns: tuple[ColumnInfo, ...], shown: Shown) -> dict[str, Any]:
    """The columns as a Table Schema; categories are those that the synthetic rows show.

    ``missingValues`` is empty since Parquet has nulls of its own: an empty text is a text.
    ``likeness:missing`` counts the nulls, ``likeness:type`` is the exact stored type.
    """
    return {
        "$schema": _TABLE_SCHEMA_PROFILE,
        "fields": [_field(column, shown) for column in columns],
        "missingValues": [],
    }


def _field(column: ColumnInfo, shown: Shown) -> dict[str, Any]:
    constraints: dict[str, Any] = {"required": not column.nullable}
    kind = _field_type(column.type)
    if column.kind == "categorical" and kind in ("integer", "string"):
        levels = shown.levels(column.name)
        if levels is not None:
            constraints["enum"] = levels
    field = {
        "name": column.name,
        "type": kind,
        "description": column.description,
        "constraints": constraints,
        "likeness:kind": column.kind,
        "likeness:type": column.type,
        "likeness:missing": shown.missing.get(column.name, 0),
    }
    return field | ({"likeness:role": column.role} if column.role else {})


def _field_type(logical: str) -> str:
    if logical.startswith("timestamp"):
        return "datetime"
    if logical.startswith(("int", "uint")):
        return "integer"
    return (
        "number" if logical.startswith(("float", "decimal")) else _FIELD_TYPES.get(logical, "any")
    )
