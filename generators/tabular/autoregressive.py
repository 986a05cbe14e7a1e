"""Any-order autoregression over two-level tokens.

The density of a row is a product of conditionals, one for each column, in any order of the columns
(Uria, Murray, Larochelle 2014, "A deep and tractable density estimator", arXiv 1310.1757; for
tables: TabularARGN, arXiv 2501.12012). One network gives the conditional of every column on every
set of the others, so one model samples, conditions, imputes and scores. Half of the training rows
see their columns in the order that samples are drawn in, the others in orders of their own.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from generators.base import (
    Block,
    Density,
    Modality,
    OnProgress,
    ParameterError,
    Resumable,
    derive_seed,
)
from generators.checkpoint import Parts
from generators.encoding import EncodedTable, TableCodec
from generators.schema import TableSchema
from generators.tabular.independent import learnable
from generators.tabular.ordering import column_order, mutual_information
from generators.tabular.tokens import TwoLevelTokens
from generators.training import (
    EMA,
    BestSoFar,
    build,
    load_module_arrays,
    module_arrays,
    planned_steps,
    resolve_device,
    run_steps,
    torch_generator,
    warmup_cosine,
)

_MICRO_BATCH = 1024
"""Rows per forward pass of a sample. Part of the format: a change changes all samples."""
# Rows that a level of the target needs for the target to come first.
_MIN_LEVEL = 160
_VALIDATION_SHARE = 0.05
_VALIDATION_ROWS = (100, 20_000)
# Fewer rows than this are all learned from, with nothing held out to stop by.
_STOPPABLE_ROWS = 400
_EVALUATIONS = 24
_PATIENCE = 6
_CLIP = 1.0
_EMA_HALF_LIFE = 500.0
_EMA_RAMP_UP = 0.1
_SMALLEST_BATCH = 32


class ConditionalNetwork(nn.Module):
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
        starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
        self.register_buffer("starts", starts)

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
        counts = torch.bincount(
            (tokens + self.get_buffer("starts")).flatten(), minlength=len(self.head_bias)
        )
        with torch.no_grad():
            self.head_bias.copy_(((counts + 0.5) / len(tokens)).log())

    def hidden(
        self, tokens: torch.Tensor, known: torch.Tensor, targets: slice = slice(None)
    ) -> torch.Tensor:
        """The last hidden layer of the ``targets``, float, shape (T, B, width).

        Args:
            tokens: int64, (B, S); what stands where nothing is known does not matter.
            known: 1.0 where a target may see a sub-column, (T, B, S).
            targets: the sub-columns to predict.
        """
        rows = len(tokens)
        seen = self.embedding[tokens + self.get_buffer("starts")]
        inputs = (seen * known.unsqueeze(-1)).flatten(2)
        bias = self.first_bias[targets].expand(-1, rows, -1)
        first = torch.baddbmm(bias, inputs, self.first[targets])
        hidden = F.silu(first + torch.bmm(known, self.known[targets]))
        bias = self.second_bias[targets].expand(-1, rows, -1)
        return hidden + F.silu(torch.baddbmm(bias, hidden, self.second[targets]))

    def losses(self, tokens: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Minus the log-probability of every token given the known ones, nats, shape (S, B)."""
        hidden = self.hidden(tokens, known)
        weights, biases = (
            torch.split(self.head, self.sizes),
            torch.split(self.head_bias, self.sizes),
        )
        each = [
            F.cross_entropy(F.linear(hidden[at], *head).float(), tokens[:, at], reduction="none")
            for at, head in enumerate(zip(weights, biases, strict=True))
        ]
        return torch.stack(each)

    def logits(self, tokens: torch.Tensor, known: torch.Tensor, at: int) -> torch.Tensor:
        """Logits of sub-column ``at`` given those that are ``known`` (B, S); shape (B, size)."""
        hidden = self.hidden(tokens, known.unsqueeze(0), slice(at, at + 1))[0]
        begin = int(self.get_buffer("starts")[at])
        span = slice(begin, begin + self.sizes[at])
        return F.linear(hidden, self.head[span], self.head_bias[span])


@dataclass(kw_only=True)
class Autoregressive(Resumable, Density):
    """Any-order autoregression (arXiv 1310.1757) over coarse and fine tokens of every column.

    Attributes:
        epochs: passes over the table, at most; training stops early where the likelihood of rows
            held out from it no longer rises.
        max_steps: steps, at most, whatever the epochs.
        batch_size: rows per step, at most; small tables take fewer.
        embedding: numbers that stand for a token.
        width: of the hidden layers of each column's network.
        lr: highest learning rate (AdamW, a short warm-up, then a cosine).
        weight_decay: of AdamW.
        fixed_order: share of the training rows that are seen in the order of sampling; the others
            are seen in random orders, which conditional sampling and imputation need.
        max_minutes: training stops earlier, after as many steps as the first seconds promise to
            fit into this time; None for no limit. The number of steps then depends on the machine.
        device: ``auto``, ``cpu`` or ``cuda``; where training runs. Sampling runs on the CPU.
    """

    epochs: int = 12
    max_steps: int = 8000
    batch_size: int = 512
    embedding: int = 16
    width: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.01
    fixed_order: float = 0.7
    max_minutes: float | None = None
    device: str = "auto"

    name: ClassVar[str] = "autoregressive"
    suits: ClassVar[str] = "the most faithful for tables; half a minute on a CPU, or a GPU"
    modality: ClassVar[Modality] = "table"

    def __post_init__(self) -> None:
        for field in ("epochs", "max_steps", "batch_size", "embedding", "width"):
            if getattr(self, field) < 1:
                raise ParameterError(
                    f"{field} of {self.name} must be at least 1, got {getattr(self, field)}"
                )
        for field in ("lr", "max_minutes"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise ParameterError(f"{field} of {self.name} must be above 0, got {value}")
        if self.weight_decay < 0 or not 0 <= self.fixed_order <= 1:
            raise ParameterError(
                f"weight_decay of {self.name} must be at least 0 and fixed_order between 0 and 1, "
                f"got {self.weight_decay} and {self.fixed_order}; try 0.01 and 0.7"
            )

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        device = resolve_device(self.device)
        codec, encoded = learnable(data, schema)
        self.tokens_ = TwoLevelTokens.fit(codec, encoded)
        self.order_ = self._sampling_order(codec, encoded)
        rows = torch.from_numpy(self.tokens_.encode(encoded)).to(device)
        trial = _Training(self, rows)
        total = min(self.epochs * trial.steps_per_epoch, self.max_steps)
        total = planned_steps(trial.step, max(total, 1), self.max_minutes, self.checkpoint)
        training = _Training(self, rows, total)
        self.loss_history_ = run_steps(
            training.step,
            total,
            phase="fit",
            progress=progress,
            checkpoint=self.checkpoint,
            parts=training.parts(),
            enough=training.enough,
        )
        self.network_: ConditionalNetwork = training.result()

    def _sampling_order(self, codec: TableCodec, encoded: EncodedTable) -> list[int]:
        """Sub-columns: those of the telling columns first, a fine one after its coarse one."""
        information = mutual_information(encoded, codec, self.seed)
        columns = column_order(information, codec, encoded, _MIN_LEVEL)
        subs = self.tokens_.subcolumns
        return [at for column in columns for at, sub in enumerate(subs) if sub.column == column]

    def _sample_block(self, block: Block) -> pd.DataFrame:
        nothing = np.zeros((block.size, len(self.order_)), np.int64)
        tokens = self._complete(nothing, nothing > 0, derive_seed("sample", block.seed))
        encoded = self.tokens_.decode(tokens, block.rng())
        return self.tokens_.codec.decode(encoded, first_row=block.start)

    def _complete(self, tokens: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
        """Tokens (N, S) in which what is not ``known`` is drawn, given what is."""
        generator = torch_generator("cpu", self.name, seed)
        parts = [
            self._draw(torch.from_numpy(part), torch.from_numpy(seen), generator)
            for part, seen in _batches(tokens, known)
        ]
        drawn: np.ndarray = torch.cat(parts).numpy()[: len(tokens)] if parts else tokens
        return drawn

    @torch.inference_mode()
    def _draw(
        self, tokens: torch.Tensor, known: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        tokens, seen = tokens.clone(), known.float()
        for at in self.order_:
            if bool(known[:, at].all()):
                continue
            logits = self.network_.logits(tokens, seen, at)
            if self.tokens_.subcolumns[at].fine:
                possible = self.tokens_.possible(at, tokens[:, at - 1].numpy())
                logits = logits.masked_fill(~torch.from_numpy(possible), -math.inf)
            drawn = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
            tokens[:, at] = torch.where(known[:, at], tokens[:, at], drawn)
            seen[:, at] = 1.0
        return tokens

    def log_density(self, data: pd.DataFrame) -> np.ndarray:
        """The log of the model's density of each row, nats, float64, shape (N,).

        A density in the continuous columns without a grid, a probability in the others; minus
        infinity where a category is unknown or a missing value is met for the first time.
        """
        self._require_fitted()
        encoded = self.tokens_.codec.encode(data)
        tokens = self.tokens_.encode(encoded)
        unknown = (tokens < 0).any(axis=1)
        known = np.zeros(tokens.shape, dtype=bool)
        parts = [
            self._log_probability(torch.from_numpy(part))
            for part, _ in _batches(np.maximum(tokens, 0), known)
        ]
        logs = np.concatenate(parts)[: len(tokens)] if parts else np.zeros(0)
        density: np.ndarray = np.where(unknown, -np.inf, logs + self.tokens_.log_density(encoded))
        return density

    @torch.inference_mode()
    def _log_probability(self, tokens: torch.Tensor) -> np.ndarray:
        seen = torch.zeros(tokens.shape)
        total = torch.zeros(len(tokens), dtype=torch.float64)
        for at in self.order_:
            logits = self.network_.logits(tokens, seen, at)
            if self.tokens_.subcolumns[at].fine:
                possible = self.tokens_.possible(at, tokens[:, at - 1].numpy())
                logits = logits.masked_fill(~torch.from_numpy(possible), -math.inf)
            total += logits.double().log_softmax(1).gather(1, tokens[:, at : at + 1])[:, 0]
            seen[:, at] = 1.0
        return total.numpy()

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = {
            "codec": self.tokens_.codec.to_json(),
            "cells": self.tokens_.to_json(),
            "order": self.order_,
        }
        return {**module_arrays(self.network_, "network."), **self.tokens_.arrays()}, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        codec = TableCodec.from_json(schema, state["codec"])
        self.tokens_ = TwoLevelTokens.restore(codec, arrays, state["cells"])
        self.order_ = [int(at) for at in state["order"]]
        # The weights are overwritten; the seed only has to be some seed.
        self.network_ = build(self._network, "cpu", torch_generator("cpu", self.name, "restore"))
        load_module_arrays(self.network_, arrays, "network.")
        self.network_.eval().requires_grad_(False)

    def _network(self) -> ConditionalNetwork:
        return ConditionalNetwork(self.tokens_.sizes, self.embedding, self.width)


class _Training:
    """The network, its optimiser, the average that is kept, and one step."""

    def __init__(self, settings: Autoregressive, rows: torch.Tensor, total: int = 1000) -> None:
        self.settings, self.total, self.device = settings, total, rows.device
        weights = torch_generator("cpu", settings.name, settings.seed, "weights")
        self.network = build(settings._network, rows.device, weights)
        self.random = torch_generator(rows.device, settings.name, settings.seed, "steps")
        self.rows, self.held_out = self._split(rows)
        self.network.start_from(self.rows)
        smaller = 2 ** int(math.log2(max(len(self.rows) / 32, 1)))
        self.batch = min(settings.batch_size, max(smaller, _SMALLEST_BATCH), len(self.rows))
        self.steps_per_epoch = len(self.rows) // self.batch
        self.adam = torch.optim.AdamW(self._groups(), lr=settings.lr, fused=True)
        self.ema = EMA(self.network, half_life=_EMA_HALF_LIFE, ramp_up=_EMA_RAMP_UP)
        self.best = BestSoFar(self.network)
        # A buffer of a module, so that a checkpoint holds the epoch's order.
        self.epoch = nn.Module()
        order = torch.zeros(len(self.rows), dtype=torch.int64, device=rows.device)
        self.epoch.register_buffer("order", order)
        place = torch.empty(rows.shape[1])
        place[torch.tensor(settings.order_)] = torch.arange(rows.shape[1]) / rows.shape[1]
        self.place = place.to(rows.device)

    def step(self, index: int) -> torch.Tensor:
        """One update; gives the loss per row in nats."""
        batch = self._next(index)
        rate = self.settings.lr * warmup_cosine(index, self.total)
        for group in self.adam.param_groups:
            group["lr"] = rate
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            each = self.network.losses(batch, self.orders(len(batch), self.random))
        loss = each.mean(dim=1).sum()
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.network.parameters(), _CLIP * len(each))
        self.adam.step()
        self.ema.update()
        if (index + 1) % self.evaluate_every == 0 or index + 1 == self.total:
            self._evaluate()
        return loss.detach()

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations."""
        return max(1, self.total // _EVALUATIONS)

    def orders(self, rows: int, generator: torch.Generator) -> torch.Tensor:
        """What each target may see in each of ``rows`` rows: 1.0 or 0.0, shape (S, rows, S)."""
        wide = len(self.place)
        place = torch.rand(rows, wide, generator=generator, device=self.device)
        for at, sub in enumerate(self.settings.tokens_.subcolumns):
            if sub.fine:  # at once after its coarse one
                place[:, at] = place[:, at - 1] + 1e-7
        place[: round(rows * self.settings.fixed_order)] = self.place
        targets = place.t().unsqueeze(2)
        return (place.unsqueeze(0) < targets).float()

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "network": self.network,
            "adam": self.adam,
            "ema": self.ema,
            "best": self.best,
            "epoch": self.epoch,
            "random": self.random,
        }

    def enough(self) -> bool:
        """Whether the held-out likelihood has not risen for long."""
        return self.best.waited >= _PATIENCE and len(self.held_out) > 0

    def result(self) -> ConditionalNetwork:
        """The best average, on the CPU."""
        kept: Any = self.best.module if len(self.held_out) else self.ema.module
        network: ConditionalNetwork = copy.deepcopy(kept).to("cpu")
        return network.eval().requires_grad_(False)

    def _split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if len(rows) < _STOPPABLE_ROWS:
            return rows, rows[:0]
        few, many = _VALIDATION_ROWS
        held = min(max(round(_VALIDATION_SHARE * len(rows)), few), many)
        order = torch.randperm(len(rows), generator=self.random, device=rows.device)
        return rows[order[held:]], rows[order[:held]]

    def _groups(self) -> list[dict[str, Any]]:
        decayed = [p for n, p in self.network.named_parameters() if not n.endswith("bias")]
        others = [p for n, p in self.network.named_parameters() if n.endswith("bias")]
        decay = self.settings.weight_decay
        return [
            {"params": decayed, "weight_decay": decay},
            {"params": others, "weight_decay": 0.0},
        ]

    def _next(self, index: int) -> torch.Tensor:
        at = index % self.steps_per_epoch
        order: torch.Tensor = self.epoch.get_buffer("order")
        if at == 0:
            order.copy_(torch.randperm(len(order), generator=self.random, device=self.device))
        return self.rows[order[at * self.batch : (at + 1) * self.batch]]

    @torch.no_grad()
    def _evaluate(self) -> None:
        """The loss of the average on the held-out rows, always in the same orders."""
        if len(self.held_out) == 0:
            return
        same = torch_generator(self.device, self.settings.name, self.settings.seed, "evaluate")
        network: Any = self.ema.module
        losses = [
            network.losses(part, self.orders(len(part), same)).sum()
            for part in torch.split(self.held_out, _MICRO_BATCH)
        ]
        self.best.take(network, float(torch.stack(losses).sum()) / len(self.held_out))


def _batches(tokens: np.ndarray, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of one shape: the last one is filled up with copies of its last row."""
    for start in range(0, len(tokens), _MICRO_BATCH):
        part, seen = tokens[start : start + _MICRO_BATCH], known[start : start + _MICRO_BATCH]
        spare = ((0, _MICRO_BATCH - len(part)), (0, 0))
        yield np.pad(part, spare, mode="edge"), np.pad(seen, spare, mode="edge")
