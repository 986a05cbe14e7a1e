"""A restricted Boltzmann machine or deep belief net over the cells of the columns.

Every column is a group of visible units of which one is on (Salakhutdinov, Mnih & Hinton 2007);
machine and training are those of ``generators.boltzmann``. A row is the end of a Gibbs chain.
What is known of a row is held in that chain: of a column it leaves only the allowed cells. In a
deep belief net (Hinton, Osindero & Teh 2006) the lower layers go one way only; there the chain
moves as if nothing were known, and a move is taken by how much likelier it makes what is known
(Metropolis et al. 1953; Hastings 1970; the moves are reversible, so no more is needed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from generators.base import OnProgress, ParameterError, Resumable
from generators.boltzmann import Boltzmann, PersistentDivergence, Schedule, Stack
from generators.checkpoint import Parts
from generators.encoding import EncodedTable
from generators.tabular.cell_model import CellModel, chunks
from generators.tabular.neural import check_positive, check_widths
from generators.training import (
    build,
    load_module_arrays,
    module_arrays,
    planned_steps,
    resolve_device,
    run_steps,
    torch_generator,
)

_MOVES = 3
"""Gibbs steps of the persistent chains for each update."""
# States of the model that chains of samples start at.
_STARTS = 2048
# Those among which a row that has something of its own given finds its start.
_CHOICE = 512
_SMALLEST_BATCH = 16
_TINY = 1e-30


@dataclass(kw_only=True)
class TableRBM(Resumable, CellModel):
    """Restricted Boltzmann machine; with several ``layers`` a deep belief net.

    Attributes:
        cells: of each column, about, fewer in tables of few rows; a category has one for each
            level but the rarest.
        layers: hidden units of each machine, from the columns upwards; each machine is trained for
            ``epochs``. Given cells are held exactly by one machine, by a slower way by more.
        epochs: passes over the table.
        batch_size: rows per step, at most; small tables take fewer.
        lr: the learning rate at the start; it falls to 0.
        gibbs: steps of the chain from a stored state of the model to a row. With few, rows that
            began at the same state are alike, and what is drawn beside given cells is not yet what
            the model says; beyond some dozens little changes. Sampling takes time in proportion.
        max_minutes: training stops earlier, after as many steps as the first seconds promise to
            fit into this time; None for no limit. The number of steps then depends on the machine.
        device: ``auto``, ``cpu`` or ``cuda``; where training runs. Sampling runs on the CPU.
    """

    layers: tuple[int, ...] = (256,)
    epochs: int = 30
    batch_size: int = 512
    lr: float = 0.01
    gibbs: int = 20
    max_minutes: float | None = None
    device: str = "auto"

    name: ClassVar[str] = "table-rbm"
    suits: ClassVar[str] = "to compare with the literature; sees all columns alike, in no order"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layers = tuple(self.layers)
        check_widths(self.name, layers=self.layers)
        for name in ("epochs", "batch_size", "gibbs"):
            if getattr(self, name) < 1:
                raise ParameterError(
                    f"{name} of {self.name} must be at least 1, got {getattr(self, name)}; raise it"
                )
        check_positive(self.name, lr=self.lr)
        if self.max_minutes is not None:
            check_positive(self.name, max_minutes=self.max_minutes)

    def _learn(self, encoded: EncodedTable, states: np.ndarray, progress: OnProgress) -> None:  # noqa: ARG002
        device = resolve_device(self.device)
        rows = torch.from_numpy(states + self._first()).to(device)

        def trial() -> tuple[Callable[[int], torch.Tensor], int]:
            training = _Training(self, rows, 1000)
            return training.step, self.epochs * training.steps_per_epoch * len(self.layers)

        total = planned_steps(trial, self.max_minutes, self.checkpoint)
        training = _Training(self, rows, total)
        self.loss_history_ = run_steps(
            training.step,
            total,
            phase="fit",
            progress=progress,
            checkpoint=self.checkpoint,
            parts=training.parts(),
        )
        self.stack_: Stack = training.stack.to("cpu").eval().requires_grad_(False)
        self.starts_ = self._particles(training.chains.get_buffer(f"chain{len(self.layers) - 1}"))

    def _first(self) -> np.ndarray:
        """The first unit of each column."""
        return np.cumsum([0, *self.cells_.sizes[:-1]])

    def _machines(self) -> Stack:
        wide, groups, machines = 0, self.cells_.sizes, []
        for hidden in self.layers:
            machines.append(Boltzmann(wide, groups, hidden))
            wide, groups = hidden, []
        return Stack(machines)

    @torch.inference_mode()
    def _particles(self, visible: torch.Tensor) -> torch.Tensor:
        """States of the top machine: of its hidden units where it is the only one, else visible."""
        random = torch_generator("cpu", self.name, self.seed, "starts")
        top, visible = self.stack_.top, visible.cpu()
        visible = visible[torch.arange(_STARTS) % len(visible)]
        for _ in range(self.gibbs):
            visible = top.gibbs(visible, torch.rand(_STARTS, top.draws, generator=random))
        return visible if len(self.stack_) > 1 else _on(top.inputs(visible).sigmoid(), random)

    def _draw(
        self, evidence: list[np.ndarray] | None, n: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        known = None
        if evidence is not None:
            if any((each.sum(axis=1) <= 0).any() for each in evidence):
                return None
            rows = max(len(each) for each in evidence)
            wide = [np.broadcast_to(each, (rows, each.shape[1])) for each in evidence]
            known = torch.from_numpy(np.concatenate(wide, axis=1).astype(np.float32))
        random = torch_generator("cpu", self.name, int(rng.integers(2**62)))
        made = np.empty((n, len(self.cells_.sizes)), np.int64)
        with torch.inference_mode():
            for part in chunks(n):
                own = known[part] if known is not None and len(known) > 1 else known
                chain = _Chain(self.stack_, own, random)
                units = chain.run(self.starts_, len(made[part]), self.gibbs)
                made[part] = units.nonzero()[:, 1].reshape(len(units), -1).numpy() - self._first()
        return made

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, state = super()._state()
        starts = {"starts": self.starts_.numpy().astype(np.uint8)}
        return {**arrays, **starts, **module_arrays(self.stack_, "stack.")}, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        super()._restore(arrays, state)
        self.starts_ = torch.from_numpy(arrays["starts"].astype(np.float32))
        # The weights are overwritten; the seed only has to be some seed.
        self.stack_ = build(self._machines, "cpu", torch_generator("cpu", self.name, "restore"))
        load_module_arrays(self.stack_, arrays, "stack.")
        self.stack_.eval().requires_grad_(False)


class _Training(PersistentDivergence):
    """Training on rows of cells."""

    def __init__(self, model: TableRBM, rows: torch.Tensor, total: int) -> None:
        self.rows = rows
        smaller = max(len(rows) // 32, _SMALLEST_BATCH)
        self.batch = min(model.batch_size, smaller, len(rows))
        self.steps_per_epoch = len(rows) // self.batch
        weights = torch_generator("cpu", model.name, model.seed, "weights")
        schedule = Schedule(
            steps=total,
            rate=model.lr,
            chains=model.batch_size,
            moves=_MOVES,
            centred=True,
        )
        random = torch_generator(rows.device, model.name, model.seed, "training")
        super().__init__(
            build(model._machines, rows.device, weights), schedule, random, self._units
        )
        # A buffer of a module, so that a checkpoint holds the epoch's order.
        self.epoch = nn.Module()
        order = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        self.epoch.register_buffer("order", order)

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {**super().parts(), "epoch": self.epoch}

    def shares(self, at: int, data: torch.Tensor) -> torch.Tensor:
        """How often each cell is in the table; of hidden units, in the rows of the step."""
        if at:
            return super().shares(at, data)
        counts = torch.bincount(self.rows.flatten(), minlength=data.shape[1])
        return (counts + 0.5) / len(self.rows)

    @torch.no_grad()
    def _units(self, index: int, at: int) -> torch.Tensor:
        """Visible units of machine ``at`` for the rows of a step."""
        place, order = index % self.steps_per_epoch, self.epoch.get_buffer("order")
        if place == 0:
            device = self.rows.device
            order.copy_(torch.randperm(len(order), generator=self.random, device=device))
        some = self.rows[order[place * self.batch : (place + 1) * self.batch]]
        width = len(self.stack[0].visible)
        units = torch.zeros(len(some), width, device=some.device).scatter_(1, some, 1.0)
        return units if at == 0 else _on(self.stack.inputs_of(units, at), self.random)


@dataclass(frozen=True)
class _Chain:
    """Chains of rows of which something may be known.

    Attributes:
        stack: the machines.
        known: how much of each cell is allowed, of each row or of all alike, (N or 1, V), or None.
        random: decides all draws.
    """

    stack: Stack
    known: torch.Tensor | None
    random: torch.Generator

    def run(self, starts: torch.Tensor, n: int, steps: int) -> torch.Tensor:
        """Units of the columns of ``n`` rows, (n, V), after so many steps."""
        state = starts[self._chosen(starts, n)]
        hidden = self._down(state)
        if len(self.stack) == 1:
            for _ in range(steps):
                hidden = _on(self.stack[0].inputs(self._shown(hidden)).sigmoid(), self.random)
            return self._shown(hidden)
        likely = self._likely(hidden)
        for _ in range(steps):
            moved = self.stack.top.gibbs(state, self._uniform(n, self.stack.top.draws))
            below = self._down(moved)
            now = self._likely(below)
            taken = self._uniform(n, 1)[:, 0].log() < now - likely
            state = torch.where(taken[:, None], moved, state)
            hidden = torch.where(taken[:, None], below, hidden)
            likely = torch.where(taken, now, likely)
        return self._shown(hidden)

    def _chosen(self, starts: torch.Tensor, n: int) -> torch.Tensor:
        """A start for each row, by how likely it makes what is known (Rubin 1988)."""
        if self.known is None:
            return torch.randint(len(starts), (n,), generator=self.random)
        shared = len(self.known) == 1
        some = torch.randperm(len(starts), generator=self.random)
        some = some if shared else some[:_CHOICE]
        shares = self.stack[0].outputs(self._down(starts[some]))
        logs = torch.zeros(len(self.known), len(some))
        for part, known in zip(*map(self._columns, (shares, self.known)), strict=True):
            logs += (known @ part.T).clamp(min=_TINY).log()
        size = n if shared else 1
        chosen = torch.multinomial(logs.softmax(1), size, replacement=True, generator=self.random)
        return some[chosen.flatten()]

    def _likely(self, hidden: torch.Tensor) -> torch.Tensor:
        """The log-probability of what is known given the first hidden units, (N,)."""
        logs = torch.zeros(len(hidden))
        if self.known is not None:
            for part in self._columns(self.stack[0].outputs(hidden) * self.known):
                logs += part.sum(dim=1).clamp(min=_TINY).log()
        return logs

    def _columns(self, units: torch.Tensor) -> tuple[torch.Tensor, ...]:
        parts: tuple[torch.Tensor, ...] = torch.split(units, self.stack[0].groups, dim=1)
        return parts

    def _down(self, state: torch.Tensor) -> torch.Tensor:
        """The hidden units of the first machine, from the state of the top one."""
        for at in reversed(range(1, len(self.stack) - 1)):
            state = _on(self.stack[at].outputs(state), self.random)
        return state

    def _shown(self, hidden: torch.Tensor) -> torch.Tensor:
        """Units of the columns, drawn from what is allowed."""
        machine, logits = self.stack[0], self.stack[0].logits(hidden)
        if self.known is not None:
            logits = logits + self.known.log()
        shares = machine.shares(logits)
        return machine.drawn(shares, self._uniform(len(hidden), len(machine.groups)))

    def _uniform(self, rows: int, size: int) -> torch.Tensor:
        return torch.rand(rows, size, generator=self.random)


def _on(shares: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Units that are on with these probabilities."""
    drawn = torch.rand(shares.shape, generator=random, device=shares.device)
    return (drawn < shares).float()
