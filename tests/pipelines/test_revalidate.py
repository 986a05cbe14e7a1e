"""Drift in Dagster: a check-only job looks at the newest data, a sensor asks for a release."""

from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from pipelines import steps
from pipelines.components.synthetic_dataset import build_dataset_defs
from pipelines.home import Home
from pipelines.revalidate import wants_retraining
from pipelines.spec import DatasetSpec, GeneratorSpec, SourceSpec

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")
CONTRACT = """\
name: small
gates:
  - {id: privacy-copies, metric: copy_excess, dimension: privacy, on: high, max: 0.1,
     why: Verbatim rows that only training explains.}
"""
CANARY = "zanzibar-7e1c"


def write(path: Path, seed: int, north: float) -> None:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=1_500).round(2),
            "z": rng.normal(size=1_500).round(2),
            "place": rng.choice(["north", "south"], 1_500, p=[north, 1 - north]),
        }
    )
    frame.loc[:2, "place"] = CANARY
    frame.to_csv(path, index=False)


def test_proven_drift_asks_for_one_release_and_a_release_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_HOME", str(tmp_path / "home"))
    source, contract, home = tmp_path / "toy.csv", tmp_path / "c.yaml", Home(tmp_path / "home")
    write(source, 1, 0.5)
    contract.write_text(CONTRACT)
    spec = DatasetSpec(
        name="toy",
        source=SourceSpec(kind="csv", path=str(source)),
        generator=GeneratorSpec(name="forest"),
        contract=str(contract),
        revalidate="0 2 * * *",
    )
    assert steps.run(spec, home).published is not None
    defs = build_dataset_defs(spec)
    sensor = defs.resolve_sensor_def("retrain_toy")
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
        assert _check(defs, instance).passed
        assert _asked(sensor, instance) == []
        write(source, 2, 0.8)
        check = _check(defs, instance)
        assert not check.passed
        assert check.severity is dg.AssetCheckSeverity.WARN
        assert "place" in check.description
        (first,), (second,) = _asked(sensor, instance), _asked(sensor, instance)
        assert first == second
        written = [p.read_bytes() for p in (tmp_path / "dagster").rglob("*") if p.is_file()]
        assert not any(CANARY.encode() in content for content in written)
        assert steps.run(spec, home).published is not None
        assert wants_retraining(spec, home) is None
        assert _check(defs, instance).passed
    release = defs.resolve_job_def("release_toy").asset_layer
    assert "drift" not in {key.name for key in release.asset_graph.asset_check_keys}


def _check(defs: dg.Definitions, instance: dg.DagsterInstance) -> dg.AssetCheckEvaluation:
    done = defs.resolve_job_def("revalidate_toy").execute_in_process(instance=instance)
    (check,) = done.get_asset_check_evaluations()
    return check


def _asked(sensor: dg.SensorDefinition, instance: dg.DagsterInstance) -> list[str | None]:
    with dg.build_sensor_context(instance=instance) as context:
        return [run.run_key for run in sensor.evaluate_tick(context).run_requests or ()]
