"""Hostile ground: what is read in the child comes through unchanged, and a bomb is one error."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from generators.base import DataError, ParameterError
from pipelines.declare import Options, to_spec
from pipelines.ingest import split_and_protect
from pipelines.sources import RawImages, RawTable, read_plainly, read_source
from pipelines.sources.reservoir import Reservoir
from pipelines.sources.tables import ArrowTable, read_csv, read_parquet, stream_csv
from pipelines.spec import ReadLimits, SourceSpec, parse_spec

from ..postgres import postgres_server

ROOT = Path(__file__).resolve().parents[2]
ENDLESS = "with recursive t(x) as (select 1 union all select x + 1 from t) select x % 7 as x from t"
SMALL = ReadLimits(memory_mb=400, seconds=120)


def table(rows: int = 300) -> pa.Table:
    rng = np.random.default_rng(4)
    day = np.datetime64("2020-01-01") + rng.integers(0, 99, rows)
    columns = {
        "whole": pa.array(rng.integers(0, 9, rows)),
        "gaps": pa.array([None if n % 3 else n for n in range(rows)]),
        "real": pa.array(rng.normal(size=rows)),
        "text": pa.array(["a", "b,c", None, "d\ne"] * (rows // 4)),
        "flag": pa.array(rng.random(rows) < 0.5),
        "day": pa.array(day),
    }
    return pa.table(columns)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    frame = table().to_pandas()
    frame.to_csv(folder / "a.csv", index=False)
    pq.write_table(table(), folder / "a.parquet")
    with sqlite3.connect(folder / "a.sqlite") as connection:
        frame.astype({"day": str}).to_sql("visits to see", connection, index=False)
        connection.execute("create table mixed (a, b)")
        connection.execute("insert into mixed values (1, 'x'), ('zq7secret', 'y')")
    connection.close()
    for number in range(6):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (5, 4), number).save(path)
    return folder


def source(kind: str, path: Path | None = None, **more: object) -> SourceSpec:
    raw = {"kind": kind, "path": str(path) if path else None, "limits": SMALL, **more}
    return SourceSpec.model_validate(raw)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "pictures"])
def test_the_child_changes_nothing(sources: Path, tmp_path: Path, name: str) -> None:
    kind = {"a.csv": "csv", "a.parquet": "parquet", "pictures": "images"}[name]
    given_source = source(kind, sources / name)
    there = read_source(given_source, tmp_path)
    here = read_plainly(given_source)
    if isinstance(there, RawTable):
        assert isinstance(here, ArrowTable)
        pd.testing.assert_frame_equal(there.frame, here.raw().frame)
        assert there.seen == 300
    else:
        assert isinstance(here, RawImages)
        assert np.array_equal(there.images.pixels, here.images.pixels)
        assert (there.schema, there.unreadable) == (here.schema, here.unreadable)
    assert list((tmp_path / ".ingest").iterdir()) == []


def test_sqlite(sources: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{sources / 'a.sqlite'}"
    raw = read_source(source("sql", url=url, table="visits to see"), tmp_path)
    assert isinstance(raw, RawTable)
    assert raw.frame["gaps"].tolist()[0] == 0
    assert raw.frame["text"].isna().sum() == 75
    assert str(raw.frame["day"].dtype) == "datetime64[us]"
    for table_name in ("nothing", 'x"; drop table mixed; --'):
        with pytest.raises(DataError, match="database must answer"):
            read_source(source("sql", url=url, table=table_name), tmp_path)
    with pytest.raises(DataError, match="column 'a' must have values of one type") as caught:
        read_source(source("sql", url=url, table="mixed"), tmp_path)
    assert "zq7secret" not in str(caught.value)
    with pytest.raises(ParameterError, match="one of table and query"):
        read_source(source("sql", url=url), tmp_path)
    with pytest.raises(ParameterError, match="variable ZQ7_URL"):
        read_source(source("sql", url="env:ZQ7_URL", table="t"), tmp_path)
    with pytest.raises(ParameterError, match="password"):
        parse_spec({"name": "a", "source": {"kind": "sql", "url": "postgresql://u:p@h/d"}})


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgres_server(tmp_path_factory.mktemp("pg")) as uri:
        socket = uri.partition("host=")[2]
        yield f"postgresql+pg8000://postgres@/postgres?unix_sock={socket}/.s.PGSQL.5432"


def test_postgres(postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlalchemy as sa

    engine = sa.create_engine(postgres)
    with engine.begin() as connection:
        connection.execute(sa.text("create schema shop"))
        connection.execute(
            sa.text(
                "create table shop.visits as select n, n % 3 = 0 as paid, 'p' || n % 4 as place, "
                "n * 1.25 as cost, case when n > 70000 then n end as late, "
                "date '2020-01-01' + n % 90 as day from generate_series(1, 80000) as n"
            )
        )
    engine.dispose()
    monkeypatch.setenv("ZQ7_URL", postgres)
    raw = read_source(source("sql", url="env:ZQ7_URL", table="shop.visits"), tmp_path)
    assert isinstance(raw, RawTable)
    frame = raw.frame
    assert len(frame) == 80_000
    assert [str(dtype) for dtype in frame.dtypes] == [
        "int64", "bool", "object", "float64", "Int64", "datetime64[us]",
    ]  # fmt: skip
    assert frame["cost"].sum() == pytest.approx(1.25 * 80_000 * 80_001 / 2)
    assert frame["late"].notna().sum() == 10_000


def write_bomb(path: Path, kind: str) -> SourceSpec:
    if kind.startswith("parquet"):
        # One long value, named once and used 20,000 times: 20 GB from a few kilobytes.
        values = pa.array(["x" * 2**20])
        index = pa.array(np.zeros(20_000, np.int32))
        bomb = pa.table({"a": pa.DictionaryArray.from_arrays(index, values)})
        pq.write_table(bomb, path, compression="zstd", store_schema=kind != "parquet")
    elif kind == "csv":
        path.write_bytes(b"a,b\n1," + b"x" * (64 << 20))
    else:
        path.mkdir()
        Image.new("1", (20_000, 20_000)).save(path / "a.png")
    return source(kind.partition(":")[0], path)


# With its schema, Arrow keeps the dictionary, and whoever decodes it in the end meets the bomb.
@pytest.mark.parametrize("kind", ["parquet", "parquet:with its schema", "csv", "images"])
def test_a_bomb_is_one_clear_error(tmp_path: Path, kind: str) -> None:
    bomb = write_bomb(tmp_path / "bomb", kind)
    # Its size ends it, whatever time there is.
    with pytest.raises(DataError, match=r"memory|times its size|fields of its header|unreadable"):
        read_source(bomb, tmp_path)
    assert list((tmp_path / ".ingest").iterdir()) == []


def endless(tmp_path: Path, **limits: int) -> SourceSpec:
    sqlite3.connect(tmp_path / "e.sqlite").execute("create table t (x)").connection.close()
    bounds = ReadLimits(**{"memory_mb": 400, "seconds": 200, **limits})
    return source("sql", url=f"sqlite:///{tmp_path / 'e.sqlite'}", query=ENDLESS, limits=bounds)


def test_an_endless_source_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="may take 1 s"):
        read_source(endless(tmp_path, seconds=1), tmp_path)
    assert children(os.getpid()) == []


def children(parent: int) -> list[int]:
    """Processes of ``parent`` that read a source."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "stat").read_text().rpartition(")")[2].split()
            command = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if int(line[1]) == parent and line[0] != "Z" and b"pipelines.sources.sandbox" in command:
            found.append(int(path.name))
    return found


def reading_child(parent: int, source: Path) -> int:
    """The child of ``parent`` once it has opened ``source``: it has set its limits before."""
    return until(lambda: next((c for c in children(parent) if has_opened(c, source)), None))


def has_opened(process: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return any(os.path.samefile(one, path) for one in Path(f"/proc/{process}/fd").iterdir())
    return False


def until(look: Callable[[], int | None]) -> int:
    """What ``look`` gives once it gives something."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (found := look()) is not None:
            return found
        time.sleep(0.025)
    raise AssertionError("it did not come")


def test_a_child_that_crashes_is_one_clear_error(tmp_path: Path) -> None:
    def crash() -> None:
        os.kill(reading_child(os.getpid(), tmp_path / "e.sqlite"), signal.SIGSEGV)

    thread = threading.Thread(target=crash)
    thread.start()
    with pytest.raises(DataError, match="ended with SIGSEGV"):
        read_source(endless(tmp_path), tmp_path)
    thread.join()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_child_outlives_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.sources import read_source\n"
        "from pipelines.spec import SourceSpec\n"
        "read_source(SourceSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    argument = endless(tmp_path).model_dump_json()
    command = [sys.executable, "-c", program, argument, str(tmp_path)]
    parent = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    child = reading_child(parent.pid, tmp_path / "e.sqlite")
    parent.send_signal(how)
    parent.wait(timeout=120)
    until(lambda: None if lives(child) else child)


def lives(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_paths_are_confined(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "link.csv").symlink_to(sources / "a.csv")
    monkeypatch.setenv("LIKENESS_SOURCES", str(tmp_path / "inside"))
    outside = [
        sources / "a.csv",
        tmp_path / "inside" / "link.csv",
        tmp_path / "inside" / ".." / "x",
    ]
    (tmp_path / "x").touch()
    for path in outside:
        with pytest.raises(ParameterError, match="below LIKENESS_SOURCES"):
            read_source(source("csv", path), tmp_path)
    monkeypatch.delenv("LIKENESS_SOURCES")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), sources):
        with pytest.raises(DataError, match="must be a plain file"):
            read_source(source("csv", path), tmp_path)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "link.png").symlink_to(sources / "pictures" / "a" / "0.png")
    (pictures / "deeper").symlink_to(sources / "pictures")
    with pytest.raises(DataError, match="must hold"):
        read_source(source("images", pictures), tmp_path)


def test_a_table_larger_than_memory_is_sampled(tmp_path: Path) -> None:
    """480 MB of rows through a child that may use 300 MB."""
    path = tmp_path / "large.parquet"
    rows, parts = 1_000_000, 30
    with pq.ParquetWriter(path, pa.schema([("n", pa.int64()), ("m", pa.int64())])) as writer:
        for part in range(parts):
            n = np.arange(rows) % 50 + part * 50
            writer.write_table(pa.table({"n": n, "m": n * 3}))
    limits = ReadLimits(memory_mb=300, seconds=240, max_rows=20_000)
    raw = read_source(source("parquet", path, limits=limits), tmp_path)
    assert isinstance(raw, RawTable)
    assert raw.seen == rows * parts
    assert len(raw.frame) == 20_000
    assert (raw.frame["m"] == 3 * raw.frame["n"]).all()
    shares = np.bincount(raw.frame["n"] // 50, minlength=parts) / 20_000
    assert np.abs(shares - 1 / parts).max() < 6 * (1 / parts / 20_000) ** 0.5
    spec = parse_spec({"name": "large", "source": {"kind": "parquet", "path": str(path)}})
    told = split_and_protect(raw, spec).facts["protection"]
    assert "20,000 of 30,000,000 rows" in told[0]


def test_the_command_takes_the_table_and_the_number_of_rows(sources: Path) -> None:
    options = Options(table="visits to see", max_rows=60)
    spec = to_spec(str(sources / "a.sqlite"), options)
    assert (spec.source.table, spec.source.limits.max_rows) == ("visits to see", 60)
    assert to_spec("env:SHOP", Options(table="shop.visits")).name == "visits"


def test_a_large_csv_is_typed_as_a_small_one(sources: Path) -> None:
    whole = read_csv(sources / "a.csv").frame
    parts = stream_csv(sources / "a.csv", Reservoir(10**9, 10**9), whole_bytes=0).raw()
    pd.testing.assert_frame_equal(parts.frame, whole)


@given(st.integers(1, 60), st.lists(st.integers(0, 40), max_size=12))
@settings(deadline=None, max_examples=40)
def test_a_reservoir_keeps_what_it_says(most: int, sizes: list[int]) -> None:
    keep = Reservoir(most, 10**9)
    schema = pa.schema([("n", pa.int64())])
    first = 0
    for size in sizes:
        keep.add(pa.table({"n": pa.array(range(first, first + size), pa.int64())}))
        first += size
    kept = keep.table(schema)["n"].to_pylist()
    assert keep.seen == sum(sizes)
    assert len(kept) == min(most, sum(sizes))
    assert kept == sorted(set(kept))


def test_wide_rows_are_fewer() -> None:
    keep = Reservoir(10**6, 1 << 20)
    for _ in range(20):
        keep.add(pa.table({"t": ["x" * 10_000] * 50}))
    table_kept = keep.table(pa.schema([]))
    assert 0 < table_kept.nbytes <= 1 << 20
    assert keep.seen == 1_000


@given(st.binary(max_size=400))
@settings(deadline=None, max_examples=150)
def test_any_bytes_as_csv_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, raw: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    path.write_bytes(raw)
    with contextlib.suppress(DataError):
        read_csv(path)


WHOLE = pa.BufferOutputStream()
pq.write_table(table(40), WHOLE, write_page_checksum=True)
BYTES = WHOLE.getvalue().to_pybytes()


@given(
    st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(1, 255)), max_size=6),
    st.integers(0, len(BYTES)),
)
@settings(deadline=None, max_examples=150)
def test_any_damage_to_parquet_is_survived(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], cut: int
) -> None:
    damaged = bytearray(BYTES[: cut if cut % 3 == 0 else None])
    for at, change in flips:
        if at < len(damaged):
            damaged[at] ^= change
    path = tmp_path_factory.getbasetemp() / "fuzz.parquet"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError, MemoryError):
        read_parquet(path)
