"""Power cuts by model, with mutants; a disk that fails at every step; clean-ups that die.

``benchmarks/faults.py`` does the same at length.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from pathlib import Path

import pytest

from benchmarks import crash_model
from benchmarks.crash_model import Findings
from benchmarks.failing_disk import every_step
from benchmarks.mutants import MUTANTS
from pipelines.publication import log, retire
from pipelines.publication.publish import publish, publish_to
from pipelines.publication.retire import collect, retire_in
from pipelines.publication.store import LocalStore
from pipelines.publication.verify import verify

QUICK = (
    "one publisher",
    "two keys at once",
    "one key twice at once",
    "a version is retired while one is published",
    "a version is retired twice at once",
)
# The others show at some orders of the actors only.
SUBTLE = (
    "an entry is chained to one that is not synced",
    "another's entry is told before it is synced",
    "looked whether it is there, then written",
)


@pytest.fixture
def small(make_release, frame):
    return make_release(frame[:20])


@pytest.mark.parametrize("name", QUICK)
def test_no_power_cut_breaks_a_promise(name, small, tmp_path):
    findings = Findings()
    scenario = crash_model.scenarios(small)[name]
    crash_model.run_scenario(scenario, tmp_path / "x", 1, findings, recover_every=4)
    assert findings.violations == {}
    assert findings.states > 20
    assert findings.recovered > 1


@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in SUBTLE])
def test_the_exploration_finds_what_is_left_out(name, small, tmp_path):
    found = violations(name, small, tmp_path, seeds=4)
    assert found, "the exploration is blind to this"


@pytest.mark.slow
@pytest.mark.parametrize("name", SUBTLE)
def test_the_exploration_finds_what_shows_at_some_orders_only(name, small, tmp_path):
    assert violations(name, small, tmp_path, seeds=60)


def violations(name, small, tmp_path, seeds):
    mutant, findings = MUTANTS[name], Findings()
    scenario = crash_model.scenarios(small)[mutant.scenario]
    for seed in range(seeds):
        with mutant.applied() as store:
            folder = tmp_path / str(seed)
            crash_model.run_scenario(
                scenario, folder, seed, findings, store=store, recover_every=10**9
            )
        if findings.violations:
            break
    return findings.violations


@pytest.mark.parametrize(
    ("act", "code"),
    [
        ("publish", errno.ENOSPC),
        ("retire", errno.EIO),
        pytest.param("publish", errno.EIO, marks=pytest.mark.slow),
        pytest.param("publish", errno.EPERM, marks=pytest.mark.slow),
        pytest.param("retire", errno.ENOSPC, marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fails_at_any_step_is_one_clear_error_and_another_try_works(
    act, code, small, tmp_path
):
    if act == "publish":

        def once(store):
            publish_to(store, small)
    else:

        def once(store):
            retire_in(store, "people@1", "wrong")

    def lake(step):
        place = tmp_path / f"lake-{step}"
        if act == "retire":
            publish(place, small)
        return place

    steps, told, wrong = every_step(lake, once, code)
    assert wrong == []
    assert steps > (30 if act == "publish" else 5)
    assert told > 0.8 * steps
    for step in range(steps):
        entries = log.read_log(tmp_path / f"lake-{step}", "people")
        assert [entry.key for entry in entries] == ["key-1"]
        assert verify(tmp_path / f"lake-{step}", "people@1").passed


def old(path: Path) -> None:
    for one in [path, *path.rglob("*")]:
        os.utime(one, (0, 0))


def test_a_clean_up_that_dies_while_a_publisher_takes_up_the_snapshot_loses_nothing(
    small, tmp_path, monkeypatch
):
    """It puts the old snapshot aside, the publisher commits it, it is killed before it looks."""
    lake = tmp_path / "lake"
    made = publish(lake, small)
    (lake / "people/_log/00000001.json").unlink()
    old(made.path)

    def older(path: Path, _: float) -> bool:
        if path.parent.name != ".staging":
            return True
        # The publisher has committed just before the snapshot was put aside; now we are killed.
        path.rename(made.path)
        publish(lake, small)
        made.path.rename(path)
        raise SystemExit(9)

    monkeypatch.setattr(retire, "_older", older)
    with pytest.raises(SystemExit):
        collect(lake)
    monkeypatch.undo()
    assert not verify(lake, "people@1").passed, "it is aside"
    collect(lake, keep_seconds=0)
    assert verify(lake, "people@1").passed


def test_a_half_removed_snapshot_is_no_obstacle(small, tmp_path):
    lake = tmp_path / "lake"
    made = publish(lake, small)
    (lake / "people/_log/00000001.json").unlink()
    (made.path / "README.md").unlink()
    shutil.rmtree(made.path / "data")
    again = publish(lake, small)
    assert again.path == made.path
    assert verify(lake, "people@1").passed


def test_a_snapshot_that_a_clean_up_takes_while_it_is_taken_up_is_placed_anew(small, tmp_path):
    lake = tmp_path / "lake"
    made = publish(lake, small)
    (lake / "people/_log/00000001.json").unlink()

    class Cleaned(LocalStore):
        def touch(self, folder: str) -> None:
            shutil.rmtree(self.path(folder))
            super().touch(folder)

    publish_to(Cleaned(lake), small)
    assert verify(lake, "people@1").passed
    assert log.resolve(lake, "people") == dataclasses.replace(made, existing=True)
