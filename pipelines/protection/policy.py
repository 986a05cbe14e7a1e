"""Rare categories are merged, extremes clipped, identifiers replaced: fitted on train alone.

Sources: the k-subjects rule of statistical disclosure control (ONS, CMS: k = 10-11), top and
bottom coding (Hundepool et al., Statistical Disclosure Control, 2012, ch. 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from generators.base import DataError, ParameterError
from generators.schema import KINDS, infer_kind, to_numbers

from ..spec import DatasetSpec
from .detection import looks_personal

OTHER = "__OTHER__"


@dataclass(frozen=True)
class Protection:
    """What protection does to each column.

    Attributes:
        kinds: kind of each column, after detection and declaration.
        kept: category names that are kept, by categorical text column; others become ``OTHER``.
        bounds: smallest and largest value that is kept, by numerical or datetime column.
        personal: what was detected, by column.
        notes: one sentence an effect, without any value, for the report.
    """

    kinds: Mapping[str, str]
    kept: Mapping[str, tuple[str, ...]]
    bounds: Mapping[str, tuple[float, float]]
    personal: Mapping[str, str]
    notes: tuple[str, ...]

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A protected copy of ``frame``."""
        protected = frame.copy()
        for name, kept in self.kept.items():
            column = protected[name]
            rare = column.notna() & ~column.isin(kept)
            protected[name] = column.mask(rare, OTHER)
        for name, (low, high) in self.bounds.items():
            protected[name] = _clip(protected[name], low, high)
        return protected

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary for the vault (it holds category names and bounds)."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Self:
        """The protection that ``to_json`` wrote."""
        return cls(
            kinds=raw["kinds"],
            kept={name: tuple(kept) for name, kept in raw["kept"].items()},
            bounds={name: (low, high) for name, (low, high) in raw["bounds"].items()},
            personal=raw["personal"],
            notes=tuple(raw["notes"]),
        )


def fit_protection(train: pd.DataFrame, spec: DatasetSpec) -> Protection:
    """The protection that the train rows ask for.

    Raises:
        DataError: a text column nobody has declared, or personal data where the spec refuses it.
    """
    kinds, personal = _kinds(train, spec)
    kept: dict[str, tuple[str, ...]] = {}
    bounds: dict[str, tuple[float, float]] = {}
    notes = [
        f"{name}: recognised as {what}; replaced by surrogates" for name, what in personal.items()
    ]
    k = spec.protection.k
    for name, kind in kinds.items():
        if kind == "categorical" and not pd.api.types.is_numeric_dtype(train[name].dtype):
            counts = train[name].value_counts()
            # Also where nothing is rare: the holdout may hold levels that train has not.
            kept[name] = tuple(sorted(str(level) for level in counts.index[counts >= k]))
            if (counts < k).any():
                notes.append(
                    f"{name}: {int((counts < k).sum())} categories of fewer than {k} rows "
                    f"({int(counts[counts < k].sum())} rows) merged into {OTHER}"
                )
        elif kind in ("numerical", "datetime") and k > 1:
            found = _extremes(train[name], k)
            if found is not None:
                bounds[name] = found[:2]
                notes.append(f"{name}: {found[2]} extreme values clipped (k = {k})")
    return Protection(kinds, kept, bounds, personal, tuple(notes))


def check_declared(frame: pd.DataFrame, kinds: Mapping[str, str]) -> None:
    """Raise unless columns of ``frame`` can be what they are declared to be.

    Raises:
        ParameterError: there is no such kind.
        DataError: a column cannot be of its kind; its name is told, no value.
    """
    for name, kind in kinds.items():
        if kind not in KINDS:
            raise ParameterError(
                f"a column's kind must be one of {', '.join(KINDS)}, {name!r} is declared "
                f"{kind!r}; correct the declaration"
            )
        series = frame[name]
        dates = pd.api.types.is_datetime64_any_dtype(series.dtype)
        numbers = pd.api.types.is_numeric_dtype(series.dtype)
        fits = {
            "numerical": numbers and not pd.api.types.is_bool_dtype(series.dtype),
            "datetime": dates,
            "boolean": not dates and series.nunique() <= 2,
        }
        if not fits.get(kind, True) and series.notna().any():
            holds = "dates" if dates else "numbers" if numbers else "text"
            raise DataError(
                f"column {name!r} is declared {kind}, but it holds {holds}; declare it "
                "categorical, or clean it"
            )


def _kinds(train: pd.DataFrame, spec: DatasetSpec) -> tuple[dict[str, str], dict[str, str]]:
    declared_kinds = {n: c.kind for n, c in spec.columns.items() if c.kind and n in train.columns}
    check_declared(train, declared_kinds)
    kinds: dict[str, str] = {}
    personal: dict[str, str] = {}
    undeclared: list[str] = []
    for name in train.columns:
        declared = declared_kinds.get(name)
        kinds[name] = declared or infer_kind(name, train[name])
        if declared is not None:
            continue
        if spec.entity == (name,):
            # A single key names a subject; several columns together only describe one.
            kinds[name] = "id"
            continue
        detected = looks_personal(train[name])
        if detected is not None:
            personal[name] = detected
            kinds[name] = "id"
        elif kinds[name] == "text":
            undeclared.append(name)
    if personal and spec.protection.pii == "refuse":
        listed = ", ".join(f"{name!r} ({what})" for name, what in personal.items())
        raise DataError(
            f"the declaration refuses personal identifiers, found {listed}; "
            "drop these columns or set protection.pii to replace"
        )
    if undeclared:
        listed = ", ".join(repr(name) for name in undeclared)
        raise DataError(
            f"a text column of mostly unique values must be declared: {listed}; "
            "use --kind NAME=text (replaced by placeholders), --kind NAME=categorical, or "
            "--drop NAME"
        )
    return kinds, personal


def _extremes(series: pd.Series, k: int) -> tuple[float, float, int] | None:
    numbers = to_numbers(series)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    if len(numbers) < 2 * k:
        return None
    low, high = float(numbers[k - 1]), float(numbers[-k])
    clipped = int(((numbers < low) | (numbers > high)).sum())
    return (low, high, clipped) if clipped else None


def _clip(series: pd.Series, low: float, high: float) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        bounds = pd.to_datetime([int(low), int(high)], unit="us")
        clipped: pd.Series = series.mask(series < bounds[0], bounds[0])
        return clipped.mask(clipped > bounds[1], bounds[1])
    if pd.api.types.is_integer_dtype(series.dtype):
        return series.clip(int(low), int(high))
    return series.clip(low, high)
