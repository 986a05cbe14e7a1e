"""Contact sheets: many small images in one PNG, a row a class."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from generators.schema import Images, ImageSchema

_PER_CLASS = 12
_MAX_CLASSES = 20
_MIN_TILE = 48
_GAP = 2
_BACKGROUND = 255


def contact_sheet(images: Images, schema: ImageSchema) -> bytes:
    """A PNG with up to 12 images of each class, in the order of the data."""
    classes = range(min(len(schema.classes), _MAX_CLASSES))
    rows = [np.flatnonzero(images.labels == label)[:_PER_CLASS] for label in classes]
    if len(schema.classes) == 1:
        everything = np.arange(min(len(images), _PER_CLASS * 6))
        rows = [everything[i : i + _PER_CLASS] for i in range(0, len(everything), _PER_CLASS)]
    scale = max(1, -(-_MIN_TILE // schema.height))
    height, width = schema.height * scale + _GAP, schema.width * scale + _GAP
    sheet = np.full(
        (len(rows) * height + _GAP, _PER_CLASS * width + _GAP, schema.channels),
        _BACKGROUND,
        np.uint8,
    )
    for line, numbers in enumerate(rows):
        for place, number in enumerate(numbers):
            tile = images.pixels[number].repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = line * height + _GAP, place * width + _GAP
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    picture = Image.fromarray(sheet[..., 0] if schema.channels == 1 else sheet)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
