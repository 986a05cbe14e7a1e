"""Withdraw a version, and free the space of what nobody can read any more.

A retired version keeps its number, its log entry and its release key: the key is not published a
second time. ``collect`` then removes the files of retired versions and what crashes left behind.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from generators.base import ParameterError

from . import log
from .catalogue import dataset_names
from .manifest import iso, sha256
from .store import TEMPORARY, Lake, LocalStore, Store, disk_problem, open_lake
from .tombstone import Tombstone, tombstone_name

KEEP_SECONDS = 24 * 3600.0
"""Age below which unfinished work may belong to a publisher that still runs."""
_MAX_REASON = 200
_ASIDE = "gc-"


@dataclass(frozen=True)
class Garbage:
    """Something ``collect`` removed, or would remove.

    Attributes:
        name: relative to the lake.
        why: ``retired``, ``never committed`` or ``unfinished``.
        bytes: its size.
    """

    name: str
    why: str
    bytes: int


def retire(lake: Lake, name: str, reason: str) -> Tombstone:
    """Withdraw the version ``name@3``; a second call returns the first tombstone.

    Raises:
        ParameterError: no version is named, or the reason is empty, long or of several lines.
        PublicationError: there is no such dataset or version.
    """
    return retire_in(open_lake(lake), name, reason)


def retire_in(store: Store, name: str, reason: str) -> Tombstone:
    """``retire`` in any store."""
    if "@" not in name:
        raise ParameterError(f"one version must be named to retire it, as name@3; got {name!r}")
    if not reason.strip() or len(reason) > _MAX_REASON or not reason.isprintable():
        raise ParameterError(
            f"a reason must be one line of 1 to {_MAX_REASON} characters, got {len(reason)}; "
            "say shortly why the version is withdrawn"
        )
    version = log.resolve_in(store, name)
    dataset = version.dataset
    entry = log.read(store, dataset)[version.version - 1]
    stone = Tombstone(
        version=entry.version,
        entry_sha256=sha256(entry.to_bytes()),
        reason=reason,
        at=iso(datetime.now(UTC)),
    )
    stone = stone.model_copy(update={"sha256": stone.self_digest()})
    try:
        if not store.put_if_absent(tombstone_name(dataset, entry.version), stone.to_bytes()):
            stone = log.tombstone(store, dataset, entry) or stone
        log.refresh_latest(store, dataset)
    except OSError as error:
        raise disk_problem(error) from None
    return stone


def collect(
    lake: Lake, *, dry_run: bool = False, keep_seconds: float = KEEP_SECONDS
) -> list[Garbage]:
    """Remove the files of retired versions, uncommitted snapshots and unfinished work.

    Args:
        lake: the folder or URL that holds the datasets; of an object service only the files of
            retired versions are removed, for the rest give the bucket a lifecycle rule.
        dry_run: remove nothing, only tell.
        keep_seconds: uncommitted files younger than this stay: their publisher may still run.

    Raises:
        PublicationError: a log or a tombstone is damaged; nothing of that dataset is removed.
    """
    if not isinstance(lake, Path):
        return _collect_retired(open_lake(lake), dry_run=dry_run)
    found = []
    for dataset in dataset_names(LocalStore(lake)):
        for path, why in _garbage(lake, dataset, time.time() - keep_seconds):
            size = _size(path)
            if dry_run or _remove(lake / dataset, path, why, time.time() - keep_seconds):
                found.append(Garbage(path.relative_to(lake).as_posix(), why, size))
    return found


def _collect_retired(store: Store, *, dry_run: bool) -> list[Garbage]:
    found = []
    for dataset in dataset_names(store):
        for entry in log.read(store, dataset):
            folder = f"{dataset}/{entry.snapshot}"
            if log.tombstone(store, dataset, entry) is None or not store.exists(folder):
                continue
            size = sum(len(store.get(name)) for name in store.list(folder))
            if not dry_run:
                store.delete(folder)
            found.append(Garbage(folder, "retired", size))
    return found


def _garbage(lake: Path, dataset: str, before: float) -> list[tuple[Path, str]]:
    store, folder = LocalStore(lake), lake / dataset
    entries = log.read(store, dataset)
    _put_back(store, folder, entries)
    committed = {folder / entry.snapshot for entry in entries}
    retired = [
        (folder / entry.snapshot, "retired")
        for entry in entries
        if log.tombstone(store, dataset, entry) and (folder / entry.snapshot).exists()
    ]
    orphans = [
        (path, "never committed")
        for path in sorted((folder / "snapshots").glob("*"))
        if path not in committed and _older(path, before)
    ]
    left = [*(folder / ".staging").glob("*"), *folder.glob(f"{TEMPORARY}*")]
    left += [*(folder / "_log").glob(f"{TEMPORARY}*"), *(folder / "_retired").glob(f"{TEMPORARY}*")]
    return retired + orphans + [(path, "unfinished") for path in left if _older(path, before)]


def _remove(folder: Path, path: Path, why: str, before: float) -> bool:
    """Remove ``path``; False where a publisher took it up again meanwhile."""
    if why == "unfinished":
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return True
    # Away by one rename first: a reader sees the whole version or none.
    aside = folder / ".staging" / f"{_ASIDE}{path.name}-{uuid.uuid4().hex}"
    aside.parent.mkdir(exist_ok=True)
    path.rename(aside)
    if why == "never committed" and not _older(aside, before):
        # Its publisher came back between our look and the rename; it touches what it takes up.
        aside.rename(path)
        return False
    shutil.rmtree(aside)
    return True


def _put_back(store: LocalStore, folder: Path, entries: list[log.LogEntry]) -> None:
    """Undo what a clean-up that died left: a snapshot put aside while it was being committed."""
    for entry in entries:
        place = folder / entry.snapshot
        if place.exists() or log.tombstone(store, folder.name, entry) is not None:
            continue
        for aside in (folder / ".staging").glob(f"{_ASIDE}{place.name}-*"):
            aside.rename(place)
            break


def _older(path: Path, before: float) -> bool:
    try:
        return path.lstat().st_mtime < before
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        (Path(parent) / name).lstat().st_size
        for parent, _, names in os.walk(path)
        for name in names
    )
