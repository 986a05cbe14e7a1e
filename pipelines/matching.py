"""What an order with conditions is judged against: the real rows that it would have had.

Rows under conditions are compared with the real rows that fulfil the same conditions, drawn in the
same exact shares. Where these are too few, the model is judged by a sample without conditions, and
the report says so. Privacy is measured against all real rows in either case: an attacker has no
reason to leave some out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from generators.base import LikenessError, derive_seed
from generators.conditions import Condition, Conditions
from generators.schema import TableSchema
from validators import Comparison

from .order import Order
from .sampling import parity_columns, strata

ON_ALL = ("calibration", "copies", "membership")
"""Validators that ask about single records, or about the split, whatever was asked for."""
ENOUGH = 300
"""So many train and so many holdout rows must match."""
ON_MATCHING, ON_MODEL = "matching real rows", "the model without conditions"
"""What the likeness of conditioned rows is measured on."""


class UnfulfilledError(LikenessError, RuntimeError):
    """Rows are not what was asked; nothing was published."""


@dataclass(frozen=True)
class Likeness:
    """What likeness is measured on, and a sentence that says so."""

    data: Comparison
    note: str


def require_asked(frame: pd.DataFrame, schema: TableSchema, order: Order) -> None:
    """Raise unless every row fulfils the order's conditions, and quotas are met to the row.

    Args:
        frame: its rows, edge cases aside, by their learned names.
        schema: of the real rows.
        order: what was asked; conditions on columns that ``frame`` has not are left aside.

    Raises:
        UnfulfilledError: a row or a number of rows is not what was asked.
    """
    asked, there = order.sample, set(frame.columns)
    wrong = int(len(frame) != asked.rows)
    for condition in Conditions.parse(asked.where, schema).items:
        if condition.column.name in there:
            wrong += int((~_fits(frame, condition)).sum())
    if asked.quotas:
        for condition, rows in strata(asked.quotas, asked.rows, schema):
            if condition.column.name in there:
                wrong += abs(int(_fits(frame, condition).sum()) - rows)
    if wrong:
        raise UnfulfilledError(
            f"every row must fulfil the request's conditions and quotas, {wrong:,} of "
            f"{asked.rows:,} do not; nothing was published, report this as a bug"
        )


def _fits(frame: pd.DataFrame, condition: Condition) -> np.ndarray:
    column, allowed = condition.column, condition.allowed
    if column.dtype.lower() == "float32":
        # A bound that is no float32 itself lies beside the value that stands for it.
        with np.errstate(over="ignore"):
            ends = [(float(np.float32(a)), float(np.float32(b))) for a, b in allowed.intervals]
        pairs = zip(allowed.intervals, ends, strict=True)
        wide = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in pairs)
        allowed = replace(allowed, intervals=wide)
    return allowed.matches(frame[column.name], column)


def conditioned(order: Order) -> bool:
    """Whether the rows of ``order`` are distributed otherwise than all rows."""
    return bool(order.sample.where or order.sample.quotas or order.sample.parity)


@dataclass(frozen=True)
class Matching:
    """All real rows, in all their columns."""

    train: pd.DataFrame
    holdout: pd.DataFrame

    def measured_on(self, schema: TableSchema, order: Order) -> str:
        """What the likeness of ``order``'s rows is measured on: one of two fixed texts."""
        for name, frame in (("train", self.train), ("holdout", self.holdout)):
            if len(self._alike(name, frame, schema, order)) < ENOUGH:
                return ON_MODEL
        return ON_MATCHING

    @staticmethod
    def _alike(name: str, frame: pd.DataFrame, schema: TableSchema, order: Order) -> np.ndarray:
        rng = np.random.default_rng(derive_seed("matching", name, order.sample.seed))
        return _rows(frame, schema, order, rng)

    def matched(self, schema: TableSchema, order: Order, data: Comparison) -> Likeness | None:
        """Real rows like those of ``order``, or None where there are too few.

        Args:
            schema: of the real rows.
            order: what was asked.
            data: its rows beside all real rows, in the published columns.
        """
        parts = []
        for name, frame in (("train", self.train), ("holdout", self.holdout)):
            rows = self._alike(name, frame, schema, order)
            if len(rows) < ENOUGH:
                return None
            parts.append(frame.iloc[rows][list(data.frames()[3].names)].reset_index(drop=True))
        train, holdout = parts
        varied = _varied(train, holdout, data)
        note = (
            "fidelity, utility, diversity and bias are measured against the real rows that fulfil "
            f"the request's conditions and shares: {len(train):,} train and {len(holdout):,} "
            "holdout rows; privacy against all"
        )
        names = list(varied.names)
        synthetic = data.frames()[2][names]
        matched = Comparison(synthetic, train[names], holdout[names], varied, data.seed)
        return Likeness(matched, note)


def unmatched(data: Comparison, free: pd.DataFrame) -> Likeness:
    """The model judged by a sample without conditions, since too few real rows fulfil them."""
    note = (
        f"fewer than {ENOUGH} real train or holdout rows fulfil the request's conditions and "
        "shares, too few to compare with: fidelity, utility, diversity and bias are those of the "
        "model, measured on a sample without conditions; structure and privacy are those of these "
        "rows"
    )
    return Likeness(replace(data, synthetic=free), note)


def _rows(
    frame: pd.DataFrame, schema: TableSchema, order: Order, rng: np.random.Generator
) -> np.ndarray:
    """Numbers of the rows that match, sorted."""
    where = Conditions.parse(order.sample.where, schema).matches(frame)
    rows = np.flatnonzero(where)
    if order.sample.quotas:
        asked = strata(order.sample.quotas, order.sample.rows, schema)
        parts = [
            rows[condition.allowed.matches(frame[condition.column.name], condition.column)[rows]]
            for condition, _ in asked
        ]
        return _in_shares(parts, [count / order.sample.rows for _, count in asked], rng)
    if order.sample.parity:
        return _fair(frame, rows, schema, order, rng)
    return rows


def _fair(
    frame: pd.DataFrame,
    rows: np.ndarray,
    schema: TableSchema,
    order: Order,
    rng: np.random.Generator,
) -> np.ndarray:
    target, groups = parity_columns(schema, order.sample)
    cells = frame.iloc[rows]
    group = cells.groupby(list(groups), dropna=False, sort=True, observed=True).ngroup().to_numpy()
    outcome = cells.groupby(target, dropna=False, sort=True, observed=True).ngroup().to_numpy()
    parts, shares = [], []
    for one in np.unique(group):
        for other in np.unique(outcome):
            parts.append(rows[(group == one) & (outcome == other)])
            shares.append(float((group == one).mean() * (outcome == other).mean()))
    return _in_shares(parts, shares, rng)


def _in_shares(
    parts: Sequence[np.ndarray], shares: Sequence[float], rng: np.random.Generator
) -> np.ndarray:
    """As many rows as there are in exact shares of the parts, drawn without replacement."""
    most = min(len(part) / share for part, share in zip(parts, shares, strict=True) if share > 0)
    chosen = [
        rng.choice(part, min(len(part), int(share * most)), replace=False)
        for part, share in zip(parts, shares, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _varied(train: pd.DataFrame, holdout: pd.DataFrame, data: Comparison) -> TableSchema:
    """The columns that the conditions leave something of to compare."""
    *_, schema = data.frames()
    kept = [
        column
        for column in schema.columns
        if not column.modelled
        or train[column.name].nunique(dropna=False) > 1
        or holdout[column.name].nunique(dropna=False) > 1
    ]
    names = {column.name for column in kept}
    return TableSchema(
        tuple(kept),
        schema.target if schema.target in names else None,
        tuple(name for name in schema.protected if name in names),
    )
