"""What a published table looks like: its first rows, and the shape of each column, small.

Everything here is read from published files, so it shows synthetic values only. Generated rows are
in no order: the first ones stand for all.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from generators.base import SchemaError

from .digest import is_image

ROWS = 12
"""Rows that are shown."""
_SKETCH_ROWS = 10_000
_BINS = 24
_MAX_LEVELS = 12
_MAX_TEXT = 60
# Mean and largest number of pictures where the version has no contact sheet of its own.
_PICTURES = 24


@dataclass(frozen=True)
class Sketch:
    """The shape of one column.

    Attributes:
        bars: heights from 0 to 1, in the order of the values (of levels: the most frequent first).
        levels: whether a bar is a level rather than a bin.
        caption: the range, or the number of levels, in words.
        missing: share of nulls.
    """

    bars: tuple[float, ...]
    levels: bool
    caption: str
    missing: float


@dataclass(frozen=True)
class Preview:
    """The beginning of a version.

    Attributes:
        names: columns of ``rows``.
        numeric: which of them are numbers.
        rows: cells as text; None is missing.
        sketches: by column.
        looked_at: rows that the sketches are made from.
    """

    names: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str | None, ...], ...]
    sketches: dict[str, Sketch]
    looked_at: int


def preview(stream: BinaryIO) -> Preview:
    """The preview of a Parquet file; reads its first 10,000 rows, and no image.

    Raises:
        SchemaError: the file is damaged or not Parquet.
    """
    try:
        file = pq.ParquetFile(stream, page_checksum_verification=True)
        names = [field.name for field in file.schema_arrow if not is_image(field.type)]
        batches = file.iter_batches(batch_size=_SKETCH_ROWS, columns=names)
        batch = next(iter(batches), None)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(
            f"a Parquet file must be whole, reading it failed ({type(error).__name__}); "
            "get it again from its publisher"
        ) from None
    if batch is None:
        return Preview(tuple(names), (False,) * len(names), (), {}, 0)
    shown = batch.slice(0, ROWS)
    columns = [[_cell(value) for value in column.to_pylist()] for column in shown.columns]
    return Preview(
        names=tuple(names),
        numeric=tuple(_is_number(field.type) for field in batch.schema),
        rows=tuple(zip(*columns, strict=True)) if columns else (),
        sketches={name: _sketch(batch.column(name)) for name in names},
        looked_at=len(batch),
    )


def pictures(stream: BinaryIO) -> list[bytes]:
    """The first images of a Parquet file as PNG, none where it holds none."""
    file = pq.ParquetFile(stream, page_checksum_verification=True)
    names = [field.name for field in file.schema_arrow if is_image(field.type)]
    if not names:
        return []
    batch = next(iter(file.iter_batches(batch_size=_PICTURES, columns=names[:1])), None)
    cells: Sequence[dict[str, Any]] = [] if batch is None else batch.column(0).to_pylist()
    return [_plain_png(cell["bytes"]) for cell in cells if cell]


def _plain_png(encoded: bytes) -> bytes:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(encoded)) as image:
        image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _cell(value: Any) -> str | None:  # noqa: ANN401 - whatever Arrow holds
    if value is None:
        return None
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _sketch(column: pa.Array) -> Sketch:
    missing = column.null_count / max(len(column), 1)
    values = column.drop_null()
    if len(values) == 0:
        return Sketch((), True, "no values", missing)
    levels = pc.count_distinct(values).as_py()
    if levels > _MAX_LEVELS and (ordered := _ordered(values)) is not None:
        low, high = pc.min_max(values).as_py().values()
        counts, _ = np.histogram(ordered, bins=_BINS)
        return Sketch(_heights(counts), False, f"{_cell(low)} to {_cell(high)}", missing)
    if levels == len(values) and levels > _MAX_LEVELS:
        return Sketch((), True, "every value another", missing)
    table = pc.value_counts(values)
    counts, names = table.field("counts").to_numpy(), table.field("values").to_pylist()
    numbers = _is_number(values.type)
    order = sorted(range(len(names)), key=lambda i: names[i] if numbers else (-counts[i], i))
    caption = f"{levels:,} value{'' if levels == 1 else 's'}"
    if numbers:
        caption = f"{caption}, {_cell(min(names))} to {_cell(max(names))}"
    elif levels > 1:
        top = order[0]
        caption = f"{caption}, most often {_cell(names[top])} ({counts[top] / len(values):.0%})"
    return Sketch(_heights(counts[order[: 2 * _MAX_LEVELS]]), True, caption, missing)


def _ordered(values: pa.Array) -> np.ndarray | None:
    """Numbers in the order of the values, or None where they have none."""
    kind = values.type
    if pa.types.is_decimal(kind):
        values = values.cast(pa.float64())
    elif pa.types.is_date32(kind) or pa.types.is_time32(kind):
        values = values.cast(pa.int32())
    elif pa.types.is_temporal(kind):
        values = values.cast(pa.int64())
    elif not _is_number(kind):
        return None
    numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    finite: np.ndarray = numbers[np.isfinite(numbers)]
    return finite if len(finite) else None


def _heights(counts: np.ndarray) -> tuple[float, ...]:
    return tuple(float(share) for share in np.round(counts / max(int(counts.max()), 1), 3))
