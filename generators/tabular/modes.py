"""Mode-specific normalisation and the one-hot layout of CTGAN and TVAE.

A cell becomes a *token* of its column, and where the token is a mode of a Gaussian mixture, a
scalar ``alpha = (x - mean) / (4 std)`` beside it (Xu et al. 2019, arXiv 1907.00503, section 4.2).
Here the tokens of a column are, in this order: the codes it kept (categories, atoms, missing), one
token for all rare categories, and the modes of the mixture. So a numerical column with spikes or
missing values is one span: the spikes are modes without width.

The number of modes is the one with the lowest BIC (Schwarz 1978) among 10, 9, .. 1, each of which
starts from the one before with its two most similar modes merged (Figueiredo and Jain 2002,
doi:10.1109/34.990138, descend the same way; Runnalls 2007, doi:10.1109/TAES.2007.4383588, gives the
merge). The paper takes a variational mixture for this, which keeps redundant modes for hundreds of
updates. All columns are fitted at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

from ..base import SchemaError
from ..encoding import ColumnCodec, EncodedTable, TableCodec

MAX_MODES = 10
"""Upper bound on the modes of a column (section 4.2 of the paper)."""
MAX_LEVELS = 256
"""A discrete column with more levels than this has one token for all its rarest levels."""
MAX_NUMERIC_LEVELS = 32
"""A numerical column with more distinct values than this gets modes instead of one token each."""

MODE_WIDTH = 4.0
"""Alpha covers so many standard deviations to either side of a mode."""
_MAX_ALPHA = 0.99  # within reach of tanh
_POINTS = 2048
_MIN_STD = 1e-3  # of a mode, in standard deviations of the column
_FREQUENT_SHARE = 0.01
_FREQUENT_OVER_MEDIAN = 10
_GREAT = 1e100


@dataclass(frozen=True)
class Mixture:
    """A mixture of M Gaussians on a line, in the column's units; arrays of shape (M,)."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def posterior(self, values: np.ndarray) -> np.ndarray:
        """Probability of each mode given each value, shape (N, M)."""
        z = (values[:, None] - self.means) / self.stds
        log = np.log(self.weights) - np.log(self.stds) - 0.5 * z**2
        log -= log.max(axis=1, keepdims=True)
        joint = np.exp(log)
        return np.asarray(joint / joint.sum(axis=1, keepdims=True))


def fit_mixtures(
    samples: Sequence[np.ndarray], *, modes: int = MAX_MODES, steps: int = 40
) -> list[Mixture]:
    """The Gaussian mixture of each sample, as few modes as the data ask for.

    All samples are fitted at once in arrays of shape (D, points, modes). A sample longer than 2048
    values is first reduced to the means of 2048 equal runs of its sorted values.

    Args:
        samples: one array of finite values per column, none empty.
        modes: upper bound on the number of modes.
        steps: updates (expectation and maximisation) for each number of modes.
    """
    if not samples:
        return []
    # Squares and sums of numbers as great as these must not overflow.
    units = [max(np.abs(sample).max() / _GREAT, 1.0) for sample in samples]
    centre = np.array([np.mean(s / u) * u for s, u in zip(samples, units, strict=True)])
    scale = np.array([np.std(s / u) * u for s, u in zip(samples, units, strict=True)])
    scale = np.where(scale > 0, scale, np.maximum(np.abs(centre) * 1e-9, 1e-9))
    pairs = [_compress((s - c) / d) for s, c, d in zip(samples, centre, scale, strict=True)]
    longest = max(len(points) for points, _ in pairs)
    x, w = np.zeros((2, len(pairs), longest))
    for row, (points, counts) in enumerate(pairs):
        x[row, : len(points)], w[row, : len(points)] = points, counts
    best = _descend(x, w, _initial_means(x, w, modes), steps)
    return [
        Mixture(found.weights, c + d * found.means, d * found.stds)
        for found, c, d in zip(best, centre, scale, strict=True)
    ]


def _compress(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most ``_POINTS`` points and their counts, in ascending order."""
    ordered = np.sort(values)
    if len(ordered) <= _POINTS:
        return ordered, np.ones(len(ordered))
    edges = np.linspace(0, len(ordered), _POINTS + 1).astype(np.int64)
    counts = np.diff(edges).astype(np.float64)
    return np.add.reduceat(ordered, edges[:-1]) / counts, counts


def _initial_means(x: np.ndarray, w: np.ndarray, modes: int) -> np.ndarray:
    """Ten rounds of Lloyd's algorithm from evenly spaced quantiles; shape (D, modes)."""
    shares = np.cumsum(w, axis=1) / w.sum(axis=1, keepdims=True)
    levels = (np.arange(modes) + 0.5) / modes
    means = np.stack([row[np.searchsorted(s, levels)] for row, s in zip(x, shares, strict=True)])
    for _ in range(10):
        nearest = np.abs(x[:, :, None] - means[:, None, :]).argmin(axis=2)
        member = w[:, :, None] * (nearest[:, :, None] == np.arange(modes))
        total = member.sum(axis=1)
        moved = (member * x[:, :, None]).sum(axis=1) / np.maximum(total, 1e-12)
        means = np.where(total > 0, moved, means)
    return means


def _descend(x: np.ndarray, w: np.ndarray, means: np.ndarray, steps: int) -> list[Mixture]:
    """The mixture of lowest BIC for each row of ``x``, from ``means.shape[1]`` modes downwards."""
    total = w.sum(axis=1)
    nearest = np.abs(x[:, :, None] - means[:, None, :]).argmin(axis=2)
    belongs = (nearest[:, :, None] == np.arange(means.shape[1])).astype(np.float64)
    share, mean, variance = _moments(x, w, belongs)
    best: list[Mixture] = [Mixture(*np.ones((3, 1)))] * len(x)
    lowest = np.full(len(x), np.inf)
    for modes in range(means.shape[1], 0, -1):
        for _ in range(steps):
            belongs, _ = _responsibilities(x, share, mean, variance)
            share, mean, variance = _moments(x, w, belongs)
        _, log_density = _responsibilities(x, share, mean, variance)
        bic = (3 * modes - 1) * np.log(total) - 2 * (w * log_density).sum(axis=1)
        for row in np.flatnonzero(bic <= lowest):
            lowest[row] = bic[row]
            best[row] = Mixture(share[row], mean[row], np.sqrt(variance[row]))
        if modes > 1:
            share, mean, variance = _merge_closest(share, mean, variance)
    return best


def _responsibilities(
    x: np.ndarray, share: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior of the modes (D, P, K) and the log density (D, P) of the points."""
    scale = (np.log(share) - 0.5 * np.log(2 * np.pi * variance))[:, None, :]
    log = scale - 0.5 * (x[:, :, None] - mean[:, None, :]) ** 2 / variance[:, None, :]
    peak = log.max(axis=2, keepdims=True)
    joint = np.exp(log - peak)
    density = joint.sum(axis=2, keepdims=True)
    return joint / density, (np.log(density) + peak)[:, :, 0]


def _moments(
    x: np.ndarray, w: np.ndarray, belongs: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares, means and variances of the modes, each (D, K), given the responsibilities."""
    r = w[:, :, None] * belongs
    n = np.maximum(r.sum(axis=1), 1e-9)
    mean = (r * x[:, :, None]).sum(axis=1) / n
    spread = (r * (x[:, :, None] - mean[:, None, :]) ** 2).sum(axis=1)
    return n / n.sum(axis=1, keepdims=True), mean, np.maximum(spread / n, _MIN_STD**2)


def _merge_closest(
    share: np.ndarray, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One mode less per row: the pair whose merger loses least, by Runnalls' upper bound."""
    rows = np.arange(len(share))
    first, second = np.triu_indices(share.shape[1], k=1)
    s1, s2 = share[:, first], share[:, second]
    both = s1 + s2
    middle = (s1 * mean[:, first] + s2 * mean[:, second]) / both
    between = s1 * s2 / both**2 * (mean[:, first] - mean[:, second]) ** 2
    merged = (s1 * variance[:, first] + s2 * variance[:, second]) / both + between
    log = np.log(variance)
    cost = both * np.log(merged) - s1 * log[:, first] - s2 * log[:, second]
    pair = cost.argmin(axis=1)
    kept = np.ones(share.shape, dtype=bool)
    kept[rows, second[pair]] = False
    parts = []
    for values, new in ((share, both), (mean, middle), (variance, merged)):
        changed = values.copy()
        changed[rows, first[pair]] = new[rows, pair]
        parts.append(changed[kept].reshape(len(share), -1))
    return parts[0], parts[1], parts[2]


@dataclass(frozen=True)
class ColumnTokens:
    """The tokens of one column.

    Attributes:
        codes: the codes that are tokens of their own, shape (C,).
        rare: the codes behind the token for rare levels, shape (R,), often empty.
        rare_shares: their shares among the rare rows, shape (R,).
        mixture: the modes, or None where the column has none.
    """

    codes: np.ndarray
    rare: np.ndarray
    rare_shares: np.ndarray
    mixture: Mixture | None

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.first_mode + (0 if self.mixture is None else len(self.mixture.means))

    @property
    def first_mode(self) -> int:
        """The token of the first mode."""
        return len(self.codes) + bool(len(self.rare))

    def encode(
        self, codec: ColumnCodec, codes: np.ndarray, values: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int64, (N,)) and alphas (float32, (N,), 0 where the token is no mode).

        The mode of a continuous value is drawn from its posterior.
        """
        table = np.full(codec.size, -1, dtype=np.int64)
        table[self.codes] = np.arange(len(self.codes))
        table[self.rare] = len(self.codes)
        tokens, alphas = table[codes], np.zeros(len(codes), dtype=np.float32)
        rows = np.flatnonzero(tokens < 0)
        if self.mixture is not None and len(rows):
            x = _numbers(codec, codes[rows], values[rows])
            below = np.cumsum(self.mixture.posterior(x), axis=1)
            mode = (rng.random((len(rows), 1)) > below[:, :-1]).sum(axis=1)
            scaled = (x - self.mixture.means[mode]) / (MODE_WIDTH * self.mixture.stds[mode])
            tokens[rows] = self.first_mode + mode
            alphas[rows] = np.clip(scaled, -_MAX_ALPHA, _MAX_ALPHA)
        return tokens, alphas

    def decode(
        self, codec: ColumnCodec, tokens: np.ndarray, alphas: np.ndarray, uniform: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes (int32, (N,)) and values (float64, (N,)); ``uniform`` draws the rare levels."""
        codes = np.zeros(len(tokens), dtype=np.int32)
        values = np.full(len(tokens), np.nan)
        own = tokens < len(self.codes)
        codes[own] = self.codes[tokens[own]]
        if len(self.rare):
            rows = tokens == len(self.codes)
            at = np.searchsorted(np.cumsum(self.rare_shares), uniform[rows], side="right")
            codes[rows] = self.rare[np.minimum(at, len(self.rare) - 1)]
        if self.mixture is not None:
            rows = tokens >= self.first_mode
            mode = tokens[rows] - self.first_mode
            x = self.mixture.means[mode] + MODE_WIDTH * self.mixture.stds[mode] * alphas[rows]
            codes[rows], values[rows] = _cells(codec, x)
        return codes, values

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary; ``from_json`` is the inverse."""
        mixture = self.mixture
        return {
            "codes": self.codes.tolist(),
            "rare": self.rare.tolist(),
            "rare_shares": self.rare_shares.tolist(),
            "mixture": None
            if mixture is None
            else [mixture.weights.tolist(), mixture.means.tolist(), mixture.stds.tolist()],
        }

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> Self:
        """The tokens that ``to_json`` wrote."""
        mixture = raw["mixture"]
        return cls(
            codes=np.array(raw["codes"], dtype=np.int32),
            rare=np.array(raw["rare"], dtype=np.int32),
            rare_shares=np.array(raw["rare_shares"], dtype=np.float64),
            mixture=None if mixture is None else Mixture(*(np.array(part) for part in mixture)),
        )


@dataclass(frozen=True)
class TableTokens:
    """The tokens of all modelled columns: what a table looks like to CTGAN and TVAE."""

    codec: TableCodec
    columns: tuple[ColumnTokens, ...]

    @classmethod
    def fit(cls, codec: TableCodec, encoded: EncodedTable) -> Self:
        """The tokens that the encoded training table asks for.

        Raises:
            SchemaError: a column holds categories that the schema does not know.
        """
        plans, samples = [], []
        for position, column in enumerate(codec.columns):
            codes = encoded.codes[:, position]
            own, rare, shares = _split_codes(column, codes)
            rows = ~np.isin(codes, np.concatenate([own, rare]))
            if rows.any():
                samples.append(_numbers(column, codes[rows], encoded.values[rows, position]))
            plans.append((own, rare, shares, bool(rows.any())))
        mixtures = iter(fit_mixtures(samples))
        columns = tuple(
            ColumnTokens(own, rare, shares, next(mixtures) if continuous else None)
            for own, rare, shares, continuous in plans
        )
        return cls(codec, columns)

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each column."""
        return [column.size for column in self.columns]

    @property
    def continuous(self) -> list[int]:
        """Positions of the columns with modes, which have an alpha each."""
        return [at for at, column in enumerate(self.columns) if column.mixture is not None]

    @property
    def conditional(self) -> list[int]:
        """Positions of the columns that a conditional vector can name: no modes, and a choice."""
        return [at for at, col in enumerate(self.columns) if col.mixture is None and col.size > 1]

    def encode(
        self, encoded: EncodedTable, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int64, (N, D)) and alphas (float32, (N, A)), A the number of mixtures."""
        tokens = np.empty(encoded.codes.shape, dtype=np.int64)
        alphas = np.empty(encoded.codes.shape, dtype=np.float32)
        for at, (column, codec) in enumerate(zip(self.columns, self.codec.columns, strict=True)):
            cells = encoded.codes[:, at], encoded.values[:, at]
            tokens[:, at], alphas[:, at] = column.encode(codec, *cells, rng)
        return tokens, alphas[:, self.continuous]

    def decode(
        self, tokens: np.ndarray, alphas: np.ndarray, rng: np.random.Generator
    ) -> EncodedTable:
        """Inverse of ``encode`` up to clipping; rare levels are drawn by their shares."""
        codes = np.empty(tokens.shape, dtype=np.int32)
        values = np.full(tokens.shape, np.nan)
        full = np.zeros(tokens.shape)
        full[:, self.continuous] = alphas
        uniform = rng.random(tokens.shape)
        for at, (column, codec) in enumerate(zip(self.columns, self.codec.columns, strict=True)):
            codes[:, at], values[:, at] = column.decode(
                codec, tokens[:, at], full[:, at], uniform[:, at]
            )
        return EncodedTable(codes, values)

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON-able list; ``from_json`` is the inverse."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, codec: TableCodec, raw: Sequence[dict[str, Any]]) -> Self:
        """The tokens that ``to_json`` wrote."""
        return cls(codec, tuple(ColumnTokens.from_json(entry) for entry in raw))


def check_codes(codec: ColumnCodec, codes: np.ndarray) -> None:
    """Raise SchemaError if a code is unknown: the schema lacks a category of the data."""
    if len(codes) and codes.min() < 0:
        raise SchemaError(
            f"the values of column {codec.column.name!r} must be levels of the schema, "
            f"{int((codes < 0).sum())} rows hold others; infer the schema from this data"
        )


def _split_codes(codec: ColumnCodec, codes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Codes with a token of their own, rare codes, and the shares of the latter."""
    check_codes(codec, codes)
    counts = np.bincount(codes, minlength=codec.size)
    present = np.flatnonzero(counts)
    none = np.zeros(0, dtype=np.int32)
    if not codec.column.discrete:
        level = present < len(codec.levels)
        keep = present != codec.continuous_code
        if level.sum() > MAX_NUMERIC_LEVELS:
            frequent = counts[present] > max(
                _FREQUENT_SHARE * len(codes),
                _FREQUENT_OVER_MEDIAN * float(np.median(counts[present[level]])),
            )
            keep &= ~level | frequent
        return present[keep].astype(np.int32), none, np.zeros(0)
    if len(present) <= MAX_LEVELS:
        return present.astype(np.int32), none, np.zeros(0)
    order = present[np.argsort(-counts[present], kind="stable")]
    own, rare = np.sort(order[: MAX_LEVELS - 1]), np.sort(order[MAX_LEVELS - 1 :])
    return own.astype(np.int32), rare.astype(np.int32), counts[rare] / counts[rare].sum()


def _numbers(codec: ColumnCodec, codes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The numbers behind cells of a numerical column that are not missing."""
    if not codec.levels:
        return values
    levels = np.asarray(codec.levels, dtype=np.float64)
    at_level = codes < len(levels)
    return np.where(at_level, levels[np.where(at_level, codes, 0)], values)


def _cells(codec: ColumnCodec, x: np.ndarray) -> tuple[np.ndarray | int, np.ndarray | float]:
    """Codes and values for numbers: continuous, or the nearest level where all are levels."""
    if codec.continuous:
        return codec.continuous_code, x
    levels = np.asarray(codec.levels, dtype=np.float64)
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, x), np.nan


class Spans:
    """Spans of a flat vector, one per column, in which softmax and draws happen all at once.

    Args:
        sizes: number of tokens of each of the S columns; K is their sum.
        device: where the tensors live.

    Attributes:
        segment: the span of each position, shape (K,).
        first: the first position of each span, shape (S,).
    """

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        length = torch.tensor(sizes, dtype=torch.int64)
        self.sizes = list(sizes)
        self.width = int(length.sum())
        self._end = length.cumsum(0).to(device)
        self.first = self._end - length.to(device)
        self.segment = torch.repeat_interleave(torch.arange(len(sizes)), length).to(device)
        self._index = torch.arange(self.width, device=device)

    def peak(self, logits: torch.Tensor) -> torch.Tensor:
        """The largest logit of each span, without gradient, shape (B, S)."""
        return self._peak(logits.detach().t().contiguous()).t()

    def softmax(self, logits: torch.Tensor) -> torch.Tensor:
        """Softmax within each span, shape (B, K)."""
        # Transposed, because torch then reduces whole rows: several times as fast.
        exponentials, sums, _ = self.exp_and_sum(logits.t().contiguous())
        return (exponentials * sums.reciprocal().index_select(0, self.segment)).t()

    def cross_entropy(self, logits: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """The cross-entropy of the tokens at ``places``, summed over spans and rows.

        Args:
            logits: of B rows, as columns: shape (K, B).
            places: the tokens' positions in the flat logits, int64, shape (S * B,).
        """
        loss: torch.Tensor = _CrossEntropy.apply(logits, places, self)  # type: ignore[no-untyped-call]
        return loss

    def exp_and_sum(self, across: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Stable exponentials (K, B), their sums per span (S, B), and the peaks (S, B)."""
        peak = self._peak(across)
        exponentials = (across - peak.index_select(0, self.segment)).exp_()
        sums = torch.zeros_like(peak).index_add(0, self.segment, exponentials)
        return exponentials, sums, peak

    def _peak(self, across: torch.Tensor) -> torch.Tensor:
        low = across.new_full((len(self.sizes), across.shape[1]), -torch.inf)
        at = self.segment[:, None].expand_as(across)
        return low.scatter_reduce(0, at, across.detach(), "amax")

    def within(self, logits: torch.Tensor, span: torch.Tensor) -> torch.Tensor:
        """The logits of one span of each row, the rest -inf; (B, K) and (B,) -> (B, longest)."""
        at = self.first[span, None] + self._index[: max(self.sizes)]
        outside = at >= self._end[span, None]
        return logits.gather(1, at.clamp(max=self.width - 1)).masked_fill(outside, -torch.inf)

    def largest(self, scores: torch.Tensor) -> torch.Tensor:
        """The token with the largest score in each span, shape (B, S)."""
        best = self.peak(scores).index_select(1, self.segment)
        at = torch.where(scores >= best, self._index, self.width)
        first = at.new_full((len(scores), len(self.sizes)), self.width)
        first = first.scatter_reduce(1, self.segment.expand_as(at), at, "amin")
        return first - self.first

    def draw(self, logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """A token per span from the softmax, by the Gumbel-max trick, shape (B, S)."""
        return self.largest(logits + gumbel(logits, generator))


class _CrossEntropy(torch.autograd.Function):
    """``Spans.cross_entropy``; its gradient, softmax less one-hot, in as many passes."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        logits: torch.Tensor,
        places: torch.Tensor,
        spans: Spans,
    ) -> torch.Tensor:
        """A scalar, in float32 where the logits are in less."""
        across = logits.to(torch.promote_types(logits.dtype, torch.float32))
        chosen = across.view(-1).index_select(0, places).sum()
        exponentials, sums, peak = spans.exp_and_sum(across)
        ctx.save_for_backward(exponentials, sums, places)
        ctx.segment = spans.segment
        return sums.log().sum() + peak.sum() - chosen

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        by_loss: torch.Tensor,
    ) -> tuple[torch.Tensor, None, None]:
        """The gradient by the logits."""
        exponentials, sums, places = ctx.saved_tensors
        by_logits = exponentials * (by_loss / sums).index_select(0, ctx.segment)
        by_logits.view(-1).index_add_(0, places, -by_loss.expand(len(places)))
        return by_logits, None, None


def gumbel(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard Gumbel noise of the shape and device of ``like``."""
    uniform = torch.rand(like.shape, generator=generator, device=like.device)
    return uniform.clamp_(min=1e-20).log_().neg_().log_().neg_()
