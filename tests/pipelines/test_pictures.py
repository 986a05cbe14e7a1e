"""Contact sheets: what they show, and that planted copies come first."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from generators import Images, ImageSchema
from pipelines.pictures import beside_real, contact_sheet, most_suspicious


def opened(sheet: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(sheet)) as picture:
        assert "rainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]
        return np.asarray(picture)


def flat(count: int, value: int) -> Images:
    labels = np.arange(count, dtype=np.int64) % 2
    return Images(np.full((count, 8, 8, 1), value, np.uint8), labels)


SCHEMA = ImageSchema(8, 8, 1, ("a", "b"))


def test_the_published_sheet_shows_synthetic_images_by_class() -> None:
    images = flat(40, 10)
    images.pixels[images.labels == 1] = 200
    sheet = opened(contact_sheet(images, SCHEMA))
    assert b"/trainedAlgorithmicMedia" in contact_sheet(images, SCHEMA)
    assert sheet.shape == (2 * 50 + 2, 12 * 50 + 2)
    assert set(np.unique(sheet[:50])) == {10, 255}
    assert set(np.unique(sheet[52:])) == {200, 255}


def test_real_stands_left_and_synthetic_right() -> None:
    sheet = opened(beside_real(flat(40, 10), flat(3, 90), SCHEMA))
    assert set(np.unique(sheet[:, :300])) == {10, 255}
    assert set(np.unique(sheet[:, 350:])) == {90, 255}


def test_planted_copies_are_the_first_among_the_suspicious() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8) for _ in range(3)]
    train, holdout, synthetic = (Images(part, np.zeros(300, np.int64)) for part in parts)
    synthetic.pixels[120] = train.pixels[7]
    sheet = opened(most_suspicious(train, holdout, synthetic))
    tiles = [sheet[2:50:6, left : left + 48 : 6] for left in (2, 52)]
    np.testing.assert_array_equal(tiles[0], train.pixels[7, ..., 0])
    np.testing.assert_array_equal(tiles[1], train.pixels[7, ..., 0])
    assert sheet.shape == (13 * 50 + 2, 15 * 50 + 2)
