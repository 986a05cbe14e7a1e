"""Rows of a declared schema: no real data, no model; constraints hold in every row.

Each column is drawn from a generator of its own seed, so that adding one changes no other. Rows
that break a constraint are drawn anew in the columns that it names, until none does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import special

from generators.base import DataError, ParameterError, derive_seed
from generators.conditions import Conditions
from generators.dtypes import pandas_dtype
from generators.schema import MICROSECONDS_PER_DAY, Column, Kind, TableSchema, to_numbers

from ..protection.fake import checked_provider, invent
from ..sampling import apportion
from .declaration import ColumnDeclaration, KeyDeclaration, Rule, TableDeclaration, compared
from .patterns import Pattern

MAX_ROUNDS = 200
"""Redraws after which constraints count as not to be fulfilled."""
_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "!=": np.not_equal,
}
_KINDS: dict[str, Kind] = {
    "integer": "numerical",
    "number": "numerical",
    "category": "categorical",
    "boolean": "boolean",
    "date": "datetime",
    "datetime": "datetime",
    "text": "text",
    "id": "id",
}
_SECOND = 1_000_000.0


@dataclass(frozen=True)
class Table:
    """A declared table that rows are made of.

    Attributes:
        declaration: what its owner says.
        locale: of invented names and addresses.
        foreign: the column that holds keys of another table, declared as these are.
    """

    declaration: TableDeclaration
    locale: str = "en_US"
    foreign: str | None = None

    def child_of(self, parent: Table, key: KeyDeclaration) -> Table:
        """The table with its foreign key declared as the keys of ``parent``."""
        name, columns = key.of_child[1], dict(self.declaration.columns)
        own, keys = columns[name], parent.declaration.columns[key.of_parent[1]]
        said = own.description or f"Key of {key.parent}."
        changes = {"unique": False, "null_share": own.null_share, "description": said}
        columns[name] = keys.model_copy(update=changes)
        declaration = self.declaration.model_copy(update={"columns": columns})
        return replace(self, declaration=declaration, foreign=name)

    @property
    def schema(self) -> TableSchema:
        """The schema of its rows."""
        columns = self.declaration.columns
        made = {name: _column(name, columns[name]) for name in columns}
        if self.foreign is not None:
            # Keys of another table occur more than once: no id of this one, and nothing to learn.
            made[self.foreign] = replace(made[self.foreign], kind="text", low=None, high=None)
        return TableSchema(tuple(made.values()))

    def check(self) -> list[tuple[str, str]]:
        """What is wrong beyond the declaration's own checks: pairs of a field and a message."""
        wrong: list[tuple[str, str]] = []
        for name, column in self.declaration.columns.items():
            try:
                if column.pattern is not None:
                    Pattern(column.pattern)
                if column.faker is not None:
                    checked_provider(column.faker, self.locale)
            except ParameterError as error:
                wrong.append((f"columns.{name}", str(error)))
        for place, constraint in enumerate(self.declaration.constraints):
            if isinstance(constraint, Rule):
                for part, text in (("when", constraint.when), ("then", constraint.then)):
                    try:
                        Conditions.parse([text], self.schema)
                    except (ParameterError, ValueError) as error:
                        wrong.append((f"constraints.{place}.{part}", str(error)))
        return wrong

    def rows(self, n: int, seed: int, given: Mapping[str, pd.Series] | None = None) -> pd.DataFrame:
        """Exactly ``n`` rows.

        Args:
            n: number of rows.
            seed: the same one gives the same rows.
            given: columns that are what they are, e.g. foreign keys.

        Raises:
            DataError: a unique column has too few values, or constraints cannot be fulfilled.
        """
        columns, fixed = self.declaration.columns, dict(given or {})
        frame = pd.DataFrame(
            {
                name: fixed[name] if name in fixed else self._drawn(name, n, seed, 0)
                for name in columns
            }
        )
        for turn in range(1, MAX_ROUNDS + 1):
            broken = {place: ~held for place, held in enumerate(self.held(frame)) if not held.all()}
            if not broken:
                return frame
            for place, rows in broken.items():
                for name in self._moved(place, fixed):
                    fresh = self._drawn(name, int(rows.sum()), seed, (turn, place))
                    frame.loc[rows, name] = fresh.to_numpy()
            frame = frame.astype({c.name: c.dtype for c in self.schema.columns})
        places = ", ".join(str(place + 1) for place in broken)
        raise DataError(
            f"constraints must leave rows, after {MAX_ROUNDS} draws number {places} still fails; "
            "widen the ranges or drop it"
        )

    def held(self, frame: pd.DataFrame) -> list[np.ndarray]:
        """Of each constraint, which rows fulfil it; a missing cell fulfils a comparison."""
        answers = []
        for constraint in self.declaration.constraints:
            if isinstance(constraint, Rule):
                when = Conditions.parse([constraint.when], self.schema).matches(frame)
                then = Conditions.parse([constraint.then], self.schema).matches(frame)
                answers.append(~when | then)
                continue
            first, operator, other = compared(constraint)
            one, two = to_numbers(frame[first]), to_numbers(frame[other])
            gap = np.isnan(one) | np.isnan(two)
            answers.append(gap | _COMPARE[operator](one, two))
        return answers

    def _moved(self, place: int, fixed: Mapping[str, object]) -> list[str]:
        """The columns that are drawn anew where a constraint is broken."""
        constraint = self.declaration.constraints[place]
        if isinstance(constraint, Rule):
            parsed = Conditions.parse([constraint.when, constraint.then], self.schema)
            named = [item.column.name for item in parsed.items]
        else:
            first, _, other = compared(constraint)
            named = [first, other]
        return [name for name in dict.fromkeys(named) if name not in fixed]

    def _drawn(self, name: str, n: int, seed: int, turn: object) -> pd.Series:
        declared, column = self.declaration.columns[name], self.schema[name]
        rng = np.random.default_rng(derive_seed("declared", seed, name, turn))
        values = _values(declared, name, n, rng, self.locale)
        series: pd.Series = pd.Series(values).astype(pandas_dtype(column.dtype))
        return with_gaps(series, declared.null_share, rng)


def with_gaps(series: pd.Series, share: float, rng: np.random.Generator) -> pd.Series:
    """``series`` with an exact share of missing cells."""
    if not share:
        return series
    gaps = np.zeros(len(series), dtype=bool)
    gaps[: apportion([share, 1 - share], len(series))[0]] = True
    gaps = rng.permutation(gaps)
    if series.dtype == object:
        cells = [None if gap else cell for cell, gap in zip(series, gaps, strict=True)]
        return pd.Series(cells, dtype=object)
    return series.mask(pd.Series(gaps))


def foreign_keys(parents: pd.Series, key: KeyDeclaration, seed: int) -> pd.Series:
    """The key of a parent for each child; shares of parents by number of children are exact."""
    shares = key.per_parent or {1: 1.0}
    counts = np.repeat(list(shares), apportion(list(shares.values()), len(parents)))
    rng = np.random.default_rng(derive_seed("children", seed, key.child))
    repeated = parents.repeat(rng.permutation(counts).tolist()).reset_index(drop=True)
    return repeated.iloc[rng.permutation(len(repeated))].reset_index(drop=True)


def _column(name: str, declared: ColumnDeclaration) -> Column:
    kind = _KINDS[declared.kind]
    nullable = declared.null_share > 0
    facts: dict[str, object] = {"nullable": nullable, "description": declared.description}
    if declared.kind == "category":
        levels = tuple(declared.categories)
        facts |= {"levels": tuple(sorted(levels, key=str)), "dtype": _level_dtype(levels, nullable)}
    elif declared.kind == "boolean":
        facts |= {"levels": (False, True), "dtype": "boolean" if nullable else "bool"}
    elif kind in ("numerical", "datetime"):
        low, high = declared.bounds()
        facts |= {"low": low, "high": high, "step": _step(declared)}
        whole = "Int64" if nullable else "int64"
        facts["dtype"] = {"integer": whole, "number": "float64"}.get(
            declared.kind, "datetime64[us]"
        )
        facts["stored"] = "date32[day]" if declared.kind == "date" else ""
    else:
        numbered = declared.kind == "id" and not (declared.pattern or declared.faker)
        facts["dtype"] = ("Int64" if nullable else "int64") if numbered else "object"
    return Column(name, kind, **facts)  # type: ignore[arg-type]


def _level_dtype(levels: tuple[object, ...], nullable: bool) -> str:
    kinds = {type(level) for level in levels}
    if kinds == {int}:
        return "Int64" if nullable else "int64"
    if kinds == {bool}:
        return "boolean" if nullable else "bool"
    return "float64" if kinds == {float} else "object"


def _step(declared: ColumnDeclaration) -> float | None:
    if declared.kind == "integer":
        return 1.0
    if declared.kind == "date":
        return float(MICROSECONDS_PER_DAY)
    if declared.kind == "datetime":
        return _SECOND
    return None if declared.decimals is None else 10.0**-declared.decimals


def _values(
    declared: ColumnDeclaration, name: str, n: int, rng: np.random.Generator, locale: str
) -> object:
    if declared.kind == "category":
        levels = list(declared.categories)
        weights = np.ones(len(levels))
        if isinstance(declared.categories, dict):
            weights = np.array(list(declared.categories.values()), dtype=np.float64)
        chosen = rng.choice(len(levels), n, p=weights / weights.sum())
        return [levels[at] for at in chosen]
    if declared.kind == "boolean":
        return rng.random(n) < declared.true_share
    if declared.kind in ("text", "id"):
        return _texts(declared, name, n, rng, locale)
    numbers = _numbers(declared, n, rng)
    if declared.unique:
        numbers = _distinct_numbers(declared, name, n, rng, numbers)
    if declared.kind in ("date", "datetime"):
        return pd.to_datetime(pd.Series(numbers.astype(np.int64)), unit="us")
    return numbers


def _numbers(declared: ColumnDeclaration, n: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers within the range and on the grid, by quantiles of a uniform draw."""
    low, high = declared.bounds()
    step, share = _step(declared), rng.random(n)
    if declared.mean is not None and declared.sd is not None:
        half = (step or 0.0) / 2
        ends = special.ndtr((np.array([low - half, high + half]) - declared.mean) / declared.sd)
        if ends[1] - ends[0] < 1e-12:
            raise DataError("a mean must be near the range, this range has none of its normal")
        drawn = declared.mean + declared.sd * special.ndtri(ends[0] + share * (ends[1] - ends[0]))
    else:
        drawn = low + share * (high - low)
        if step is not None:
            cells = np.floor((high - low) / step + 1e-9) + 1
            drawn = low + np.minimum(np.floor(share * cells), cells - 1) * step
    if step is not None:
        drawn = low + np.round((drawn - low) / step) * step
        if declared.decimals is not None:
            drawn = np.round(drawn, declared.decimals)
    clipped: np.ndarray = np.clip(drawn, low, high)
    return clipped


def _distinct_numbers(
    declared: ColumnDeclaration,
    name: str,
    n: int,
    rng: np.random.Generator,
    first: np.ndarray,
) -> np.ndarray:
    found = dict.fromkeys(first.tolist())
    for _ in range(MAX_ROUNDS):
        if len(found) >= n:
            break
        found |= dict.fromkeys(_numbers(declared, n, rng).tolist())
    return np.array(_enough(list(found), name, n))


def _texts(
    declared: ColumnDeclaration, name: str, n: int, rng: np.random.Generator, locale: str
) -> object:
    unique = declared.unique or declared.kind == "id"
    if declared.faker is not None:
        seed = int(rng.integers(2**62))
        return invent(n, declared.faker, unique=unique, locale=locale, seed=seed)
    if declared.pattern is None:
        return np.arange(1, n + 1)
    pattern = Pattern(declared.pattern)
    drawn = [pattern.draw(rng) for _ in range(n)]
    if not unique:
        return drawn
    found = dict.fromkeys(drawn)
    for _ in range(MAX_ROUNDS):
        if len(found) >= n:
            break
        found |= dict.fromkeys(pattern.draw(rng) for _ in range(n))
    return _enough(list(found), name, n)


def _enough(values: list[float] | list[str], name: str, n: int) -> list[float] | list[str]:
    if len(values) < n:
        raise DataError(
            f"a unique column must have as many values as rows, {name!r} has about {len(values)} "
            f"for {n}; widen its range or its pattern, or ask for fewer rows"
        )
    return values[:n]
