"""Real data in: each source gives a clean frame, or images with their schema."""

from __future__ import annotations

from pathlib import Path

from generators.base import DataError, ParameterError
from generators.schema import Images, ImageSchema

from ..spec import SourceSpec
from . import builtin, images, tables
from .images import RawImages as RawImages
from .tables import RawTable as RawTable

BUILTIN = builtin.BUILTIN


def read_source(source: SourceSpec) -> RawTable | RawImages:
    """The real data of ``source``.

    Raises:
        DataError: it is missing, damaged, empty or too large.
        ParameterError: the source is not declared properly.
    """
    if source.kind == "builtin":
        return builtin.read(source.name or "")
    if source.path is None:
        raise ParameterError(f"a {source.kind} source needs a path; set source.path")
    path = Path(source.path)
    if not path.exists():
        raise DataError(f"the source must exist, {path} does not; check the path")
    if source.kind == "csv":
        return tables.read_csv(path)
    if source.kind == "parquet":
        return read_parquet(path)
    return images.read_folder(path)


def read_parquet(path: Path) -> RawTable | RawImages:
    """A Parquet file: images where it has a column ``image: struct<bytes, path>``, else a table."""
    if tables.has_image_column(path):
        return images.read_parquet(path)
    return tables.read_parquet(path)


def source_for_path(path: Path) -> SourceSpec:
    """The source that a path on the command line means.

    Raises:
        DataError: there is nothing at the path, or of a kind that is not read.
    """
    if not path.exists():
        raise DataError(f"the source must exist, {path} does not; check the path")
    absolute = str(path.absolute())
    if path.is_dir():
        return SourceSpec(kind="images", path=absolute)
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv", ".txt"):
        return SourceSpec(kind="csv", path=absolute)
    if suffix in (".parquet", ".pq"):
        return SourceSpec(kind="parquet", path=absolute)
    raise DataError(
        f"a source must be a .csv or .parquet file or a folder of images, got {path.name!r}; "
        "convert it"
    )


__all__ = [
    "BUILTIN",
    "ImageSchema",
    "Images",
    "RawImages",
    "RawTable",
    "read_parquet",
    "read_source",
    "source_for_path",
]
