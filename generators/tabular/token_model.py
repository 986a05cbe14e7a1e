"""What families over tokens share: settings, training, the guard against copies, state.

A family says how the table becomes tokens, which network tells how likely rows of them are, how it
is trained, and how rows are drawn from it, freely or within conditions.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import pandas as pd
import torch

from generators.base import (
    Block,
    Conditional,
    Modality,
    OnProgress,
    ParameterError,
    Resumable,
    derive_seed,
)
from generators.conditions import Cells, Conditions, allowed_values
from generators.encoding import EncodedTable, TableCodec
from generators.schema import TableSchema
from generators.tabular.balance import Balance, target_of
from generators.tabular.descent import HeldOutDescent, RowNetwork, descend
from generators.tabular.independent import learnable
from generators.tabular.neural import check_positive
from generators.tabular.tokens import TwoLevelTokens
from generators.tabular.verbatim import CopyGuard, judged_guard, replace_copies
from generators.training import (
    build,
    load_module_arrays,
    module_arrays,
    resolve_device,
    torch_generator,
)

N = TypeVar("N", bound=RowNetwork)
# Numbers that stand for a whole row, about at most: the work of a step grows with the columns times
# these.
_EMBEDDINGS = 1024


@dataclass(kw_only=True)
class TokenModel(Resumable, Conditional, Generic[N]):
    """A table family that learns tokens of the columns by descent, with rows held out.

    A family implements ``_prepare``, ``_training``, ``_network``, ``_draw_rows``, ``_draw_where``
    and ``_fill_block``. Fitted are ``codec_``, ``tokens_``, ``network_`` (N), and of the guard
    against copies ``guard_`` and ``keep_``, the share of copies that stays under conditions. The
    rows of a sample are not independent: see ``balance.py``.

    Attributes:
        epochs: passes over the table, at most; training stops early where the loss of rows held
            out from it no longer falls.
        max_steps: steps, at most, whatever the epochs.
        batch_size: rows per step, at most; small tables take fewer.
        embedding: numbers that stand for a token; fewer in tables of more than 64 columns.
        width: of the hidden layers of each column's network.
        lr: highest learning rate (AdamW, a short warm-up, then a cosine).
        weight_decay: of AdamW.
        max_minutes: training stops earlier, after as many steps as the first seconds promise to
            fit into this time; None for no limit. The number of steps then depends on the machine.
        device: ``auto``, ``cpu`` or ``cuda``; where training runs. Sampling runs on the CPU.
        verbatim_guard: draw a row again where it equals a training row, until such rows are as
            rare as among fresh real rows.
        candidates: rows that are drawn for each row of a sample; those are kept that leave pairs of
            columns as frequent as the model says. 1 draws rows independently, in less time.
    """

    epochs: int
    max_steps: int
    batch_size: int = 512
    embedding: int = 16
    width: int = 64
    lr: float
    weight_decay: float = 0.01
    max_minutes: float | None = None
    device: str = "auto"
    verbatim_guard: bool = True
    candidates: int = 3

    modality: ClassVar[Modality] = "table"
    rows_per_block: ClassVar[int] = 16_384
    """More than other families': samples are balanced within a block only."""

    def __post_init__(self) -> None:
        names = ("epochs", "max_steps", "batch_size", "embedding", "width", "lr", "candidates")
        check_positive(self.name, **{name: getattr(self, name) for name in names})
        if self.max_minutes is not None:
            check_positive(self.name, max_minutes=self.max_minutes)
        if self.weight_decay < 0:
            raise ParameterError(
                f"weight_decay of {self.name} must be at least 0, got {self.weight_decay}; try 0.01"
            )

    def _fit(self, data: pd.DataFrame, schema: TableSchema, progress: OnProgress) -> None:
        device = resolve_device(self.device)
        self.codec_, encoded = learnable(data, schema)
        self._prepare(encoded)
        rng = np.random.default_rng(derive_seed(self.name, self.seed, "balance"))
        self.balance_: Balance | None = Balance.fit(
            self.codec_, encoded, rng, target_of(self.codec_)
        )
        tokens = torch.from_numpy(self.tokens_.encode(encoded).astype(np.int32)).to(device)
        begin = self._training(encoded, tokens)
        training, self.loss_history_ = descend(begin, self, self.checkpoint, progress)
        self.network_ = training.result()
        self._ready_to_sample()
        draw = self._draw_rows if self.verbatim_guard else None
        seed = derive_seed(self.name, self.seed, "probe")
        held = training.held.cpu().numpy()
        self.guard_, self.keep_ = judged_guard(encoded, held, self.codec_, seed, draw)

    @abstractmethod
    def _prepare(self, encoded: EncodedTable) -> None:
        """Set ``tokens_`` for this table, and whatever else ``_network`` needs to know of it."""

    @abstractmethod
    def _training(
        self, encoded: EncodedTable, tokens: torch.Tensor
    ) -> Callable[[int], HeldOutDescent[N]]:
        """What makes a training of so many steps.

        Args:
            encoded: the table.
            tokens: its tokens, int32, (N, S), on the device to train on.
        """

    @abstractmethod
    def _network(self) -> N:
        """The network of ``tokens_``."""

    def _untrained(self, device: torch.device) -> N:
        """The network that training starts from."""
        return build(self._network, device, torch_generator("cpu", self.name, self.seed, "weights"))

    def _embedding(self, wide: int) -> int:
        """Numbers that stand for a token where rows have so many of them."""
        return min(self.embedding, max(_EMBEDDINGS // wide, 2))

    def _ready_to_sample(self) -> None:
        """Make what samples need beside ``network_``, which was trained or loaded."""

    def _sample_block(self, block: Block) -> pd.DataFrame:
        encoded = self._guarded(block, self._draw_evenly)
        frame: pd.DataFrame = self.codec_.decode(encoded, first_row=block.start)
        return frame

    def _sample_block_where(
        self, block: Block, cells: Mapping[int, Cells], conditions: Conditions
    ) -> EncodedTable:
        def draw(n: int, seed: int) -> EncodedTable:
            drawn = self._draw_where(n, seed, cells)
            if drawn is None:
                raise conditions.unsupported(self.codec_.columns[at].column.name for at in cells)
            settled: EncodedTable = self.codec_.settle(drawn, allowed_values(cells))
            return settled

        return self._guarded(block, draw, self.keep_)

    def _guarded(
        self, block: Block, draw: Callable[[int, int], EncodedTable], keep: float | None = None
    ) -> EncodedTable:
        """The rows that ``draw`` gives for a number and a seed, without copies beyond ``keep``."""
        encoded = draw(block.size, block.seed)
        if self.verbatim_guard:
            replace_copies(encoded, self.guard_, self.codec_, block.seed, draw, keep)
        return encoded

    def _draw_evenly(self, n: int, seed: int) -> EncodedTable:
        """``n`` rows, balanced among more; models saved by earlier versions draw them plainly."""
        if self.balance_ is None or self.candidates == 1:
            return self._draw_rows(n, seed)
        rng = np.random.default_rng(derive_seed("balance", seed))
        return self.balance_.pick(self._draw_rows(self.candidates * n, seed), n, rng)

    @abstractmethod
    def _draw_rows(self, n: int, seed: int) -> EncodedTable:
        """``n`` rows that depend on the model and the seed alone."""

    @abstractmethod
    def _draw_where(self, n: int, seed: int, cells: Mapping[int, Cells]) -> EncodedTable | None:
        """``n`` rows within ``cells`` (by position in ``codec_``); None where there are none."""

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        state = {
            "codec": self.codec_.to_json(),
            "cells": self.tokens_.to_json(),
            "natural": self.guard_.natural,
            "keep": self.keep_,
        }
        arrays = {**module_arrays(self.network_, "network."), **self.tokens_.arrays()}
        if self.balance_ is not None:
            state["balance"] = self.balance_.to_json()
            for name, array in self.balance_.arrays().items():
                arrays[f"balance.{name}"] = array
        return {**arrays, "once": self.guard_.once}, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        """Inverse of ``_state``; a family first restores what it has ``_network`` for."""
        schema: Any = self.schema_
        self.codec_ = TableCodec.from_json(schema, state["codec"])
        self.tokens_ = TwoLevelTokens.restore(self.codec_, arrays, state["cells"])
        self.guard_ = CopyGuard(arrays["once"], float(state["natural"]))
        self.keep_ = float(state["keep"])
        self.balance_ = None
        if "balance" in state:
            own = {
                name.removeprefix("balance."): array
                for name, array in arrays.items()
                if name.startswith("balance.")
            }
            self.balance_ = Balance.restore(self.codec_, own, state["balance"])
        # The weights are overwritten; the seed only has to be some seed.
        self.network_ = build(self._network, "cpu", torch_generator("cpu", self.name, "restore"))
        load_module_arrays(self.network_, arrays, "network.")
        self.network_.eval().requires_grad_(False)
        self._ready_to_sample()
