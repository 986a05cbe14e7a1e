"""A dataset as its owner declares it: one model for YAML, the command line and Dagster."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from generators.base import ParameterError
from generators.schema import Kind
from validators.contract import Adjustment

NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
ConditionText = Annotated[str, Field(min_length=1, max_length=10_000)]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]


class _Model(BaseModel):
    # Inputs are hidden from error messages: a wrong value may be a real one.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ReadLimits(_Model):
    """What the child process that reads a source may use.

    Attributes:
        memory_mb: memory beyond its libraries.
        seconds: of time, and of processor time.
        max_rows: of a larger table a uniform sample of so many rows is learned from.
    """

    memory_mb: int = Field(default=8_192, ge=64)
    seconds: int = Field(default=900, ge=1)
    max_rows: int = Field(default=1_000_000, ge=50)


class SourceSpec(_Model):
    """Where the real data comes from.

    Attributes:
        kind: ``builtin`` ships with a dependency; ``csv``, ``parquet``, ``images`` (a folder) and
            ``idx`` are read from ``path``, ``sql`` from ``url``.
        name: of a built-in dataset.
        path: of a file or folder; relative paths are taken from the working directory.
        url: of a database as SQLAlchemy writes it, or ``env:NAME`` of the variable that holds it,
            which is where a password belongs.
        table: in the database, with its schema before a dot where it has one.
        query: a SELECT statement instead of a table.
        label: of images in a Parquet file, the column of their classes; by default ``label`` or
            another usual name.
        size: of images, the longest side in pixels; larger ones are scaled down. By default 64.
        limits: of the process that reads it.
    """

    kind: Literal["builtin", "csv", "parquet", "images", "idx", "sql"]
    name: str | None = None
    path: str | None = None
    url: str | None = None
    table: str | None = None
    query: str | None = None
    label: ColumnName | None = None
    size: int | None = Field(default=None, ge=1, le=4096)
    limits: ReadLimits = ReadLimits()

    @field_validator("url")
    @classmethod
    def _url_has_no_password(cls, url: str | None) -> str | None:
        if url is not None and re.match(r"[^/]*//[^/@]*:[^/@]*@", url):
            raise ValueError(
                "a password does not belong into a declaration; put the URL into an environment "
                "variable and set url: env:NAME"
            )
        return url


class ColumnSpec(_Model):
    """What the owner declares about a column.

    Attributes:
        kind: its kind, instead of the inferred one.
        policy: what is done to its values before anything else: ``drop`` the column; ``mask`` what
            identifies (a date keeps its year, degrees one decimal, text nothing); ``fake`` it by
            invented values; ``keep`` it although it looks personal (rare values still go).
        fake: the provider of Faker that invents values, e.g. ``company``; by default one that fits
            what was detected.
        description: for the people who read the dataset.
    """

    kind: Kind | None = None
    policy: Literal["drop", "mask", "fake", "keep"] | None = None
    fake: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9_]*$")
    description: str = ""


class GeneratorSpec(_Model):
    """A family of ``generators.GENERATORS`` (or ``auto``) and its hyper-parameters."""

    name: str = "auto"
    parameters: dict[str, Any] = Field(default_factory=dict)


class ProtectionSpec(_Model):
    """What is done to real values before anything learns from them.

    Attributes:
        k: a category with fewer train rows is merged into ``__OTHER__``; a numerical column is
            clipped at its k-th smallest and k-th largest value. 1 switches both off.
        pii: what happens to a column whose values look like personal identifiers and that has no
            policy of its own: ``fake`` by invented values, ``replace`` by numbered surrogates,
            ``mask``, ``drop``, or ``refuse`` the dataset. Dates of birth and positions are masked
            where others are faked or replaced.
        locale: of invented values, e.g. ``de_DE``.
        rows_per_subject: where an entity is declared, how many rows of a subject may be learned
            from; without an entity every row is a subject.
    """

    k: int = Field(default=11, ge=1, le=1000)
    pii: Literal["fake", "replace", "mask", "drop", "refuse"] = "fake"
    locale: str = Field(default="en_US", pattern=r"^[a-z]{2}_[A-Z]{2}$")
    rows_per_subject: int = Field(default=1, ge=1)


class QuotaSpec(_Model):
    """A share of the rows that must fulfil a condition; as text ``income='>50K':0.5``.

    Attributes:
        condition: see ``generators.conditions``.
        share: of all rows; rounded by the largest remainder.
    """

    condition: ConditionText
    share: float = Field(gt=0.0, le=1.0)

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: object) -> object:
        if not isinstance(raw, str):
            return raw
        condition, colon, share = raw.rpartition(":")
        if not colon:
            raise ValueError("a quota must read like income='>50K':0.5; append its share")
        return {"condition": condition, "share": share}


class AugmentSpec(_Model):
    """Fresh rows every day, sampled from the newest published model.

    Attributes:
        mode: ``real+synthetic`` puts the synthetic rows beside the train rows, tagged in
            ``_likeness_source``; they stay in the vault. ``synthetic`` publishes the synthetic rows
            alone, as a version of ``<name>.augmented``.
        rows: synthetic rows a day; as many as were learned from where it is not given.
        where: conditions that every synthetic row fulfils.
        quotas: exact shares of the synthetic rows, all on one column.
        parity: the target is to be distributed in every protected group as in all rows.
        start: the first day.
        cron: when the day before is made; in UTC.
        catch_up: after a pause at most so many missed days are made at a tick.
    """

    mode: Literal["real+synthetic", "synthetic"] = "synthetic"
    rows: int | None = Field(default=None, ge=1, le=1_000_000_000)
    where: tuple[ConditionText, ...] = ()
    quotas: tuple[QuotaSpec, ...] = ()
    parity: bool = False
    start: date = date(2026, 1, 1)
    cron: str = "0 4 * * *"
    catch_up: int = Field(default=7, ge=1, le=366)


class DatasetSpec(_Model):
    """A dataset and how its likeness is made.

    Attributes:
        name: lower case letters, digits, dots, dashes and underscores.
        description: one or two sentences for readers of the catalogue.
        source: where the real data comes from.
        generator: what learns it.
        rows: rows (images) to publish; as many as were trained on where it is not given.
        seed: of the fit and the sample.
        target: the column that models trained on this data would predict.
        protected: columns of protected groups, for the bias checks.
        entity: columns that together identify a subject; a subject is never split between train
            and holdout.
        holdout: share of the real data (of its subjects) that the generator never sees.
        columns: declarations by column name.
        drop: columns that are left out.
        contract: preset or path of the contract that decides.
        gates: by gate of the contract, a tighter bound, or the reason why a failure is accepted
            (``waive``), which every reader of the report sees.
        license: of the published dataset.
        owners: e-mail addresses or ``team:name``, shown in Dagster.
        tags: free tags, shown in Dagster and in the catalogue.
        schedule: cron expression of the weekly release job.
        augment: fresh rows every day, where it is given.
        revalidate: cron expression of the job that compares the newest real data with those that
            the published model has learned from; none without it.
        citation: source of the real data, shown in the card.
    """

    name: str
    description: str = ""
    source: SourceSpec
    generator: GeneratorSpec = GeneratorSpec()
    rows: int | None = Field(default=None, ge=1, le=1_000_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    target: ColumnName | None = None
    protected: tuple[ColumnName, ...] = ()
    entity: tuple[ColumnName, ...] = ()
    holdout: float = Field(default=0.3, gt=0.0, lt=0.9)
    columns: dict[ColumnName, ColumnSpec] = Field(default_factory=dict)
    drop: tuple[ColumnName, ...] = ()
    protection: ProtectionSpec = ProtectionSpec()
    contract: str = "standard"
    gates: dict[str, Adjustment] = Field(default_factory=dict)
    license: str = "other"
    owners: tuple[str, ...] = ()
    tags: dict[str, str] = Field(default_factory=dict)
    schedule: str = "0 3 * * 1"
    augment: AugmentSpec | None = None
    revalidate: str | None = None
    citation: str = ""

    @field_validator("name")
    @classmethod
    def _name_is_safe(cls, name: str) -> str:
        if not NAME.match(name):
            raise ValueError(
                "a dataset name must match [a-z0-9][a-z0-9._-]{0,62}; choose another with --name"
            )
        return name


class SampleSpec(_Model):
    """What rows are asked of a fitted model.

    Attributes:
        rows: exactly so many.
        seed: of the sample.
        where: conditions that every row fulfils.
        quotas: exact shares, all on one column; what they leave of 1 fulfils none of them.
        parity: the target is to be distributed in every group of the protected columns as in all.
        target: for parity, another target than the declared one.
        groups: for parity, other columns than the declared protected ones.
    """

    rows: int = Field(ge=1, le=1_000_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    where: tuple[ConditionText, ...] = ()
    quotas: tuple[QuotaSpec, ...] = ()
    parity: bool = False
    target: ColumnName | None = None
    groups: tuple[ColumnName, ...] = ()

    @model_validator(mode="after")
    def _one_way_to_share(self) -> Self:
        if self.parity and self.quotas:
            raise ValueError("parity sets the shares of the target, quotas would too; take one")
        return self


Spec = TypeVar("Spec", bound=_Model)


def parse_spec(raw: dict[str, Any]) -> DatasetSpec:
    """The spec in ``raw``, e.g. a parsed YAML file.

    Raises:
        ParameterError: all problems at once, each with its field.
    """
    return _parsed(DatasetSpec, raw, "the dataset's declaration", "dataset")


def parse_sample(raw: dict[str, Any]) -> SampleSpec:
    """The request for rows in ``raw``.

    Raises:
        ParameterError: all problems at once, each with its field.
    """
    return _parsed(SampleSpec, raw, "the request", "request")


def _parsed(model: type[Spec], raw: dict[str, Any], what: str, root: str) -> Spec:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in issue['loc']) or root}: {issue['msg']}"
            for issue in error.errors(include_input=False, include_url=False)
        ]
        raise ParameterError(f"{what} is wrong: " + "; ".join(problems)) from None
