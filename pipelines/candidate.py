"""Synthetic data as files, written as it will be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from generators.base import Generator
from generators.schema import Data, ImageSchema, Schema

from .publication.digest import content_digest
from .publication.parquet import Origin, read_parquet, to_arrow, write_parquet

# Files of 128-512 MB read well everywhere.
ROWS_PER_FILE = 2_000_000
IMAGES_PER_FILE = 100_000
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\0")


def write_candidate(
    folder: Path,
    data: Data,
    schema: Schema,
    dataset: str,
    splits: Mapping[str, int] | None = None,
    origin: Origin | None = None,
) -> str:
    """Write ``data`` as ``data/<split>-*.parquet`` below ``folder``; gives its content digest.

    Args:
        folder: of the candidate.
        data: the rows or images, in the order in which they are published.
        schema: of what is published.
        dataset: its name in the lake.
        splits: rows by name, in the order of their names; all rows are ``train`` without it.
        origin: of images.
    """
    table = to_arrow(data, schema, origin)
    digest = content_digest(table)
    per_file = IMAGES_PER_FILE if isinstance(schema, ImageSchema) else ROWS_PER_FILE
    classes = schema.classes if isinstance(schema, ImageSchema) and schema.labelled else ()
    footer = {"dataset": dataset, "synthetic": "true", "content_digest": digest}
    (folder / "data").mkdir(parents=True)
    start = 0
    for split, rows in (splits or {"train": len(table)}).items():
        part = table.slice(start, rows)
        start += rows
        count = max(1, -(-rows // per_file))
        for number in range(count):
            path = folder / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"
            write_parquet(part.slice(number * per_file, per_file), path, footer, classes)
    return digest


def origin_of(generator: Generator, rows: int, seed: int, model: str) -> Origin | None:
    """Where the images of a sample come from; None for tables, also for those with images.

    Args:
        generator: that made the sample.
        rows: of the sample.
        seed: of the sample.
        model: digest of the model.
    """
    schema = generator.schema_
    if not isinstance(schema, ImageSchema) or schema.table is not None:
        return None
    return Origin(generator.row_seeds(rows, seed), generator.evaluations, model)


def candidate_files(folder: Path) -> list[Path]:
    """The data files of a candidate in the order of their rows."""
    return sorted((folder / "data").glob("*.parquet"))


def read_rows(files: Sequence[Path]) -> pa.Table:
    """The rows of some data files as one Arrow table."""
    tables = [read_parquet(file).replace_schema_metadata(None) for file in files]
    return pa.concat_tables(tables)


def write_csv(folder: Path, *, safe: bool) -> None:
    """The data files of a candidate as ``export/<split>.csv``, UTF-8 with a header.

    Args:
        folder: of the candidate.
        safe: texts that a spreadsheet would run as a formula get a ``'`` before them, as OWASP
            advises against CSV injection; numbers stay as they are.
    """
    (folder / "export").mkdir()
    for file in candidate_files(folder):
        split = file.name.split("-")[0]
        target = folder / "export" / f"{split}.csv"
        frame = read_rows([file]).to_pandas(timestamp_as_object=False)
        frame = harmless(frame) if safe else frame
        frame.to_csv(target, index=False, mode="a", header=not target.exists())


def harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """``frame`` with a quote before each text that a spreadsheet would run as a formula."""
    texts = [name for name in frame.columns if frame[name].dtype == object]
    safe = frame.assign(**{name: frame[name].map(_harmless) for name in texts})
    safe.columns = pd.Index([_harmless(name) for name in safe.columns])
    return safe


def _harmless(cell: object) -> object:
    if isinstance(cell, str) and cell.startswith(_FORMULA):
        return f"'{cell}"
    return cell
