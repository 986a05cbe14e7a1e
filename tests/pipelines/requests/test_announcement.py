"""Tables of one request come together or not at all, wherever its worker is killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from generators.base import LikenessError
from pipelines.home import Home
from pipelines.publication import log
from pipelines.publication.verify import verify
from pipelines.requests import Inbox
from pipelines.requests.inbox import InboxError
from pipelines.requests.work import process

from .conftest import given_up, killed_before_commit

TABLES = ("people.customers", "people.orders")
REQUEST: dict[str, Any] = {
    "apiVersion": "likeness/v1",
    "kind": "DataRequest",
    "metadata": {"name": "people"},
    "spec": {
        "rows": 40,
        "source": {
            "tables": {
                "customers": {"primary_key": "id", "columns": {"id": {"kind": "id"}}},
                "orders": {"columns": {"id": {"kind": "id"}, "customer": {"kind": "id"}}},
            },
            "keys": [
                {"parent": "customers.id", "child": "orders.customer", "per_parent": {1: 1.0}}
            ],
        },
    },
}


@pytest.fixture(scope="module")
def between(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """The worker was killed between the commits; copy it, do not change it."""
    home = Home(tmp_path_factory.mktemp("between") / "home")
    return home, killed_before_commit(home, REQUEST, 1)


@pytest.fixture
def half(between: tuple[Home, str], tmp_path: Path) -> tuple[Home, str]:
    shutil.copytree(between[0].root, tmp_path / "home")
    return Home(tmp_path / "home"), between[1]


def standing(home: Home) -> list[str]:
    said = (log.standing(home.lake, name) for name in TABLES)
    return [state for state in said if state != "not yet"]


def lost(home: Home) -> None:
    """The files that were placed and not committed are gone, as after a clean-up."""
    shutil.rmtree(home.lake / "people.orders" / "snapshots")


def test_before_the_first_commit_nothing_is_seen_and_the_next_worker_makes_both(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    identity = killed_before_commit(home, REQUEST, 0)
    assert standing(home) == []
    assert len(list(home.lake.glob("*/snapshots/*/manifest.json"))) == 2
    assert process(home, identity).versions == tuple(f"{name}@1" for name in TABLES)
    assert all(verify(home.lake, name).passed for name in TABLES)


@pytest.mark.parametrize("attempts", [1, 3])
def test_between_the_commits_the_next_worker_ends_it_from_the_lake_alone(
    half: tuple[Home, str], attempts: int
) -> None:
    home, identity = half
    assert standing(home) == ["version 1"], "the children are not there yet"
    with pytest.raises(InboxError, match="being published"):
        Inbox(home).cancel(identity)
    shutil.rmtree(home.vault)
    if attempts == 3:
        given_up(home, identity)
    ended = process(home, identity)
    assert (ended.state, ended.versions) == ("PUBLISHED", tuple(f"{name}@1" for name in TABLES))
    assert all(verify(home.lake, name).passed for name in TABLES)


def test_what_was_placed_and_lost_is_placed_again(half: tuple[Home, str]) -> None:
    home, identity = half
    lost(home)
    assert process(home, identity).versions == tuple(f"{name}@1" for name in TABLES)
    assert all(verify(home.lake, name).passed for name in TABLES)


def test_what_cannot_be_ended_is_taken_back(half: tuple[Home, str]) -> None:
    home, identity = half
    lost(home)
    given_up(home, identity)
    assert process(home, identity).state == "FAILED"
    assert standing(home) == ["all retired"]


def test_what_others_were_answered_with_stays(half: tuple[Home, str]) -> None:
    home, identity = half
    inbox, other = Inbox(home), Inbox(home).submit(REQUEST).id
    for number, state in enumerate(("VALIDATED", "PUBLISHED"), start=1):
        facts = {"versions": ["people.customers@1"]} if state == "PUBLISHED" else {}
        assert inbox.append(other, number, state, **facts)  # type: ignore[arg-type]
    lost(home)
    given_up(home, identity)
    assert process(home, identity).state == "FAILED"
    assert standing(home) == ["version 1"]


def test_a_lake_that_cannot_be_written_leaves_the_request_to_the_next_worker(
    half: tuple[Home, str],
) -> None:
    home, identity = half
    lost(home)
    given_up(home, identity)
    # A disk that refuses, whoever runs the tests: no folder can be made where a link leads nowhere.
    retired = home.lake / "people.customers" / "_retired"
    retired.symlink_to("nowhere")
    with pytest.raises(LikenessError, match="the lake must take what is written"):
        process(home, identity)
    assert Inbox(home).status(identity).state == "RUNNING"
    retired.unlink()
    assert process(home, identity).state == "FAILED"
    assert standing(home) == ["all retired"]


def test_a_log_that_refuses_its_entry_is_tried_again_and_then_leaves_nothing(
    half: tuple[Home, str],
) -> None:
    home, identity = half
    (home.lake / "people.orders" / "_log").symlink_to("nowhere")
    ended = process(home, identity)
    tried = [event.state for event in ended.events if "must take" in str(event.facts)]
    assert (ended.state, tried) == ("FAILED", ["QUEUED", "QUEUED"])
    assert standing(home) == ["all retired"]
