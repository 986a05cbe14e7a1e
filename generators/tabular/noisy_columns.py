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

# A stretch of numbers is halved at most so often, and while it holds so many deviations of the
# noise and this share of the rows.
_DEPTH, _WORTH, _SHARE = 20, 4.0, 1 / 256
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
    halves = _halved(grid, places, present, rho / grid.depth, bits)
    starts, widths, mass = halves
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
    noisy = np.maximum(noisy_counts(counts, rho, bits).counts, 1e-9)
    drawn = systematic(noisy, len(series), rng)
    return codec.decode(drawn, np.full(len(series), np.nan))


@dataclass(frozen=True)
class _Grid:
    """The values of a column as whole numbers from 0 to ``size`` - 1.

    Attributes:
        first: the value at 0, in steps from zero: so zero, where most spikes are, is a value.
        step: between neighbours.
        size: number of values.
    """

    first: float
    step: float
    size: int

    @classmethod
    def of(cls, column: Column) -> _Grid:
        """By the schema alone; a continuous column has a fine grid."""
        low, high = float(column.low or 0.0), float(column.high or 0.0)
        fine = high / 2**_DEPTH - low / 2**_DEPTH
        coarsest = column.step if column.step and fine / column.step < 2**_DEPTH else None
        step = coarsest or fine or 1.0
        first = float(np.rint(low / step))
        return cls(first, step, round(np.rint(high / step) - first) + 1)

    @property
    def bits(self) -> int:
        """Of the greatest place."""
        return max((self.size - 1).bit_length(), 1)

    @property
    def depth(self) -> int:
        """How often the grid is halved, at most."""
        return min(self.bits, _DEPTH)

    def places(self, numbers: np.ndarray) -> np.ndarray:
        """Where these numbers are, int64; those beyond the bounds are at the bounds."""
        at = np.rint(numbers / self.step) - self.first
        places: np.ndarray = np.clip(at, 0, self.size - 1).astype(np.int64)
        return places

    def values(self, places: np.ndarray) -> np.ndarray:
        """The numbers at these places."""
        numbers: np.ndarray = (self.first + np.minimum(places, self.size - 1)) * self.step
        return numbers


def _halved(
    grid: _Grid, places: np.ndarray, rows: float, rho: float, bits: RandomBits
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Stretches of the grid and about how many rows each holds: starts, widths, masses.

    A row is in one stretch of every level, so each level costs ``rho``.
    """
    done: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    names, mass = np.zeros(1, np.int64), np.array([rows])
    for level in range(1, grid.depth + 1):
        width = 1 << (grid.bits - level)
        halves = np.stack([2 * names, 2 * names + 1], axis=1)
        inside = halves * width < grid.size
        found = np.bincount(
            *_counted(halves.ravel(), places // width), minlength=halves.size
        ).reshape(halves.shape)
        noisy = noisy_counts(found, rho, bits)
        part = np.where(inside, np.maximum(noisy.counts, 0.0), 0.0)
        part += 1e-9 * inside
        part *= (mass / part.sum(axis=1))[:, None]
        names, mass = halves[inside], part[inside]
        go_on = mass >= max(_WORTH * noisy.deviation, _SHARE * rows)
        if level == grid.depth:
            go_on[:] = False
        ended = names[~go_on]
        wide = np.minimum((ended + 1) * width, grid.size) - ended * width
        done.append((ended * width, wide, mass[~go_on]))
        names, mass = names[go_on], mass[go_on]
        if len(names) == 0:
            break
    starts, widths, masses = (np.concatenate(parts) for parts in zip(*done, strict=True))
    return starts, widths, masses


def _counted(names: np.ndarray, held: np.ndarray) -> tuple[np.ndarray]:
    """For each row whose stretch is among the ascending ``names``, where it is among them."""
    at = np.minimum(np.searchsorted(names, held), len(names) - 1)
    return (at[names[at] == held],)
