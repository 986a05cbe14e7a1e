"""Tables and images as canonical Parquet: the same data gives the same bytes, and nothing else.

What pandas and Arrow would add on their own never reaches a file: the index, ``DataFrame.attrs``,
the unused categories of a categorical, EXIF. Columns have the types that the schema declares.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from generators import dtypes
from generators.base import ParameterError, SchemaError
from generators.dtypes import arrow_of_plain
from generators.schema import Column, Data, Images, ImageSchema, Schema, TableSchema

from .digest import BATCH_ROWS, is_image

ROW_GROUP_ROWS = 122_880
"""DuckDB's unit of parallel work; a smaller table is one group."""
GROUP_IMAGES, GROUP_BYTES = 5_000, 16 << 20
"""Images in a row group at most, and bytes: a viewer reads a group at once."""
ZSTD_LEVEL = 3
PREFIX = "likeness:"
"""What our keys in a file's footer begin with."""

# Above this many distinct values per row a dictionary costs more than it saves; the first rows
# tell, since generated rows are in no order.
_DICTIONARY_SHARE = 1 / 8
_DICTIONARY_SAMPLE = 65_536

IMAGE = "image"
"""The column of the images."""
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
# The IPTC mark of generated media: https://cv.iptc.org/newscodes/digitalsourcetype
_XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about=""'
    ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    f' Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPES}%s"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


GENERATED = "trainedAlgorithmicMedia"
COMPOSITE = "compositeWithTrainedAlgorithmicMedia"
"""IPTC digital source types: all of an image is made, or part of it is real."""


@dataclass(frozen=True)
class Origin:
    """What each image of a sample can be made from again, by whoever holds the model.

    Attributes:
        seeds: of each image, int64, shape (N,).
        evaluations: of the network, for each image (NFE).
        model: digest of the model.
    """

    seeds: np.ndarray
    evaluations: int
    model: str


def to_arrow(
    data: Data, schema: Schema, origin: Origin | None = None, mark: str = GENERATED
) -> pa.Table:
    """``data`` as an Arrow table of the declared columns and types, without any metadata.

    Images become the columns ``id``, ``label`` and ``label_name`` (where there are classes),
    ``seed``, ``nfe`` and ``model`` (where the origin is known) and, last, ``image``: a struct of
    PNG ``bytes`` and a ``path``. Where images have rows, the columns of these stand in the place of
    ``id`` and the labels. Every image is encoded anew and marked as generated.

    Args:
        data: the rows or images.
        schema: their schema.
        origin: of images.
        mark: the IPTC digital source type of images.

    Raises:
        SchemaError: the data are not what the schema describes; no cell is quoted.
    """
    if isinstance(schema, TableSchema) and isinstance(data, pd.DataFrame):
        return _table_to_arrow(data, schema)
    if isinstance(schema, ImageSchema) and isinstance(data, Images):
        return _images_to_arrow(data, schema, origin, mark)
    raise SchemaError(
        "data and schema must both be of a table or both of images, got "
        f"{type(data).__name__} and {type(schema).__name__}"
    )


class CanonicalFile:
    """A Parquet file that is written as rows come; equal rows and footers give equal bytes.

    However the rows are cut into parts, the bytes are the same; memory is for one row group.

    Args:
        path: the file; its folder must exist.
        schema: what ``to_arrow`` gives.
        classes: names of the classes of images, for the ``datasets`` library.
    """

    def __init__(self, path: Path, schema: pa.Schema, classes: Sequence[str] = ()) -> None:
        self._path, self._schema, self._classes = path, schema.remove_metadata(), classes
        self._images = [field.name for field in schema if is_image(field.type)]
        # Images come as one: the first part tells how large they are.
        self._group = 0 if self._images else ROW_GROUP_ROWS
        self._held: list[pa.Table] = []
        self._rows = 0
        self._writer: pq.ParquetWriter | None = None

    def write(self, table: pa.Table) -> None:
        """Take the next rows."""
        self._group = self._group or _images_per_group(table)
        self._held.append(table.replace_schema_metadata(None))
        self._rows += table.num_rows
        if self._rows >= self._group:
            self._write_groups(self._group)

    def end(self) -> None:
        """Write the rows that wait: no more will come."""
        self._group = self._group or 1
        self._write_groups(1)
        if self._writer is None:
            self._write_group(self._schema.empty_table())

    def close(self, footer: Mapping[str, str]) -> None:
        """End the file.

        Args:
            footer: our keys for the file's footer, without prefix: ``dataset``,
                ``content_digest``. ``likeness:synthetic`` is always there.
        """
        self.end()
        keys = {f"{PREFIX}{key}": value for key, value in sorted(footer.items())}
        keys[f"{PREFIX}synthetic"] = "true"
        if self._images:
            keys["huggingface"] = _huggingface(self._schema, self._classes)
        if self._writer is not None:
            self._writer.add_key_value_metadata(keys)
        self.abandon()

    def abandon(self) -> None:
        """Let go of the file, whole or not."""
        if self._writer is not None:
            self._writer.close()

    def _write_groups(self, least: int) -> None:
        """Write groups as long as ``least`` rows are there."""
        waiting = pa.concat_tables(self._held) if self._held else None
        while waiting is not None and waiting.num_rows >= least:
            self._write_group(waiting.slice(0, self._group))
            waiting = waiting.slice(self._group)
        # A slice would keep the memory of all that it was cut from.
        self._held = [waiting.combine_chunks()] if waiting is not None and len(waiting) else []
        self._rows = sum(len(table) for table in self._held)

    def _write_group(self, rows: pa.Table) -> None:
        # The layout of chunks would show in the bytes.
        group = rows.combine_chunks()
        if self._writer is None:
            self._writer = self._opened(group)
        self._writer.write_table(group, row_group_size=self._group)

    def _opened(self, first: pa.Table) -> pq.ParquetWriter:
        plain = [name for name in first.column_names if name not in self._images]
        dictionary = [name for name in plain if _low_cardinality(first.column(name))]
        compression = dict.fromkeys(plain, "zstd")
        for name in self._images:  # PNG is compressed already
            compression |= {f"{name}.bytes": "none", f"{name}.path": "zstd"}
        return pq.ParquetWriter(
            self._path,
            self._schema,
            version="2.6",
            data_page_version="1.0",
            compression=compression,
            compression_level={
                name: ZSTD_LEVEL for name in compression if compression[name] == "zstd"
            },
            use_dictionary=dictionary,
            column_encoding=_encodings(first, [name for name in plain if name not in dictionary]),
            write_statistics=[*plain] if self._images else True,
            write_page_index=True,
            write_page_checksum=True,
            store_schema=True,
        )


def write_parquet(
    table: pa.Table, path: Path, footer: Mapping[str, str], classes: Sequence[str] = ()
) -> None:
    """Write ``table`` to ``path`` as a ``CanonicalFile``."""
    file = CanonicalFile(path, table.schema, classes)
    file.write(table)
    file.close(footer)


def read_batches(source: Path | BinaryIO) -> Iterator[pa.Table]:
    """The rows of a Parquet file in parts, with every page's checksum verified; one at least.

    Raises:
        SchemaError: the file is damaged or not Parquet.
    """
    try:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        plain = file.schema_arrow.remove_metadata()
        if file.metadata.num_rows == 0:
            yield plain.empty_table()
        for batch in file.iter_batches(batch_size=BATCH_ROWS):
            yield pa.Table.from_batches([batch]).cast(plain)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from None


def read_parquet(source: Path | BinaryIO) -> pa.Table:
    """The table in a Parquet file, with every page's checksum verified.

    Raises:
        SchemaError: the file is damaged or not Parquet.
    """
    try:
        return pq.ParquetFile(source, page_checksum_verification=True).read()
    except (pa.ArrowException, OSError) as error:
        raise _damaged(error) from None


def _damaged(error: Exception) -> SchemaError:
    return SchemaError(
        f"a Parquet file must be whole, reading it failed ({type(error).__name__}); "
        "get it again from its publisher"
    )


def encode_png(pixels: np.ndarray, source: str = GENERATED) -> bytes:
    """PNG bytes of one image, marked as generated by a trained algorithm.

    Args:
        pixels: uint8, shape (H, W, C) with 1, 3 or 4 channels.
        source: the IPTC digital source type.

    Raises:
        ParameterError: another dtype or number of channels.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in _MODES:
        raise ParameterError(
            "an image must be uint8 of shape (H, W, C) with 1, 3 or 4 channels, got "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", _XMP % source)
    buffer = io.BytesIO()
    squeezed = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
    image = Image.fromarray(np.ascontiguousarray(squeezed))
    image.save(buffer, format="PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()


def _table_to_arrow(frame: pd.DataFrame, schema: TableSchema) -> pa.Table:
    names = [str(name) for name in frame.columns]
    if names != list(schema.names):
        missing = [name for name in schema.names if name not in names]
        extra = [name for name in names if name not in schema.names]
        raise SchemaError(
            "the columns must be the schema's, in its order; "
            f"missing {missing or 'none'}, unknown {extra or 'none'}; select and order them"
        )
    fields, arrays = [], []
    for position, column in enumerate(schema.columns):
        array = _column_to_arrow(frame.iloc[:, position], column)
        described = {"description": column.description} if column.description else None
        fields.append(pa.field(column.name, array.type, column.nullable, metadata=described))
        arrays.append(array)
    return pa.table(arrays, schema=pa.schema(fields))


def _column_to_arrow(series: pd.Series, column: Column) -> pa.Array:
    target = _plain_type(column)
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(object)
    if series.dtype == object and pa.types.is_string(target):
        series = series.map(str, na_action="ignore")
    try:
        array = pa.array(series, type=target, from_pandas=True)
        if column.stored:
            target = arrow_type(column)
            array = arrow_of_plain(array, target)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        # Arrow's own message quotes the cell.
        raise SchemaError(
            f"column {column.name!r} must hold {target} as declared ({column.dtype}), it holds "
            f"{series.dtype} values that do not convert without loss; clean or redeclare it"
        ) from None
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    if array.null_count and not column.nullable:
        raise SchemaError(
            f"column {column.name!r} must have no missing values, it has {array.null_count}; "
            "fill them or declare it nullable"
        )
    return array


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type of a declared column.

    Raises:
        SchemaError: a dtype that has no place in a published table.
    """
    return dtypes.arrow_type(column.stored) if column.stored else _plain_type(column)


def _plain_type(column: Column) -> pa.DataType:
    dtype = column.dtype.lower()
    if dtype in ("object", "category"):
        return _type_of_levels(column)
    if dtype.startswith(("string", "str")):
        return pa.string()
    if dtype.startswith("datetime64["):
        _, _, zone = dtype.removesuffix("]").partition(",")
        # The zone's own spelling, not the lower-cased one.
        start = len(column.dtype) - 1 - len(zone.strip())
        return pa.timestamp("us", column.dtype[start:-1] if zone else None)
    named = {"boolean": "bool", "float16": "float32"}.get(dtype, dtype)
    if named in _NUMBERS:
        return pa.type_for_alias(named)
    raise SchemaError(
        f"column {column.name!r} must be of a number, text, boolean or datetime dtype to be "
        f"published, it is {column.dtype!r}; convert it"
    )


_SIGNED = ("int8", "int16", "int32", "int64")
_NUMBERS = ("bool", *_SIGNED, *(f"u{name}" for name in _SIGNED), "float32", "float64")


def _type_of_levels(column: Column) -> pa.DataType:
    if column.kind == "numerical":
        return pa.float64()
    kinds = {type(level) for level in column.levels}
    if kinds == {bool}:
        return pa.bool_()
    if kinds == {int}:
        return pa.int64()
    return pa.float64() if kinds in ({float}, {int, float}) else pa.string()


def _images_per_group(table: pa.Table) -> int:
    mean = table.nbytes / max(len(table), 1)
    return int(min(max(GROUP_BYTES / max(mean, 1.0), 1), GROUP_IMAGES))


def _images_to_arrow(
    images: Images, schema: ImageSchema, origin: Origin | None, mark: str
) -> pa.Table:
    shape = (schema.height, schema.width, schema.channels)
    if images.pixels.shape[1:] != shape:
        raise SchemaError(
            f"images must be {shape} (height, width, channels) as the schema says, "
            f"got {images.pixels.shape[1:]}"
        )
    count = len(images)
    beside = _rows_beside(images, schema)
    columns: dict[str, pa.Array] = {}
    if beside is None:
        columns["id"] = pa.array(np.arange(count, dtype=np.int64))
    if beside is None and schema.labelled:
        labels = np.asarray(images.labels, dtype=np.int64)
        if count and (labels.min() < 0 or labels.max() >= len(schema.classes)):
            raise SchemaError(
                f"labels must be from 0 to {len(schema.classes) - 1}, the schema's classes; "
                "some are not"
            )
        names = pa.array(schema.classes, pa.string())
        columns |= {"label": pa.array(labels), "label_name": names.take(pa.array(labels))}
    if origin is not None:
        columns |= {
            "seed": pa.array(origin.seeds, pa.int64()),
            "nfe": pa.array(np.full(count, origin.evaluations, np.int32)),
            "model": pa.array([origin.model] * count, pa.string()),
        }
    encoded = pa.array([encode_png(pixels, mark) for pixels in images.pixels], pa.binary())
    paths = pa.array([f"{number:08d}.png" for number in range(count)], pa.string())
    columns[IMAGE] = pa.StructArray.from_arrays([encoded, paths], fields=list(IMAGE_TYPE))
    fields = [pa.field(name, array.type, nullable=False) for name, array in columns.items()]
    if beside is None:
        return pa.table(list(columns.values()), schema=pa.schema(fields))
    whole = pa.schema([*beside.schema, *fields])
    return pa.table([*beside.columns, *columns.values()], schema=whole)


def _rows_beside(images: Images, schema: ImageSchema) -> pa.Table | None:
    if schema.table is None:
        return None
    if images.rows is None or IMAGE in schema.table.names:
        raise SchemaError(
            f"images with a table must have rows, none of whose columns is called {IMAGE}; "
            "give rows, rename the column"
        )
    return _table_to_arrow(images.rows, schema.table)


def _low_cardinality(column: pa.ChunkedArray) -> bool:
    if pa.types.is_boolean(column.type):
        return False
    first = column.slice(0, _DICTIONARY_SAMPLE)
    return bool(pc.count_distinct(first).as_py() <= max(len(first) * _DICTIONARY_SHARE, 2))


def _encodings(table: pa.Table, names: list[str]) -> dict[str, str]:
    encodings = {}
    for name in names:
        kind = table.schema.field(name).type
        if pa.types.is_floating(kind):
            encodings[name] = "BYTE_STREAM_SPLIT"
        elif pa.types.is_integer(kind) or pa.types.is_temporal(kind):
            encodings[name] = "DELTA_BINARY_PACKED"
    return encodings


def _huggingface(schema: pa.Schema, classes: Sequence[str]) -> str:
    """The feature types that the ``datasets`` library reads from the footer."""
    features: dict[str, Any] = {}
    for field in schema:
        if is_image(field.type):
            features[field.name] = {"_type": "Image"}
        elif field.name == "label" and classes:
            features[field.name] = {"names": list(classes), "_type": "ClassLabel"}
        else:
            # The library's names are Arrow's, but for dates.
            name = str(field.type).removesuffix("[day]")
            features[field.name] = {"dtype": name, "_type": "Value"}
    return json.dumps({"info": {"features": features}}, sort_keys=False)
