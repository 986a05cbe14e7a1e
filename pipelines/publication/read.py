"""Published Parquet back as the data it was made from: the inverse of ``parquet.to_arrow``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from generators.base import SchemaError
from generators.dtypes import plain_of_arrow, restored
from generators.schema import Column, Data, Images, ImageSchema, Schema, TableSchema

from .digest import decode_image
from .parquet import read_batches


def read_published(files: Sequence[Path], schema: Schema, most: int | None = None) -> Data:
    """The rows of ``files``, in their order, as a frame of the schema's dtypes or as ``Images``.

    Args:
        files: Parquet files.
        schema: what they hold.
        most: read only so many rows, the first ones; generated rows are in no order.

    Raises:
        SchemaError: there are no files, one is damaged, or it is not what the schema describes.
    """
    if not files:
        raise SchemaError("published data must have at least one file, got none; name its files")
    tables: list[pa.Table] = []
    for part in chain.from_iterable(map(read_batches, files)):
        room = part.num_rows if most is None else most - sum(map(len, tables))
        tables.append(part.slice(0, room))
        if part.num_rows > room:
            break
    return _data(pa.concat_tables(tables), schema)


def published_parts(files: Sequence[Path], schema: Schema) -> Iterator[Data]:
    """``read_published`` in parts, in memory for one of them.

    Raises:
        SchemaError: a file is damaged, or it is not what the schema describes.
    """
    for part in chain.from_iterable(map(read_batches, files)):
        yield _data(part, schema)


def _data(table: pa.Table, schema: Schema) -> Data:
    table_schema = schema.table if isinstance(schema, ImageSchema) else schema
    names = ["image"] if isinstance(schema, ImageSchema) else []
    names += list(table_schema.names) if table_schema is not None else []
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise SchemaError(f"the files must hold the columns {missing}, they do not; check them")
    if isinstance(schema, ImageSchema):
        return _images(table, schema)
    return _frame(table, schema)


def _frame(table: pa.Table, schema: TableSchema) -> pd.DataFrame:
    columns = {column.name: _series(table.column(column.name), column) for column in schema.columns}
    return pd.DataFrame(columns, columns=list(schema.names))


def _images(table: pa.Table, schema: ImageSchema) -> Images:
    encoded = pa.chunked_array(
        [chunk.field("bytes") for chunk in table.column("image").chunks], pa.binary()
    )
    shape = (len(table), schema.height, schema.width, schema.channels)
    pixels = np.empty(shape, dtype=np.uint8)
    for row, data in enumerate(encoded):
        image = decode_image(data.as_py())
        if image.shape != shape[1:]:
            raise SchemaError(f"image {row} must be of shape {shape[1:]}, it is {image.shape}")
        pixels[row] = image
    if schema.table is not None:
        rows = _frame(table, schema.table)
        numbers = {name: number for number, name in enumerate(schema.classes)}
        named = [numbers[str(value)] for value in rows[schema.label]]
        return Images(pixels, np.array(named, np.int64), rows)
    if schema.labelled:
        labels = table.column("label").to_numpy().astype(np.int64)
    else:
        labels = np.zeros(len(table), dtype=np.int64)
    return Images(pixels, labels)


def _series(column: pa.ChunkedArray, declared: Column) -> pd.Series:
    if declared.stored:
        return restored(plain_of_arrow(column), declared.dtype)
    dtype = pd.api.types.pandas_dtype(declared.dtype)
    if isinstance(dtype, pd.CategoricalDtype):
        return pd.Series(pd.Categorical(column.to_pylist(), categories=list(declared.levels)))
    if pd.api.types.is_object_dtype(dtype):
        return pd.Series(column.to_pylist(), dtype=object)
    if pd.api.types.is_extension_array_dtype(dtype) and not isinstance(dtype, pd.DatetimeTZDtype):
        # Through objects: a nullable integer read as float would lose its last digits.
        return pd.Series(column.to_pylist(), dtype=dtype)
    return pd.Series(column.to_pandas()).astype(dtype).rename(None)
