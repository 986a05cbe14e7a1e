"""The last gate before a commit: no sensitive value and no copied row in what will be published.

It believes neither the generator nor the contract: it looks at the files. What it searches for lies
in the vault beside the real data: all values that protection removed. Its answer is counts.
"""

from __future__ import annotations

import html
import importlib.util
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from generators.base import LikenessError
from generators.schema import Data, Images, Schema, TableSchema

_WORD = re.compile(r"[^\W_]+")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
# Shorter values, and numbers of fewer digits, stand in any file by chance.
_MIN_LENGTH = 5
_MIN_DIGITS = 7
# Real rows that nobody copied are equal too: so many times the rate between train and holdout is
# let pass, at three standard errors on either side.
_NATURAL_FACTOR = 2.0
_STANDARD_ERRORS = 3.0


class LeakError(LikenessError, RuntimeError):
    """What was to be published holds real values; nothing was published."""


@dataclass(frozen=True)
class LeakScan:
    """What a clean scan looked at.

    Attributes:
        artefacts: files that were searched.
        sensitive_values: values that were searched for; none was found.
        real_rows: synthetic rows that equal a train row which is there once.
        real_rows_expected: how many there would be if the same number of rows were fresh real ones.
    """

    artefacts: int
    sensitive_values: int
    real_rows: int
    real_rows_expected: float


def sensitive_values(
    raw: pd.DataFrame, protected: pd.DataFrame, hidden: Iterable[str]
) -> Sensitive:
    """The values of ``raw`` that protection removed.

    Of numbers that are kept these are the extremes; of texts, all that no column has any more.

    Args:
        raw: the table as it was read, with the columns that were left out.
        protected: all rows after protection.
        hidden: columns of ``protected`` whose values are replaced after sampling: ids, text, fakes.
    """
    shown = [name for name in protected.columns if name not in set(hidden)]
    surviving: set[str] = set()
    for name in shown:
        if not pd.api.types.is_numeric_dtype(protected[name].dtype):
            surviving |= _texts(protected[name])
    found: dict[str, tuple[str, ...]] = {}
    for name in raw.columns:
        series = raw[name].dropna()
        if pd.api.types.is_datetime64_any_dtype(series.dtype):
            continue
        if name in shown and pd.api.types.is_numeric_dtype(series.dtype):
            kept = protected[name].dropna()
            series = series[~series.between(kept.min(), kept.max())]
        if values := _texts(series) - surviving:
            found[str(name)] = tuple(sorted(values))
    return Sensitive(found)


@dataclass(frozen=True)
class Sensitive:
    """Values that must not be published, by the column that they come from."""

    values: Mapping[str, tuple[str, ...]]

    def write(self, path: Path) -> None:
        """Into the vault, for the owner alone."""
        path.touch(mode=0o600)
        path.write_text(json.dumps(dict(self.values), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Sensitive:
        """What ``write`` wrote."""
        raw = json.loads(path.read_text(encoding="utf-8"))
        return cls({name: tuple(values) for name, values in raw.items()})

    def searched(self, allowed: str) -> frozenset[str]:
        """Values distinct enough to be searched for in any text, in lower case.

        Args:
            allowed: what the owner has declared for publication; a value in it is no secret.
        """
        known = f"{_own_words()}\n{allowed}".lower()
        listed = {value.lower() for values in self.values.values() for value in values}
        return frozenset(v for v in listed if _distinct(v) and v not in known)

    def cells(self) -> frozenset[str]:
        """Values that no text cell of the synthetic table may equal, once stripped."""
        return frozenset(v.strip() for values in self.values.values() for v in values)


def scan(
    files: Mapping[str, Path],
    texts: Mapping[str, str],
    sensitive: Sensitive,
    allowed: str,
    asked: str = "",
) -> int:
    """Search the artefacts; gives how many values were searched for.

    Args:
        files: name in the release -> file.
        texts: what is written at the commit from facts alone: name -> text.
        sensitive: what must not be there.
        allowed: texts that the owner has declared for publication.
        asked: the text of a request. Reports and cards quote it, so it is allowed there; whoever
            writes it may know a secret, so files of rows are searched for that all the same.

    Raises:
        LeakError: a value stands in an artefact; its name is told, and how many.
    """
    wanted = sensitive.searched(allowed)
    in_rows = _by_word(wanted)
    in_texts = _by_word(sensitive.searched(f"{allowed}\n{asked}")) if asked else in_rows
    cells = sensitive.cells()
    hits: dict[str, int] = {}
    for name, content in (*_texts_of(files), *texts.items()):
        by_word = in_rows if Path(name).suffix in _ROWS else in_texts
        hits[name] = _count(f"{name}\n{content}", by_word)
    for name, path in files.items():
        if path.suffix == ".parquet":
            hits[name] = hits.get(name, 0) + _cells_in(path, cells)
    leaking = {name: count for name, count in hits.items() if count}
    if leaking:
        listed = ", ".join(f"{name} ({count})" for name, count in list(leaking.items())[:5])
        raise LeakError(
            f"no published file may hold a value that protection removed, {len(leaking)} of "
            f"{len(hits)} do: {listed}; nothing was published, report this as a bug"
        )
    return len(wanted | cells)


def count_copies(
    synthetic: Iterable[Data], train: Data, holdout: Data, schema: Schema
) -> tuple[int, float]:
    """Synthetic rows that equal a train row which is there once, and how many are to be expected.

    The synthetic rows may come in parts. The expectation is the share of holdout rows that do:
    nobody has copied those.

    Raises:
        LeakError: there are more than chance explains, whatever the contract says.
    """
    known, counts = np.unique(_row_hashes(train, schema), return_counts=True)
    single = known[counts == 1]
    found = rows = 0
    for part in synthetic:
        found += int(np.isin(_row_hashes(part, schema), single).sum())
        rows += len(part)
    natural = int(np.isin(_row_hashes(holdout, schema), single).sum())
    least, _ = _wilson(found, rows)
    _, most = _wilson(natural, len(holdout))
    if least > _NATURAL_FACTOR * most:
        raise LeakError(
            f"synthetic rows must not be copies, {found} of {rows} equal a real row that "
            f"is there once, and of {len(holdout)} fresh real rows {natural} do; nothing was "
            "published, choose a generator or parameters that copy less"
        )
    return found, natural * rows / max(len(holdout), 1)


def _texts(series: pd.Series) -> set[str]:
    return {_text(value) for value in series.dropna().unique()}


def _text(value: object) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    return repr(value) if isinstance(value, float) else str(value)


def _distinct(value: str) -> bool:
    if len(value) < _MIN_LENGTH or not _WORD.search(value):
        return False
    letters = any(character.isalpha() for character in value)
    return letters or sum(character.isdigit() for character in value) >= _MIN_DIGITS


def _texts_of(files: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    for name, path in files.items():
        if path.suffix == ".parquet":
            file = pq.ParquetFile(path)
            yield name, f"{file.metadata.metadata} {file.schema_arrow.to_string()}"
        else:
            yield name, path.read_bytes().decode("utf-8", errors="ignore")


def _by_word(values: Iterable[str]) -> dict[str, list[str]]:
    """The values by the longest word of each."""
    found: dict[str, list[str]] = defaultdict(list)
    for value in values:
        found[max(_WORD.findall(value), key=len)].append(value)
    return found


def _count(content: str, by_word: Mapping[str, list[str]]) -> int:
    plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), html.unescape(content)).lower()
    candidates = set(_WORD.findall(plain)) & by_word.keys()
    return sum(value in plain for word in candidates for value in by_word[word])


def _cells_in(path: Path, cells: frozenset[str]) -> int:
    file = pq.ParquetFile(path)
    names = [field.name for field in file.schema_arrow if str(field.type) in _TEXT_TYPES]
    found: set[str] = set()
    for batch in file.iter_batches(columns=names) if names else ():
        for column in batch.columns:
            present = column.drop_null().unique().to_pylist()
            found |= {value for value in present if value.strip() in cells}
    return len(found)


_ROWS = frozenset({".parquet", ".csv"})
_TEXT_TYPES = ("string", "large_string", "string_view")


def _row_hashes(data: Data, schema: Schema) -> np.ndarray:
    if isinstance(data, Images):
        # With a row beside it, too, a copied picture is a copy.
        flat = pd.DataFrame({"picture": [image.tobytes() for image in data.pixels]})
        return _hashed(flat.assign(label=data.labels))
    if not isinstance(schema, TableSchema):
        raise LeakError("a table must have a table's schema; report this as a bug")
    return _hashed(data[[column.name for column in schema.modelled]])


def _hashed(frame: pd.DataFrame) -> np.ndarray:
    plain = frame.copy()
    for name in plain.columns:
        if pd.api.types.is_float_dtype(plain[name].dtype):
            plain[name] = plain[name] + 0.0  # -0.0 equals 0.0
    hashes: np.ndarray = pd.util.hash_pandas_object(plain, index=False).to_numpy()
    return hashes


def _wilson(successes: int, n: int) -> tuple[float, float]:
    """Score interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    z, share = _STANDARD_ERRORS, successes / n
    middle = share + z * z / (2 * n)
    room = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - room) / scale), min(1.0, (middle + room) / scale)


@cache
def _own_words() -> str:
    """What stands in reports without any data: the texts of Likeness and of the evidence pages."""
    root = Path(__file__).resolve().parents[2]
    folders = [root / name for name in ("generators", "validators", "pipelines")]
    found = importlib.util.find_spec("great_expectations")
    if found is not None and found.origin is not None:
        folders.append(Path(found.origin).parent / "render")
    kinds = {".py", ".yaml", ".json", ".j2", ".css", ".js", ".html"}
    files = (f for folder in folders for f in sorted(folder.rglob("*")) if f.suffix in kinds)
    return "\n".join(file.read_text(encoding="utf-8", errors="ignore") for file in files)
