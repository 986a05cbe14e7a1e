"""Rare categories are merged, extremes clipped, identifiers replaced: fitted on train alone.

Sources: the k-subjects rule of statistical disclosure control (ONS, CMS: k = 10-11), top and
bottom coding (Hundepool et al., Statistical Disclosure Control, 2012, ch. 3).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from generators.base import DataError, ParameterError
from generators.schema import KINDS, infer_kind, to_numbers

from ..spec import DatasetSpec
from .detection import BIRTH, PLACE, looks_personal
from .fake import checked_provider, provider_of

OTHER = "__OTHER__"
MASKED = "***"
# A column of so many different texts, most of them seen less often than this, is no category.
_FEW_LEVELS, _RARE = 50, 5
_UNLEARNED = ("drop", "fake", "replace")


@dataclass(frozen=True)
class Protection:
    """What protection does to each column.

    Attributes:
        kinds: kind of each column that remains, after detection and declaration.
        kept: category names that are kept, by categorical text column; others become ``OTHER``.
        codes: codes that are kept, by categorical number column; others become the nearest one.
        bounds: smallest and largest value that is kept, by numerical or datetime column.
        masked: columns of which only what does not identify is kept.
        fakes: Faker's provider of the values that take the place of sampled ones, by column.
        dropped: columns that are left out because of their values.
        personal: what was detected, by column.
        notes: one sentence an effect, without any value, for the report.
    """

    kinds: Mapping[str, str]
    kept: Mapping[str, tuple[str, ...]]
    codes: Mapping[str, tuple[float, ...]]
    bounds: Mapping[str, tuple[float, float]]
    masked: tuple[str, ...]
    fakes: Mapping[str, str]
    dropped: tuple[str, ...]
    personal: Mapping[str, str]
    notes: tuple[str, ...]

    def apply(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A protected copy of ``frame``."""
        protected = frame.drop(columns=list(self.dropped))
        for name in self.masked:
            protected[name] = mask(protected[name])
        for name, kept in self.kept.items():
            column = protected[name]
            rare = column.notna() & ~column.isin(kept)
            protected[name] = column.mask(rare, OTHER)
        for name, codes in self.codes.items():
            protected[name] = _nearest(protected[name], codes)
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
            codes={name: tuple(codes) for name, codes in raw["codes"].items()},
            bounds={name: (low, high) for name, (low, high) in raw["bounds"].items()},
            masked=tuple(raw["masked"]),
            fakes=raw["fakes"],
            dropped=tuple(raw["dropped"]),
            personal=raw["personal"],
            notes=tuple(raw["notes"]),
        )


def fit_protection(
    train: pd.DataFrame, spec: DatasetSpec, subjects: np.ndarray | None = None
) -> Protection:
    """The protection that the train rows ask for.

    Args:
        train: the rows that are learned from.
        spec: what the owner declares.
        subjects: a number per row, equal for rows of one subject; every row is one by default.

    Raises:
        DataError: a text column nobody has declared, or personal data where the spec refuses it.
    """
    of_row = np.arange(len(train)) if subjects is None else subjects
    actions, personal = _actions(train, spec)
    dropped = tuple(name for name, action in actions.items() if action == "drop")
    masked = tuple(name for name, action in actions.items() if action == "mask")
    seen = train.drop(columns=list(dropped))
    for name in masked:
        seen[name] = mask(seen[name])
    kinds = _kinds(seen, spec, actions)
    notes = [_told(train[name], action, personal.get(name)) for name, action in actions.items()]
    kept: dict[str, tuple[str, ...]] = {}
    codes: dict[str, tuple[float, ...]] = {}
    bounds: dict[str, tuple[float, float]] = {}
    k = spec.protection.k
    for name, kind in kinds.items():
        if kind == "categorical":
            note = _keep_frequent(seen[name], of_row, k, kept, codes)
            notes.extend([note] if note else [])
        elif kind in ("numerical", "datetime") and k > 1:
            found = _extremes(seen[name], k * spec.protection.rows_per_subject)
            if found is not None:
                bounds[name] = found[:2]
                notes.append(f"{name}: {found[2]} extreme values clipped (k = {k})")
    fakes = {
        name: _provider(spec, name, personal.get(name))
        for name, action in actions.items()
        if action == "fake"
    }
    return Protection(kinds, kept, codes, bounds, masked, fakes, dropped, personal, tuple(notes))


def mask(series: pd.Series) -> pd.Series:
    """What of a column identifies nobody: the year of a date, degrees to 0.1, of text nothing."""
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        years = series.dt.tz_localize(None) if series.dt.tz is not None else series
        floored = years.dt.to_period("Y").dt.to_timestamp().astype("datetime64[us]")
        whole: pd.Series = floored.dt.tz_localize(series.dt.tz) if series.dt.tz else floored
        return whole
    if pd.api.types.is_float_dtype(series.dtype):
        return series.round(1)
    if pd.api.types.is_numeric_dtype(series.dtype):
        return series.where(series.isna(), 0)
    return series.mask(series.notna(), MASKED)


def _keep_frequent(
    series: pd.Series,
    subjects: np.ndarray,
    k: int,
    kept: dict[str, tuple[str, ...]],
    codes: dict[str, tuple[float, ...]],
) -> str | None:
    """Note which levels of a category enough subjects have; gives the sentence for the report."""
    name = str(series.name)
    numeric = pd.api.types.is_numeric_dtype(series.dtype)
    present = series.notna().to_numpy()
    levels = series[present].to_numpy()
    pairs = pd.DataFrame({"level": levels, "subject": subjects[present]}).drop_duplicates()
    counts = pairs["level"].value_counts()
    frequent = counts.index[counts >= k]
    if numeric:
        # Of two codes neither can stand for the other.
        if len(counts) <= 2 or len(frequent) in (0, len(counts)):
            return None
        codes[name] = tuple(sorted(float(level) for level in frequent))
    else:
        # Also where nothing is rare: the holdout may hold levels that train has not.
        kept[name] = tuple(sorted(str(level) for level in frequent))
    rare = counts[counts < k]
    if rare.empty:
        return None
    into = "the nearest frequent code" if numeric else OTHER
    rows = int(series.isin(rare.index).sum())
    what = f"{len(rare)} categories of fewer than {k} subjects ({rows} rows)"
    return f"{name}: {what} merged into {into}"


def _actions(
    train: pd.DataFrame, spec: DatasetSpec
) -> tuple[dict[str, Literal["drop", "mask", "fake", "keep", "replace"]], dict[str, str]]:
    """What happens to each column that is declared so or looks personal, and what it looks like."""
    actions: dict[str, Literal["drop", "mask", "fake", "keep", "replace"]] = {}
    personal: dict[str, str] = {}
    refused: list[str] = []
    for name in train.columns:
        declared = spec.columns.get(name)
        policy = declared.policy if declared else None
        if policy is None and ((declared and declared.kind) or spec.entity == (name,)):
            continue
        if detected := looks_personal(train[name]):
            personal[name] = detected
        if policy is not None:
            actions[name] = policy
        elif detected and spec.protection.pii == "refuse":
            refused.append(f"{name!r} ({detected})")
        elif detected:
            actions[name] = _default(train[name], detected, spec)
    roles = [n for n in (spec.target, *spec.protected) if actions.get(n or "") in _UNLEARNED]
    if roles:
        listed = ", ".join(f"{n!r} ({personal.get(str(n), 'by its policy')})" for n in roles)
        raise DataError(
            f"a target or protected column must be learned, {listed} would not be; declare it with "
            "--policy NAME=keep, or choose another column"
        )
    if refused:
        raise DataError(
            f"the declaration refuses personal identifiers, found {', '.join(refused)}; declare "
            "each with --policy NAME=drop, mask, fake or keep, or set protection.pii"
        )
    return actions, personal


def _default(
    series: pd.Series, detected: str, spec: DatasetSpec
) -> Literal["drop", "mask", "fake", "replace"]:
    pii = spec.protection.pii
    if pii in ("drop", "mask"):
        return "drop" if pii == "drop" else "mask"
    if series.dtype == object:
        return "replace" if pii == "replace" else "fake"
    single = series.is_unique and not series.isna().any()
    return "replace" if single and detected not in (BIRTH, PLACE) else "mask"


def _told(series: pd.Series, action: str, detected: str | None) -> str:
    dates = pd.api.types.is_datetime64_any_dtype(series.dtype)
    floats = pd.api.types.is_float_dtype(series.dtype)
    rest = "only the year is" if dates else "only one decimal is" if floats else "nothing of it is"
    what = {
        "drop": "left out",
        "mask": f"masked, {rest} kept",
        "fake": "its values are replaced by invented ones",
        "keep": "kept, as the owner declares",
        "replace": "its values are replaced by surrogates",
    }[action]
    return f"{series.name}: {f'recognised as {detected}; ' if detected else ''}{what}"


def _provider(spec: DatasetSpec, name: str, detected: str | None) -> str:
    declared = spec.columns[name].fake if name in spec.columns else None
    return checked_provider(declared or provider_of(detected), spec.protection.locale)


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


def _kinds(train: pd.DataFrame, spec: DatasetSpec, actions: Mapping[str, str]) -> dict[str, str]:
    """The kind of every column; ids and text are never learned."""
    declared = {n: c.kind for n, c in spec.columns.items() if c.kind and n in train.columns}
    check_declared(train, declared)
    kinds: dict[str, str] = {}
    undeclared: list[str] = []
    for name in train.columns:
        action = actions.get(name)
        present = train[name].dropna()
        if action in ("fake", "replace"):
            kinds[name] = "id" if present.is_unique and len(present) == len(train) else "text"
            if action == "fake" and train[name].dtype != object:
                raise DataError(
                    f"only text can be faked, column {name!r} holds numbers or dates; declare its "
                    "policy as mask or drop"
                )
        elif declared.get(name):
            kinds[name] = declared[name]
        elif spec.entity == (name,):
            # A single key names a subject; several columns together only describe one.
            kinds[name] = "id"
        else:
            kinds[name] = infer_kind(name, train[name])
            if action == "mask" and kinds[name] in ("id", "text"):
                kinds[name] = "categorical"
            if kinds[name] == "categorical" and action is None and _mostly_rare(train[name]):
                kinds[name] = "text"
            if kinds[name] == "text" and action != "keep":
                undeclared.append(name)
    if undeclared:
        listed = ", ".join(repr(name) for name in undeclared)
        raise DataError(
            f"a text column of mostly unique values must be declared: {listed}; "
            "use --kind NAME=text (replaced by placeholders), --kind NAME=categorical, "
            "--policy NAME=fake, or --drop NAME"
        )
    return kinds


def _extremes(series: pd.Series, k: int) -> tuple[float, float, int] | None:
    numbers = to_numbers(series)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    if len(numbers) < 2 * k:
        return None
    low, high = float(numbers[k - 1]), float(numbers[-k])
    clipped = int(((numbers < low) | (numbers > high)).sum())
    return (low, high, clipped) if clipped else None


def _mostly_rare(series: pd.Series) -> bool:
    """Whether most rows of a text column have a value that hardly another row has."""
    if series.dtype != object:
        return False
    counts = series.value_counts()
    return bool(len(counts) > _FEW_LEVELS and counts[counts < _RARE].sum() > counts.sum() / 2)


def _nearest(series: pd.Series, codes: tuple[float, ...]) -> pd.Series:
    present = series.dropna()
    levels = np.asarray(codes)
    distance = np.abs(present.to_numpy(dtype=np.float64)[:, None] - levels[None, :])
    nearest = pd.Series(levels[distance.argmin(axis=1)], index=present.index)
    result = series.copy()
    result.loc[present.index] = nearest.astype(series.dtype)
    return result


def _clip(series: pd.Series, low: float, high: float) -> pd.Series:
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        bounds = pd.to_datetime([int(low), int(high)], unit="us")
        clipped: pd.Series = series.mask(series < bounds[0], bounds[0])
        return clipped.mask(clipped > bounds[1], bounds[1])
    if pd.api.types.is_integer_dtype(series.dtype):
        return series.clip(int(low), int(high))
    return series.clip(low, high)
