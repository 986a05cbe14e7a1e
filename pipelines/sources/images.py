"""Images from a folder (one sub-folder a class) or a Parquet file, with bounds against bombs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from generators.base import DataError, ParameterError
from generators.schema import Images, ImageSchema

from .pixels import Encoded, decode_all
from .tables import ArrowTable, check_names, opened, whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
LABEL_COLUMNS = ("label", "labels", "class", "category", "target")
"""Columns that are taken for the classes of images where the owner names none, in this order."""
NAME_COLUMN = "label_name"
# How PNG, JPEG, BMP, TIFF and WebP begin.
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\x00", b"MM\x00*", b"RIFF")
_INDEX_NAME = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class RawImages:
    """Images as read.

    Attributes:
        images: the images and their labels.
        schema: their size and classes.
        unreadable: how many files were left out because they could not be read.
        notes: what was done to them to make them one set, a sentence each.
        table: the row of each image, where its owner wants the columns beside them learned.
    """

    images: Images
    schema: ImageSchema
    unreadable: int = 0
    notes: tuple[str, ...] = ()
    table: ArrowTable | None = None


def read_folder(path: Path, side: int | None = None) -> RawImages:
    """The images in a folder; its sub-folders, if any, are the classes.

    Args:
        path: the folder.
        side: see ``pixels.decode_all``.

    Raises:
        DataError: no images, classes that cannot be told, too many unreadable files.
    """
    files = image_files(path)
    classes = sorted({file.parent.name for file in files if file.parent != path}) or ["all"]
    index = {name: number for number, name in enumerate(classes)}
    if len(classes) > 1 and any(file.parent == path for file in files):
        raise DataError(
            "either all images lie in class sub-folders or none, some lie beside them; move them"
        )
    labels = [index.get(file.parent.name, 0) for file in files]
    return _assembled(files, labels, classes, side, ())[0]


def image_files(path: Path) -> list[Path]:
    """The files of images in a folder and its sub-folders, in order.

    Raises:
        DataError: there are none.
    """
    root = path.resolve()
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in SUFFIXES
        and file.is_file()
        # A link could lead out of the folder.
        and not file.is_symlink()
        and file.resolve().is_relative_to(root)
    )
    if not files:
        raise DataError(
            f"an image folder must hold {', '.join(SUFFIXES)} files, {path.name} has none"
        )
    return files


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold images: ``struct<bytes, path>`` in any order, or plain bytes."""
    names = []
    for field in schema:
        kind = field.type
        if pa.types.is_struct(kind):
            fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)}
            if _is_bytes(fields.get("bytes", pa.null())):
                names.append(field.name)
        elif _is_bytes(kind):
            names.append(field.name)
    return names


def has_images(path: Path) -> bool:
    """Whether a Parquet file has a column of images; plain bytes are if the first ones are.

    Raises:
        DataError: the file is damaged.
    """
    with whole(path), opened(path) as file:
        schema = file.schema_arrow
        for name in image_columns(schema):
            if pa.types.is_struct(schema.field(name).type):
                return True
            first = next(file.iter_batches(batch_size=1, columns=[name]), None)
            if first is not None and (first.column(0)[0].as_py() or b"").startswith(_MAGIC):
                return True
    return False


def read_parquet(path: Path, side: int | None = None, label: str | None = None) -> RawImages:
    """The images in a Parquet file, with their classes where a column tells them.

    Args:
        path: a file with one column of images.
        side: see ``pixels.decode_all``.
        label: the column of the classes; by default one of the usual names. Where it is given, the
            columns beside it are a table of which each row belongs to an image.

    Raises:
        DataError: damaged file, no bytes, too many unreadable images.
        ParameterError: there is no column ``label``.
    """
    with whole(path), opened(path) as file:
        schema = file.schema_arrow
        (column,) = _one(image_columns(schema), path)
        asked, label = label, label_column(schema.names, label)
        names = {column, label, NAME_COLUMN} & set(schema.names)
        all_names = [name for name in schema.names if not _INDEX_NAME.fullmatch(name)]
        others = [name for name in all_names if name not in names]
        linked = bool(asked and others)
        wanted = all_names if linked else [name for name in all_names if name in names]
        table = file.read(columns=wanted)
    notes = [
        f"columns left out: {', '.join(others)}; --target NAME, the column of the classes, learns "
        "them beside the images"
    ]
    labels, classes = _labels(table, label, _class_names(schema, label))
    left_out = notes if others and not linked else ()
    raw, kept = _assembled(_blobs(table, column), labels, classes, side, left_out)
    if not linked:
        return raw
    rows = table.drop_columns([column]).replace_schema_metadata(None).take(pa.array(kept))
    check_names(rows.column_names)
    return replace(raw, table=ArrowTable(rows, len(rows)))


def label_column(names: Sequence[str], wanted: str | None) -> str | None:
    """The column of the classes: the wanted one, else the first of the usual names, else None.

    Raises:
        ParameterError: there is no such column.
    """
    if wanted is None:
        return next((name for name in LABEL_COLUMNS if name in names), None)
    if wanted not in names:
        raise ParameterError(
            f"--target must name a column of the data, {wanted} is not one; the columns are "
            f"{', '.join(names[:20])}"
        )
    return wanted


def _one(columns: Sequence[str], path: Path) -> Sequence[str]:
    if len(columns) != 1:
        raise DataError(
            f"a table may have one column of images, {path.name} has {len(columns)}: "
            f"{', '.join(columns)}; keep one"
        )
    return columns


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _blobs(table: pa.Table, column: str) -> list[Encoded]:
    values = table.column(column).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], pa.binary())
    if pa.types.is_struct(values.type):
        index = [values.type.field(i).name for i in range(values.type.num_fields)].index("bytes")
        # flatten, unlike field, carries the struct's own nulls down to the bytes.
        values = values.flatten()[index]
    if len(values) and values.null_count == len(values):
        raise DataError(
            f"column {column!r} must hold the images themselves, it holds paths alone; write the "
            "bytes of the files into it"
        )
    return [value.as_py() or b"" for value in values]


def _class_names(schema: pa.Schema, label: str | None) -> Sequence[str]:
    """Names of the classes 0, 1, ..., where the Hugging Face hub has them in the file."""
    if label is None or b"huggingface" not in (schema.metadata or {}):
        return ()
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (ValueError, LookupError, TypeError):
        return ()
    known = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if known and len(set(names)) == len(names) else ()


def _labels(
    table: pa.Table, label: str | None, known: Sequence[str]
) -> tuple[list[int], list[str]]:
    named = NAME_COLUMN in table.column_names
    if label is None and not named:
        return [0] * len(table), ["all"]
    raw = table.column(label or NAME_COLUMN).to_pylist()
    if any(value is None for value in raw):
        raise DataError(f"every image needs a label, {raw.count(None)} have none; label them")
    if not all(isinstance(value, str | int) for value in raw):
        raise DataError(
            f"classes must be text or whole numbers, column {label or NAME_COLUMN!r} holds others; "
            "name another by --target"
        )
    values = sorted(set(raw))
    index = {value: number for number, value in enumerate(values)}
    names = {value: str(value) for value in values}
    if label in LABEL_COLUMNS[:1] and named:
        given = table.column(NAME_COLUMN).to_pylist()
        names.update({v: str(n) for v, n in zip(raw, given, strict=True)})
    elif known and all(isinstance(v, int) and 0 <= v < len(known) for v in values):
        names = {value: known[value] for value in values}
    return [index[value] for value in raw], [names[value] for value in values]


def _assembled(
    encoded: Sequence[Encoded],
    labels: Sequence[int],
    classes: Sequence[str],
    side: int | None,
    notes: Sequence[str],
) -> tuple[RawImages, np.ndarray]:
    """The set, and the numbers of the pictures in it."""
    pictures = decode_all(encoded, side)
    height, width, channels = (int(length) for length in pictures.pixels.shape[1:])
    schema = ImageSchema(height, width, channels, tuple(classes))
    images = Images(pictures.pixels, np.asarray(labels, np.int64)[pictures.kept])
    told = (*notes, *pictures.notes)
    return RawImages(images, schema, pictures.unreadable, told), pictures.kept
