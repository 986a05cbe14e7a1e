"""A published version in Croissant 1.1, JSON-LD for machine learning tools.

``croissant.json`` says what the files hold, field by field, so that others read the records without
code of ours: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
"""

from __future__ import annotations

from typing import Any

from .manifest import ColumnInfo, FileEntry, Manifest
from .provenance import PREFIXES, policy, provenance, responsibility

CROISSANT = "croissant.json"

# As the specification gives it, with PROV-O and RAI beside.
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    **PREFIXES,
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
_CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
# The IANA name, application/vnd.apache.parquet, is not known to mlcroissant 1.1.
_PARQUET = "application/x-parquet"


def croissant(manifest: Manifest) -> dict[str, Any]:
    """The JSON-LD of a version: files with their hashes, and one record set for each split."""
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _CONFORMS_TO,
        "name": manifest.dataset,
        "alternateName": manifest.title or manifest.dataset,
        "description": manifest.description or f"Synthetic {manifest.kind} dataset",
        "license": manifest.license,
        "datePublished": manifest.created_at,
        # The number in the log is given after these bytes are fixed; the content is the version.
        "version": f"1.0.0+{manifest.content_digest.rpartition(':')[2][:16]}",
        "keywords": ["synthetic", manifest.kind, *manifest.tags],
        "isLiveDataset": False,
        "distribution": _distribution(manifest),
        "recordSet": [_record_set(manifest, split) for split in manifest.splits],
        **provenance(manifest),
        **policy(manifest),
        **responsibility(manifest),
    }
    if manifest.citation:
        described["citeAs"] = manifest.citation
    if manifest.owners:
        described["creator"] = [{"@type": "sc:Organization", "name": n} for n in manifest.owners]
    return described


def _distribution(manifest: Manifest) -> list[dict[str, Any]]:
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file.path,
            "name": file.path,
            "contentUrl": file.path,
            "contentSize": f"{file.bytes} B",
            "encodingFormat": _PARQUET,
            "sha256": file.sha256,
        }
        for file in manifest.data_files
    ]
    # Not "containedIn" the files above: mlcroissant 1.1 then looks inside them and finds no record.
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"{split}-files",
            "name": f"{split}-files",
            "encodingFormat": _PARQUET,
            "includes": f"data/{split}-*.parquet",
        }
        for split in manifest.splits
        if len(_files(manifest, split)) > 1
    ]
    return files + sets


def _files(manifest: Manifest, split: str) -> list[FileEntry]:
    return [file for file in manifest.data_files if (file.split or "train") == split]


def _record_set(manifest: Manifest, split: str) -> dict[str, Any]:
    files = _files(manifest, split)
    if len(files) == 1:  # mlcroissant checks the hash of a single file, not that of a set
        source = {"fileObject": {"@id": files[0].path}}
    else:
        source = {"fileSet": {"@id": f"{split}-files"}}
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "field": [_field(column, split, source) for column in manifest.columns],
    }


def _field(column: ColumnInfo, split: str, source: dict[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {**source, "extract": {"column": column.name}}
    if column.type == "image":
        read["transform"] = {"jsonPath": "bytes"}
    return {
        "@type": "cr:Field",
        "@id": f"{split}/{column.name}",
        "name": f"{split}/{column.name}",
        "description": column.description,
        "dataType": _data_type(column.type),
        "source": read,
    }


def _data_type(logical: str) -> str:
    if logical.startswith(("int", "uint")):
        return "sc:Integer"
    if logical.startswith(("float", "decimal")):
        return "sc:Float"
    if logical.startswith("timestamp"):
        return "sc:DateTime"
    named = {"bool": "sc:Boolean", "date": "sc:Date", "image": "sc:ImageObject"}
    return named.get(logical, "sc:Text")
