"""The datasets of a lake for machines, in DCAT (https://www.w3.org/TR/vocab-dcat-3/)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .manifest import FileEntry, Manifest

if TYPE_CHECKING:
    from .catalogue import Edition, Listed

DCAT = "catalog.jsonld"

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


def dcat(listed: Sequence[Listed], page: str) -> dict[str, Any]:
    """The catalogue as JSON-LD: each dataset by its newest version.

    Args:
        listed: what the lake holds.
        page: name of a dataset's page in its folder.
    """
    newest = [(item.name, item.newest) for item in listed]
    return {
        "@context": _CONTEXT,
        "@type": "dcat:Catalog",
        "dct:title": "Likeness: synthetic datasets",
        "dcat:dataset": [
            _dataset(name, edition, edition.manifest, page)
            for name, edition in newest
            if edition is not None and edition.manifest is not None
        ],
    }


def _dataset(name: str, edition: Edition, manifest: Manifest, page: str) -> dict[str, Any]:
    folder = f"{name}/{edition.entry.snapshot}"
    return {
        "@id": f"{name}/",
        "@type": "dcat:Dataset",
        "dct:identifier": f"{name}@{edition.entry.version}",
        "dct:title": manifest.title or name,
        "dct:description": manifest.description,
        "dct:issued": manifest.created_at,
        "dct:license": manifest.license,
        "dcat:version": str(edition.entry.version),
        "dcat:keyword": ["synthetic", manifest.kind, *manifest.tags],
        "dcat:landingPage": f"{name}/{page}",
        "dcat:distribution": [_file(folder, file) for file in manifest.data_files],
    }


def _file(folder: str, file: FileEntry) -> dict[str, Any]:
    return {
        "@type": "dcat:Distribution",
        "dcat:downloadURL": f"{folder}/{file.path}",
        "dcat:mediaType": _MEDIA_TYPE,
        "dcat:byteSize": file.bytes,
        "spdx:checksum": {
            "@type": "spdx:Checksum",
            "spdx:algorithm": "spdx:checksumAlgorithm_sha256",
            "spdx:checksumValue": file.sha256,
        },
    }
