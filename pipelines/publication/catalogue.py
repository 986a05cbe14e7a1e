"""The catalogue of a lake, made from the logs: pages for people, a file for machines.

``index.html`` lists the datasets, ``<dataset>/index.html`` tells all of one; both work from a
folder or any web server and load nothing from elsewhere. ``catalog.jsonld`` says the same in DCAT.
All of it can be made again at any time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from generators.base import DataError, ParameterError

from . import log
from .dcat import DCAT, dcat
from .manifest import MANIFEST, Manifest, canonical_json
from .pages import PAGE as PAGE
from .pages import data_uri, dataset_page, index_page
from .pages import headline as headline
from .pages import size_in_words as size_in_words
from .preview import Preview, pictures, preview
from .signature import check_signature
from .store import Lake, PublicationError, Store, check_dataset_name, open_lake
from .tombstone import Tombstone

PICTURE = "contact_sheet.png"
# A larger picture would make the pages slow; the report has it anyway.
_MAX_PICTURE_BYTES = 400_000
# Of older versions the log has all that a page tells.
_MANIFESTS = 50


@dataclass(frozen=True)
class Edition:
    """One version as the catalogue sees it.

    Attributes:
        manifest: None where the version is damaged, its files are removed, or it is an old one.
        retired: its tombstone, where it is withdrawn.
    """

    entry: log.LogEntry
    manifest: Manifest | None = None
    retired: Tombstone | None = None


@dataclass(frozen=True)
class Listed:
    """One dataset of the catalogue.

    Attributes:
        editions: all its versions, newest first.
        preview: of the newest version that stands.
        pictures: PNG files that show it: a contact sheet, or some of the images.
        signature: whose signature it bears, in words; empty where it is not signed.
        problem: why there is nothing to show.
    """

    name: str
    editions: tuple[Edition, ...] = ()
    preview: Preview | None = None
    pictures: tuple[bytes, ...] = ()
    signature: str = ""
    problem: str = ""

    @cached_property
    def newest(self) -> Edition | None:
        """The newest version that stands, where it is whole."""
        return None if self.problem else next(iter(self.standing), None)

    @property
    def standing(self) -> tuple[Edition, ...]:
        """The versions that are not retired, newest first."""
        return tuple(edition for edition in self.editions if edition.retired is None)

    @property
    def manifest(self) -> Manifest | None:
        """Of the newest version that stands."""
        return self.newest.manifest if self.newest else None

    @property
    def folder(self) -> str:
        """Of the newest version that stands, relative to the lake."""
        return f"{self.name}/{self.newest.entry.snapshot}" if self.newest else ""

    @property
    def entries(self) -> tuple[log.LogEntry, ...]:
        """Of the versions that stand, newest first."""
        return tuple(edition.entry for edition in self.standing)

    @property
    def picture(self) -> str:
        """Its contact sheet as a data URI, where it has one."""
        return data_uri(self.pictures[0]) if len(self.pictures) == 1 else ""

    @property
    def words(self) -> str:
        """What the search looks through."""
        words = [self.name]
        if self.manifest is not None:
            said = self.manifest
            words += [str(said.reproduce.get("generator", "")), said.title, said.description]
            words += [said.kind, said.license, *said.owners]
            words += [column.name for column in said.columns]
            words += [*said.tags, *said.tags.values()]
        return " ".join(words).lower()


def write_catalogue(lake: Lake) -> str:
    """Write the pages and ``catalog.jsonld`` into the lake; gives where the first page is.

    A dataset with a damaged log is listed as such; the others are listed as ever.
    """
    store = open_lake(lake)
    listed = [listing(store, name) for name in dataset_names(store)]
    listed.sort(key=lambda item: (item.newest is None, item.name))
    for item in listed:
        _put(store, f"{item.name}/{PAGE}", dataset_page(item).encode())
    _put(store, DCAT, canonical_json(dcat(listed, PAGE)))
    _put(store, PAGE, index_page(listed).encode())
    return store.location(PAGE)


def dataset_names(store: Store) -> list[str]:
    """Names of the datasets that have a log, sorted."""
    names = []
    for folder in store.folders():
        try:
            check_dataset_name(folder)
        except ParameterError:
            continue
        if store.exists(f"{folder}/_log"):
            names.append(folder)
    return names


def _put(store: Store, name: str, data: bytes) -> None:
    """Write what has changed: a page that is open stays as it is otherwise."""
    if not store.exists(name) or store.get(name) != data:
        store.put(name, data)


def listing(store: Store, name: str) -> Listed:
    """What the catalogue shows of a dataset; a damaged one is told as such, never raised."""
    damaged = f"Damaged: run “likeness verify {name}”."
    try:
        entries = log.read(store, name)
        editions = tuple(
            _edition(store, name, entry, with_manifest=age < _MANIFESTS)
            for age, entry in enumerate(reversed(entries))
        )
    except (PublicationError, OSError, ValueError):
        return Listed(name, problem=damaged)
    if not editions:
        return Listed(name, problem="Nothing is published yet.")
    newest = next((edition for edition in editions if edition.retired is None), None)
    if newest is None:
        return Listed(name, editions, problem="All versions are retired.")
    if newest.manifest is None:
        return Listed(name, editions, problem=damaged)
    folder = f"{name}/{newest.entry.snapshot}"
    try:
        first = f"{folder}/{newest.manifest.data_files[0].path}"
        with store.open(first) as stream:
            beginning = preview(stream)
        shown = _pictures(store, folder, newest.manifest, first)
    except (PublicationError, OSError, DataError):
        return Listed(name, editions, problem=damaged)
    signed = check_signature(store, name, newest.entry.version, newest.entry.to_bytes(), None)
    return Listed(name, editions, beginning, shown, signed[1] if signed else "")


def _edition(store: Store, name: str, entry: log.LogEntry, *, with_manifest: bool) -> Edition:
    manifest = None
    try:
        data = store.get(f"{name}/{entry.snapshot}/{MANIFEST}") if with_manifest else b""
        if hashlib.sha256(data).hexdigest() == entry.manifest_sha256:
            manifest = Manifest.from_bytes(data)
    except (OSError, ValueError):
        pass  # removed, or damaged: the page tells which
    return Edition(entry, manifest, log.tombstone(store, name, entry))


def _pictures(store: Store, folder: str, manifest: Manifest, first: str) -> tuple[bytes, ...]:
    if manifest.has(PICTURE):
        sheet = store.get(f"{folder}/{PICTURE}")
        return (sheet,) if 0 < len(sheet) <= _MAX_PICTURE_BYTES else ()
    with store.open(first) as stream:
        return tuple(pictures(stream))
