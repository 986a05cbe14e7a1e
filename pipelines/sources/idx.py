"""Images from an IDX file, the format of MNIST and its kin, plain or gzip.

Format (LeCun, http://yann.lecun.com/exdb/mnist): two zero bytes, a byte for the type, a byte for
the number of dimensions, each dimension as a big-endian int32, then the values, row by row. Labels
lie in a second file: ``train-labels-idx1-ubyte`` beside ``train-images-idx3-ubyte``.
"""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from generators.base import DataError
from generators.schema import Images, ImageSchema

from .images import SUFFIXES, RawImages
from .pixels import MAX_DECODED_BYTES, MAX_PIXELS, within_side

_LABELS = re.compile(r"idx1|labels", re.IGNORECASE)
NAME = re.compile(r"(^|[-._])idx\d?([-._]|$)", re.IGNORECASE)
"""What the names of such files have in common."""
_UBYTE = 0x08
_GZIP = b"\x1f\x8b"
_CHUNK = 1 << 20


def read_idx(path: Path, side: int | None = None) -> RawImages:
    """The images in an IDX file of bytes, with the labels beside it where there are any.

    Args:
        path: of shape (N, H, W), or (N, H, W, C) with 1, 3 or 4 channels.
        side: the longest side in pixels; by default 64 at most.

    Raises:
        DataError: damaged, truncated, too large, or not images.
    """
    pixels = _array(path)
    if pixels.ndim == 1:
        raise DataError(f"an IDX source must be the file of images, {path.name} holds labels")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.ndim != 4 or pixels.shape[3] not in (1, 3, 4):
        raise DataError(
            f"an IDX file of images must have shape (N, H, W) or (N, H, W, 1, 3 or 4), "
            f"{path.name} has {pixels.ndim} dimensions; convert it"
        )
    if 0 in pixels.shape:
        raise DataError(f"an image set needs images, {path.name} has none; give data")
    pixels, notes = within_side(pixels, side)
    height, width, channels = (int(length) for length in pixels.shape[1:])
    labels_file = _labels_file(path)
    if labels_file is None:
        schema = ImageSchema(height, width, channels)
        notes = (*notes, "no labels: there is no file of labels beside the images")
        return RawImages(Images(pixels, np.zeros(len(pixels), np.int64)), schema, 0, notes)
    labels = _array(labels_file)
    if labels.shape != (len(pixels),):
        raise DataError(
            f"{labels_file.name} must hold a label for each of the {len(pixels)} images, it has "
            f"shape {labels.shape}; give the file that belongs to the images"
        )
    values, numbers = np.unique(labels, return_inverse=True)
    schema = ImageSchema(height, width, channels, tuple(str(value) for value in values))
    return RawImages(Images(pixels, numbers.astype(np.int64)), schema, 0, notes)


def images_in(folder: Path) -> list[str]:
    """The names of the IDX files of images in a folder."""
    files = (file for file in folder.iterdir() if file.is_file())
    names = [file.name for file in files if file.suffix.lower() not in SUFFIXES]
    return sorted(name for name in names if NAME.search(name) and not _LABELS.search(name))


def _labels_file(path: Path) -> Path | None:
    """The file of labels beside a file of images."""
    for old, new in (("images", "labels"), ("Images", "Labels")):
        name = re.sub(r"idx[34]", "idx1", path.name.replace(old, new))
        for other in (name, name.removesuffix(".gz"), f"{name}.gz"):
            found = path.with_name(other)
            if other != path.name and found.is_file() and not found.is_symlink():
                return found
    return None


def _array(path: Path) -> np.ndarray:
    """The array in an IDX file, never more than its header promises and the bounds allow."""
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP
            raw.seek(0)
            # gzip.GzipFile reads binary; typeshed does not say so.
            stream = cast("BinaryIO", gzip.GzipFile(fileobj=raw)) if zipped else raw
            shape = _shape(stream, path)
            values = _exactly(stream, math.prod(shape), path)
    except (OSError, EOFError, zlib.error, struct.error):
        raise _damaged(path) from None
    return np.frombuffer(values, np.uint8).reshape(shape)


def _shape(stream: BinaryIO, path: Path) -> tuple[int, ...]:
    zero, kind, dimensions = struct.unpack(">HBB", stream.read(4))
    if zero != 0 or not 1 <= dimensions <= 4:
        raise _damaged(path)
    if kind != _UBYTE:
        raise DataError(
            f"an IDX file of images or labels must hold unsigned bytes (type 8), {path.name} "
            f"holds type {kind}; convert it"
        )
    shape = struct.unpack(f">{dimensions}I", stream.read(4 * dimensions))
    if math.prod(shape) > MAX_DECODED_BYTES or math.prod(shape[1:]) > 4 * MAX_PIXELS:
        raise DataError(
            f"images may decode to {MAX_DECODED_BYTES // 2**30} GiB, {path.name} promises more; "
            "give fewer or smaller ones"
        )
    return shape


def _exactly(stream: BinaryIO, size: int, path: Path) -> bytes:
    """``size`` bytes, after which the stream ends: a gzip file is not unpacked any further."""
    parts, left = [], size
    while left:
        part = stream.read(min(left, _CHUNK))
        if not part:
            raise _damaged(path)
        parts.append(part)
        left -= len(part)
    if stream.read(1):
        raise _damaged(path)
    return b"".join(parts)


def _damaged(path: Path) -> DataError:
    return DataError(
        f"an IDX file must be whole, with as many bytes as its header says; {path.name} is "
        "damaged, truncated or of another format; get it again"
    )
