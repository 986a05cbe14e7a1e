"""Real data in: each source gives a clean frame, or images with their schema."""

from __future__ import annotations

import os
from pathlib import Path

from generators.base import DataError, ParameterError
from generators.schema import Images, ImageSchema

from ..spec import SourceSpec
from . import builtin, idx, images, sql, tables
from .images import RawImages as RawImages
from .reservoir import Reservoir
from .tables import ArrowTable
from .tables import RawTable as RawTable

BUILTIN = builtin.BUILTIN
SOURCES = "LIKENESS_SOURCES"
"""Environment variable: the only folder that sources may lie in, where requests are foreign."""


def read_source(source: SourceSpec, vault: Path) -> RawTable | RawImages:
    """The real data of ``source``; files and databases are read in a bounded child process.

    Args:
        source: where the data are.
        vault: what the child reads passes through a folder here.

    Raises:
        DataError: it is missing, damaged, empty or too large.
        ParameterError: the source is not declared properly.
    """
    if source.kind == "builtin":
        return builtin.read(source.name or "")
    from .sandbox import read_in_child

    if source.kind != "sql":
        _path_of(source)
    return read_in_child(source, vault)


def read_plainly(source: SourceSpec) -> ArrowTable | RawImages:
    """What ``read_source`` reads, within this process and without its bounds."""
    memory = source.limits.memory_mb * 2**20
    keep = Reservoir(source.limits.max_rows, memory // 8)
    if source.kind == "sql":
        if source.url is None:
            raise ParameterError("an sql source needs a url; set source.url")
        table = sql.read_sql(source.url, source.table, source.query, keep)
        return tables.ArrowTable(table, keep.seen)
    path = _path_of(source)
    if source.kind == "csv":
        return tables.stream_csv(path, keep, whole_bytes=memory // 16)
    if source.kind == "images":
        return images.read_folder(path, source.size)
    if source.kind == "idx":
        return idx.read_idx(path, source.size)
    if images.has_images(path):
        return images.read_parquet(path, source.size, source.label)
    return tables.stream_parquet(path, keep)


def _path_of(source: SourceSpec) -> Path:
    """The path of a source: a plain file or folder, below ``$LIKENESS_SOURCES`` where it is set."""
    if source.path is None:
        raise ParameterError(f"a {source.kind} source needs a path; set source.path")
    path = Path(source.path)
    if not path.exists():
        raise DataError(f"the source must exist, {path} does not; check the path")
    real = path.resolve()
    root = os.environ.get(SOURCES)
    if root is not None and not real.is_relative_to(Path(root).resolve()):
        raise ParameterError(
            f"a source must lie below {SOURCES}, {path} leads out of it; move it there"
        )
    wanted = real.is_dir() if source.kind == "images" else real.is_file()
    if not wanted:
        kind = "a folder" if source.kind == "images" else "a plain file"
        raise DataError(f"a source of {source.kind} must be {kind}, {path} is not; check the path")
    return real


def source_for_path(path: Path) -> SourceSpec:
    """The source that a path on the command line means.

    Raises:
        DataError: there is nothing at the path, or of a kind that is not read.
    """
    if not path.exists():
        raise DataError(f"the source must exist, {path} does not; check the path")
    absolute = str(path.absolute())
    if path.is_dir():
        packed = idx.images_in(path)
        if not packed:
            return SourceSpec(kind="images", path=absolute)
        if len(packed) > 1:
            raise DataError(
                f"a folder of IDX files must hold one of images, {path.name} has {len(packed)}; "
                f"give one of them: {', '.join(str(path / name) for name in packed)}"
            )
        return SourceSpec(kind="idx", path=str(path.absolute() / packed[0]))
    suffix = path.suffix.lower()
    if suffix in (".db", ".sqlite", ".sqlite3"):
        return SourceSpec(kind="sql", url=f"sqlite:///{absolute}")
    if suffix in (".csv", ".tsv", ".txt"):
        return SourceSpec(kind="csv", path=absolute)
    if suffix in (".parquet", ".pq"):
        return SourceSpec(kind="parquet", path=absolute)
    if idx.NAME.search(path.name):
        return SourceSpec(kind="idx", path=absolute)
    raise DataError(
        "a source must be a .csv, .parquet, .sqlite or IDX file or a folder of images, got "
        f"{path.name!r}; convert it"
    )


__all__ = [
    "BUILTIN",
    "ImageSchema",
    "Images",
    "RawImages",
    "RawTable",
    "read_source",
    "source_for_path",
]
