"""Sequential trees under conditions: importance sampling with resampling, guided by look-ahead.

A column that stands before the conditioned ones is drawn without knowing of them. So many rows are
drawn at once (particles); a conditioned column is drawn from what its condition allows, and the
row's weight is the share of the leaf that this is; rows are resampled by their weights (Gordon,
Salmond, Smith 1993; Doucet, Johansen 2009, "A tutorial on particle filtering and smoothing").

Before a conditioned column is reached, a guide estimates from the columns so far how likely its
condition will be, and rows are resampled by that, too; the weights take it back, so a guide that is
wrong costs particles, not correctness (Guarniero, Johansen, Lee 2017, "The iterated auxiliary
particle filter").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from sklearn.tree import DecisionTreeRegressor

from generators.conditions import Cells
from generators.encoding import EncodedTable
from generators.tabular.leaves import Support, draw_cells
from generators.tabular.ordering import Predictors, Scale
from generators.tabular.resampling import systematic
from generators.tabular.restricted import LeafLikelihood, RestrictedLeaves, without_missing
from generators.tabular.trees import Trees

# Particles for each row of a sample, at least so many in all, and at most.
_SPARE = 8
_LEAST, _MOST = 2_048, 262_144
_MOST_CELLS = 8_388_608
# Rows that share particles, at most; more would have too few each.
_AT_ONCE = 24_576
# Rows that guides learn from, columns that they ask about, and their size.
_PILOT = 8_192
_GUIDE_FEATURES = 12
_GUIDE_LEAVES = 128
_GUIDE_LEAF = 20
# A guide never rules a row out: this share of its mean is added.
_GUIDE_FLOOR = 0.05
# Candidates for each row that is completed, then for those rows for which they were too few: where
# fewer than two are worth anything, or all make a given cell this unlikely.
_CANDIDATES = (32, 256)
_WORTH, _UNLIKELY = 2.0, 0.01
# Candidates at once.
_CHUNK = 32_768


@dataclass(frozen=True)
class Chain:
    """Columns in the order in which they are drawn, each from its trees.

    Attributes:
        order: positions of the columns.
        trees, predictors: by position.
        supports: of all columns.
        smooth: interpolate continuous values, else copy them.
    """

    order: list[int]
    trees: Mapping[int, Trees]
    predictors: Mapping[int, Predictors]
    supports: list[Support]
    smooth: bool

    def empty(self, size: int) -> EncodedTable:
        """``size`` rows of which no column is drawn yet."""
        shape = (size, len(self.supports))
        return EncodedTable(np.zeros(shape, np.int32), np.full(shape, np.nan))

    def leaf(self, column: int, encoded: EncodedTable, rng: np.random.Generator) -> np.ndarray:
        """The leaf of each row in one of the column's trees, picked at random and evenly."""
        scores = self.predictors[column](encoded)
        trees = self.trees[column]
        picked = rng.permutation(np.arange(len(encoded)) % len(trees.roots))
        reached = trees.apply(scores, picked)
        return trees.shrunk(reached, rng)

    def extend(self, encoded: EncodedTable, start: int, rng: np.random.Generator) -> None:
        """Draw, in place, the columns from the place ``start`` of the order on."""
        for column in self.order[start:]:
            leaf = self.leaf(column, encoded, rng)
            encoded.codes[:, column], encoded.values[:, column] = draw_cells(
                self.supports[column], self.trees[column].leaves, leaf, rng, smooth=self.smooth
            )

    def restricted(self, column: int, cells: Cells) -> RestrictedLeaves:
        """The column's leaves under a condition."""
        leaves = self.trees[column].leaves
        return RestrictedLeaves.of(self.supports[column], leaves, cells, smooth=self.smooth)


@dataclass(frozen=True)
class Guide:
    """How likely the conditions to come are, from the columns so far.

    Attributes:
        features: the columns that it asks about.
        tree: the share that is likely to be allowed.
        floor: added to it.
    """

    features: Predictors
    tree: DecisionTreeRegressor
    floor: float

    def __call__(self, encoded: EncodedTable) -> np.ndarray:
        """A positive number for each row, shape (N,)."""
        likely: np.ndarray = np.asarray(self.tree.predict(self.features(encoded))) + self.floor
        return likely


@dataclass(frozen=True)
class ConditionalChain:
    """A chain whose rows fulfil conditions.

    Attributes:
        chain: without the conditions.
        restricted: the leaves of each conditioned column.
        guides: by the place in the order after which they are asked.
    """

    chain: Chain
    restricted: Mapping[int, RestrictedLeaves]
    guides: Mapping[int, Guide]

    @classmethod
    def of(cls, chain: Chain, cells: Mapping[int, Cells], seed: int) -> ConditionalChain:
        """``chain`` under ``cells``; its guides learn from a pilot sample with ``seed``."""
        restricted = {column: chain.restricted(column, cell) for column, cell in cells.items()}
        plain = cls(chain, restricted, {})
        return cls(chain, restricted, plain._learn(np.random.default_rng(seed)))

    @property
    def last(self) -> int:
        """The place of the last conditioned column in the order."""
        return max(self.chain.order.index(column) for column in self.restricted)

    def impossible(self) -> list[int]:
        """The columns that cannot hold what they must, whatever the others hold."""
        return [column for column, leaves in self.restricted.items() if leaves.cumulative[-1] <= 0]

    def draw(self, size: int, rng: np.random.Generator) -> EncodedTable | None:
        """``size`` rows, or None where the conditions together have no support."""
        parts = []
        for start in range(0, max(size, 1), _AT_ONCE):
            part = self._draw_part(min(_AT_ONCE, size - start), rng)
            if part is None:
                return None
            parts.append(part)
        codes, values = ([getattr(part, name) for part in parts] for name in ("codes", "values"))
        return EncodedTable(np.concatenate(codes), np.concatenate(values))

    def _draw_part(self, size: int, rng: np.random.Generator) -> EncodedTable | None:
        """So many rows that share particles.

        These are added until they are worth as many independent rows as asked for, or are at
        their bound.
        """
        most = max(_LEAST, min(_MOST, _MOST_CELLS // len(self.chain.supports)))
        pool = min(max(_SPARE * size, _LEAST), most)
        while True:
            particles, weights = self._particles(pool, rng)
            if effective_size(weights) >= size or pool >= most:
                break
            pool = min(4 * pool, most)
        if not weights.any():
            return None
        drawn = particles.take(rng.permutation(systematic(weights, size, rng)))
        self.chain.extend(drawn, self.last + 1, rng)
        return drawn

    def _particles(self, pool: int, rng: np.random.Generator) -> tuple[EncodedTable, np.ndarray]:
        """Rows drawn up to the last conditioned column, and their weights."""
        encoded, weights = self.chain.empty(pool), np.ones(pool)
        for place, column in enumerate(self.chain.order[: self.last + 1]):
            weights = weights * self._draw_column(encoded, column, rng)
            news = place in self.guides or column in self.restricted
            if place == self.last or not news:
                continue
            likely = self.guides[place](encoded) if place in self.guides else np.ones(pool)
            if effective_size(weights * likely) < pool / 2 and weights.any():
                chosen = systematic(weights * likely, pool, rng)
                encoded, weights = encoded.take(chosen), 1 / likely[chosen]
        return encoded, weights

    def _draw_column(
        self, encoded: EncodedTable, column: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw a column in place; gives the share of each row's leaf that was allowed."""
        leaf = self.chain.leaf(column, encoded, rng)
        share: np.ndarray = np.ones(len(encoded))
        if column in self.restricted:
            drawn = self.restricted[column].draw(leaf, rng)
            share = self.restricted[column].mass[leaf]
        else:
            support, leaves = self.chain.supports[column], self.chain.trees[column].leaves
            drawn = draw_cells(support, leaves, leaf, rng, smooth=self.chain.smooth)
        encoded.codes[:, column], encoded.values[:, column] = drawn
        return share

    def _learn(self, rng: np.random.Generator) -> dict[int, Guide]:
        """Guides after the columns that have a condition or tell of one to come."""
        if self.last == 0 or self.impossible():
            return {}
        pilot = self.chain.empty(_PILOT)
        order = self.chain.order[: self.last + 1]
        shares = [self._draw_column(pilot, column, rng) for column in order]
        guides: dict[int, Guide] = {}
        possible = np.ones(_PILOT, dtype=bool)
        scales = self._telling()
        for place in range(self.last):
            possible &= shares[place] > 0
            asked = [column for column in order[: place + 1] if column in scales]
            news = order[place] in scales or order[place] in self.restricted
            if asked and news and possible.sum() > 2 * _GUIDE_LEAF:
                features = Predictors(np.array(asked), [scales[column] for column in asked])
                likely = np.prod(shares[place + 1 :], axis=0)[possible]
                guides[place] = _guide(features, pilot.take(possible), likely)
        return guides

    def _telling(self) -> dict[int, Scale]:
        """The columns that the trees of conditioned columns ask about most, as these see them."""
        scales: dict[int, Scale] = {}
        asked = np.zeros(len(self.chain.supports), dtype=np.int64)
        for column in self.restricted:
            predictors, trees = self.chain.predictors[column], self.chain.trees[column]
            counts = np.bincount(
                trees.feature[trees.feature >= 0], minlength=len(predictors.scales)
            )
            np.add.at(asked, predictors.columns, counts)
            for other, scale in zip(predictors.columns.tolist(), predictors.scales, strict=True):
                scales.setdefault(other, scale)
        most = np.argsort(-asked, kind="stable")[:_GUIDE_FEATURES]
        return {int(column): scales[int(column)] for column in most if asked[column] > 0}


def _guide(features: Predictors, rows: EncodedTable, likely: np.ndarray) -> Guide:
    tree = DecisionTreeRegressor(
        max_leaf_nodes=_GUIDE_LEAVES, min_samples_leaf=_GUIDE_LEAF, random_state=0
    )
    tree.fit(features(rows), likely)
    return Guide(features, tree, _GUIDE_FLOOR * float(likely.mean()) + 1e-9)


def effective_size(weights: np.ndarray) -> float:
    """How many equally weighted rows these are worth (Kish 1965); 0 where all weights are 0."""
    total = float(weights.sum())
    return total**2 / float((weights**2).sum()) if total > 0 else 0.0


def complete(
    chain: Chain,
    encoded: EncodedTable,
    given: np.ndarray,
    present: np.ndarray,
    rng: np.random.Generator,
) -> EncodedTable:
    """``encoded`` with other cells where ``given`` (bool, (N, D)) is False.

    Each row has candidates of its own, which are weighted by the likelihood of the given cells
    that come after drawn ones; one is kept.

    Args:
        chain: the columns.
        encoded: rows; what is not given is arbitrary.
        given: bool, shape (N, D).
        present: columns that must not stay missing; bool, shape (D,).
        rng: decides all draws.
    """
    filler = _Filler.of(chain, present)
    ordered = given[:, chain.order]
    # Candidates are of use only where a given column comes after one that is not.
    late = (np.maximum.accumulate(~ordered, axis=1) & ordered).any(axis=1)
    done = EncodedTable(encoded.codes.copy(), encoded.values.copy())

    def fill(rows: np.ndarray, candidates: int) -> np.ndarray:
        poor = np.zeros(len(rows), dtype=bool)
        step = _CHUNK // candidates
        for part in (slice(at, at + step) for at in range(0, len(rows), step)):
            some = rows[part]
            filled, poor[part] = filler(encoded.take(some), given[some], candidates, rng)
            done.codes[some], done.values[some] = filled.codes, filled.values
        return rows[poor]

    fill(np.flatnonzero(~late), 1)
    rows = np.flatnonzero(late)
    for candidates in _CANDIDATES:
        rows = fill(rows, candidates)
    return done


@dataclass(frozen=True)
class _Filler:
    chain: Chain
    likelihoods: dict[int, LeafLikelihood]
    restricted: Mapping[int, RestrictedLeaves]

    @classmethod
    def of(cls, chain: Chain, present: np.ndarray) -> _Filler:
        gapless = [column for column in chain.order if present[column]]
        restricted = {c: chain.restricted(c, without_missing(chain.supports[c])) for c in gapless}
        return cls(chain, {}, restricted)

    def __call__(
        self, rows: EncodedTable, given: np.ndarray, candidates: int, rng: np.random.Generator
    ) -> tuple[EncodedTable, np.ndarray]:
        """The rows completed, and which of them had too few candidates."""
        mine = np.repeat(np.arange(len(rows)), candidates)
        encoded, logs = rows.take(mine), np.zeros((len(rows), candidates))
        begun, poor = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=bool)
        for column in self.chain.order:
            known = given[:, column]
            self._draw(encoded, column, np.flatnonzero(~known[mine]), rng)
            if (judged := np.flatnonzero(known & begun)).size:
                likely = self._likelihood(encoded, column, (known & begun)[mine], rng)
                likely = likely.reshape(len(judged), candidates)
                poor[judged] |= likely.max(axis=1) < _UNLIKELY
                logs[judged] += np.log(likely)
                poor |= _worth(logs) < _WORTH
                encoded, logs = _resampled(encoded, logs, rng)
            begun |= ~known
        kept = _pick(_weights(logs), 1, rng)[:, 0] + np.arange(len(rows)) * candidates
        return encoded.take(kept), poor

    def _draw(
        self, encoded: EncodedTable, column: int, some: np.ndarray, rng: np.random.Generator
    ) -> None:
        if len(some) == 0:
            return
        leaf = self.chain.leaf(column, encoded.take(some), rng)
        if column in self.restricted:
            drawn = self.restricted[column].draw(leaf, rng)
        else:
            support, leaves = self.chain.supports[column], self.chain.trees[column].leaves
            drawn = draw_cells(support, leaves, leaf, rng, smooth=self.chain.smooth)
        encoded.codes[some, column], encoded.values[some, column] = drawn

    def _likelihood(
        self, encoded: EncodedTable, column: int, some: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        if column not in self.likelihoods:
            support, leaves = self.chain.supports[column], self.chain.trees[column].leaves
            self.likelihoods[column] = LeafLikelihood.of(support, leaves)
        part = encoded.take(some)
        leaf = self.chain.leaf(column, part, rng)
        return self.likelihoods[column](leaf, part.codes[:, column], part.values[:, column])


def _weights(logs: np.ndarray) -> np.ndarray:
    """Weights of each row's candidates, the greatest being 1."""
    weights: np.ndarray = np.exp(logs - logs.max(axis=1, keepdims=True))
    return weights


def _worth(logs: np.ndarray) -> np.ndarray:
    """The effective number of each row's candidates."""
    weights = _weights(logs)
    worth: np.ndarray = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    return worth


def _resampled(
    encoded: EncodedTable, logs: np.ndarray, rng: np.random.Generator
) -> tuple[EncodedTable, np.ndarray]:
    """Resample the candidates of each row whose weights have become uneven."""
    candidates = logs.shape[1]
    uneven = np.flatnonzero(_worth(logs) < candidates / 2)
    if len(uneven) == 0:
        return encoded, logs
    chosen = np.tile(np.arange(candidates), (len(logs), 1))
    chosen[uneven] = _pick(_weights(logs[uneven]), candidates, rng)
    logs = logs.copy()
    logs[uneven] = 0.0
    flat = (chosen + np.arange(len(logs))[:, None] * candidates).ravel()
    return encoded.take(flat), logs


def _pick(weights: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """For each row of ``weights`` (N, K) so many positions by systematic resampling; (N, size)."""
    ends = np.cumsum(weights, axis=1)
    points = (np.arange(size) + rng.random((len(weights), 1))) / size * ends[:, -1:]
    picked: np.ndarray = (ends[:, None, :-1] <= points[:, :, None]).sum(axis=2)
    return picked
