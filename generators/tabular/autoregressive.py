"""Any-order autoregression over two-level tokens.

The density of a row is a product of conditionals, one for each column, in any order of the columns
(Uria, Murray, Larochelle 2014, "A deep and tractable density estimator", arXiv 1310.1757; for
tables: TabularARGN, arXiv 2501.12012). One network gives the conditional of every column on every
set of the others, so one model samples, conditions, imputes and scores. Half of the training rows
see their columns in the order that samples are drawn in, the others in orders of their own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from generators.base import Block, Density, ParameterError, derive_seed
from generators.conditions import Cells
from generators.encoding import EncodedTable, TableCodec
from generators.tabular.descent import HeldOutDescent, RowNetwork
from generators.tabular.ordering import column_order, mutual_information
from generators.tabular.resampling import systematic
from generators.tabular.token_model import TokenModel
from generators.tabular.tokens import TwoLevelTokens
from generators.training import torch_generator

_MICRO_BATCH = 1024
"""Rows per forward pass of a sample. Part of the format: a change changes all samples."""
# Rows that a level of the target needs for the target to come first.
_MIN_LEVEL = 160
# Rows drawn under conditions for each that is kept: sampling importance resampling (Rubin 1987),
# from the conditioned columns first to the order that the model knows best.
_POOL = 4
# Conditions less likely than this have no support.
_NO_SUPPORT = 1e-7


class ConditionalNetwork(RowNetwork):
    """The conditional of every sub-column on any set of the others.

    Each sub-column has a perceptron of its own, all computed as one batched product: the embeddings
    of the known sub-columns -> ``width`` -> ``width`` (residual) -> logits. The head starts at zero
    and its bias at the marginal, so the model starts as independent columns.

    Args:
        sizes: number of tokens of each sub-column.
        embedding: numbers that stand for a token.
        width: of the hidden layers.
    """

    def __init__(self, sizes: list[int], embedding: int, width: int) -> None:
        super().__init__()
        wide, tokens = len(sizes), sum(sizes)
        self.sizes = sizes
        self.embedding = nn.Parameter(torch.empty(tokens, embedding))
        self.known = nn.Parameter(torch.empty(wide, wide, width))
        self.first = nn.Parameter(torch.empty(wide, wide * embedding, width))
        self.first_bias = nn.Parameter(torch.empty(wide, 1, width))
        self.second = nn.Parameter(torch.empty(wide, width, width))
        self.second_bias = nn.Parameter(torch.empty(wide, 1, width))
        self.head = nn.Parameter(torch.empty(tokens, width))
        self.head_bias = nn.Parameter(torch.empty(tokens))
        # A sum by torch would load its compiler on the meta device, for a second.
        starts = list(itertools.accumulate(sizes[:-1], initial=0))
        self.register_buffer("starts", torch.tensor(starts))

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the weights from ``generator``."""
        _, inputs, width = self.first.shape
        self.embedding.normal_(0.0, 0.5, generator=generator)
        self.known.normal_(0.0, 0.05, generator=generator)
        # Half of the inputs are known on average.
        self.first.normal_(0.0, math.sqrt(2.0 / inputs), generator=generator)
        self.second.normal_(0.0, 1.0 / math.sqrt(width), generator=generator)
        for zero in (self.first_bias, self.second_bias, self.head, self.head_bias):
            zero.zero_()
        sizes = torch.tensor([0, *self.sizes[:-1]])
        self.get_buffer("starts").copy_(sizes.cumsum(0))

    def start_from(self, tokens: torch.Tensor) -> None:
        """Let the bias say the marginal of these training tokens (N, S)."""
        counts = torch.cat(
            [torch.bincount(tokens[:, at], minlength=size) for at, size in enumerate(self.sizes)]
        )
        with torch.no_grad():
            self.head_bias.copy_(((counts + 0.5) / len(tokens)).log())

    def embedded(self, tokens: torch.Tensor) -> torch.Tensor:
        """What stands for each token (int64, (B, S)); (B, S, embedding)."""
        return F.embedding(tokens + self.get_buffer("starts"), self.embedding)

    def losses(self, tokens: torch.Tensor, same: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Minus the log-probability of every token given the known ones, nats, shape (S, B).

        Args:
            tokens: int64, (B, S).
            same: 1.0 where a target may see a sub-column, in all but the last R rows, (S, S).
            known: 1.0 where a target may see a sub-column in each of the last R rows, (S, R, S).
        """
        seen, alike = self.embedded(tokens), len(tokens) - known.shape[1]
        parts = []
        if alike:
            parts.append(self._first_alike(seen[:alike], same))
        if alike < len(tokens):
            parts.append(self._first_each(seen[alike:], known))
        hidden = self._second(torch.cat(parts, dim=1), slice(None))
        heads = zip(
            torch.split(self.head, self.sizes),
            torch.split(self.head_bias, self.sizes),
            strict=True,
        )
        each = [
            F.cross_entropy(F.linear(layer, *head).float(), tokens[:, at], reduction="none")
            for at, (layer, head) in enumerate(zip(hidden.unbind(0), heads, strict=True))
        ]
        return torch.stack(each)

    def logits(self, inputs: torch.Tensor, known: torch.Tensor, at: int) -> torch.Tensor:
        """Logits of sub-column ``at``, shape (B, size).

        Args:
            inputs: what stands for the known tokens, zeros for the others; (B, S, embedding).
            known: 1.0 where a sub-column is known; (B, S).
            at: the sub-column.
        """
        first = torch.addmm(self.first_bias[at], inputs.flatten(1), self.first[at])
        first = torch.addmm(first, known, self.known[at])
        hidden = self._second(first.unsqueeze(0), slice(at, at + 1))[0]
        begin = int(self.get_buffer("starts")[at])
        span = slice(begin, begin + self.sizes[at])
        return F.linear(hidden, self.head[span], self.head_bias[span])

    def _first_alike(self, seen: torch.Tensor, same: torch.Tensor) -> torch.Tensor:
        """The first layer of all targets, (S, B, width), where all rows see the same: one product.

        What is hidden is taken out of the weights, which are fewer than the inputs.
        """
        wide, inputs, width = self.first.shape
        shown = self.first.view(wide, wide, -1, width) * same[:, :, None, None]
        weights = shown.permute(1, 2, 0, 3).reshape(inputs, wide * width)
        first = (seen.flatten(1) @ weights).view(len(seen), wide, width).transpose(0, 1)
        return first + (self.first_bias + torch.bmm(same.unsqueeze(1), self.known))

    def _first_each(self, seen: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """The first layer of all targets, (S, B, width), where each row sees its own (S, B, S)."""
        inputs = (seen * known.unsqueeze(-1)).flatten(2)
        first = torch.baddbmm(self.first_bias.expand(-1, len(seen), -1), inputs, self.first)
        return first + torch.bmm(known, self.known)

    def _second(self, first: torch.Tensor, targets: slice) -> torch.Tensor:
        """The last hidden layer of the ``targets``, (T, B, width)."""
        hidden = F.silu(first)
        bias = self.second_bias[targets].expand(-1, hidden.shape[1], -1)
        return hidden + F.silu(torch.baddbmm(bias, hidden, self.second[targets]))


@dataclass(kw_only=True)
class Autoregressive(TokenModel[ConditionalNetwork], Density):
    """Any-order autoregression (arXiv 1310.1757) over coarse and fine tokens of every column.

    Attributes:
        fixed_order: share of the training rows that are seen in the order of sampling; the others
            are seen in random orders, which conditional sampling and imputation need.
    """

    epochs: int = 12
    max_steps: int = 8000
    lr: float = 2e-3
    fixed_order: float = 0.7

    name: ClassVar[str] = "autoregressive"
    suits: ClassVar[str] = (
        "the default for tables: the most faithful, in well under a minute on two cores"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.fixed_order <= 1:
            raise ParameterError(
                f"fixed_order of {self.name} must be between 0 and 1, got {self.fixed_order}; "
                "try 0.7"
            )

    def _prepare(self, encoded: EncodedTable) -> None:
        self.tokens_ = TwoLevelTokens.fit(self.codec_, encoded)
        self.order_ = self._sampling_order(self.codec_, encoded)

    def _training(self, _: EncodedTable, tokens: torch.Tensor) -> Callable[[int], _Training]:
        return lambda total: _Training(self, tokens, total)

    def _sampling_order(self, codec: TableCodec, encoded: EncodedTable) -> list[int]:
        """Sub-columns: those of the telling columns first, a fine one after its coarse one."""
        information = mutual_information(encoded, codec, self.seed)
        columns = column_order(information, codec, encoded, _MIN_LEVEL)
        subs = self.tokens_.subcolumns
        return [at for column in columns for at, sub in enumerate(subs) if sub.column == column]

    def _draw_rows(self, n: int, seed: int) -> EncodedTable:
        nothing = np.zeros((n, len(self.order_)), np.int64)
        tokens, _ = self._complete(nothing, nothing > 0, self.order_, seed)
        return self.tokens_.decode(tokens, np.random.default_rng(seed))

    def _draw_where(self, n: int, seed: int, cells: Mapping[int, Cells]) -> EncodedTable | None:
        share = self._shares(cells)
        first = [at for at in self.order_ if self.tokens_.subcolumns[at].column in cells]
        order = [*first, *(at for at in self.order_ if at not in first)]
        # One batch costs the same however few rows it has.
        nothing = np.zeros((max(n * _POOL, _MICRO_BATCH), len(order)), np.int64)
        pool, proposed = self._complete(nothing, nothing > 0, order, seed, share)
        weights = np.exp(self._log_target(pool, share) - proposed)
        if n and not weights.mean() > _NO_SUPPORT:
            return None
        rng = np.random.default_rng(derive_seed("resample", seed))
        kept = rng.permutation(systematic(weights, n, rng))
        return self.tokens_.decode(pool[kept], np.random.default_rng(seed), cells)

    def _shares(self, cells: Mapping[int, Cells]) -> dict[int, torch.Tensor]:
        """For the sub-columns of these columns the share of each token that is allowed."""
        share: dict[int, torch.Tensor] = {}
        for column, allowed in cells.items():
            first = self.tokens_.first_of(column)
            for place, part in enumerate(self.tokens_.weights(column, allowed)):
                share[first + place] = torch.from_numpy(part).float()
        return share

    def _log_target(self, tokens: np.ndarray, share: Mapping[int, torch.Tensor]) -> np.ndarray:
        """Log-probability of tokens, cut to the share that is allowed; (N,).

        It is that of the order that samples are drawn in, in which the model is most faithful.
        """
        logs = self._log_probabilities(tokens)
        with np.errstate(divide="ignore"):
            for at, part in share.items():
                if self.tokens_.subcolumns[at].fine:
                    logs += np.log(part.numpy()[tokens[:, at - 1], tokens[:, at]])
                elif not self._is_refined(at):
                    logs += np.log(part.numpy()[tokens[:, at]])
        return logs

    def _is_refined(self, at: int) -> bool:
        subs = self.tokens_.subcolumns
        return at + 1 < len(subs) and subs[at + 1].fine

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        share: dict[int, torch.Tensor] = {}
        for column in np.flatnonzero(present).tolist():
            allowed = torch.from_numpy(self.tokens_.not_missing(column)).float()
            share[self.tokens_.first_of(column)] = allowed
        known = given[:, [sub.column for sub in self.tokens_.subcolumns]]
        rows = np.repeat(np.arange(len(given)), _POOL)
        tokens = np.where(known, self.tokens_.encode(encoded), 0)[rows]
        pool, proposed = self._complete(tokens, known[rows], self.order_, block.seed, share)
        logs = (self._log_probabilities(pool) - proposed).reshape(-1, _POOL)
        # The greatest of the logs with Gumbel noise is a draw by the weights.
        noise = np.random.default_rng(derive_seed("resample", block.seed)).gumbel(size=logs.shape)
        best = np.argmax(np.nan_to_num(logs, neginf=-1e9) + noise, axis=1)
        picked = pool.reshape(-1, _POOL, pool.shape[1])[np.arange(len(best)), best]
        drawn = self.tokens_.decode(picked, block.rng())
        codes = np.where(given, encoded.codes, drawn.codes)
        return EncodedTable(codes, np.where(given, encoded.values, drawn.values))

    def _complete(
        self,
        tokens: np.ndarray,
        known: np.ndarray,
        order: list[int],
        seed: int,
        share: Mapping[int, torch.Tensor] | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (N, S) in which what is not ``known`` is drawn, given what is.

        Args:
            tokens: what stands where nothing is known does not matter.
            known: bool, (N, S).
            order: the sub-columns, in the order to draw them.
            seed: of the draws.
            share: for some sub-columns the share of each token that is allowed, (size,), or (size
                of the coarse one, size) for a fine one.

        Returns:
            The tokens, and the log-probability with which they were drawn, (N,); infinite where
            nothing was allowed.
        """
        generator = torch_generator("cpu", self.name, seed)
        made, logs = np.empty_like(tokens), np.empty(len(tokens))
        for rows, part, seen in _batches(tokens, known):
            drawn, likely = self._draw(part, seen, order, generator, share or {})
            count = rows.stop - rows.start
            made[rows], logs[rows] = drawn[:count].numpy(), likely[:count].numpy()
        return made, logs

    @torch.inference_mode()
    def _draw(
        self,
        tokens: torch.Tensor,
        known: torch.Tensor,
        order: list[int],
        generator: torch.Generator,
        share: Mapping[int, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, seen = tokens.clone(), known.float()
        inputs = self.network_.embedded(tokens) * seen.unsqueeze(-1)
        logs = torch.zeros(len(tokens), dtype=torch.float64)
        for at in order:
            here = known[:, at]
            if bool(here.all()):
                continue
            chances = self._logits(tokens, inputs, seen, at).softmax(1)
            if at in share:
                part = share[at]
                chances = chances * (part[tokens[:, at - 1]] if part.dim() > 1 else part)
                impossible = chances.sum(1) <= 0
                logs[impossible & ~here] = math.inf
                chances[impossible] = 1.0
            drawn = torch.multinomial(chances, 1, generator=generator)
            likely = (chances.gather(1, drawn) / chances.sum(1, keepdim=True))[:, 0].double().log()
            tokens[:, at] = torch.where(here, tokens[:, at], drawn[:, 0])
            logs += torch.where(here, 0.0, likely)
            self._show(tokens, inputs, seen, at)
        return tokens, logs

    def _show(
        self, tokens: torch.Tensor, inputs: torch.Tensor, seen: torch.Tensor, at: int
    ) -> None:
        """Make sub-column ``at`` known to those that come after it, in place."""
        begin = self.network_.get_buffer("starts")[at]
        inputs[:, at] = F.embedding(tokens[:, at] + begin, self.network_.embedding)
        seen[:, at] = 1.0

    def _logits(
        self, tokens: torch.Tensor, inputs: torch.Tensor, seen: torch.Tensor, at: int
    ) -> torch.Tensor:
        """Logits of sub-column ``at``; minus infinity where the coarse token forbids a fine one."""
        logits = self.network_.logits(inputs, seen, at)
        if self.tokens_.subcolumns[at].fine:
            possible = self.tokens_.possible(at, tokens[:, at - 1].numpy())
            logits = logits.masked_fill(~torch.from_numpy(possible), -math.inf)
        return logits

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
        logs = self._log_probabilities(np.maximum(tokens, 0))
        density: np.ndarray = np.where(unknown, -np.inf, logs + self.tokens_.log_density(encoded))
        return density

    def _log_probabilities(self, tokens: np.ndarray) -> np.ndarray:
        """Of whole rows, nats, shape (N,)."""
        logs = np.empty(len(tokens))
        for rows, part, _ in _batches(tokens, np.zeros(tokens.shape, dtype=bool)):
            logs[rows] = self._log_probability(part)[: rows.stop - rows.start]
        return logs

    @torch.inference_mode()
    def _log_probability(self, tokens: torch.Tensor) -> np.ndarray:
        seen = torch.zeros(tokens.shape)
        inputs = torch.zeros_like(self.network_.embedded(tokens))
        total = torch.zeros(len(tokens), dtype=torch.float64)
        for at in self.order_:
            logits = self._logits(tokens, inputs, seen, at)
            total += logits.double().log_softmax(1).gather(1, tokens[:, at : at + 1])[:, 0]
            self._show(tokens, inputs, seen, at)
        return total.numpy()

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, state = super()._state()
        return arrays, {**state, "order": self.order_}

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        self.order_ = [int(at) for at in state["order"]]
        super()._restore(arrays, state)

    def _network(self) -> ConditionalNetwork:
        sizes = self.tokens_.sizes
        return ConditionalNetwork(sizes, self._embedding(len(sizes)), self.width)


class _Training(HeldOutDescent[ConditionalNetwork]):
    """Training in the order of sampling and, for some of the rows, in orders of their own."""

    def __init__(self, settings: Autoregressive, rows: torch.Tensor, total: int = 1000) -> None:
        super().__init__(settings._untrained(rows.device), rows, settings, total)
        self.tokens, self.fixed_order = settings.tokens_, settings.fixed_order
        place = torch.empty(rows.shape[1])
        place[torch.tensor(settings.order_)] = torch.arange(rows.shape[1]) / rows.shape[1]
        place = place.to(rows.device)
        # What each target may see in the order of sampling; (S, S).
        self.same = (place.unsqueeze(0) < place.unsqueeze(1)).float()

    def losses(
        self, network: ConditionalNetwork, batch: torch.Tensor, random: torch.Generator
    ) -> torch.Tensor:
        """Minus the log-probability of every token of the rows (B, S), nats, shape (S, B)."""
        return network.losses(batch, self.same, self.orders(len(batch), random))

    def orders(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """What each target may see in those of ``rows`` rows that have orders of their own.

        1.0 or 0.0, shape (S, R, S); the rows before these R keep to the order of sampling.
        """
        own = rows - round(rows * self.fixed_order)
        place = torch.rand(own, len(self.same), generator=generator, device=self.device)
        for at, sub in enumerate(self.tokens.subcolumns):
            if sub.fine:  # at once after its coarse one
                place[:, at] = place[:, at - 1] + 1e-7
        targets = place.t().unsqueeze(2)
        return (place.unsqueeze(0) < targets).float()


def _batches(
    tokens: np.ndarray, known: np.ndarray
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Rows in batches of one shape: the last one is filled up with copies of its last row."""
    for start in range(0, len(tokens), _MICRO_BATCH):
        rows = slice(start, min(start + _MICRO_BATCH, len(tokens)))
        spare = ((0, _MICRO_BATCH - (rows.stop - rows.start)), (0, 0))
        part, seen = (np.pad(array[rows], spare, mode="edge") for array in (tokens, known))
        yield rows, torch.from_numpy(part), torch.from_numpy(seen)
