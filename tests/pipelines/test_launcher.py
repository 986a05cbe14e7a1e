"""What the run monitor learns of a run whose server may have died: from real servers, and none."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.launcher.base import WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._daemon.monitoring.run_monitoring import monitor_started_run
from dagster._grpc.client import DagsterGrpcClient

from pipelines.automation import build_request_job
from pipelines.launcher import WatchedRunLauncher

from ..warm import ROOT

SETTINGS: dict[str, Any] = {
    "run_launcher": {"module": "pipelines.launcher", "class": "WatchedRunLauncher"},
    "run_monitoring": {"enabled": True},
}
# A code server that holds no definitions: it starts in a second.
EMPTY = "import dagster as dg\ndefs = dg.Definitions()\n"


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test(overrides=SETTINGS) as made:
        assert isinstance(made.run_launcher, WatchedRunLauncher)
        yield made


def started(instance: dg.DagsterInstance, socket: Path | None) -> dg.RunRecord:
    """A run that a server at ``socket`` has launched; without one, something else."""
    info = {GRPC_INFO_TAG: json.dumps({"host": "localhost", "socket": str(socket)})}
    run = instance.create_run_for_job(
        build_request_job(),
        tags=info if socket else {},
        run_config={"ops": {"answer_request": {"config": {"id": "r-1"}}}},
        status=dg.DagsterRunStatus.STARTED,
    )
    record = instance.get_run_record_by_id(run.run_id)
    assert record is not None
    return record


def monitored(instance: dg.DagsterInstance, record: dg.RunRecord) -> dg.DagsterRunStatus:
    """The status of a run after Dagster's own run monitor has looked at it."""
    monitor_started_run(instance, None, record, logging.getLogger("test"))  # type: ignore[arg-type]
    run = instance.get_run_by_id(record.dagster_run.run_id)
    assert run is not None
    return run.status


def test_a_run_whose_server_is_gone_is_declared_failed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    assert monitored(instance, started(instance, tmp_path / "gone")) is dg.DagsterRunStatus.FAILURE


def test_a_run_that_something_else_has_launched_is_let_be(instance: dg.DagsterInstance) -> None:
    assert monitored(instance, started(instance, None)) is dg.DagsterRunStatus.STARTED


def test_a_server_that_is_busy_is_not_dead_and_a_killed_one_is(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.py").write_text(EMPTY)
    socket = tmp_path / "socket"
    command = [sys.executable, "-m", "dagster", "api", "grpc", "-f", str(tmp_path / "empty.py")]
    server = subprocess.Popen(
        [*command, "--socket", str(socket)],
        cwd=ROOT,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        client = DagsterGrpcClient(socket=str(socket))
        end = time.monotonic() + 200
        while not _answers(client) and time.monotonic() < end:
            time.sleep(0.1)
        record = started(instance, socket)
        launcher = instance.run_launcher
        monkeypatch.setattr("pipelines.launcher._ANSWER_SECONDS", 100)
        health = launcher.check_run_worker_health(record.dagster_run)
        assert health.status is WorkerStatus.NOT_FOUND, "it is there, and has launched no such run"
        monkeypatch.setattr("pipelines.launcher._ANSWER_SECONDS", 1)
        server.send_signal(signal.SIGSTOP)
        health = launcher.check_run_worker_health(record.dagster_run)
        assert (health.status, health.msg) == (
            WorkerStatus.RUNNING,
            "its server is there, but busy",
        )
    finally:
        server.kill()
        server.wait()
    assert monitored(instance, record) is dg.DagsterRunStatus.FAILURE


def _answers(client: DagsterGrpcClient) -> bool:
    try:
        return client.ping("there?") is not None
    except dg.DagsterError:
        return False
