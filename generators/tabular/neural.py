"""What CTGAN and TVAE share: the training table on the device, sampling, and state.

Training keeps the table on the device as integer positions and float alphas; the one-hot vectors
exist only inside a batch. Sampling always runs on the CPU in float32 and in batches of one fixed
shape, so that the rows of a block depend on the model and the block alone.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..base import (
    Block,
    Conditional,
    DataError,
    Modality,
    OnProgress,
    ParameterError,
    Resumable,
    TrainingError,
    derive_seed,
)
from ..checkpoint import Parts
from ..conditions import Cells, Conditions, allowed_values
from ..encoding import EncodedTable, TableCodec
from ..rollback import Rollback, check_every
from ..schema import TableSchema
from ..training import (
    EXPLODED,
    LOG_EVERY,
    build,
    fast_bfloat16,
    load_module_arrays,
    module_arrays,
    planned_steps,
    resolve_device,
    run_steps,
    torch_generator,
)
from .latent import AllowedTokens, Outputs, corrected, log_likelihood, restricted
from .modes import Spans, TableTokens
from .resampling import systematic

_MICRO_BATCH = 1024
"""Rows per forward pass of a sample. Part of the format: a change changes all samples."""
_POOL, _MIN_POOL = 8, 8192
"""Latent vectors proposed for each row under conditions, and at least."""
_PARTICLES = 2048
"""Latent vectors among which each given row finds its own."""
_NO_SUPPORT = 1e-12
_BATCH, _LARGE = 500, 20_000
"""Rows per step of the paper, and the rows of a table from which on it is twice that."""
_JUDGED_ROWS, _JUDGED_PAIRS = 4096, 60

Latents = tuple[torch.Tensor, ...]


class ResidentTable:
    """A table of tokens and alphas on a device, whose rows are made dense on demand.

    A dense row is the A alphas, then the K one-hot positions of all columns.

    Attributes:
        tokens: int64, shape (N, D).
        alphas: float32, shape (N, A).
        has_alpha: float32, shape (N, A), 1 where the token is a mode.
        spans: the one-hot layout.
    """

    def __init__(
        self, layout: TableTokens, tokens: np.ndarray, alphas: np.ndarray, device: torch.device
    ) -> None:
        self.device = device
        self.spans = Spans(layout.sizes, device)
        self.tokens = torch.from_numpy(tokens).to(device, torch.int32)
        self.alphas = torch.from_numpy(np.ascontiguousarray(alphas)).to(device)
        first_mode = [layout.columns[at].first_mode for at in layout.continuous]
        is_mode = tokens.take(layout.continuous, axis=1) >= np.array(first_mode, dtype=np.int64)
        self.has_alpha = torch.from_numpy(is_mode).to(device, torch.float32)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def scalars(self) -> int:
        """A, the number of alphas in a row."""
        return self.alphas.shape[1]

    @property
    def width(self) -> int:
        """A + K, the length of a dense row."""
        return self.scalars + self.spans.width

    def positions(self, rows: torch.Tensor) -> torch.Tensor:
        """Where the ones of these rows are among the K one-hot positions, shape (B, S)."""
        return self.tokens.index_select(0, rows) + self.spans.first

    def dense(self, rows: torch.Tensor) -> torch.Tensor:
        """These rows as float32, shape (B, A + K)."""
        out = torch.zeros(len(rows), self.width, device=self.device)
        out[:, : self.scalars] = self.alphas.index_select(0, rows)
        return out.scatter_(1, self.positions(rows) + self.scalars, 1.0)

    def columns(self, rows: torch.Tensor) -> Columns:
        """These rows as columns of matrices."""
        at = torch.arange(len(rows), device=self.device)
        return Columns(
            self.spans.width,
            self.alphas.index_select(0, rows).t(),
            self.has_alpha.index_select(0, rows).t(),
            (self.positions(rows).t() * len(rows) + at).flatten(),
        )


@dataclass(frozen=True)
class Columns:
    """B rows of a table, each a column of the matrices here.

    Attributes:
        positions: K, the number of one-hot positions.
        alphas: float32, shape (A, B).
        has_alpha: float32, shape (A, B), 1 where the token is a mode.
        places: where the ones are in the flat one-hot matrix (K, B), int64, shape (S * B,).
    """

    positions: int
    alphas: torch.Tensor
    has_alpha: torch.Tensor
    places: torch.Tensor

    def dense(self, dtype: torch.dtype) -> torch.Tensor:
        """Alphas, then one-hot positions, shape (A + K, B)."""
        scalars, batch = self.alphas.shape
        out = self.alphas.new_zeros(scalars + self.positions, batch, dtype=dtype)
        out[:scalars] = self.alphas
        out[scalars:].view(-1).index_fill_(0, self.places, 1.0)
        return out


class TableTraining(Protocol):
    """What trains a network by steps.

    Attributes:
        steps: per epoch.
        optimisers: whose learning rates a collapse lowers.
    """

    steps: int
    optimisers: list[torch.optim.Optimizer]

    def step(self, index: int) -> torch.Tensor:
        """One update; gives a scalar loss."""

    def parts(self) -> Parts:
        """All that ``step`` changes, by name."""

    def tokens(self, n: int) -> torch.Tensor:
        """The tokens of ``n`` rows of the network as it is, int64, shape (n, D).

        Always from the same random numbers, and without effect on the training.
        """

    def finish(self) -> None:
        """Called after the last step."""


class PairDistance:
    """How far the pairs of columns of a sample are from those of the training table.

    The mean total variation distance of two-way tables of tokens, within [0, 1]; of 60 pairs where
    there are more.
    """

    def __init__(self, tokens: np.ndarray, sizes: Sequence[int], rng: np.random.Generator) -> None:
        pairs = np.stack(np.triu_indices(len(sizes), k=len(sizes) > 1), axis=1)
        chosen = rng.permutation(len(pairs))[:_JUDGED_PAIRS]
        self._pairs = [(int(a), int(b)) for a, b in pairs[np.sort(chosen)]]
        self._sizes = sizes
        self._real = self._shares(tokens)

    def __call__(self, tokens: np.ndarray) -> float:
        """Of a sample's tokens, shape (n, D)."""
        found = zip(self._real, self._shares(tokens), strict=True)
        return float(np.mean([np.abs(real - made).sum() / 2 for real, made in found]))

    def _shares(self, tokens: np.ndarray) -> list[np.ndarray]:
        shares = []
        for a, b in self._pairs:
            both = tokens[:, a].astype(np.int64) * self._sizes[b] + tokens[:, b]
            shares.append(np.bincount(both, minlength=self._sizes[a] * self._sizes[b]) / len(both))
        return shares


class _Judged:
    """A training that is judged now and then, and goes back when it has collapsed."""

    def __init__(self, training: TableTraining, table: ResidentTable, total: int) -> None:
        self.training, self.total, self.every = training, total, check_every(total)
        rng = np.random.default_rng(derive_seed("pair distance"))
        self.distance = PairDistance(table.tokens.cpu().numpy(), table.spans.sizes, rng)
        untrained = self._now() if total >= self.every else 1.0
        self.rollback = Rollback(training.parts(), training.optimisers, untrained)

    def step(self, index: int) -> torch.Tensor:
        """One step; after a collapse the loss is that of the state it went back to."""
        loss, done, went_back = self.training.step(index), index + 1, False
        if done % LOG_EVERY == 0 and not abs(float(loss)) < EXPLODED:
            went_back = self.rollback.judge(done, math.nan, math.nan)
        elif done % self.every == 0:
            went_back = self.rollback.judge(done, self._now(), float(loss))
        return torch.tensor(self.rollback.loss) if went_back else loss

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {**self.training.parts(), "rollback": self.rollback}

    def enough(self) -> bool:
        """Whether more steps would not help."""
        return self.rollback.enough

    def finish(self) -> None:
        """Called after the last step; what has collapsed since it was judged goes back.

        Raises:
            TrainingError: the training collapsed, and nothing better than the start was found.
        """
        if self.total >= self.every and self.rollback.at:
            self.rollback.judge(self.total, self._now(), self.rollback.loss)
        if self.rollback.attempts and not self.rollback.at:
            raise TrainingError(
                "a training must come nearer to the data than it began, this one did not "
                f"({'; '.join(self.rollback.notes)}); lower the learning rate"
            )
        self.training.finish()

    def _now(self) -> float:
        return self.distance(self.training.tokens(_JUDGED_ROWS).cpu().numpy())


@dataclass(kw_only=True)
class NeuralTable(Resumable, Conditional):
    """A neural table family over mode-specific tokens.

    A family implements ``_network``, ``_training``, ``_latents`` and ``_outputs``.

    Attributes:
        epochs: passes over the table.
        batch_size: rows per step; by default 500, and 1,000 for tables of 20,000 rows and more.
        max_minutes: training stops earlier, after as many steps as the first seconds promise to
            fit into this time; None for no limit. The number of steps then depends on the machine.
        device: ``auto``, ``cpu`` or ``cuda``; where training runs. Sampling runs on the CPU.
        precision: of the products of matrices in training. ``bfloat16`` computes them in half the
            bits, ``float32`` does not; ``auto`` does on hardware that is faster for it.
    """

    epochs: int = 300
    batch_size: int | None = None
    max_minutes: float | None = None
    device: str = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    modality: ClassVar[Modality] = "table"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ParameterError(
                    f"{name} of {self.name} must be at least 1, got {value}; raise it"
                )
        if self.max_minutes is not None:
            check_positive(self.name, max_minutes=self.max_minutes)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ParameterError(
                f"precision of {self.name} must be 'auto', 'float32' or 'bfloat16', "
                f"got {self.precision!r}; choose one of them"
            )

    def product_dtype(self, device: torch.device) -> torch.dtype:
        """What a training multiplies matrices in: the precision asked for."""
        half = self.precision == "bfloat16" or (self.precision == "auto" and fast_bfloat16(device))
        return torch.bfloat16 if half else torch.float32

    def products(self, device: torch.device) -> torch.autocast:
        """The context in which matrices are multiplied in ``product_dtype``."""
        half = self.product_dtype(device) is torch.bfloat16
        return torch.autocast(device.type, torch.bfloat16, enabled=half)

    def rows_per_step(self, rows: int, multiple: int = 1) -> int:
        """The batch for a table of so many rows; a multiple of ``multiple``."""
        if self.batch_size is not None:
            return self.batch_size
        wanted = _BATCH if rows < _LARGE else 2 * _BATCH
        return max(2, wanted // multiple) * multiple

    def rate(self, rate: float, batch: int) -> float:
        """A learning rate for a batch; what is set holds for 500 rows, or for ``batch_size``."""
        return rate if self.batch_size is not None else rate * math.sqrt(batch / _BATCH)

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        device = resolve_device(self.device)
        self.codec_ = codec = TableCodec.fit(data, schema)
        if not codec.columns:
            raise DataError(
                f"{self.name} needs a column to learn, all {len(schema.columns)} are ids or text; "
                "declare the kind of at least one as categorical, numerical or datetime"
            )
        encoded = codec.encode(data)
        self.layout_ = TableTokens.fit(codec, encoded)
        rng = np.random.default_rng(derive_seed(self.name, self.seed, "modes"))
        table = ResidentTable(self.layout_, *self.layout_.encode(encoded, rng), device)
        total = self._total_steps(table)
        training = _Judged(self._begin(table), table, total)
        self.loss_history_ = run_steps(
            training.step,
            total,
            phase="fit",
            progress=progress,
            checkpoint=self.checkpoint,
            parts=training.parts(),
            enough=training.enough,
        )
        training.finish()
        self.training_notes_ = training.rollback.notes
        self._ready_to_sample()

    def _begin(self, table: ResidentTable) -> TableTraining:
        weights = torch_generator("cpu", self.name, self.seed, "weights")
        self.network_: Any = build(self._network, table.device, weights)
        return self._training(table)

    def _total_steps(self, table: ResidentTable) -> int:
        def trial() -> tuple[Callable[[int], torch.Tensor], int]:
            training = self._begin(table)
            return training.step, self.epochs * training.steps

        return planned_steps(trial, self.max_minutes, self.checkpoint)

    def _ready_to_sample(self) -> None:
        self.network_ = self.network_.to("cpu").eval().requires_grad_(False)
        self._spans = Spans(self.layout_.sizes, torch.device("cpu"))

    def _sample_block(self, block: Block) -> pd.DataFrame:
        generator = torch_generator("cpu", self.name, "sample", block.seed)
        tokens, alphas = [], []
        with torch.inference_mode():
            for _ in range(0, block.size, _MICRO_BATCH):
                outputs = self._outputs(*self._latents(_MICRO_BATCH, generator))
                token, alpha = self._draw(outputs, generator, {})
                tokens.append(token)
                alphas.append(alpha)
        drawn = torch.cat(tokens).numpy()[: block.size], torch.cat(alphas).numpy()[: block.size]
        encoded = self.layout_.decode(*drawn, block.rng())
        frame: pd.DataFrame = self.codec_.decode(encoded, first_row=block.start)
        return frame

    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        generator = torch_generator("cpu", self.name, "where", block.seed)
        allowed = {at: AllowedTokens.of(self.layout_, at, cell) for at, cell in cells.items()}
        pool, weights = [], []
        with torch.inference_mode():
            for _ in range(0, max(_POOL * block.size, _MIN_POOL), _MICRO_BATCH):
                latents, correction = self._proposals(_MICRO_BATCH, generator, allowed)
                outputs = self._outputs(*latents)
                for tokens in allowed.values():
                    correction = correction * tokens.chances(outputs).sum(dim=1)
                pool.append(latents)
                weights.append(correction)
        likely = torch.cat(weights).numpy()
        if block.size and not likely.mean() > _NO_SUPPORT:
            raise conditions.unsupported(self.codec_.columns[at].column.name for at in cells)
        rng = block.rng()
        kept = torch.from_numpy(rng.permutation(systematic(likely, block.size, rng)))
        chosen = tuple(torch.cat(parts)[kept] for parts in zip(*pool, strict=True))
        drawn = self._drawn(chosen, generator, allowed)
        encoded = restricted(self.layout_, cells).decode(*drawn, rng)
        inside = corrected(encoded, self.layout_, cells)
        settled: EncodedTable = self.codec_.settle(inside, allowed_values(cells))
        return settled

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        generator = torch_generator("cpu", self.name, "fill", block.seed)
        rng = block.rng()
        known = EncodedTable(np.where(given, encoded.codes, 0), encoded.values)
        tokens, alphas = self.layout_.encode(known, rng)
        with torch.inference_mode():
            pool = [
                self._latents(_MICRO_BATCH, generator) for _ in range(0, _PARTICLES, _MICRO_BATCH)
            ]
            latents = tuple(torch.cat(parts) for parts in zip(*pool, strict=True))
            logs = log_likelihood(self._outputs(*latents), self.layout_, tokens, alphas, given)
        # The greatest of the logs with Gumbel noise is a draw by the weights.
        own = torch.from_numpy((logs + rng.gumbel(size=logs.shape)).argmax(axis=1))
        cells = {at: self._not_missing(at) for at in np.flatnonzero(present).tolist()}
        allowed = {at: AllowedTokens.of(self.layout_, at, cell) for at, cell in cells.items()}
        drawn = self._drawn(tuple(part[own] for part in latents), generator, allowed)
        made = self.layout_.decode(*drawn, rng)
        codes = np.where(given, encoded.codes, made.codes)
        return EncodedTable(codes, np.where(given, encoded.values, made.values))

    def _not_missing(self, at: int) -> Cells:
        """All that a column may be but missing, unless it is never anything else."""
        codec, tokens = self.codec_.columns[at], self.layout_.columns[at]
        codes = np.ones(codec.size, dtype=bool)
        if codec.missing and tokens.size > 1:
            codes[codec.missing_code] = False
        return Cells(codes, ((-np.inf, np.inf),) if codec.continuous else ())

    def _drawn(
        self,
        latents: Latents,
        generator: torch.Generator,
        allowed: Mapping[int, AllowedTokens],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (N, D) and alphas (N, A), a row for each latent vector."""
        rows, spare = len(latents[0]), -len(latents[0]) % _MICRO_BATCH
        padded = [torch.cat([part, part[-1:].expand(spare, *part.shape[1:])]) for part in latents]
        batches = zip(*(torch.split(part, _MICRO_BATCH) for part in padded), strict=True)
        with torch.inference_mode():
            made = [self._draw(self._outputs(*part), generator, allowed) for part in batches]
        tokens, alphas = (torch.cat(parts).numpy()[:rows] for parts in zip(*made, strict=True))
        return tokens, alphas

    def _draw(
        self,
        outputs: Outputs,
        generator: torch.Generator,
        allowed: Mapping[int, AllowedTokens],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (int64, (B, D)) and alphas (float32, (B, A)), some columns within ``allowed``."""
        tokens, alphas = self._spans.draw(outputs.logits, generator), outputs.alphas
        if outputs.deviations is not None:
            noise = torch.randn(alphas.shape, generator=generator)
            alphas = alphas + outputs.deviations * noise
        alphas = alphas.clamp(-1.0, 1.0)
        for at, column in allowed.items():
            tokens[:, at], alpha = column.draw(outputs, generator)
            if column.scalar >= 0:
                alphas[:, column.scalar] = alpha
        return tokens, alphas

    def _proposals(
        self,
        n: int,
        generator: torch.Generator,
        allowed: Mapping[int, AllowedTokens],  # noqa: ARG002 - for families that can aim
    ) -> tuple[Latents, torch.Tensor]:
        """Latent vectors that may suit ``allowed``, and their prior over the proposal's density."""
        return self._latents(n, generator), torch.ones(n, dtype=torch.float64)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = {"codec": self.codec_.to_json(), "tokens": self.layout_.to_json()}
        return {**module_arrays(self.network_, "network."), **self._arrays()}, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.layout_ = TableTokens.from_json(self.codec_, state["tokens"])
        self._restore_arrays(arrays)
        # The weights are overwritten; the seed only has to be some seed.
        self.network_ = build(self._network, "cpu", torch_generator("cpu", self.name, "restore"))
        load_module_arrays(self.network_, arrays, "network.")
        self._ready_to_sample()

    def _arrays(self) -> dict[str, np.ndarray]:
        """Fitted arrays beside the network's."""
        return {}

    def _restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Inverse of ``_arrays``; called before ``_network``."""

    @abstractmethod
    def _network(self) -> nn.Module:
        """The network that samples need, for ``layout_``."""

    @abstractmethod
    def _training(self, table: ResidentTable) -> TableTraining:
        """A training of ``network_`` on ``table``, before its first step."""

    @abstractmethod
    def _latents(self, n: int, generator: torch.Generator) -> Latents:
        """What ``_outputs`` makes n rows of: tensors of n rows each, drawn from the prior."""

    @abstractmethod
    def _outputs(self, *latents: torch.Tensor) -> Outputs:
        """What the network says of rows with these latent vectors."""


def check_positive(owner: str, **values: float) -> None:
    """Raise ParameterError unless all ``values`` are above 0."""
    for name, value in values.items():
        if not value > 0:
            raise ParameterError(f"{name} of {owner} must be above 0, got {value}; raise it")


def check_widths(owner: str, **widths: tuple[int, ...]) -> None:
    """Raise ParameterError unless each tuple holds positive layer widths, at least one."""
    for name, value in widths.items():
        if not value or min(value) < 1:
            raise ParameterError(
                f"{name} of {owner} must be layer widths of at least 1, got {list(value)}; "
                "give for example [256, 256]"
            )
