"""Tables from CSV and Parquet, with bounds on what may be decoded.

Parser messages quote cells, so they are never passed on: the errors here say what was expected.
"""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from generators.base import DataError
from generators.dtypes import exact_type, plain_of_arrow

from ..protection.detection import personal_value
from .reservoir import Reservoir

MAX_COLUMNS = 2_000
# A file may decode to so many times its size, and to so much whatever its size is: real tables
# compress some 3 to 30 times, a bomb thousands of times.
MAX_RATIO = 200
MIN_DECODED_BYTES = 2**30
# Up to this size a CSV file is read as a whole.
WHOLE_BYTES = 256 << 20
MAX_NAME_LENGTH = 256
# What pandas calls an index without a name: labels of rows, no column of the table.
_INDEX_NAME = re.compile(r"__index_level_\d+__")
_BLOCKS = pa_csv.ReadOptions(block_size=16 << 20)
# Spellings of "missing" in CSV files; a bare ? is the mark of the UCI archives.
NULL_MARKERS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"]


@dataclass(frozen=True)
class RawTable:
    """A table as read: strings are objects, integers with gaps Int64, datetimes in microseconds.

    Attributes:
        frame: the rows, or a uniform sample of them.
        seen: how many rows the source has; 0 means: those of ``frame``.
        types: the Arrow types of columns that ``frame`` holds in another one, exactly.
    """

    frame: pd.DataFrame
    seen: int = 0
    types: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ArrowTable:
    """A table as it is passed from one process to another."""

    table: pa.Table
    seen: int

    def raw(self) -> RawTable:
        """The same for those who work on it."""
        types = {name: exact_type(self.table.column(name)) for name in self.table.column_names}
        return RawTable(to_frame(self.table), self.seen, {n: t for n, t in types.items() if t})


def read_csv(path: Path) -> RawTable:
    """``stream_csv`` of a table that fits into memory."""
    return stream_csv(path, Reservoir(sys.maxsize, sys.maxsize)).raw()


def read_parquet(path: Path) -> RawTable:
    """``stream_parquet`` of a table that fits into memory."""
    return stream_parquet(path, Reservoir(sys.maxsize, sys.maxsize)).raw()


def stream_csv(path: Path, keep: Reservoir, whole_bytes: int = WHOLE_BYTES) -> ArrowTable:
    """The table in a UTF-8 CSV file with a header line; comma, semicolon or tab is recognised.

    A file of more than ``whole_bytes`` is read in parts as text; its types are those of the rows
    that are kept.

    Raises:
        DataError: empty, not UTF-8, ragged, duplicate or missing names, too many columns.
    """
    if path.stat().st_size == 0:
        raise DataError(f"a CSV file needs a header and rows, {path.name} is empty; give data")
    header, delimiter = _header(path)
    check_names(header)
    parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    try:
        if path.stat().st_size <= whole_bytes:
            keep.add(pa_csv.read_csv(path, _BLOCKS, parse, _convert()))
            return ArrowTable(keep.table(pa.schema([])), keep.seen)
        texts = pa.schema([(name, pa.string()) for name in header])
        with pa_csv.open_csv(path, _BLOCKS, parse, _convert(texts)) as reader:
            for batch in reader:
                keep.add(pa.Table.from_batches([batch]))
        return ArrowTable(_typed(keep.table(texts)), keep.seen)
    except (pa.ArrowInvalid, UnicodeDecodeError):
        raise _bad_csv(path, len(header)) from None


def _convert(types: pa.Schema | None = None) -> pa_csv.ConvertOptions:
    return pa_csv.ConvertOptions(
        null_values=NULL_MARKERS,
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        column_types=types,
    )


def _typed(texts: pa.Table) -> pa.Table:
    """A table of texts in the types that the reader of a small file would give it."""
    buffer = io.BytesIO()
    pa_csv.write_csv(texts, buffer)
    buffer.seek(0)
    whole = pa_csv.ReadOptions(block_size=max(1 << 20, len(buffer.getvalue())))
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    return pa_csv.read_csv(buffer, whole, parse, _convert())


def stream_parquet(path: Path, keep: Reservoir) -> ArrowTable:
    """The table in a Parquet file, decoded in batches under a running budget.

    Raises:
        DataError: damaged, truncated, nested columns, duplicate names, decodes to too much.
    """
    with whole(path), opened(path) as file:
        names = [name for name in file.schema_arrow.names if not _INDEX_NAME.fullmatch(name)]
        check_names(names)
        schema = _plain(pa.schema([file.schema_arrow.field(name) for name in names]))
        for batch in _bounded(file, path, names):
            keep.add(pa.Table.from_batches([batch]))
        table = keep.table(schema)
        # Text must be UTF-8, offsets must lie within: checked here, not by who reads it next.
        table.validate(full=True)
        return ArrowTable(table, keep.seen)


def check_names(names: Iterable[str]) -> None:
    """Raise DataError unless the column names are few enough, present, short and distinct."""
    listed = list(names)
    if len(listed) > MAX_COLUMNS:
        raise DataError(
            f"a table may have {MAX_COLUMNS} columns, this one has {len(listed)}; select some"
        )
    if not listed:
        raise DataError("a table needs at least one column, this one has none; give data")
    empty = sum(1 for name in listed if not name.strip())
    if empty:
        raise DataError(f"every column needs a name, {empty} have none; name them in the header")
    if any(len(name) > MAX_NAME_LENGTH for name in listed):
        raise DataError(
            f"a column name may have {MAX_NAME_LENGTH} characters, one is longer; "
            "is the first line a header?"
        )
    # Names are shown everywhere; the first row of a file without a header must not be.
    values = sum(1 for name in listed if personal_value(name))
    if values:
        raise DataError(
            f"column names must be names, {values} look like personal identifiers; "
            "is the first line a header?"
        )
    twice = [name for name, count in Counter(listed).items() if count > 1]
    if twice:
        raise DataError(
            f"column names must differ, these occur more than once: {', '.join(twice[:5])}; "
            "rename them"
        )


def to_frame(table: pa.Table) -> pd.DataFrame:
    """A frame in the dtypes that ``RawTable`` promises.

    Raises:
        DataError: a nested or binary column.
    """
    columns: dict[str, pd.Series] = {}
    for column in table.schema:
        kind = column.type
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if pa.types.is_nested(kind) or not any(test(kind) for test in _FLAT):
            raise DataError(
                f"column {column.name!r} must be a number, text, boolean, date or time, it is "
                f"{kind}; flatten it or drop it"
            )
        columns[column.name] = plain_of_arrow(table.column(column.name))
    return pd.DataFrame(columns)


_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_FLAT = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_boolean,
    pa.types.is_null,
    pa.types.is_timestamp,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_duration,
    *_TEXT,
)


def _header(path: Path) -> tuple[list[str], str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline(4 << 20)
            second = file.readline(4 << 20)
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
    if "\x00" in first:
        raise DataError(f"a CSV file is text, {path.name} holds zero bytes; export it as UTF-8")
    if not second.strip():
        raise DataError(f"a CSV file needs a header and rows, {path.name} has no rows; give data")
    delimiter = max(",;\t|", key=first.count)
    return next(csv.reader([first.rstrip("\r\n")], delimiter=delimiter)), delimiter


def _bad_csv(path: Path, columns: int) -> DataError:
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(16 << 20):
                pass
    except UnicodeDecodeError:
        return _not_utf8(path)
    return DataError(
        f"every line of a CSV file must have the {columns} fields of its header, {path.name} has "
        "lines that do not; check quotes and separators"
    )


def _not_utf8(path: Path) -> DataError:
    return DataError(
        f"a CSV file must be UTF-8, {path.name} is not; "
        "convert it, e.g. iconv -f latin1 -t utf-8 in.csv > out.csv"
    )


def opened(path: Path) -> pq.ParquetFile:
    """A Parquet file whose pages are verified and whose footer is bounded."""
    return pq.ParquetFile(
        path,
        page_checksum_verification=True,
        thrift_string_size_limit=64 << 20,
        thrift_container_size_limit=1 << 20,
    )


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Say that the file is damaged whatever the decoder says: it may quote what it found."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        raise _bad_parquet(path) from None


def _bounded(file: pq.ParquetFile, path: Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    decoded = 0
    budget = max(MIN_DECODED_BYTES, MAX_RATIO * path.stat().st_size)
    for batch in file.iter_batches(batch_size=65_536, columns=names):
        decoded += sum(map(_decoded_bytes, batch.columns))
        if decoded > budget:
            raise _too_large(path)
        yield _decoded(batch)


def _decoded_bytes(column: pa.Array) -> int:
    """What a column takes once its dictionary is decoded: one long text may stand in every row."""
    kind = column.type
    if not pa.types.is_dictionary(kind) or not _is_text(kind.value_type):
        return int(column.nbytes)
    lengths = pc.binary_length(column.dictionary).cast(pa.int64()).take(column.indices)
    return (pc.sum(lengths).as_py() or 0) + 8 * len(column)


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries: what is kept is as large as what its reader will have."""
    schema = _plain(batch.schema)
    return batch if schema.equals(batch.schema) else batch.cast(schema)


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([column.with_type(_plain_type(column.type)) for column in schema])


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_dictionary(kind):
        return kind
    return pa.large_string() if _is_text(kind.value_type) else kind.value_type


def _is_text(kind: pa.DataType) -> bool:
    return any(test(kind) for test in _TEXT)


def _bad_parquet(path: Path) -> DataError:
    return DataError(
        f"a Parquet file must be whole, {path.name} is damaged, truncated or of another format; "
        "write it again"
    )


def _too_large(path: Path) -> DataError:
    return DataError(
        f"a Parquet file may decode to {MAX_RATIO} times its size, {path.name} decodes to more; "
        "write it again, with less repetition or in another format"
    )
