"""A process killed at any step, and run again, ends in one published version."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.home import Home
from pipelines.publication.log import read_log
from pipelines.publication.verify import verify

from ..warm import LIKENESS, ROOT, likeness, run

# Runs the steps; kills itself without warning when the named phase begins.
PROGRAM = """
import os, signal, sys
from pathlib import Path
from pipelines import steps
from pipelines.home import Home
from pipelines.spec import parse_spec

def progress(report):
    if report.phase.startswith(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

spec = parse_spec({"name": "toy", "source": {"kind": "csv", "path": sys.argv[1]},
                   "target": "y", "contract": "internal"})
result = steps.run(spec, Home(Path(sys.argv[2])), progress)
print("published", result.published.version)
"""


# Training whose every step takes its time: it is still there when it is interrupted.
SLOWLY = """
import time
from generators.checkpoint import Checkpoint

due = Checkpoint.due.fget
Checkpoint.due = property(lambda self: time.sleep(0.05) or due(self))
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    x = rng.normal(size=1_500)
    frame = pd.DataFrame({"x": x.round(1), "y": np.where(x + rng.normal(size=1_500) > 0, "a", "b")})
    path = tmp_path_factory.mktemp("kill") / "toy.csv"
    frame.to_csv(path, index=False)
    return path


def test_killed_at_every_step_ends_in_one_version(table: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    for phase in ("ingest", "fit", "sample", "score: fidelity", "decide", "publish"):
        killed = run(PROGRAM, table, home, phase, cwd=ROOT)
        assert killed.returncode == -signal.SIGKILL, (phase, killed.stderr)
    done = run(PROGRAM, table, home, "never", cwd=ROOT)
    assert done.stdout.strip() == "published 1", done.stderr
    again = run(PROGRAM, table, home, "never", cwd=ROOT)
    assert again.stdout.strip() == "published 1", again.stderr
    lake = Home(home).lake
    assert len(read_log(lake, "toy")) == 1
    assert verify(lake, "toy@1").passed


def test_ctrl_c_keeps_a_checkpoint_and_the_same_command_goes_on(
    table: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    fit = ["fit", str(table), "--target", "y", "--generator", "tvae", "--set", "epochs=200"]
    fit += ["--home", str(home), "--name", "toy"]
    command = [sys.executable, "-c", SLOWLY + LIKENESS, *fit]
    vault = home / "vault" / "toy"
    first = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    give_up = time.monotonic() + 200
    while not list(vault.glob("checkpoints/*.safetensors")) and time.monotonic() < give_up:
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 130, said
    assert "the same command goes on" in " ".join(said.split())
    assert "Traceback" not in said
    assert not list((vault / "models").glob("*"))
    assert len(list((vault / "checkpoints").iterdir())) == 1

    second = likeness(*fit, cwd=ROOT)
    assert second.returncode == 0, second.stderr
    assert not list((vault / "checkpoints").iterdir())
    assert len(list((vault / "models").iterdir())) == 1
