"""Requests through Dagster: the sensor asks for a run each, the run answers."""

from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from pipelines.automation import build_request_job, build_request_sensor
from pipelines.home import Home
from pipelines.requests import Inbox

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
Ask = Callable[..., dict[str, Any]]


def test_the_sensor_asks_for_one_run_a_request_and_the_run_answers(
    home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_HOME", str(home.root))
    inbox = Inbox(home)
    first = inbox.submit(ask(rows=200)).id
    (home.requests / "second.yaml").write_text(inbox.request(first).to_yaml())
    (home.requests / "bad.yaml").write_text("apiVersion: likeness/v1\nkind: Wish\n")
    job = build_request_job()
    sensor = build_request_sensor(job)
    with dg.instance_for_test() as instance:
        asked = _requests(sensor, instance)
        second = next(identity for identity in inbox.ids() if identity != first)
        assert {run.run_key for run in asked} == {f"{first}:1", f"{second}:1"}
        for run in asked:
            done = job.execute_in_process(
                run_config=run.run_config, instance=instance, tags=run.tags
            )
            assert done.success
        assert _requests(sensor, instance) == []
    states = [inbox.status(identity) for identity in (first, second)]
    assert [status.version for status in states] == ["visits-test@1", "visits-test@1"]
    assert (home.requests / "bad.yaml.problems.json").is_file()
    assert not (home.requests / "second.yaml").exists()


def test_a_run_that_died_is_asked_for_again_under_a_new_key(
    home: Home, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_HOME", str(home.root))
    identity = Inbox(home).submit(ask(rows=200)).id
    job = build_request_job()
    sensor = build_request_sensor(job)
    with dg.instance_for_test() as instance:
        (run,) = _requests(sensor, instance)
        launched = instance.create_run_for_job(job, tags=run.tags, run_config=run.run_config)
        assert _requests(sensor, instance) == []
        instance.report_run_failed(launched)
        (again,) = _requests(sensor, instance)
    assert (run.run_key, again.run_key) == (f"{identity}:1", f"{identity}:2")


def _requests(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    with dg.build_sensor_context(instance=instance) as context:
        return list(sensor.evaluate_tick(context).run_requests or ())
