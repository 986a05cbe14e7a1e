"""Publication with one thing left out: what an exploration of crashes must find.

Each mutant is a store that leaves out a step, or a change to a function of the protocol that holds
while the exploration runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.publication import log, publish
from pipelines.publication.manifest import sha256
from pipelines.publication.publish import Inspect, PublishRequest
from pipelines.publication.store import Store, removed_afterwards

from .crash_model import Recorded


class _FilesNotSynced(Recorded):
    durable = False


class _FoldersNotSynced(Recorded):
    def _fsync(self, folder: Path) -> None:
        pass


class _StagingNotSynced(Recorded):
    def move(self, source: str, target: str) -> bool:
        start, end = self.path(source), self.path(target)
        self._make_folder(end.parent)
        if end.exists():
            return False
        self._rename(start, end)
        self._fsync(end.parent)
        return True


class _WrittenInPlace(Recorded):
    def put_if_absent(self, name: str, data: bytes) -> bool:
        import io

        path = self.path(name)
        self._make_folder(path.parent)
        try:
            self._write(path, io.BytesIO(data))
        except FileExistsError:
            return False
        self._fsync(path.parent)
        return True


class _LookedThenWritten(Recorded):
    def put_if_absent(self, name: str, data: bytes) -> bool:
        if self.exists(name):
            return False
        self.put(name, data)
        return True


class _MarkNotSynced(Recorded):
    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = self.path(name)
        if path.exists():
            return False
        temporary = self._temporary(path, data)
        try:
            self._link(temporary, path)
        except FileExistsError:
            return False
        finally:
            self._unlink(temporary)
        return True


class _OnlyTheFolderItself(Recorded):
    def fsync(self, folder: str) -> None:
        self._fsync(self.path(folder))

    def _make_folder(self, folder: Path) -> None:
        for step in reversed([step for step in [folder, *folder.parents] if not step.exists()]):
            self._mkdir(step)


def _log_first(store: Store, release: PublishRequest, inspect: Inspect | None) -> publish.Placed:
    staging = f"{release.dataset}/.staging/{release.key}-{id(store)}"
    with removed_afterwards(store, staging):
        manifest = publish._stage(store, release, staging, inspect)
        digest = sha256(manifest.to_bytes())
        commit = log.Commit(
            key=release.key,
            snapshot=f"snapshots/{digest[:16]}",
            manifest_sha256=digest,
            content_digest=manifest.content_digest,
        )
        log.append(store, release.dataset, commit)
        publish._place(store, staging, release.dataset, commit)
    return publish.Placed(release.dataset, commit)


def _told_unsynced(
    entries: list[log.LogEntry], _store: Store, _dataset: str, key: str
) -> log.LogEntry | None:
    return next((entry for entry in entries if entry.key == key), None)


def _short_cut_unsynced(store: Store, dataset: str) -> None:
    entry = log.newest(store, dataset)
    if entry is not None:
        store.put(f"{dataset}/latest.json", log.latest_bytes(entry))


def _chained_unsynced(store: Store, dataset: str, commit: log.Commit) -> tuple[log.LogEntry, bool]:
    while True:
        entries = log.read(store, dataset)
        found = log._find_in(entries, store, dataset, commit.key)
        if found is not None:
            return found, True
        entry = log._next_entry(entries, commit)
        if store.put_if_absent(f"{dataset}/_log/{entry.version:08d}.json", entry.to_bytes()):
            store.fsync(f"{dataset}/_log")
            return entry, False


def _not_read_again(store: Store, dataset: str, commit: log.Commit) -> tuple[log.LogEntry, bool]:
    while True:
        entry = log._next_entry(log.read(store, dataset), commit)
        if store.put_if_absent(f"{dataset}/_log/{entry.version:08d}.json", entry.to_bytes()):
            store.fsync(f"{dataset}/_log")
            return entry, False


@dataclass(frozen=True)
class Mutant:
    """One thing left out.

    Attributes:
        scenario: in which it must show.
        store: the store that leaves it out.
        changes: module, name and function that stand in.
    """

    scenario: str
    store: type[Recorded] = Recorded
    changes: tuple[tuple[Any, str, Any], ...] = ()

    @contextmanager
    def applied(self) -> Iterator[type[Recorded]]:
        """The store to use; the change holds meanwhile."""
        whole = [(module, name, getattr(module, name)) for module, name, _ in self.changes]
        for change in self.changes:
            setattr(*change)
        try:
            yield self.store
        finally:
            for kept in whole:
                setattr(*kept)


MUTANTS = {
    "files are not synced": Mutant("one publisher", _FilesNotSynced),
    "folders are not synced": Mutant("one publisher", _FoldersNotSynced),
    "written and renamed, the staged folder not synced": Mutant("one publisher", _StagingNotSynced),
    "the log entry before the files": Mutant(
        "one publisher", changes=((publish, "_staged_and_placed", _log_first),)
    ),
    "the log entry is written in place": Mutant("one publisher", _WrittenInPlace),
    "looked whether it is there, then written": Mutant("two keys at once", _LookedThenWritten),
    "another's entry is told before it is synced": Mutant(
        "one key twice at once",
        changes=((log, "_find_in", _told_unsynced), (log, "refresh_latest", _short_cut_unsynced)),
    ),
    "an entry is chained to one that is not synced": Mutant(
        "three at once, a version before", changes=((log, "append", _chained_unsynced),)
    ),
    "the log is not read again before the commit": Mutant(
        "one key twice at once", changes=((log, "append", _not_read_again),)
    ),
    "the mark of a retirement is not synced": Mutant(
        "a version is retired twice at once", _MarkNotSynced
    ),
    "only the folder itself is synced, not the way to it": Mutant(
        "one publisher", _OnlyTheFolderItself
    ),
}
