"""The same code on a GPU: ``pytest -m gpu`` on a machine that has one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from generators import GENERATORS, Generator, Images, TableSchema, load_generator
from generators.base import Density, Progress, Resumable
from generators.checkpoint import Checkpoint
from generators.replay import Replayed, changeable, replayable, set_rate
from generators.schema import Data, ImageSchema, Schema

from ..conftest import make_toy_table

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CUDA = torch.device("cuda")
TABLES: dict[str, dict[str, Any]] = {
    "autoregressive": {"epochs": 40},
    "ctgan": {"epochs": 60, "batch_size": 100},
    "table-diffusion": {"epochs": 40},
    "table-flow": {"epochs": 40},
    "table-rbm": {"epochs": 10},
    "tvae": {"epochs": 60, "batch_size": 100},
}
IMAGES: dict[str, dict[str, Any]] = {
    "diffusion": {"steps": 150},
    "image-autoencoder": {"epochs": 20, "width": 16},
    "image-flow": {"epochs": 20, "features": 16},
    "image-gan": {"epochs": 20, "width": 16},
    "image-vae": {"epochs": 20, "width": 16},
    "pixel-autoregressive": {"epochs": 20, "window": 5},
    "rbm": {"epochs": 10},
}
RESUMED = ("autoregressive", "ctgan", "table-diffusion", "tvae", "diffusion", "image-vae")


class Work:
    """A network with random numbers in its step, on the GPU, whose rate changes."""

    def __init__(self) -> None:
        self.random = torch.Generator(CUDA)
        self.random.manual_seed(3)
        self.layer = nn.Linear(8, 8).to(CUDA)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(8))
            self.layer.bias.zero_()
        rate = changeable(0.1, CUDA)
        self.adam = torch.optim.AdamW(self.layer.parameters(), lr=rate, **replayable(CUDA))
        self.replayed = Replayed(self.work, self.random)

    def work(self, x: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(x.shape, generator=self.random, device=CUDA)
        loss = (self.layer(x) - noise).square().mean()
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.adam.step()
        return loss.detach()

    def run(self, step: Callable[[torch.Tensor], torch.Tensor], steps: range) -> list[float]:
        losses = []
        for index in steps:
            set_rate(self.adam, 0.1 / (index + 1))
            x = torch.rand(64, 8, generator=self.random, device=CUDA)
            losses.append(float(step(x)))
        return losses

    def parts(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "adam": self.adam,
            "random": self.random,
            "replayed": self.replayed,
        }


def test_a_replayed_step_is_the_step() -> None:
    called, replayed = Work(), Work()
    expected = called.run(called.work, range(20))
    assert replayed.run(replayed.replayed, range(20)) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(called.random.get_state(), replayed.random.get_state())
    torch.testing.assert_close(called.layer.weight, replayed.layer.weight)


def test_a_replayed_step_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, begun, resumed = Work(), Work(), Work()
    expected = whole.run(whole.replayed, range(20))
    begun.run(begun.replayed, range(10))
    Checkpoint(tmp_path / "c", "key").save(begun.parts(), {})
    resumed.run(resumed.replayed, range(5))  # what it has recorded must not stand
    assert Checkpoint(tmp_path / "c", "key").restore(resumed.parts()) == {}
    assert resumed.run(resumed.replayed, range(10, 20)) == pytest.approx(expected[10:], rel=1e-5)


@pytest.fixture(scope="module")
def table(toy_table: pd.DataFrame) -> pd.DataFrame:
    return toy_table.drop(columns=["comment"])


def data_of(
    name: str, table: pd.DataFrame, images: Images, schema: ImageSchema
) -> tuple[Data, Schema]:
    if GENERATORS[name].modality == "table":
        return table, TableSchema.infer(table)
    return images, schema


def model(name: str, **changes: object) -> Generator:
    return GENERATORS[name].from_parameters({**(TABLES | IMAGES)[name], **changes})


@pytest.mark.parametrize("name", [*TABLES, *IMAGES])
def test_every_family_learns_on_a_gpu(
    name: str,
    table: pd.DataFrame,
    toy_images: Images,
    toy_image_schema: ImageSchema,
    tmp_path: Path,
) -> None:
    data, schema = data_of(name, table, toy_images, toy_image_schema)
    fitted = model(name, device="cuda").fit(data, schema)
    history = getattr(fitted, "loss_history_", [])
    assert np.isfinite([loss for _, loss in history]).all()
    fitted.save(tmp_path / "model")
    again = load_generator(tmp_path / "model")
    sample, other = fitted.sample(50, seed=1), again.sample(50, seed=1)
    assert len(sample) == 50
    if isinstance(sample, pd.DataFrame):
        pd.testing.assert_frame_equal(sample, other)
    else:
        assert isinstance(other, Images)
        assert np.abs(sample.pixels.astype(int) - other.pixels.astype(int)).mean() < 1.0


@pytest.mark.parametrize("name", ["autoregressive", "table-flow"])
def test_a_gpu_learns_what_a_cpu_learns(name: str) -> None:
    table = make_toy_table(6000).drop(columns=["comment"])
    fresh, schema = table[4000:].reset_index(drop=True), TableSchema.infer(table)
    found = []
    for device in ("cpu", "cuda"):
        learned = model(name, device=device, epochs=10).fit(table[:4000], schema)
        assert isinstance(learned, Density)
        logs = learned.log_density(fresh)
        found.append(float(logs[np.isfinite(logs)].mean()))
    assert found[1] == pytest.approx(found[0], abs=0.3)


@pytest.mark.parametrize("name", ["ctgan", "table-diffusion", "tvae"])
def test_a_gpu_makes_what_a_cpu_makes(name: str) -> None:
    table = make_toy_table(4000)[["age", "debt", "city", "country", "member", "grade"]]
    schema = TableSchema.infer(table)
    errors = []
    for device in ("cpu", "cuda"):
        made = model(name, device=device).fit(table, schema).sample(4000, seed=1)
        assert isinstance(made, pd.DataFrame)
        shares = [
            frame.groupby(["country", "member", frame["age"] // 20]).size() / len(frame)
            for frame in (table, made)
        ]
        errors.append(float(shares[0].sub(shares[1], fill_value=0.0).abs().sum() / 2))
    assert errors[1] < errors[0] + 0.05


class Interrupted(Exception):
    """Raised within a training."""


@pytest.mark.parametrize("name", RESUMED)
def test_an_interrupted_training_goes_on(
    name: str,
    table: pd.DataFrame,
    toy_images: Images,
    toy_image_schema: ImageSchema,
    tmp_path: Path,
) -> None:
    data, schema = data_of(name, table, toy_images, toy_image_schema)
    longer: dict[str, object] = {"steps": 800} if name == "diffusion" else {"epochs": 400}
    place = tmp_path / "checkpoint"
    stopped = 0

    def stop(progress: Progress) -> None:
        nonlocal stopped
        if progress.phase == "fit" and 0 < progress.step < progress.total:
            stopped = progress.step
            raise Interrupted

    whole, begun, resumed = (model(name, **longer) for _ in range(3))
    assert isinstance(whole, Resumable)
    assert isinstance(begun, Resumable)
    assert isinstance(resumed, Resumable)
    whole.fit_or_resume(data, schema, checkpoint=Checkpoint(tmp_path / "other", "key"))
    with pytest.raises(Interrupted):
        begun.fit_or_resume(
            data, schema, checkpoint=Checkpoint(place, "key", every=0.0), progress=stop
        )
    first: list[int] = []
    resumed.fit_or_resume(
        data,
        schema,
        checkpoint=Checkpoint(place, "key"),
        progress=lambda progress: first.append(progress.first),
    )
    assert max(first) >= stopped > 0
    ours, theirs = (dict(getattr(one, "loss_history_", [])) for one in (resumed, whole))
    assert ours.keys() == theirs.keys()
    # Sums by atomic additions differ in their last bits, which an adversarial training magnifies.
    soon = [at for at in ours if at <= stopped + 100]
    assert [ours[at] for at in soon] == pytest.approx([theirs[at] for at in soon], rel=0.1, abs=0.1)
