"""The inbox: one process can append an event, a submission can be repeated, states follow rules."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipelines.home import Home
from pipelines.requests import work
from pipelines.requests.dropped import take_dropped
from pipelines.requests.inbox import Inbox, InboxError
from pipelines.requests.model import RequestError

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(Home(tmp_path / "home"))


def test_a_request_is_received_once_under_its_idempotency_key(inbox: Inbox, ask: Ask) -> None:
    first = inbox.submit(ask(), idempotency_key="order 7")
    again = inbox.submit(ask(), idempotency_key="order 7")
    assert (first.created, again.created, first.id) == (True, False, again.id)
    with pytest.raises(RequestError) as caught:
        inbox.submit(ask(rows=7), idempotency_key="order 7")
    assert caught.value.problems[0].field == "idempotency_key"
    assert inbox.submit(ask()).id != inbox.submit(ask()).id
    assert [status.state for status in inbox.list()] == ["RECEIVED"] * 3


def test_a_thousand_submissions_with_one_key_are_one_request(inbox: Inbox, ask: Ask) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: inbox.submit(ask(), idempotency_key="k"), range(200)))
    assert sum(receipt.created for receipt in found) == 1
    assert [event.state for event in inbox.status(found[0].id).events] == ["RECEIVED"]


def test_of_many_that_append_at_once_one_wins(inbox: Inbox, ask: Ask) -> None:
    identity = inbox.submit(ask()).id
    with ThreadPoolExecutor(8) as pool:
        won = list(
            pool.map(
                lambda number: inbox.append(
                    identity, 1, "VALIDATED" if number % 2 else "CANCELED", by=number
                ),
                range(32),
            )
        )
    assert sum(won) == 1
    assert len(inbox.events(identity)) == 2


def test_a_state_follows_only_where_it_may(inbox: Inbox, ask: Ask) -> None:
    identity = inbox.submit(ask()).id
    with pytest.raises(InboxError, match="PUBLISHED cannot follow"):
        inbox.append(identity, 1, "PUBLISHED")
    with pytest.raises(InboxError, match="needs approval"):
        inbox.approve(identity)
    assert inbox.cancel(identity, "no need").state == "CANCELED"
    assert inbox.cancel(identity).message == "canceled: no need"
    with pytest.raises(InboxError):
        inbox.append(identity, 2, "QUEUED")


def test_what_is_being_published_cannot_be_canceled(inbox: Inbox, ask: Ask) -> None:
    identity = inbox.submit(ask()).id
    for after, (state, facts) in enumerate(
        [("VALIDATED", {}), ("QUEUED", {}), ("RUNNING", {"phase": "publish"})], start=1
    ):
        assert inbox.append(identity, after, state, **facts)
    with pytest.raises(InboxError, match="being published"):
        inbox.cancel(identity)
    # The worker died, perhaps after the version was there; the next one begins.
    assert inbox.append(identity, 4, "RUNNING", phase="start", attempt=2)
    with pytest.raises(InboxError, match="being published"):
        inbox.cancel(identity)


@pytest.mark.parametrize(
    "identity", ["../../etc/passwd", "", "UPPER-CASE-ID", "20260101000000-abc"]
)
def test_an_unknown_id_is_a_clear_error(inbox: Inbox, identity: str) -> None:
    with pytest.raises(InboxError):
        inbox.status(identity)


def _hold(home: Home, identity: str, ready: Any) -> None:
    with Inbox(home).working(identity) as mine:
        ready.put(mine)
        time.sleep(3600)


def test_the_lock_of_a_killed_worker_is_free(inbox: Inbox, ask: Ask) -> None:
    identity = inbox.submit(ask()).id
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    worker = context.Process(target=_hold, args=(inbox.home, identity, ready))
    worker.start()
    assert ready.get(timeout=120) is True
    assert not inbox.idle(identity)
    os.kill(worker.pid or 0, signal.SIGKILL)
    worker.join()
    assert inbox.idle(identity)


def test_a_dropped_file_becomes_a_request_or_gets_its_problems_beside_it(
    inbox: Inbox, ask: Ask
) -> None:
    folder = inbox.home.requests
    good, bad, link = (folder / f"{name}.yaml" for name in ("good", "bad", "link"))
    good.write_text(json.dumps(ask()))
    bad.write_text(json.dumps(ask(rows=0, seed=-1)))
    link.symlink_to("/etc/hostname")
    (identity,) = take_dropped(inbox.home)
    assert inbox.request(identity).spec.rows == 1_000
    assert not good.exists()
    problems = json.loads((folder / "bad.yaml.problems.json").read_text())["problems"]
    assert {problem["field"] for problem in problems} == {"spec.rows", "spec.seed"}
    assert (folder / "link.yaml.problems.json").is_file()
    assert take_dropped(inbox.home) == []
    bad.write_text(json.dumps(ask(rows=5)))
    assert len(take_dropped(inbox.home)) == 1
    assert not (folder / "bad.yaml.problems.json").exists()


def test_a_dropped_file_of_any_name_stops_no_other(inbox: Inbox, ask: Ask) -> None:
    folder = inbox.home.requests
    names = ["a" * 240 + ".yaml", "two\nlines.yaml", "notify.yaml", ".half-written.yaml", "z.yaml"]
    for rows, name in enumerate(names, start=1):
        (folder / name).write_text(json.dumps(ask(rows=rows)))
    (folder / ("b" * 245 + ".yaml")).write_text("wrong, and nothing can be written beside it")
    (folder / "gone.yaml").mkdir()
    taken = {inbox.request(identity).spec.rows for identity in take_dropped(inbox.home)}
    assert taken == {1, 2, 5}
    assert (folder / "notify.yaml").is_file()
    assert not (folder / "notify.yaml.problems.json").exists()


def test_a_preview_goes_with_what_it_was_of(inbox: Inbox, ask: Ask) -> None:
    identity = inbox.submit(ask()).id
    inbox.show(identity, pd.DataFrame({"x": [1]}))
    assert inbox.append(identity, 1, "VALIDATED")
    assert inbox.append(identity, 2, "QUEUED")
    assert inbox.append(identity, 3, "RUNNING")
    preview = inbox.status(identity).preview
    assert preview is not None
    assert Path(preview).is_file()
    assert inbox.append(identity, 4, "QUARANTINED")
    assert inbox.status(identity).preview is None
    assert not Path(preview).exists()


def test_the_inbox_is_the_owners_alone(inbox: Inbox, ask: Ask) -> None:
    inbox.submit(ask())
    assert inbox.home.requests.stat().st_mode & 0o777 == 0o700


def test_a_request_that_no_longer_parses_is_rejected_and_stops_no_other(
    inbox: Inbox, ask: Ask
) -> None:
    old, other, done = (inbox.submit(ask(f"ask-{n}")).id for n in range(3))
    for state in ("VALIDATED", "QUEUED", "RUNNING"):
        assert inbox.append(done, inbox.status(done).events[-1].number, state)
    facts = {"versions": ["ask-2@1"], "expires_at": "2020-01-01T00:00:00+00:00"}
    assert inbox.append(done, 4, "PUBLISHED", **facts)
    for identity in (old, done):
        (inbox.folder(identity) / "request.yaml").write_text("apiVersion: likeness/v0\nspec: {}\n")
    assert {status.id for status in inbox.list()} == {old, other, done}
    assert "cannot read" in inbox.status(old).message
    assert set(work.pending(inbox.home)) == {old, other, done}
    said = work.process(inbox.home, old)
    assert (said.state, bool(said.problems)) == ("REJECTED", True)
    assert work.admit(inbox.home, old).state == "REJECTED"
    assert inbox.status(done).answer() == "ask-2@1"
    assert old not in work.pending(inbox.home)
    assert inbox.status(other).state == "RECEIVED"
