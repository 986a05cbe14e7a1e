"""What a dataset is: columns and their kinds, or the shape and classes of images.

A schema that was inferred holds real category names and ranges: it stays in the vault. What is
published is the declared part only (name, kind, dtype, nullable, description).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias, get_args

import numpy as np
import pandas as pd

from .dtypes import dtype_name, pandas_dtype, plain

Kind = Literal["numerical", "categorical", "boolean", "datetime", "text", "id"]
KINDS: tuple[str, ...] = get_args(Kind)
Level: TypeAlias = str | int | float | bool

MICROSECONDS_PER_DAY = 86_400_000_000
_ID_NAME = re.compile(r"(^|_|\b)(id|uuid|guid|key|pk)$", re.IGNORECASE)
# A string column is text, not a category, when most of its values are seen once or nearly so.
_TEXT_MIN_DISTINCT = 50
_TEXT_SHARE = 0.5


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        name: its name.
        kind: what its values mean; decides how it is encoded and measured.
        dtype: name of the dtype that samples must have, e.g. ``int64``, ``Int64``, ``object``;
            ``dtypes.dtype_name`` gives it.
        nullable: whether values may be missing.
        levels: distinct values of a categorical or boolean column, sorted or, for an ordered
            category, in its order; else empty.
        low: smallest value of a numerical or datetime column (datetimes in microseconds).
        high: largest value, likewise.
        step: the grid on which all values lie (1 for integers, 0.01 for cents, a day in
            microseconds for dates), or None for a continuous column.
        description: for the people who read the dataset.
        stored: the Arrow type that a published table has here; empty where ``dtype`` tells it.
    """

    name: str
    kind: Kind
    dtype: str
    nullable: bool = False
    levels: tuple[Level, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    description: str = ""
    stored: str = ""

    @property
    def discrete(self) -> bool:
        """Whether the column has levels rather than a range."""
        return self.kind in ("categorical", "boolean")

    @property
    def modelled(self) -> bool:
        """Whether generators learn it; ids and text are replaced, never learned."""
        return self.kind not in ("id", "text")


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table, which one is predicted, and which ones are protected groups."""

    columns: tuple[Column, ...]
    target: str | None = None
    protected: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    @property
    def modelled(self) -> tuple[Column, ...]:
        """The columns that generators learn and validators measure."""
        return tuple(column for column in self.columns if column.modelled)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def empty_frame(self) -> pd.DataFrame:
        """A frame of no rows with the schema's columns and dtypes."""
        return pd.DataFrame(
            {c.name: pd.Series([], dtype=pandas_dtype(c.dtype)) for c in self.columns},
            columns=list(self.names),
        )

    @classmethod
    def infer(
        cls,
        frame: pd.DataFrame,
        *,
        kinds: Mapping[str, str] | None = None,
        target: str | None = None,
        protected: Iterable[str] = (),
    ) -> Self:
        """The schema of ``frame``; ``kinds`` overrides what is inferred.

        Args:
            frame: the data; not modified.
            kinds: column name -> kind, where the owner has declared it.
            target: the column that models trained on this data would predict.
            protected: columns of protected groups.
        """
        declared = kinds or {}
        columns = tuple(
            infer_column(str(name), frame[name], declared.get(str(name))) for name in frame.columns
        )
        return cls(columns=columns, target=target, protected=tuple(protected))

    def to_json(self) -> str:
        """JSON text; ``from_json`` is the inverse."""
        return json.dumps({"table": dataclasses.asdict(self)}, ensure_ascii=False)


@dataclass(frozen=True)
class ImageSchema:
    """Images of one size with a class each.

    Attributes:
        height, width: in pixels.
        channels: 1 grey, 3 RGB, 4 RGBA.
        classes: class names; label i means ``classes[i]``. One class where there are no labels.
        table: the columns that stand beside the images, where there are any.
        label: the one of them that is the class of the image; "" without a table.
    """

    height: int
    width: int
    channels: int
    classes: tuple[str, ...] = ("all",)
    table: TableSchema | None = None
    label: str = ""

    @property
    def labelled(self) -> bool:
        """Whether there is more than one class."""
        return len(self.classes) > 1

    def to_json(self) -> str:
        """JSON text; ``from_json`` is the inverse."""
        return json.dumps({"image": dataclasses.asdict(self)}, ensure_ascii=False)


@dataclass(frozen=True)
class Images:
    """Images and their labels.

    Attributes:
        pixels: uint8, shape (N, H, W, C).
        labels: int64, shape (N,), indices into ``ImageSchema.classes``.
        rows: the row of each image, where the schema has a table; its index is 0 to N - 1.
        traits: numbers that say what a row says to a family that makes images of them, float32,
            shape (N, F); all zeros where nothing of the row is known.
    """

    pixels: np.ndarray
    labels: np.ndarray
    rows: pd.DataFrame | None = None
    traits: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> Images:
        """The images at these row numbers."""
        beside = None if self.rows is None else self.rows.iloc[rows].reset_index(drop=True)
        traits = None if self.traits is None else self.traits[rows]
        return Images(self.pixels[rows], self.labels[rows], beside, traits)


Schema: TypeAlias = TableSchema | ImageSchema
Data: TypeAlias = pd.DataFrame | Images


def schema_from_json(text: str) -> Schema:
    """The schema that ``to_json`` wrote.

    Raises:
        ValueError: the text is not such a schema.
    """
    raw: dict[str, Any] = json.loads(text)
    if "table" in raw:
        return _table_of(raw["table"])
    if "image" in raw:
        image = raw["image"]
        table = _table_of(image["table"]) if image.get("table") else None
        return ImageSchema(**{**image, "classes": tuple(image["classes"]), "table": table})
    raise ValueError("a schema must hold 'table' or 'image'; the file is of another kind")


def _table_of(raw: Mapping[str, Any]) -> TableSchema:
    columns = tuple(Column(**{**c, "levels": tuple(c["levels"])}) for c in raw["columns"])
    return TableSchema(columns, raw["target"], tuple(raw["protected"]))


def infer_column(name: str, series: pd.Series, declared: str | None = None) -> Column:
    """The column that describes ``series``; ``declared`` is the owner's word on its kind."""
    _check_cells(name, series)
    dtype, series = dtype_name(series), plain(series)
    kind = _as_kind(declared) if declared else infer_kind(name, series)
    present = series.dropna()
    nullable = len(present) < len(series)
    if kind in ("categorical", "boolean"):
        return Column(name, kind, dtype, nullable, levels=sorted_levels(present))
    if kind in ("numerical", "datetime"):
        numbers = to_numbers(present)
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers) == 0:
            return Column(name, kind, dtype, nullable=True)
        return Column(
            name,
            kind,
            dtype,
            nullable,
            low=float(numbers.min()),
            high=float(numbers.max()),
            step=infer_step(numbers, kind),
        )
    if isinstance(series.dtype, pd.CategoricalDtype):
        # The surrogates of an id or text are none of its categories.
        dtype = dtype_name(series.dtype.categories.to_series())
    return Column(name, kind, dtype, nullable)


def _check_cells(name: str, series: pd.Series) -> None:
    """Raise ValueError where cells are no single values: bytes, complex numbers, lists."""
    held = "complex numbers" if series.dtype.kind == "c" else ""
    if series.dtype == object:
        inferred = pd.api.types.infer_dtype(series, skipna=True)
        held = {"bytes": "bytes", "complex": "complex numbers"}.get(inferred, held)
        if inferred == "mixed" and not series.dropna().map(pd.api.types.is_scalar).all():
            held = "lists or other objects"
    if held:
        raise ValueError(
            f"column {name!r} must hold numbers, text, booleans, dates or times, it holds {held}; "
            "convert it or leave it out"
        )


def infer_kind(name: str, series: pd.Series) -> Kind:
    """The kind that the values of ``series`` suggest."""
    series = plain(series)
    if pd.api.types.is_bool_dtype(series.dtype):
        return "boolean"
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return "datetime"
    present = series.dropna()
    distinct = int(present.nunique())
    unique = distinct == len(present) and distinct > _TEXT_MIN_DISTINCT
    if pd.api.types.is_numeric_dtype(series.dtype):
        if pd.api.types.is_integer_dtype(series.dtype) and unique and _looks_like_id(name, present):
            return "id"
        return "categorical" if 0 < distinct <= 2 else "numerical"
    if unique and _ID_NAME.search(name):
        return "id"
    if distinct > _TEXT_MIN_DISTINCT and distinct > _TEXT_SHARE * len(present):
        return "text"
    return "categorical"


def to_numbers(series: pd.Series) -> np.ndarray:
    """Float64 values of a numerical or datetime series; NaN is missing.

    Moments are microseconds, durations and times of day are seconds.
    """
    series = plain(series)
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        naive = series.dt.tz_convert("UTC").dt.tz_localize(None) if series.dt.tz else series
        micro = naive.astype("datetime64[us]")
        numbers = micro.astype("int64").to_numpy().astype(np.float64)
        return np.where(series.isna().to_numpy(), np.nan, numbers)
    return pd.to_numeric(series).to_numpy(dtype=np.float64, na_value=np.nan)


def infer_step(numbers: np.ndarray, kind: str) -> float | None:
    """The coarsest grid from a fixed list on which all finite ``numbers`` lie, or None."""
    sample = numbers[:: max(1, len(numbers) // 50_000)]
    if kind == "datetime":
        for step in (MICROSECONDS_PER_DAY, 3_600_000_000, 60_000_000, 1_000_000, 1_000):
            if np.all(np.mod(sample, step) == 0):
                return float(step)
        return 1.0
    for decimals in range(7):
        scaled = sample * 10.0**decimals
        if np.all(np.abs(scaled - np.round(scaled)) <= 1e-9 * np.maximum(1.0, np.abs(scaled))):
            return 10.0**-decimals
    return None


def sorted_levels(present: pd.Series) -> tuple[Level, ...]:
    """Distinct values in a stable order, as plain Python objects."""
    if isinstance(present.dtype, pd.CategoricalDtype) and present.dtype.ordered:
        used = present.cat.remove_unused_categories().cat.categories
        return tuple(_plain(value) for value in used)
    values = [_plain(value) for value in present.unique()]
    return tuple(sorted(values, key=lambda value: (isinstance(value, str), value)))


def _plain(value: object) -> Level:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    return str(value)


def _looks_like_id(name: str, present: pd.Series) -> bool:
    if _ID_NAME.search(name):
        return True
    return bool(int(present.max()) - int(present.min()) == len(present) - 1)


def _as_kind(text: str) -> Kind:
    if text not in KINDS:
        raise ValueError(f"a column's kind must be one of {', '.join(KINDS)}; got {text!r}")
    return text  # type: ignore[return-value]
