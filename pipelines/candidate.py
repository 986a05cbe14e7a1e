"""Synthetic data as files, written as it will be published."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import pandas as pd
import pyarrow as pa

from generators.base import Generator, ParameterError
from generators.schema import Data, ImageSchema, Schema

from .publication.digest import ContentDigest
from .publication.parquet import CanonicalFile, Origin, read_batches, read_parquet, to_arrow

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
    return write_parts(folder, [data], schema, dataset, splits or {"train": len(data)}, origin)


def write_parts(
    folder: Path,
    parts: Iterable[Data],
    schema: Schema,
    dataset: str,
    splits: Mapping[str, int],
    origin: Origin | None = None,
) -> str:
    """``write_candidate`` of data that come in parts, in memory for a few of them.

    The files have the same bytes however the rows are cut; images come in one part.

    Raises:
        ParameterError: there are not as many rows as the splits say.
    """
    per_file = IMAGES_PER_FILE if isinstance(schema, ImageSchema) else ROWS_PER_FILE
    (folder / "data").mkdir(parents=True)
    planned = [plan for split in splits.items() for plan in _planned(*split, per_file)]
    classes = schema.classes if isinstance(schema, ImageSchema) and schema.labelled else ()
    digest, files = ContentDigest(), _Files(folder / "data", planned, classes)
    with ExitStack() as closing:
        for part in parts:
            table = to_arrow(part, schema, origin)
            digest.update(table)
            files.write(table, closing)
        files.require_full()
        content = digest.text()
        # All files tell the digest of the whole, which is known now.
        footer = {"dataset": dataset, "synthetic": "true", "content_digest": content}
        for file in files.begun:
            file.close(footer)
    return content


def _planned(split: str, rows: int, per_file: int) -> Iterator[tuple[str, int]]:
    count = max(1, -(-rows // per_file))
    for number in range(count):
        name = f"{split}-{number:05d}-of-{count:05d}.parquet"
        yield name, min(per_file, rows - number * per_file)


class _Files:
    """Rows dealt out to files of planned sizes, in their order."""

    def __init__(
        self, folder: Path, planned: Sequence[tuple[str, int]], classes: Sequence[str]
    ) -> None:
        self.begun: list[CanonicalFile] = []
        self._folder, self._planned, self._classes = folder, planned, classes
        self._room = [rows for _, rows in planned]
        self._over = 0

    def write(self, table: pa.Table, closing: ExitStack) -> None:
        """Take the next rows; a file is begun as soon as one of its rows or the next file's is."""
        while True:
            if not self.begun or (len(table) and self._room[len(self.begun) - 1] == 0):
                if len(self.begun) == len(self._planned):
                    self._over += len(table)
                    return
                self._begin(table.schema, closing)
                continue
            at = len(self.begun) - 1
            taken = table.slice(0, self._room[at])
            self.begun[at].write(taken)
            self._room[at] -= len(taken)
            table = table.slice(len(taken))
            if len(table) == 0:
                return

    def require_full(self) -> None:
        """Raise unless exactly the planned rows came.

        Raises:
            ParameterError: they did not.
        """
        if self._over or any(self._room) or len(self.begun) != len(self._planned):
            raise ParameterError(
                f"a candidate must have the rows of its splits, {sum(self._room):,} are missing "
                f"and {self._over:,} too many; report this as a bug"
            )

    def _begin(self, schema: pa.Schema, closing: ExitStack) -> None:
        if self.begun:
            self.begun[-1].end()
        name, _ = self._planned[len(self.begun)]
        file = CanonicalFile(self._folder / name, schema, self._classes)
        closing.callback(file.abandon)
        self.begun.append(file)


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


def recomputed(folder: Path) -> tuple[str, int]:
    """Content digest and number of the rows that lie in a candidate's files now."""
    digest = ContentDigest()
    for file in candidate_files(folder):
        for part in read_batches(file):
            digest.update(part)
    return digest.text(), digest.rows


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
