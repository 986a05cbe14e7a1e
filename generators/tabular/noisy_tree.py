"""A tree of columns from noisy counts of pairs, one for each group of rows.

Every pair that is chosen is counted within each group, so the tree is one tree for each group.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from generators.mechanisms import RandomBits, choose, noisy_counts
from generators.tabular.bayesian_network import spanning_tree
from generators.tabular.messages import Branching
from generators.tabular.noisy_columns import on_simplex

# Shares of the privacy of a tree: counting columns in groups, choosing pairs, counting pairs.
_GROUPS, _CHOICE = 0.3, 0.12
# Rounds in which the cells of a pair are scaled to the columns' counts.
_ROUNDS = 50

Pair: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class NoisyTree:
    """What a tree is learned from.

    Attributes:
        states: the rows' cells, int64, (N, D): all that is private here.
        columns: of each column about how many rows each cell has.
        target: the column whose cells are the groups; None for one group of all rows.
        rho: the privacy that learning costs, zCDP.
    """

    states: np.ndarray
    columns: list[np.ndarray]
    target: int | None
    rho: float

    @property
    def others(self) -> list[int]:
        """The columns that are joined."""
        return [at for at in range(len(self.columns)) if at != self.target]

    @property
    def groups(self) -> np.ndarray:
        """About how many rows each group has, (G,)."""
        everyone = np.array([float(len(self.states))])
        return everyone if self.target is None else self.columns[self.target]

    @property
    def rho_groups(self) -> float:
        """For counting the columns in groups."""
        return 0.0 if self.target is None else _GROUPS * self.rho

    @property
    def rho_pairs(self) -> float:
        """For counting pairs."""
        return (1 - _CHOICE) * self.rho - self.rho_groups

    def learn(self, choice: RandomBits, counting: RandomBits) -> Branching:
        """The tree: a hidden variable for the group and for each column in it, then the columns."""
        joint = {at: self._in_groups(at, counting) for at in self.others}
        chosen = self._chosen(joint, choice)
        tables: dict[Pair, np.ndarray] = {}
        for a, b in chosen:
            noisy = self._noisy(self._counts(a, b), self.rho_pairs / len(chosen), counting)
            for group in range(len(self.groups)):
                sums = joint[a][:, group], joint[b][:, group]
                noisy[:, :, group] = agreeing(noisy[:, :, group], *sums)
            tables[a, b], tables[b, a] = noisy, noisy.transpose(1, 0, 2)
        return self._branching(joint, tables)

    def _in_groups(self, at: int, bits: RandomBits) -> np.ndarray:
        """About how many rows each cell has in each group, (cells, G)."""
        if self.target is None:
            return self.columns[at][:, None]
        size, groups = len(self.columns[at]), len(self.groups)
        held = np.bincount(
            self.states[:, at] * groups + self.states[:, self.target], minlength=size * groups
        ).reshape(size, groups)
        noisy = self._noisy(held, self.rho_groups / len(self.others), bits)
        return agreeing(noisy, self.columns[at], self.groups)

    def _counts(self, a: int, b: int) -> np.ndarray:
        """How many rows each pair of cells has in each group, (cells, cells, G)."""
        shape = len(self.columns[a]), len(self.columns[b]), len(self.groups)
        group = 0 if self.target is None else self.states[:, self.target]
        place = (self.states[:, a] * shape[1] + self.states[:, b]) * shape[2] + group
        counts: np.ndarray = np.bincount(place, minlength=math.prod(shape)).reshape(shape)
        return counts

    def _noisy(self, counts: np.ndarray, rho: float, bits: RandomBits) -> np.ndarray:
        """Noisy counts that are not negative and sum to the rows."""
        noisy = noisy_counts(counts.ravel(), rho, bits).counts
        held: np.ndarray = on_simplex(noisy[None], np.array([len(self.states)]))[0]
        return held.reshape(counts.shape)

    def _chosen(self, joint: dict[int, np.ndarray], bits: RandomBits) -> list[Pair]:
        """Pairs of columns that make a tree, or a forest where more would be noise."""
        edges = max(len(joint) - 1, 1)
        deviation = math.sqrt(edges / self.rho_pairs)
        scores = {
            (a, b): telling(self._counts(a, b), joint[a], joint[b], deviation)
            for a, b in combinations(self.others, 2)
        }
        rho, chosen = _CHOICE * self.rho / edges, list[Pair]()
        tree = {at: at for at in self.others}
        while len(chosen) < len(joint) - 1:
            open_pairs = [pair for pair in scores if tree[pair[0]] != tree[pair[1]]]
            # To stop is one of the choices: what tells nothing is not measured. A row that is
            # another one changes two cells by one.
            at = choose([0, *(scores[pair] for pair in open_pairs)], 2, rho, bits)
            if at == 0:
                break
            a, b = open_pairs[at - 1]
            chosen.append((a, b))
            tree = {c: tree[a] if each == tree[b] else each for c, each in tree.items()}
        return chosen

    def _branching(self, joint: dict[int, np.ndarray], tables: dict[Pair, np.ndarray]) -> Branching:
        """Variable 0 is the group; then each column with its group; then the columns."""
        joined = np.zeros((len(joint), len(joint)))
        for a, b in tables:
            joined[self.others.index(a), self.others.index(b)] = 1.0
        order, above = spanning_tree(joined)
        groups, hidden = len(self.groups), 1 + len(self.others)
        parents = [-1, *(0 if up < 0 else up + 1 for up in above)]
        shares = [self.groups[None] / self.groups.sum()]
        for number, at in enumerate(self.others):
            up = above[number]
            held = joint[at][None] if up < 0 else tables[self.others[up], at]
            shares.append(_in_its_group(held, joint[at]))
        for at, column in enumerate(self.columns):
            place = 0 if at == self.target else 1 + self.others.index(at)
            parents.append(place)
            cells = np.eye(len(column))
            shares.append(cells if at == self.target else cells.repeat(groups, axis=0))
        sequence = [0, *(1 + number for number in order)]
        sequence += range(hidden, hidden + len(self.columns))
        return Branching(tuple(sequence), tuple(parents), tuple(shares))


def telling(counts: np.ndarray, left: np.ndarray, right: np.ndarray, deviation: float) -> int:
    """By how many rows a pair (A, B, G) is off independence in groups, less what noise would be."""
    alone = left[:, None] * right[None] / np.maximum(left.sum(axis=0), 1e-9)
    noise = math.sqrt(2 / math.pi) * deviation * counts.size
    return int(np.abs(counts - np.rint(alone)).sum()) - math.ceil(noise)


def agreeing(table: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The table scaled to these row and column sums (Deming, Stephan 1940).

    A thousandth of the table that independence gives keeps each sum within reach.
    """
    scaled = table + 1e-3 * np.outer(left, right) / max(left.sum(), 1.0) + 1e-9
    for _ in range(_ROUNDS):
        scaled *= (left / scaled.sum(axis=1))[:, None]
        scaled *= right / np.maximum(scaled.sum(axis=0), 1e-12)
        scaled += 1e-12
    agreed: np.ndarray = scaled
    return agreed


def _in_its_group(held: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """P(cell and group | parent's cell and group), from counts (A, B, G).

    The root's parent is the group alone, A = 1. A parent that no row has says what the group says.
    """
    above, size, groups = held.shape
    filled = held + 1e-6 * (joint + 1e-6)
    filled /= filled.sum(axis=1, keepdims=True)
    table = np.zeros((above, groups, size, groups))
    for group in range(groups):
        table[:, group, :, group] = filled[:, :, group]
    shares: np.ndarray = table.reshape(above * groups, size * groups)
    return shares
