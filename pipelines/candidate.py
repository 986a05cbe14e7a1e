"""Synthetic data as files, written as it will be published."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from generators.schema import Data, ImageSchema, Schema

from .publication.digest import content_digest
from .publication.parquet import read_parquet, to_arrow, write_parquet

# Files of 128-512 MB read well everywhere.
ROWS_PER_FILE = 2_000_000
IMAGES_PER_FILE = 100_000


def write_candidate(folder: Path, data: Data, schema: Schema, dataset: str) -> str:
    """Write ``data`` as ``data/train-*.parquet`` below ``folder``; gives its content digest."""
    table = to_arrow(data, schema)
    digest = content_digest(table)
    per_file = IMAGES_PER_FILE if isinstance(schema, ImageSchema) else ROWS_PER_FILE
    count = max(1, -(-len(table) // per_file))
    footer = {"dataset": dataset, "synthetic": "true", "content_digest": digest}
    (folder / "data").mkdir(parents=True)
    for number in range(count):
        path = folder / "data" / f"train-{number:05d}-of-{count:05d}.parquet"
        write_parquet(table.slice(number * per_file, per_file), path, footer)
    return digest


def candidate_files(folder: Path) -> list[Path]:
    """The data files of a candidate in the order of their rows."""
    return sorted((folder / "data").glob("*.parquet"))


def read_rows(files: Sequence[Path]) -> pa.Table:
    """The rows of some data files as one Arrow table."""
    tables = [read_parquet(file).replace_schema_metadata(None) for file in files]
    return pa.concat_tables(tables)
