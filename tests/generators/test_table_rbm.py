"""The Boltzmann machine of tables against enumeration, and the centring of its gradient."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare

from generators import GENERATORS, TableSchema
from generators.base import ParameterError, Progress
from generators.boltzmann import Boltzmann, Stack, centred_step
from generators.checkpoint import Checkpoint
from generators.tabular.rbm import TableRBM, _Chain
from generators.training import build, torch_generator

CPU = torch.device("cpu")
SIZES = (2, 3, 2)


def tiny(layers: tuple[int, ...]) -> Stack:
    """Machines over three columns with weights that make them tell of each other."""

    def machines() -> Stack:
        wide: list[Any] = [(0, SIZES), *((below, ()) for below in layers)]
        return Stack([Boltzmann(*wide[at], hidden) for at, hidden in enumerate(layers)])

    stack = build(machines, CPU, torch_generator("cpu", "machines"))
    random = torch_generator("cpu", "weights")
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random))
    return stack.requires_grad_(False)


def every_row() -> tuple[np.ndarray, torch.Tensor]:
    """All twelve rows, as cells and as units."""
    cells = np.array(list(itertools.product(*map(range, SIZES))))
    hot = [np.eye(size)[cells[:, at]] for at, size in enumerate(SIZES)]
    return cells, torch.from_numpy(np.concatenate(hot, axis=1)).float()


def exact(stack: Stack) -> np.ndarray:
    """The probability of each row, by summing everything else out."""
    _, rows = every_row()
    if len(stack) == 1:
        shares = (-stack[0].free_energy(rows)).double().softmax(dim=0)
        return shares.numpy()
    below = len(stack[0].hidden)
    hidden = torch.tensor(list(itertools.product((0.0, 1.0), repeat=below)))
    prior = (-stack[1].free_energy(hidden)).double().softmax(dim=0)
    shown = stack[0].outputs(hidden).clamp(min=1e-30).double().log() @ rows.double().T
    chances: np.ndarray = (prior[:, None] * shown.exp()).sum(dim=0).numpy()
    return chances / chances.sum()


def drawn(stack: Stack, known: torch.Tensor | None, n: int, steps: int) -> np.ndarray:
    """How many of ``n`` chains end at each row."""
    random = torch_generator("cpu", "chains")
    wide = len(stack.top.hidden) if len(stack) == 1 else stack.top.units
    starts = (torch.rand(50, wide, generator=random) < 0.5).float()
    units = _Chain(stack, known, random).run(starts, n, steps)
    rows = every_row()[1]
    codes = 2.0 ** torch.arange(rows.shape[1])
    numbers = {float(row @ codes): at for at, row in enumerate(rows)}
    return np.bincount([numbers[float(code)] for code in units @ codes], minlength=len(rows))


@pytest.mark.parametrize("layers", [(4,), (4, 3)])
def test_chains_end_as_the_model_says(layers: tuple[int, ...]) -> None:
    stack, n = tiny(layers), 8000
    counts = drawn(stack, None, n, 40)
    assert chisquare(counts, exact(stack) * n).pvalue > 1e-3
    # What one step leaves of the starts is far from it.
    assert chisquare(drawn(stack, None, n, 1), exact(stack) * n).pvalue < 1e-6


@pytest.mark.parametrize("layers", [(4,), (4, 3)])
def test_what_is_known_is_held_and_the_rest_follows_from_it(layers: tuple[int, ...]) -> None:
    stack, n = tiny(layers), 8000
    # The middle column may be its first cell, or by half its last; the last is its second.
    known = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.5, 0.0, 1.0]])
    allowed = np.prod(
        [part[every_row()[0][:, at]] for at, part in enumerate(np.split(known.numpy()[0], (2, 5)))],
        axis=0,
    )
    chances = exact(stack) * allowed
    counts = drawn(stack, known, n, 40)
    possible = chances > 0
    assert counts[~possible].sum() == 0
    wanted = chances[possible] / chances.sum() * n
    assert chisquare(counts[possible], wanted).pvalue > 1e-3


@pytest.mark.parametrize("layers", [(4,), (4, 3)])
def test_rows_may_know_different_things(layers: tuple[int, ...]) -> None:
    stack, n = tiny(layers), 4000
    cells, _ = every_row()
    known = torch.ones(2, 7)
    known[0, :2] = torch.tensor([1.0, 0.0])
    known[1, 5:] = torch.tensor([0.0, 1.0])
    random, chances = torch_generator("cpu", "chains"), exact(stack)
    wide = len(stack.top.hidden) if len(stack) == 1 else stack.top.units
    starts = (torch.rand(50, wide, generator=random) < 0.5).float()
    units = _Chain(stack, known.repeat(n, 1), random).run(starts, 2 * n, 40)
    for half, fits in enumerate((cells[:, 0] == 0, cells[:, 2] == 1)):
        for cell in range(3):
            share = chances[fits & (cells[:, 1] == cell)].sum() / chances[fits].sum()
            found = float(units[half::2, 2 + cell].mean())
            assert abs(found - share) < 4.5 * np.sqrt(share * (1 - share) / n)


def test_a_centred_step_is_one_of_the_machine_whose_units_count_from_their_means() -> None:
    machine = tiny((4,)).double().requires_grad_(True)[0]
    rows = every_row()[1].double()
    shares, mean = rows.mean(dim=0), torch.full((4,), 0.3, dtype=torch.float64)
    # The same machine, its biases said at the means of the units.
    weight, visible, hidden = (part.detach().clone() for part in machine.parameters())
    about = [weight, visible + mean @ weight, hidden + weight @ shares]
    about = [part.requires_grad_(True) for part in about]

    def plain() -> list[torch.Tensor]:
        return [about[0], about[1] - mean @ about[0], about[2] - about[0] @ shares]

    def gap(parts: list[torch.Tensor]) -> torch.Tensor:
        inputs = rows @ parts[0].T + parts[2]
        free = -rows @ parts[1] - torch.nn.functional.softplus(inputs).sum(dim=1)
        return free[:3].mean() - free[3:].mean()

    other = torch.optim.Adam(about, lr=0.1)
    ours = torch.optim.Adam(machine.parameters(), lr=0.1)
    for _ in range(3):
        other.zero_grad()
        torch.autograd.backward(gap(plain()))
        other.step()
        ours.zero_grad()
        energy = machine.free_energy(rows)
        torch.autograd.backward(energy[:3].mean() - energy[3:].mean())
        with torch.no_grad():
            centred_step(machine, ours, shares, mean)
    for parameter, wanted in zip(machine.parameters(), plain(), strict=True):
        torch.testing.assert_close(parameter, wanted)


def coins(rows: int) -> pd.DataFrame:
    """Six coins that all follow a hidden one."""
    rng = np.random.default_rng(6)
    hidden = rng.random(rows) < 0.5
    return pd.DataFrame({f"c{i}": rng.random(rows) < np.where(hidden, 0.9, 0.1) for i in range(6)})


@pytest.fixture(scope="module")
def learned() -> TableRBM:
    frame = coins(4000)
    model = TableRBM(layers=(16,), epochs=8, batch_size=64, lr=0.05, gibbs=20)
    return model.fit(frame, TableSchema.infer(frame))


def test_it_finds_a_cause_that_is_not_in_the_table(learned: TableRBM) -> None:
    heads = learned.sample(8000, seed=1).sum(axis=1).to_numpy()
    truth = coins(8000).sum(axis=1).to_numpy()
    for count in range(7):
        assert abs((heads == count).mean() - (truth == count).mean()) < 0.05


def test_a_condition_is_a_filtered_sample(learned: TableRBM) -> None:
    whole = learned.sample(20_000, seed=2)
    held = whole[whole["c0"] & ~whole["c1"]]
    drawn_rows = learned.sample_where(["c0 = true", "c1 = false"], 4000, seed=3)
    full = learned.fill(pd.DataFrame({"c0": [True] * 4000, "c1": [False] * 4000}), seed=4)
    for name in ("c2", "c5"):
        share = held[name].mean()
        spread = np.sqrt(share * (1 - share) * (1 / len(held) + 1 / 4000))
        assert abs(drawn_rows[name].mean() - share) < 4.5 * spread
        assert abs(full[name].mean() - share) < 4.5 * spread


def test_an_interrupted_training_goes_on_to_the_same_rows(tmp_path: Path) -> None:
    frame = coins(300)
    schema = TableSchema.infer(frame)
    settings: dict[str, Any] = {"layers": (6, 4), "epochs": 2, "gibbs": 2}

    def stop(report: Progress) -> None:
        if report.step == report.total:
            raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "c", "key", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        TableRBM(**settings).fit_or_resume(
            frame, schema, checkpoint=_Early(tmp_path / "c", "key"), progress=stop
        )
    facts = kept.facts()
    assert facts is not None
    assert 0 < facts["done"] < facts["total"]
    again = TableRBM(**settings).fit_or_resume(frame, schema, checkpoint=kept)
    whole = TableRBM(**settings).fit(frame, schema)
    assert again.sample(100, seed=1).equals(whole.sample(100, seed=1))
    assert again.loss_history_ == whole.loss_history_


class _Early(Checkpoint):
    """Written once, in the midst of the second machine's training."""

    @property
    def due(self) -> bool:
        self.asked = getattr(self, "asked", 0) + 1
        return self.asked == 45


@pytest.mark.parametrize(
    "setting",
    [{"layers": ()}, {"layers": (8, 0)}, {"gibbs": 0}, {"epochs": 0}, {"lr": 0.0}],
    ids=str,
)
def test_bad_settings_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ParameterError, match=next(iter(setting))):
        GENERATORS["table-rbm"].from_parameters(setting)
