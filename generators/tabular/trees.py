"""Classification trees in flat arrays, grown on some rows and pruned by others.

A tree is grown greedily (Breiman et al. 1984) on the rows that shape it. The rows held out from
that then decide, from the bottom up, which splits stay: one stays if it raises the leave-one-out
likelihood of the held-out rows by more than its price. So leaves are large where a column cannot
be predicted and small where it can.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self, TypeAlias

import numpy as np
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from sklearn.tree._tree import Tree

from generators.tabular.leaves import Leaves

Arrays: TypeAlias = dict[str, np.ndarray]

BINS = 128


@dataclass(frozen=True)
class Trees:
    """The trees of one column in flat arrays, and the members of their leaves.

    Attributes:
        feature: column of the scores that a node asks about, -1 in a leaf; shape (nodes,).
        threshold: rows go left where their score is at most this; shape (nodes,).
        left, right: child nodes; shape (nodes,).
        leaf: number of the leaf that a node is, -1 elsewhere; shape (nodes,).
        roots: the first node of each tree; shape (trees,).
        leaves: the members of all leaves.
        shrink: rows of its parent that are added to every node.
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf: np.ndarray
    roots: np.ndarray
    leaves: Leaves
    shrink: float = 0.0

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

    def shrunk(self, leaf: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """For each leaf itself or, by chance, another below one of its ancestors.

        A draw from it is one from the leaf's distribution after every node's has been drawn
        towards its parent's by ``shrink`` rows (hierarchical shrinkage: Agarwal, Tan, Ronen,
        Singh, Yu 2022, arXiv 2202.00858): a node of n rows gives way to its parent with chance
        ``shrink / (n + shrink)``.
        """
        if self.shrink <= 0:
            return leaf
        node = self._nodes[leaf]
        gives_way = self.shrink / (self._ends[node] - self._begins[node] + self.shrink)
        active = np.flatnonzero(rng.random(len(node)) < gives_way)
        active = active[self._parents[node[active]] >= 0]
        moved = active
        while len(active):
            node[active] = self._parents[node[active]]
            at = node[active]
            gives_way = self.shrink / (self._ends[at] - self._begins[at] + self.shrink)
            further = (rng.random(len(at)) < gives_way) & (self._parents[at] >= 0)
            active = active[further]
        at = node[moved]
        row = self._begins[at] + rng.random(len(at)) * (self._ends[at] - self._begins[at])
        starts = self.leaves.cumulative[self.leaves.start]
        leaf = leaf.copy()
        leaf[moved] = np.searchsorted(starts, row.astype(np.int64), side="right") - 1
        return leaf

    @cached_property
    def _nodes(self) -> np.ndarray:
        """The node of each leaf."""
        return np.flatnonzero(self.leaf >= 0)

    @cached_property
    def _parents(self) -> np.ndarray:
        """The parent of each node, -1 above a root."""
        parents = np.full(len(self.feature), -1)
        inner = np.flatnonzero(self.feature >= 0)
        parents[self.left[inner]] = parents[self.right[inner]] = inner
        return parents

    @cached_property
    def _begins(self) -> np.ndarray:
        """The first row below each node: nodes stand in depth-first order, and so do leaves."""
        before: np.ndarray = np.cumsum(self.leaf >= 0) - (self.leaf >= 0)
        begins: np.ndarray = self.leaves.cumulative[self.leaves.start[before]]
        return begins

    @cached_property
    def _ends(self) -> np.ndarray:
        """The row behind the last one below each node."""
        last = self.leaf.copy()
        for node in np.flatnonzero(self.feature >= 0)[::-1].tolist():
            last[node] = last[self.right[node]]
        ends: np.ndarray = self.leaves.cumulative[self.leaves.start[last + 1]]
        return ends

    def state(self, prefix: str) -> Arrays:
        """Arrays for saving; ``restore`` is the inverse."""
        own = {name: getattr(self, name) for name in _TREE_ARRAYS}
        members = {name: getattr(self.leaves, name) for name in _LEAF_ARRAYS}
        return {f"{prefix}.{name}": array for name, array in {**own, **members}.items()}

    @classmethod
    def restore(cls, prefix: str, arrays: Arrays, shrink: float = 0.0) -> Self:
        """The trees that ``state`` wrote."""
        leaves = Leaves(**{name: arrays[f"{prefix}.{name}"] for name in _LEAF_ARRAYS})
        own = {name: arrays[f"{prefix}.{name}"] for name in _TREE_ARRAYS}
        return cls(**own, leaves=leaves, shrink=shrink)


_TREE_ARRAYS = ("feature", "threshold", "left", "right", "leaf", "roots")
_LEAF_ARRAYS = ("start", "tokens", "cumulative")


@dataclass(frozen=True)
class Branches:
    """One fitted tree before it is merged: nodes, and the leaf node of every member."""

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    members: np.ndarray
    home: np.ndarray


def merge(grown: list[Branches], tokens: np.ndarray, shrink: float = 0.0) -> Trees:
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
        shrink=shrink,
    )


def without(grown: Branches, left_out: np.ndarray) -> Branches:
    """The tree without these members (bool, shape (N,), of all rows; some must stay).

    A leaf that loses all its members gets one that it never had.
    """
    stay = ~left_out[grown.members]
    members, home = grown.members[stay], grown.home[stay]
    empty = np.setdiff1d(np.flatnonzero(grown.feature < 0), home)
    any_row = np.full(len(empty), np.argmin(left_out))
    return replace(
        grown, members=np.concatenate([members, any_row]), home=np.concatenate([home, empty])
    )


def stump(members: np.ndarray) -> Branches:
    """A tree of one leaf with these members."""
    leaf, child = np.array([-1], dtype=np.int64), np.zeros(1, dtype=np.int64)
    return Branches(leaf, np.zeros(1), child, child, members, np.zeros(len(members), np.int64))


def lookup(scores: np.ndarray) -> Branches:
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
        feature.append(0 if inner else -1)
        threshold.append(float(levels[middle - 1]) if inner else 0.0)
        left.append(0)
        right.append(0)
        if inner:
            waiting += [(middle, high, node, True), (low, middle, node, False)]
        else:
            leaf_of_level[low] = node
    return Branches(
        feature=np.array(feature, dtype=np.int64),
        threshold=np.array(threshold),
        left=np.array(left, dtype=np.int64),
        right=np.array(right, dtype=np.int64),
        members=np.arange(len(scores)),
        home=leaf_of_level[home],
    )


@dataclass(frozen=True)
class Growth:
    """How trees grow and how they are pruned.

    Attributes:
        min_leaf: fewest held-out rows in a leaf.
        price: nats of leave-one-out log-likelihood that a split must gain to stay.
        all_members: leaves hold all rows, else those that did not shape the tree.
    """

    min_leaf: int
    price: float
    all_members: bool = False


# Rows that the edges of bins are taken from.
_EDGE_ROWS = 100_000
# Rows that the marginal distribution stands for where a leaf's is judged.
_PRIOR_ROWS = 1.0
# More rows give no better tree, only a slower one, in a leaf that the pruning would cut anyhow.
_SHAPE_LEAF = 10


@dataclass(frozen=True)
class Binned:
    """Scores in at most ``BINS`` bins a column, so that a split is sought among few.

    Attributes:
        bins: float32, shape (N, D): bin i of a column holds the scores up to its edge i.
        edges: upper edges of each column's bins, but for the last; float32.
    """

    bins: np.ndarray
    edges: list[np.ndarray]

    @classmethod
    def of(cls, scores: np.ndarray, most: int = BINS) -> Self:
        """At most ``most`` quantile bins; one for every distinct score where these are few."""
        bins = np.empty(scores.shape, np.float32)
        edges = []
        for column in range(scores.shape[1]):
            some = scores[:: max(1, len(scores) // _EDGE_ROWS), column]
            values = np.unique(some)
            if len(values) > most:
                values = np.unique(np.quantile(some, np.linspace(0, 1, most), method="lower"))
            edges.append(values[:-1])
            bins[:, column] = np.searchsorted(values[:-1], scores[:, column])
        return cls(bins, edges)

    def thresholds(self, feature: np.ndarray, threshold: np.ndarray) -> np.ndarray:
        """The scores that split as these thresholds do between bins; float64."""
        made = np.zeros(len(feature))
        for node in np.flatnonzero(feature >= 0):
            made[node] = self.edges[feature[node]][int(threshold[node])]
        return made


def grow(
    scores: Binned, cells: np.ndarray, shape: np.ndarray, growth: Growth, seed: int
) -> Branches:
    """A tree for ``cells`` (N,) by ``scores``, shaped by the rows ``shape``.

    The other rows prune it; where there are none, it stays as it has grown.
    """
    bins = scores.bins
    rows = len(bins)
    others = np.setdiff1d(np.arange(rows), shape, assume_unique=True)
    leaf = min(growth.min_leaf, _SHAPE_LEAF) if len(others) else growth.min_leaf
    members = others if len(others) and not growth.all_members else np.arange(rows)
    if len(shape) < 2 * leaf:
        return stump(members)
    # Without rows held out nothing bounds the growth but purity, so cells may be as many as rows:
    # a regression splits them as well, at less cost.
    model = (
        DecisionTreeClassifier(criterion="entropy", min_samples_leaf=leaf, random_state=seed)
        if len(others)
        else DecisionTreeRegressor(min_samples_leaf=leaf, random_state=seed)
    )
    model.fit(bins[shape], cells[shape])
    home = model.apply(bins)
    tree = model.tree_
    top = np.arange(tree.node_count)
    if len(others):
        top = pruned(tree, counts(home[others], cells[others], tree.node_count), growth)
    branches = cut_back(tree, top, members, home[members])
    return replace(branches, threshold=scores.thresholds(branches.feature, branches.threshold))


def counts(home: np.ndarray, cells: np.ndarray, nodes: int) -> np.ndarray:
    """How many rows of each cell a node holds, shape (nodes, cells)."""
    width = int(cells.max(initial=0)) + 1
    key = home.astype(np.int64) * width + cells
    return np.bincount(key, minlength=nodes * width).reshape(nodes, width).astype(np.float64)


def pruned(tree: Tree, held: np.ndarray, growth: Growth) -> np.ndarray:
    """For every node itself, or the highest ancestor that becomes a leaf; shape (nodes,).

    Cost-complexity pruning (Breiman et al. 1984, chapter 3) on held-out rows, where the cost is
    the negative leave-one-out log-likelihood of the rows in a leaf.

    Args:
        tree: the grown tree.
        held: held-out rows of each cell in each leaf, shape (nodes, cells); zero elsewhere.
        growth: the price of a split and the floor of a leaf.
    """
    left, right = tree.children_left.tolist(), tree.children_right.tolist()
    # Children come after their parents, so one pass up and one pass down are enough.
    for node in range(len(left) - 1, -1, -1):
        if left[node] >= 0:
            held[node] = held[left[node]] + held[right[node]]
    rows = held.sum(axis=1).tolist()
    best = leave_one_out(held).tolist()
    stays = [False] * len(left)
    for node in range(len(left) - 1, -1, -1):
        one, other = left[node], right[node]
        if one < 0 or min(rows[one], rows[other]) < growth.min_leaf:
            continue
        split = best[one] + best[other] - growth.price
        if split > best[node]:
            best[node], stays[node] = split, True
    top = list(range(len(left)))
    for node in range(len(left)):
        if left[node] >= 0 and (top[node] != node or not stays[node]):
            top[left[node]] = top[right[node]] = top[node]
    return np.array(top, dtype=np.int64)


def leave_one_out(held: np.ndarray) -> np.ndarray:
    """Log-likelihood (nats, shape (nodes,)) of each row in a node by the node's other rows.

    The other rows' frequencies are smoothed towards those of the whole table, which is node 0.
    """
    prior = _PRIOR_ROWS * held[0] / max(held[0].sum(), 1.0)
    others = np.maximum(held - 1, 0) + prior
    total = np.maximum(held.sum(axis=1, keepdims=True) - 1, 0) + _PRIOR_ROWS
    logs = np.log(np.where(held > 0, others / total, 1.0))
    likelihood: np.ndarray = (held * logs).sum(axis=1)
    return likelihood


def cut_back(tree: Tree, top: np.ndarray, members: np.ndarray, home: np.ndarray) -> Branches:
    """A fitted scikit-learn tree whose nodes below ``top`` are gone."""
    keep = top == np.arange(len(top))
    number = np.cumsum(keep) - 1
    inner = keep & (tree.children_left >= 0)
    inner &= top[tree.children_left] == tree.children_left
    return Branches(
        feature=np.where(inner, tree.feature, -1)[keep],
        threshold=np.where(inner, tree.threshold, 0.0)[keep],
        left=np.where(inner, number[tree.children_left], 0)[keep],
        right=np.where(inner, number[tree.children_right], 0)[keep],
        members=members,
        home=number[top[home]].astype(np.int32),
    )
