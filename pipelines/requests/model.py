"""What one may ask for: a ``DataRequest``, the same for YAML, Python, the terminal and REST.

A request is small, holds no code and no secret, and is checked as a whole: ``parse_request``
raises all problems at once, each with its field.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from generators.base import ParameterError

from ..home import canonical_json
from ..order import EdgeCases
from ..publication.store import check_dataset_name
from ..spec import ColumnName, ConditionText, QuotaSpec
from .declaration import KeyDeclaration, Model, TableDeclaration, TableName

API_VERSION: Literal["likeness/v1"] = "likeness/v1"
SCHEMA_FILE = Path(__file__).parent / "schemas" / "request-1.json"
MAX_BYTES = 1_000_000
"""A longer request is refused before it is read."""
MAX_ROWS = 1_000_000_000
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
Duration = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,5}[smhdw]$")]
Word = Annotated[str, Field(max_length=200)]
Share = Annotated[float, Field(gt=0.0, le=1.0)]
# One sign of the scheme is enough; more of them would be tried from every sign of a long text.
_SECRET = re.compile(r"[a-z0-9+.-]://[^/\s:@]*:[^/\s@]+@", re.IGNORECASE)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a request: where, and what to do."""

    field: str
    message: str


class RequestError(ParameterError):
    """A request is wrong; ``problems`` has all that is."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        said = "; ".join(f"{problem.field}: {problem.message}" for problem in problems)
        super().__init__(f"the request is wrong: {said}")

    def to_json(self) -> list[dict[str, str]]:
        """The problems as JSON-able objects."""
        return [asdict(problem) for problem in self.problems]


class Metadata(Model):
    """Who asks, and what for.

    Attributes:
        name: of the dataset in the lake that the answer becomes a version of.
        owner: a team or an address.
        purpose: a sentence.
        ticket: where it was agreed on.
        labels: free tags, shown in the catalogue.
    """

    name: str = Field(max_length=63)
    owner: Word = ""
    purpose: str = Field(default="", max_length=2_000)
    ticket: Word = ""
    labels: dict[Word, Word] = Field(default_factory=dict, max_length=50)

    @field_validator("name")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        return check_dataset_name(name)


class Source(Model):
    """What the rows are like: a learned dataset, a declared schema, or two tables with a key.

    Attributes:
        dataset: one that was learned or is declared.
        version: the real data and the model of this published version; else of the newest.
        max_age: real data that were read longer ago are read anew; a model fitted on the same data
            is used again in any case.
        declared: a schema without real data (``schema`` in files).
        tables: by name, either datasets or declared schemas.
        keys: from child to parent, where there are tables.
    """

    dataset: str | None = None
    version: int | None = Field(default=None, ge=1)
    max_age: Duration | None = None
    declared: TableDeclaration | None = Field(default=None, alias="schema")
    tables: dict[TableName, TableDeclaration | str] = Field(default_factory=dict, max_length=8)
    keys: tuple[KeyDeclaration, ...] = Field(default=(), max_length=8)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [self.dataset is not None, self.declared is not None, bool(self.tables)]
        if sum(given) != 1:
            raise ValueError("a source is a dataset, a schema, or tables; give exactly one")
        if self.dataset is None and (self.version is not None or self.max_age is not None):
            raise ValueError("version and max_age are of a dataset; leave them out")
        if self.version is not None and self.max_age is not None:
            raise ValueError("a version is of some age; leave max_age or version out")
        if self.keys and not self.tables:
            raise ValueError("keys join tables; give tables")
        self._check_tables()
        return self

    @property
    def learned_tables(self) -> tuple[str, ...]:
        """The datasets of tables that are learned."""
        return tuple(table for table in self.tables.values() if isinstance(table, str))

    def _check_tables(self) -> None:
        if not self.tables:
            return
        kinds = {isinstance(table, str) for table in self.tables.values()}
        if len(self.tables) < 2 or len(kinds) > 1:
            raise ValueError("tables are two or more, all datasets or all declared schemas")
        if not self.keys:
            raise ValueError("tables need keys that join them; or ask for each by itself")
        for key in self.keys:
            for table, column in (key.of_child, key.of_parent):
                there = self.tables.get(table)
                if there is None:
                    raise ValueError(f"a key names the table {table!r}, which is not declared")
                if isinstance(there, TableDeclaration) and column not in there.columns:
                    raise ValueError(f"a key names {table}.{column}, which is no column")
            parent = self.tables[key.of_parent[0]]
            if isinstance(parent, TableDeclaration):
                if parent.primary_key != key.of_parent[1]:
                    raise ValueError(f"{key.parent} must be the primary key of its table")
                if key.per_parent is None:
                    raise ValueError(f"{key.child}: declared tables need per_parent")
        if kinds == {True} and len(self.tables) > 2:
            raise ValueError("of datasets, two tables can be joined; ask for the others apart")
        children = [key.of_child[0] for key in self.keys]
        if len(set(children)) < len(children) or len(self.keys) != len(self.tables) - 1:
            raise ValueError("one table has no parent, and each other table has exactly one")


class Generator(Model):
    """A family of ``likeness generators`` and its parameters; the dataset's own by default."""

    use: str = Field(default="auto", max_length=64)
    parameters: dict[str, Any] = Field(default_factory=dict, max_length=100)


class Columns(Model):
    """Which columns, and how they are called.

    Attributes:
        include: only these, in this order; all without it.
        exclude: all but these.
        rename: old name -> new name.
    """

    include: tuple[ColumnName, ...] = ()
    exclude: tuple[ColumnName, ...] = ()
    rename: dict[ColumnName, ColumnName] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.include and self.exclude:
            raise ValueError("include says all; leave exclude out")
        if len(set(self.include)) < len(self.include):
            raise ValueError("a column is included once")
        if len(set(self.rename.values())) < len(self.rename):
            raise ValueError("new names must differ")
        return self


class StructuredCondition(Model):
    """A condition as fields, for forms and programs; a text says the same."""

    column: ColumnName
    op: Literal[
        "=", "!=", "<", "<=", ">", ">=", "in", "not in", "between", "is missing", "is not missing"
    ]
    value: bool | float | int | str | tuple[bool | float | int | str, ...] | None = None

    @model_validator(mode="after")
    def _value_fits(self) -> Self:
        several, none = isinstance(self.value, tuple), self.value is None
        if self.op in ("is missing", "is not missing"):
            if not none:
                raise ValueError(f"{self.op} takes no value; leave it out")
        elif self.op in ("in", "not in", "between"):
            if not isinstance(self.value, tuple) or not self.value:
                raise ValueError(f"{self.op} takes a list of values")
            if self.op == "between" and len(self.value) != 2:
                raise ValueError("between takes a list of two values")
        elif several or none:
            raise ValueError(f"{self.op} takes one value")
        return self

    @property
    def text(self) -> str:
        """The same in the grammar of ``generators.conditions``."""
        name = "`" + self.column + "`"
        if self.value is None:
            return f"{name} {self.op}"
        if not isinstance(self.value, tuple):
            return f"{name} {self.op} {_quoted(self.value)}"
        if self.op == "between":
            low, high = self.value
            return f"{name} in {_quoted(low)}..{_quoted(high)}"
        return f"{name} {self.op} ({', '.join(_quoted(one) for one in self.value)})"


class Balance(Model):
    """Exact shares of the categories of one column; what they leave of 1 is of the others."""

    column: ColumnName
    probabilities: dict[Annotated[str, Field(max_length=1_000)], Share] = Field(min_length=1)

    @model_validator(mode="after")
    def _at_most_one(self) -> Self:
        if sum(self.probabilities.values()) > 1 + 1e-9:
            raise ValueError("probabilities must sum to at most 1; lower them")
        return self

    @property
    def quotas(self) -> tuple[QuotaSpec, ...]:
        """The same as quotas."""
        column = "`" + self.column + "`"
        return tuple(
            QuotaSpec(condition=f"{column} = {_quoted(value)}", share=share)
            for value, share in self.probabilities.items()
        )


class Fairness(Model):
    """Statistical parity: every group of the sensitive columns has the outcomes of all rows.

    The dataset's declared target and protected columns by default.
    """

    target: ColumnName | None = None
    sensitive: tuple[ColumnName, ...] = ()


class Personal(Model):
    """What is done to personal values before anything learns from them.

    Attributes:
        policy: for columns that look personal and have no policy of their own.
        locale: of invented values, e.g. ``de_DE``.
        columns: ``drop``, ``mask`` or ``fake`` by column. ``keep`` is the owner's to declare.
    """

    policy: Literal["fake", "replace", "mask", "drop", "refuse"] | None = None
    locale: str | None = Field(default=None, pattern=r"^[a-z]{2}_[A-Z]{2}$")
    columns: dict[ColumnName, Literal["drop", "mask", "fake"]] = Field(default_factory=dict)


class Privacy(Model):
    """The contract that decides, and how rare a category may be.

    Attributes:
        level: ``standard``, ``strict``, or ``internal``, which needs approval.
        k: a category of fewer subjects is merged away; may raise what the dataset declares.
    """

    level: Literal["internal", "standard", "strict"] | None = None
    k: int | None = Field(default=None, ge=1, le=1_000)


class Bound(Model):
    """A tighter bound on a gate of the contract; ``severity`` makes a warning stop the release."""

    min: float | None = Field(default=None, allow_inf_nan=False)
    max: float | None = Field(default=None, allow_inf_nan=False)
    severity: Literal["critical"] | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if (self.min, self.max, self.severity) == (None, None, None):
            raise ValueError("a bound needs min, max or severity")
        return self


class Output(Model):
    """Files beside the Parquet that every version has.

    Attributes:
        formats: ``csv`` adds a file a split below ``export/``.
        csv_safe: text that a spreadsheet would run as a formula gets a quote before it.
    """

    formats: tuple[Literal["parquet", "csv"], ...] = ("parquet",)
    csv_safe: bool = True


class Lifecycle(Model):
    """How long the version stands.

    Attributes:
        expires: after its publication; it is then retired, with a tombstone.
        on_expiry: ``purge`` also removes the files.
    """

    expires: Duration | None = None
    on_expiry: Literal["retire", "purge"] = "retire"


class Delivery(Model):
    """Who is told: names of webhooks that the operator has set up."""

    notify: tuple[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")], ...] = ()


class RequestSpec(Model):
    """What is asked for.

    Attributes:
        source: what the rows are like.
        generator: what learns a dataset.
        rows: exactly so many; of tables, of the one without a parent.
        scale: the number of rows as a multiple of the rows learned from, instead.
        splits: shares by name, e.g. ``{train: 0.8, test: 0.2}``; they sum to 1.
        seed: of the rows; derived from the request where it is not given, recorded in any case.
        columns: which, and how they are called.
        where: conditions that every row fulfils, as text or as fields.
        quotas: exact shares, all on one column, e.g. ``income = '>50K':0.5``.
        balance: the same for the categories of a column.
        fairness: independent group and outcome.
        edge_cases: rows beside those asked for, tagged in ``_likeness_case``.
        pii: what is done to personal values.
        privacy: the contract.
        acceptance: bounds by gate, each tighter than the contract's.
        output: formats.
        lifecycle: expiry.
        delivery: who is told.
        preview: so many rows are shown before the rest is made.
    """

    source: Source
    generator: Generator = Generator()
    rows: int | None = Field(default=None, ge=1, le=MAX_ROWS)
    scale: float | None = Field(default=None, gt=0.0, le=1_000.0)
    splits: dict[Annotated[str, Field(pattern=r"^[a-z]{1,30}$")], Share] = Field(
        default_factory=dict, max_length=10
    )
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    columns: Columns = Columns()
    where: tuple[ConditionText | StructuredCondition, ...] = Field(default=(), max_length=100)
    quotas: tuple[QuotaSpec, ...] = Field(default=(), max_length=1_000)
    balance: Balance | None = None
    fairness: Fairness | None = None
    edge_cases: EdgeCases = EdgeCases()
    pii: Personal = Personal()
    privacy: Privacy = Privacy()
    acceptance: dict[Annotated[str, Field(max_length=100)], Bound] = Field(
        default_factory=dict, max_length=100
    )
    output: Output = Output()
    lifecycle: Lifecycle = Lifecycle()
    delivery: Delivery = Delivery()
    preview: int = Field(default=0, ge=0, le=1_000)

    @field_validator("splits")
    @classmethod
    def _splits_sum_to_one(cls, splits: dict[str, float]) -> dict[str, float]:
        if splits and abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError("the shares of the splits must sum to 1")
        return splits

    @model_validator(mode="after")
    def _one_way_each(self) -> Self:
        if self.rows is not None and self.scale is not None:
            raise ValueError("rows and scale both say how many; leave one out")
        ways = [bool(self.quotas), self.balance is not None, self.fairness is not None]
        if sum(ways) > 1:
            raise ValueError("quotas, balance and fairness all set shares; keep one")
        if self.source.dataset is None:
            self._check_without_dataset()
        return self

    def _check_without_dataset(self) -> None:
        if self.rows is None:
            raise ValueError("rows must be given where the source is no dataset")
        learned = {
            "generator": self.generator != Generator(),
            "quotas": bool(self.quotas),
            "balance": self.balance is not None,
            "fairness": self.fairness is not None,
            "acceptance": bool(self.acceptance),
            "where": bool(self.where),
            "columns": self.columns != Columns(),
        }
        given = [name for name, there in learned.items() if there]
        if given:
            raise ValueError(f"{', '.join(given)}: for a dataset only; declare it in the schema")
        if self.source.tables and (self.edge_cases != EdgeCases() or self.splits):
            raise ValueError("edge_cases and splits are for a single table; leave them out")

    @property
    def conditions(self) -> tuple[str, ...]:
        """All conditions of ``where``, as text."""
        return tuple(one if isinstance(one, str) else one.text for one in self.where)

    @property
    def shares(self) -> tuple[QuotaSpec, ...]:
        """Quotas, of whichever way they were given."""
        return self.balance.quotas if self.balance is not None else self.quotas


class DataRequest(Model):
    """One request; see ``RequestSpec`` for what can be asked."""

    apiVersion: Literal["likeness/v1"]
    kind: Literal["DataRequest"]
    metadata: Metadata
    spec: RequestSpec

    @model_validator(mode="after")
    def _no_secret(self) -> Self:
        if _SECRET.search(self.model_dump_json()):
            raise ValueError("a password does not belong into a request; remove it")
        return self

    def to_yaml(self) -> str:
        """The request as a file; ``parse_request`` reads it again."""
        plain = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def parse_request(raw: DataRequest | Mapping[str, Any] | str | bytes) -> DataRequest:
    """The request in ``raw``: fields, or YAML or JSON text.

    Raises:
        RequestError: all problems at once, each with its field.
    """
    if isinstance(raw, DataRequest):
        return raw
    fields = _read(raw) if isinstance(raw, str | bytes) else raw
    try:
        return DataRequest.model_validate(fields)
    except ValidationError as error:
        issues = error.errors(include_input=False, include_url=False, include_context=False)
        raise RequestError(tuple(_problem(issue) for issue in issues)) from None


def request_key(request: DataRequest, source_digest: str) -> str:
    """Digest of all that decides the answer: equal requests have equal keys.

    Args:
        request: what is asked.
        source_digest: of the real data and the model's code, or of nothing for a declared schema.
    """
    aside = {"lifecycle", "delivery", "preview"}
    spec = request.spec.model_dump(mode="json", by_alias=True, exclude=aside)
    decides = {"name": request.metadata.name, "spec": spec, "source": source_digest}
    return hashlib.sha256(canonical_json(decides).encode()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a request, as published in ``schemas/request-1.json``."""
    return DataRequest.model_json_schema(by_alias=True)


def schema_text() -> str:
    """The text of the published schema file."""
    return json.dumps(json_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def duration(text: str) -> timedelta:
    """``90d`` as a time span."""
    return timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])


def _read(raw: str | bytes) -> Any:  # noqa: ANN401 - whatever the text holds
    if len(raw) > MAX_BYTES:
        raise _unreadable(f"must be at most {MAX_BYTES:,} bytes; ask for less")
    try:
        text = raw if isinstance(raw, str) else raw.decode("utf-8")
        for event in yaml.parse(text):
            # Aliases can make a short text into a huge one.
            if isinstance(event, yaml.events.AliasEvent):
                raise _unreadable("must not use YAML aliases; write the values out")
            # A tag says how a text is to be read, and few readers expect one that does not fit.
            if getattr(event, "tag", None) is not None:
                raise _unreadable("must not use YAML tags; leave them out")
        fields = yaml.safe_load(text)
    except UnicodeDecodeError:
        raise _unreadable("must be UTF-8 text") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise _unreadable(f"must be readable YAML or JSON{where}") from None
    if not isinstance(fields, dict):
        raise _unreadable("must have apiVersion, kind, metadata and spec")
    return fields


def _unreadable(message: str) -> RequestError:
    return RequestError((Problem("request", message),))


def _problem(issue: Mapping[str, Any]) -> Problem:
    place = ".".join(str(part) for part in issue["loc"])
    return Problem(place or "request", str(issue["msg"]).removeprefix("Value error, "))


def _quoted(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    return "'" + str(value).replace("'", "''") + "'"
