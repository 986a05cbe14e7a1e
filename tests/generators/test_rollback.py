"""A training that collapses goes back to its best state, and says so."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from generators import TableSchema
from generators.checkpoint import Checkpoint
from generators.rollback import Rollback, check_every
from generators.tabular.ctgan import CTGAN
from generators.tabular.neural import PairDistance, ResidentTable, TableTraining
from generators.tabular.tvae import TVAE


def training() -> tuple[nn.Linear, torch.optim.SGD, Rollback]:
    module = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    return module, optimiser, Rollback({"module": module, "sgd": optimiser}, [optimiser], 1.0)


def put(module: nn.Linear, value: float) -> None:
    with torch.no_grad():
        module.weight.fill_(value)


def test_the_best_state_comes_back_with_slower_rates() -> None:
    module, optimiser, rollback = training()
    put(module, 1.0)
    assert not rollback.judge(100, 0.3, 1.5)
    put(module, 2.0)
    assert not rollback.judge(200, 0.2, 1.5)
    put(module, 3.0)
    assert not rollback.judge(300, 0.24, 1.5)  # noise
    assert module.weight.item() == 3.0
    assert not rollback.judge(350, 0.59, 1.5)  # less than half of what was gained
    assert rollback.judge(400, 0.61, 1.5)
    assert module.weight.item() == 2.0
    assert optimiser.param_groups[0]["lr"] == 0.25
    assert rollback.judge(500, math.nan, 1.5)
    assert optimiser.param_groups[0]["lr"] == 0.0625
    assert "distance to the data 0.610, best 0.200" in rollback.notes[0]
    assert "not finite" in rollback.notes[1]
    assert "step 200" in rollback.notes[1]
    assert rollback.loss == 1.5


def test_it_gives_up_after_three_returns() -> None:
    _, _, rollback = training()
    rollback.judge(1, 0.1, 1.5)
    for step in range(4):
        assert not rollback.enough
        rollback.judge(step, math.inf, 1.5)
    assert rollback.enough
    assert len(rollback.notes) == 4


def test_before_the_first_gain_only_a_loss_that_is_not_finite_counts() -> None:
    _, _, rollback = training()
    assert not rollback.judge(100, 1.0, 1.5)
    assert rollback.judge(200, math.nan, 1.5)
    assert rollback.at == 0


def test_its_state_survives_a_checkpoint(tmp_path: Path) -> None:
    module, optimiser, rollback = training()
    put(module, 5.0)
    rollback.judge(10, 0.2, 1.5)
    rollback.judge(20, 0.9, 1.5)
    put(module, 7.0)
    kept = Checkpoint(tmp_path / "c", "key")
    kept.save({"module": module, "sgd": optimiser, "rollback": rollback}, {})
    other, second, again = training()
    Checkpoint(tmp_path / "c", "key").restore({"module": other, "sgd": second, "rollback": again})
    assert other.weight.item() == 7.0
    assert again.notes == rollback.notes
    again.restore()
    assert other.weight.item() == 5.0
    again.judge(30, math.nan, 0.0)
    assert second.param_groups[0]["lr"] == 0.0625


def test_the_distance_is_that_of_two_way_tables() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2, 4_000)
    real = np.column_stack([first, first, rng.integers(0, 3, 4_000)])
    distance = PairDistance(real, [2, 2, 3], np.random.default_rng(1))
    assert distance(real) == 0.0
    broken = np.column_stack([first, rng.permutation(first), real[:, 2]])
    # Half of the mass of one of three pairs moves.
    assert distance(broken) == pytest.approx(0.5 / 3, abs=0.02)
    one = np.tile(real[:1], (100, 1))
    assert distance(one) > 0.5
    alone = PairDistance(real[:, :1], [2], np.random.default_rng(1))
    assert alone(1 - real[:, :1]) == pytest.approx(abs(1 - 2 * first.mean()), abs=1e-9)


def groups(n: int = 1_000) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    group = rng.choice(8, n, p=[0.5, 0.2, 0.1, 0.06, 0.05, 0.04, 0.03, 0.02])
    return pd.DataFrame(
        {"group": group.astype(str), "x": rng.normal(3 * group, 1), "y": group // 4}
    )


class Collapsing(CTGAN):
    """CTGAN whose generator forgets all but one row shortly before it is judged at step 500."""

    def _training(self, table: ResidentTable) -> TableTraining:
        training: Any = super()._training(table)
        step, broken = training.step, []

        def breaking(index: int) -> torch.Tensor:
            if index == 497 and not broken:
                broken.append(index)
                for network in (training.generator, training.averaged.module):
                    with torch.no_grad():
                        network.last.linear.weight.zero_()
                        network.last.linear.bias.copy_(torch.linspace(-60, 60, table.width))
            loss: torch.Tensor = step(index)
            return loss

        training.step = breaking
        return cast(TableTraining, training)


def test_a_generator_that_forgets_is_brought_back() -> None:
    frame = groups()
    rates = {"generator_lr": 1e-3, "discriminator_lr": 1e-3}
    settings: dict[str, Any] = {"generator_dim": (32,), "discriminator_dim": (32,), **rates}
    model = Collapsing(epochs=60, batch_size=100, **settings)
    model.fit(frame, TableSchema.infer(frame))
    assert len(model.training_notes_) == 1
    assert "samples collapsed" in model.training_notes_[0]
    drawn = model.sample(4_000, seed=1)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn["group"].nunique() == 8
    sound = CTGAN(epochs=60, batch_size=100, **settings)
    sound.fit(frame, TableSchema.infer(frame))
    assert sound.training_notes_ == []


def test_a_rate_far_too_high_is_lowered() -> None:
    frame = groups()
    model = TVAE(epochs=100, batch_size=100, lr=0.5, decompress_dims=(32,))
    model.fit(frame, TableSchema.infer(frame))
    assert model.training_notes_
    drawn = model.sample(2_000, seed=1)
    assert isinstance(drawn, pd.DataFrame)
    assert drawn["group"].nunique() >= 5


def test_a_training_of_few_steps_is_not_judged() -> None:
    assert check_every(50) > 50
    assert check_every(10_000) == 250
