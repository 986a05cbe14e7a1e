"""Image sets as users have them: every format, mode, size and defect.

Most are read within this process, which is what the bounded child does, too; a test compares.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from generators.base import DataError, ParameterError
from pipelines.ingest import Split, split_and_protect
from pipelines.sources import read_plainly, read_source, source_for_path
from pipelines.sources.images import RawImages
from pipelines.spec import parse_spec


def read(path: Path, **more: Any) -> RawImages:
    """What ``likeness run`` reads at ``path``."""
    raw = read_plainly(source_for_path(path).model_copy(update=more))
    assert isinstance(raw, RawImages)
    return raw


def ingested(raw: RawImages) -> Split:
    return split_and_protect(raw, parse_spec({"name": "p", "source": {"kind": "images"}}))


def png(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, options.pop("format", "PNG"), **options)
    return buffer.getvalue()


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def folder(path: Path, pictures: list[bytes]) -> Path:
    path.mkdir()
    for number, content in enumerate(pictures):
        (path / f"{number:03d}.png").write_bytes(content)
    return path


def parquet(path: Path, pictures: list[bytes | None], **columns: Any) -> Path:
    cells = [{"bytes": content, "path": "secret-name.png"} for content in pictures]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind), **columns}), path)
    return path


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_mode_comes_as_it_is(tmp_path: Path, channels: int) -> None:
    pixels = noise(3, 5, 7, channels)
    raw = read(folder(tmp_path / "p", [png(p.squeeze()) for p in pixels]))
    np.testing.assert_array_equal(raw.images.pixels, pixels)
    assert raw.schema.channels == channels
    assert raw.schema.classes == ("all",)
    assert raw.notes == ()


def test_mixed_modes_become_the_richest_and_it_is_said(tmp_path: Path) -> None:
    grey, colour, clear = noise(4, 4), noise(4, 4, 3), noise(4, 4, 4)
    raw = read(folder(tmp_path / "p", [png(grey), png(colour), png(clear)]))
    assert (raw.images.pixels[0] == np.dstack([grey, grey, grey, np.full((4, 4), 255)])).all()
    assert (raw.images.pixels[1][..., :3] == colour).all()
    assert (raw.images.pixels[2] == clear).all()
    assert raw.notes == (
        "1 grey images made RGBA, the richest mode of the set",
        "1 RGB images made RGBA, the richest mode of the set",
    )


def test_channels_that_say_nothing_in_any_image_are_left_out(tmp_path: Path) -> None:
    grey, colour, opaque = noise(4, 4), noise(4, 4, 3), np.full((4, 4), 255, np.uint8)
    closed = np.dstack([colour, opaque])
    raw = read(folder(tmp_path / "rgb", [png(closed), png(colour)]))
    np.testing.assert_array_equal(raw.images.pixels, np.stack([colour, colour]))
    assert raw.schema.channels == 3
    assert raw.notes[-1] == "no image is transparent anywhere: RGBA made RGB"
    raw = read(folder(tmp_path / "grey", [png(np.dstack([grey, grey, grey, opaque]))] * 2))
    np.testing.assert_array_equal(raw.images.pixels[..., 0], np.stack([grey, grey]))
    assert raw.schema.channels == 1
    assert raw.notes[-1] == "all images are grey: RGB made grey"


def test_palettes_are_what_their_colours_are(tmp_path: Path) -> None:
    grey = Image.fromarray(np.repeat(np.arange(16, dtype=np.uint8).reshape(4, 4), 1)).convert("P")
    red = Image.new("P", (4, 4), 1)
    red.putpalette([0, 0, 0, 200, 10, 20])
    for name, picture, wanted in (("grey", grey, 1), ("red", red, 3)):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        raw = read(folder(tmp_path / name, [buffer.getvalue()]))
        assert raw.schema.channels == wanted
    assert raw.images.pixels[0, 0, 0].tolist() == [200, 10, 20]


def test_mixed_sizes_are_covered_and_cut(tmp_path: Path) -> None:
    wide = np.zeros((10, 40), np.uint8)
    wide[:, 15:25] = 200  # the middle, which stays
    raw = read(folder(tmp_path / "p", [png(noise(10, 10))] * 3 + [png(wide)]))
    assert raw.images.pixels.shape == (4, 10, 10, 1)
    assert (raw.images.pixels[3] == 200).all()
    assert raw.notes == (
        "1 of 4 images scaled to cover 10 x 10 pixels (height x width) and cut at the centre; "
        "--size sets the longest side",
    )


def test_photographs_are_learned_small_unless_asked(tmp_path: Path) -> None:
    path = folder(tmp_path / "p", [png(noise(90, 120, 3, seed=seed)) for seed in range(2)])
    small = read(path)
    assert small.images.pixels.shape == (2, 48, 64, 3)
    assert "all images scaled to cover 48 x 64" in small.notes[0]
    assert read(path, size=200).images.pixels.shape == (2, 90, 120, 3)
    assert read(path, size=16).images.pixels.shape == (2, 12, 16, 3)


@pytest.mark.parametrize(("greatest", "bits"), [(4095, 12), (65_535, 16), (200, 8), (256, 9)])
def test_sixteen_bits_become_eight_by_one_scale(tmp_path: Path, greatest: int, bits: int) -> None:
    grey = np.array([[0, greatest // 2], [greatest // 4, greatest]], np.uint16)
    raw = read(folder(tmp_path / "p", [png(grey), png(grey // 2)]))
    wanted = np.round(np.stack([grey, grey // 2]) * (255 / (2**bits - 1)))
    np.testing.assert_array_equal(raw.images.pixels[..., 0], wanted)
    told = f"16-bit greys scaled to 8 bits: {bits} bits are used, one scale for all images"
    assert raw.notes == (told,)


def test_orientation_is_applied_and_metadata_dropped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "taken at home"
    upright = np.zeros((6, 4), np.uint8)
    upright[0] = 255  # a bright first row
    stored = np.rot90(upright, 1)  # as a camera on its side sees it
    raw = read(folder(tmp_path / "p", [png(stored, exif=exif), png(upright)]))
    np.testing.assert_array_equal(raw.images.pixels[0, ..., 0], upright)
    assert raw.notes == ("1 images turned upright as their EXIF orientation says",)


def test_few_bad_files_are_left_out_by_number(tmp_path: Path) -> None:
    pictures = [png(noise(6, 6, seed=seed)) for seed in range(200)]
    pictures[17] = pictures[17][:60]
    raw = read(folder(tmp_path / "p", pictures))
    assert (len(raw.images), raw.unreadable) == (199, 1)
    assert raw.notes == ("1 images left out, they could not be read: number 17",)
    pictures[3:6] = [b"", b"GIF89a", pictures[5][:-40]]
    with pytest.raises(DataError, match=r"4 of 200 are .*: number 3, 4, 5, 17; replace"):
        read(folder(tmp_path / "q", pictures))


def test_parquet_with_and_without_labels_and_paths(tmp_path: Path) -> None:
    pixels = noise(4, 3, 3)
    pictures: list[Any] = [png(p) for p in pixels]
    plain = read(parquet(tmp_path / "a.parquet", pictures))
    assert plain.schema.classes == ("all",)
    np.testing.assert_array_equal(plain.images.pixels[..., 0], pixels)
    pq.write_table(pa.table({"img": pictures, "digit": [7, 1, 7, 1]}), tmp_path / "b.parquet")
    bare = read(tmp_path / "b.parquet", label="digit")
    assert bare.schema.classes == ("1", "7")
    assert bare.images.labels.tolist() == [1, 0, 1, 0]
    unnamed = read(tmp_path / "b.parquet")
    assert unnamed.schema.classes == ("all",)
    assert len(unnamed.notes) == 1
    assert unnamed.notes[0].startswith("columns left out: digit; --target NAME")
    with pytest.raises(ParameterError, match="--target must name a column"):
        read(tmp_path / "b.parquet", label="nothing")


def test_class_names_of_the_hub_are_used(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", [png(noise(3, 3))] * 3, label=[2, 0, 2])
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(pq.read_table(path).replace_schema_metadata(told), path)
    raw = read(path)
    assert raw.schema.classes == ("cat", "owl")
    assert raw.images.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"label": [1, None]}, "1 have none"),
        ({"label": [0.5, 1.5]}, "text or whole numbers"),
        ({"second": [b"\x89PNG", b"\x89PNG"]}, "one column of images, a.parquet has 2"),
    ],
)
def test_bad_parquet_of_images(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    path = parquet(tmp_path / "a.parquet", [png(noise(3, 3))] * 2, **columns)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert "secret-name" not in str(caught.value)


def test_paths_alone_are_no_images(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds paths alone"):
        read(parquet(tmp_path / "a.parquet", [None, None]))


def test_bytes_that_are_no_pictures_stay_a_table(tmp_path: Path) -> None:
    pq.write_table(pa.table({"hash": [b"0123", b"4567"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="column 'hash' must be a number"):
        read_source(source_for_path(tmp_path / "a.parquet"), tmp_path)


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    head = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape)
    return head + array.tobytes()


@pytest.mark.parametrize("name", ["p", "a.parquet", "a-idx3-ubyte.gz"])
def test_the_child_reads_the_same(tmp_path: Path, name: str) -> None:
    pixels = noise(3, 4, 6)
    folder(tmp_path / "p", [png(np.tile(p, (20, 20))) for p in pixels])
    parquet(tmp_path / "a.parquet", [png(p) for p in pixels], label=[1, 0, 1], other=[1, 2, 3])
    (tmp_path / "a-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
    there, here = read_source(source_for_path(tmp_path / name), tmp_path), read(tmp_path / name)
    assert isinstance(there, RawImages)
    np.testing.assert_array_equal(there.images.pixels, here.images.pixels)
    np.testing.assert_array_equal(there.images.labels, here.images.labels)
    assert (there.schema, there.notes) == (here.schema, here.notes)
    assert len(here.notes) == 1


@pytest.mark.parametrize("packed", [True, False])
def test_idx_with_the_labels_beside_it(tmp_path: Path, packed: bool) -> None:
    pixels, labels = noise(5, 4, 6), np.array([3, 1, 3, 3, 1], np.uint8)
    ending = ".gz" if packed else ""
    pack = gzip.compress if packed else bytes
    images = tmp_path / f"train-images-idx3-ubyte{ending}"
    images.write_bytes(pack(idx(pixels)))
    assert read(images).notes == ("no labels: there is no file of labels beside the images",)
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels)))
    raw = read(images)
    np.testing.assert_array_equal(raw.images.pixels[..., 0], pixels)
    assert raw.schema.classes == ("1", "3")
    assert raw.images.labels.tolist() == [1, 0, 1, 1, 0]
    (tmp_path / f"train-labels-idx1-ubyte{ending}").write_bytes(pack(idx(labels[:4])))
    with pytest.raises(DataError, match="a label for each of the 5 images"):
        read(images)


def test_a_folder_of_idx_files_is_read_where_it_is_clear_which(tmp_path: Path) -> None:
    pixels, labels = noise(3, 4, 6), np.array([3, 1, 3], np.uint8)
    (tmp_path / "train-images.idx3-ubyte").write_bytes(idx(pixels))
    (tmp_path / "train-labels.idx1-ubyte").write_bytes(idx(labels))
    assert read(tmp_path).schema.classes == ("1", "3")
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx(pixels))
    with pytest.raises(DataError, match=r"must hold one of images, .* has 2; give one of them"):
        source_for_path(tmp_path)
    photos = tmp_path / "photos"
    folder(photos, [png(np.tile(p, (20, 20))) for p in pixels])
    next(photos.rglob("*.png")).rename(photos / "photo-idx.png")
    assert source_for_path(photos).kind == "images"


def test_colours_in_idx_and_large_images(tmp_path: Path) -> None:
    (tmp_path / "a.idx").write_bytes(idx(noise(2, 100, 50, 3)))
    raw = read(tmp_path / "a.idx")
    assert raw.images.pixels.shape == (2, 64, 32, 3)
    assert "all images scaled to cover 64 x 32" in raw.notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be whole"),
        (idx(noise(3, 4, 4))[:-1], "must be whole"),
        (idx(noise(3, 4, 4)) + b"\0", "must be whole"),
        (gzip.compress(idx(noise(3, 4, 4)))[:-9], "must be whole"),
        (b"\x1f\x8b" + bytes(50), "must be whole"),
        (idx(noise(3, 4, 4), kind=13), "type 13"),
        (idx(noise(9)), "holds labels"),
        (struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 28), "promises more"),
        # 16 bytes that promise 3 GiB, and 3 GiB of zeros in a few MB that promise 16 bytes.
        (struct.pack(">HBB3I", 0, 8, 3, 3 << 20, 32, 32), "must be whole"),
        (gzip.compress(idx(np.zeros((1, 4, 4), np.uint8)) + bytes(3 << 24)), "must be whole"),
    ],
)
def test_bad_idx_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a-idx3-ubyte")


def labelled(counts: dict[str, int], path: Path) -> Path:
    seeds = itertools.count()
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for number in range(count):
            content = png(noise(4, 4, seed=next(seeds)))
            (path / name / f"{number}.png").write_bytes(content)
    return path


def test_a_class_of_one_image_is_left_out(tmp_path: Path) -> None:
    split = ingested(read(labelled({"a": 40, "b": 40, "rare": 1}, tmp_path / "p")))
    assert split.schema.classes == ("a", "b")
    assert split.facts["rows"]["train"] + split.facts["rows"]["holdout"] == 80
    assert "1 images of 1 classes left out, fewer than 11 together" in split.facts["protection"]


def test_rare_classes_are_merged_where_they_are_enough(tmp_path: Path) -> None:
    counts = {"a": 40, **{f"rare {number}": 3 for number in range(5)}}
    split = ingested(read(labelled(counts, tmp_path / "p")))
    assert split.schema.classes == ("a", "__OTHER__")


def test_fifty_images_are_enough_and_fewer_are_not(tmp_path: Path) -> None:
    split = ingested(read(labelled({"a": 50}, tmp_path / "p")))
    assert split.facts["rows"] == {"train": 35, "holdout": 15}
    with pytest.raises(DataError, match="at least 50 images"):
        ingested(read(labelled({"a": 49}, tmp_path / "q")))
