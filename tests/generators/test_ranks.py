"""One training in several processes: two real ones, over gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from generators import Images, ImageSchema
from generators.base import Progress, TrainingError
from generators.checkpoint import Checkpoint
from generators.image.diffusion import Diffusion

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = ImageSchema(4, 4, 1, ("a", "b"))
SETTINGS = {"steps": 40, "batch_size": 32, "width": 64, "depth": 1, "precision": "float32"}
# Each process of torchrun fits the same and prints the digest of its weights.
SCRIPT = """
import sys
sys.path.insert(0, "tests/generators")
from test_ranks import Diffusion, SCHEMA, SETTINGS, images, weights
model = Diffusion(**SETTINGS).fit(images(), SCHEMA)
print("weights", float(weights(model).double().sum()).hex(), flush=True)
"""


def images() -> Images:
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    pixels = rng.integers(0, 100, (120, 4, 4, 1)) + 120 * labels[:, None, None, None]
    return Images(pixels.astype(np.uint8), labels.astype(np.int64))


def weights(model: Diffusion) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in model.network_.parameters()])


def test_two_processes_do_what_one_does():
    one = Diffusion(**SETTINGS, dropout=0.0).fit(images(), SCHEMA)
    two = Diffusion(**SETTINGS, dropout=0.0, processes=2).fit(images(), SCHEMA)
    assert not dist.is_initialized()
    # The same batches, noise and weights; gradients are summed in another order.
    apart = (weights(one) - weights(two)).norm() / weights(one).norm()
    assert 0.0 <= float(apart) < 1e-3
    losses = [model.validation_history_[-1][1] for model in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    start = Diffusion(**{**SETTINGS, "steps": 1}, dropout=0.0).fit(images(), SCHEMA)
    assert float((weights(one) - weights(start)).norm() / weights(one).norm()) > 0.05


@pytest.mark.slow
def test_two_processes_go_on_from_a_checkpoint_to_the_same_bytes(tmp_path):
    settings = {**SETTINGS, "steps": 150}
    whole = Diffusion(**settings, processes=2).fit(images(), SCHEMA)
    checkpoint = Checkpoint(tmp_path / "checkpoint", "key", every=0.0)

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Diffusion(**settings, processes=2).fit_or_resume(
            images(), SCHEMA, checkpoint=checkpoint, progress=stop
        )
    found = checkpoint.facts()
    assert found is not None
    assert 0 < found["done"] < 150
    model = Diffusion(**settings, processes=2)
    model.fit_or_resume(images(), SCHEMA, checkpoint=checkpoint)
    assert np.array_equal(weights(model).numpy(), weights(whole).numpy())


@pytest.mark.slow
def test_the_processes_of_torchrun_end_with_the_same_weights(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node=2", str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("weights")]
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(lines) == 2
    assert len(set(lines)) == 1


def test_a_process_that_cannot_start_is_named(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TrainingError, match="processes"):
        Diffusion(**SETTINGS, processes=2).fit(images(), SCHEMA)
    assert not dist.is_initialized()
