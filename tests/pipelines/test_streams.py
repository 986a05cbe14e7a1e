"""Data in parts give the same files as in one piece, and never need to be in memory as a whole."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import load_generator
from generators.base import DataError, ParameterError
from generators.schema import TableSchema
from generators.tabular.forest import Forest
from pipelines import candidate, steps
from pipelines.candidate import candidate_files, recomputed, write_candidate, write_parts
from pipelines.home import Home
from pipelines.publication.digest import BATCH_ROWS, ContentDigest, content_digest
from pipelines.publication.parquet import ROW_GROUP_ROWS, to_arrow
from pipelines.publication.read import published_parts, read_published
from pipelines.spec import DatasetSpec, GeneratorSpec, SourceSpec


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": rng.normal(size=rows).round(2),
            "whole": pd.Series(rng.integers(0, 9, rows), dtype="Int64").mask(
                rng.random(rows) < 0.1
            ),
            "town": pd.Series(rng.choice(["Ulm", "Köln", None], rows), dtype=object),
            "sex": pd.Categorical(rng.choice(["f", "m"], rows)),
            "code": np.arange(rows) * 7,
        }
    )


LARGE = table(2 * ROW_GROUP_ROWS + 4_321)
SCHEMA = TableSchema.infer(LARGE)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in candidate_files(folder)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("whole")
    digest = write_candidate(folder, LARGE, SCHEMA, "large")
    return digest, files_of(folder)


@pytest.mark.parametrize("size", [8_192, BATCH_ROWS, ROW_GROUP_ROWS, ROW_GROUP_ROWS + 1, 200_000])
def test_the_bytes_do_not_depend_on_how_the_rows_come(
    whole: tuple[str, dict[str, bytes]], size: int, tmp_path: Path
) -> None:
    parts = (LARGE[start : start + size] for start in range(0, len(LARGE), size))
    digest = write_parts(tmp_path, parts, SCHEMA, "large", {"train": len(LARGE)})
    assert digest == whole[0] == content_digest(to_arrow(LARGE, SCHEMA))
    assert files_of(tmp_path) == whole[1]
    assert recomputed(tmp_path) == (digest, len(LARGE))
    file = pq.ParquetFile(candidate_files(tmp_path)[0])
    assert [file.metadata.row_group(i).num_rows for i in range(3)] == [
        ROW_GROUP_ROWS,
        ROW_GROUP_ROWS,
        4_321,
    ]
    assert file.metadata.metadata[b"likeness:content_digest"].decode() == digest


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), max_size=6),
    splits=st.lists(st.integers(1, 120), min_size=1, max_size=3),
    per_file=st.integers(30, 200),
)
def test_files_and_splits_are_the_same_for_any_cut(
    cuts: list[int], splits: list[int], per_file: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = table(sum(splits), seed=1)
    named = {f"part{'abc'[at]}": rows for at, rows in enumerate(splits)}
    edges = sorted({0, len(frame), *(cut for cut in cuts if cut < len(frame))})
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate, "ROWS_PER_FILE", per_file)
        schema = TableSchema.infer(frame)
        write_candidate(one, frame, schema, "x", named)
        parts = (frame[low:high] for low, high in pairwise(edges))
        write_parts(other, parts, schema, "x", named)
    assert files_of(one) == files_of(other)
    pd.testing.assert_frame_equal(read_published(candidate_files(one), schema), frame)
    joined = pd.concat(list(published_parts(candidate_files(one), schema)), ignore_index=True)
    pd.testing.assert_frame_equal(joined, frame)
    first = read_published(candidate_files(one), schema, 17)
    pd.testing.assert_frame_equal(first, frame[:17])


@settings(max_examples=30, deadline=None)
@given(edges=st.lists(st.integers(0, 3 * BATCH_ROWS), max_size=5))
def test_the_digest_does_not_depend_on_the_parts(edges: list[int]) -> None:
    rows = pa.table(
        {
            "x": pa.array(np.arange(3 * BATCH_ROWS - 5) % 11),
            "t": pa.nulls(3 * BATCH_ROWS - 5, pa.string()),
        }
    )
    digest = ContentDigest()
    cuts = sorted({0, len(rows), *(edge for edge in edges if edge < len(rows))})
    for low, high in pairwise(cuts):
        digest.update(rows.slice(low, high - low))
    assert digest.text() == content_digest(rows)


def test_parts_of_other_columns_are_refused() -> None:
    digest = ContentDigest()
    digest.update(pa.table({"x": [1]}))
    for other in ({"x": [1.0]}, {"y": [1]}, {"x": [1], "y": [1]}):
        with pytest.raises(DataError, match="same columns"):
            digest.update(pa.table(other))


@pytest.mark.parametrize("rows", [90, 110])
def test_another_number_of_rows_than_planned_is_refused(rows: int, tmp_path: Path) -> None:
    frame = table(rows)
    with pytest.raises(ParameterError, match="rows of its splits"):
        write_parts(tmp_path, [frame], TableSchema.infer(frame), "x", {"train": 100})


def test_a_large_candidate_is_made_in_parts_judged_by_its_first_rows_and_published_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(1_500)[["number", "whole", "town", "sex"]].to_parquet(tmp_path / "data.parquet")
    asked = DatasetSpec(
        name="streamed",
        source=SourceSpec(kind="parquet", path=str(tmp_path / "data.parquet")),
        generator=GeneratorSpec(name="forest", parameters={"trees": 2}),
        rows=20_000,
        contract="internal",
    )
    taken: list[int] = []

    def counted(folder: Path, parts: Iterator[pd.DataFrame], *rest: object) -> str:
        kept = list(parts)
        taken.extend(len(part) for part in kept)
        return write_parts(folder, kept, *rest)

    monkeypatch.setattr(Forest, "rows_per_block", 8_192)
    monkeypatch.setattr(steps, "write_parts", counted)
    monkeypatch.setattr(steps, "MEASURED_ROWS", 5_000)
    monkeypatch.setattr(candidate, "ROWS_PER_FILE", 9_000)
    result = steps.run(asked, Home(tmp_path / "home"))
    assert taken == [8192, 8192, 3616]
    assert len(steps.comparison(result.release).synthetic) == 5_000
    assert result.published is not None, result.verdict.blocking
    manifest = result.published.manifest()
    assert (manifest.rows, len(manifest.data_files)) == (20_000, 3)
    assert manifest.reproduce["judged_rows"] == 5_000
    generator = load_generator(result.release.model_folder, result.release.home.secret)
    whole = to_arrow(steps.drawn(generator, result.release), result.release.published)
    assert manifest.content_digest == content_digest(whole)


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np, pandas as pd
from generators.schema import TableSchema
from pipelines.candidate import recomputed, write_parts

rows, size, columns = int(sys.argv[1]), 8192, 12
rng = np.random.default_rng(0)

def part(n):
    return pd.DataFrame({f"c{i}": rng.normal(size=n) for i in range(columns)})

schema = TableSchema.infer(part(1000))
parts = (part(min(size, rows - start)) for start in range(0, rows, size))
digest = write_parts(Path(sys.argv[2]), parts, schema, "x", {"train": rows})
assert recomputed(Path(sys.argv[2])) == (digest, rows)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        command = [sys.executable, "-c", MEASURED, str(rows), str(tmp_path / str(rows))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return int(done.stdout)

    few, many = peak(2 * ROW_GROUP_ROWS), peak(10 * ROW_GROUP_ROWS)
    data_kb = 8 * ROW_GROUP_ROWS * 12 * 8 / 1024
    assert many - few < 0.35 * data_kb, (few, many, data_kb)
