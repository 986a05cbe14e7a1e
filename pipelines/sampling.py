"""What a request for rows means to a fitted model: conditions and exact quotas."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from generators import GENERATORS
from generators.base import Conditional, Generator, OnProgress, ParameterError, derive_seed
from generators.conditions import Condition, Conditions
from generators.encoding import surrogate
from generators.schema import Data, TableSchema

from .spec import QuotaSpec, SampleSpec


def sample_rows(
    generator: Generator, request: SampleSpec, progress: OnProgress | None = None
) -> Data:
    """Exactly the rows that are asked for.

    Raises:
        ParameterError: a condition or a quota is wrong, or the family takes none.
        NoSupport: no row of the model fulfils a condition.
    """
    if not request.where and not request.quotas:
        return generator.sample(request.rows, seed=request.seed, progress=progress)
    model = conditional(generator)
    schema: TableSchema = model.codec_.schema
    where = Conditions.parse(request.where, schema)
    if not request.quotas:
        return model.sample_where(where, request.rows, seed=request.seed, progress=progress)
    parts = []
    for number, (condition, rows) in enumerate(strata(request.quotas, request.rows, schema)):
        within = Conditions(schema, (*where.items, condition))
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
