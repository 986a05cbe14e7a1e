"""Rows drawn by weight: what is exact, and how much chance is lost."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.tabular.resampling import balanced, systematic


def pairs_of_cells(states: np.ndarray, size: int) -> np.ndarray:
    """The pairs of columns that rows are in, numbered through."""
    pairs = itertools.combinations(range(states.shape[1]), 2)
    keys = [states[:, a] * size + states[:, b] + at * size**2 for at, (a, b) in enumerate(pairs)]
    return np.stack(keys, axis=1)


def unevenness(cells: np.ndarray, weights: np.ndarray, chosen: np.ndarray) -> float:
    """Squared errors of the cells' rows against what the weights say, as chi-square counts them."""
    wide = cells.shape[1]
    share = np.repeat(weights * len(chosen) / weights.sum(), wide)
    due = np.bincount(cells.ravel(), share)
    found = np.bincount(cells[chosen].ravel(), minlength=len(due))
    return float(((found - due) ** 2 / (due + 1)).sum())


def test_overlapping_cells_are_far_nearer_to_the_weights_than_by_systematic_draws() -> None:
    rng = np.random.default_rng(0)
    # Ordered by the first column, as rows of the tilt are.
    states = np.sort(rng.integers(8, size=(6000, 1)), axis=0)
    states = np.hstack([states, (states + rng.integers(5, size=(6000, 4))) % 8])
    cells, weights = pairs_of_cells(states, 8), rng.random(6000) + 0.2
    usual = unevenness(cells, weights, systematic(weights, 2000, rng))
    even = balanced(weights, 2000, cells, rng)
    assert unevenness(cells, weights, even) < 0.3 * usual
    # Weights below that of a row of the result: none is repeated.
    assert len(np.unique(even)) == 2000


def test_rows_like_few_others_are_as_likely_as_their_weights_say() -> None:
    rng = np.random.default_rng(1)
    states = rng.integers(4, size=(60, 3))
    # A third of the rows is alone in all its cells: to leave them out would be the most even.
    states[::3] = 4 + np.arange(20)[:, None]
    cells, weights = pairs_of_cells(states, 24), np.where(np.arange(60) % 2, 1.0, 2.0)
    kept = np.zeros(60)
    for seed in range(200):
        kept[balanced(weights, 20, cells, np.random.default_rng(seed))] += 1 / 200
    due = weights * 20 / weights.sum()
    # Standard errors: 0.035 of a row, 0.008 of the twenty.
    assert np.abs(kept - due).max() < 0.14
    assert abs(kept[::3].mean() - due[::3].mean()) < 0.03


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_every_row_is_drawn_as_often_as_its_weight_says_rounded_up_or_down(
    rows: int, size: int, facets: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random(rows) + 1e-3
    chosen = balanced(weights, size, rng.integers(5, size=(rows, facets)), rng)
    due = weights * size / weights.sum()
    often = np.bincount(chosen, minlength=rows)
    assert len(chosen) == size
    assert (np.diff(chosen) >= 0).all()
    assert (often >= np.floor(due - 1e-9)).all()
    assert (often <= np.ceil(due + 1e-9)).all()
