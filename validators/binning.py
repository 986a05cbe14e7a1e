"""A comparison's tables as cells and numbers, encoded once for all validators.

Bins, ranges and category lists come from the real data (train and holdout together) alone: what
is judged never sets its own yardstick. Ids and free text are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from generators.base import SchemaError
from generators.schema import Column, TableSchema, to_numbers

BINS = 50
COARSE_BINS = 12
# Beyond this many robust ranges a number says "absurd"; float32 distances stay finite.
_FAR = 1e6


@dataclass(frozen=True)
class TableView:
    """One of the three tables, encoded; row i is row i of the frame (its index is ignored).

    Attributes:
        codes: int32 (N, D): the cell of each value, one column per modelled column.
        numbers: float32 (N, D_num): numerical and datetime columns, robustly scaled, missing 0.
        missing: bool (N, D_num): where ``numbers`` has no value.
        categories: int32 (N, D_cat): categorical and boolean columns, one code per level, never
            lumped; see ``TableEncoding.category_sizes`` for the last two codes.
        rows: uint64 (N,): equal exactly where all modelled cells of two rows are equal (floats on
            the column's step), in whichever of the three tables; for joins of exact copies.
    """

    codes: np.ndarray
    numbers: np.ndarray
    missing: np.ndarray
    categories: np.ndarray
    rows: np.ndarray

    @property
    def cells(self) -> np.ndarray:
        """The exact identity of each row: another name of ``rows``."""
        return self.rows

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: np.ndarray) -> TableView:
        """The view of these row numbers."""
        return TableView(
            self.codes[rows],
            self.numbers[rows],
            self.missing[rows],
            self.categories[rows],
            self.rows[rows],
        )


@dataclass(frozen=True)
class TableEncoding:
    """Train, holdout and synthetic tables in the same cells and on the same scale.

    Cells of a column, in this order: a cell per level (the frequent ones) or per spike; a cell
    per quantile bin, or one for the remaining levels; one cell for values the real data do not
    have; one for missing values. So ``sizes[j] - 1`` is missing and ``sizes[j] - 2`` is unseen.

    ``numbers`` are (x - median) / (99 % quantile - 1 % quantile) of train and holdout together, so
    that an L1 distance over ``numbers`` plus a mismatch of ``categories`` is Gower-like: where one
    side is missing a number count 1, where both are count 0.

    Attributes:
        columns: the modelled columns, in order of ``codes``.
        sizes: int64 (D,): number of cells of each column.
        number_columns: positions in ``columns`` of the columns of ``numbers``.
        category_columns: positions in ``columns`` of the columns of ``categories``.
        category_sizes: int64 (D_cat,): number of codes of each column of ``categories``; the last
            is missing, the one before it is a level that the real data do not have.
    """

    columns: tuple[Column, ...]
    sizes: np.ndarray
    number_columns: tuple[int, ...]
    category_columns: tuple[int, ...]
    category_sizes: np.ndarray
    train: TableView
    holdout: TableView
    synthetic: TableView

    def position(self, name: str) -> int:
        """The column of ``codes`` that holds the column of this name.

        Raises:
            KeyError: it is not a modelled column.
        """
        for position, column in enumerate(self.columns):
            if column.name == name:
                return position
        raise KeyError(name)


def encode(
    train: pd.DataFrame,
    holdout: pd.DataFrame,
    synthetic: pd.DataFrame,
    schema: TableSchema,
    bins: int = BINS,
) -> TableEncoding:
    """The three tables, encoded with at most about ``bins`` cells per column.

    Raises:
        SchemaError: a table lacks a modelled column.
    """
    frames = {"train": train, "holdout": holdout, "synthetic": synthetic}
    _check_columns(frames, schema)
    tables: dict[str, _Parts] = {name: _Parts(len(frame)) for name, frame in frames.items()}
    sizes: list[int] = []
    category_sizes: list[int] = []
    numeric: list[int] = []
    categorical: list[int] = []
    for position, column in enumerate(schema.modelled):
        series = {name: frame[column.name] for name, frame in frames.items()}
        if column.discrete:
            categorical.append(position)
            category_sizes.append(_add_levels(tables, series, bins, sizes))
        else:
            numeric.append(position)
            _add_numbers(tables, series, column, bins, sizes)
    views = {name: parts.view() for name, parts in tables.items()}
    return TableEncoding(
        columns=schema.modelled,
        sizes=np.array(sizes, dtype=np.int64),
        number_columns=tuple(numeric),
        category_columns=tuple(categorical),
        category_sizes=np.array(category_sizes, dtype=np.int64),
        train=views["train"],
        holdout=views["holdout"],
        synthetic=views["synthetic"],
    )


class _Parts:
    """The columns of a view while they are collected."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.codes: list[np.ndarray] = []
        self.numbers: list[np.ndarray] = []
        self.missing: list[np.ndarray] = []
        self.categories: list[np.ndarray] = []
        self.rows = np.zeros(length, dtype=np.uint64)

    def add_identity(self, values: np.ndarray) -> None:
        """Mix one column's exact values (64-bit) into the identity of the rows."""
        hashed = pd.util.hash_array(values.view(np.uint64))
        # An odd multiplier keeps the mix a bijection in each column and makes the order matter.
        self.rows = self.rows * np.uint64(0x9E3779B97F4A7C15) + hashed

    def view(self) -> TableView:
        return TableView(
            _stack(self.codes, self.length, np.int32, "F"),
            _stack(self.numbers, self.length, np.float32),
            _stack(self.missing, self.length, np.bool_),
            _stack(self.categories, self.length, np.int32),
            self.rows,
        )


def _add_levels(
    tables: dict[str, _Parts], series: dict[str, pd.Series], bins: int, sizes: list[int]
) -> int:
    """Encode a column of levels in all tables; its number of category codes."""
    found = {name: _factorized(values) for name, values in series.items()}
    counts: dict[object, int] = {}
    for positions, uniques in (found["train"], found["holdout"]):
        for level, count in zip(uniques, np.bincount(positions + 1)[1:].tolist(), strict=True):
            counts[level] = counts.get(level, 0) + count
    falling = pd.Series(counts.values(), pd.Index(list(counts), dtype=object), dtype=np.int64)
    levels = falling.sort_values(ascending=False).index
    lookup = {_plain(level): code for code, level in enumerate(levels)}
    kept = len(lookup) if len(lookup) <= bins else bins - 1
    lumped = len(lookup) > kept
    sizes.append(kept + lumped + 2)
    unseen, missing = len(lookup), len(lookup) + 1
    # Levels come by falling frequency, so the lumped ones are exactly the last codes.
    cells = np.minimum(np.arange(len(lookup) + 2), kept)
    cells[unseen], cells[missing] = kept + lumped, kept + lumped + 1
    for name, parts in tables.items():
        codes, exact = _level_codes(*found[name], lookup)
        parts.categories.append(codes)
        parts.codes.append(cells[codes])
        parts.add_identity(exact)
    return len(lookup) + 2


def _factorized(series: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """The position of each value among the distinct ones, -1 where it is missing, and these."""
    values = series if series.dtype == object else series.astype(object)
    positions, uniques = pd.factorize(values, use_na_sentinel=True)
    return positions, np.asarray(uniques, dtype=object)


def _level_codes(
    positions: np.ndarray, uniques: np.ndarray, lookup: dict[object, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the levels, and 64-bit identities that keep unseen levels apart."""
    unseen, missing = len(lookup), len(lookup) + 1
    codes, exact = [], []
    for value in uniques:
        plain = _plain(value)
        code = lookup.get(plain, lookup.get(str(plain), unseen))
        codes.append(code)
        exact.append(code if code != unseen else _hash_text(str(plain)))
    of_code = np.array([*codes, missing], dtype=np.int32)
    of_exact = np.array([*exact, missing], dtype=np.int64)
    return of_code[positions], of_exact[positions]


def _hash_text(text: str) -> int:
    """A 63-bit hash, far above every code."""
    return int(pd.util.hash_array(np.array([text], dtype=object))[0] >> np.uint64(1))


def _add_numbers(
    tables: dict[str, _Parts],
    series: dict[str, pd.Series],
    column: Column,
    bins: int,
    sizes: list[int],
) -> None:
    """Encode a numerical or datetime column in all tables."""
    numbers = {name: to_numbers(values) for name, values in series.items()}
    real = np.concatenate([numbers["train"], numbers["holdout"]])
    # Sorted once: distinct values and all quantiles are read off it.
    ordered = np.sort(real[np.isfinite(real)])
    cells = _NumberCells.fit(ordered, bins)
    centre, width = _robust_range(ordered)
    sizes.append(cells.size)
    for name, parts in tables.items():
        values = numbers[name]
        missing = np.isnan(values)
        with np.errstate(over="ignore"):
            scaled = (np.where(missing, centre, values) - centre) / width
        parts.codes.append(cells.encode(values))
        parts.numbers.append(np.clip(scaled, -_FAR, _FAR))
        parts.missing.append(missing)
        parts.add_identity(_canonical(values, column))


@dataclass(frozen=True)
class _NumberCells:
    """Cells of a number: spikes, then quantile bins of the rest, then unseen, then missing."""

    spikes: np.ndarray
    edges: np.ndarray
    binned: bool

    @property
    def size(self) -> int:
        return len(self.spikes) + (len(self.edges) + 1 if self.binned else 0) + 2

    @classmethod
    def fit(cls, ordered: np.ndarray, bins: int) -> _NumberCells:
        """Cells for these finite numbers, sorted."""
        starts = np.flatnonzero(np.diff(ordered, prepend=-np.inf) > 0)
        values, counts = ordered[starts], np.diff(starts, append=len(ordered))
        if len(values) <= bins:
            return cls(values, np.empty(0), binned=False)
        # A value that would fill a quantile bin on its own is a spike; it leaves the bins.
        frequent = counts > len(ordered) / bins
        rest = ordered[np.repeat(~frequent, counts)]
        inner = max(2, bins - int(frequent.sum()))
        edges = np.unique(_quantiles(rest, np.arange(1, inner) / inner))
        return cls(values[frequent], edges, binned=True)

    def encode(self, numbers: np.ndarray) -> np.ndarray:
        count = len(self.spikes)
        unseen, missing = self.size - 2, self.size - 1
        if self.binned:
            codes = count + np.searchsorted(self.edges, numbers, side="left")
            codes[np.isinf(numbers)] = unseen
        else:
            codes = np.full(len(numbers), unseen)
        if count:
            at = np.minimum(np.searchsorted(self.spikes, numbers), count - 1)
            exact = self.spikes[at] == numbers
            codes[exact] = at[exact]
        codes[np.isnan(numbers)] = missing
        return codes


def _robust_range(ordered: np.ndarray) -> tuple[float, float]:
    """Median and 1-99 % range of sorted numbers; the full range, else 1, where that is empty."""
    if len(ordered) == 0:
        return 0.0, 1.0
    low, centre, high = _quantiles(ordered, np.array([0.01, 0.5, 0.99]))
    width = float(high - low) or float(ordered[-1] - ordered[0]) or 1.0
    return float(centre), width


def _quantiles(ordered: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """As ``np.quantile`` gives them, of numbers that are sorted already."""
    at = (len(ordered) - 1) * probabilities
    below = np.floor(at).astype(np.int64)
    # Linear between the two neighbours, from the nearer one, so that rounding is the same.
    a, b = ordered[below], ordered[np.minimum(below + 1, len(ordered) - 1)]
    part, step = at - below, b - a
    values: np.ndarray = np.where(part < 0.5, a + step * part, b - step * (1 - part))
    return values


def _canonical(numbers: np.ndarray, column: Column) -> np.ndarray:
    """Float64 values on the column's grid, one bit pattern per value (no -0, one NaN)."""
    values = numbers
    if column.step is not None:
        values = np.round(numbers / column.step)
    elif column.dtype.lower() == "float32":
        values = numbers.astype(np.float32).astype(np.float64)
    return np.where(np.isnan(values), np.nan, values + 0.0)


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value


def _stack(
    columns: list[np.ndarray],
    length: int,
    dtype: type[np.generic],
    order: Literal["C", "F"] = "C",
) -> np.ndarray:
    # Cells are counted by column, numbers are compared by row.
    stacked = np.empty((length, len(columns)), dtype=dtype, order=order)
    for position, column in enumerate(columns):
        stacked[:, position] = column
    return stacked


def _check_columns(frames: dict[str, pd.DataFrame], schema: TableSchema) -> None:
    for name, frame in frames.items():
        absent = [column.name for column in schema.modelled if column.name not in frame.columns]
        if absent:
            raise SchemaError(
                f"the {name} table must have the schema's columns, it lacks {absent}; add them"
            )
        for column in schema.modelled:
            series = frame[column.name]
            if column.kind not in ("numerical", "datetime") or series.dtype.kind in "biufM":
                continue
            try:
                to_numbers(series)
            except (TypeError, ValueError):
                # Without its cause: the message of pandas quotes the cell.
                raise SchemaError(
                    f"column {column.name!r} of the {name} table must be {column.kind}, it holds "
                    f"{series.dtype} that is none; convert it"
                ) from None
