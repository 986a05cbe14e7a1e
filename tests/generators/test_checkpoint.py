"""Training that is killed goes on from its checkpoint, to the same bytes."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from generators import GENERATORS, Images, ImageSchema, TableSchema
from generators.base import Generator, ParameterError, Resumable, TrainingError
from generators.checkpoint import Checkpoint
from generators.persistence import model_digest
from generators.training import EMA, run_steps

from ..warm import ROOT, run

FAMILIES = {
    "autoregressive": {"epochs": 30, "width": 8, "lr": 1e-3},
    "table-diffusion": {"epochs": 30, "width": 8, "lr": 1e-3},
    "ctgan": {"epochs": 40, "batch_size": 50, "generator_dim": [16], "discriminator_dim": [16]},
    "tvae": {"epochs": 60, "batch_size": 50, "compress_dims": [16], "decompress_dims": [16]},
    "diffusion": {"steps": 120, "batch_size": 16, "width": 8, "depth": 1},
}
# Fits a family with a checkpoint after every step; killed at any point after the first one, at half
# of the way at the latest: there it waits.
CHILD = """
import json, os, signal, sys, threading, time
from pathlib import Path
from tests.generators.test_checkpoint import Checkpoint, GENERATORS, data_of

name, parameters, path = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])

class Waiting(Checkpoint):
    def save(self, parts, facts):
        super().save(parts, facts)
        if facts["done"] == facts["total"] // 2:
            time.sleep(3600)

def killer():
    while not path.is_file():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)

threading.Thread(target=killer, daemon=True).start()
generator = GENERATORS[name].from_parameters(parameters)
generator.fit_or_resume(*data_of(name), checkpoint=Waiting(path, "key", every=0.0))
"""


def data_of(name: str) -> tuple[object, object]:
    rng = np.random.default_rng(5)
    if name == "diffusion":
        pixels = rng.integers(0, 255, (80, 8, 8, 1), dtype=np.uint8)
        images = Images(pixels, rng.integers(0, 2, 80))
        return images, ImageSchema(8, 8, 1, ("a", "b"))
    frame = pd.DataFrame({"x": rng.normal(size=450), "y": rng.choice(["a", "b", "c"], 450)})
    return frame, TableSchema.infer(frame)


def saved(generator: Generator, folder: Path) -> str:
    generator.save(folder)
    return model_digest(folder)


@pytest.mark.parametrize("name", FAMILIES)
def test_killed_and_resumed_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    killed = run(CHILD, name, json.dumps(FAMILIES[name]), path, cwd=ROOT)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = Checkpoint(path, "key")
    facts = kept.facts()
    assert facts is not None
    assert 0 < facts["done"] < facts["total"]

    family = GENERATORS[name]
    first: list[int] = []
    resumed = family.from_parameters(FAMILIES[name])
    assert isinstance(resumed, Resumable)
    resumed.fit_or_resume(
        *data_of(name), checkpoint=kept, progress=lambda report: first.append(report.first)
    )
    whole = family.from_parameters(FAMILIES[name]).fit(*data_of(name))
    assert set(first) == {facts["done"]}
    assert saved(resumed, tmp_path / "resumed") == saved(whole, tmp_path / "whole")
    assert resumed.loss_history_ == whole.loss_history_


def parts(value: float) -> dict[str, object]:
    module = torch.nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(value)
    optimiser = torch.optim.Adam(module.parameters(), betas=(0.5, 0.9))
    module(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    random = torch.Generator().manual_seed(int(value))
    return {"m": module, "o": optimiser, "a": EMA(module, half_life=3.0), "r": random}


def test_a_checkpoint_of_another_key_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    Checkpoint(path, "key").save(parts(1.0), {"done": 3})
    assert Checkpoint(path, "key").restore(parts(2.0)) == {"done": 3}
    assert Checkpoint(path, "other").restore(parts(2.0)) is None
    path.write_bytes(path.read_bytes()[:100])
    assert Checkpoint(path, "key").restore(parts(2.0)) is None
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_every_part_comes_back_exactly(tmp_path: Path) -> None:
    kept, there = parts(1.0), parts(2.0)
    checkpoint = Checkpoint(tmp_path / "c", "key")
    checkpoint.save(kept, {})  # type: ignore[arg-type]
    checkpoint.restore(there)  # type: ignore[arg-type]
    again = Checkpoint(tmp_path / "d", "key")
    again.save(there, {})  # type: ignore[arg-type]
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()


@pytest.fixture
def heard() -> Iterator[None]:
    """SIGINT interrupts, also where these tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard")
def test_a_signal_waits_for_the_end_of_the_step_and_is_delivered(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", "key")
    seen: list[int] = []
    before = signal.getsignal(signal.SIGINT)

    def step(index: int) -> torch.Tensor:
        if index == 4:
            signal.raise_signal(signal.SIGINT)
        seen.append(index)
        return torch.tensor(1.0)

    with pytest.raises(KeyboardInterrupt, match="after step 5 of 9"):
        run_steps(step, 9, phase="fit", progress=lambda _: None, checkpoint=checkpoint, parts={})
    assert seen == [0, 1, 2, 3, 4]
    facts = checkpoint.facts()
    assert facts is not None
    assert facts["done"] == 5
    assert signal.getsignal(signal.SIGINT) is before


def test_max_minutes_bounds_the_steps() -> None:
    frame, schema = data_of("tvae")
    parameters = {**FAMILIES["tvae"], "epochs": 1_000_000, "max_minutes": 0.01}
    model = GENERATORS["tvae"].from_parameters(parameters)
    model.fit(frame, schema)  # type: ignore[arg-type]
    # In 0.6 s; no step takes less than 6 microseconds.
    assert model.loss_history_[-1][0] < 100_000
    with pytest.raises(ParameterError, match="max_minutes"):
        GENERATORS["tvae"].from_parameters({"max_minutes": 0})


@pytest.mark.parametrize(
    ("name", "rates"),
    [("tvae", {"lr": 1e3}), ("ctgan", {"generator_lr": 1e3, "discriminator_lr": 1e3})],
)
def test_a_learning_rate_of_a_thousand_is_detected(name: str, rates: dict[str, float]) -> None:
    model = GENERATORS[name].from_parameters({"epochs": 50, "batch_size": 100, **rates})
    with pytest.raises(TrainingError, match="lower the learning rate"):
        model.fit(*data_of(name))  # type: ignore[arg-type]
