"""A table, or two, that no real data stands behind: what each column holds, as its owner says."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(min_length=1, max_length=256)]
TableName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
DeclaredKind = Literal["integer", "number", "category", "boolean", "date", "datetime", "text", "id"]
Cell = bool | int | float | str
Moment = dt.datetime | dt.date

_OPERATOR = re.compile(r"<=|>=|!=|<|>")
_RANGED = ("integer", "number", "date", "datetime")
MAX_COLUMNS = 500
MAX_PATTERN = 200


class Model(BaseModel):
    """Frozen, strict about names, and silent about values: one may be a real one."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ColumnDeclaration(Model):
    r"""One column of a schema without data.

    Attributes:
        kind: what its values mean.
        min: smallest number, date or moment; belongs to the range.
        max: largest; belongs to the range.
        decimals: of a number; without it, full precision.
        mean: of a normal distribution cut to the range; uniform without it.
        sd: its standard deviation.
        categories: the values of a category: a list of equal shares, or each with its weight.
        true_share: share of true cells of a boolean.
        pattern: a regular expression that a text or an id matches, e.g. ``[A-Z]{2}-\d{4}``.
        faker: a provider of Faker, e.g. ``company``; ``locale`` is of the request's ``pii``.
        unique: no value twice.
        null_share: share of missing cells.
        description: for the people who read the dataset.
    """

    kind: DeclaredKind
    min: Annotated[float, Field(allow_inf_nan=False)] | Moment | None = None
    max: Annotated[float, Field(allow_inf_nan=False)] | Moment | None = None
    decimals: int | None = Field(default=None, ge=0, le=12)
    mean: float | None = Field(default=None, allow_inf_nan=False)
    sd: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    categories: tuple[Cell, ...] | dict[Name, float] = ()
    true_share: Share = 0.5
    pattern: str | None = Field(default=None, min_length=1, max_length=MAX_PATTERN)
    faker: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    unique: bool = False
    null_share: Share = 0.0
    description: str = Field(default="", max_length=2_000)

    @model_validator(mode="after")
    def _kind_has_what_it_needs(self) -> Self:
        if self.kind in _RANGED:
            self._check_range()
        elif self.min is not None or self.max is not None:
            raise ValueError(f"min and max are for {', '.join(_RANGED)}; leave them out")
        if (self.mean is None) != (self.sd is None):
            raise ValueError("mean and sd belong together; give both or none")
        if self.mean is not None and self.kind not in ("integer", "number"):
            raise ValueError("mean and sd are for integers and numbers; leave them out")
        self._check_categories()
        texts = self.pattern is not None or self.faker is not None
        if texts and self.kind not in ("text", "id"):
            raise ValueError("pattern and faker are for text and ids; leave them out")
        if self.pattern is not None and self.faker is not None:
            raise ValueError("values come from a pattern or from faker; leave one out")
        if self.kind == "text" and not texts:
            raise ValueError("a text needs a pattern or a faker provider")
        if self.unique and self.kind in ("category", "boolean"):
            raise ValueError("categories cannot be unique; leave unique out, or make it an id")
        return self

    def _check_categories(self) -> None:
        if self.kind != "category":
            if self.categories:
                raise ValueError("categories are for a category; leave them out")
            return
        if not self.categories:
            raise ValueError("a category needs categories, a list or values with weights")
        if isinstance(self.categories, dict):
            weights = list(self.categories.values())
            if any(not 0 <= weight < 1e12 for weight in weights) or sum(weights) <= 0:
                raise ValueError("weights must be at least 0 and not all 0")
        elif len({(type(cell), cell) for cell in self.categories}) < len(self.categories):
            raise ValueError("categories must differ; remove the repeated one")
        elif len({str if isinstance(c, str) else type(c) for c in self.categories}) > 1:
            raise ValueError("categories must be of one type: all text, all numbers, ...")

    def _check_range(self) -> None:
        if self.min is None or self.max is None:
            raise ValueError(f"a column of kind {self.kind} needs min and max")
        dated = self.kind in ("date", "datetime")
        if any(isinstance(end, dt.date) != dated for end in (self.min, self.max)):
            raise ValueError("min and max must be " + ("dates" if dated else "numbers"))
        low, high = self.bounds()
        if not low <= high:
            raise ValueError("min must be at most max; exchange them")
        if self.kind == "integer" and (low % 1 or high % 1 or max(abs(low), abs(high)) > 2**53):
            raise ValueError("the range of an integer must be whole numbers within ±2^53")

    def bounds(self) -> tuple[float, float]:
        """Both ends of the range: numbers, or microseconds since 1970 of dates and moments."""
        ends = [_number(end) for end in (self.min, self.max) if end is not None]
        return ends[0], ends[1]


class Rule(Model):
    """Every row that fulfils ``when`` fulfils ``then``; both are conditions as in ``where``."""

    when: str = Field(min_length=1, max_length=10_000)
    then: str = Field(min_length=1, max_length=10_000)


Constraint = Annotated[str, Field(min_length=3, max_length=1_000)] | Rule


class TableDeclaration(Model):
    """A table without real data.

    Attributes:
        columns: by name, in their order.
        constraints: ``start <= end`` between two columns (also < > >= !=; a missing cell fulfils
            it), or a rule of ``when`` and ``then``.
        primary_key: of unique values; what foreign keys point to.
    """

    columns: dict[Name, ColumnDeclaration] = Field(min_length=1, max_length=MAX_COLUMNS)
    constraints: tuple[Constraint, ...] = Field(default=(), max_length=100)
    primary_key: Name | None = None

    @model_validator(mode="after")
    def _names_are_columns(self) -> Self:
        for constraint in self.constraints:
            if isinstance(constraint, str):
                first, _, other = compared(constraint)
                for name in (first, other):
                    if name not in self.columns:
                        raise ValueError(f"constraint {constraint!r} names no column: {name!r}")
                if any(self.columns[name].unique for name in (first, other)):
                    raise ValueError(f"constraint {constraint!r} must not name a unique column")
                kinds = {self.columns[name].kind for name in (first, other)}
                if not kinds <= {"integer", "number"} and not kinds <= {"date", "datetime"}:
                    raise ValueError(
                        f"constraint {constraint!r} must compare two numbers or two dates"
                    )
        key = self.primary_key
        if key is not None and not (key in self.columns and self._identifies(self.columns[key])):
            raise ValueError("the primary key must be an id or unique column that is never missing")
        return self

    @staticmethod
    def _identifies(column: ColumnDeclaration) -> bool:
        return (column.unique or column.kind == "id") and not column.null_share


class KeyDeclaration(Model):
    """A foreign key.

    Attributes:
        child: ``orders.customer_id``.
        parent: ``customers.id``, the parent's primary key.
        per_parent: shares of parents by number of children, e.g. ``{0: 0.2, 1: 0.5, 3: 0.3}``;
            learned where both tables are, and needed where they are declared.
    """

    child: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}\..{1,256}$")
    parent: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,30}\..{1,256}$")
    per_parent: dict[Annotated[int, Field(ge=0, le=10_000)], Share] | None = None

    @field_validator("per_parent")
    @classmethod
    def _shares_sum_to_one(cls, shares: dict[int, float] | None) -> dict[int, float] | None:
        if shares is not None and abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError("the shares of parents must sum to 1")
        return shares

    @property
    def of_child(self) -> tuple[str, str]:
        """Table and column of the child."""
        table, _, column = self.child.partition(".")
        return table, column

    @property
    def of_parent(self) -> tuple[str, str]:
        """Table and column of the parent."""
        table, _, column = self.parent.partition(".")
        return table, column


def compared(constraint: str) -> tuple[str, str, str]:
    """Column, operator and column of a constraint such as ``start <= end``.

    Raises:
        ValueError: it does not read so.
    """
    found = _OPERATOR.search(constraint)
    sides = (constraint[: found.start()], constraint[found.end() :]) if found else ("", "")
    first, other = (side.strip().strip("`") for side in sides)
    if found is None or not first or not other:
        raise ValueError(f"a constraint must read like start <= end, got {constraint!r}")
    return first, found[0], other


def _number(end: float | Moment) -> float:
    if isinstance(end, dt.datetime):
        moment = end if end.tzinfo else end.replace(tzinfo=dt.UTC)
    elif isinstance(end, dt.date):
        moment = dt.datetime(end.year, end.month, end.day, tzinfo=dt.UTC)
    else:
        return float(end)
    return float((moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1))
