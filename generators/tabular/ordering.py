"""Which column comes first, and in which order a tree sees the levels of a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import scipy.sparse
from scipy.stats import rankdata

from generators.base import derive_seed
from generators.encoding import EncodedTable, TableCodec

_BINS = 16
_ORDER_ROWS = 10_000
_ORDER_CELLS = 2_000_000
# A column of more categories is cut into bins as a number is.
_MAX_CLASSES = 48
_CELLS = 24
# Rows of the whole table that are added to every level before levels are put in order.
_ORDER_PRIOR = 10.0


@dataclass(frozen=True)
class Scale:
    """A column as one number in [0, 1] that trees can split on; missing is -1.

    Numbers keep their order and distances; categories stand in a telling order.

    Attributes:
        of_code: the score of every code that is not continuous.
        low, span: of the continuous values.
    """

    of_code: np.ndarray
    low: float
    span: float

    def __call__(self, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Scores (float32, shape (N,)), the precision that trees split at."""
        between = np.isfinite(values)
        scores = self.of_code[np.where(between, 0, codes)]
        scores[between] = (values[between] - self.low) / self.span
        scores32: np.ndarray = scores.astype(np.float32)
        return scores32


def mutual_information(encoded: EncodedTable, codec: TableCodec, seed: int) -> np.ndarray:
    """Mutual information in nats of all pairs of columns, shape (D, D), on a subsample of rows.

    Columns are cut into few bins; the bias of the plug-in estimate is taken off (Miller 1955).
    """
    wide = len(codec.columns)
    rows = min(len(encoded), _ORDER_ROWS, max(_ORDER_CELLS // wide, 500))
    rng = np.random.default_rng(derive_seed("forest order", seed))
    picked = rng.choice(len(encoded), rows, replace=False)
    bins = np.column_stack(
        [_coarse(encoded.codes[picked, d], encoded.values[picked, d]) for d in range(wide)]
    )
    cells = bins + np.arange(wide) * (_BINS + 1)
    pointer = np.arange(rows + 1) * wide
    ones = np.ones(rows * wide)
    hot = scipy.sparse.csr_array((ones, cells.ravel(), pointer), (rows, wide * (_BINS + 1)))
    joint = (hot.T @ hot).tocoo()
    counts = joint.data
    single = np.bincount(cells.ravel(), minlength=wide * (_BINS + 1))
    terms = counts / rows * np.log(counts * rows / (single[joint.row] * single[joint.col]))
    pair = joint.row // (_BINS + 1) * wide + joint.col // (_BINS + 1)
    plain = np.bincount(pair, terms, minlength=wide * wide).reshape(wide, wide)
    used = (single.reshape(wide, -1) > 0).sum(axis=1) - 1
    information: np.ndarray = np.maximum(plain - np.outer(used, used) / (2 * rows), 0)
    np.fill_diagonal(information, 0)
    return information


def column_order(
    information: np.ndarray, codec: TableCodec, encoded: EncodedTable, min_level: int
) -> list[int]:
    """Positions of the columns: a discrete target first, then by falling sum of information.

    A numerical target stays in its place, and so does one with a level that could not fill leaves
    of its own: drawn first, what such a target tells of the other columns is lost among their
    stronger predictors; drawn after them, it is predicted itself.
    """
    order: list[int] = np.argsort(-information.sum(axis=1), kind="stable").tolist()
    names = [column.column.name for column in codec.columns]
    if codec.schema.target in names:
        target = names.index(codec.schema.target)
        counts = np.bincount(encoded.codes[:, target])
        if codec.columns[target].column.discrete and counts[counts > 0].min() >= min_level:
            order.remove(target)
            order.insert(0, target)
    return order


def scales(codec: TableCodec, encoded: EncodedTable, information: np.ndarray) -> list[Scale]:
    """The scale of every column.

    Levels of a category are put in the order of the mean rank of the ordered column that tells
    most about it, so that one split can separate many of them (Breiman et al. 1984, §4.2).
    """
    ordered = [not c.column.discrete or len(c.levels) <= 2 for c in codec.columns]
    made: list[Scale | None] = [
        _plain_scale(codec, encoded, position) if is_ordered else None
        for position, is_ordered in enumerate(ordered)
    ]
    filled: list[Scale] = []
    for position, scale in enumerate(made):
        tells = np.where(ordered, information[position], -1)
        anchor = made[int(np.argmax(tells))]
        if scale is None and anchor is not None and tells.max() > 0:
            at = int(np.argmax(tells))
            ranks = rankdata(anchor(encoded.codes[:, at], encoded.values[:, at]))
            scale = _level_scale(codec, encoded.codes[:, position], position, ranks)
        filled.append(scale or _plain_scale(codec, encoded, position))
    return filled


def _coarse(codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Bins 0 .. _BINS: the most frequent codes, then quantile bins, or one bin for the rest."""
    between = np.isfinite(values)
    counts = np.bincount(codes[~between]) if not between.all() else np.zeros(1, np.int64)
    room = _BINS // 2 if between.any() else _BINS
    top = np.argsort(-counts, kind="stable")[:room]
    of_code = np.full(len(counts), _BINS)
    of_code[top] = np.arange(len(top))
    bins = of_code[np.where(between, 0, codes)]
    if between.any():
        parts = _BINS - len(top)
        edges = np.unique(np.quantile(values[between], np.linspace(0, 1, parts + 1)[1:-1]))
        bins[between] = len(top) + np.searchsorted(edges, values[between])
    return bins


def _plain_scale(codec: TableCodec, encoded: EncodedTable, position: int) -> Scale:
    column = codec.columns[position]
    values = encoded.values[:, position]
    levels = (
        np.arange(len(column.levels), dtype=np.float64)
        if column.column.discrete
        else np.asarray(column.levels, dtype=np.float64)
    )
    numbers = np.concatenate([levels, values[np.isfinite(values)]])
    low, high = (float(numbers.min()), float(numbers.max())) if len(numbers) else (0.0, 1.0)
    span = high - low or 1.0
    return Scale(np.append((levels - low) / span, -1.0), low, span)


def _level_scale(codec: TableCodec, codes: np.ndarray, position: int, ranks: np.ndarray) -> Scale:
    size = len(codec.columns[position].levels)
    counts = np.bincount(codes, minlength=size + 1)[:size]
    sums = np.bincount(codes, ranks, minlength=size + 1)[:size]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), ranks.mean())
    place = np.empty(size)
    place[np.argsort(means, kind="stable")] = np.arange(size) / max(size - 1, 1)
    return Scale(np.append(place, -1.0), 0.0, 1.0)


@dataclass(frozen=True)
class Predictors:
    """The columns that the trees of one column ask about, as numbers to split on.

    Attributes:
        columns: their positions; shape (D,).
        scales: one for each.
    """

    columns: np.ndarray
    scales: list[Scale]

    def __call__(self, encoded: EncodedTable) -> np.ndarray:
        """Scores (float32, shape (N, D))."""
        scores = np.empty((len(encoded), len(self.columns)), np.float32)
        for place, (column, scale) in enumerate(zip(self.columns, self.scales, strict=True)):
            scores[:, place] = scale(encoded.codes[:, column], encoded.values[:, column])
        return scores

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        """Arrays for saving; ``restore`` is the inverse."""
        sizes = [len(scale.of_code) for scale in self.scales]
        ranges = [[scale.low, scale.span] for scale in self.scales]
        return {
            f"{prefix}.asked": np.asarray(self.columns, dtype=np.int64),
            f"{prefix}.of_code": np.concatenate([s.of_code for s in self.scales] or [np.empty(0)]),
            f"{prefix}.sizes": np.array(sizes, dtype=np.int64),
            f"{prefix}.ranges": np.array(ranges, dtype=np.float64).reshape(-1, 2),
        }

    @classmethod
    def restore(cls, prefix: str, arrays: dict[str, np.ndarray]) -> Self:
        """The predictors that ``state`` wrote."""
        ends = np.cumsum(arrays[f"{prefix}.sizes"])[:-1]
        parts = np.split(arrays[f"{prefix}.of_code"], ends)
        ranges = arrays[f"{prefix}.ranges"].tolist()
        scales = [Scale(part, low, span) for part, (low, span) in zip(parts, ranges, strict=False)]
        return cls(arrays[f"{prefix}.asked"], scales)


def cells_of(codec: TableCodec, encoded: EncodedTable, position: int, scale: Scale) -> np.ndarray:
    """A column in few cells (int32, shape (N,)): what trees predict.

    Codes where they are few, else quantile bins of the scores, where a frequent value has a bin
    of its own.
    """
    codes = encoded.codes[:, position]
    if codec.columns[position].column.discrete and codec.columns[position].size <= _MAX_CLASSES:
        return codes
    scores = scale(codes, encoded.values[:, position])
    values, rank, repeats = np.unique(scores, return_inverse=True, return_counts=True)
    spikes = np.argsort(-repeats, kind="stable")[:_CELLS]
    spikes = spikes[repeats[spikes] * _CELLS >= len(scores)]
    rest = np.where(np.isin(np.arange(len(values)), spikes), 0, repeats)
    parts = np.cumsum(rest) - rest / 2
    cell_of_value = len(spikes) + (parts * _CELLS / max(rest.sum(), 1)).astype(np.int64)
    cell_of_value[spikes] = np.arange(len(spikes))
    return np.unique(cell_of_value[rank], return_inverse=True)[1].astype(np.int32)


def telling_scale(codes: np.ndarray, cells: np.ndarray, levels: int) -> Scale:
    """Levels of a category in the order that tells most about the ``cells`` of a target.

    The order is that of the first principal component of the levels' distributions over the
    cells (Coppersmith, Hong, Hosking 1999); rare levels are drawn towards the whole table's.
    """
    width = int(cells.max(initial=0)) + 1
    joint = np.bincount(codes.astype(np.int64) * width + cells, minlength=(levels + 1) * width)
    joint = joint[: (levels + 1) * width].reshape(levels + 1, width).astype(np.float64)
    rows = joint.sum(axis=1)
    whole = joint.sum(axis=0) / max(rows.sum(), 1.0)
    share = (joint + _ORDER_PRIOR * whole) / (rows + _ORDER_PRIOR)[:, None] - whole
    spread = (share * rows[:, None]).T @ share
    axis = np.linalg.eigh(spread)[1][:, -1]
    axis *= np.sign(axis[np.argmax(np.abs(axis))])
    place = np.empty(levels + 1)
    place[np.argsort(share @ axis, kind="stable")] = np.arange(levels + 1) / max(levels, 1)
    return Scale(place, 0.0, 1.0)
