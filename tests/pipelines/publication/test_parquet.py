from __future__ import annotations

import base64
import io
import json
import zlib

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from generators.base import ParameterError, SchemaError
from generators.schema import Column, Images, ImageSchema, TableSchema
from pipelines.publication.digest import content_digest, logical_type
from pipelines.publication.manifest import columns_of
from pipelines.publication.parquet import (
    GROUP_BYTES,
    GROUP_IMAGES,
    Origin,
    arrow_type,
    encode_png,
    read_parquet,
    to_arrow,
    write_parquet,
)
from pipelines.publication.read import read_published

CANARY = "Zyxwvut-4711"


def written(table: pa.Table, path, **footer: str):
    write_parquet(table, path, {"dataset": "people", **footer})
    return path


def test_columns_have_the_declared_types(frame):
    table = to_arrow(frame, TableSchema.infer(frame))
    assert [str(kind) for kind in table.schema.types] == [
        "int64",
        "double",
        "int64",
        "string",
        "string",
        "bool",
        "timestamp[us]",
    ]
    assert [field.nullable for field in table.schema] == [0, 1, 1, 0, 1, 0, 0]
    assert table.schema.metadata is None


@pytest.mark.parametrize(
    ("dtype", "levels", "expected"),
    [
        ("category", (1, 2), "int64"),
        ("object", (False, True), "bool"),
        ("object", (1, "a"), "string"),
        ("object", (0.5, 1), "double"),
        ("Float32", (), "float"),
        ("UInt8", (), "uint8"),
        ("string", ("a",), "string"),
        ("datetime64[ns, Europe/Paris]", (), "timestamp[us, tz=Europe/Paris]"),
    ],
)
def test_dtypes_and_levels_decide_the_type(dtype, levels, expected):
    assert str(arrow_type(Column("a", "categorical", dtype, levels=levels))) == expected


def test_a_dtype_without_a_place_is_refused():
    with pytest.raises(SchemaError, match="'a' must be"):
        arrow_type(Column("a", "numerical", "complex128"))


def test_reading_gives_the_frame_back(frame, tmp_path):
    schema = TableSchema.infer(frame)
    path = written(to_arrow(frame, schema), tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_published([path], schema), frame)
    assert read_published([path, path], schema)["person_id"].tolist() == [
        *frame["person_id"],
        *frame["person_id"],
    ]


def test_large_nullable_integers_keep_their_last_digit(tmp_path):
    frame = pd.DataFrame({"n": pd.array([2**62 + 1, None, 3], dtype="Int64")})
    schema = TableSchema.infer(frame)
    path = written(to_arrow(frame, schema), tmp_path / "a.parquet")
    pd.testing.assert_frame_equal(read_published([path], schema), frame)


def test_equal_tables_give_equal_bytes_whatever_their_chunks(frame, tmp_path):
    table = to_arrow(frame, TableSchema.infer(frame))
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    one, other = written(table, tmp_path / "a"), written(chunked, tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()


def test_all_readers_read_the_same(frame, tmp_path):
    schema = TableSchema.infer(frame)
    path = written(to_arrow(frame, schema), tmp_path / "a.parquet")
    expected = content_digest(to_arrow(frame, schema))
    assert content_digest(pl.read_parquet(path).to_arrow()) == expected
    assert content_digest(duckdb.sql(f"from '{path}'").to_arrow_table()) == expected
    assert content_digest(to_arrow(pd.read_parquet(path), schema)) == expected
    assert content_digest(pq.read_table(path)) == expected


def test_the_file_has_page_index_checksums_and_typed_encodings(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "real": rng.normal(size=130_000),
            "key": np.arange(130_000),
            "level": rng.choice(["a", "b"], 130_000),
        }
    )
    path = written(to_arrow(frame, TableSchema.infer(frame)), tmp_path / "a.parquet")
    metadata = pq.ParquetFile(path).metadata
    real, key, level = (metadata.row_group(0).column(i) for i in range(3))
    assert metadata.num_row_groups == 2
    assert metadata.row_group(0).num_rows == 122_880
    assert "BYTE_STREAM_SPLIT" in real.encodings
    assert "DELTA_BINARY_PACKED" in key.encodings
    assert "RLE_DICTIONARY" in level.encodings
    assert {column.compression for column in (real, key, level)} == {"ZSTD"}
    assert real.has_offset_index
    assert real.has_column_index
    data = bytearray(path.read_bytes())
    data[real.data_page_offset + real.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SchemaError, match="must be whole"):
        read_parquet(path)


def test_the_footer_holds_our_keys_only(frame, tmp_path):
    path = written(to_arrow(frame, TableSchema.infer(frame)), tmp_path / "a", content_digest="v1:x")
    metadata = pq.ParquetFile(path).metadata.metadata
    assert set(metadata) - {b"ARROW:schema"} == {
        b"likeness:dataset",
        b"likeness:synthetic",
        b"likeness:content_digest",
    }
    assert metadata[b"likeness:synthetic"] == b"true"


def all_bytes(path) -> bytes:
    """The bytes of a file, of all its pages without encoding, and of its Arrow schema."""
    pages = io.BytesIO()
    table = pq.read_table(path)
    pq.write_table(table, pages, compression="none", use_dictionary=False)
    metadata = pq.ParquetFile(path).metadata.metadata
    schema = base64.b64decode(metadata.get(b"ARROW:schema", b""))
    dictionaries = io.BytesIO()
    with pq.ParquetFile(path, read_dictionary=table.column_names) as file:
        whole = file.read()
        with pa.ipc.new_stream(dictionaries, whole.schema) as stream:
            stream.write_table(whole)
    return path.read_bytes() + pages.getvalue() + schema + dictionaries.getvalue()


def leaky() -> pd.DataFrame:
    frame = pd.DataFrame(
        {"c": pd.Categorical(["a", "b"] * 10, categories=["a", "b", f"{CANARY}-category"])}
    )
    frame.index = pd.Index([f"{CANARY}-{i}" for i in range(20)], name=f"{CANARY}-index")
    frame.columns.name = f"{CANARY}-columns"
    frame.attrs["source"] = f"/home/{CANARY}/real.csv"
    return frame


def test_what_pandas_carries_along_never_reaches_the_file(tmp_path):
    frame = leaky()
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "naive")
    assert CANARY.encode() in all_bytes(tmp_path / "naive"), "the search must find a leak"
    path = written(to_arrow(frame, TableSchema.infer(frame)), tmp_path / "ours")
    assert CANARY.encode() not in all_bytes(path)


def test_the_input_is_not_modified(frame):
    before = frame.copy(deep=True)
    to_arrow(frame, TableSchema.infer(frame))
    pd.testing.assert_frame_equal(frame, before)


def test_errors_name_the_column_and_quote_no_cell(frame):
    schema = TableSchema.infer(frame)
    broken = frame.astype({"amount": object})
    broken.loc[3, "amount"] = CANARY
    with pytest.raises(SchemaError, match="'amount' must hold double") as caught:
        to_arrow(broken, schema)
    assert CANARY not in str(caught.value)
    assert caught.value.__suppress_context__
    holes = frame.assign(sex=frame["sex"].where(frame.index != 2))
    with pytest.raises(SchemaError, match="'sex' must have no missing values, it has 1"):
        to_arrow(holes, schema)
    with pytest.raises(SchemaError, match="missing \\['sex'\\]"):
        to_arrow(frame.drop(columns="sex"), schema)
    with pytest.raises(SchemaError, match="both be"):
        to_arrow(frame, ImageSchema(2, 2, 1))


def test_images_round_trip_and_are_marked_as_generated(images, tmp_path):
    data, schema = images
    table = to_arrow(data, schema)
    assert table.column_names == ["id", "label", "label_name", "image"]
    path = written(table, tmp_path / "a.parquet")
    back = read_published([path], schema)
    np.testing.assert_array_equal(back.pixels, data.pixels)
    np.testing.assert_array_equal(back.labels, data.labels)
    row = table.to_pylist()[4]
    assert row["label_name"] == schema.classes[data.labels[4]]
    with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
        mark = image.info["XML:com.adobe.xmp"]
    assert "digitalsourcetype/trainedAlgorithmicMedia" in mark
    assert b'"image": {"_type": "Image"}' in pq.ParquetFile(path).metadata.metadata[b"huggingface"]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_is_lossless_and_deterministic(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, channels), dtype=np.uint8)
    data = encode_png(pixels)
    assert data == encode_png(pixels.copy(order="F"))
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(decoded.reshape(pixels.shape), pixels)
    chunks, at = [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        body = data[at + 4 : at + 8 + size]
        assert zlib.crc32(body) == int.from_bytes(data[at + 8 + size : at + 12 + size], "big")
        chunks.append(body[:4])
        at += 12 + size
    assert set(chunks) == {b"IHDR", b"iTXt", b"IDAT", b"IEND"}


def test_strange_images_are_refused(images):
    data, schema = images
    with pytest.raises(ParameterError, match="1, 3 or 4 channels"):
        encode_png(np.zeros((2, 2, 2), np.uint8))
    with pytest.raises(SchemaError, match="labels must be from 0 to 2"):
        to_arrow(Images(data.pixels, data.labels + 1), schema)
    with pytest.raises(SchemaError, match="images must be"):
        to_arrow(data, ImageSchema(5, 5, 1))


def test_image_files_are_small_groups_of_uncompressed_bytes_for_all_readers(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (250, 4, 4, 3), dtype=np.uint8)
    data = Images(pixels, np.zeros(250, np.int64))
    path = written(to_arrow(data, ImageSchema(4, 4, 3)), tmp_path / "a.parquet")
    metadata = pq.ParquetFile(path).metadata
    column = metadata.row_group(0).column(1)
    assert (column.path_in_schema, column.compression) == ("image.bytes", "UNCOMPRESSED")
    assert column.statistics is None
    first = encode_png(pixels[0])
    assert pl.read_parquet(path)["image"].struct.field("bytes")[0] == first
    assert duckdb.sql(f"select image.bytes from '{path}' order by id").fetchall()[0][0] == first
    assert pd.read_parquet(path)["image"][0]["bytes"] == first


@pytest.mark.parametrize(("side", "images", "groups"), [(4, 5_200, 2), (128, 400, 2)])
def test_groups_of_images_are_bounded_in_images_and_bytes(tmp_path, side, images, groups):
    one = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    cell = {"bytes": encode_png(one), "path": "a.png"}
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    path = written(pa.table({"image": pa.array([cell] * images, kind)}), tmp_path / "a.parquet")
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == groups
    for number in range(groups):
        assert metadata.row_group(number).total_byte_size < GROUP_BYTES * 1.1
        assert metadata.row_group(number).num_rows <= GROUP_IMAGES


def test_the_origin_of_images_is_published_beside_them(images, tmp_path):
    data, schema = images
    origin = Origin(np.arange(len(data)) + 2**62, 10, "abc")
    table = to_arrow(data, schema, origin)
    wanted = ["id", "label", "label_name", "seed", "nfe", "model", "image"]
    assert table.column_names == wanted == [c.name for c in columns_of(schema, table.column_names)]
    assert [c.type for c in columns_of(schema, table.column_names)] == [
        logical_type(kind) for kind in table.schema.types
    ]
    assert table["seed"].to_pylist() == origin.seeds.tolist()
    write_parquet(table, tmp_path / "a", {}, schema.classes)
    back = read_published([tmp_path / "a"], schema)
    np.testing.assert_array_equal(back.pixels, data.pixels)
    told = json.loads(pq.ParquetFile(tmp_path / "a").metadata.metadata[b"huggingface"])
    assert told["info"]["features"]["label"]["names"] == list(schema.classes)
    assert content_digest(pq.read_table(tmp_path / "a")) == content_digest(table)
    other = to_arrow(data, schema, Origin(origin.seeds + 1, 10, "abc"))
    assert content_digest(other) != content_digest(table)


def test_no_rows_are_a_table_too(frame, tmp_path):
    schema = TableSchema.infer(frame)
    path = written(to_arrow(frame.iloc[:0], schema), tmp_path / "a.parquet")
    assert len(read_published([path], schema)) == 0
    none = Images(np.zeros((0, 2, 2, 1), np.uint8), np.zeros(0, np.int64))
    assert to_arrow(none, ImageSchema(2, 2, 1, ("a", "b"))).num_rows == 0
