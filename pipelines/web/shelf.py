"""What the lake holds, for both doors: datasets, versions, columns, rows, files; nothing else.

Everything here was published and is synthetic. A file is served if and only if the manifest of a
committed version names it.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pyarrow.parquet as pq

from generators.base import ParameterError

from ..publication import log
from ..publication.catalogue import Listed, dataset_names, listing
from ..publication.manifest import MANIFEST, FileEntry, Manifest, sha256
from ..publication.metadata import TABLE_SCHEMA
from ..publication.store import Lake, PublicationError, Store, check_dataset_name, open_lake
from ..publication.tombstone import Tombstone
from .problems import ProblemError

MAX_ROWS = 200
"""Rows that are shown at once; all of them are in the files."""
_RANGED = ("integer", "number", "date", "datetime")


@dataclass(frozen=True)
class ColumnFacts:
    """What a form may offer of a column: what the published version itself shows.

    Attributes:
        type: of Table Schema: integer, number, string, boolean, date, datetime, ...
        values: the categories among the published rows, where there are few.
        low, high: the ends of the published values, where they are ordered.
    """

    name: str
    kind: str
    type: str
    role: str = ""
    description: str = ""
    nullable: bool = False
    values: tuple[Any, ...] = ()
    low: Any = None
    high: Any = None


@dataclass(frozen=True)
class Version:
    """A committed version of a dataset."""

    lake: Lake
    dataset: str
    entry: log.LogEntry
    retired: Tombstone | None = None

    @property
    def manifest(self) -> Manifest:
        """What it says of itself."""
        return _manifest(self.lake, self.dataset, self.entry)

    @property
    def store(self) -> Store:
        """What holds its files."""
        return open_lake(self.lake)

    @property
    def folder(self) -> str:
        """Its folder in the lake."""
        return f"{self.dataset}/{self.entry.snapshot}"

    @property
    def number(self) -> int:
        """Its number."""
        return self.entry.version

    def file(self, path: str) -> tuple[str, str, int]:
        """Name in the store, SHA-256 and bytes of one of its files.

        Raises:
            ProblemError: its manifest names no such file.
        """
        if path == MANIFEST:
            size = len(self.manifest.to_bytes())
            return f"{self.folder}/{MANIFEST}", self.entry.manifest_sha256, size
        for entry in self.manifest.files:
            if entry.path == path:
                return f"{self.folder}/{path}", entry.sha256, entry.bytes
        raise ProblemError(404, "a file must be one that the manifest names, this is none")


def datasets(lake: Lake, words: str = "") -> list[Listed]:
    """The datasets that hold all of ``words``, those with a standing version first."""
    listed = [one(lake, name) for name in dataset_names(open_lake(lake))]
    wanted = words.lower().split()
    found = [item for item in listed if all(word in item.words for word in wanted)]
    return sorted(found, key=lambda item: (item.manifest is None, item.name))


def one(lake: Lake, dataset: str) -> Listed:
    """What the catalogue shows of a dataset; read anew when its log has changed."""
    try:
        state = tuple((entry.sha256, stone is not None) for entry, stone in versions(lake, dataset))
    except ProblemError:
        return listing(open_lake(lake), dataset)
    return _listed(lake, dataset, state)


def version(lake: Lake, dataset: str, number: int | None = None) -> Version:
    """A version of a dataset; without a number, the newest that is not retired.

    Raises:
        ProblemError: there is none, or the lake is damaged.
    """
    store = open_lake(lake)
    try:
        entries = log.read(store, check_dataset_name(dataset))
        newest = log.newest(store, dataset) if number is None else None
    except ParameterError:
        raise ProblemError(404, "there is no dataset of this name") from None
    except PublicationError:
        raise damaged(dataset) from None
    if not entries:
        raise ProblemError(404, "there is no dataset of this name")
    if number is None and newest is None:
        raise ProblemError(404, "all versions of this dataset are retired")
    wanted = number if number is not None else newest.version if newest else 0
    if not 1 <= wanted <= len(entries):
        raise ProblemError(404, f"the dataset has the versions 1 to {len(entries)}")
    entry = entries[wanted - 1]
    stone = log.tombstone(store, dataset, entry)
    return Version(lake, dataset, entry, stone)


def versions(lake: Lake, dataset: str) -> list[tuple[log.LogEntry, Tombstone | None]]:
    """All versions, newest first, each with its tombstone where it is retired.

    Raises:
        ProblemError: there is no such dataset, or the lake is damaged.
    """
    store = open_lake(lake)
    try:
        entries = log.read(store, check_dataset_name(dataset))
        found = [(entry, log.tombstone(store, dataset, entry)) for entry in reversed(entries)]
    except ParameterError:
        found = []
    except PublicationError:
        raise damaged(dataset) from None
    if not found:
        raise ProblemError(404, "there is no dataset of this name")
    return found


def damaged(dataset: str) -> ProblemError:
    """The answer where the lake is not whole."""
    return ProblemError(500, f"the lake must be whole, it is not; run: likeness verify {dataset}")


def rows(shown: Version, offset: int, limit: int) -> list[dict[str, Any]]:
    """Published rows in their order, as JSON can hold them; pictures are left out.

    Args:
        shown: of which version.
        offset: rows to pass over.
        limit: at most so many.
    """
    names = [column.name for column in shown.manifest.columns if column.type != "image"]
    taken: list[dict[str, Any]] = []
    for entry in shown.manifest.data_files:
        if offset >= (entry.rows or 0):
            offset -= entry.rows or 0
            continue
        with shown.store.open(f"{shown.folder}/{entry.path}") as stream:
            parquet = pq.ParquetFile(stream, page_checksum_verification=True)
            for group in range(parquet.num_row_groups):
                count = parquet.metadata.row_group(group).num_rows
                if offset < count and len(taken) < limit:
                    part = parquet.read_row_group(group, columns=names)
                    taken += part.slice(offset, limit - len(taken)).to_pylist()
                offset = max(0, offset - count)
        if len(taken) == limit:
            break
    return [{name: plain(value) for name, value in row.items()} for row in taken]


def columns(shown: Version) -> tuple[ColumnFacts, ...]:
    """The columns of a version as a form may offer them."""
    return _columns(shown.lake, shown.dataset, shown.entry)


def plain(value: Any) -> Any:  # noqa: ANN401 - any cell
    """A cell as JSON can hold it."""
    if isinstance(value, float):
        return value + 0.0 if math.isfinite(value) else None
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dt.timedelta | Decimal):
        return str(value)
    if isinstance(value, bytes | dict | list):
        return None
    return value


@functools.lru_cache(maxsize=256)
def _manifest(lake: Lake, dataset: str, entry: log.LogEntry) -> Manifest:
    """The manifest of a committed version; it never changes, so it is read once."""
    try:
        data = open_lake(lake).get(f"{dataset}/{entry.snapshot}/{MANIFEST}")
        if sha256(data) == entry.manifest_sha256:
            return Manifest.from_bytes(data)
    except FileNotFoundError:
        raise ProblemError(410, "the files of this version were removed") from None
    except (OSError, ValueError):
        pass
    raise damaged(dataset)


@functools.lru_cache(maxsize=512)
def _listed(lake: Lake, dataset: str, state: tuple[tuple[str, bool], ...]) -> Listed:  # noqa: ARG001
    return listing(open_lake(lake), dataset)


@functools.lru_cache(maxsize=64)
def _columns(lake: Lake, dataset: str, entry: log.LogEntry) -> tuple[ColumnFacts, ...]:
    store, folder = open_lake(lake), f"{dataset}/{entry.snapshot}"
    manifest = _manifest(lake, dataset, entry)
    try:
        fields = json.loads(store.get(f"{folder}/{TABLE_SCHEMA}"))["fields"]
    except FileNotFoundError:
        fields = []
    known = {field["name"]: field for field in fields}
    ends = _ends(store, folder, manifest.data_files)
    facts = []
    for column in manifest.columns:
        said = known.get(column.name, {})
        kind = said.get("type", "any")
        low, high = ends.get(column.name, (None, None)) if kind in _RANGED else (None, None)
        facts.append(
            ColumnFacts(
                name=column.name,
                kind=column.kind,
                type=kind,
                role=column.role,
                description=column.description,
                nullable=column.nullable,
                values=tuple(said.get("constraints", {}).get("enum", ())),
                low=plain(low),
                high=plain(high),
            )
        )
    return tuple(facts)


def _ends(store: Store, folder: str, files: tuple[FileEntry, ...]) -> dict[str, tuple[Any, Any]]:
    """Least and greatest published value of each column, from the statistics of the files."""
    ends: dict[str, tuple[Any, Any]] = {}
    for entry in files:
        with store.open(f"{folder}/{entry.path}") as stream:
            metadata = pq.ParquetFile(stream).metadata
        for group in range(metadata.num_row_groups):
            for number in range(metadata.num_columns):
                column = metadata.row_group(group).column(number)
                found = column.statistics
                if found is None or not found.has_min_max:
                    continue
                low, high = ends.get(column.path_in_schema, (found.min, found.max))
                ends[column.path_in_schema] = (min(low, found.min), max(high, found.max))
    return ends
