from __future__ import annotations

import io

import duckdb
import hypothesis.strategies as st
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from PIL import Image

from generators.base import DataError
from generators.schema import TableSchema
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import IMAGE_TYPE, to_arrow

# Written down once; a change of these is a new version of the digest.
GOLDEN_SMALL = "v1:48fb79bd54f211adc920a97c747cf522ce728859b455d117d0af87a7ff17ee5a"
GOLDEN_EMPTY = "v1:af5570f5a1810b7af78caf4bc70a660f0df51e42baf91d4de5b2328de0e83dfc"

quick = settings(deadline=None, max_examples=25)


def small() -> pa.Table:
    return pa.table(
        {
            "number": pa.array([1, None, -3], pa.int64()),
            "text": pa.array(["a", None, "Köln"], pa.string()),
            "real": pa.array([0.5, float("nan"), None], pa.float64()),
            "flag": pa.array([True, False, None], pa.bool_()),
            "time": pa.array([0, None, 1_600_000_000_000_000], pa.timestamp("us")),
        }
    )


def test_the_digest_of_v1_never_changes():
    assert content_digest(small()) == GOLDEN_SMALL
    assert content_digest(pa.table({})) == GOLDEN_EMPTY


def test_the_definition_worked_by_hand():
    from hashlib import sha256

    def int64(value: int) -> bytes:
        return value.to_bytes(8, "little", signed=True)

    # number: [1, null, -3]: validity 0b101, values 1, 0, -3
    column = sha256(int64(6) + b"number" + int64(5) + b"int64")
    column.update(bytes([0b101]) + int64(1) + int64(0) + int64(-3))
    text = sha256(int64(4) + b"text" + int64(6) + b"string")
    text.update(bytes([0b101]) + int64(1) + int64(0) + int64(5) + "aKöln".encode())
    whole = sha256(int64(3) + column.digest() + text.digest())
    assert content_digest(small().select(["number", "text"])) == f"v1:{whole.hexdigest()}"


def test_batches_of_65536_rows_are_part_of_the_definition():
    from hashlib import sha256

    values = np.arange(65_537, dtype=np.int64)
    column = sha256((1).to_bytes(8, "little") + b"n" + (5).to_bytes(8, "little") + b"int64")
    column.update(b"\xff" * 8192 + values[:-1].tobytes() + b"\x01" + values[-1:].tobytes())
    whole = sha256((65_537).to_bytes(8, "little") + column.digest()).hexdigest()
    assert content_digest(pa.table({"n": values})) == f"v1:{whole}"


def reencodings(table: pa.Table, folder) -> dict[str, pa.Table]:
    def written(**options) -> pa.Table:
        pq.write_table(table, folder / "x.parquet", **options)
        return pq.read_table(folder / "x.parquet", read_dictionary=options.get("read", []))

    pq.write_table(table, folder / "p.parquet")
    path = str(folder / "p.parquet")
    text = [name for name in table.column_names if pa.types.is_string(table[name].type)]
    cast = {name: pa.dictionary(pa.int32(), pa.string()) for name in text}
    types = [cast.get(f.name, f.type) for f in table.schema]
    large = [pa.large_string() if f.name in text else f.type for f in table.schema]
    names = table.column_names
    return {
        "zstd": written(compression="zstd"),
        "v2 pages": written(data_page_version="2.0", use_dictionary=False),
        "chunks": pa.concat_tables([table.slice(i, 7) for i in range(0, len(table), 7)]),
        "slice": pa.concat_tables([table, table]).slice(len(table)),
        "dictionary": table.cast(pa.schema(list(zip(names, types, strict=True)))),
        "large": table.cast(pa.schema(list(zip(names, large, strict=True)))),
        "pandas metadata": table.replace_schema_metadata({"pandas": "{}"}),
        "polars": pl.read_parquet(path).to_arrow(),
        "duckdb": duckdb.sql(f"from '{path}'").to_arrow_table(),
    }


def test_the_digest_does_not_depend_on_how_the_table_is_kept(frame, tmp_path):
    table = to_arrow(frame, TableSchema.infer(frame))
    expected = content_digest(table)
    for name, other in reencodings(table, tmp_path).items():
        assert content_digest(other) == expected, name


@given(
    values=st.lists(st.one_of(st.none(), st.text(max_size=6)), min_size=1, max_size=60),
    cut=st.integers(0, 60),
)
@quick
def test_chunks_and_dictionaries_do_not_matter(values, cut):
    array = pa.array(values, pa.string())
    split = pa.chunked_array([array[:cut], array[cut:]])
    expected = content_digest(pa.table({"a": array}))
    assert content_digest(pa.table({"a": split})) == expected
    assert content_digest(pa.table({"a": array.dictionary_encode()})) == expected
    assert content_digest(pa.table({"a": array.cast(pa.string_view())})) == expected


@given(
    values=st.lists(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)), min_size=2, max_size=9),
    data=st.data(),
)
@quick
def test_any_changed_value_changes_the_digest(values, data):
    row = data.draw(st.integers(0, len(values) - 1))
    other = data.draw(st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)))
    changed = [*values[:row], other, *values[row + 1 :]]

    def digest(cells: list[int | None]) -> str:
        return content_digest(pa.table({"a": pa.array(cells, pa.int64())}))

    assert (digest(values) == digest(changed)) == (values == changed)


def test_the_digest_depends_on_all_that_is_content():
    table = small()
    changes = {
        "rows": table.take([1, 0, 2]),
        "columns": table.select(["text", "number", "real", "flag", "time"]),
        "name": table.rename_columns(["Number", "text", "real", "flag", "time"]),
        "fewer rows": table.slice(0, 2),
        "fewer columns": table.drop_columns(["time"]),
        "width": table.set_column(0, "number", table["number"].cast(pa.int32())),
        "zone": table.set_column(4, "time", table["time"].cast(pa.timestamp("us", "UTC"))),
        "null to zero": table.set_column(0, "number", table["number"].fill_null(0)),
        "null to empty": table.set_column(1, "text", table["text"].fill_null("")),
        "null to NaN": table.set_column(2, "real", table["real"].fill_null(float("nan"))),
        "nothing": table,
    }
    digests = [content_digest(changed) for changed in changes.values()]
    assert len(set(digests)) == len(changes)


def test_text_that_moves_between_cells_changes_the_digest():
    assert content_digest(pa.table({"a": ["ab", "c"]})) != content_digest(
        pa.table({"a": ["a", "bc"]})
    )


def test_floats_have_one_nan_and_one_zero():
    strange = np.array([0x7FF8000000000001, 0xFFF8000000000000], dtype=np.uint64).view(np.float64)
    one = pa.table({"a": pa.array(np.append(strange, -0.0))})
    other = pa.table({"a": pa.array(np.array([np.nan, np.nan, 0.0]))})
    assert content_digest(one) == content_digest(other)


def test_times_in_other_units_are_the_same_times():
    stamps = pa.array([0, 5, None], pa.timestamp("s"))
    expected = content_digest(pa.table({"a": stamps.cast(pa.timestamp("us"))}))
    assert content_digest(pa.table({"a": stamps.cast(pa.timestamp("ns"))})) == expected
    with pytest.raises(DataError, match="'a' has finer"):
        content_digest(pa.table({"a": pa.array([1], pa.timestamp("ns"))}))


def test_types_without_a_canonical_form_are_refused():
    with pytest.raises(DataError, match="'a' is list"):
        content_digest(pa.table({"a": pa.array([[1]])}))


def image_column(encoded: list[bytes | None]) -> pa.Table:
    rows = [None if data is None else {"bytes": data, "path": "x"} for data in encoded]
    return pa.table({"image": pa.array(rows, IMAGE_TYPE)})


def png(pixels: np.ndarray, level: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=level)
    return buffer.getvalue()


def test_images_count_by_their_pixels():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    other = pixels.copy()
    other[3, 3] ^= 1
    stored, packed = png(pixels, 0), png(pixels, 9)
    assert stored != packed
    assert content_digest(image_column([stored])) == content_digest(image_column([packed]))
    assert content_digest(image_column([stored])) != content_digest(image_column([png(other, 0)]))
    flat = png(pixels.reshape(4, 16), 0)
    assert content_digest(image_column([stored])) != content_digest(image_column([flat]))
    whole = image_column([packed, None, stored])
    assert content_digest(whole.slice(1)) == content_digest(image_column([None, stored]))
    with pytest.raises(DataError, match="cannot be decoded"):
        content_digest(image_column([stored[:40]]))


def test_the_index_of_a_frame_is_no_content(frame):
    table = to_arrow(frame, TableSchema.infer(frame))
    again = to_arrow(frame.set_axis(np.arange(len(frame)) * 3), TableSchema.infer(frame))
    assert content_digest(table) == content_digest(again)
