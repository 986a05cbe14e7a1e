"""Encoded pictures -> pixels of one size and one mode, by one policy that is said aloud.

The policy, told as notes wherever it changed something:

- A picture that cannot be read is left out and counted; too many of them refuse the set.
- Size: that of most pictures, else the median height and width; no side longer than 64 pixels
  unless the owner asks for more. Other pictures are scaled to cover it and cut at the centre.
- Mode: the richest that occurs, of grey, RGB and RGBA; palettes become what their colours are. An
  alpha that is opaque in all pictures, and colours that are grey in all, are left out.
- Depth: eight bits. 16-bit greys are scaled by the fewest bits that hold the greatest grey of the
  set, one scale for all: 12-bit X-rays keep their contrast, and a dark picture stays darker than a
  bright one. Likeness measures, hashes and publishes eight bits; 16-bit colour is read as eight.
- EXIF orientation is applied; then all metadata are dropped. Of several frames the first counts.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from generators.base import DataError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
MAX_PIXELS = 4096 * 4096
MAX_DECODED_BYTES = 4 * 2**30
# Up to this share of unreadable files is left out and counted; more means a broken dataset.
MAX_UNREADABLE_SHARE = 0.01
LONGEST_SIDE = 64
"""Pixels a side that are learned where the owner has not asked for more."""
# Numbers of pictures that a message lists.
_LISTED = 10
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
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
_NAMES = {1: "grey", 3: "RGB", 4: "RGBA"}
_ORIENTATION = 0x0112
# EXIF 2.3, table 6: what undoes each orientation.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)

Encoded = Path | bytes


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures.

    Attributes:
        pixels: uint8, shape (N, H, W, C).
        kept: which of the given ones they are, int64, shape (N,).
        unreadable: how many were left out.
        notes: what the policy changed, a sentence each.
    """

    pixels: np.ndarray
    kept: np.ndarray
    unreadable: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Header:
    """What the beginning of a file says: size when upright, channels, 16 bits, turned."""

    height: int
    width: int
    channels: int
    wide: bool
    turned: bool


def decode_all(encoded: Sequence[Encoded], side: int | None = None) -> Pictures:
    """All pictures that can be read, in one size and one mode.

    Args:
        encoded: files, or their bytes.
        side: the longest side in pixels; by default 64 at most.

    Raises:
        DataError: none or too few can be read, or they decode to too much.
    """
    headers = [_header(item) for item in encoded]
    found = [header for header in headers if header is not None]
    if not found:
        _refuse_unreadable(list(range(len(encoded))), len(encoded))
        raise DataError("an image set needs images, it has none; give data")
    size = _common_size(found, side)
    channels = max(header.channels for header in found)
    if len(found) * size[0] * size[1] * channels > MAX_DECODED_BYTES:
        raise DataError(
            f"images may decode to {MAX_DECODED_BYTES // 2**30} GiB, these {len(found):,} of "
            f"{size[0]} x {size[1]} pixels are more; give fewer, or a smaller --size"
        )
    decoded: list[np.ndarray] = []
    kept: list[int] = []
    for number, (item, header) in enumerate(zip(encoded, headers, strict=True)):
        pixels = None if header is None else _decode(item, size)
        if pixels is not None:
            decoded.append(pixels)
            kept.append(number)
    lost = sorted(set(range(len(encoded))) - set(kept))
    _refuse_unreadable(lost, len(encoded))
    depth = _depth(decoded)
    whole = np.stack([_in_mode(_in_bytes(pixels, depth), channels) for pixels in decoded])
    used = [header for header in (headers[number] for number in kept) if header is not None]
    needed, idle = _without_idle_channels(whole)
    notes = (*_lost_note(lost), *_notes(used, size, channels, depth), *idle)
    return Pictures(needed, np.array(kept, np.int64), len(lost), notes)


def within_side(pixels: np.ndarray, side: int | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decoded images of one size, uint8 (N, H, W, C), scaled so that no side is longer; and notes.

    Args:
        pixels: not modified.
        side: the longest side in pixels; by default 64 at most.
    """
    height, width, channels = (int(length) for length in pixels.shape[1:])
    size = _bounded((height, width), side)
    if size == (height, width):
        return pixels, ()
    scaled = np.empty((len(pixels), *size, channels), np.uint8)
    for number, own in enumerate(pixels):
        picture = Image.fromarray(own[..., 0] if channels == 1 else own)
        array = np.asarray(ImageOps.fit(picture, size[::-1], Image.Resampling.LANCZOS))
        scaled[number] = array.reshape(*size, channels)
    return scaled, (_scaled_note("all", size),)


def _header(encoded: Encoded) -> _Header | None:
    """What the file says of itself, without decoding it; None where that cannot be read."""
    try:
        with _opened(encoded) as picture:
            height, width = picture.height, picture.width
            turn = _orientation(picture)
            if turn in _SIDEWAYS:
                height, width = width, height
            channels = {"L": 1, "RGB": 3, "RGBA": 4}[_target_mode(picture)]
            return _Header(height, width, channels, _is_wide(picture), turn in _TURNS)
    except _UNREADABLE:
        return None


def _decode(encoded: Encoded, size: tuple[int, int]) -> np.ndarray | None:
    """Pixels (height, width, C) of ``size``, uint8 or, where the file has 16 bits, uint16."""
    try:
        with _opened(encoded) as picture:
            turn = _TURNS.get(_orientation(picture))
            picture.load()
            wide = _is_wide(picture)
            if wide:
                upright = Image.fromarray(np.asarray(picture).astype(np.float32))
            else:
                upright = picture.convert(_target_mode(picture))
            if turn is not None:
                upright = upright.transpose(turn)
            if (upright.height, upright.width) != size:
                upright = ImageOps.fit(upright, size[::-1], Image.Resampling.LANCZOS)
            array = np.asarray(upright)
    except _UNREADABLE:
        return None
    if wide:
        array = array.round().clip(0, 65_535).astype(np.uint16)
    return array[..., None] if array.ndim == 2 else array


def _opened(encoded: Encoded) -> Image.Image:
    """The picture, its pixels not decoded.

    Raises:
        ValueError: it would decode to more pixels than allowed.
    """
    with warnings.catch_warnings():
        # Size is checked here, and corrupt EXIF is no reason to leave a picture out.
        warnings.simplefilter("ignore")
        picture = Image.open(
            io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded, formats=FORMATS
        )
    if picture.width * picture.height > MAX_PIXELS:
        picture.close()
        raise ValueError("too many pixels")
    return picture


def _orientation(picture: Image.Image) -> int:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(picture.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:
        return 1


def _is_wide(picture: Image.Image) -> bool:
    return picture.mode.startswith("I;16") or picture.mode == "I"


def _target_mode(picture: Image.Image) -> str:
    """The mode of ours that holds this picture.

    Raises:
        ValueError: none does.
    """
    mode = picture.mode
    if _is_wide(picture) or mode in ("1", "L"):
        return "L"
    if mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        return "RGBA"
    if mode == "P":
        if "transparency" in picture.info:
            return "RGBA"
        palette = np.array(picture.getpalette("RGB") or [0, 0, 0]).reshape(-1, 3)
        return "L" if (palette == palette[:, :1]).all() else "RGB"
    if mode in ("RGB", "CMYK", "YCbCr", "LAB", "HSV"):
        return "RGB"
    raise ValueError(f"no place for mode {mode}")


def _common_size(headers: Sequence[_Header], side: int | None) -> tuple[int, int]:
    """Height and width of all pictures."""
    sizes = Counter((header.height, header.width) for header in headers)
    (height, width), count = min(sizes.items(), key=lambda item: (-item[1], item[0]))
    if 2 * count < len(headers):
        height = int(np.median([header.height for header in headers]))
        width = int(np.median([header.width for header in headers]))
    return _bounded((height, width), side)


def _bounded(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    factor = min(1.0, (side or LONGEST_SIDE) / max(size))
    return max(1, round(factor * size[0])), max(1, round(factor * size[1]))


def _depth(decoded: Sequence[np.ndarray]) -> int:
    """The fewest bits, from 8 to 16, that hold the greatest grey of 16-bit pictures; 0: none."""
    greatest = [int(pixels.max()) for pixels in decoded if pixels.dtype == np.uint16]
    return max(8, max(greatest).bit_length()) if greatest else 0


def _in_bytes(pixels: np.ndarray, depth: int) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    scaled: np.ndarray = np.round(pixels * (255.0 / (2**depth - 1))).astype(np.uint8)
    return scaled


def _in_mode(pixels: np.ndarray, channels: int) -> np.ndarray:
    own = pixels.shape[2]
    if own == channels:
        return pixels
    colours = np.repeat(pixels, 3, axis=2) if own == 1 else pixels
    if channels == 3:
        return colours
    opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    return np.concatenate([colours, opaque], axis=2)


def _without_idle_channels(pixels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """``pixels`` without channels that say nothing in any picture; and notes."""
    notes = []
    if pixels.shape[3] == 4 and (pixels[..., 3] == 255).all():
        pixels = pixels[..., :3]
        notes.append("no image is transparent anywhere: RGBA made RGB")
    if pixels.shape[3] == 3 and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
        notes.append("all images are grey: RGB made grey")
    return np.ascontiguousarray(pixels), notes


def _refuse_unreadable(lost: Sequence[int], total: int) -> None:
    if len(lost) > MAX_UNREADABLE_SHARE * total:
        raise DataError(
            f"at most {MAX_UNREADABLE_SHARE:.0%} of the images may be unreadable, "
            f"{len(lost)} of {total} are (damaged, truncated, of no known format, or over "
            f"{MAX_PIXELS} pixels): {_numbers(lost)}; replace or remove them"
        )


def _lost_note(lost: Sequence[int]) -> list[str]:
    if not lost:
        return []
    return [f"{len(lost)} images left out, they could not be read: {_numbers(lost)}"]


def _numbers(lost: Sequence[int]) -> str:
    """Which ones, by their place in the source, from 0; never a name: it may tell of a person."""
    more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
    return "number " + ", ".join(str(number) for number in lost[:_LISTED]) + more


def _notes(
    headers: Sequence[_Header], size: tuple[int, int], channels: int, depth: int
) -> list[str]:
    notes = []
    other = sum((header.height, header.width) != size for header in headers)
    if other:
        share = "all" if other == len(headers) else f"{other:,} of {len(headers):,}"
        notes.append(_scaled_note(share, size))
    poorer = Counter(h.channels for h in headers if h.channels != channels)
    notes += [
        f"{count:,} {_NAMES[own]} images made {_NAMES[channels]}, the richest mode of the set"
        for own, count in sorted(poorer.items())
    ]
    if depth:
        notes.append(
            f"16-bit greys scaled to 8 bits: {depth} bits are used, one scale for all images"
        )
    turned = sum(header.turned for header in headers)
    if turned:
        notes.append(f"{turned:,} images turned upright as their EXIF orientation says")
    return notes


def _scaled_note(share: str, size: tuple[int, int]) -> str:
    return (
        f"{share} images scaled to cover {size[0]} x {size[1]} pixels (height x width) and cut at "
        "the centre; --size sets the longest side"
    )
