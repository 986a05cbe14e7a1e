"""Publish a release: all of it or nothing, once, whatever crashes and whoever else publishes.

1. Find the release key in the log; if it is there, that version is the answer.
2. Stage all files, synced, with their hashes, and the manifest.
3. Place the folder at ``snapshots/<first 16 digits of the manifest's SHA-256>``, by one rename.
4. Read the placed files again and verify them.
5. Commit: create the next log entry, which only one process can. A version exists from here on.
6. Refresh ``latest.json``.

A crash before 5 leaves files that no reader sees and the next attempt does not need; a crash after
5 leaves a complete version that the next attempt returns. ``place`` is 1 to 4, all that can refuse
a release, and ``commit`` the rest: who publishes several that belong together places all of them
before the first commit.
"""

from __future__ import annotations

import io
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import ValidationError

from generators.base import ParameterError
from generators.schema import ImageSchema, Schema

from . import log
from .card import render_card
from .croissant import CROISSANT
from .digest import ContentDigest
from .lineage import OPEN_LINEAGE
from .log import Commit, LogEntry, Published
from .manifest import (
    MANIFEST,
    README,
    VERDICT,
    Facts,
    FileEntry,
    Manifest,
    VerdictSummary,
    columns_of,
    iso,
    sha256,
)
from .metadata import MANIFEST_SCHEMA, TABLE_SCHEMA, Shown, describe
from .parquet import read_batches
from .store import (
    Lake,
    PublicationError,
    Store,
    check_dataset_name,
    check_name,
    disk_problem,
    open_lake,
    removed_afterwards,
)
from .verify import Check, check_snapshot, file_sha256, verdict_problem

WRITTEN_HERE = (MANIFEST, MANIFEST_SCHEMA, TABLE_SCHEMA, CROISSANT, OPEN_LINEAGE)
_DATA = re.compile(r"^data/([a-z]+)-\d{5}-of-\d{5}\.parquet$")


@dataclass(frozen=True, kw_only=True)
class PublishRequest:
    """What to publish.

    Attributes:
        dataset: its name, 1 to 63 of ``a-z 0-9 . _ -``.
        key: the release key: the same key is published once.
        files: name in the snapshot -> source. Needs ``reports/verdict.json`` and at least one
            ``data/<split>-00000-of-00001.parquet``; the order of data files is that of their rows.
            ``README.md`` is written unless it is given.
        schema: of the data; its declared part is published.
        rows: number of rows of all data files.
        content_digest: digest of the rows that the verdict is about.
        facts: the fields of ``manifest.Facts``. A key ``gates``, if given, must be the JSON of the
            verdict.
        created_at: time of the release, ISO 8601 with a zone; best the same on every attempt, since
            a folder that a crash left behind is then used again.
    """

    dataset: str
    key: str
    files: Mapping[str, Path]
    schema: Schema
    rows: int
    content_digest: str
    facts: Mapping[str, Any]
    created_at: str

    def __post_init__(self) -> None:
        check_dataset_name(self.dataset)
        if not self.key:
            raise ParameterError("a release needs a key, it is empty; derive one from its inputs")
        _utc(self.created_at)
        for name in self.files:
            check_name(name)
            if name in WRITTEN_HERE or (name.startswith("data/") and not _DATA.fullmatch(name)):
                raise ParameterError(
                    "data files must be called data/train-00000-of-00001.parquet and "
                    f"{', '.join(WRITTEN_HERE)} are written here; got {name!r}; rename it"
                )
        if VERDICT not in self.files or not any(_DATA.fullmatch(name) for name in self.files):
            raise ParameterError(
                f"a release must hold {VERDICT} and a data/*.parquet, it holds "
                f"{len(self.files)} other file(s); add them"
            )


@dataclass(frozen=True)
class Placed:
    """A release whose files lie whole in the lake, though no version names them yet.

    Attributes:
        dataset: its name.
        commit: what the log is to say of it.
        fresh: whether these files were placed now, not by an attempt before.
        existing: whether the log says it already.
    """

    dataset: str
    commit: Commit
    fresh: bool = False
    existing: bool = False


Inspect = Callable[[Mapping[str, str]], object]
"""Is shown the texts that are written here, by name; what it raises stops the publication."""


def publish(lake: Lake, release: PublishRequest, inspect: Inspect | None = None) -> Published:
    """Publish ``release`` in ``lake`` and return its version; a known key returns the old one.

    Raises:
        PublicationError: the verdict does not release these rows, a file was damaged on its way,
            the key's version is retired, or the disk refused; nothing was acknowledged.
        DataError: a data file cannot be read.
    """
    store = open_lake(lake)
    entry, existing = publish_to(store, release, inspect)
    return log.published(store, release.dataset, entry, existing=existing)


def publish_to(
    store: Store, release: PublishRequest, inspect: Inspect | None = None
) -> tuple[LogEntry, bool]:
    """``publish`` into any store: the log entry, and whether the key was there before."""
    return commit(store, place(store, release, inspect))


def place(store: Store, release: PublishRequest, inspect: Inspect | None = None) -> Placed:
    """Bring the files of ``release`` to their place, where no reader sees them before ``commit``.

    Raises:
        PublicationError: as ``publish``.
        DataError: a data file cannot be read.
    """
    try:
        entry = log.find(store, release.dataset, release.key)
        if entry is None:
            return _staged_and_placed(store, release, inspect)
        if log.tombstone(store, release.dataset, entry):
            raise PublicationError(
                f"a retired release stays retired, this one was version {entry.version}; "
                "change its seed or its data for a new version"
            )
        return _committed(release.dataset, entry)
    except OSError as error:
        raise disk_problem(error) from None


def commit(store: Store, placed: Placed) -> tuple[LogEntry, bool]:
    """Make a version of what was placed: the log entry, and whether the key was there before.

    Raises:
        PublicationError: the log is damaged, or the disk refused; nothing was acknowledged.
    """
    try:
        entry, existing = log.append(store, placed.dataset, placed.commit)
        if placed.fresh and entry.snapshot != placed.commit.snapshot:
            # Another process published this key with another manifest; nobody can need ours.
            store.delete(f"{placed.dataset}/{placed.commit.snapshot}")
        log.refresh_latest(store, placed.dataset)
    except OSError as error:
        raise disk_problem(error) from None
    return entry, existing


def find_placed(store: Store, dataset: str, commit: Commit) -> Placed | None:
    """What a process that is gone has placed, as good as new.

    None where its files are not whole, as after a clean-up, or where its version is retired.

    Raises:
        PublicationError: the log or a tombstone is damaged, or the disk refused.
    """
    try:
        entry = log.find(store, dataset, commit.key)
        if entry is not None:
            return None if log.tombstone(store, dataset, entry) else _committed(dataset, entry)
        there = store.exists(f"{dataset}/{commit.snapshot}")
        whole = there and not _unsound(store, dataset, commit, fresh=False)
    except OSError as error:
        raise disk_problem(error) from None
    return Placed(dataset, commit) if whole else None


def _committed(dataset: str, entry: LogEntry) -> Placed:
    said = Commit(entry.key, entry.snapshot, entry.manifest_sha256, entry.content_digest)
    return Placed(dataset, said, existing=True)


def _staged_and_placed(store: Store, release: PublishRequest, inspect: Inspect | None) -> Placed:
    staging = f"{release.dataset}/.staging/{uuid.uuid4().hex}"
    with removed_afterwards(store, staging):
        manifest = _stage(store, release, staging, inspect)
        digest = sha256(manifest.to_bytes())
        commit = Commit(
            key=release.key,
            snapshot=f"snapshots/{digest[:16]}",
            manifest_sha256=digest,
            content_digest=manifest.content_digest,
        )
        fresh = _place(store, staging, release.dataset, commit)
    return Placed(release.dataset, commit, fresh)


def _stage(
    store: Store, release: PublishRequest, staging: str, inspect: Inspect | None
) -> Manifest:
    files, seen = [], _Seen()
    for name, source in release.files.items():
        with source.open("rb") as stream:
            store.add(f"{staging}/{name}", stream)
        file = _measure(store, staging, name)
        if split := _DATA.fullmatch(name):
            file = _measure_data(store, staging, file, split[1], seen)
        files.append(file)
    verdict = store.get(f"{staging}/{VERDICT}")
    _require_judged(release, verdict, seen)
    manifest = _build(release, verdict, tuple(files), seen.names)
    written = describe(manifest, seen.shown)
    if not manifest.has(README):
        written[README] = render_card(manifest).encode()
    for name, content in written.items():
        store.add(f"{staging}/{name}", io.BytesIO(content))
        files.append(_measure(store, staging, name))
    manifest = _build(release, verdict, tuple(files), seen.names)
    written[MANIFEST] = manifest.to_bytes()
    if inspect is not None:
        inspect({name: content.decode() for name, content in written.items()})
    store.add(f"{staging}/{MANIFEST}", io.BytesIO(written[MANIFEST]))
    return manifest


def _measure(store: Store, staging: str, name: str) -> FileEntry:
    with store.open(f"{staging}/{name}") as stream:
        digest, size = file_sha256(stream)
    return FileEntry(path=name, bytes=size, sha256=digest)


def _build(
    release: PublishRequest, verdict: bytes, files: tuple[FileEntry, ...], names: Sequence[str]
) -> Manifest:
    facts = {key: value for key, value in release.facts.items() if key != "gates"}
    try:
        said = Facts.model_validate(facts)
    except ValidationError as error:
        fields = sorted({str(problem["loc"][0]) for problem in error.errors()})
        raise ParameterError(
            f"the facts of a release must be those of manifest.Facts; {', '.join(fields)} are not"
        ) from None
    return Manifest(
        **dict(said),
        dataset=release.dataset,
        kind="image" if isinstance(release.schema, ImageSchema) else "table",
        key=release.key,
        created_at=_utc(release.created_at),
        content_digest=release.content_digest,
        rows=release.rows,
        columns=columns_of(release.schema, names),
        verdict=VerdictSummary.model_validate_json(verdict),
        files=files,
    )


def _utc(text: str) -> str:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = datetime.min
    if at.tzinfo is None:
        raise ParameterError(f"created_at must be ISO 8601 with a time zone, got {text!r}; use UTC")
    return iso(at)


class _Seen:
    """What one reading of all data files tells of them."""

    def __init__(self) -> None:
        self.digest, self.shown = ContentDigest(), Shown()
        self.names: list[str] = []


def _measure_data(
    store: Store, staging: str, file: FileEntry, split: str, seen: _Seen
) -> FileEntry:
    own = ContentDigest()
    with store.open(f"{staging}/{file.path}") as stream:
        for part in read_batches(stream):
            own.update(part)
            seen.digest.update(part)
            seen.names = part.column_names
            seen.shown.update(part)
    with store.open(f"{staging}/{file.path}") as stream:
        groups = pq.ParquetFile(stream).num_row_groups
    measured = {
        "rows": own.rows,
        "row_groups": groups,
        "content_digest": own.text(),
        "split": split,
    }
    return file.model_copy(update=measured)


def _require_judged(release: PublishRequest, verdict: bytes, seen: _Seen) -> None:
    """Raise unless the verdict is about exactly the rows that are to be published."""
    digest, rows = seen.digest.text(), seen.digest.rows
    problem = verdict_problem(verdict, digest)
    if problem is None and (digest, rows) != (release.content_digest, release.rows):
        problem = "the data files are not the rows of the request"
    if problem is None and release.facts.get("gates", json.loads(verdict)) != json.loads(verdict):
        problem = "the facts tell another verdict"
    if problem:
        raise PublicationError(
            f"a release needs a passed verdict on exactly its rows, but {problem}; "
            "judge the candidate again"
        )


def _place(store: Store, staging: str, dataset: str, commit: Commit) -> bool:
    """Move the staged folder to its place and verify it there; whether it was not there before."""
    folder = f"{dataset}/{commit.snapshot}"
    while True:
        placed = store.move(staging, folder)
        failed = _unsound(store, dataset, commit, fresh=placed)
        if not failed:
            return placed
        store.delete(folder)
        if placed:
            raise PublicationError(
                "the placed files must be those that were staged, but "
                + "; ".join(f"{check.name}: {check.detail}" for check in failed)
                + "; the disk may be failing, publish again"
            )
        # Half removed by whoever lost a race, or taken by a clean-up: ours are whole.


def _unsound(store: Store, dataset: str, commit: Commit, *, fresh: bool) -> list[Check]:
    """The checks that the placed files of ``commit`` fail; they are durable afterwards."""
    folder = f"{dataset}/{commit.snapshot}"
    if not fresh:
        # Left by an attempt that died; as old as that, so a clean-up by age could take it.
        with suppress(FileNotFoundError):
            store.touch(folder)
    store.fsync(folder.rsplit("/", 1)[0])
    checks = check_snapshot(store, folder, commit.manifest_sha256, commit.content_digest)
    return [check for check in checks if not check.passed]
