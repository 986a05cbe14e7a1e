"""Bagged sequential CART: the default generator for tables.

Columns are put in order. The first comes from its marginal; every later one from decision trees
on the columns before it: a synthetic row picks one of the column's trees, falls into a leaf, and
draws a member of that leaf (Reiter 2005, "Using CART to generate partially synthetic public use
microdata"; Nowok, Raab, Dibben 2016, "synthpop"). Three things keep it from copying:

- leaves are honest (Athey, Imbens 2016): the rows that shape a tree are not the rows in its leaves;
- continuous values are interpolated between the order statistics of the leaf's distinct values;
- rows that equal a training row are drawn again until they are as rare as in fresh real data.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse
from scipy.stats import rankdata
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.tree._tree import Tree

from generators.base import (
    Block,
    Generator,
    Modality,
    OnProgress,
    ParameterError,
    Progress,
    SchemaError,
    derive_seed,
)
from generators.encoding import EncodedTable, TableCodec
from generators.schema import Data, TableSchema
from generators.tabular.independent import (
    Leaves,
    Support,
    draw_cells,
    learnable,
    restore_supports,
    supports,
    supports_state,
)

# Above this a classifier is slow and hungry; codes in a telling order serve a regressor as well.
_MAX_CLASSES = 64
# Small tables get smaller leaves: this share of the rows, but never fewer than the second.
_LEAF_SHARE = 0.02
_LEAF_FLOOR = 5
# More rows shape no better trees, only slower ones; they still fill honest leaves.
_SHAPE_ROWS = 100_000
_BINS = 16
_ORDER_ROWS = 10_000
_ORDER_CELLS = 2_000_000
_REDRAWS = 10
# Models that estimate how often unseen rows are hit, and the share of rows that each leaves out.
_PROBES = 2
_PROBE_FOLDS = 5
# A column is a function of another only if its levels stand for this many rows on average.
_MIN_SUPPORT = 5
_PROBE_ROWS = 1000

Arrays: TypeAlias = dict[str, np.ndarray]


@dataclass(frozen=True)
class Trees:
    """The trees of one column in flat arrays, and the members of their leaves.

    Attributes:
        feature: position of the column that a node asks about, -1 in a leaf; shape (nodes,).
        threshold: rows go left where their score is at most this; shape (nodes,).
        left, right: child nodes; shape (nodes,).
        leaf: number of the leaf that a node is, -1 elsewhere; shape (nodes,).
        roots: the first node of each tree; shape (trees,).
        leaves: the members of all leaves.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    roots: np.ndarray
    leaves: Leaves

    def apply(self, scores: np.ndarray, tree: np.ndarray) -> np.ndarray:
        """The leaf that each row of ``scores`` (N, D) reaches in the tree that it picked."""
        node = self.roots[tree]
        active = np.flatnonzero(self.feature[node] >= 0)
        while len(active):
            at = node[active]
            goes_left = scores[active, self.feature[at]] <= self.threshold[at]
            node[active] = np.where(goes_left, self.left[at], self.right[at])
            active = active[self.feature[node[active]] >= 0]
        reached: np.ndarray = self.leaf[node]
        return reached

    def state(self, prefix: str) -> Arrays:
        """Arrays for saving; ``restore`` is the inverse."""
        own = {name: getattr(self, name) for name in _TREE_ARRAYS}
        members = {name: getattr(self.leaves, name) for name in _LEAF_ARRAYS}
        return {f"{prefix}.{name}": array for name, array in {**own, **members}.items()}

    @classmethod
    def restore(cls, prefix: str, arrays: Arrays) -> Self:
        """The trees that ``state`` wrote."""
        leaves = Leaves(**{name: arrays[f"{prefix}.{name}"] for name in _LEAF_ARRAYS})
        return cls(**{name: arrays[f"{prefix}.{name}"] for name in _TREE_ARRAYS}, leaves=leaves)


_TREE_ARRAYS = ("feature", "threshold", "left", "right", "leaf", "roots")
_LEAF_ARRAYS = ("start", "tokens", "cumulative")


@dataclass(frozen=True)
class _Branches:
    """One fitted tree before it is merged: nodes, and the leaf node of every member."""

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    members: np.ndarray
    home: np.ndarray


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


@dataclass(kw_only=True)
class Forest(Generator):
    """Bagged sequential CART with honest leaves.

    Attributes:
        trees: trees for each column; a row picks one at random.
        min_leaf: training rows in a leaf; the knob between fidelity (small) and privacy (large).
            Tables below 2,500 rows use 2 % of their rows, at least 5, where that is less.
        subsample: share of the rows, drawn without replacement, that shapes a tree.
        honest: leaves hold the rows that did not shape the tree, else those that did.
        max_predictors: earlier columns that a tree may ask about, by mutual information.
        smooth: interpolate continuous values, else copy them.
        verbatim_guard: draw a row again where it equals a training row, until such rows are as
            rare as among fresh real rows.
    """

    trees: int = 8
    min_leaf: int = 50
    subsample: float = 0.5
    honest: bool = True
    max_predictors: int = 32
    smooth: bool = True
    verbatim_guard: bool = True

    name: ClassVar[str] = "forest"
    suits: ClassVar[str] = "the default for tables on a CPU"
    modality: ClassVar[Modality] = "table"

    def __post_init__(self) -> None:
        for field in ("trees", "min_leaf", "max_predictors"):
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} must be at least 1, got {getattr(self, field)}; raise it"
                )
        if not 0 < self.subsample <= 1 or (self.honest and self.subsample == 1):
            raise ParameterError(
                "subsample must be above 0 and at most 1, below 1 with honest leaves, "
                f"got {self.subsample}; try 0.5"
            )

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.codec_, encoded = learnable(data, schema)
        self.supports_ = supports(self.codec_, encoded)
        information = mutual_information(encoded, self.codec_, self.seed)
        self.order_ = column_order(information, self.codec_, encoded, 4 * self.min_leaf)
        self.scales_ = scales(self.codec_, encoded, information)
        table = _TrainingTable.of(encoded, self.supports_, self.scales_)
        self.trees_: dict[int, Trees] = {}
        for column, trees in self._grow(table, information):
            self.trees_[column] = trees
            seconds = time.perf_counter() - begin
            progress(Progress("fit", len(self.trees_), len(self.order_), seconds))
        self.once_, self.natural_ = copy_profile(_snapped(encoded, self.supports_))
        if self.verbatim_guard and self.natural_ > 0:
            self.natural_ = min(self.natural_, self._unseen_rate(data, schema))

    def _unseen_rate(self, data: pd.DataFrame, schema: TableSchema) -> float:
        """The rate at which this model would hit the rows seen once, had it not seen them.

        A fresh real row hits them at the Good-Turing rate, a model less often, for it is smoother
        than the truth. Were copies let through at the rate of real rows, a row in train would be
        hit more often than one that is not. Hence models of the rows outside a probe, and their
        hits within it.
        """
        probes = np.random.default_rng(derive_seed("forest probe", self.seed)).permutation(
            len(data)
        )
        hits, rows, probed = 0, 0, 0
        for fold in range(_PROBES):
            probe = np.sort(probes[fold::_PROBE_FOLDS])
            rest = np.delete(np.arange(len(data)), probe)
            if len(rest) < 2:
                return self.natural_
            seen = _hashes(self.codec_, data.iloc[probe], self.supports_)
            known = np.sort(seen[_contains(self.once_, seen)])
            other = replace(self, verbatim_guard=False).fit(data.iloc[rest], schema)
            drawn = other.sample(max(len(data), _PROBE_ROWS), seed=fold)
            hits += int(_contains(known, _hashes(self.codec_, drawn, self.supports_)).sum())
            rows, probed = rows + len(drawn), probed + len(known)
        return hits / rows * len(self.once_) / max(probed, 1) * _PROBES

    def _grow(self, table: _TrainingTable, information: np.ndarray) -> Iterator[tuple[int, Trees]]:
        """The trees of each column in order; the result does not depend on the thread count."""
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            pending = []
            for place, column in enumerate(self.order_):
                earlier = np.array(self.order_[:place], dtype=np.int64)
                best = np.argsort(-information[column, earlier], kind="stable")
                asked = np.sort(earlier[best[: self.max_predictors]])
                known = [other for other in asked if table.determines(other, column)]
                asked = np.array(known[:1]) if known else asked
                count = self.trees if len(asked) and not known else 1
                pending.append(
                    [pool.submit(self._branch, table, column, asked, k) for k in range(count)]
                )
            for column, futures in zip(self.order_, pending, strict=True):
                grown = [future.result() for future in futures]
                yield column, merge(grown, table.tokens[:, column])

    def _branch(
        self, table: _TrainingTable, column: int, asked: np.ndarray, number: int
    ) -> _Branches:
        rows = len(table.scores)
        if len(asked) == 0:
            return _stump(np.arange(rows))
        if len(asked) == 1 and table.determines(asked[0], column):
            return _lookup(table.scores[:, asked[0]], asked[0])
        seed = derive_seed("forest", self.seed, column, number)
        shuffled = np.random.default_rng(seed).permutation(rows).astype(np.int32)
        cut = max(round(self.subsample * rows), 1)
        if self.honest:
            cut = min(cut, rows - 1, _SHAPE_ROWS)
        shape = np.sort(shuffled[:cut])
        members = np.sort(shuffled[cut:]) if self.honest else shape
        leaf = min(self.min_leaf, max(_LEAF_FLOOR, round(_LEAF_SHARE * rows)))
        if len(shape) < 2 * leaf:
            return _stump(members)
        model = (DecisionTreeClassifier if table.classes[column] else DecisionTreeRegressor)(
            min_samples_leaf=leaf, random_state=seed % 2**32
        )
        scores = table.scores[:, asked]
        model.fit(scores[shape], table.response(column, shape))
        return _branches(model.tree_, asked, members, model.apply(scores[members]), leaf)

    def _sample_block(self, block: Block) -> pd.DataFrame:
        rng = block.rng()
        encoded = self._draw(block.size, rng)
        if self.verbatim_guard:
            self._redraw_copies(encoded, rng)
        return self.codec_.decode(encoded, first_row=block.start)

    def _draw(self, size: int, rng: np.random.Generator) -> EncodedTable:
        shape = (size, len(self.supports_))
        codes, values = np.empty(shape, np.int32), np.empty(shape, np.float64)
        scores = np.zeros(shape, np.float32)
        for column in self.order_:
            trees = self.trees_[column]
            leaf = trees.apply(scores, rng.integers(len(trees.roots), size=size))
            support = self.supports_[column]
            drawn = draw_cells(support, trees.leaves, leaf, rng, smooth=self.smooth)
            codes[:, column], values[:, column] = drawn
            scores[:, column] = self.scales_[column](*drawn)
        return EncodedTable(codes, values)

    def _redraw_copies(self, encoded: EncodedTable, rng: np.random.Generator) -> None:
        """Replace, in place, rows that equal a training row seen once, beyond the natural rate."""
        copied = np.flatnonzero(_contains(self.once_, row_hashes(encoded)))
        keep = min(1.0, self.natural_ * len(encoded) / max(len(copied), 1))
        rows = copied[rng.random(len(copied)) >= keep]
        for _ in range(_REDRAWS):
            if len(rows) == 0:
                return
            fresh = self._draw(len(rows), rng)
            encoded.codes[rows], encoded.values[rows] = fresh.codes, fresh.values
            rows = rows[_contains(self.once_, row_hashes(fresh))]

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {**supports_state(self.supports_), "once": self.once_}
        for column, trees in self.trees_.items():
            arrays.update(trees.state(f"{column}"))
            arrays[f"{column}.of_code"] = self.scales_[column].of_code
        state = {
            "codec": self.codec_.to_json(),
            "order": self.order_,
            "ranges": [[scale.low, scale.span] for scale in self.scales_],
            "natural": self.natural_,
        }
        return arrays, state

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.supports_ = restore_supports(self.codec_, arrays)
        self.order_ = state["order"]
        self.trees_ = {column: Trees.restore(f"{column}", arrays) for column in self.order_}
        self.scales_ = [
            Scale(arrays[f"{column}.of_code"], low, span)
            for column, (low, span) in enumerate(state["ranges"])
        ]
        self.once_, self.natural_ = arrays["once"], state["natural"]


@dataclass(frozen=True)
class _TrainingTable:
    """Training rows as the trees see them.

    Attributes:
        scores: float32, shape (N, D); what trees split on.
        tokens: int32, shape (N, D); what leaves hold.
        classes: for each column whether a classifier fits it, else a regressor on ranks.
    """

    scores: np.ndarray
    tokens: np.ndarray
    classes: list[bool]

    @classmethod
    def of(cls, encoded: EncodedTable, columns: list[Support], scale: list[Scale]) -> Self:
        """The encoded table with these supports and scales."""
        shape = encoded.codes.shape
        scores, tokens = np.empty(shape, np.float32), np.empty(shape, np.int32)
        for position, support in enumerate(columns):
            cells = encoded.codes[:, position], encoded.values[:, position]
            tokens[:, position] = support.tokens(*cells)
            scores[:, position] = scale[position](*cells)
        classes = [
            support.codec.column.discrete and support.codec.size <= _MAX_CLASSES
            for support in columns
        ]
        return cls(scores, tokens, classes)

    def determines(self, column: int, other: int) -> bool:
        """Whether ``other`` is a function of ``column``, as a city is of its postcode.

        A level must stand for several rows on average, or the function would be chance.
        """
        step = max(1, len(self.tokens) // _PROBE_ROWS)
        for every in (step, 1):
            key = self.tokens[::every, column].astype(np.int64)
            levels = len(np.unique(key))
            if every == 1 and levels * _MIN_SUPPORT > len(key):
                return False
            if len(np.unique(key << 32 | self.tokens[::every, other])) > levels:
                return False
        return True

    def response(self, column: int, rows: np.ndarray) -> np.ndarray:
        """What a tree for ``column`` predicts: its codes, or the ranks of its scores in [0, 1]."""
        if self.classes[column]:
            return np.asarray(self.tokens[rows, column])
        ranks: np.ndarray = np.asarray(rankdata(self.scores[rows, column])) / len(rows)
        return ranks


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


def merge(grown: list[_Branches], tokens: np.ndarray) -> Trees:
    """One column's trees in flat arrays, with the ``tokens`` of their members in the leaves."""
    sizes = [len(tree.feature) for tree in grown]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    feature = np.concatenate([tree.feature for tree in grown])
    is_leaf = feature < 0
    leaf = np.where(is_leaf, np.cumsum(is_leaf) - 1, -1)
    home = np.concatenate([tree.home + root for tree, root in zip(grown, roots, strict=True)])
    members = np.concatenate([tree.members for tree in grown])
    shift = np.repeat(roots, sizes)
    return Trees(
        feature=feature,
        threshold=np.concatenate([tree.threshold for tree in grown]),
        left=np.concatenate([tree.left for tree in grown]) + shift,
        right=np.concatenate([tree.right for tree in grown]) + shift,
        leaf=leaf,
        roots=roots,
        leaves=Leaves.build(leaf[home], tokens[members], int(is_leaf.sum())),
    )


def copy_profile(encoded: EncodedTable) -> tuple[np.ndarray, float]:
    """What the guard against copies needs to know of the training rows.

    Returns:
        Hashes of the rows seen once, ascending, and the rate at which a fresh real row would equal
        one of them: twice the number of distinct rows seen twice, over all rows (Good 1953).
    """
    hashes, counts = np.unique(row_hashes(encoded), return_counts=True)
    return hashes[counts == 1], float(2 * (counts == 2).sum() / len(encoded))


def row_hashes(encoded: EncodedTable) -> np.ndarray:
    """A 64-bit hash of every row (uint64, shape (N,)), mixed as in SplitMix64 (Steele 2014)."""
    hashes = np.zeros(len(encoded), dtype=np.uint64)
    for position in range(encoded.codes.shape[1]):
        values = encoded.values[:, position]
        between = np.isfinite(values)
        # Adding zero turns -0.0 into 0.0.
        bits = (np.where(between, values, 0.0) + 0.0).view(np.uint64)
        code = encoded.codes[:, position].astype(np.uint64)
        hashes = _mix(hashes ^ _mix(np.where(between, bits, code)))
    return hashes


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


def _contains(ascending: np.ndarray, items: np.ndarray) -> np.ndarray:
    if len(ascending) == 0:
        return np.zeros(len(items), dtype=bool)
    at = np.minimum(np.searchsorted(ascending, items), len(ascending) - 1)
    found: np.ndarray = ascending[at] == items
    return found


def _hashes(codec: TableCodec, frame: Data, columns: list[Support]) -> np.ndarray:
    if not isinstance(frame, pd.DataFrame):
        raise SchemaError("a table generator samples frames")
    return row_hashes(_snapped(codec.encode(frame), columns))


def _snapped(encoded: EncodedTable, columns: list[Support]) -> EncodedTable:
    values = np.column_stack(
        [support.codec.snap(encoded.values[:, d]) for d, support in enumerate(columns)]
    )
    return EncodedTable(encoded.codes, values)


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


def _stump(members: np.ndarray) -> _Branches:
    leaf, child = np.array([-1], dtype=np.int64), np.zeros(1, dtype=np.int64)
    return _Branches(leaf, np.zeros(1), child, child, members, np.zeros(len(members), np.int64))


def _lookup(scores: np.ndarray, column: int) -> _Branches:
    """A balanced tree with a leaf for every distinct score, all rows being members."""
    levels, home = np.unique(scores, return_inverse=True)
    feature: list[int] = []
    threshold: list[float] = []
    left: list[int] = []
    right: list[int] = []
    leaf_of_level = np.empty(len(levels), dtype=np.int64)
    waiting = [(0, len(levels), -1, False)]
    while waiting:
        low, high, parent, on_right = waiting.pop()
        node = len(feature)
        if parent >= 0:
            (right if on_right else left)[parent] = node
        inner = high - low > 1
        middle = (low + high) // 2
        feature.append(column if inner else -1)
        threshold.append(float(levels[middle - 1]) if inner else 0.0)
        left.append(0)
        right.append(0)
        if inner:
            waiting += [(middle, high, node, True), (low, middle, node, False)]
        else:
            leaf_of_level[low] = node
    return _Branches(
        feature=np.array(feature, dtype=np.int64),
        threshold=np.array(threshold),
        left=np.array(left, dtype=np.int64),
        right=np.array(right, dtype=np.int64),
        members=np.arange(len(scores)),
        home=leaf_of_level[home],
    )


def _branches(
    tree: Tree, asked: np.ndarray, members: np.ndarray, home: np.ndarray, floor: int
) -> _Branches:
    """A fitted scikit-learn tree, cut back where a leaf would hold fewer than ``floor`` members."""
    top = _tops(tree.children_left, tree.children_right, home, floor)
    keep = top == np.arange(len(top))
    number = np.cumsum(keep) - 1
    inner = keep & (tree.children_left >= 0)
    inner &= top[tree.children_left] == tree.children_left
    return _Branches(
        feature=np.where(inner, asked[np.maximum(tree.feature, 0)], -1)[keep],
        threshold=np.where(inner, tree.threshold, 0.0)[keep],
        left=np.where(inner, number[tree.children_left], 0)[keep],
        right=np.where(inner, number[tree.children_right], 0)[keep],
        members=members,
        home=number[top[home]].astype(np.int32),
    )


def _tops(left: np.ndarray, right: np.ndarray, home: np.ndarray, floor: int) -> np.ndarray:
    """For every node itself, or the highest ancestor that is cut to a leaf."""
    counts = np.bincount(home, minlength=len(left)).tolist()
    lefts, rights = left.tolist(), right.tolist()
    # Children come after their parents, so one pass up and one pass down are enough.
    for node in range(len(lefts) - 1, -1, -1):
        if lefts[node] >= 0:
            counts[node] = counts[lefts[node]] + counts[rights[node]]
    top = list(range(len(lefts)))
    for node in range(len(lefts)):
        one, other = lefts[node], rights[node]
        if one < 0:
            continue
        if top[node] != node or min(counts[one], counts[other]) < floor:
            top[one] = top[other] = top[node]
    return np.array(top, dtype=np.int64)
