"""From a request over HTTP to downloaded rows, by the real processes, which are killed meanwhile.

The daemon (with the code server and the workers it starts), Dagster's webserver and our own server
each lead a process group of their own; nothing is mocked, and every group is killed at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from pipelines.assets import GPU_POOL
from pipelines.home import Home
from pipelines.publication.log import read_log
from pipelines.publication.verify import verify
from pipelines.requests import Inbox
from pipelines.requests.client import Client
from pipelines.requests.remote import RemoteClient

from ..postgres import postgres_server

ROOT = Path(__file__).parents[2]
TOKEN = "a-token-of-the-end-to-end-test"
SECONDS = 240
LOCATION = ("-m", "pipelines.definitions")
LIKENESS = "from pipelines.cli import main; main()"
REQUEST: dict[str, Any] = {
    "apiVersion": "likeness/v1",
    "kind": "DataRequest",
    "metadata": {"name": "orders-test", "purpose": "an end-to-end test"},
    "spec": {
        "source": {
            "schema": {
                "columns": {
                    "id": {"kind": "id", "unique": True},
                    "amount": {"kind": "number", "min": 0, "max": 500, "decimals": 2},
                    "state": {"kind": "category", "categories": {"paid": 0.7, "open": 0.3}},
                }
            }
        },
        "rows": 2_000,
        "seed": 5,
    },
}


@dataclass
class Place:
    """A home, a Dagster home, and the processes over them."""

    root: Path
    environment: dict[str, str]
    groups: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def home(self) -> Home:
        return Home(self.root / "home")

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        """A process that leads a group; its output goes to a file."""
        with (self.root / f"{name}.log").open("a") as out:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.groups.append(process)
        return process

    def daemon(self) -> subprocess.Popen[str]:
        return self.start("daemon", "-m", "dagster._daemon", "run", *LOCATION)

    def serve(self) -> tuple[subprocess.Popen[str], RemoteClient]:
        """Our server on a free port, and a client of it."""
        log = self.root / "serve.log"
        before = log.read_text() if log.exists() else ""
        process = self.start("serve", "-c", LIKENESS, "serve", "--port", "0")
        found = self.until(
            "the server", lambda: re.search(r"http://\S+:\d+", log.read_text()[len(before) :])
        )
        return process, Client.http(found[0], TOKEN)

    def switch_on(self) -> None:
        """Start the sensor, as an operator does."""
        subprocess.run(
            [sys.executable, "-m", "dagster", "sensor", "start", "requests", *LOCATION],
            cwd=ROOT,
            env=self.environment,
            check=True,
            capture_output=True,
            timeout=SECONDS,
        )

    def until(self, what: str, look: Callable[[], Any]) -> Any:
        """What ``look`` gives once it gives something."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.1)
        tails = {path.name: path.read_text()[-3_000:] for path in self.root.glob("*.log")}
        raise AssertionError(
            f"{what} did not come within {SECONDS} s: {json.dumps(tails, indent=1)}"
        )

    def versions(self) -> list[str]:
        return [entry.key for entry in read_log(self.home.lake, "orders-test")]

    def close(self) -> None:
        for process in self.groups:
            kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_workers(daemon: subprocess.Popen[str]) -> int:
    """SIGKILL the processes of runs, and leave the daemon and its code server alone."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            rest = entry.read_text().rpartition(")")[2].split()
            children.setdefault(int(rest[1]), []).append(int(entry.parent.name))

    def below(parent: int) -> list[int]:
        direct = children.get(parent, [])
        return direct + [pid for child in direct for pid in below(child)]

    servers = [
        pid
        for pid in below(daemon.pid)
        if b"grpc" in Path(f"/proc/{pid}/cmdline").read_bytes() and children.get(pid)
    ]
    workers = [pid for server in servers for pid in below(server)]
    for pid in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(workers)


def settings_of(storage: str) -> dict[str, Any]:
    """The settings of the repository, with a monitor that looks every two seconds."""
    name = {"sqlite": "dagster.yaml", "postgres": "dagster.postgres.yaml"}[storage]
    settings: dict[str, Any] = yaml.safe_load((ROOT / "dagster_home" / name).read_text())
    settings["run_monitoring"] |= {
        "poll_interval_seconds": 2,
        "free_slots_after_run_end_seconds": 1,
    }
    return settings


@pytest.fixture
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    storage = request.param
    root = tmp_path_factory.mktemp(storage)
    (root / "dagster").mkdir()
    (root / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(settings_of(storage)))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(root / "dagster"),
        "LIKENESS_HOME": str(root / "home"),
        "LIKENESS_TOKEN": TOKEN,
    }
    with contextlib.ExitStack() as stack:
        if storage == "postgres":
            uri = stack.enter_context(postgres_server(root / "pg"))
            url = uri.replace("postgresql:", "postgresql+psycopg2:")
            environment["DAGSTER_POSTGRES_URL"] = url
        there = Place(root, environment)
        stack.callback(there.close)
        yield there


def test_the_settings_differ_in_their_storage_alone() -> None:
    sqlite, postgres = settings_of("sqlite"), settings_of("postgres")
    assert postgres.pop("storage") == {
        "postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}
    }
    assert postgres == sqlite


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_a_request_over_http_is_answered_by_the_daemon(place: Place) -> None:
    _, client = place.serve()
    place.switch_on()
    place.daemon()
    receipt = client.submit(REQUEST, idempotency_key="once")
    status = client.wait(receipt.id, SECONDS)
    assert (status.state, status.version) == ("PUBLISHED", "orders-test@1"), status
    rows = client.read(receipt.id)
    assert len(rows) == 2_000
    assert rows["id"].is_unique
    assert client.submit(REQUEST, idempotency_key="once").id == receipt.id
    assert len(place.versions()) == 1
    assert verify(place.home.lake, "orders-test@1").passed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_whoever_is_killed_the_request_is_published_once(place: Place) -> None:
    web, client = place.serve()
    place.switch_on()
    daemon = place.daemon()
    asked = {**REQUEST, "spec": {**REQUEST["spec"], "rows": 600_000}}

    # The server dies with the answer on its way; who asks again gets the same request.
    first = client.submit(asked, idempotency_key="once")
    kill(web)
    _, client = place.serve()
    again = client.submit(asked, idempotency_key="once")
    assert (again.id, again.created) == (first.id, False)
    inbox = Inbox(place.home)

    def running(after: int) -> bool:
        events = inbox.events(first.id)
        assert events[-1].state != "PUBLISHED", "it was published before anybody could be killed"
        return (
            sum(event.state == "RUNNING" and "attempt" in event.facts for event in events) > after
        )

    # The worker dies.
    place.until("a worker", lambda: running(0))
    assert kill_workers(daemon) > 0
    # Another takes over; then everything of Dagster dies at once.
    place.until("another worker", lambda: running(1))
    kill(daemon)
    assert place.versions() == []
    place.daemon()
    status = client.wait(first.id, SECONDS)
    assert (status.state, status.version) == ("PUBLISHED", "orders-test@1"), status
    assert sum("attempt" in event.facts for event in status.events) >= 3
    assert len(client.read(first.id)) == 600_000
    assert len(place.versions()) == 1
    assert verify(place.home.lake, "orders-test@1").passed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_a_release_that_died_with_its_daemon_gives_its_place_back_and_is_tried_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DAGSTER_HOME", "DAGSTER_POSTGRES_URL"):
        if name in place.environment:
            monkeypatch.setenv(name, place.environment[name])
    launch = ("-m", "dagster", "job", "launch", "-j", "release_randhie", *LOCATION)
    assert place.start("launch", *launch).wait(SECONDS) == 0
    daemon = place.daemon()
    with dg.DagsterInstance.get() as instance:

        def holder() -> str | None:
            claimed = instance.event_log_storage.get_concurrency_info(GPU_POOL).claimed_slots
            return claimed[0].run_id if claimed else None

        first = place.until("a training", holder)
        kill(daemon)
        assert read_log(place.home.lake, "randhie") == []
        place.daemon()
        place.until("its end", lambda: instance.get_run_by_id(first).is_finished)
        assert instance.get_run_by_id(first).status is dg.DagsterRunStatus.FAILURE
        second = place.until("another training", lambda: holder() not in (None, first) and holder())
        assert instance.get_run_by_id(second).parent_run_id == first
        place.until("the release", lambda: read_log(place.home.lake, "randhie"))
        place.until("its end", lambda: instance.get_run_by_id(second).is_finished)
        assert instance.get_run_by_id(second).status is dg.DagsterRunStatus.SUCCESS
    assert len(read_log(place.home.lake, "randhie")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_dagsters_own_page_shows_the_run_that_answered(place: Place) -> None:
    _, client = place.serve()
    place.switch_on()
    place.daemon()
    web = ("-m", "dagster_webserver", *LOCATION, "--read-only")
    with contextlib.closing(_free_port()) as probe:
        port = probe.getsockname()[1]
    place.start("webserver", *web, "-h", "127.0.0.1", "-p", str(port))
    receipt = client.submit(REQUEST)
    assert client.wait(receipt.id, SECONDS).state == "PUBLISHED"

    def runs() -> list[dict[str, Any]]:
        query = "{ runsOrError { ... on Runs { results { jobName status tags { key value } } } } }"
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                found: list[dict[str, Any]] = json.load(answer)["data"]["runsOrError"]["results"]
        except OSError:
            return []
        return [run for run in found if run["status"] == "SUCCESS"]

    (run,) = place.until("the run on Dagster's page", runs)
    assert run["jobName"] == "request"
    assert {"key": "likeness/request", "value": receipt.id} in run["tags"]


def _free_port() -> Any:
    import socket

    return socket.create_server(("127.0.0.1", 0))
