"""Two tables learned from two sources: parents, and children that are drawn given their parents.

The parents' model learns how many children each has, as a column among the others. The children's
model learns them beside their parent's attributes, from one child of each parent (more would make
a parent with many stand out), and completes rows of which the parent's attributes are given. So
the keys are valid, and what depends on the parent does. Both tables are judged by the contract:
the children beside their parents' attributes, which shows a relation that was lost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from generators.base import DataError, OnProgress, ParameterError, Progress, derive_seed
from generators.encoding import ColumnCodec
from generators.schema import TableSchema

from .. import steps
from ..home import Home, canonical_json
from ..ingest import split_and_protect, store
from ..order import Kin, Order
from ..protection import OTHER
from ..publication import log
from ..publication.log import Published
from ..publication.store import open_lake
from ..release import RealData, Release, given_file
from ..sampling import apportion
from ..sources import RawTable, read_source
from ..spec import ColumnSpec, DatasetSpec, SampleSpec
from . import announcement
from .announcement import Announce
from .declaration import KeyDeclaration
from .model import DataRequest, Problem, RequestError, request_key
from .plan import dataset_of, order_seed, problems_in

_OF_PARENT = "parent."
"""What the names of a parent's attributes begin with in the children's table."""


@dataclass(frozen=True)
class Family:
    """Both tables, as they were read and joined.

    Attributes:
        parents, children: declarations of the joined tables, named after the request.
        of_parents, of_children: their real data in the vault.
        key: that joins them.
        count: the column that holds how many children a parent has.
        orphans: children whose parent is not there; they were left out.
    """

    parents: DatasetSpec
    children: DatasetSpec
    of_parents: RealData
    of_children: RealData
    key: KeyDeclaration
    count: str
    orphans: int


def learn(home: Home, request: DataRequest) -> Family:
    """Read both sources, join them, and put both tables into the vault.

    Raises:
        RequestError: a key is no key of these tables.
    """
    (key,) = request.spec.source.keys
    with problems_in("spec.source.tables"):
        parents, of_parents = _raw(home, request, key.of_parent[0])
        children, of_children = _raw(home, request, key.of_child[0])
    _check(key, of_parents, of_children)
    keys, own = of_parents.frame[key.of_parent[1]], of_children.frame[key.of_child[1]]
    there = own.isin(keys)
    count = f"{key.of_child[0]}_count"
    counts = keys.map(own[there].value_counts()).fillna(0).astype("int64")
    with problems_in("spec.source.tables"):
        whole = replace(of_parents, frame=of_parents.frame.assign(**{count: counts.to_numpy()}))
        parents = _identified(parents, key.of_parent[1])
        learned = store(split_and_protect(whole, parents), parents, home, remember=False)
        schema = learned.schema
        if not isinstance(schema, TableSchema):
            raise DataError("keys join tables, this dataset holds images")
        names = [column.name for column in schema.modelled if column.name != count]
        joined = _joined(of_parents, of_children, key, names, there)
        children = _bounded(children, key.of_child[1])
        beside = store(split_and_protect(joined, children), children, home, remember=False)
    return Family(parents, children, learned, beside, key, count, int((~there).sum()))


def answer(
    home: Home, request: DataRequest, report: OnProgress, announce: Announce
) -> tuple[tuple[Published, ...], Release | None]:
    """Make, judge and publish both tables, or none; the release is one that a gate stopped."""
    report(Progress("ingest", 0, 1, 0.0))
    family = learn(home, request)
    parents = _parents(home, request, family)
    report(Progress("fit parents", 0, 1, 0.0))
    steps.fit(parents, report)
    steps.sample(parents, report)
    children = _children(home, request, family, parents)
    found = [_existing(release) for release in (parents, children)]
    if all(found):
        return tuple(version for version in found if version is not None), None
    report(Progress("fit children", 0, 1, 0.0))
    steps.fit(children, report)
    steps.sample(children, report)
    for release in (parents, children):
        steps.score(release, report)
        report(Progress("decide", 0, 1, 0.0))
        if not steps.decide(release).passed:
            return (), release
    _require_keys(parents, children)
    releases = [partial(steps.place, release) for release in (parents, children)]
    return announcement.publish(home, releases, announce, report), None


def _raw(home: Home, request: DataRequest, table: str) -> tuple[DatasetSpec, RawTable]:
    name = request.spec.source.tables[table]
    if not isinstance(name, str):
        raise ParameterError("learned tables are datasets, this one is a declared schema")
    spec = dataset_of(home, request, name)
    raw = read_source(spec.source, home.vault)
    if not isinstance(raw, RawTable):
        raise DataError(f"keys join tables, the dataset {name!r} holds images")
    if raw.seen > len(raw.frame):
        raise DataError(f"both tables must be read whole to be joined, {name!r} is too large")
    return spec.model_copy(update={"name": f"{request.metadata.name}.{table}"}), raw


def _check(key: KeyDeclaration, parents: RawTable, children: RawTable) -> None:
    problems = []
    for field, raw, column in (
        ("parent", parents, key.of_parent[1]),
        ("child", children, key.of_child[1]),
    ):
        if column not in raw.frame.columns:
            said = f"there is no column {column!r} in that table"
            problems.append(Problem(f"spec.source.keys.0.{field}", said))
    if not problems:
        keys = parents.frame[key.of_parent[1]]
        if keys.isna().any() or keys.duplicated().any():
            said = "a parent's key must be there in every row, and in no two the same"
            problems.append(Problem("spec.source.keys.0.parent", said))
        if not children.frame[key.of_child[1]].isin(keys).any():
            said = "no child has one of the parents' keys"
            problems.append(Problem("spec.source.keys.0.child", said))
    if problems:
        raise RequestError(tuple(problems))


def _identified(spec: DatasetSpec, key: str) -> DatasetSpec:
    """``spec`` with its key as an id: fresh ones take the place of the real ones."""
    return spec.model_copy(
        update={
            "columns": {**spec.columns, key: ColumnSpec(kind="id", description="Key.")},
            "drop": tuple(name for name in spec.drop if name != key),
            "entity": (key,),
        }
    )


def _bounded(spec: DatasetSpec, key: str) -> DatasetSpec:
    """``spec`` learned from one child of each parent, whose key is no column to learn."""
    drop = tuple(dict.fromkeys((*spec.drop, key)))
    protection = spec.protection.model_copy(update={"rows_per_subject": 1})
    columns = {name: column for name, column in spec.columns.items() if name not in drop}
    return spec.model_copy(
        update={"entity": (key,), "drop": drop, "protection": protection, "columns": columns}
    )


def _joined(
    parents: RawTable,
    children: RawTable,
    key: KeyDeclaration,
    names: list[str],
    there: pd.Series,
) -> RawTable:
    """Children that have a parent, with what it is like."""
    own = children.frame[there].reset_index(drop=True)
    rows = parents.frame.set_index(key.of_parent[1])[names].loc[own[key.of_child[1]]]
    beside = rows.reset_index(drop=True).add_prefix(_OF_PARENT)
    return RawTable(pd.concat([own, beside], axis=1), types=children.types)


def _parents(home: Home, request: DataRequest, family: Family) -> Release:
    model = steps.prepare(family.parents, home, family.of_parents)
    key = request_key(request, f"{model.model_key} {family.of_children.digest}")
    rows = request.spec.rows or model.rows
    order = _order(
        request, family.parents.name, SampleSpec(rows=rows, seed=order_seed(request, key))
    )
    return steps.prepare(family.parents, home, family.of_parents, order)


def _order(request: DataRequest, name: str, sample: SampleSpec) -> Order:
    about, asked = request.metadata, request.spec
    return Order(
        name=name,
        description=about.purpose,
        sample=sample,
        csv="csv" in asked.output.formats,
        csv_safe=asked.output.csv_safe,
        owner=about.owner,
        purpose=about.purpose,
        labels=dict(about.labels),
    )


def _children(home: Home, request: DataRequest, family: Family, parents: Release) -> Release:
    """The order of the children of the parents that were sampled."""
    schema = family.of_children.schema
    if not isinstance(schema, TableSchema) or parents.order is None:
        raise DataError("keys join tables, this dataset holds images")
    given = _given(family, parents, schema)
    digest = hashlib.sha256(
        canonical_json({"parents": parents.key, "rows": len(given)}).encode()
    ).hexdigest()
    path = given_file(home, family.children, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    given.to_parquet(partial, index=False)
    partial.replace(path)
    key = family.key.of_child[1]
    own = tuple(n for n in schema.names if not n.startswith(_OF_PARENT))
    rows = len(given)
    sample = SampleSpec(rows=max(rows, 1), seed=derive_seed("children", parents.order.sample.seed))
    said = (
        f"every key is one of {parents.name}; {rows:,} children of {given[key].nunique():,} "
        "parents, as many for each as the parents' model has learned, drawn given the parent's "
        "attributes and judged beside them, one child of each parent"
    )
    left = f"; {family.orphans:,} real children without a parent were left out"
    order = _order(request, family.children.name, sample).model_copy(
        update={
            "columns": own,
            "note": said + (left if family.orphans else ""),
            "kin": Kin(
                digest=digest,
                key=key,
                dtype=str(given[key].dtype),
                first=int(given[key].nunique()),
            ),
        }
    )
    return steps.prepare(family.children, home, family.of_children, order)


def _given(family: Family, parents: Release, schema: TableSchema) -> pd.DataFrame:
    """A row a child: its parent's key and attributes, as columns of the children's model."""
    frame = steps.comparison(parents).synthetic
    if not isinstance(frame, pd.DataFrame):
        raise DataError("keys join tables, this dataset holds images")
    counts = frame[family.count].fillna(0).clip(lower=0).round().astype(int)
    shares = family.key.per_parent
    if shares is not None:
        repeated = np.repeat(list(shares), apportion(list(shares.values()), len(frame)))
        rng = np.random.default_rng(derive_seed("per parent", parents.seed))
        counts = pd.Series(rng.permutation(repeated))
    rows = frame.loc[frame.index.repeat(counts.tolist())].reset_index(drop=True)
    given = {family.key.of_child[1]: rows[family.key.of_parent[1]]}
    for name in schema.names:
        if name.startswith(_OF_PARENT):
            given[name] = _known(rows[name.removeprefix(_OF_PARENT)], name, schema)
    return pd.DataFrame(given)


def _known(cells: pd.Series, name: str, schema: TableSchema) -> pd.Series:
    """``cells`` of categories that the children's model has; others are of the rest, or drawn."""
    column = schema[name]
    if not column.discrete:
        return cells
    codec = ColumnCodec(column, column.levels, missing=True, continuous=False)
    unknown = cells.notna().to_numpy() & (codec.encode(cells)[0] < 0)
    rest = OTHER if OTHER in column.levels else None
    values = [rest if strange else cell for cell, strange in zip(cells, unknown, strict=True)]
    return pd.Series(values, dtype=object) if unknown.any() else cells


def _require_keys(parents: Release, children: Release) -> None:
    """Raise unless every key of the children, as written, is one of the parents.

    Raises:
        DataError: one is not.
    """
    given, kin = children.given, children.order.kin if children.order else None
    frame = steps.comparison(parents).synthetic
    if kin is None or not isinstance(frame, pd.DataFrame):
        raise DataError("children must have parents, these have none")
    written = steps.written(children)[kin.key]
    ids = [c.name for c in parents.real.schema.columns if c.kind == "id"]  # type: ignore[union-attr]
    known = set().union(*(set(frame[name]) for name in ids))
    if not set(written) <= known or len(written) != len(given):
        raise DataError("every child must have a parent that is published, some do not; ask again")


def _existing(release: Release) -> Published | None:
    return log.find_standing(open_lake(release.home.lake), release.name, release.key)
