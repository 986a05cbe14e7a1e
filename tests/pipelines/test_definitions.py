"""The code location: what is declared, that it is light, and that nothing runs by itself."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from pipelines.assets import STEPS
from pipelines.components import SyntheticDataset
from pipelines.datasets import dataset_names, load_dataset
from pipelines.definitions import defs
from validators.base import DIMENSIONS

PROJECT = Path(__file__).resolve().parents[2]
HEAVY = ["torch", "sklearn", "sdv", "great_expectations", "scipy", "statsmodels", "joblib"]
DATASETS = dataset_names()
# Dagster warns of its own use of its own beta features.
pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_loading_imports_nothing_heavy() -> None:
    program = f"""
import json, sys, time
started = time.perf_counter()
from pipelines.definitions import defs
loaded = defs()
seconds = time.perf_counter() - started
loaded.get_repository_def()
print(json.dumps([seconds, [m for m in {HEAVY!r} if m in sys.modules]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    _, found = json.loads(done.stdout)
    assert found == []


def test_a_table_is_measured_without_torch() -> None:
    program = """
import sys
import pipelines.audit, pipelines.steps
from validators import VALIDATORS, validators_of
for name in validators_of("table"):
    VALIDATORS[name]
assert "sklearn" in sys.modules
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], cwd=PROJECT, check=True)


def test_each_dataset_has_its_assets_and_there_is_one_catalogue(
    definitions: dg.Definitions,
) -> None:
    keys = {
        tuple(key.path) for key in definitions.get_repository_def().asset_graph.get_all_asset_keys()
    }
    daily = {(name, "augmented") for name in DATASETS if load_dataset(name).augment}
    assert daily == {("randhie", "augmented")}
    assert keys == {(name, step) for name in DATASETS for step in STEPS} | daily | {("catalogue",)}


@pytest.mark.parametrize("name", DATASETS)
@pytest.mark.parametrize("step", STEPS)
def test_an_asset_says_whose_and_what_it_is(
    definitions: dg.Definitions, name: str, step: str
) -> None:
    spec = load_dataset(name)
    node = definitions.get_repository_def().asset_graph.get(dg.AssetKey([name, step]))
    assert node.group_name == name
    assert node.owners == list(spec.owners)
    assert node.kinds
    assert node.tags["modality"] == spec.tags["modality"]
    assert spec.description in node.description
    assert node.code_version


@pytest.mark.parametrize("name", DATASETS)
def test_only_the_model_takes_the_gpu_and_only_real_is_retried(
    definitions: dg.Definitions, name: str
) -> None:
    graph = definitions.get_repository_def().asset_graph
    ops = {step: graph.get(dg.AssetKey([name, step])).assets_def.op for step in STEPS}
    assert {step: op.pool for step, op in ops.items()} == dict.fromkeys(STEPS) | {"model": "gpu"}
    assert [step for step, op in ops.items() if op.retry_policy] == ["real"]


@pytest.mark.parametrize("name", DATASETS)
def test_published_waits_for_the_scorecard_and_its_blocking_checks(
    definitions: dg.Definitions, name: str
) -> None:
    graph = definitions.get_repository_def().asset_graph
    parents = graph.get(dg.AssetKey([name, "published"])).parent_keys
    assert parents == {dg.AssetKey([name, "candidate"]), dg.AssetKey([name, "scorecard"])}
    scorecard = dg.AssetKey([name, "scorecard"])
    checks = {key for key in graph.asset_check_keys if key.asset_key == scorecard}
    assert checks == {dg.AssetCheckKey(scorecard, dimension) for dimension in DIMENSIONS}
    assert all(graph.get(key).blocking for key in checks)


@pytest.mark.parametrize("name", DATASETS)
def test_a_release_job_holds_all_of_its_dataset_and_the_catalogue(
    definitions: dg.Definitions, name: str
) -> None:
    job = definitions.resolve_job_def(f"release_{name}")
    selected = {tuple(key.path) for key in job.asset_layer.selected_asset_keys}
    assert selected == {(name, step) for step in STEPS} | {("catalogue",)}
    assert {key.name for key in job.asset_layer.asset_graph.asset_check_keys} == set(DIMENSIONS)


def test_nothing_runs_until_an_operator_wants_it(definitions: dg.Definitions) -> None:
    repository = definitions.get_repository_def()
    assert {schedule.job_name for schedule in repository.schedule_defs} == {
        *(f"release_{name}" for name in DATASETS),
        *("augment_randhie", "revalidate_randhie"),
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {
        *("renew_catalogue", "requests", "retrain_randhie")
    }
    schedules = {schedule.default_status for schedule in repository.schedule_defs}
    sensors = {sensor.default_status for sensor in repository.sensor_defs}
    assert schedules == {dg.DefaultScheduleStatus.STOPPED}
    assert sensors == {dg.DefaultSensorStatus.STOPPED}


def test_the_catalogue_follows_a_publication_though_others_never_published(
    definitions: dg.Definitions,
) -> None:
    with dg.instance_for_test() as instance:
        first = dg.evaluate_automation_conditions(definitions, instance=instance)
        instance.report_runless_asset_event(dg.AssetMaterialization(["digits", "published"]))
        second = dg.evaluate_automation_conditions(
            definitions, instance=instance, cursor=first.cursor
        )
        third = dg.evaluate_automation_conditions(
            definitions, instance=instance, cursor=second.cursor
        )
    requested = [
        evaluation.get_num_requested(dg.AssetKey("catalogue")) for evaluation in (second, third)
    ]
    assert requested == [1, 0]


def test_a_wrong_attribute_stops_the_component() -> None:
    raw = yaml.safe_load((PROJECT / "pipelines/defs/randhie/defs.yaml").read_text())["attributes"]
    with pytest.raises(ValueError, match="rows"):
        SyntheticDataset.from_attributes_dict(attributes=raw | {"rows": 0})


def test_dagster_home_keeps_telemetry_off_and_shows_no_window() -> None:
    home = PROJECT / "dagster_home"
    settings = yaml.safe_load((home / "dagster.yaml").read_text())
    assert settings["telemetry"] == {"enabled": False}
    assert settings["run_retries"]["retry_on_asset_or_op_failure"] is False
    assert settings["concurrency"]["pools"]["default_limit"] == 1
    assert (home / ".nux" / "nux.yaml").is_file()


def test_idle_threads_do_not_spin() -> None:
    program = "import os, pipelines; print(os.environ['OMP_WAIT_POLICY'])"
    clean = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    for given, used in ((clean, "PASSIVE"), (clean | {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, cwd=PROJECT, check=True, env=given,
        )  # fmt: skip
        assert done.stdout.strip() == used
