"""Rows drawn by weight, with the least variance."""

from __future__ import annotations

import numpy as np

# Shares that rows are first given of one position; a power of two, so that they can be halved.
_SHARES = 4
# Steps of a halving, the share of pairs that each looks at, and that it turns at first.
_STEPS = 60
_SEEN, _TURNED = 0.1, 0.007
# Rows whose cells are counted at once.
_CHUNK = 8192


def systematic(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` ascending positions, each as often as its weight says, rounded down or up.

    So a row is not repeated unless its weight is above that of an average row of the result
    (Kitagawa 1996, "Monte Carlo filter and smoother", systematic resampling).
    """
    return _evenly(np.cumsum(weights), size, rng.random())


def _evenly(cumulative: np.ndarray, size: int, start: float) -> np.ndarray:
    """Where points a step apart lie, the first at this part of a step."""
    points = (np.arange(size) + start) / size * cumulative[-1]
    points = np.minimum(points, np.nextafter(cumulative[-1], 0))
    chosen: np.ndarray = np.searchsorted(cumulative, points, side="right")
    return chosen


def balanced(
    weights: np.ndarray, size: int, cells: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Like ``systematic``, and overlapping cells are about as frequent as the weights say.

    Each row is exactly as likely as without balance; what is lost is chance (balanced sampling:
    Deville, Tille 2004, "Efficient balanced sampling: the cube method"). Rows are given quarters
    of a position systematically. Then neighbours with an odd number of quarters pass one from one
    to the other, and neighbours with an odd number of halves a half.

    Args:
        weights: of the rows, of which neighbours are the more alike the better; shape (N,).
        size: number of positions.
        cells: the cells that each row counts in, from 0; integers, shape (N, F).
        rng: decides all draws.
    """
    shares = _evenly(np.cumsum(weights), _SHARES * size, rng.random())
    held, unit = np.bincount(shares, minlength=len(weights)), 1
    worth = 1 / (_frequencies(cells, held, int(cells.max(initial=0)) + 1) / _SHARES + 1)
    while unit < _SHARES:
        odd = np.flatnonzero(held // unit % 2)
        pairs = odd.reshape(-1, 2)
        signs = _even_signs(cells[pairs[:, 0]], cells[pairs[:, 1]], worth, rng)
        held[pairs[:, 0]] += unit * signs
        held[pairs[:, 1]] -= unit * signs
        unit *= 2
    return np.repeat(np.arange(len(held)), held // _SHARES)


def _even_signs(
    one: np.ndarray, other: np.ndarray, worth: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """For each pair of rows which of them gains (1) or loses (-1), so that cells change little.

    A coin says which row of all pairs gains at first. Then pairs are turned, some of a few at a
    time, where that evens the cells most. Had the coin fallen the other way, every sign would have
    ended the other way: so both are equally likely for every pair.

    Args:
        one: the cells of the first row of each pair; shape (N, F).
        other: those of the second row; shape (N, F).
        worth: of each cell's squared change; shape (C,).
        rng: decides all draws.
    """
    signs = np.full(len(one), 1 if rng.random() < 0.5 else -1)
    gained = _frequencies(one, signs, len(worth)) - _frequencies(other, signs, len(worth))
    narrow = worth.astype(np.float32)
    apart = np.zeros(len(one), np.float32)
    for a, b in zip(one.T, other.T, strict=True):
        apart += np.where(a != b, np.take(narrow, a) + np.take(narrow, b), 0)
    for step in range(_STEPS):
        some = np.flatnonzero(rng.random(len(one)) < _SEEN)
        pull = (worth * gained).astype(np.float32)
        towards = np.take(pull, one[some]).sum(axis=1) - np.take(pull, other[some]).sum(axis=1)
        change = apart[some] - signs[some] * towards
        most = max(round(_TURNED * len(one) * (1 - step / _STEPS)), 1)
        best = np.argsort(change, kind="stable")[:most]
        turned = some[best[change[best] < 0]]
        cells = np.concatenate([one[turned], other[turned]])
        signs[turned] *= -1
        gained += 2 * _frequencies(cells, np.append(signs[turned], -signs[turned]), len(worth))
    return signs


def _frequencies(cells: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """How many rows each of ``most`` cells has, where each row of ``cells`` (N, F) is so many."""
    found = np.zeros(most)
    for part in (slice(start, start + _CHUNK) for start in range(0, len(cells), _CHUNK)):
        each = np.repeat(rows[part], cells.shape[1])
        found += np.bincount(cells[part].ravel(), each, minlength=most)
    return found


def systematic_each(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``systematic`` for each row of ``weights`` (N, K): ascending positions, (N, size)."""
    ends = np.cumsum(weights, axis=1)
    ends /= ends[:, -1:]
    rows = np.arange(len(weights))[:, None]
    points = (np.arange(size) + rng.random((len(weights), 1))) / size
    found = np.searchsorted((ends + rows).ravel(), (points + rows).ravel(), side="right")
    # Rounding must not reach another row.
    chosen = found.reshape(points.shape) - rows * weights.shape[1]
    inside: np.ndarray = np.clip(chosen, 0, weights.shape[1] - 1)
    return inside
