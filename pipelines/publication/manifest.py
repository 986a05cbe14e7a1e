"""``manifest.json``: what a published version is, where it comes from, and the hash of each file.

Its own SHA-256 names the snapshot, so equal inputs must give equal bytes: everything in it,
``created_at`` included, is passed in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from generators.schema import ImageSchema, Schema

MANIFEST = "manifest.json"
VERDICT = "reports/verdict.json"
CONTRACT, SCORECARD = "reports/contract.json", "reports/scorecard.json"
ROWS_VERDICT, ROWS_SCORECARD = "reports/rows/verdict.json", "reports/rows/scorecard.json"
"""On the rows of a table with an image column."""
REPORT = "reports/report.html"
README = "README.md"


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        # A manifest is written with all its fields, and its JSON Schema says so.
        json_schema_serialization_defaults_required=True,
    )


class ColumnInfo(_Record):
    """The declared part of a column: no level, no range, no value of it."""

    name: str
    kind: str
    type: str
    nullable: bool = False
    role: Literal["", "target", "protected", "label"] = ""
    description: str = ""


class Gate(_Record):
    """One judged number of the verdict.

    Attributes:
        gate: its name in the contract.
        dimension: structure, fidelity, utility, diversity, privacy or bias.
        severity: a failed ``critical`` gate stops a release, a failed ``warning`` is shown.
        status: ``passed``, ``failed``, ``inconclusive`` or ``not applicable``.
        value, low, high: the estimate and its 95 % interval; None where there is no number.
        reference: the same measure between real and real data.
        bound: the requirement in words.
        proof: whether it holds only when proven good; else it fails only when proven bad.
        waiver: why the owner of the data lets its failure be shown instead of stopping the release.
    """

    model_config = ConfigDict(extra="ignore")

    gate: str
    dimension: str
    status: str
    severity: str = "critical"
    metric: str = ""
    subject: str = "all"
    value: float | None = Field(default=None, allow_inf_nan=False)
    low: float | None = Field(default=None, allow_inf_nan=False)
    high: float | None = Field(default=None, allow_inf_nan=False)
    reference: float | None = Field(default=None, allow_inf_nan=False)
    bound: str = ""
    why: str = ""
    reason: str = ""
    proof: bool = False
    waiver: str = ""

    @property
    def holds(self) -> bool:
        """Whether it holds: an open question does where no proof is asked for."""
        return self.status == "passed" or (self.open and not self.proof)

    @property
    def open(self) -> bool:
        """Whether the rows are too few to tell."""
        return self.status == "inconclusive"

    @property
    def applies(self) -> bool:
        """Whether anything is asked."""
        return self.status != "not applicable"


class VerdictSummary(_Record):
    """What ``reports/verdict.json`` says; whoever publishes has judged the verdict itself.

    Attributes:
        candidate_digest: content digest of the rows that were judged.
    """

    model_config = ConfigDict(extra="ignore")

    passed: bool
    candidate_digest: str
    contract: str = ""
    contract_digest: str = ""
    gates: tuple[Gate, ...] = ()

    def of(self, dimension: str) -> tuple[Gate, ...]:
        """The gates of one dimension."""
        return tuple(gate for gate in self.gates if gate.dimension == dimension)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The dimensions that were judged, in the order of their gates."""
        return tuple(dict.fromkeys(gate.dimension for gate in self.gates))


class Facts(_Record):
    """What the publisher says about a release; the rest of the manifest is measured here.

    Attributes:
        title: for people; the dataset's name where it is empty.
        license: SPDX identifier of the published data.
        citation: of the real data.
        reproduce: generator, parameters, seeds, digests, versions: no value of the data.
        source: what was learned from.
        protection: what was done to the real data before training, in words.
    """

    title: str = ""
    description: str = ""
    license: str = "other"
    citation: str = ""
    owners: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    reproduce: dict[str, JsonValue] = {}
    source: dict[str, JsonValue] = {}
    protection: tuple[str, ...] = ()


class FileEntry(_Record):
    """One published file. Data files also have rows, row groups, a content digest and a split."""

    path: str
    bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    rows: int | None = Field(default=None, ge=0)
    row_groups: int | None = Field(default=None, ge=0)
    content_digest: str | None = None
    split: str | None = None


class Manifest(Facts):
    """All that is known of a published version. The order of data files is the order of rows."""

    manifest_version: Literal[1] = 1
    dataset: str
    kind: Literal["table", "image"]
    synthetic: Literal[True] = True
    key: str
    created_at: str
    content_digest: str
    rows: int = Field(ge=0)
    columns: tuple[ColumnInfo, ...]
    verdict: VerdictSummary
    files: tuple[FileEntry, ...]

    @property
    def data_files(self) -> tuple[FileEntry, ...]:
        """The Parquet files, in the order of their rows."""
        return tuple(file for file in self.files if file.rows is not None)

    @property
    def splits(self) -> dict[str, int]:
        """Rows of each split."""
        rows: dict[str, int] = {}
        for file in self.data_files:
            rows[file.split or "train"] = rows.get(file.split or "train", 0) + (file.rows or 0)
        return rows

    def has(self, path: str) -> bool:
        """Whether a file is among the published ones."""
        return any(file.path == path for file in self.files)

    def to_bytes(self) -> bytes:
        """The bytes of ``manifest.json``; equal manifests give equal bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest that ``to_bytes`` wrote.

        Raises:
            ValueError: the bytes are no manifest of this version.
        """
        return cls.model_validate_json(data)


def columns_of(schema: Schema, names: Sequence[str] = ()) -> tuple[ColumnInfo, ...]:
    """The declared columns of what ``to_arrow`` makes of ``schema``, without any value of them.

    Args:
        schema: of the data.
        names: columns of the published files, which tell whether images have their origin.
    """
    from .digest import logical_type
    from .parquet import arrow_type

    if isinstance(schema, ImageSchema):
        if schema.table is None:
            return _image_columns(schema, with_origin="seed" in names)
        (image,) = _image_columns(replace(schema, classes=("all",)), with_origin=False)[1:]
        return (*columns_of(schema.table), image)
    roles = dict.fromkeys(schema.protected, "protected") | {schema.target: "target"}
    return tuple(
        ColumnInfo(
            name=column.name,
            kind=column.kind,
            type=logical_type(arrow_type(column)),
            nullable=column.nullable,
            role=roles.get(column.name, ""),  # type: ignore[arg-type]
            description=column.description,
        )
        for column in schema.columns
    )


def _image_columns(schema: ImageSchema, *, with_origin: bool) -> tuple[ColumnInfo, ...]:
    size = f"{schema.height} × {schema.width} pixels, {schema.channels} channel(s), PNG"
    columns = [ColumnInfo(name="id", kind="id", type="int64", description="number of the image")]
    if schema.labelled:
        number = f"number of the class, 0 to {len(schema.classes) - 1}"
        columns += [
            ColumnInfo(
                name="label", kind="categorical", type="int64", role="label", description=number
            ),
            ColumnInfo(
                name="label_name", kind="categorical", type="string", description="its name"
            ),
        ]
    if with_origin:
        seed = "with the class, what the model makes this image from again"
        evaluations = "evaluations of the network for this image"
        columns += [
            ColumnInfo(name="seed", kind="id", type="int64", description=seed),
            ColumnInfo(name="nfe", kind="numerical", type="int32", description=evaluations),
            ColumnInfo(name="model", kind="id", type="string", description="digest of the model"),
        ]
    return (*columns, ColumnInfo(name="image", kind="image", type="image", description=size))


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """JSON bytes: sorted keys, UTF-8, one line feed at the end; NaN is refused."""
    text = json.dumps(value, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def iso(at: datetime) -> str:
    """A time in UTC as ``2026-01-31T12:00:00.000000Z``."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
