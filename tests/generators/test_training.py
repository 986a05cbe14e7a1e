from __future__ import annotations

import itertools
import math
import time

import numpy as np
import pytest
import torch
from torch import nn

from generators.base import CheckpointError, ParameterError, Progress, TrainingError
from generators.training import (
    EMA,
    build,
    load_module_arrays,
    module_arrays,
    power_gamma,
    resolve_device,
    run_steps,
    steps_for_minutes,
    torch_generator,
    warmup_cosine,
)


def small() -> nn.Sequential:
    last = nn.Linear(8, 2)
    last.zero_init = True
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), last)


def made(seed: int) -> nn.Sequential:
    return build(small, torch.device("cpu"), torch_generator("cpu", seed))


def test_device_names():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    for wrong in ("gpu", "meta", "cuda:99"):
        with pytest.raises(ParameterError):
            resolve_device(wrong)


def test_build_draws_from_the_given_generator_alone():
    before = torch.get_rng_state()
    one, two, other = made(1), made(1), made(2)
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one[0].weight, other[0].weight)


def test_build_follows_torch_defaults_and_zero_init():
    module = build(
        lambda: nn.ModuleList([nn.Linear(400, 300), nn.Embedding(50, 60)]),
        "cpu",
        torch_generator("cpu", 0),
    )
    assert module[0].weight.abs().max() <= 1 / 20
    assert module[0].weight.std().item() == pytest.approx(1 / 20 / math.sqrt(3), rel=0.02)
    assert module[1].weight.std().item() == pytest.approx(1.0, rel=0.05)
    net = made(0)
    assert not net[3].weight.any()
    assert not net[3].bias.any()
    assert torch.equal(net[1].running_var, torch.ones(8))
    assert torch.equal(net[1].weight, torch.ones(8))


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


class Told(Bare):
    def initialise(self, generator: torch.Generator) -> None:
        self.scale.normal_(2.0, 0.0, generator=generator)


def test_build_refuses_parameters_that_it_cannot_initialise():
    with pytest.raises(TypeError, match="Bare"):
        build(lambda: nn.Sequential(Bare()), "cpu", torch_generator("cpu", 0))
    told = build(lambda: nn.Sequential(Told()), "cpu", torch_generator("cpu", 0))
    assert torch.equal(told[0].scale, torch.full((3,), 2.0))


def test_run_steps_reads_every_nth_loss_and_the_last():
    seen: list[Progress] = []
    history = run_steps(
        lambda i: torch.tensor(float(i)), 12, phase="fit", progress=seen.append, log_every=5
    )
    assert history == [(5, 4.0), (10, 9.0), (12, 11.0)]
    assert (seen[-1].step, seen[-1].total, seen[-1].loss) == (12, 12, 11.0)


def test_run_steps_stops_on_a_loss_that_is_not_finite():
    with pytest.raises(TrainingError, match="step 4"):
        run_steps(
            lambda i: torch.tensor(math.nan if i >= 2 else 1.0),
            10,
            phase="fit",
            progress=lambda _: None,
            log_every=4,
        )


def test_power_gamma_inverts_the_width():
    for sigma_rel in (0.05, 0.1, 0.2):
        gamma = power_gamma(sigma_rel)
        width = math.sqrt(gamma + 1) / (gamma + 2) / math.sqrt(gamma + 3)
        assert width == pytest.approx(sigma_rel, rel=1e-6)
    with pytest.raises(ParameterError):
        power_gamma(0.5)


def averaged(stride: int, **settings: float) -> float:
    module = nn.Linear(1, 1, bias=False).requires_grad_(False)
    ema = EMA(module, **settings)
    for t in range(1, 1201):
        module.weight.fill_(float(t))
        if t % stride == 0:
            ema.update(stride)
    return float(ema.module.weight)


def test_power_ema_of_a_ramp_has_the_mean_of_the_profile():
    # The profile is proportional to t^gamma, whose mean is (gamma + 1) / (gamma + 2) of the run.
    gamma = power_gamma(0.1)
    expected = 1200 * (gamma + 1) / (gamma + 2)
    assert averaged(1, sigma_rel=0.1) == pytest.approx(expected, rel=0.002)
    assert averaged(4, sigma_rel=0.1) == pytest.approx(expected, rel=0.005)


def test_half_life_ema_of_a_step_is_halfway_after_its_half_life():
    module = nn.Linear(1, 1, bias=False).requires_grad_(False)
    module.weight.fill_(0.0)
    ema = EMA(module, half_life=10.0, ramp_up=1e9)
    module.weight.fill_(1.0)
    for _ in range(10):
        ema.update()
    assert float(ema.module.weight) == pytest.approx(0.5, abs=1e-6)
    with pytest.raises(ParameterError):
        EMA(module)


def test_copy_to_gives_the_averages():
    module = made(3)
    ema = EMA(module, sigma_rel=0.1)
    with torch.no_grad():
        module[0].weight.add_(1.0)
    target = made(4)
    ema.copy_to(target)
    assert torch.equal(target[0].weight, made(3)[0].weight)


def test_arrays_restore_a_module_and_are_checked():
    one, two = made(1), made(2)
    arrays = module_arrays(one, "net.")
    arrays["net.1.num_batches_tracked"] = np.atleast_1d(arrays["net.1.num_batches_tracked"])
    load_module_arrays(two, arrays, "net.")
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    del arrays["net.0.bias"]
    with pytest.raises(CheckpointError, match=r"net\.0\.bias"):
        load_module_arrays(two, arrays, "net.")


def test_the_rate_rises_and_then_falls_to_nearly_nothing():
    rates = [warmup_cosine(step, 200, warm_up=0.1) for step in range(200)]
    peak = rates.index(max(rates))
    assert peak == 20
    assert rates[peak] == pytest.approx(1.0)
    assert all(a < b for a, b in itertools.pairwise(rates[: peak + 1]))
    assert all(a > b for a, b in itertools.pairwise(rates[peak:]))
    assert 0.0 < rates[0] < 0.1
    assert 0.0 < rates[-1] < 0.001
    assert 0.0 < warmup_cosine(0, 1) <= 1.0


def test_minutes_become_steps_by_their_pace(monkeypatch):
    now = 5.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def step(_: int) -> torch.Tensor:
        nonlocal now
        now += 2**-7
        return torch.tensor(0.0)

    # 128 steps of 1/128 s in a second.
    assert steps_for_minutes(step, 1 / 60, seconds=0.2) == 128
