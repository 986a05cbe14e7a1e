"""REST over the lake: datasets, versions, columns, rows, files."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterator
from importlib.resources import files
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from generators.base import ParameterError

from ..publication.catalogue import Listed
from ..publication.manifest import Manifest
from ..publication.store import Lake, LocalStore, open_lake
from . import shelf
from .problems import Problem, ProblemError
from .settings import settings_of

_CHUNK = 1 << 18
_BYTES = "application/octet-stream"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonld": "application/ld+json",
    "md": "text/markdown; charset=utf-8",
    "png": "image/png",
    "csv": "text/csv; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}

DatasetName = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$", examples=["randhie"], description="Its name")
]
VersionNumber = Annotated[int, Path(ge=1, le=99_999_999, examples=[1], description="Its number")]


class VersionOut(BaseModel):
    """A version of a dataset."""

    version: int
    published_at: str
    content_digest: str
    manifest_sha256: str
    retired: str | None = Field(default=None, description="Why it was withdrawn, if it was")


class DatasetOut(BaseModel):
    """A dataset, with the facts of its newest version."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "name": "randhie",
                    "title": "RAND Health Insurance Experiment",
                    "description": "Visits to a physician.",
                    "kind": "table",
                    "rows": 20190,
                    "columns": 10,
                    "license": "CC0-1.0",
                    "latest": 1,
                    "problem": "",
                }
            ]
        }
    )

    name: str
    title: str = ""
    description: str = ""
    kind: str = ""
    rows: int = 0
    columns: int = 0
    license: str = ""
    latest: int | None = Field(default=None, description="The newest version not retired")
    problem: str = Field(default="", description="Why there is nothing to show, if so")


class DatasetsOut(BaseModel):
    """Datasets of the lake."""

    datasets: list[DatasetOut]
    total: int


class VersionsOut(BaseModel):
    """All versions of a dataset, newest first."""

    dataset: str
    versions: list[VersionOut]


class ColumnOut(BaseModel):
    """A column, as the published version itself shows it."""

    name: str
    kind: str
    type: str
    role: str
    description: str
    nullable: bool
    values: list[Any] = Field(description="Its categories, where there are few")
    low: Any = Field(description="Least published value, where values are ordered")
    high: Any = Field(description="Greatest published value")


class ColumnsOut(BaseModel):
    """Columns of a version: what conditions, quotas and balance can name."""

    columns: list[ColumnOut]


class RowsOut(BaseModel):
    """Rows of a version; every one is synthetic."""

    offset: int
    total: int
    rows: list[dict[str, Any]]


class FileOut(BaseModel):
    """A published file."""

    path: str
    bytes: int
    sha256: str
    rows: int | None


class FilesOut(BaseModel):
    """Files of a version."""

    files: list[FileOut]


def _version(request: Request, dataset: DatasetName, version: VersionNumber) -> shelf.Version:
    return shelf.version(settings_of(request).home.lake, dataset, version)


Shown = Annotated[shelf.Version, Depends(_version)]
_MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is none"},
    410: {"model": Problem, "description": "Its files were removed"},
}
router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.get("", summary="List and search datasets")
def list_datasets(
    request: Request,
    search: Annotated[str, Query(max_length=200, examples=["health"])] = "",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> DatasetsOut:
    """Datasets that hold all words of ``search`` in a name, text, column or tag."""
    found = shelf.datasets(settings_of(request).home.lake, search)
    page = [dataset_out(item) for item in found[offset : offset + limit]]
    return DatasetsOut(datasets=page, total=len(found))


@router.get("/{dataset}", summary="One dataset", responses=_MISSING)
def get_dataset(request: Request, dataset: DatasetName) -> DatasetOut:
    """Its newest version in short, or why there is none."""
    lake = settings_of(request).home.lake
    shelf.versions(lake, dataset)
    return dataset_out(shelf.one(lake, dataset))


@router.get("/{dataset}/versions", summary="Versions of a dataset", responses=_MISSING)
def list_versions(request: Request, dataset: DatasetName) -> VersionsOut:
    """All versions, newest first; retired ones say why."""
    found = shelf.versions(settings_of(request).home.lake, dataset)
    return VersionsOut(
        dataset=dataset,
        versions=[
            VersionOut(
                version=entry.version,
                published_at=entry.at,
                content_digest=entry.content_digest,
                manifest_sha256=entry.manifest_sha256,
                retired=stone.reason if stone else None,
            )
            for entry, stone in found
        ],
    )


@router.get("/{dataset}/versions/{version}", summary="Manifest of a version", responses=_MISSING)
def get_manifest(shown: Shown) -> Manifest:
    """All that is known of it: columns, files, gates, seeds, digests."""
    return shown.manifest


@router.get("/{dataset}/versions/{version}/columns", summary="Columns", responses=_MISSING)
def get_columns(shown: Shown) -> ColumnsOut:
    """What conditions may name: kinds, categories and ends of the published values."""
    return ColumnsOut(
        columns=[
            ColumnOut(**{**vars(column), "values": [shelf.plain(one) for one in column.values]})
            for column in shelf.columns(shown)
        ]
    )


@router.get("/{dataset}/versions/{version}/rows", summary="Rows", responses=_MISSING)
def get_rows(
    shown: Shown,
    limit: Annotated[int, Query(ge=1, le=shelf.MAX_ROWS)] = 20,
    offset: Annotated[int, Query(ge=0, le=1_000_000_000)] = 0,
) -> RowsOut:
    """A look at the published rows, in their order; pictures are left out."""
    taken = shelf.rows(shown, offset, limit)
    return RowsOut(offset=offset, total=shown.manifest.rows, rows=taken)


@router.get("/{dataset}/versions/{version}/files", summary="Files", responses=_MISSING)
def list_files(shown: Shown) -> FilesOut:
    """Everything that can be downloaded, with its SHA-256."""
    return FilesOut(
        files=[
            FileOut(path=file.path, bytes=file.bytes, sha256=file.sha256, rows=file.rows)
            for file in shown.manifest.files
        ]
    )


@router.get(
    "/{dataset}/versions/{version}/files/{path:path}",
    summary="Download a file",
    response_class=Response,
    responses={**_MISSING, 200: {"content": {kind: {} for kind in (*_TYPES.values(), _BYTES)}}},
)
def get_file(
    shown: Shown, path: Annotated[str, Path(max_length=500, examples=["manifest.json"])]
) -> Response:
    """Its bytes; the ETag is their SHA-256, and ranges are served from a local lake."""
    return file_response(shown, path, attachment=True)


def file_response(shown: shelf.Version, path: str, *, attachment: bool) -> Response:
    """One of the files that the manifest of a version names.

    Args:
        shown: whose file.
        path: as in the manifest.
        attachment: whether a browser is to save it.
    """
    name, digest, size = shown.file(path)
    disposition = "attachment" if attachment else "inline"
    saved_as = f"{shown.dataset}-{shown.number}-{path.rsplit('/', 1)[-1]}"
    headers = {
        "ETag": f'"{digest}"',
        "Content-Disposition": f'{disposition}; filename="{saved_as}"',
        "Content-Security-Policy": _policy(),
        "Cache-Control": "private, max-age=3600",
    }
    kind = _TYPES.get(path.rsplit(".", 1)[-1], _BYTES)
    if isinstance(shown.store, LocalStore):
        local = shown.store.path(name)
        if not local.is_file():
            raise ProblemError(410, "the files of this version were removed")
        return FileResponse(local, media_type=kind, headers=headers)
    try:
        stream = shown.store.open(name)
    except FileNotFoundError:
        raise ProblemError(410, "the files of this version were removed") from None
    headers["Content-Length"] = str(size)
    return StreamingResponse(_chunks(stream), media_type=kind, headers=headers)


def lake_response(lake: Lake, name: str) -> Response:
    """A file of the lake, which is made to be shared; what crashes left there is not.

    Raises:
        ProblemError: there is none.
    """
    missing = ProblemError(404, "there is no such file in the lake")
    store, parts = open_lake(lake), name.split("/")
    try:
        if any(part.startswith(".") for part in parts) or not store.exists(name):
            raise missing
        kind = _TYPES.get(name.rsplit(".", 1)[-1], _BYTES)
        headers = {"Content-Security-Policy": _policy()}
        if not isinstance(store, LocalStore):
            return StreamingResponse(_chunks(store.open(name)), media_type=kind, headers=headers)
        if not store.path(name).is_file():
            raise missing
        return FileResponse(store.path(name), media_type=kind, headers=headers)
    except (ParameterError, FileNotFoundError):
        raise missing from None


@functools.cache
def _policy() -> str:
    """What published pages may do: show themselves, and run the scripts of our own templates.

    On our origin any other script in them would act for its reader.
    """
    scripts = [
        script
        for folder in (files("pipelines.publication"), files("validators"))
        for page in (folder / "templates").iterdir()
        if page.name.endswith(".html.j2")
        for script in re.findall(r"<script>(.*?)</script>", page.read_text("utf-8"), re.DOTALL)
    ]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src 'self' data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


def dataset_out(item: Listed) -> DatasetOut:
    """A dataset of the catalogue as REST shows it."""
    if item.manifest is None:
        return DatasetOut(name=item.name, problem=item.problem)
    return DatasetOut(
        name=item.name,
        title=item.manifest.title,
        description=item.manifest.description,
        kind=item.manifest.kind,
        rows=item.manifest.rows,
        columns=len(item.manifest.columns),
        license=item.manifest.license,
        latest=item.entries[0].version,
    )


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while chunk := stream.read(_CHUNK):
            yield chunk
