"""Reading real data: what is clean comes through unchanged, what is not is one clear error."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from generators.base import DataError, ParameterError
from pipelines.sources import read_source, source_for_path
from pipelines.sources.images import RawImages, read_folder
from pipelines.sources.pixels import MAX_PIXELS
from pipelines.sources.tables import MAX_COLUMNS, RawTable, read_csv, read_parquet
from pipelines.spec import SourceSpec

SECRET = "Zaphod-Beeblebrox-42"


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_csv_types_and_missing_values(tmp_path: Path) -> None:
    text = "i,g,f,s,b,d\n1,1,1.5,x,true,2020-01-02\n2,,,?,false,2020-01-03\n"
    frame = read_csv(write(tmp_path / "a.csv", text)).frame
    expected = ["int64", "Int64", "float64", "object", "bool", "datetime64[us]"]
    assert [str(dtype) for dtype in frame.dtypes] == expected
    assert frame.isna().sum().tolist() == [0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiters_and_quoted_names(tmp_path: Path, delimiter: str) -> None:
    text = delimiter.join(['"first name"', "b"]) + "\n" + delimiter.join(['"x"', "2"]) + "\n"
    frame = read_csv(write(tmp_path / "a.csv", text)).frame
    assert list(frame.columns) == ["first name", "b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,b\n", "has no rows"),
        (b"a,a\n1,2\n", "occur more than once: a"),
        (b"a,,c\n1,2,3\n", "1 have none"),
        ("name,b\nJosé,1\n".encode("latin1"), "must be UTF-8"),
        (f"a,b\n1,2\n3,{SECRET},5\n".encode(), "fields of its header"),
        (b"a\x00b,c\n1,2\n", "zero bytes"),
        ((",".join(f"c{i}" for i in range(10_000)) + "\n" + ",".join(["1"] * 10_000)).encode(),
         f"{MAX_COLUMNS} columns"),
    ],
)  # fmt: skip
def test_bad_csv_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_csv(write(tmp_path / "bad.csv", content))
    assert SECRET not in str(caught.value)


def test_parquet_round_trip(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "n": pd.array([1, None], dtype="Int64"),
            "s": ["x", None],
            "c": pd.Categorical(["u", "v"]),
            "t": pd.to_datetime(["2020-01-01", "2021-01-01"]),
        }
    )
    frame.to_parquet(tmp_path / "a.parquet")
    read = read_parquet(tmp_path / "a.parquet").frame
    assert read["c"].tolist() == ["u", "v"]
    assert str(read["n"].dtype) == "Int64"
    assert str(read["t"].dtype) == "datetime64[us]"


def test_truncated_parquet(tmp_path: Path) -> None:
    pd.DataFrame({"a": [SECRET] * 100}).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path = write(tmp_path / "cut.parquet", whole[:cut])
        with pytest.raises(DataError, match="damaged, truncated"):
            read_parquet(path)


def test_nested_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [[1, 2], [3]]}), tmp_path / "nested.parquet")
    with pytest.raises(DataError, match="column 'a' must be a number"):
        read_parquet(tmp_path / "nested.parquet")


def test_missing_and_unknown_sources(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not"):
        source_for_path(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match=r"must be a \.csv"):
        source_for_path(write(tmp_path / "a.xlsx", "x"))
    with pytest.raises(ParameterError, match="randhie"):
        read_source(SourceSpec(kind="builtin", name="nothing"), tmp_path)


def test_builtin_sources_are_real(tmp_path: Path) -> None:
    randhie = read_source(SourceSpec(kind="builtin", name="randhie"), tmp_path)
    assert isinstance(randhie, RawTable)
    assert randhie.frame.shape == (20_190, 11)
    assert randhie.frame["person"].nunique() == 5_294
    digits = read_source(SourceSpec(kind="builtin", name="digits"), tmp_path)
    assert isinstance(digits, RawImages)
    assert digits.images.pixels.shape == (1_797, 8, 8, 1)
    assert len(np.unique(digits.images.pixels)) == 17


def picture(path: Path, size: tuple[int, int] = (6, 4), mode: str = "L", value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value,) * len(mode)
    Image.new(mode, size, colour).save(path)


def test_image_folder_with_classes(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "cat" / f"{number}.png", value=number)
        picture(tmp_path / "dog" / f"{number}.png", value=100 + number)
    raw = read_folder(tmp_path)
    assert raw.schema.classes == ("cat", "dog")
    assert raw.images.pixels.shape == (6, 4, 6, 1)
    assert raw.images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.images.pixels[4].max() == 101


def test_sixteen_bit_grey_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 65_535, np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(np.full((4, 4), 257, np.uint16)).save(tmp_path / "b.png")
    assert read_folder(tmp_path).images.pixels[:, 0, 0, 0].tolist() == [255, 1]


def test_bad_image_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must hold"):
        read_folder(tmp_path)
    picture(tmp_path / "a.png")
    write(tmp_path / "b.png", b"not a picture")
    with pytest.raises(DataError, match="1 of 2 are"):
        read_folder(tmp_path)
    picture(tmp_path / "cat" / "c.png")
    picture(tmp_path / "dog" / "c.png")
    with pytest.raises(DataError, match="some lie beside them"):
        read_folder(tmp_path)


def test_a_tiff_with_a_fraction_for_an_offset_is_unreadable(tmp_path: Path) -> None:
    """Found by benchmarks/fuzz.py: Pillow answers with a TypeError."""
    buffer = io.BytesIO()
    Image.new("L", (6, 4)).save(buffer, format="TIFF")
    whole = bytearray(buffer.getvalue())
    entry = whole.index(struct.pack("<HH", 273, 4))  # StripOffsets, of type LONG
    whole[entry + 2] = 5  # RATIONAL: the value is then a place in the file
    whole[entry + 8 : entry + 12] = struct.pack("<I", 8)
    write(tmp_path / "a.tif", bytes(whole))
    with pytest.raises(DataError, match="1 of 1 are"):
        read_folder(tmp_path)


def test_a_bomb_is_not_decoded(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("1", (8192, 8192)).save(buffer, format="PNG")
    assert MAX_PIXELS < 8192 * 8192
    write(tmp_path / "bomb.png", buffer.getvalue())
    with pytest.raises(DataError, match="1 of 1 are"):
        read_folder(tmp_path)
