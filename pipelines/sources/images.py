"""Images from a folder (one sub-folder a class) or a Parquet file, with bounds against bombs."""

from __future__ import annotations

import io
import struct
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from generators.base import DataError
from generators.schema import Images, ImageSchema

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 4096 * 4096
MAX_DECODED_BYTES = 4 * 2**30
# Up to this share of unreadable files is left out and counted; more means a broken dataset.
MAX_UNREADABLE_SHARE = 0.01
# What Pillow raises on damaged files: its readers trust the numbers that they find.
_UNREADABLE = (
    OSError,
    EOFError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    struct.error,
    Image.DecompressionBombError,
)
_CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4}


@dataclass(frozen=True)
class RawImages:
    """Images as read, and how many files were left out because they could not be read."""

    images: Images
    schema: ImageSchema
    unreadable: int = 0


def read_folder(path: Path) -> RawImages:
    """The images in a folder; its sub-folders, if any, are the classes.

    Raises:
        DataError: no images, mixed sizes, too many unreadable files.
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
    classes = sorted({file.parent.name for file in files if file.parent != path}) or ["all"]
    index = {name: number for number, name in enumerate(classes)}
    if len(classes) > 1 and any(file.parent == path for file in files):
        raise DataError(
            "either all images lie in class sub-folders or none, some lie beside them; move them"
        )
    labels = [index.get(file.parent.name, 0) for file in files]
    return _assemble((file.read_bytes() for file in files), labels, classes)


def read_parquet(path: Path) -> RawImages:
    """The images in a Parquet file: ``image: struct<bytes, path>``, with or without ``label``.

    Raises:
        DataError: damaged file, no bytes, mixed sizes, too many unreadable images.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            wanted = [c for c in ("label", "label_name", "image") if c in file.schema_arrow.names]
            table = file.read(columns=wanted)
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise DataError(
            f"a Parquet file must be whole, {path.name} is damaged, truncated or of another "
            "format; write it again"
        ) from None
    labels, classes = _labels(table)
    column = table.column("image").combine_chunks()
    if "bytes" not in {field.name for field in column.type}:
        raise DataError("the image column must be struct<bytes, path>, it has no bytes")
    blobs = (value.as_py() or b"" for value in column.field("bytes"))
    return _assemble(blobs, labels, classes)


def _labels(table: pa.Table) -> tuple[list[int], list[str]]:
    if "label" in table.column_names:
        raw = table.column("label").to_pylist()
    elif "label_name" in table.column_names:
        raw = table.column("label_name").to_pylist()
    else:
        return [0] * len(table), ["all"]
    if any(value is None for value in raw):
        raise DataError(f"every image needs a label, {raw.count(None)} have none; label them")
    values = sorted(set(raw))
    index = {value: number for number, value in enumerate(values)}
    names = {value: str(value) for value in values}
    if "label" in table.column_names and "label_name" in table.column_names:
        names.update(
            {v: str(n) for v, n in zip(raw, table.column("label_name").to_pylist(), strict=True)}
        )
    return [index[value] for value in raw], [names[value] for value in values]


def _assemble(blobs: Iterable[bytes], labels: Sequence[int], classes: Sequence[str]) -> RawImages:
    decoded: list[np.ndarray] = []
    kept: list[int] = []
    unreadable = 0
    total = 0
    for number, (blob, label) in enumerate(zip(blobs, labels, strict=True)):
        try:
            picture = _decode(blob)
        except _UNREADABLE:
            unreadable += 1
            continue
        total += picture.nbytes
        if total > MAX_DECODED_BYTES:
            raise DataError(
                f"images may decode to {MAX_DECODED_BYTES // 2**30} GiB, these are more at image "
                f"{number}; give fewer or smaller ones"
            )
        decoded.append(picture)
        kept.append(label)
    if unreadable > MAX_UNREADABLE_SHARE * len(labels):
        raise DataError(
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the images may be unreadable, "
            f"{unreadable} of {len(labels)} are (damaged, or over {MAX_PIXELS} pixels); "
            "replace or remove them"
        )
    pixels = _stack(decoded)
    height, width, channels = (int(size) for size in pixels.shape[1:])
    schema = ImageSchema(height, width, channels, tuple(classes))
    return RawImages(Images(pixels, np.asarray(kept, np.int64)), schema, unreadable)


def _decode(blob: bytes) -> np.ndarray:
    """Pixels (H, W, C) uint8; 16-bit greys are scaled to 8, palettes become RGB."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(blob), formats=FORMATS) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ValueError("too many pixels")
                picture.load()
                return _to_uint8(picture)
        except Image.DecompressionBombWarning as warning:
            raise ValueError("too many pixels") from warning


def _to_uint8(picture: Image.Image) -> np.ndarray:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        wide = np.asarray(picture, dtype=np.float64)
        return np.clip(np.round(wide / 257.0), 0, 255).astype(np.uint8)[..., None]
    if picture.mode in ("1", "LA", "F"):
        picture = picture.convert("L")
    elif picture.mode not in _CHANNELS:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    array = np.asarray(picture, dtype=np.uint8)
    return array[..., None] if array.ndim == 2 else array


def _stack(decoded: Sequence[np.ndarray]) -> np.ndarray:
    if not decoded:
        raise DataError("an image set needs images, none could be read; give data")
    shapes = Counter(picture.shape for picture in decoded)
    if len(shapes) > 1:
        listed = ", ".join(f"{shape}: {count}" for shape, count in _common(shapes))
        raise DataError(
            "all images must have one size and one mode (height, width, channels), these are "
            f"{listed}; resize or convert them"
        )
    return np.stack(decoded)


def _common(shapes: Counter[tuple[int, ...]]) -> Iterator[tuple[tuple[int, ...], int]]:
    yield from shapes.most_common(4)
