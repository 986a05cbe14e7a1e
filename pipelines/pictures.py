"""Contact sheets: many small images in one PNG.

The sheet of synthetic images, a row a class, may be published. The sheets that show real images
are for the owner of the data and stay in the vault.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from generators.base import derive_seed
from generators.schema import Images, ImageSchema

from .publication.parquet import encode_png

_PER_CLASS = 12
_MAX_CLASSES = 20
_MIN_TILE = 48
_GAP = 2
_BACKGROUND = 255
_SUSPICIOUS = 50
_COMPARED = 5_000
_WITH_REAL = "compositeWithTrainedAlgorithmicMedia"


def contact_sheet(images: Images, schema: ImageSchema) -> bytes:
    """A PNG with up to 12 images of each class, in the order of the data."""
    classes = range(min(len(schema.classes), _MAX_CLASSES))
    rows = [np.flatnonzero(images.labels == label)[:_PER_CLASS] for label in classes]
    if len(schema.classes) == 1:
        everything = np.arange(min(len(images), _PER_CLASS * 6))
        rows = [everything[i : i + _PER_CLASS] for i in range(0, len(everything), _PER_CLASS)]
    return _sheet([[images.pixels[number] for number in numbers] for numbers in rows])


def beside_real(real: Images, synthetic: Images, schema: ImageSchema) -> bytes:
    """A PNG with real and synthetic images of each class side by side: six of each a row.

    It shows real images: for the vault.
    """
    half, nothing = _PER_CLASS // 2, np.full_like(real.pixels[0], _BACKGROUND)
    lines = []
    for label in range(min(len(schema.classes), _MAX_CLASSES)):
        parts = [part.pixels[part.labels == label][:half] for part in (real, synthetic)]
        padded = [[*part, *[nothing] * (half - len(part))] for part in parts]
        lines.append([*padded[0], nothing, *padded[1]])
    return _sheet(lines, _WITH_REAL)


def most_suspicious(train: Images, holdout: Images, synthetic: Images) -> bytes:
    """A PNG with the 50 synthetic images that are most likely copies, the likeliest first.

    Beside each are its nearest train image and its nearest holdout image. Likely is what is much
    nearer to the one than to the other: an image that is merely plain is near to both. It shows
    real images: for the vault.
    """
    # Imported here: they bring torch, which whoever defines datasets does not need.
    from validators.privacy.images import points_of
    from validators.privacy.neighbours import nearest, nearest_rows

    rng = np.random.default_rng(derive_seed("suspicious"))
    seen, unseen, made = (_some(part, rng) for part in (train, holdout, synthetic))
    points = points_of(made.pixels)
    real = [points_of(part.pixels) for part in (seen, unseen)]
    to_seen, to_unseen = (nearest(points, part)[:, 0] for part in real)
    worst = np.argsort(to_seen / np.maximum(to_unseen, 1e-9), kind="stable")[:_SUSPICIOUS]
    like_seen, like_unseen = (nearest_rows(points.take(worst), part) for part in real)
    triples = [
        [made.pixels[at], seen.pixels[one], unseen.pixels[other]]
        for at, one, other in zip(worst, like_seen, like_unseen, strict=True)
    ]
    nothing = np.full_like(made.pixels[0], _BACKGROUND)
    lines: list[list[np.ndarray]] = []
    for start in range(0, len(triples), 4):
        line = [tile for triple in triples[start : start + 4] for tile in (*triple, nothing)]
        lines.append(line[:-1])
    return _sheet(lines, _WITH_REAL)


def _some(images: Images, rng: np.random.Generator) -> Images:
    if len(images) <= _COMPARED:
        return images
    return images.take(np.sort(rng.choice(len(images), _COMPARED, replace=False)))


def _sheet(lines: Sequence[Sequence[np.ndarray]], source: str = "trainedAlgorithmicMedia") -> bytes:
    """Rows of images of one size, uint8 (H, W, C), as one PNG."""
    across = max(map(len, lines))
    height, width, channels = next(tile.shape for line in lines for tile in line)
    scale = max(1, -(-_MIN_TILE // height))
    down, right = height * scale + _GAP, width * scale + _GAP
    whole = (len(lines) * down + _GAP, across * right + _GAP, channels)
    sheet = np.full(whole, _BACKGROUND, np.uint8)
    for line, tiles in enumerate(lines):
        for place, small in enumerate(tiles):
            tile = small.repeat(scale, axis=0).repeat(scale, axis=1)
            top, left = line * down + _GAP, place * right + _GAP
            sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return encode_png(sheet, source)
