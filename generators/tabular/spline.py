"""The line of each column, and monotone splines on it.

A column is the unit interval: each token has a stretch of it as long as its share of the training
rows, numbers in their order, categories in a telling one. Where a token weighs much it is a *bin*
alone, else several neighbours are one. A conditional distribution is a monotone rational-quadratic
spline from the line to itself (Gregory & Delbourgo 1982; Durkan et al. 2019, "Neural spline flows",
arXiv 1906.04032) whose knots are the ends of the bins: how high it rises in a bin is the bin's
probability, and between two knots it is smooth, so that the stretch of every token has one, too.
Splines take no more numbers for 10,000 categories than for their bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from generators.encoding import EncodedTable, TableCodec
from generators.tabular.cells import neighbours
from generators.tabular.ordering import scales
from generators.tabular.tokens import TwoLevelTokens

# Added to the training rows of every token, so that each is possible.
_PRIOR_ROWS = 0.1
_STEEPEST = 3.0
"""The logarithm of a knot's slope, over what its neighbours suggest, stays within this."""


@dataclass(frozen=True)
class Line:
    """The tokens of one column on the unit interval.

    Attributes:
        order: the tokens from 0 to 1; int64, shape (T,).
        ends: where the stretch of each of these ends; float64, shape (T,), the last is 1.
        bin: of each of these; ascending, int64, shape (T,).
    """

    order: np.ndarray
    ends: np.ndarray
    bin: np.ndarray

    @classmethod
    def of(cls, places: np.ndarray, rows: np.ndarray, bins: int, *, apart: bool) -> Self:
        """About ``bins`` bins of tokens at these places (NaN is last), of so many rows each.

        Where there are no more tokens than bins and they are to stay ``apart``, each is one.
        """
        order = np.argsort(places, kind="stable")
        shares = rows[order] + _PRIOR_ROWS
        ends = np.cumsum(shares / shares.sum())
        ends[-1] = 1.0
        if apart and len(rows) <= bins:
            return cls(order, ends, np.arange(len(rows)))
        return cls(order, ends, neighbours(places, rows, bins)[order])

    @property
    def starts(self) -> np.ndarray:
        """Where the stretches start, shape (T,)."""
        return np.concatenate([[0.0], self.ends[:-1]])

    @property
    def first(self) -> np.ndarray:
        """The place among ``order`` of the first token of each bin, and T; shape (K + 1,)."""
        return np.searchsorted(self.bin, np.arange(self.bin[-1] + 2))

    @property
    def knots(self) -> np.ndarray:
        """Where the bins start, and 1; shape (K + 1,)."""
        knots: np.ndarray = np.append(self.starts, 1.0)[self.first]
        return knots

    @property
    def alone(self) -> np.ndarray:
        """Whether each bin is one token; bool, shape (K,)."""
        only: np.ndarray = np.diff(self.first) == 1
        return only

    def within(self) -> np.ndarray:
        """Where in its bin each token starts and ends, by token; float64, shape (T, 2)."""
        knots, width = self.knots[self.bin], np.diff(self.knots)[self.bin]
        made = np.empty((len(self.order), 2))
        made[self.order, 0] = ((self.starts - knots) / width).clip(0.0, 1.0)
        made[self.order, 1] = ((self.ends - knots) / width).clip(0.0, 1.0)
        # The ends of a bin are exact.
        made[self.order[self.first[:-1]], 0] = 0.0
        made[self.order[self.first[1:] - 1], 1] = 1.0
        return made

    def bins(self) -> np.ndarray:
        """The bin of each token, by token; int64, shape (T,)."""
        made = np.empty(len(self.order), np.int64)
        made[self.order] = self.bin
        return made

    def shares(self) -> np.ndarray:
        """The length of the stretch of each token, by token; float64, shape (T,)."""
        made = np.empty(len(self.order))
        made[self.order] = self.ends - self.starts
        return made

    def token(self, bin_: np.ndarray, share: np.ndarray) -> np.ndarray:
        """The token at a ``share`` of each bin; int64, shape (N,)."""
        knots = self.knots
        at = knots[bin_] + share * (knots[bin_ + 1] - knots[bin_])
        found = np.searchsorted(self.ends, at, side="right")
        first = self.first
        token: np.ndarray = self.order[np.clip(found, first[bin_], first[bin_ + 1] - 1)]
        return token


def lines(
    codec: TableCodec,
    encoded: EncodedTable,
    tokens: TwoLevelTokens,
    bins: int,
    information: np.ndarray,
) -> list[Line]:
    """The line of each column of a training table.

    Args:
        codec: of the table.
        encoded: the table.
        tokens: of the table, one sub-column a column.
        bins: of each column, about.
        information: mutual information of the columns (D, D).
    """
    coded, made = tokens.encode(encoded), []
    for at, scale in enumerate(scales(codec, encoded, information)):
        column, quantiles = codec.columns[at], tokens.cells[at]
        rows = np.bincount(coded[:, at], minlength=tokens.sizes[at])
        places = np.full(len(rows), np.nan)
        levels = np.asarray(scale.of_code[:-1], np.float64)
        places[: len(levels)] = levels if column.column.discrete else column.levels
        if quantiles is not None:
            places[column.size - 1 :] = quantiles.knots[: -1 : quantiles.per_fine]
        made.append(Line.of(places, rows, bins, apart=column.column.discrete))
    return made


@dataclass(frozen=True)
class Bins:
    """The bins of D columns one after the other, K together; they have K + D knots.

    Attributes:
        sizes: bins of each column.
        owner: the column of each bin; int64, shape (K,).
        width: log of the length of each bin; float64, shape (K,).
        left, right: which two bins say what slope to expect at the first and at the last knot of
            each bin; int64, shape (K, 2). A token alone has no slope to match.
    """

    sizes: list[int]
    owner: torch.Tensor
    width: torch.Tensor
    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, made: Sequence[Line], device: torch.device) -> Self:
        """Of these lines."""
        sizes = [len(line.alone) for line in made]
        first = np.cumsum([0, *sizes[:-1]])
        left, right = [], []
        for line, start in zip(made, first, strict=True):
            at = np.arange(len(line.alone))
            before, after = np.maximum(at - 1, 0), np.minimum(at + 1, len(at) - 1)
            before, after = (np.where(line.alone[side], at, side) for side in (before, after))
            left.append(np.column_stack([before, at]) + start)
            right.append(np.column_stack([at, after]) + start)
        width = np.concatenate([np.log(np.diff(line.knots)) for line in made])
        arrays = np.repeat(np.arange(len(sizes)), sizes), width, *map(np.concatenate, (left, right))
        return cls(sizes, *(torch.from_numpy(array).to(device) for array in arrays))


@dataclass(frozen=True)
class Piece:
    """A spline between two knots, as a map of [0, 1] to itself; tensors of one shape.

    Attributes:
        start, end: slopes at 0 and at 1.
    """

    start: torch.Tensor
    end: torch.Tensor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """How high it has risen at ``x`` (arXiv 1906.04032, equation 4)."""
        between = x * (1.0 - x)
        risen: torch.Tensor = (x * x + self.start * between) / self._below(between)
        return risen

    def log_slope(self, x: torch.Tensor) -> torch.Tensor:
        """The logarithm of its slope at ``x`` (equation 5)."""
        between = x * (1.0 - x)
        above = self.end * x * x + 2.0 * between + self.start * (1.0 - x).square()
        slope: torch.Tensor = above.log() - 2.0 * self._below(between).log()
        return slope

    def inverse(self, y: torch.Tensor) -> torch.Tensor:
        """Where it has risen to ``y`` (equations 6 to 8)."""
        bend = self.end + self.start - 2.0
        a = 1.0 - self.start + y * bend
        b = self.start - y * bend
        root = (b.square() + 4.0 * a * y).clamp(min=0.0).sqrt()
        return (2.0 * y / (b + root).clamp(min=1e-30)).clamp(0.0, 1.0)

    def _below(self, between: torch.Tensor) -> torch.Tensor:
        below: torch.Tensor = 1.0 + (self.end + self.start - 2.0) * between
        return below


def piece(shares: torch.Tensor, bends: torch.Tensor, bins: Bins, at: torch.Tensor) -> Piece:
    """The spline in bins ``at`` (B, M) of columns of which these are all bins.

    Args:
        shares: logs of the bins' probabilities, shape (B, K).
        bends: what the knots' slopes are beyond the mean of their neighbours, shape (B, K + D).
        bins: of the columns.
        at: places among the K bins.
    """
    slopes, knot = shares - bins.width.to(shares.dtype), at + bins.owner[at]
    own, made = slopes.gather(1, at), []
    for sides, beyond in ((bins.left, knot), (bins.right, knot + 1)):
        near = (slopes.gather(1, sides[at, 0]) + slopes.gather(1, sides[at, 1])) / 2.0
        bend = _STEEPEST * torch.tanh(bends.gather(1, beyond) / _STEEPEST)
        made.append((near - own + bend).clamp(-20.0, 20.0).exp())
    return Piece(*made)
