"""Bagged sequential CART: the default generator for tables.

Columns are put in order. The first comes from its marginal; every later one from decision trees
on the columns before it: a synthetic row picks one of the column's trees, falls into a leaf, and
draws a member of that leaf (Reiter 2005, "Using CART to generate partially synthetic public use
microdata"; Nowok, Raab, Dibben 2016, "synthpop"). Four things keep it from copying:

- leaves are honest (Athey, Imbens 2016): the rows that shape a tree are not the rows in its leaves,
  and they alone decide which of its splits stay;
- leaves are drawn towards their parents, the smaller the more, which also makes them more faithful
  to rows that were not learned (hierarchical shrinkage);
- continuous values are interpolated between the order statistics of the leaf's distinct values;
- rows that equal a training row are drawn again until they are as rare as in fresh real data.

What trees get wrong about pairs of columns is then learned from the training table and corrected
by drawing three times as many rows and keeping each by its odds (``tilt.py``).

Rows are not drawn independently: draws from a leaf lie evenly, rows are kept such that pairs of
columns, and pairs together with the target, are as frequent as they should be, and a bound that one
of N rows holds is reached once in N rows. So a sample is nearer to the model than chance would have
it. That shows: independent draws have the noise of the training table and their own, twice as much
as real rows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import pandas as pd

from generators.base import (
    Block,
    Conditional,
    Modality,
    OnProgress,
    ParameterError,
    Progress,
    derive_seed,
)
from generators.conditions import Cells, Conditions, allowed_values
from generators.encoding import EncodedTable, TableCodec
from generators.schema import TableSchema
from generators.tabular.balance import target_of
from generators.tabular.independent import learnable
from generators.tabular.leaves import (
    Support,
    restore_supports,
    supports,
    supports_state,
)
from generators.tabular.ordering import (
    Predictors,
    Scale,
    cells_of,
    column_order,
    mutual_information,
    scales,
    telling_scale,
)
from generators.tabular.particles import Chain, ConditionalChain, complete
from generators.tabular.tilt import POOL, Tilt
from generators.tabular.trees import (
    BINS,
    Arrays,
    Binned,
    Branches,
    Growth,
    Trees,
    grow,
    lookup,
    merge,
    stump,
    without,
)
from generators.tabular.verbatim import CopyGuard, contains, copy_profile, row_hashes, snapped

# Small tables get smaller leaves: this share of the rows, but never fewer than the second.
_LEAF_SHARE = 0.02
_LEAF_FLOOR = 5
# More rows shape no better trees, only slower ones; they still fill honest leaves.
_SHAPE_ROWS = 50_000
# Rows on which the levels of a category are put in order.
_SCALE_ROWS = 100_000
# The price of a split, in nats, at either end of the knob.
_PRICE_RANGE = 40.0
# Rows of no difference that are added to every cell of a pair where privacy is 0; at 1 there are 16
# times as many.
_RIDGE = 10.0
# Forests that estimate how often unseen rows are hit, their trees, the share of rows that each
# leaves out, and rows that each draws.
_PROBES = 2
_PROBE_TREES = 4
_PROBE_FOLDS = 5
_PROBE_DRAWS = (1000, 50_000)
# A column is a function of another only if its levels stand for this many rows on average.
_MIN_SUPPORT = 5
_FUNCTION_ROWS = 1000
# A bound that so many rows hold is hardly ever missing from a sample.
_COMMON_BOUND = 5
# Rows on which the rate of copies without conditions is measured.
_GUARD_ROWS = 8192

_Draw: TypeAlias = Callable[[int, np.random.Generator], EncodedTable]


@dataclass(kw_only=True)
class Forest(Conditional):
    """Bagged sequential CART with honest leaves.

    Attributes:
        trees: trees for each column; a row picks one at random.
        privacy: the knob between fidelity (0) and privacy (1): how much a split must raise the
            likelihood of held-out rows to stay.
        min_leaf: training rows in a leaf, at least. Tables below 2,500 rows use 2 % of their rows,
            at least 5, where that is less.
        subsample: share of the rows, drawn without replacement, that shapes a tree.
        honest: leaves hold the rows that did not shape the tree, else those that did.
        max_predictors: earlier columns that a tree may ask about, by mutual information.
        smooth: interpolate continuous values, else copy them.
        calibrate: draw rows again by what the trees get wrong about pairs of columns.
        verbatim_guard: draw a row again where it equals a training row, until such rows are as
            rare as among fresh real rows.
    """

    trees: int = 12
    min_leaf: int = 40
    privacy: float = 0.5
    subsample: float = 0.5
    honest: bool = True
    max_predictors: int = 32
    smooth: bool = True
    calibrate: bool = True
    verbatim_guard: bool = True

    name: ClassVar[str] = "forest"
    suits: ClassVar[str] = "tables of few rows or in few seconds; copies least of what is rare"
    modality: ClassVar[Modality] = "table"
    rows_per_block: ClassVar[int] = 32_768
    """More than other families': draws are even within a block only."""

    def __post_init__(self) -> None:
        for field in ("trees", "min_leaf", "max_predictors"):
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} must be at least 1, got {getattr(self, field)}; raise it"
                )
        if not 0 <= self.privacy <= 1:
            raise ParameterError(f"privacy must be between 0 and 1, got {self.privacy}; try 0.5")
        if not 0 < self.subsample <= 1 or (self.honest and self.subsample == 1):
            raise ParameterError(
                "subsample must be above 0 and at most 1, below 1 with honest leaves, "
                f"got {self.subsample}; try 0.5"
            )

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.under_: tuple[object, ConditionalChain, float] | None = None
        self.codec_, encoded = learnable(data, schema)
        self.supports_ = supports(self.codec_, encoded)
        information = mutual_information(encoded, self.codec_, self.seed)
        self.order_ = column_order(information, self.codec_, encoded, 4 * self.min_leaf)
        plain = scales(self.codec_, encoded, information)
        table = _TrainingTable.of(encoded, self.codec_, self.supports_, plain)
        self.trees_: dict[int, Trees] = {}
        self.predictors_: dict[int, Predictors] = {}
        left_out = self._left_out(len(data))
        probes: list[dict[int, Trees]] = [{} for _ in left_out]
        tied: list[int] = []
        for column, grown, cause in self._grow(table, information):
            # What is a function of another column must stay one.
            tied += [] if cause is None else [column, cause]
            shrink = self._shrink(len(data)) if cause is None else 0.0
            tokens = table.tokens[:, column]
            self.trees_[column] = merge(grown, tokens, shrink)
            for probe, rows in zip(probes, left_out, strict=True):
                some = [without(tree, rows) for tree in grown[:_PROBE_TREES]]
                probe[column] = merge(some, tokens, shrink)
            seconds = time.perf_counter() - begin
            progress(Progress("fit", len(self.trees_), len(self.order_), seconds))
        self.tilt_ = self._tilt(encoded) if self.calibrate else None
        self.bounds_ = self._rare_bounds(encoded, tied)
        published = snapped(encoded, self.codec_)
        self.once_, self.natural_ = copy_profile(published)
        if self.natural_ > 0 and probes:
            unseen = self._unseen_rate(row_hashes(published), probes, left_out)
            self.natural_ = min(self.natural_, unseen)

    def _tilt(self, encoded: EncodedTable) -> Tilt:
        rng = np.random.default_rng(derive_seed("forest tilt", self.seed))
        ridge = _RIDGE * 4 ** (2 * self.privacy)
        return Tilt.fit(self.codec_, encoded, self._draw_plainly, ridge, rng, self._third())

    def _third(self) -> int:
        """The column that samples are balanced by beside pairs: the target, else the first."""
        target = target_of(self.codec_)
        return self.order_[0] if target is None else target

    def _left_out(self, rows: int) -> list[np.ndarray]:
        """The rows that each probe leaves out (bool, shape (N,)); none where none are asked for."""
        if not self.verbatim_guard or rows < _PROBE_FOLDS:
            return []
        seed = derive_seed("forest probe", self.seed)
        fold = np.random.default_rng(seed).permutation(rows) % _PROBE_FOLDS
        return [fold == number for number in range(_PROBES)]

    def _unseen_rate(
        self, hashes: np.ndarray, probes: list[dict[int, Trees]], left_out: list[np.ndarray]
    ) -> float:
        """The rate at which this model would hit the rows seen once, had it not seen them.

        A fresh real row hits them at the Good-Turing rate, a model less often, for it is smoother
        than the truth. Were copies let through at the rate of real rows, a row in train would be
        hit more often than one that is not. Hence forests without the rows of a probe in their
        leaves, and their hits within it.
        """
        hits, rows, probed = 0, 0, 0
        draws = int(np.clip(len(hashes), *_PROBE_DRAWS))
        for number, (trees, outside) in enumerate(zip(probes, left_out, strict=True)):
            seen = hashes[outside]
            known = np.sort(seen[contains(self.once_, seen)])
            rng = np.random.default_rng(derive_seed("forest probe", self.seed, number))
            drawn = _rows(replace(self._chain(), trees=trees), draws, rng)
            hits += int(contains(known, row_hashes(drawn)).sum())
            rows, probed = rows + draws, probed + len(known)
        return hits / rows * len(self.once_) / max(probed, 1) * len(probes)

    def _rare_bounds(self, encoded: EncodedTable, tied: list[int]) -> list[tuple[int, bool, float]]:
        """Bounds that few rows hold: their column, whether it is the upper one, their share.

        ``tied`` columns are left out: functions of others, and those that they are functions of.
        """
        found = []
        for column, support in enumerate(self.supports_):
            if len(support.values) < 2 or column in tied:
                continue
            values = support.codec.snap(encoded.values[:, column])
            for upper, bound in enumerate(support.values[[0, -1]]):
                levels = np.asarray(support.codec.levels, dtype=np.float64)
                inside = (levels < bound) if upper else (levels > bound)
                rows = int((values == bound).sum())
                if inside.all() and rows < _COMMON_BOUND:
                    found.append((column, bool(upper), rows / len(values)))
        return found

    def _reach_bounds(self, encoded: EncodedTable, block: Block) -> None:
        """Let the outermost rows of a block, in place, take bounds that are due in it.

        A bound that one of N rows holds is missing from a third of the samples of N rows if it is
        left to chance. Here it is due once in N rows.
        """
        for column, upper, share in self.bounds_:
            before, after = (
                int(rows * share + 0.5) for rows in (block.start, block.start + block.size)
            )
            values = encoded.values[:, column]
            between = np.flatnonzero(np.isfinite(values))
            order = between[np.argsort(values[between], kind="stable")]
            due = min(after - before, len(order))
            if due > 0:
                values[order[-due:] if upper else order[:due]] = self.supports_[column].values[
                    -1 if upper else 0
                ]

    def _shrink(self, rows: int) -> float:
        """Rows of its parent that a node is drawn by; leaves that copy on purpose are not."""
        return self._leaf(rows) / 4 if self.honest and self.subsample < 1 else 0.0

    def _leaf(self, rows: int) -> int:
        return min(self.min_leaf, max(_LEAF_FLOOR, round(_LEAF_SHARE * rows)))

    def _grow(
        self, table: _TrainingTable, information: np.ndarray
    ) -> Iterator[tuple[int, list[Branches], int | None]]:
        """Each column in order, its trees, and the column that it is a function of.

        The result does not depend on the thread count.
        """
        with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
            for place, column in enumerate(self.order_):
                earlier = np.array(self.order_[:place], dtype=np.int64)
                best = np.argsort(-information[column, earlier], kind="stable")
                asked = np.sort(earlier[best[: self.max_predictors]])
                known = [other for other in asked if table.determines(other, column)]
                self.predictors_[column] = table.predictors(
                    column, np.array(known[:1], dtype=np.int64) if known else asked
                )
                scores = self.predictors_[column](table.encoded)
                if known:
                    grown = [lookup(scores[:, 0])]
                elif len(asked) == 0:
                    grown = [stump(np.arange(len(table)))]
                else:
                    cells = (table.cells if self.subsample < 1 else table.tokens)[:, column]
                    numbers = range(self.trees)
                    binned = Binned.of(scores, BINS if self.subsample < 1 else len(scores))
                    branch = partial(self._branch, binned, cells, column)
                    grown = list(pool.map(branch, numbers))
                yield column, grown, int(known[0]) if known else None

    def _price(self) -> float:
        """Nats that a split must gain, -40 where privacy is 0 and +40 where it is 1."""
        return _PRICE_RANGE * (2 * self.privacy - 1)

    def _branch(self, scores: Binned, cells: np.ndarray, column: int, number: int) -> Branches:
        rows = len(cells)
        seed = derive_seed("forest", self.seed, column, number)
        cut = max(round(self.subsample * rows), 1)
        if self.subsample < 1:
            cut = min(cut, rows - 1, _SHAPE_ROWS)
        shape = np.sort(np.random.default_rng(seed).choice(rows, cut, replace=False))
        growth = Growth(self._leaf(rows), self._price(), not self.honest)
        return grow(scores, cells, shape, growth, seed % 2**32)

    def _sample_block(self, block: Block) -> pd.DataFrame:
        rng = block.rng()
        encoded = self._draw(block.size, rng)
        self._reach_bounds(encoded, block)
        if self.verbatim_guard:
            self._redraw_copies(encoded, self._draw, self._keep(encoded), rng)
        frame: pd.DataFrame = self.codec_.decode(encoded, first_row=block.start)
        return frame

    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        rng = block.rng()
        rows, keep = self._under(cells)
        names = [self.codec_.columns[column].column.name for column in rows.impossible() or cells]

        def draw(size: int, rng: np.random.Generator) -> EncodedTable:
            pool = size if self.tilt_ is None else POOL * size
            drawn = None if rows.impossible() else rows.draw(pool, rng)
            if drawn is None:
                raise conditions.unsupported(names)
            if self.tilt_ is not None:
                drawn = self.tilt_.pick(drawn, size, rng)
            settled: EncodedTable = self.codec_.settle(drawn, allowed_values(cells))
            return settled

        encoded = draw(block.size, rng)
        if self.verbatim_guard:
            self._redraw_copies(encoded, draw, keep, rng)
        return encoded

    def _under(self, cells: Mapping[int, Cells]) -> tuple[ConditionalChain, float]:
        """The columns under conditions, and the share of copies that is let through.

        The share is that of a sample without conditions: where real rows are rare, so are natural
        copies. Both are kept, since all blocks of a sample share them.
        """
        key = tuple((c, cell.codes.tobytes(), cell.intervals) for c, cell in cells.items())
        if self.under_ is None or self.under_[0] != key:
            seed = derive_seed("forest guides", self.seed)
            keep = self._keep(self._draw(_GUARD_ROWS, np.random.default_rng(seed)))
            self.under_ = key, ConditionalChain.of(self._chain(), cells, seed), keep
        return self.under_[1:]

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        rng = block.rng()
        if self.tilt_ is None:
            return complete(self._chain(), encoded, given, present, rng)
        each = np.repeat(np.arange(len(encoded)), POOL)
        pool = complete(self._chain(), encoded.take(each), given[each], present, rng)
        return self.tilt_.pick_each(pool, rng)

    def _chain(self) -> Chain:
        return Chain(self.order_, self.trees_, self.predictors_, self.supports_, self.smooth)

    def _draw(self, size: int, rng: np.random.Generator) -> EncodedTable:
        if self.tilt_ is None:
            return self._draw_plainly(size, rng)
        return self.tilt_.pick(self._draw_plainly(POOL * size, rng), size, rng)

    def _draw_plainly(self, size: int, rng: np.random.Generator) -> EncodedTable:
        return _rows(self._chain(), size, rng)

    def _keep(self, encoded: EncodedTable) -> float:
        return CopyGuard(self.once_, self.natural_).keep(encoded)

    def _redraw_copies(
        self, encoded: EncodedTable, draw: _Draw, keep: float, rng: np.random.Generator
    ) -> None:
        guard = CopyGuard(self.once_, self.natural_)
        guard.clean(encoded, rng, lambda rows: draw(len(rows), rng), keep=keep)

    def _state(self) -> tuple[Arrays, dict[str, Any]]:
        arrays = {**supports_state(self.supports_), "once": self.once_}
        for column, trees in self.trees_.items():
            arrays.update(trees.state(f"{column}"))
            arrays.update(self.predictors_[column].state(f"{column}"))
        state = {
            "codec": self.codec_.to_json(),
            "order": self.order_,
            "natural": self.natural_,
            "bounds": self.bounds_,
            "shrink": {str(column): trees.shrink for column, trees in self.trees_.items()},
        }
        if self.tilt_ is not None:
            tilt, state["tilt"] = self.tilt_.state()
            arrays.update(tilt)
        return arrays, state

    def _restore(self, arrays: Arrays, state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.under_ = None
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.supports_ = restore_supports(self.codec_, arrays)
        self.order_ = state["order"]
        shrink = state.get("shrink", {})
        self.trees_ = {
            column: Trees.restore(f"{column}", arrays, shrink.get(str(column), 0.0))
            for column in self.order_
        }
        self.bounds_ = [
            (int(column), bool(upper), float(share))
            for column, upper, share in state.get("bounds", [])
        ]
        self.predictors_ = {
            column: Predictors.restore(f"{column}", arrays) for column in self.order_
        }
        self.once_, self.natural_ = arrays["once"], state["natural"]
        tilt = state.get("tilt")
        self.tilt_ = None if tilt is None else Tilt.restore(self.codec_, arrays, tilt)


@dataclass(frozen=True)
class _TrainingTable:
    """Training rows as the trees see them.

    Attributes:
        encoded: the rows.
        tokens: int32, shape (N, D); what leaves hold.
        cells: int32, shape (N, D); what trees predict.
        codec: of the rows.
        scales: of every column, whatever is predicted from it.
    """

    encoded: EncodedTable
    tokens: np.ndarray
    cells: np.ndarray
    codec: TableCodec
    scales: list[Scale]

    @classmethod
    def of(
        cls,
        encoded: EncodedTable,
        codec: TableCodec,
        columns: list[Support],
        scales: list[Scale],
    ) -> Self:
        """The encoded table with these supports and scales."""
        shape = encoded.codes.shape
        tokens, cells = np.empty(shape, np.int32), np.empty(shape, np.int32)
        for position, support in enumerate(columns):
            tokens[:, position] = support.tokens(
                encoded.codes[:, position], encoded.values[:, position]
            )
            cells[:, position] = cells_of(codec, encoded, position, scales[position])
        return cls(encoded, tokens, cells, codec, scales)

    def __len__(self) -> int:
        return len(self.tokens)

    def determines(self, column: int, other: int) -> bool:
        """Whether ``other`` is a function of ``column``, as a city is of its postcode.

        A level must stand for several rows on average, or the function would be chance.
        """
        step = max(1, len(self.tokens) // _FUNCTION_ROWS)
        for every in (step, 1):
            key = self.tokens[::every, column].astype(np.int64)
            levels = len(np.unique(key))
            if every == 1 and levels * _MIN_SUPPORT > len(key):
                return False
            if len(np.unique(key << 32 | self.tokens[::every, other])) > levels:
                return False
        return True

    def predictors(self, target: int, columns: np.ndarray) -> Predictors:
        """``columns`` as the trees of ``target`` see them."""
        return Predictors(columns, [self._scale(target, column) for column in columns])

    def _scale(self, target: int, column: int) -> Scale:
        codec = self.codec.columns[column]
        if not codec.column.discrete or codec.size <= 2:
            return self.scales[column]
        every = max(1, len(self) // _SCALE_ROWS)
        codes, cells = self.encoded.codes[::every, column], self.cells[::every, target]
        return telling_scale(codes, cells, codec.size)


def _rows(chain: Chain, size: int, rng: np.random.Generator) -> EncodedTable:
    """``size`` rows of the chain."""
    encoded = chain.empty(size)
    chain.extend(encoded, 0, rng)
    return encoded
