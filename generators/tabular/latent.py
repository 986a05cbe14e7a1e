"""Conditions and given cells under a model whose columns are independent given a latent vector.

Given its latent vector, a row of CTGAN or TVAE is a product of one distribution per column. So how
likely a vector makes what is asked for is known exactly, and rows that fulfil conditions are drawn
by sampling importance resampling (Rubin 1988): vectors are proposed, chosen by that likelihood, and
then every column is drawn from what is allowed of it. No row is ever thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch

from ..conditions import Cells, Interval
from ..encoding import ColumnCodec, EncodedTable
from .modes import MODE_WIDTH, ColumnTokens, TableTokens

_REACH = 0.1
"""Where a network gives no deviation of an alpha, a given one is likely within this distance."""


@dataclass(frozen=True)
class Outputs:
    """What a network says of B rows.

    Attributes:
        logits: of all tokens, shape (B, K).
        alphas: where the values of modes are, or are around, shape (B, A).
        deviations: standard deviations of the alphas, shape (A,); None where they are exact.
    """

    logits: torch.Tensor
    alphas: torch.Tensor
    deviations: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Outputs:
        """These rows."""
        return replace(self, logits=self.logits[rows], alphas=self.alphas[rows])


@dataclass(frozen=True)
class AllowedTokens:
    """What one column may be, in its tokens.

    Attributes:
        first: its first position among the logits.
        scalar: position of its alpha, or -1.
        share: the allowed share of each token that is no mode, shape (first_mode,).
        bounds: the least and greatest alpha of each interval and mode, shape (I, modes, 2).
    """

    first: int
    scalar: int
    share: torch.Tensor
    bounds: torch.Tensor

    @classmethod
    def of(cls, layout: TableTokens, at: int, cells: Cells) -> Self:
        """What ``cells`` allow of the column at position ``at``."""
        column, codec = layout.columns[at], layout.codec.columns[at]
        share = cells.codes[column.codes].astype(np.float64)
        if len(column.rare):
            share = np.append(share, column.rare_shares[cells.codes[column.rare]].sum())
        scalar, bounds = -1, np.zeros((0, 0, 2))
        if column.mixture is not None:
            scalar = layout.continuous.index(at)
            ends = np.array(_stretches(codec, cells), dtype=np.float64).reshape(-1, 1, 2)
            bounds = ends - column.mixture.means[:, None]
            bounds /= MODE_WIDTH * column.mixture.stds[:, None]
            # Alphas end at one.
            bounds[..., 0][bounds[..., 0] <= -1.0] = -np.inf
            bounds[..., 1][bounds[..., 1] >= 1.0] = np.inf
        first = sum(layout.sizes[:at])
        return cls(first, scalar, torch.from_numpy(share), torch.from_numpy(bounds))

    def chances(self, outputs: Outputs) -> torch.Tensor:
        """The probability of each token together with a value that is allowed, (B, tokens)."""
        size = len(self.share) + self.bounds.shape[1]
        logits = outputs.logits[:, self.first : self.first + size].double()
        share = self.share.expand(len(logits), -1)
        if self.scalar >= 0:
            share = torch.cat([share, self._masses(outputs).sum(dim=1)], dim=1)
        allowed: torch.Tensor = logits.softmax(dim=1) * share
        return allowed

    def draw(
        self, outputs: Outputs, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (int64) and alphas (float32) that are allowed, both of shape (B,)."""
        tokens = torch.multinomial(self.chances(outputs), 1, generator=generator)[:, 0]
        if self.scalar < 0:
            return tokens, torch.zeros(len(tokens))
        alphas = outputs.alphas[:, self.scalar].double()
        if outputs.deviations is not None and len(self.bounds):
            alphas = self._within(outputs, tokens, generator)
        return tokens, alphas.clamp(-1.0, 1.0).float()

    def _masses(self, outputs: Outputs) -> torch.Tensor:
        """The probability of each interval under each mode, shape (B, I, modes)."""
        at = outputs.alphas[:, self.scalar, None, None].double()
        low, high = self.bounds[None, ..., 0], self.bounds[None, ..., 1]
        if outputs.deviations is None:
            return ((at >= low) & (at <= high)).double()
        scale = outputs.deviations[self.scalar].double()
        normal = torch.special.ndtr((high - at) / scale) - torch.special.ndtr((low - at) / scale)
        masses: torch.Tensor = normal.clamp(min=0.0)
        return masses

    def _within(
        self, outputs: Outputs, tokens: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Alphas of the drawn modes within the intervals: truncated normals, inverted."""
        assert outputs.deviations is not None
        at = outputs.alphas[:, self.scalar].double()
        scale = outputs.deviations[self.scalar].double()
        mode = (tokens - len(self.share)).clamp(min=0)
        rows = torch.arange(len(tokens))
        masses = self._masses(outputs)[rows, :, mode]
        # A token that is no mode has no interval; what is drawn for it is not used.
        stretch = torch.multinomial(masses + 1e-300, 1, generator=generator)[:, 0]
        low, high = self.bounds[stretch, mode].unbind(dim=1)
        below, above = (torch.special.ndtr((end - at) / scale) for end in (low, high))
        uniform = torch.rand(len(tokens), generator=generator, dtype=torch.float64)
        drawn = at + scale * torch.special.ndtri(below + uniform * (above - below))
        return torch.minimum(torch.maximum(drawn, low), high)


def _stretches(codec: ColumnCodec, cells: Cells) -> list[Interval]:
    """The numbers that become allowed cells when they are decoded."""
    if codec.continuous:
        half, column = (codec.column.step or 0.0) / 2, codec.column
        least = -np.inf if column.low is None else column.low
        most = np.inf if column.high is None else column.high
        return [
            (low - half if low > least else -np.inf, high + half if high < most else np.inf)
            for low, high in cells.intervals
        ]
    levels = np.asarray(codec.levels, dtype=np.float64)
    middles = np.concatenate([[-np.inf], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    return [(middles[at], middles[at + 1]) for at in np.flatnonzero(cells.codes[: len(levels)])]


def restricted(layout: TableTokens, cells: Mapping[int, Cells]) -> TableTokens:
    """``layout`` whose rare tokens stand for what ``cells`` allow of them."""
    columns = list(layout.columns)
    for at, allowed in cells.items():
        columns[at] = _without_rare(columns[at], allowed.codes)
    return replace(layout, columns=tuple(columns))


def _without_rare(column: ColumnTokens, codes: np.ndarray) -> ColumnTokens:
    shares = column.rare_shares * codes[column.rare]
    total = shares.sum()
    return column if total == 0 else replace(column, rare_shares=shares / total)


def corrected(
    encoded: EncodedTable, layout: TableTokens, cells: Mapping[int, Cells]
) -> EncodedTable:
    """``encoded`` where rounding at the end of an interval left it, moved inside."""
    codes, values = encoded.codes.copy(), encoded.values.copy()
    for at, allowed in cells.items():
        codec = layout.codec.columns[at]
        if codec.continuous:
            rows = np.flatnonzero(codes[:, at] == codec.continuous_code)
            values[rows, at] = _into(codec.snap(values[rows, at]), allowed.intervals)
        rows = np.flatnonzero(~allowed.codes[codes[:, at]])
        if len(rows) and not codec.column.discrete:
            levels = np.asarray(codec.levels, dtype=np.float64)
            open_ = np.flatnonzero(allowed.codes[: len(levels)])
            away = np.abs(levels[codes[rows, at]][:, None] - levels[open_][None, :])
            codes[rows, at] = open_[away.argmin(axis=1)]
    return EncodedTable(codes, values)


def _into(values: np.ndarray, intervals: Sequence[Interval]) -> np.ndarray:
    """Each value, or the nearest one that lies in an interval."""
    if not intervals:
        return values
    ends = np.array(intervals)
    near = np.clip(values[:, None], ends[:, 0], ends[:, 1])
    best = np.abs(near - values[:, None]).argmin(axis=1)
    inside: np.ndarray = near[np.arange(len(values)), best]
    return inside


def log_likelihood(
    outputs: Outputs, layout: TableTokens, tokens: np.ndarray, alphas: np.ndarray, given: np.ndarray
) -> np.ndarray:
    """How likely each of M latent vectors makes the given cells of N rows, nats, shape (N, M).

    Up to a factor per row.

    Args:
        outputs: of the M vectors.
        layout: of the tokens.
        tokens: of the rows, shape (N, D).
        alphas: of the rows, shape (N, A).
        given: which cells count, bool, shape (N, D).
    """
    total = np.zeros((len(tokens), len(outputs.logits)))
    first = np.concatenate([[0], np.cumsum(layout.sizes)])
    for at, column in enumerate(layout.columns):
        rows = np.flatnonzero(given[:, at])
        if len(rows) == 0:
            continue
        logits = outputs.logits[:, first[at] : first[at + 1]].double()
        total[rows] += logits.log_softmax(dim=1).numpy().T[tokens[rows, at]]
        if column.mixture is not None:
            scalar = layout.continuous.index(at)
            reach = _REACH if outputs.deviations is None else float(outputs.deviations[scalar])
            moded = rows[tokens[rows, at] >= column.first_mode]
            away = alphas[moded, scalar][:, None] - outputs.alphas[:, scalar].double().numpy()
            total[moded] -= 0.5 * (away / reach) ** 2
    return total
