"""From a request to what the steps need: the dataset's declaration, its real data, an order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from generators import GENERATORS
from generators.base import DataError, LikenessError, ParameterError, derive_seed
from generators.conditions import Conditions
from generators.schema import TableSchema
from validators.contract import Adjustment

from .. import steps
from ..cases import check_cases
from ..datasets import dataset_names, load_dataset
from ..home import Home
from ..order import CASE, Order
from ..publication import log
from ..publication.log import Published
from ..publication.store import PublicationError, check_dataset_name, open_lake
from ..release import RealData, Release, recall_real, recall_release
from ..sampling import strata
from ..spec import DatasetSpec, SampleSpec, parse_spec
from .model import DataRequest, Problem, RequestError, RequestSpec, duration, request_key

_LEVELS = ("internal", "standard", "strict")
_HIDING = {"keep": 0, "mask": 1, "replace": 2, "fake": 2, "drop": 3, "refuse": 4}
"""What is done to personal values, by how little of them is left."""
APPROVE_ROWS = 10_000_000
"""More rows than these need approval."""
APPROVE_CELLS = 500_000_000
"""More rows times columns than these need approval."""


@dataclass(frozen=True)
class Base:
    """What a request learns from.

    Attributes:
        spec: the dataset's declaration with what the request changes of it.
        real: its real data in the vault, or None where they have to be read first.
        own: whether they are what the dataset's declaration says, so that they may be remembered
            as its newest.
    """

    spec: DatasetSpec
    real: RealData | None
    own: bool


@dataclass(frozen=True)
class Plan:
    """A request that can be answered.

    Attributes:
        release: what the steps make.
        key: of the request.
        existing: the version that answers it already.
    """

    release: Release
    key: str
    existing: Published | None


def find_base(home: Home, request: DataRequest) -> Base:
    """The dataset that ``request`` names.

    Raises:
        RequestError: there is none, or it cannot be changed so.
    """
    with problems_in("spec.source"):
        spec, real = _declared(home, request.spec)
    changed = _changed(spec, request.spec)
    own = (changed.protection, changed.columns) == (spec.protection, spec.columns)
    if not own or (real is not None and _too_old(home, spec, request.spec)):
        real = None
    return Base(changed, real, own)


def read(home: Home, base: Base) -> RealData:
    """The real data of ``base``, read now where the vault does not have them."""
    return base.real or steps.ingest(base.spec, home, remember=base.own)


def plan(home: Home, request: DataRequest, base: Base, real: RealData) -> Plan:
    """What is to be made.

    Raises:
        RequestError: the request does not fit the data; all problems at once.
    """
    _check(request.spec, base, real)
    with problems_in("spec.generator"):
        model = steps.prepare(base.spec, home, real)
    key = request_key(request, f"{model.model_key} {model.contract_digest}")
    renewal = 0
    while True:
        order = _order(request, model, key, renewal)
        release = steps.prepare(base.spec, home, real, order)
        store = open_lake(home.lake)
        if log.find(store, release.name, release.key) is None:
            return Plan(release, key, None)
        existing = log.find_standing(store, release.name, release.key)
        if existing is not None:
            return Plan(release, key, existing)
        renewal += 1  # what was retired stays retired: the same rows become a new version


def approval(request: DataRequest, home: Home) -> str:
    """Why somebody must approve the request; empty where nobody has to."""
    asked = request.spec
    if reason := _too_much(asked, home):
        return reason
    learned = [name for name in asked.source.tables.values() if isinstance(name, str)]
    for name in [asked.source.dataset] if asked.source.dataset else learned:
        if reason := _lowered(asked, home, name):
            return reason
    return ""


def _too_much(asked: RequestSpec, home: Home) -> str:
    """Why the answer is too large to be made unasked; of tables, all together."""
    source = asked.source
    if source.dataset is not None:
        rows = _rows_of(asked, home, source.dataset)
        cells = rows * _columns_of(home, source.dataset, source.version)
    elif source.declared is not None:
        rows = asked.rows or 0
        cells = rows * len(source.declared.columns)
    else:
        by_table = _rows_by_table(asked, home)
        rows, cells = sum(by_table.values()), 0.0
        for name, table in source.tables.items():
            wide = _columns_of(home, table, None) if isinstance(table, str) else len(table.columns)
            cells += by_table.get(name, 0.0) * wide
    if rows > APPROVE_ROWS:
        return f"more than {APPROVE_ROWS:,} rows are asked for"
    if cells > APPROVE_CELLS:
        return f"more than {APPROVE_CELLS:,} cells are asked for"
    return ""


def _rows_of(asked: RequestSpec, home: Home, name: str) -> float:
    """Rows of the answer; before the first reading, the most that a multiple can come to."""
    if asked.scale is None:
        return asked.rows or 0
    declared, real = _found(home, name, asked.source.version)
    most = declared.source.limits.max_rows
    return asked.scale * (int(real.facts["rows"]["train"]) if real is not None else most)


def _columns_of(home: Home, name: str, version: int | None) -> int:
    """Columns of a dataset; 0 where it has not been read yet."""
    _, real = _found(home, name, version)
    if real is None or not isinstance(real.schema, TableSchema):
        return 0
    return len(real.schema.names)


def _rows_by_table(asked: RequestSpec, home: Home) -> dict[str, float]:
    """Rows of each table: of the one without a parent as asked, of children by their shares."""
    keys = {key.of_child[0]: key for key in asked.source.keys}
    rows: dict[str, float] = {}
    for root, table in asked.source.tables.items():
        if root not in keys:
            known = isinstance(table, str)
            rows[root] = _rows_of(asked, home, str(table)) if known else asked.rows or 0
    for _ in keys:  # as deep as the tree of tables can be
        for child, key in keys.items():
            if key.of_parent[0] in rows:
                shares = key.per_parent or {1: 1.0}
                each = sum(number * share for number, share in shares.items())
                rows[child] = rows[key.of_parent[0]] * each
    return rows


def _lowered(asked: RequestSpec, home: Home, name: str) -> str:
    declared, _ = _found(home, name, asked.source.version)
    if changed := less_hidden(asked, declared):
        return f"what the dataset declares for personal values is weakened: {changed}"
    level, own = asked.privacy.level, declared.contract
    if level is not None and level != own:
        rank = _LEVELS.index(own) if own in _LEVELS else len(_LEVELS)
        if _LEVELS.index(level) < rank:
            return f"the privacy level {level} is below the dataset's ({own})"
    if asked.privacy.k is not None and asked.privacy.k < declared.protection.k:
        return f"k = {asked.privacy.k} is below the dataset's {declared.protection.k}"
    return ""


def less_hidden(asked: RequestSpec, declared: DatasetSpec) -> str:
    """Where the request would leave more of personal values than the owner has declared."""
    default, own = asked.pii.policy, declared.protection.pii
    # Only these two are more than a way of hiding.
    strict = own if own in ("drop", "refuse") else "keep"
    if default is not None and _HIDING[default] < _HIDING[strict]:
        return f"{default} instead of {own}"
    weaker = []
    for name, policy in asked.pii.columns.items():
        column = declared.columns.get(name)
        before = column.policy if column is not None and column.policy is not None else strict
        if _HIDING[policy] < _HIDING[before]:
            weaker.append(f"{name}: {policy} instead of {before}")
    return ", ".join(weaker)


def order_seed(request: DataRequest, key: str) -> int:
    """The seed of the rows: given, or derived from the request's key."""
    return request.spec.seed if request.spec.seed is not None else derive_seed("request", key)


@contextmanager
def problems_in(field: str) -> Iterator[None]:
    """Turn a known error into a problem of the request's ``field``."""
    try:
        yield
    except RequestError:
        raise
    except (ParameterError, DataError, PublicationError) as error:
        raise RequestError((Problem(field, str(error)),)) from None


def check_name(home: Home, name: str) -> None:
    """Refuse a name that is that of a dataset: an answer would become its newest version.

    Raises:
        RequestError: it is.
    """
    with problems_in("metadata.name"):
        own = (
            check_dataset_name(name) in dataset_names()
            or (home.vault / name / "real.json").is_file()
        )
        store = open_lake(home.lake)
        entry = None if own else log.newest(store, name)
        if entry is not None:
            facts = log.published(store, name, entry, existing=True).manifest().reproduce
            own = not {"order", "request"} & set(facts)
        if own:
            raise ParameterError(
                f"an answer must have a name of its own, {name!r} is that of a dataset; choose "
                f"another, such as {name}-test"
            )


def dataset_of(home: Home, request: DataRequest, name: str) -> DatasetSpec:
    """The declaration of one of the request's datasets, with what the request changes of it.

    Raises:
        ParameterError: there is no such dataset.
        RequestError: it cannot be changed so.
    """
    spec, _ = _found(home, name, None)
    return _changed(spec, request.spec)


def _declared(home: Home, asked: RequestSpec) -> tuple[DatasetSpec, RealData | None]:
    return _found(home, asked.source.dataset or "", asked.source.version)


def _found(home: Home, name: str, version: int | None) -> tuple[DatasetSpec, RealData | None]:
    if version is None and name in dataset_names():
        spec = load_dataset(name)
        try:
            return spec, recall_real(home, spec)
        except DataError:
            return spec, None
    try:
        found = log.resolve(home.lake, f"{name}@{version}" if version else name)
        facts: dict[str, Any] = dict(found.manifest().reproduce)
    except (PublicationError, FileNotFoundError) as error:
        known = sorted({*dataset_names(), *_learned(home)})
        raise ParameterError(
            f"a dataset must be declared or published here, {name!r} is not ({error}); known are "
            f"{', '.join(known) or 'none'}"
        ) from None
    if "order" in facts or "dataset" not in facts:
        raise ParameterError(
            f"a dataset must be one that was learned from real data, {name!r} answers a request; "
            f"ask {facts.get('dataset', 'its source')!r}"
        )
    release, _ = recall_release(home, name, facts["release_key"])
    return release.spec, release.real


def _learned(home: Home) -> list[str]:
    return [folder.parent.name for folder in home.vault.glob("*/releases")]


def _changed(spec: DatasetSpec, asked: RequestSpec) -> DatasetSpec:
    """``spec`` with the generator, protection and contract of the request."""
    raw = spec.model_dump(mode="json")
    family = asked.generator
    if family.use != "auto" or family.parameters:
        own = spec.generator
        name = own.name if family.use == "auto" else family.use
        # Another family does not take the declared family's parameters.
        kept = own.parameters if name == own.name else {}
        raw["generator"] = {"name": name, "parameters": {**kept, **family.parameters}}
        if name != "auto":
            try:
                GENERATORS.require(name)
            except ParameterError as error:
                raise RequestError((Problem("spec.generator.use", str(error)),)) from None
    if asked.privacy.level is not None:
        raw["contract"] = asked.privacy.level
    if asked.privacy.k is not None:
        raw["protection"]["k"] = asked.privacy.k
    if asked.pii.policy is not None:
        raw["protection"]["pii"] = asked.pii.policy
    if asked.pii.locale is not None:
        raw["protection"]["locale"] = asked.pii.locale
    for name, policy in asked.pii.columns.items():
        raw["columns"][name] = {**raw["columns"].get(name, {}), "policy": policy, "fake": None}
    with problems_in("spec"):
        changed = parse_spec(raw)
    return changed.model_copy(update={"gates": _tightened(changed, asked)})


def _tightened(spec: DatasetSpec, asked: RequestSpec) -> dict[str, Adjustment]:
    """The owner's adjustments of gates with those of the request, which may only be tighter."""
    gates, problems = dict(spec.gates), []
    for name, bound in asked.acceptance.items():
        change = Adjustment(min=bound.min, max=bound.max, severity=bound.severity)
        own = gates.get(name)
        kept = own.model_dump(exclude_none=True, exclude={"waive"}) if own else {}
        try:
            steps.contract_of(spec).adjusted({name: change})
        except ParameterError as error:
            problems.append(Problem(f"spec.acceptance.{name}", str(error)))
        gates[name] = Adjustment(**{**kept, **change.model_dump(exclude_none=True)})
    if problems:
        raise RequestError(tuple(problems))
    return gates


def _too_old(home: Home, spec: DatasetSpec, asked: RequestSpec) -> bool:
    if asked.source.max_age is None:
        return False
    read_at = (home.dataset_vault(spec.name) / "real.json").stat().st_mtime
    return time.time() - read_at > duration(asked.source.max_age).total_seconds()


def _check(asked: RequestSpec, base: Base, real: RealData) -> None:
    """Raise RequestError with all that does not fit the data."""
    schema = real.schema
    if not isinstance(schema, TableSchema):
        _check_images(asked)
        return
    problems: list[Problem] = []
    names = set(schema.names)
    for field, listed in (
        ("include", asked.columns.include),
        ("exclude", asked.columns.exclude),
        ("rename", tuple(asked.columns.rename)),
    ):
        for name in listed:
            if name not in names:
                said = f"there is no column {name!r}; the columns are {', '.join(schema.names)}"
                problems.append(Problem(f"spec.columns.{field}", said))
    chosen = _chosen(asked, schema)
    if not chosen:
        problems.append(Problem("spec.columns.exclude", "at least one column must remain"))
    renamed = [asked.columns.rename.get(name, name) for name in chosen]
    if len(set(renamed)) < len(renamed) or CASE in renamed:
        problems.append(Problem("spec.columns.rename", f"names must differ, and not be {CASE}"))
    for place, text in enumerate(asked.conditions):
        _tried(problems, f"spec.where.{place}", partial(Conditions.parse, [text], schema))
    _tried(problems, "spec.where", lambda: Conditions.parse(asked.conditions, schema), once=True)
    if asked.shares:
        field = "spec.balance" if asked.balance is not None else "spec.quotas"
        _tried(problems, field, lambda: strata(asked.shares, asked.rows or 1_000, schema))
    if asked.fairness is not None:
        _check_fairness(problems, asked, schema)
    part = TableSchema(tuple(schema[name] for name in chosen if name in names))
    for field, said in check_cases(part, asked.edge_cases):
        problems.append(Problem(f"spec.edge_cases.{field}", said))
    if problems:
        raise RequestError(tuple(problems))
    if asked.where or asked.shares or asked.fairness is not None:
        _check_family(base.spec)


def _check_family(spec: DatasetSpec) -> None:
    from generators.base import Conditional

    name = spec.generator.name
    name = steps.DEFAULT_GENERATOR["table"] if name == "auto" else name
    if not issubclass(GENERATORS[name], Conditional):
        able = [key for key in GENERATORS if issubclass(GENERATORS[key], Conditional)]
        said = f"{name} takes no conditions; use one of {', '.join(able)}"
        raise RequestError((Problem("spec.generator.use", said),))


def _check_images(asked: RequestSpec) -> None:
    for_tables = {
        "where": bool(asked.where),
        "quotas": bool(asked.quotas),
        "balance": asked.balance is not None,
        "fairness": asked.fairness is not None,
        "edge_cases": asked.edge_cases.any,
        "columns": bool(asked.columns.include or asked.columns.exclude or asked.columns.rename),
        "output.formats": "csv" in asked.output.formats,
        "pii": bool(asked.pii.columns),
    }
    said = "is for tables, this dataset holds images; leave it out"
    problems = tuple(Problem(f"spec.{name}", said) for name, given in for_tables.items() if given)
    if problems:
        raise RequestError(problems)


def _check_fairness(problems: list[Problem], asked: RequestSpec, schema: TableSchema) -> None:
    fair = asked.fairness
    if fair is None:
        return
    target = fair.target or schema.target
    groups = fair.sensitive or schema.protected
    if target is None:
        said = "the dataset declares no target; name one"
        problems.append(Problem("spec.fairness.target", said))
    if not groups:
        said = "the dataset declares no protected columns; name some"
        problems.append(Problem("spec.fairness.sensitive", said))
    for field, names in (("target", [target] if target else []), ("sensitive", list(groups))):
        for name in names:
            if name not in schema.names or not schema[name].discrete:
                said = f"{name!r} must be a column of categories"
                problems.append(Problem(f"spec.fairness.{field}", said))


def _tried(
    problems: list[Problem], field: str, check: Callable[[], object], *, once: bool = False
) -> None:
    """Note what ``check`` finds wrong; with ``once`` only where nothing of the field is noted."""
    if once and any(problem.field.startswith(f"{field}.") for problem in problems):
        return
    try:
        check()
    except LikenessError as error:
        if not once or not any(problem.field.startswith(field) for problem in problems):
            problems.append(Problem(field, str(error)))


def _chosen(asked: RequestSpec, schema: TableSchema) -> tuple[str, ...]:
    if asked.columns.include:
        return asked.columns.include
    return tuple(name for name in schema.names if name not in asked.columns.exclude)


def _order(request: DataRequest, model: Release, key: str, renewal: int) -> Order:
    asked, schema = request.spec, model.real.schema
    learned = int(model.real.facts["rows"]["train"])
    rows = asked.rows or (round(asked.scale * learned) if asked.scale else model.rows)
    fair = asked.fairness
    chosen = _chosen(asked, schema) if isinstance(schema, TableSchema) else ()
    whole = isinstance(schema, TableSchema) and chosen == schema.names
    return Order(
        name=request.metadata.name,
        description=request.metadata.purpose,
        sample=SampleSpec(
            rows=max(rows, 1),
            seed=order_seed(request, key),
            where=asked.conditions,
            quotas=asked.shares,
            parity=fair is not None,
            target=fair.target if fair else None,
            groups=fair.sensitive if fair else (),
        ),
        columns=() if whole else chosen,
        rename=asked.columns.rename,
        splits=asked.splits,
        cases=asked.edge_cases,
        csv="csv" in asked.output.formats,
        csv_safe=asked.output.csv_safe,
        renewal=renewal,
        owner=request.metadata.owner,
        purpose=request.metadata.purpose,
        labels=dict(request.metadata.labels),
    )
