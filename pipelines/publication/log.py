"""The log of a dataset: one file a version, each holding the hash of the one before.

``<dataset>/_log/00000007.json`` is the commit record: a version exists if and only if it is there.
``<dataset>/latest.json`` is a short cut for readers and may lag behind the log after a crash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from generators.base import ParameterError

from .manifest import MANIFEST, Manifest, canonical_json, iso, sha256
from .store import (
    TEMPORARY,
    Lake,
    LocalStore,
    PublicationError,
    Store,
    check_dataset_name,
    open_lake,
)
from .tombstone import Tombstone, find_tombstone

GENESIS = "0" * 64
"""What stands for the hash before the first entry."""
_ENTRY_NAME = re.compile(r"^\d{8}\.json$")


@dataclass(frozen=True)
class Commit:
    """What a log entry says of a version, before it has a number."""

    key: str
    snapshot: str
    manifest_sha256: str
    content_digest: str


class LogEntry(BaseModel):
    """One version.

    Attributes:
        version: its number, from 1 without gaps.
        key: the release key; no two versions have the same.
        snapshot: its folder under the dataset's.
        prev_sha256: hash of the previous entry's file.
        sha256: hash of this entry without this field, so that damage to the last one shows too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: int
    op: Literal["publish"]
    key: str
    snapshot: str
    manifest_sha256: str
    content_digest: str
    prev_sha256: str
    at: str
    sha256: str

    def to_bytes(self) -> bytes:
        """The bytes of the entry's file."""
        return canonical_json(self.model_dump())

    def self_digest(self) -> str:
        """What ``sha256`` must be."""
        return sha256(canonical_json(self.model_dump(exclude={"sha256"})))


@dataclass(frozen=True)
class Published:
    """A published version.

    Attributes:
        store: that it lies in.
        folder: its name there.
        existing: whether the key had been published before this call.
    """

    dataset: str
    version: int
    store: Store = field(compare=False)
    folder: str
    manifest_sha256: str
    content_digest: str
    existing: bool

    @property
    def name(self) -> str:
        """``dataset@version``."""
        return f"{self.dataset}@{self.version}"

    @property
    def location(self) -> str:
        """Its folder's path or URL."""
        return self.store.location(self.folder)

    @property
    def path(self) -> Path:
        """Its folder.

        Raises:
            PublicationError: it lies in an object service.
        """
        if not isinstance(self.store, LocalStore):
            raise PublicationError(
                f"{self.name} must lie in a folder to have a path, it lies at {self.location}; "
                "read it there"
            )
        return self.store.path(self.folder)

    def manifest(self) -> Manifest:
        """Its manifest.

        Raises:
            FileNotFoundError: its files are removed.
        """
        return Manifest.from_bytes(self.store.get(f"{self.folder}/{MANIFEST}"))


def read(store: Store, dataset: str) -> list[LogEntry]:
    """All entries in order, with the chain of hashes checked.

    Raises:
        PublicationError: an entry is missing, damaged or not the next one.
    """
    entries: list[LogEntry] = []
    previous = GENESIS
    for name in _entry_names(store, dataset):
        data = store.get(name)
        entries.append(_checked(data, name, number=len(entries) + 1, previous=previous))
        previous = sha256(data)
    return entries


def find(store: Store, dataset: str, key: str) -> LogEntry | None:
    """The version with a release key, made durable before it is told, or None.

    The entry may be another process's link that no power cut has had to survive yet: who
    acknowledges it must sync the folder first.
    """
    return _find_in(read(store, dataset), store, dataset, key)


def find_standing(store: Store, dataset: str, key: str) -> Published | None:
    """The version with a release key; None also where it is retired.

    Raises:
        PublicationError: the log or a tombstone is damaged.
    """
    entry = find(store, dataset, key)
    if entry is None or tombstone(store, dataset, entry) is not None:
        return None
    return published(store, dataset, entry, existing=True)


def is_retired(version: Published) -> bool:
    """Whether ``version`` has been withdrawn by now.

    Raises:
        PublicationError: the log or its tombstone is damaged.
    """
    entry = read(version.store, version.dataset)[version.version - 1]
    return tombstone(version.store, version.dataset, entry) is not None


def append(store: Store, dataset: str, commit: Commit) -> tuple[LogEntry, bool]:
    """The version of ``commit`` and whether its key was in the log already.

    Any number of processes may append at once: each version number is created by one of them, and
    the others read the log again before they try the next.
    """
    while True:
        # One reading for both: a key that is committed after it takes the number that we try.
        entries = read(store, dataset)
        found = _find_in(entries, store, dataset, commit.key)
        if found is not None:
            return found, True
        # What ours is chained to may be another's that no power cut has had to survive yet.
        if entries:
            store.fsync(_folder(dataset))
        entry = _next_entry(entries, commit)
        if store.put_if_absent(f"{_folder(dataset)}/{entry.version:08d}.json", entry.to_bytes()):
            store.fsync(_folder(dataset))
            return entry, False


def tombstone(store: Store, dataset: str, entry: LogEntry) -> Tombstone | None:
    """The tombstone of a version, or None where it is not retired.

    Raises:
        PublicationError: the tombstone is damaged.
    """
    return find_tombstone(store, dataset, entry.version, entry.to_bytes())


def newest(store: Store, dataset: str) -> LogEntry | None:
    """The newest version that is not retired, or None."""
    entries = reversed(read(store, dataset))
    return next((entry for entry in entries if tombstone(store, dataset, entry) is None), None)


def refresh_latest(store: Store, dataset: str) -> None:
    """Let ``latest.json`` name the newest version that is not retired; without one it goes."""
    name = f"{dataset}/latest.json"
    entry = newest(store, dataset)
    while True:
        # Never a short cut to an entry that a power cut may take away.
        if entry is not None:
            store.fsync(_folder(dataset))
        if entry is None:
            store.delete(name)
        elif not store.exists(name) or store.get(name) != latest_bytes(entry):
            store.put(name, latest_bytes(entry))
        # Another publisher may have been faster to commit and slower to write, or the reverse.
        newer = newest(store, dataset)
        if newer == entry:
            return
        entry = newer


def latest_bytes(entry: LogEntry) -> bytes:
    """What ``latest.json`` holds when ``entry`` is the newest."""
    return canonical_json(
        {
            "version": entry.version,
            "path": entry.snapshot,
            "manifest_sha256": entry.manifest_sha256,
            "content_digest": entry.content_digest,
        }
    )


def read_log(lake: Lake, dataset: str) -> list[LogEntry]:
    """All versions of a dataset, oldest first; empty where there is none.

    Raises:
        ParameterError: no dataset can have this name.
        PublicationError: the log is damaged.
    """
    return read(open_lake(lake), check_dataset_name(dataset))


def standing(lake: Lake, dataset: str) -> str:
    """What is published of a dataset, in words: its newest version that is not retired.

    Raises:
        ParameterError: no dataset can have this name.
        PublicationError: the log is damaged.
    """
    if not read_log(lake, dataset):
        return "not yet"
    entry = newest(open_lake(lake), dataset)
    return "all retired" if entry is None else f"version {entry.version}"


def latest(lake: Lake, dataset: str) -> Published:
    """The newest version, by the log.

    Raises:
        PublicationError: nothing is published under this name.
    """
    return resolve(lake, dataset)


def resolve(lake: Lake, name: str) -> Published:
    """The version that ``name`` or ``name@3`` means; without a number, the newest not retired.

    Raises:
        ParameterError: the name is malformed.
        PublicationError: there is no such dataset or version.
    """
    return resolve_in(open_lake(lake), name)


def resolve_in(store: Store, name: str) -> Published:
    """``resolve`` in any store."""
    dataset, at, number = name.partition("@")
    if at and not (number.isascii() and number.isdigit()):
        raise ParameterError(f"a version must be written name@3, got {name!r}")
    entries = read(store, check_dataset_name(dataset))
    if not entries:
        raise PublicationError(
            f"the lake must hold the dataset {dataset!r}, it does not; publish it or check the name"
        )
    version = int(number) if at else _newest_number(store, dataset)
    if not 1 <= version <= len(entries):
        raise PublicationError(
            f"{dataset!r} has the versions 1 to {len(entries)}, {version} was asked for"
        )
    return published(store, dataset, entries[version - 1], existing=True)


def published(store: Store, dataset: str, entry: LogEntry, *, existing: bool) -> Published:
    """The answer for a log entry."""
    return Published(
        dataset=dataset,
        version=entry.version,
        store=store,
        folder=f"{dataset}/{entry.snapshot}",
        manifest_sha256=entry.manifest_sha256,
        content_digest=entry.content_digest,
        existing=existing,
    )


def _newest_number(store: Store, dataset: str) -> int:
    entry = newest(store, dataset)
    if entry is None:
        raise PublicationError(
            f"{dataset!r} must have a version that is not retired, all are; name one as name@1"
        )
    return entry.version


def _find_in(entries: list[LogEntry], store: Store, dataset: str, key: str) -> LogEntry | None:
    for entry in entries:
        if entry.key == key:
            store.fsync(_folder(dataset))
            return entry
    return None


def _folder(dataset: str) -> str:
    return f"{dataset}/_log"


def _entry_names(store: Store, dataset: str) -> list[str]:
    names = [name for name in store.list(_folder(dataset)) if f"/{TEMPORARY}" not in name]
    strange = [name for name in names if not _ENTRY_NAME.fullmatch(name.rsplit("/", 1)[1])]
    if strange:
        raise PublicationError(
            f"the log of {dataset!r} must hold numbered entries only, it holds "
            f"{len(strange)} other file(s); move them away"
        )
    return names


def _checked(data: bytes, name: str, *, number: int, previous: str) -> LogEntry:
    damaged = PublicationError(
        f"the log must be a chain of whole entries, {name} breaks it; "
        "restore the file from a copy of the lake"
    )
    if name.rsplit("/", 1)[1] != f"{number:08d}.json":
        raise damaged
    try:
        entry = LogEntry.model_validate_json(data)
    except ValidationError:
        raise damaged from None
    whole = entry.to_bytes() == data and entry.sha256 == entry.self_digest()
    if not whole or entry.version != number or entry.prev_sha256 != previous:
        raise damaged
    return entry


def _next_entry(entries: list[LogEntry], commit: Commit) -> LogEntry:
    entry = LogEntry(
        version=len(entries) + 1,
        op="publish",
        key=commit.key,
        snapshot=commit.snapshot,
        manifest_sha256=commit.manifest_sha256,
        content_digest=commit.content_digest,
        prev_sha256=sha256(entries[-1].to_bytes()) if entries else GENESIS,
        at=iso(datetime.now(UTC)),
        sha256="",
    )
    return entry.model_copy(update={"sha256": entry.self_digest()})
