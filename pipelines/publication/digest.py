"""Content digest v1: the identity of a table's content, whatever file it is kept in.

The digest does not depend on encoding, compression, chunking, row groups, dictionary types,
32- or 64-bit string offsets or metadata. It does depend on the order of rows and columns, on
names, logical types, values and nulls. Images count by their decoded pixels.

Definition. For each column, SHA-256 over the length of its name (int64), its name (UTF-8), the
length and name of its logical type, and then for each batch of 65,536 rows:

1. the validity bits, packed, least significant bit first;
2. the values, little-endian, nulls as zero. Integers in their own width; booleans as one byte;
   floats with one NaN and no negative zero; times and dates as int64 (microseconds, days);
   decimals as the int128 of their digits; strings and binary as int64 lengths and then the joined
   bytes; images as int64 height, width and channels and then the pixels.

The digest is ``v1:`` and the SHA-256 over the row count (int64) and the column digests in order.
The batch size and the names of the logical types are part of v1 and never change.
"""

from __future__ import annotations

import hashlib
import io
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from generators.base import DataError

VERSION = "v1"
BATCH_ROWS = 65_536
_IMAGE_MODES = ("L", "RGB", "RGBA")


class ContentDigest:
    """The content digest v1 of a table that comes in parts; memory for one batch.

    The parts may be of any size: the digest is that of the whole table.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._schema: pa.Schema | None = None
        self._columns: list[tuple[str, str, hashlib._Hash]] = []
        self._held: pa.Table | None = None

    def update(self, table: pa.Table) -> None:
        """Take the next rows.

        Raises:
            DataError: their columns are not those of the rows before, a column's type has no
                canonical form (nested types, decimals of more than 38 digits), a timestamp is finer
                than a microsecond, or an image cannot be decoded.
        """
        part = table.replace_schema_metadata(None)
        if self._schema is None:
            self._schema = part.schema
            self._columns = [_begun(field) for field in part.schema]
        elif [*zip(part.schema.names, part.schema.types, strict=True)] != [
            *zip(self._schema.names, self._schema.types, strict=True)
        ]:
            raise DataError(
                "all parts of a table must have the same columns and types, they differ; write "
                "them from one schema"
            )
        self.rows += part.num_rows
        # Batches are part of the definition: what does not fill one waits for the next rows.
        if self._held is not None:
            part = pa.concat_tables([self._held, part.cast(self._held.schema)])
        whole = part.num_rows - part.num_rows % BATCH_ROWS
        for start in range(0, whole, BATCH_ROWS):
            self._take(part.slice(start, BATCH_ROWS))
        rest = part.slice(whole)
        # A slice would keep the memory of all that it was cut from.
        self._held = rest.combine_chunks() if rest.num_rows else None

    def text(self) -> str:
        """The digest of all rows so far, after which no more can be taken."""
        if self._held is not None:
            self._take(self._held)
            self._held = None
        digest = hashlib.sha256(_int64(self.rows))
        for _, _, column in self._columns:
            digest.update(column.digest())
        return f"{VERSION}:{digest.hexdigest()}"

    def _take(self, batch: pa.Table) -> None:
        for at, (name, kind, digest) in enumerate(self._columns):
            _update_column(digest, _one_array(batch.column(at)), kind, name)


def content_digest(table: pa.Table) -> str:
    """The content digest v1 of ``table``: ``v1:`` and 64 hexadecimal digits.

    Costs one pass over the data, about 1 s per GB without images; memory for one batch.

    Raises:
        DataError: see ``ContentDigest.update``.
    """
    digest = ContentDigest()
    digest.update(table)
    return digest.text()


def column_digest(name: str, column: pa.ChunkedArray) -> bytes:
    """SHA-256 over one column: its name, its logical type and its values."""
    _, kind, digest = _begun(pa.field(name, column.type))
    for start in range(0, len(column), BATCH_ROWS):
        _update_column(digest, _one_array(column.slice(start, BATCH_ROWS)), kind, name)
    return digest.digest()


def _begun(field: pa.Field) -> tuple[str, str, hashlib._Hash]:
    kind = logical_type(field.type, field.name)
    digest = hashlib.sha256()
    for text in (field.name, kind):
        encoded = text.encode()
        digest.update(_int64(len(encoded)) + encoded)
    return field.name, kind, digest


def _update_column(digest: hashlib._Hash, batch: pa.Array, kind: str, name: str) -> None:
    valid = np.asarray(pc.is_valid(batch).to_numpy(zero_copy_only=False), dtype=bool)
    digest.update(np.packbits(valid, bitorder="little").tobytes())
    _update_values(digest, batch, kind, name)


def logical_type(kind: pa.DataType, name: str = "") -> str:
    """The project's own name of an Arrow type.

    Raises:
        DataError: v1 does not define the type.
    """
    if pa.types.is_dictionary(kind):
        return logical_type(kind.value_type, name)
    if is_image(kind):
        return "image"
    if pa.types.is_timestamp(kind):
        return "timestamp" if kind.tz is None else f"timestamp[{kind.tz}]"
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return f"decimal({kind.precision}, {kind.scale})"
    for test, label in _SIMPLE:
        if test(kind):
            return label
    if pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind):
        sign = "u" if pa.types.is_unsigned_integer(kind) else ""
        base = "int" if pa.types.is_integer(kind) else "float"
        return f"{sign}{base}{kind.bit_width}"
    raise DataError(
        f"the content digest is defined for numbers, text, times and images; column {name!r} is "
        f"{kind}; convert it"
    )


def is_image(kind: pa.DataType) -> bool:
    """Whether the type is ``struct<bytes: binary, path: string>``, the layout of images."""
    if not pa.types.is_struct(kind) or kind.num_fields != 2:
        return False
    names = [kind.field(i).name for i in range(2)]
    return names == ["bytes", "path"] and _is_binary(kind.field(0).type)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


_SIMPLE = (
    (pa.types.is_null, "null"),
    (pa.types.is_boolean, "bool"),
    (_is_text, "string"),
    (_is_binary, "binary"),
    (pa.types.is_date, "date"),
    (pa.types.is_time, "time"),
    (pa.types.is_duration, "duration"),
)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _update_values(digest: hashlib._Hash, batch: pa.Array, kind: str, name: str) -> None:
    if kind == "null":
        return
    if kind == "image":
        _update_images(digest, batch, name)
    elif kind in ("string", "binary"):
        _update_bytes(digest, batch)
    elif kind.startswith("float"):
        digest.update(_canonical_floats(batch).tobytes())
    elif kind.startswith("decimal"):
        digest.update(_decimals(batch))
    else:
        digest.update(_integers(batch, kind, name).tobytes())


def _update_bytes(digest: hashlib._Hash, batch: pa.Array) -> None:
    # string_view has no cast to binary of its own: through large_string.
    if _is_text(batch.type):
        batch = batch.cast(pa.large_string())
    filled = pc.fill_null(batch.cast(pa.large_binary()), b"")
    _, offset_buffer, data = filled.buffers()
    offsets = np.frombuffer(offset_buffer, dtype="<i8")
    offsets = offsets[filled.offset : filled.offset + len(filled) + 1]
    digest.update(np.diff(offsets).astype("<i8").tobytes())
    if data is not None:
        digest.update(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _canonical_floats(batch: pa.Array) -> np.ndarray:
    width = batch.type.bit_width // 8
    values = pc.fill_null(batch, 0.0).to_numpy(zero_copy_only=False).astype(f"<f{width}", copy=True)
    values[np.isnan(values)] = np.nan
    canonical: np.ndarray = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
    return canonical


def _decimals(batch: pa.Array) -> memoryview:
    wide = batch.cast(pa.decimal128(batch.type.precision, batch.type.scale))
    filled = pc.fill_null(wide, pa.scalar(Decimal(0), wide.type))
    return memoryview(filled.buffers()[1])[16 * filled.offset : 16 * (filled.offset + len(filled))]


def _integers(batch: pa.Array, kind: str, name: str) -> np.ndarray:
    if kind == "bool":
        filled = pc.fill_null(batch, False)
        return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.uint8)
    if kind == "date":
        batch = batch.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    elif kind in ("time", "duration") or kind.startswith("timestamp"):
        batch = _microseconds(batch, name)
    values: np.ndarray = pc.fill_null(batch, 0).to_numpy(zero_copy_only=False)
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _microseconds(batch: pa.Array, name: str) -> pa.Array:
    kind = batch.type
    if pa.types.is_timestamp(kind):
        target = pa.timestamp("us", kind.tz)
    else:
        target = pa.duration("us") if pa.types.is_duration(kind) else pa.time64("us")
    try:
        return batch.cast(target).cast(pa.int64())
    except pa.ArrowInvalid:
        raise DataError(
            f"times must be whole microseconds, column {name!r} has finer ones; round them"
        ) from None


def _update_images(digest: hashlib._Hash, batch: pa.StructArray, name: str) -> None:
    # flatten, unlike field, carries the struct's own nulls and offset down to the bytes.
    for encoded in batch.flatten()[0]:
        pixels = decode_image(encoded.as_py(), name) if encoded.is_valid else _NO_IMAGE
        digest.update(np.array(pixels.shape, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(pixels).tobytes())


_NO_IMAGE = np.zeros((0, 0, 0), dtype=np.uint8)


def decode_image(encoded: bytes, name: str = "image") -> np.ndarray:
    """The pixels of an encoded image: uint8, shape (H, W, C).

    Raises:
        DataError: the bytes are no image, or it is not 8-bit grey, RGB or RGBA.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode, pixels = image.mode, np.asarray(image)
    except (OSError, SyntaxError, Image.DecompressionBombError):
        raise DataError(f"column {name!r} must hold images, one cannot be decoded") from None
    if mode not in _IMAGE_MODES:
        raise DataError(
            f"images must be of mode {', '.join(_IMAGE_MODES)}, column {name!r} has {mode}; "
            "convert them"
        )
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _int64(number: int) -> bytes:
    return number.to_bytes(8, "little", signed=True)
