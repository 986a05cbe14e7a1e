"""The catalogue of a lake: one page for people and one file for machines, made from the logs.

``index.html`` works from a folder or any web server and loads nothing from elsewhere;
``catalog.jsonld`` says the same in DCAT (https://www.w3.org/TR/vocab-dcat-3/). Both can be made
again at any time.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

from generators.base import ParameterError

from . import log
from .card import number, strip, template
from .manifest import MANIFEST, README, REPORT, FileEntry, Manifest, canonical_json
from .store import Lake, PublicationError, Store, check_dataset_name, open_lake

PAGE = "index.html"
DCAT = "catalog.jsonld"
PICTURE = "contact_sheet.png"
# A larger picture would make the page slow; the report has it anyway.
_MAX_PICTURE_BYTES = 400_000

_UNITS = ("B", "kB", "MB", "GB", "TB")
_CONTEXT: dict[str, Any] = {
    "dcat": "http://www.w3.org/ns/dcat#",
    "dct": "http://purl.org/dc/terms/",
    "spdx": "http://spdx.org/rdf/terms#",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
    "dct:issued": {"@type": "xsd:dateTime"},
    "dcat:byteSize": {"@type": "xsd:nonNegativeInteger"},
    "spdx:checksumValue": {"@type": "xsd:hexBinary"},
    # Links, which a reader resolves against the place of the file.
    "dcat:landingPage": {"@type": "@id"},
    "dcat:downloadURL": {"@type": "@id"},
    "dcat:mediaType": {"@type": "@id"},
    "spdx:algorithm": {"@type": "@id"},
}
_MEDIA_TYPE = "https://www.iana.org/assignments/media-types/application/vnd.apache.parquet"


@dataclass(frozen=True)
class Listed:
    """One dataset of the catalogue: its newest version, or why there is none to show.

    Attributes:
        entries: its versions that are not retired, newest first.
        manifest: of the newest of them.
        folder: of the newest of them, relative to the lake.
        picture: a data URI, where the version has a contact sheet.
    """

    name: str
    entries: tuple[log.LogEntry, ...] = ()
    manifest: Manifest | None = None
    folder: str = ""
    picture: str = ""
    problem: str = ""

    @property
    def generator(self) -> str:
        """Name of the generator, where the publisher gave it."""
        return str(self.manifest.reproduce.get("generator", "")) if self.manifest else ""

    @property
    def words(self) -> str:
        """What the search looks through."""
        words = [self.name, self.generator]
        if self.manifest is not None:
            said = self.manifest
            words += [said.title, said.description, said.kind, said.license]
            words += [column.name for column in said.columns]
            words += [*said.tags, *said.tags.values()]
        return " ".join(words).lower()


def write_catalogue(lake: Lake) -> str:
    """Write ``index.html`` and ``catalog.jsonld`` into the lake; gives where the page is.

    A dataset with a damaged log is listed as such; the others are listed as ever.
    """
    store = open_lake(lake)
    listed = [listing(store, name) for name in dataset_names(store)]
    listed.sort(key=lambda item: (item.manifest is None, item.name))
    store.put(DCAT, canonical_json(_dcat(listed)))
    store.put(PAGE, render_page(listed).encode())
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


def render_page(listed: list[Listed]) -> str:
    """The HTML of the page."""
    shown = [item for item in listed if item.manifest is not None]
    return template("index.html.j2").render(
        listed=listed,
        versions=sum(len(item.entries) for item in listed),
        rows=sum(item.manifest.rows for item in shown if item.manifest),
        strip=strip,
        headline=headline,
        snippets=snippets,
        size=size_in_words,
        report=REPORT,
        readme=README,
        manifest_name=MANIFEST,
    )


def headline(manifest: Manifest, dimension: str) -> str:
    """The number that stands for a dimension: of its first critical gate that has one."""
    gates = [gate for gate in manifest.verdict.of(dimension) if gate.value is not None]
    critical = [gate for gate in gates if gate.severity == "critical"]
    first = next(iter([*critical, *gates]), None)
    return "" if first is None else f"{number(first.value)} {first.metric.replace('_', ' ')}"


def snippets(item: Listed) -> dict[str, str]:
    """How to read a dataset in the tools people have, from the folder of the lake."""
    data = f"{item.folder}/data"
    split = next(iter(item.manifest.splits), "train") if item.manifest else "train"
    return {
        "pandas": f'import pandas as pd\ndf = pd.read_parquet("{data}")',
        "polars": f'import polars as pl\ndf = pl.read_parquet("{data}/*.parquet")',
        "DuckDB": f"import duckdb\ndf = duckdb.sql(\"from '{data}/*.parquet'\").df()",
        "datasets": "from datasets import load_dataset\n"
        f'ds = load_dataset("{item.folder}", split="{split}")',
    }


def listing(store: Store, name: str) -> Listed:
    """What the catalogue shows of a dataset; a damaged one is told as such, never raised."""
    try:
        entries = log.read(store, name)
        if not entries:
            return Listed(name, problem="Nothing is published yet.")
        newest = log.newest(store, name)
        if newest is None:
            return Listed(name, problem="All versions are retired.")
        folder = f"{name}/{newest.snapshot}"
        data = store.get(f"{folder}/{MANIFEST}")
        if hashlib.sha256(data).hexdigest() != newest.manifest_sha256:
            raise PublicationError("the manifest is not the committed one")
        manifest = Manifest.from_bytes(data)
    except (PublicationError, OSError, ValueError):
        return Listed(name, problem=f"Damaged: run “likeness verify {name}”.")
    picture = _picture(store, f"{folder}/{PICTURE}") if manifest.has(PICTURE) else ""
    shown = tuple(entry for entry in reversed(entries) if log.tombstone(store, name, entry) is None)
    return Listed(name, shown, manifest, folder, picture)


def _picture(store: Store, name: str) -> str:
    data = store.get(name) if store.exists(name) else b""
    if not 0 < len(data) <= _MAX_PICTURE_BYTES:
        return ""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def size_in_words(count: int) -> str:
    """A number of bytes as people write it, in powers of 1000."""
    power = min(max(len(str(count)) - 1, 0) // 3, len(_UNITS) - 1)
    value = count / 1000**power
    return (
        f"{value:.1f} {_UNITS[power]}" if power and value < 10 else f"{value:.0f} {_UNITS[power]}"
    )


def _dcat(listed: list[Listed]) -> dict[str, Any]:
    datasets = [_dcat_dataset(item) for item in listed if item.manifest is not None]
    return {
        "@context": _CONTEXT,
        "@type": "dcat:Catalog",
        "dct:title": "Likeness: synthetic datasets",
        "dcat:dataset": datasets,
    }


def _dcat_dataset(item: Listed) -> dict[str, Any]:
    manifest = item.manifest
    if manifest is None:
        return {}
    return {
        "@id": f"{item.name}/",
        "@type": "dcat:Dataset",
        "dct:identifier": f"{item.name}@{item.entries[0].version}",
        "dct:title": manifest.title or item.name,
        "dct:description": manifest.description,
        "dct:issued": manifest.created_at,
        "dct:license": manifest.license,
        "dcat:version": str(item.entries[0].version),
        "dcat:keyword": ["synthetic", manifest.kind, *manifest.tags],
        "dcat:landingPage": f"{item.folder}/{README}",
        "dcat:distribution": [_dcat_file(item, file) for file in manifest.data_files],
    }


def _dcat_file(item: Listed, file: FileEntry) -> dict[str, Any]:
    return {
        "@type": "dcat:Distribution",
        "dcat:downloadURL": f"{item.folder}/{file.path}",
        "dcat:mediaType": _MEDIA_TYPE,
        "dcat:byteSize": file.bytes,
        "spdx:checksum": {
            "@type": "spdx:Checksum",
            "spdx:algorithm": "spdx:checksumAlgorithm_sha256",
            "spdx:checksumValue": file.sha256,
        },
    }
