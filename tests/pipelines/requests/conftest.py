"""A small learned dataset to ask: real rows, and a contract that a table of this size can pass."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api

from pipelines import steps
from pipelines.home import Home
from pipelines.requests import Inbox
from pipelines.spec import DatasetSpec, GeneratorSpec, SourceSpec

from ...warm import ROOT, run

ROWS = 3_000
CANARY = "zanzibar-7e1c"
"""A category of three real rows: protection removes it, and nothing outside may hold it."""
CONTRACT = """\
name: small
description: Wide enough for a table of this size, and closed to a copier.
gates:
  - {id: fidelity-marginal-mean, metric: marginal_tvd_mean, dimension: fidelity, on: low, max: 0.2,
     why: The shares of values are those of the holdout.}
  - {id: privacy-copies, metric: copy_excess, dimension: privacy, on: high, max: 0.1,
     why: Verbatim rows that only training explains.}
"""


@pytest.fixture(scope="session")
def learned_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose dataset ``visits`` is learned and published; copy it, do not change it."""
    root = tmp_path_factory.mktemp("learned")
    frame = statsmodels.api.datasets.randhie.load_pandas().data
    rng = np.random.default_rng(5)
    frame = frame[["mdvis", "lncoins", "physlm", "disea", "hlthg"]]
    frame = frame.iloc[np.sort(rng.choice(len(frame), ROWS, replace=False))].reset_index(drop=True)
    frame["region"] = rng.choice(["north", "south", "west"], ROWS, p=[0.5, 0.3, 0.2])
    frame.loc[[3, 700, 1_400], "region"] = CANARY
    frame.to_csv(root / "visits.csv", index=False)
    (root / "small.yaml").write_text(CONTRACT)
    home = Home(root / "home")
    spec = DatasetSpec(
        name="visits",
        source=SourceSpec(kind="csv", path=str(root / "visits.csv")),
        generator=GeneratorSpec(name="forest"),
        target="hlthg",
        protected=("region",),
        contract=str(root / "small.yaml"),
    )
    assert steps.run(spec, home).published is not None
    return home


@pytest.fixture
def home(learned_home: Home, tmp_path: Path) -> Home:
    """A copy of ``learned_home`` to work in."""
    shutil.copytree(learned_home.root, tmp_path / "home")
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def ask() -> Callable[..., dict[str, Any]]:
    """A request for the dataset, with what a test changes of its ``spec``."""

    def made(name: str = "visits-test", **spec: Any) -> dict[str, Any]:
        return {
            "apiVersion": "likeness/v1",
            "kind": "DataRequest",
            "metadata": {"name": name, "owner": "team-tests"},
            "spec": {"source": {"dataset": "visits"}, "rows": 1_000, **spec},
        }

    return made


# Answers a request; kills itself without warning before a commit, counted from 0.
WORKER = """
import os, signal, sys
from pathlib import Path
from pipelines.home import Home
from pipelines.requests.work import process

def progress(report):
    if (report.phase, report.step) == ("publish", int(sys.argv[3])):
        os.kill(os.getpid(), signal.SIGKILL)

process(Home(Path(sys.argv[1])), sys.argv[2], progress)
"""


def killed_before_commit(home: Home, request: dict[str, Any], commit: int) -> str:
    """A request whose worker was killed before one of its commits."""
    identity = Inbox(home).submit(request).id
    done = run(WORKER, home.root, identity, commit, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    return identity


def given_up(home: Home, identity: str) -> None:
    """Two more workers have died over the request."""
    inbox = Inbox(home)
    for attempt in (2, 3):
        last = inbox.status(identity).events[-1].number
        assert inbox.append(identity, last, "RUNNING", attempt=attempt)
