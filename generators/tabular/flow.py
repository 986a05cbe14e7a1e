"""An autoregressive flow of monotone splines over the columns.

Every column is a line on which each of its tokens has a stretch (``generators.tabular.spline``).
The flow takes the columns in order and maps the line of each by a rational-quadratic spline that
depends on the columns before it (Durkan et al. 2019, arXiv 1906.04032, with the autoregressive
network of arXiv 1705.07057), so that a row becomes uniform noise and noise, by the inverse, a row.
The probability of a token is what the spline rises over its stretch: exact for categories, spikes
and missing cells as it is for numbers, with no noise added to them. Under conditions on columns
that come late, candidates are weighted and resampled as they grow (Gordon, Salmond & Smith 1993).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from generators.base import Block, Density, ParameterError
from generators.conditions import Cells
from generators.encoding import EncodedTable
from generators.tabular.cell_model import chunks
from generators.tabular.cells import draw_each
from generators.tabular.descent import HeldOutDescent, RowNetwork
from generators.tabular.ordering import column_order, mutual_information
from generators.tabular.resampling import systematic_each
from generators.tabular.spline import Bins, Line, lines, piece
from generators.tabular.token_model import TokenModel
from generators.tabular.tokens import TwoLevelTokens

# Tokens of the values of a continuous column, about at most: so fine is what the flow tells apart.
_TOKENS = 1024
# Rows that a level of the target needs for the target to come first.
_MIN_LEVEL = 160
# Of a bin: in training a shorter stretch counts as its middle.
_NARROW = 0.05
_TINY = 1e-30
# Candidates for each row of a sample under conditions, and at least.
_POOL, _MIN_POOL = 8, 1024
# Candidates for each row that is completed, then for those rows that they explain badly: they make
# the given cells by so much less likely than these are on their own.
_CANDIDATES, _UNLIKELY = (32, 512), 0.5
# Rows drawn under conditions at once, and candidates for completed ones.
_GROUPS, _MOST_CANDIDATES = 512, 2**14
# Probabilities of all tokens that are in memory at once, about at most.
_MOST_NUMBERS = 2**22
# Conditions less likely than this have no support.
_NO_SUPPORT = 1e-9

Heads = tuple[torch.Tensor, torch.Tensor]
"""Logs of the probabilities of a column's bins, and the bends of its knots."""


class SplineNetwork(RowNetwork):
    """The spline of each column given those before it.

    Each column has a perceptron of its own, all computed as one batched product: what stands for
    the tokens before -> ``width`` -> ``width`` (residual) -> heights and bends of a spline. The
    last layer starts at zero: the flow starts as independent columns.

    Args:
        made: the lines of the columns.
        order: the columns in their order.
        embedding: numbers that stand for a token.
        width: of the hidden layers.
    """

    def __init__(self, made: list[Line], order: list[int], embedding: int, width: int) -> None:
        super().__init__()
        wide, self.sizes = len(made), [len(line.alone) for line in made]
        self.made, self.order = made, order
        bins, tokens = sum(self.sizes), sum(len(line.order) for line in made)
        self.heads = [2 * size + 1 for size in self.sizes]
        self.embedding = nn.Parameter(torch.empty(bins, embedding))
        self.slope = nn.Parameter(torch.empty(bins, embedding))
        self.first = nn.Parameter(torch.empty(wide, wide * embedding, width))
        self.first_bias = nn.Parameter(torch.empty(wide, 1, width))
        self.second = nn.Parameter(torch.empty(wide, width, width))
        self.second_bias = nn.Parameter(torch.empty(wide, 1, width))
        self.head = nn.Parameter(torch.empty(sum(self.heads), width))
        self.head_bias = nn.Parameter(torch.empty(sum(self.heads)))
        # Of each token its bin, among those of all columns, and where in it its stretch lies.
        self.register_buffer("bin", torch.empty(tokens, dtype=torch.int64))
        self.register_buffer("stretch", torch.empty(tokens, 2))
        self.register_buffer("starts", torch.empty(wide, dtype=torch.int64))
        # 1.0 where a column (first axis) comes after another one.
        self.register_buffer("after", torch.empty(wide, wide))

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the weights from ``generator``, and the buffers."""
        _, inputs, width = self.first.shape
        self.embedding.normal_(0.0, 0.5, generator=generator)
        self.slope.normal_(0.0, 0.5, generator=generator)
        self.first.normal_(0.0, math.sqrt(2.0 / inputs), generator=generator)
        self.second.normal_(0.0, 1.0 / math.sqrt(width), generator=generator)
        for zero in (self.first_bias, self.second_bias, self.head, self.head_bias):
            zero.zero_()
        first = np.cumsum([0, *self.sizes[:-1]])
        bins = [line.bins() + start for line, start in zip(self.made, first, strict=True)]
        starts = np.cumsum([0, *(len(line.order) for line in self.made[:-1])])
        place = np.argsort(self.order)
        self.get_buffer("bin").copy_(torch.from_numpy(np.concatenate(bins)))
        stretch = np.concatenate([line.within() for line in self.made])
        self.get_buffer("stretch").copy_(torch.from_numpy(stretch))
        self.get_buffer("starts").copy_(torch.from_numpy(starts))
        self.get_buffer("after").copy_(torch.from_numpy(place[:, None] > place[None]))

    def start_from(self, rows: torch.Tensor) -> None:
        """Let the bias say the marginal of these training tokens (N, D)."""
        bins = self.get_buffer("bin")[rows + self.get_buffer("starts")]
        counts = torch.bincount(bins.flatten(), minlength=sum(self.sizes)) + 0.5
        with torch.no_grad():
            for bias, count in zip(
                torch.split(self.head_bias, self.heads),
                torch.split(counts, self.sizes),
                strict=True,
            ):
                bias[: len(count)] = (count / count.sum()).log()

    def embedded(self, tokens: torch.Tensor, column: slice = slice(None)) -> torch.Tensor:
        """What stands for tokens (int64, (B, D)) of the columns; (B, D, embedding)."""
        flat = tokens + self.get_buffer("starts")[column]
        bins, stretch = self.get_buffer("bin")[flat], self.get_buffer("stretch")[flat]
        away = stretch.mean(dim=-1, keepdim=True) - 0.5
        made: torch.Tensor = F.embedding(bins, self.embedding) + away * F.embedding(
            bins, self.slope
        )
        return made

    def losses(self, tokens: torch.Tensor, bins: Bins) -> torch.Tensor:
        """Minus the log-probability of every token given those before it, nats, (D, B)."""
        wide, inputs, width = self.first.shape
        shown = self.first.view(wide, wide, -1, width) * self.get_buffer("after")[..., None, None]
        weights = shown.permute(1, 2, 0, 3).reshape(inputs, wide * width)
        first = (self.embedded(tokens).flatten(1) @ weights).view(-1, wide, width).transpose(0, 1)
        hidden = self._second(first + self.first_bias, slice(None))
        heads = zip(
            torch.split(self.head, self.heads), torch.split(self.head_bias, self.heads), strict=True
        )
        made = [
            F.linear(layer, *head).float()
            for layer, head in zip(hidden.unbind(0), heads, strict=True)
        ]
        parts = [
            torch.split(each, [size, size + 1], dim=1)
            for each, size in zip(made, self.sizes, strict=True)
        ]
        shares = torch.cat([heights.log_softmax(dim=1) for heights, _ in parts], dim=1)
        bends = torch.cat([bend for _, bend in parts], dim=1)
        flat = tokens + self.get_buffer("starts")
        at, (low, high) = self.get_buffer("bin")[flat], self.get_buffer("stretch")[flat].unbind(-1)
        spline = piece(shares, bends, bins, at)
        length, middle = high - low, (low + high) / 2.0
        narrow = length < _NARROW
        risen = (spline(high) - spline(low)).clamp(min=1e-9).log()
        within = torch.where(
            narrow, spline.log_slope(middle) + length.clamp(min=_TINY).log(), risen
        )
        return -(shares.gather(1, at) + within).t()

    def spline(self, inputs: torch.Tensor, at: int) -> Heads:
        """Logs of the bins' probabilities (B, K) and the bends (B, K + 1) of column ``at``.

        Args:
            inputs: what stands for the tokens before, (B, D, embedding); of others it is not seen.
            at: the column.
        """
        shown = inputs * self.get_buffer("after")[at, :, None]
        first = torch.addmm(self.first_bias[at], shown.flatten(1), self.first[at])
        hidden = self._second(first.unsqueeze(0), slice(at, at + 1))[0]
        begin, size = sum(self.heads[:at]), self.sizes[at]
        span = slice(begin, begin + self.heads[at])
        made = F.linear(hidden, self.head[span], self.head_bias[span]).double()
        return made[:, :size].log_softmax(dim=1), made[:, size:]

    def _second(self, first: torch.Tensor, targets: slice) -> torch.Tensor:
        hidden = F.silu(first)
        bias = self.second_bias[targets].expand(-1, hidden.shape[1], -1)
        return hidden + F.silu(torch.baddbmm(bias, hidden, self.second[targets]))


@dataclass(kw_only=True)
class TableFlow(TokenModel[SplineNetwork], Density):
    """Autoregressive flow of rational-quadratic splines (arXiv 1906.04032, arXiv 1705.07057).

    Attributes:
        bins: of the spline of each column, about; every category has one where there are no more.
    """

    epochs: int = 16
    max_steps: int = 8000
    lr: float = 2e-3
    bins: int = 64

    name: ClassVar[str] = "table-flow"
    suits: ClassVar[str] = (
        "an exact density, nearly as faithful as `autoregressive` and sampled faster; few weights "
        "for many levels"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 2:
            raise ParameterError(f"bins of {self.name} must be at least 2, got {self.bins}; try 64")

    def _prepare(self, encoded: EncodedTable) -> None:
        self.tokens_ = TwoLevelTokens.fit(self.codec_, encoded, coarse=_TOKENS, fine=1)
        information = mutual_information(encoded, self.codec_, self.seed)
        self.lines_ = lines(self.codec_, encoded, self.tokens_, self.bins, information)
        self.order_ = column_order(information, self.codec_, encoded, _MIN_LEVEL)

    def _training(self, _: EncodedTable, tokens: torch.Tensor) -> Callable[[int], _Training]:
        return lambda total: _Training(self, tokens, total)

    def _network(self) -> SplineNetwork:
        embedding = self._embedding(len(self.lines_))
        return SplineNetwork(self.lines_, self.order_, embedding, self.width)

    def _ready_to_sample(self) -> None:
        self.columns_ = [_Column(self.network_, at) for at in range(len(self.lines_))]

    def _draw_rows(self, n: int, seed: int) -> EncodedTable:
        rng, walk = np.random.default_rng(seed), _Walk(self.columns_, self.order_, {})
        tokens = np.zeros((n, len(self.lines_)), np.int64)
        for rows in chunks(n):
            walk(tokens[rows], np.zeros(tokens[rows].shape, dtype=bool), 1, rng)
        return self.tokens_.decode(tokens, rng)

    def _draw_where(self, n: int, seed: int, cells: Mapping[int, Cells]) -> EncodedTable | None:
        share = {at: self.tokens_.weights(at, cell)[0] for at, cell in cells.items()}
        rng, walk = np.random.default_rng(seed), _Walk(self.columns_, self.order_, share)
        tokens = np.empty((n, len(self.lines_)), np.int64)
        for rows in chunks(n, _GROUPS):
            count = len(tokens[rows])
            pool = np.zeros((max(_POOL * count, _MIN_POOL), tokens.shape[1]), np.int64)
            logs, evidence = walk(pool, np.zeros(pool.shape, dtype=bool), len(pool), rng)
            if not np.exp(evidence[0]) > _NO_SUPPORT:
                return None
            kept = systematic_each(np.exp(logs - logs.max()), count, rng)[0]
            tokens[rows] = pool[rng.permutation(kept)]
        return self.tokens_.decode(tokens, rng, cells)

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        rng = block.rng()
        share = {at: self.tokens_.not_missing(at) for at in np.flatnonzero(present).tolist()}
        walk = _Walk(self.columns_, self.order_, share)
        tokens = np.where(given, self.tokens_.encode(encoded), 0)
        # Candidates are of use only where a given column comes after one that is not.
        late, ordered = np.zeros_like(given), given[:, self.order_]
        late[:, self.order_] = np.maximum.accumulate(~ordered, axis=1) & ordered
        alone = self._log_alone(tokens, given, late, share)

        def fill(rows: np.ndarray, candidates: int) -> np.ndarray:
            """Complete these rows; gives those for which the candidates were too few."""
            poor = np.zeros(len(rows), dtype=bool)
            for part in chunks(len(rows), _MOST_CANDIDATES // candidates):
                mine = np.repeat(rows[part], candidates)
                pool = tokens[mine]
                logs, evidence = walk(pool, given[mine], candidates, rng, late[mine])
                kept = systematic_each(np.exp(logs - logs.max(axis=1, keepdims=True)), 1, rng)
                tokens[rows[part]] = pool[kept[:, 0] + np.arange(len(kept)) * candidates]
                poor[part] = evidence < alone[rows[part]] + math.log(_UNLIKELY)
            return rows[poor]

        fill(np.flatnonzero(~late.any(axis=1)), 1)
        rows = np.flatnonzero(late.any(axis=1))
        for candidates in _CANDIDATES:
            rows = fill(rows, candidates)
        drawn = self.tokens_.decode(tokens, rng)
        codes = np.where(given, encoded.codes, drawn.codes)
        return EncodedTable(codes, np.where(given, encoded.values, drawn.values))

    def _log_alone(
        self,
        tokens: np.ndarray,
        given: np.ndarray,
        late: np.ndarray,
        share: Mapping[int, np.ndarray],
    ) -> np.ndarray:
        """The log-probability of ``late`` cells, and of ``share``, by each column alone; (N,)."""
        logs = np.zeros(len(tokens))
        for at, line in enumerate(self.lines_):
            chance = line.shares()
            logs += np.where(late[:, at], np.log(chance)[tokens[:, at]], 0.0)
            if at in share:
                logs += np.where(given[:, at], 0.0, np.log(chance @ share[at]))
        return logs

    def log_density(self, data: pd.DataFrame) -> np.ndarray:
        """The log of the model's density of each row, nats, float64, shape (N,).

        A density in the continuous columns without a grid, a probability in the others; minus
        infinity where a category is unknown or a missing value is met for the first time.
        Where a moment is learned with its weekday and time of day, those count as columns.
        """
        self._require_fitted()
        encoded = self.codec_.encode(data)
        tokens = self.tokens_.encode(encoded)
        unknown = (tokens < 0).any(axis=1)
        known, walk = np.maximum(tokens, 0), _Walk(self.columns_, self.order_, {})
        logs = self.tokens_.log_density(encoded)
        for rows in chunks(len(known)):
            given = np.ones(known[rows].shape, dtype=bool)
            logs[rows] += walk(known[rows], given, 1, np.random.default_rng(0))[0][:, 0]
        return np.where(unknown, -np.inf, logs)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, state = super()._state()
        for at, line in enumerate(self.lines_):
            arrays[f"{at}.order"], arrays[f"{at}.ends"] = line.order, line.ends
            arrays[f"{at}.bin"] = line.bin
        return arrays, {**state, "order": self.order_}

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        self.order_ = [int(at) for at in state["order"]]
        self.lines_ = [
            Line(arrays[f"{at}.order"], arrays[f"{at}.ends"], arrays[f"{at}.bin"])
            for at in range(len(self.order_))
        ]
        super()._restore(arrays, state)


class _Training(HeldOutDescent[SplineNetwork]):
    """Training by the exact likelihood, but that short stretches count as their middles."""

    def __init__(self, settings: TableFlow, rows: torch.Tensor, total: int) -> None:
        self.bins = Bins.of(settings.lines_, rows.device)
        super().__init__(settings._untrained(rows.device), rows, settings, total)

    def losses(
        self,
        network: SplineNetwork,
        batch: torch.Tensor,
        random: torch.Generator,  # noqa: ARG002 - nothing is drawn
    ) -> torch.Tensor:
        """Minus the log-probability of every token of the rows (B, D), nats, shape (D, B)."""
        return network.losses(batch, self.bins)


class _Column:
    """The conditional distribution of one column in a fitted flow."""

    def __init__(self, network: SplineNetwork, at: int) -> None:
        self.network, self.at, self.line = network, at, network.made[at]
        self.bins = Bins.of([self.line], torch.device("cpu"))
        self.bin = torch.from_numpy(self.line.bins())
        self.stretch = torch.from_numpy(self.line.within())

    def log_chances(self, heads: Heads, tokens: torch.Tensor) -> np.ndarray:
        """The log-probability of tokens (N, M) of each of N rows; float64, shape (N, M)."""
        at, (low, high) = self.bin[tokens], self.stretch[tokens].unbind(-1)
        spline = piece(*heads, self.bins, at)
        risen = (spline(high) - spline(low)).clamp(min=_TINY)
        logs: np.ndarray = (heads[0].gather(1, at) + risen.log()).numpy()
        return logs

    def draw(self, heads: Heads, rng: np.random.Generator) -> np.ndarray:
        """A token of each row: where uniform noise is mapped to."""
        ends = heads[0].exp().cumsum(dim=1)
        uniform = torch.from_numpy(rng.random((len(ends), 1))) * ends[:, -1:]
        at = torch.searchsorted(ends, uniform, right=True).clamp(max=ends.shape[1] - 1)
        height = heads[0].gather(1, at).exp()
        risen = (1.0 - (ends.gather(1, at) - uniform) / height).clamp(0.0, 1.0)
        share = piece(*heads, self.bins, at).inverse(risen)
        return self.line.token(at[:, 0].numpy(), share[:, 0].numpy())

    def draw_within(
        self,
        heads: Heads,
        allowed: np.ndarray,
        rng: np.random.Generator,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A token of each row, of which only these shares (T,) are allowed; the log of the mass."""
        some = np.flatnonzero(allowed)
        tokens, mass = np.empty(len(heads[0]), np.int64), np.empty(len(heads[0]))
        for rows in chunks(len(tokens), max(1, _MOST_NUMBERS // len(some))):
            part = heads[0][rows], heads[1][rows]
            every = torch.from_numpy(some).expand(len(part[0]), -1)
            chances = np.exp(self.log_chances(part, every)) * allowed[some]
            mass[rows] = chances.sum(axis=1)
            tokens[rows] = some[draw_each(chances, rng)]
        return tokens, np.log(np.maximum(mass, _TINY))


@dataclass(frozen=True)
class _Walk:
    """Rows drawn column by column, in groups of candidates.

    Attributes:
        columns: their distributions.
        order: in which they are drawn.
        share: of some columns the share of each token that is allowed, (T,).
    """

    columns: list[_Column]
    order: list[int]
    share: Mapping[int, np.ndarray]

    @torch.inference_mode()
    def __call__(
        self,
        tokens: np.ndarray,
        given: np.ndarray,
        candidates: int,
        rng: np.random.Generator,
        judged: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw what is not ``given`` of ``tokens`` (both (N, D)), in place.

        The rows of a group, so many ``candidates`` one after the other, have the same cells given.
        Of these only those that are ``judged`` weigh, by default all.

        Returns:
            The logs of the candidates' weights, shape (groups, candidates), and of the probability
            of all that is judged or allowed, up to the chance of the draws, shape (groups,).
        """
        judged = given if judged is None else judged
        network = self.columns[0].network
        inputs = torch.zeros_like(network.embedded(torch.from_numpy(tokens)))
        logs = np.zeros((len(tokens) // candidates, candidates))
        evidence = np.zeros(len(logs))
        for at in self.order:
            heads = network.spline(inputs, at)
            weights = self._take(tokens, given[:, at], judged[:, at], heads, at, rng)
            if weights is not None:
                logs += weights.reshape(logs.shape)
                moved = _resample(logs, evidence, rng) if candidates > 1 else None
                if moved is not None:
                    tokens[:] = tokens[moved]
                    inputs = inputs[torch.from_numpy(moved)]
            here = torch.from_numpy(tokens[:, at : at + 1])
            inputs[:, at] = network.embedded(here, slice(at, at + 1))[:, 0]
        top = logs.max(axis=1, initial=-np.inf)
        evidence += top + np.log(np.exp(logs - top[:, None]).mean(axis=1))
        return logs, evidence

    def _take(
        self,
        tokens: np.ndarray,
        here: np.ndarray,
        judged: np.ndarray,
        heads: Heads,
        at: int,
        rng: np.random.Generator,
    ) -> np.ndarray | None:
        """Draw column ``at`` where it is not given; the logs of the weights, if not all are 0."""
        column, weights = self.columns[at], None
        if not here.all():
            if at in self.share:
                drawn, weights = column.draw_within(heads, self.share[at], rng)
            else:
                drawn = column.draw(heads, rng)
            tokens[:, at] = np.where(here, tokens[:, at], drawn)
            weights = None if weights is None else np.where(here, 0.0, weights)
        if judged.any():
            known = torch.from_numpy(tokens[:, at : at + 1])
            likely = column.log_chances(heads, known)[:, 0]
            weights = np.where(judged, likely, 0.0 if weights is None else weights)
        return weights


def _resample(
    logs: np.ndarray, evidence: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """The candidates that go on in place of each, where their weights have become uneven.

    ``logs`` and ``evidence`` change with it.
    """
    top = logs.max(axis=1, keepdims=True)
    weights = np.exp(logs - top)
    worth = weights.sum(axis=1) ** 2 / (weights**2).sum(axis=1)
    uneven = np.flatnonzero(worth < logs.shape[1] / 2)
    if len(uneven) == 0:
        return None
    moved = np.arange(logs.size).reshape(logs.shape)
    chosen = systematic_each(weights[uneven], logs.shape[1], rng)
    moved[uneven] = chosen + uneven[:, None] * logs.shape[1]
    evidence[uneven] += top[uneven, 0] + np.log(weights[uneven].mean(axis=1))
    logs[uneven] = 0.0
    return moved.ravel()
