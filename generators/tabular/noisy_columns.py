"""Columns under differential privacy: rows that agree with noisy counts of each column alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from generators.base import derive_seed
from generators.encoding import ColumnCodec, finite_numbers, from_numbers
from generators.mechanisms import RandomBits, noisy_counts
from generators.schema import Column, TableSchema
from generators.tabular.resampling import systematic

# A grid has at most so many bits; a stretch is divided by 16, while it holds so many deviations of
# the noise and this share of the rows.
_BITS, _AT_ONCE, _WORTH, _SHARE = 48, 4, 4.0, 1 / 128
# Rows that each level has at least, in deviations of the noise; all together a share of the rows.
_LEAST, _LEAST_SHARE = 0.25, 0.02
# Rounding to more decimals is not exact in floats.
_DECIMALS = 22
# What of a column's privacy goes to how many of its numbers are missing.
_MISSING = 0.2


def independent_rows(
    data: pd.DataFrame, schema: TableSchema, rho: float, bits: RandomBits
) -> pd.DataFrame:
    """As many rows as ``data`` of independent columns, by ρ-zCDP counts of each column.

    Public are the schema, with its levels, bounds and steps, and the number of rows.

    Raises:
        SchemaError: a category is no level of the schema.
        DataError: a value is infinite.
    """
    columns = schema.modelled
    share = rho / max(len(columns), 1)
    made = {c.name: _noisy(data[c.name], c, share, bits) for c in columns}
    return pd.DataFrame(made)


def _noisy(series: pd.Series, column: Column, rho: float, bits: RandomBits) -> pd.Series:
    # Which rows hold what does not matter, and what is drawn from counts costs no privacy.
    rng = np.random.default_rng(derive_seed("noisy column", column.name))
    if column.discrete:
        return _noisy_levels(series, column, rho, bits, rng)
    numbers = finite_numbers(series, column)
    if column.low is None or column.high is None:
        return from_numbers(np.full(len(series), np.nan), column)
    grid, present = _Grid.of(column), float(len(series))
    if column.nullable:
        known = np.isfinite(numbers).sum()
        both = noisy_counts(np.array([known, len(series) - known]), _MISSING * rho, bits)
        # What the schema allows is possible, so there is a row of either kind.
        present = float(np.clip(both.counts[0], 1, len(series) - 1))
        rho *= 1 - _MISSING
    places = grid.places(numbers[np.isfinite(numbers)])
    starts, widths, mass = _divided(grid, places, present, rho / grid.levels, bits)
    rows = round(present)
    chosen = systematic(np.maximum(mass, 1e-9), rows, rng)
    place = starts[chosen] + (rng.random(rows) * widths[chosen]).astype(np.int64)
    values = np.concatenate([grid.values(place), np.full(len(series) - rows, np.nan)])
    return from_numbers(ColumnCodec(column, (), True, continuous=True).snap(values), column)


def _noisy_levels(
    series: pd.Series, column: Column, rho: float, bits: RandomBits, rng: np.random.Generator
) -> pd.Series:
    missing = column.nullable or not column.levels
    codec = ColumnCodec(column, column.levels, missing, continuous=False)
    codec.require_known(series)
    codes, _ = codec.encode(series)
    counts = np.bincount(np.maximum(codes, 0), minlength=codec.size)
    noisy = noisy_counts(counts, rho, bits)
    held = on_simplex(noisy.counts[None], np.array([len(series)]))[0]
    # A level of the schema is public, so none is lost to noise, nor do all together take a part.
    least = min(noisy.deviation * _LEAST, _LEAST_SHARE * len(series) / codec.size)
    drawn = systematic(np.maximum(held, least), len(series), rng)
    return codec.decode(drawn, np.full(len(series), np.nan))


@dataclass(frozen=True)
class _Grid:
    """The values of a column as whole numbers from 0 to ``size`` - 1.

    Attributes:
        first: the value at 0, in steps from zero: so zero, where most spikes are, is a value.
        step: between neighbours.
        size: number of values.
        decimals: to which values are rounded where the schema knows no step.
    """

    first: float
    step: float
    size: int
    decimals: int | None

    @classmethod
    def of(cls, column: Column) -> _Grid:
        """By the schema alone; a continuous column has a fine grid."""
        low, high = float(column.low or 0.0), float(column.high or 0.0)
        finest = (high / 2**_BITS - low / 2**_BITS) or 1.0
        known = column.step is not None and column.step > finest
        step = column.step if column.step is not None and known else finest
        first = float(np.rint(low / step))
        # As few as tell a value from its neighbours: one that was typed comes back as it was.
        decimals = None if known else int(np.floor(-np.log10(2 * step)))
        return cls(first, step, round(np.rint(high / step) - first) + 1, decimals)

    @property
    def levels(self) -> int:
        """How often the grid is divided until every value stands alone."""
        return max(-(-(self.size - 1).bit_length() // _AT_ONCE), 1)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where these numbers are, int64; those beyond the bounds are at the bounds."""
        at = np.rint(numbers / self.step) - self.first
        places: np.ndarray = np.clip(at, 0, self.size - 1).astype(np.int64)
        return places

    def values(self, places: np.ndarray) -> np.ndarray:
        """The numbers at these places."""
        numbers: np.ndarray = (self.first + np.minimum(places, self.size - 1)) * self.step
        if self.decimals is not None and abs(self.decimals) <= _DECIMALS:
            numbers = np.round(numbers, self.decimals)
        return numbers


def _divided(
    grid: _Grid, places: np.ndarray, rows: float, rho: float, bits: RandomBits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of the grid and about how many rows each holds: starts, widths, masses.

    A row is in one stretch of every level, so each level costs ``rho``.
    """
    done: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    names, mass = np.zeros(1, np.int64), np.array([rows])
    for level in range(grid.levels - 1, -1, -1):
        width = 1 << (_AT_ONCE * level)
        parts = (names[:, None] << _AT_ONCE) + np.arange(1 << _AT_ONCE)
        found = _counted(parts.ravel(), places // width).reshape(parts.shape)
        noisy = noisy_counts(found, rho, bits)
        # Beyond the grid there is nothing, by the schema.
        inside = parts * width < grid.size
        held = on_simplex(np.where(inside, noisy.counts, -np.inf), mass)
        names, mass = parts[inside], held[inside]
        go_on = mass >= max(_WORTH * noisy.deviation, _SHARE * rows)
        go_on &= level > 0
        ended = names[~go_on] * width
        done.append((ended, np.minimum(width, grid.size - ended), mass[~go_on]))
        names, mass = names[go_on], mass[go_on]
        if len(names) == 0:
            break
    starts, widths, masses = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return starts, widths, masses


def _counted(names: np.ndarray, held: np.ndarray) -> np.ndarray:
    """How many rows are in each of these stretches, whose names ascend."""
    at = np.minimum(np.searchsorted(names, held), len(names) - 1)
    counts: np.ndarray = np.bincount(at[names[at] == held], minlength=len(names))
    return counts


def on_simplex(counts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Each row (R, C) moved to the nearest that is not negative and sums to its total (R,).

    Duchi et al. 2008, "Efficient projections onto the l1-ball". Minus infinity stays out.
    """
    falling = -np.sort(-counts, axis=1)
    finite = np.where(np.isfinite(falling), falling, 0.0)
    over = (np.cumsum(finite, axis=1) - totals[:, None]) / np.arange(1, counts.shape[1] + 1)
    last = (falling > over).sum(axis=1) - 1
    nearest: np.ndarray = np.maximum(counts - over[np.arange(len(over)), last][:, None], 0.0)
    return nearest
