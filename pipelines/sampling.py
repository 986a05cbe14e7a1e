"""What a request for rows means to a fitted model: conditions and exact quotas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from generators import GENERATORS
from generators.base import Conditional, Generator, OnProgress, ParameterError, derive_seed
from generators.conditions import Allowed, Condition, Conditions
from generators.encoding import surrogate
from generators.schema import Column, Data, Level, TableSchema

from .spec import QuotaSpec, SampleSpec

_PROBE_ROWS = 20_000
"""Rows that tell the shares of groups and outcomes under the model."""


def sample_rows(
    generator: Generator, request: SampleSpec, progress: OnProgress | None = None
) -> Data:
    """Exactly the rows that are asked for.

    Raises:
        ParameterError: a condition or a quota is wrong, or the family takes none.
        NoSupport: no row of the model fulfils a condition.
    """
    if not request.where and not request.quotas and not request.parity:
        return generator.sample(request.rows, seed=request.seed, progress=progress)
    model = conditional(generator)
    schema: TableSchema = model.codec_.schema
    where = Conditions.parse(request.where, schema)
    if request.parity:
        shares = parity(model, where, request)
    elif request.quotas:
        asked = strata(request.quotas, request.rows, schema)
        shares = [((condition,), rows) for condition, rows in asked]
    else:
        return model.sample_where(where, request.rows, seed=request.seed, progress=progress)
    parts = []
    for number, (conditions, rows) in enumerate(shares):
        within = Conditions(schema, (*where.items, *conditions))
        seed = derive_seed("quota", request.seed, number)
        parts.append(model.sample_where(within, rows, seed=seed, progress=progress))
    return _mixed([part for part in parts if isinstance(part, pd.DataFrame)], schema, request.seed)


def conditional(generator: Generator) -> Conditional:
    """``generator`` as one that takes conditions.

    Raises:
        ParameterError: it takes none; the message names the families that do.
    """
    if isinstance(generator, Conditional):
        return generator
    able = [name for name in GENERATORS if issubclass(GENERATORS[name], Conditional)]
    raise ParameterError(
        f"conditions, quotas and completion need a generator that can, {generator.name} cannot; "
        f"fit one of {', '.join(able)}"
    )


def parity(
    model: Conditional, where: Conditions, request: SampleSpec
) -> list[tuple[tuple[Condition, ...], int]]:
    """Conditions and rows under which group and outcome are independent.

    The groups of all protected columns together have their shares, and each has the outcomes of
    all rows: statistical parity by reweighing (Kamiran and Calders 2012, Data preprocessing
    techniques for classification without discrimination), met exactly, by drawing and not by
    weights. What depends on both stays as the model has it.

    Raises:
        ParameterError: target or protected columns are not declared, or are no categories.
    """
    schema: TableSchema = model.codec_.schema
    target, protected = parity_columns(schema, request)
    names = [*protected, target]
    if not target or not protected:
        raise ParameterError(
            "parity needs a target and protected columns, the model has not both; fit it with "
            "--target and --protected"
        )
    ranged = [name for name in names if not schema[name].discrete]
    if ranged:
        raise ParameterError(
            f"parity is among categories, {', '.join(ranged)} has a range; fit the model with "
            "--kind NAME=categorical or another column"
        )
    seed = derive_seed("parity", request.seed)
    probe = model.sample_where(where, max(request.rows, _PROBE_ROWS), seed=seed)
    if not isinstance(probe, pd.DataFrame):
        raise ParameterError(f"parity is for tables, {model.name} makes images; leave it out")
    cells = probe[names].astype(object)
    groups, of_group = _shares(cells[list(protected)])
    outcomes, of_outcome = _shares(cells[[target]])
    asked = []
    for group, rows in zip(groups, apportion(of_group, request.rows), strict=True):
        for outcome, count in zip(outcomes, apportion(of_outcome, rows), strict=True):
            values = zip(names, (*group, *outcome), strict=True)
            conditions = tuple(_exactly(schema[name], value) for name, value in values)
            asked.append((conditions, count))
    return [pair for pair in asked if pair[1]]


def parity_columns(schema: TableSchema, request: SampleSpec) -> tuple[str, tuple[str, ...]]:
    """The outcome and the group columns of parity; empty where neither declares them."""
    return request.target or schema.target or "", request.groups or schema.protected


def _shares(cells: pd.DataFrame) -> tuple[list[tuple[Level | None, ...]], list[float]]:
    """The distinct rows of ``cells`` in a fixed order, and the share of each."""
    rows = (tuple(None if pd.isna(c) else c for c in row) for row in cells.itertuples(index=False))
    counts: Counter[tuple[Any, ...]] = Counter(rows)
    distinct = sorted(counts, key=repr)
    return distinct, [counts[row] / len(cells) for row in distinct]


def _exactly(column: Column, value: Level | None) -> Condition:
    if value is None:
        return Condition(column, Allowed(missing=True), f"{column.name} is missing")
    return Condition(column, Allowed(frozenset({value})), f"{column.name} = {value}")


def strata(
    quotas: Sequence[QuotaSpec], rows: int, schema: TableSchema
) -> list[tuple[Condition, int]]:
    """Each quota's condition with its exact number of rows; the last one may be all the rest.

    Rows are given out by the largest remainder.

    Raises:
        ParameterError: a condition is wrong, quotas are on several columns, overlap, or sum to
            more than 1.
    """
    conditions = [Condition.parse(quota.condition, schema) for quota in quotas]
    names = sorted({condition.column.name for condition in conditions})
    if len(names) > 1:
        raise ParameterError(
            f"quotas must be on one column, they are on {', '.join(names)}; keep one and put the "
            "others into --where"
        )
    for one, other in combinations(conditions, 2):
        both = one.allowed & other.allowed
        if both.levels or both.intervals or both.missing:
            raise ParameterError(
                f"quotas must not overlap, {one.text!r} and {other.text!r} do; part them"
            )
    shares = [quota.share for quota in quotas]
    if sum(shares) > 1 + 1e-9:
        raise ParameterError(
            f"quotas must sum to at most 1, they sum to {sum(shares):g}; lower them"
        )
    if sum(shares) < 1 - 1e-9:
        conditions.append(_rest(conditions))
        shares.append(1 - sum(shares))
    return [pair for pair in zip(conditions, apportion(shares, rows), strict=True) if pair[1]]


def apportion(shares: Sequence[float], rows: int) -> list[int]:
    """``rows`` given out by ``shares`` that sum to 1, by the largest remainder (Hamilton)."""
    # Rounded first: 0.29 of 100 rows are 29, not 28.999999999999996.
    exact = np.round(np.asarray(shares) * rows, 6)
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: rows - int(counts.sum())]] += 1
    given: list[int] = counts.tolist()
    return given


def _rest(conditions: Sequence[Condition]) -> Condition:
    """All rows that fulfil none of these conditions on one column."""
    column = conditions[0].column
    allowed = conditions[0].negated().allowed
    for condition in conditions[1:]:
        allowed = allowed & condition.negated().allowed
    texts = " or ".join(condition.text for condition in conditions)
    return Condition(column, allowed, f"not ({texts})")


def _mixed(parts: Sequence[pd.DataFrame], schema: TableSchema, seed: int) -> pd.DataFrame:
    """The rows of all strata in random order, their surrogates numbered anew."""
    whole = pd.concat(parts, ignore_index=True)
    order = np.random.default_rng(derive_seed("quota order", seed)).permutation(len(whole))
    mixed = whole.iloc[order].reset_index(drop=True)
    for column in schema.columns:
        if not column.modelled:
            mixed[column.name] = surrogate(column, len(mixed), 0)
    return mixed
