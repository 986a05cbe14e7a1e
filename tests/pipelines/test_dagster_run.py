"""A release through Dagster: real runs of the real steps on a small real table."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import statsmodels.api

from pipelines import steps
from pipelines.assets import STEPS, build_catalogue
from pipelines.components.synthetic_dataset import build_dataset_defs
from pipelines.home import Home
from pipelines.spec import ColumnSpec, DatasetSpec, GeneratorSpec, SourceSpec
from validators.base import DIMENSIONS

pytestmark = pytest.mark.filterwarnings("ignore::dagster.BetaWarning")

ROWS = 1_500
CANARY = "zanzibar-7e1c"
OUTLIER = 918_273.25
# As randhie_leaky: what comes out is what went in.
COPIER = {
    "trees": 1,
    "min_leaf": 1,
    "subsample": 1.0,
    "honest": False,
    "smooth": False,
    "verbatim_guard": False,
}
CONTRACT = """\
name: small
description: Wide enough for a table of this size, and closed to a copier.
gates:
  - {id: fidelity-marginal-mean, metric: marginal_tvd_mean, dimension: fidelity, on: low, max: 0.2,
     why: The shares of values are those of the holdout.}
  - {id: privacy-copies, metric: copy_excess, dimension: privacy, on: high, max: 0.1,
     why: Verbatim rows that only training explains.}
"""


@dataclass(frozen=True)
class Bench:
    """A spec, its definitions with the catalogue, a Dagster instance and where both keep things."""

    spec: DatasetSpec
    defs: dg.Definitions
    instance: dg.DagsterInstance
    home: Home

    def run(self, *steps: str) -> dg.ExecuteInProcessResult:
        """Run the release job, or only the assets of some steps with their checks."""
        keys = [dg.AssetKey([self.spec.name, step]) for step in steps]
        with self.at_home():
            return self.defs.resolve_job_def(f"release_{self.spec.name}").execute_in_process(
                instance=self.instance, raise_on_error=False, asset_selection=keys or None
            )

    @contextmanager
    def at_home(self) -> Iterator[None]:
        """With its own home, whichever other bench was set up meanwhile."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LIKENESS_HOME", str(self.home.root))
            yield

    def materialised(self) -> set[str]:
        """The steps of which Dagster knows a materialisation."""
        return {step for step in STEPS if self.event(step) is not None}

    def event(self, step: str) -> dg.AssetMaterialization | None:
        """What the last materialisation of a step said."""
        event = self.instance.get_latest_materialization_event(dg.AssetKey([self.spec.name, step]))
        return event.asset_materialization if event else None

    def all_bytes(self) -> bytes:
        """All that Dagster has written anywhere: events, runs, logs."""
        files = Path(self.instance.root_directory).rglob("*")
        return b"".join(file.read_bytes() for file in files if file.is_file())


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real rows, with a rare category and an outlier that must never be seen outside the vault."""
    frame = statsmodels.api.datasets.randhie.load_pandas().data
    frame = frame[["mdvis", "lncoins", "physlm", "disea", "hlthg"]]
    rng = np.random.default_rng(5)
    frame = frame.iloc[np.sort(rng.choice(len(frame), ROWS, replace=False))].reset_index(drop=True)
    frame["region"] = rng.choice(["north", "south", "west"], ROWS)
    frame.loc[[3, 700, 1400], "region"] = CANARY
    frame.loc[[9, 800], "disea"] = OUTLIER
    path = tmp_path_factory.mktemp("source") / "visits.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("contract") / "small.yaml"
    path.write_text(CONTRACT)
    return path


def declare(table: Path, contract: Path, **changes: Any) -> DatasetSpec:
    spec = DatasetSpec(
        name="visits",
        description="A small table.",
        source=SourceSpec(kind="csv", path=str(table)),
        generator=GeneratorSpec(name="forest"),
        contract=str(contract),
        owners=("team:tests",),
        tags={"modality": "table"},
    )
    return spec.model_copy(update=changes)


@contextmanager
def bench(spec: DatasetSpec, root: Path) -> Iterator[Bench]:
    catalogue = build_catalogue([dg.AssetKey([spec.name, "published"])])
    defs = dg.Definitions.merge(build_dataset_defs(spec), dg.Definitions(assets=[catalogue]))
    home = Home(root / "home")
    (root / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(root / "dagster")) as instance:
        yield Bench(spec, defs, instance, home)


@pytest.fixture(scope="module")
def good(
    table: Path, contract: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, dg.ExecuteInProcessResult]]:
    with bench(declare(table, contract), tmp_path_factory.mktemp("good")) as ready:
        yield ready, ready.run()


@pytest.fixture(scope="module")
def leaky(
    table: Path, contract: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Bench, dg.ExecuteInProcessResult]]:
    spec = declare(table, contract, generator=GeneratorSpec(name="forest", parameters=COPIER))
    with bench(spec, tmp_path_factory.mktemp("leaky")) as ready:
        yield ready, ready.run()


def test_a_good_candidate_is_published_and_listed(
    good: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    ready, result = good
    assert result.success
    assert ready.materialised() == set(STEPS)
    assert {check.check_name for check in result.get_asset_check_evaluations()} == set(DIMENSIONS)
    assert all(check.passed for check in result.get_asset_check_evaluations())
    published = ready.event("published")
    assert Path(published.metadata["folder"].path).is_relative_to(ready.home.lake)
    assert (ready.home.lake / "index.html").is_file()


def test_dagster_and_the_command_line_make_the_same_release(
    good: tuple[Bench, dg.ExecuteInProcessResult], tmp_path: Path
) -> None:
    ready, _ = good
    home = Home(tmp_path)
    # A model is sealed with its vault's secret: with the same one it is the same, bit for bit.
    (home.vault / "secret.key").write_bytes(ready.home.secret)
    other = steps.run(ready.spec, home)
    assert other.published is not None
    published = ready.event("published")
    assert published.metadata["content digest"].value == other.published.content_digest
    assert published.tags["dagster/data_version"] == other.published.content_digest
    model = ready.event("model").tags["dagster/data_version"]
    assert model == steps.fitted(other.release).digest


def test_running_again_publishes_nothing_new(
    good: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    ready, _ = good
    before = ready.event("published")
    assert ready.run().success
    after = ready.event("published")
    assert after.metadata["version"] == before.metadata["version"]
    assert after.metadata["new"].value is False


def test_checks_carry_numbers_for_trends(good: tuple[Bench, dg.ExecuteInProcessResult]) -> None:
    _, result = good
    (fidelity,) = (
        check for check in result.get_asset_check_evaluations() if check.check_name == "fidelity"
    )
    numbers = {
        name: value.value
        for name, value in fidelity.metadata.items()
        if isinstance(value, dg.FloatMetadataValue)
    }
    observed = numbers["fidelity-marginal-mean: observed"]
    assert numbers["fidelity-marginal-mean: bound"] == 0.2
    assert numbers["fidelity-marginal-mean: margin"] == pytest.approx(0.2 - observed)
    assert observed < 0.2


def test_assets_show_what_a_reader_wants_to_know(
    good: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    ready, _ = good
    real, model, published = (ready.event(step).metadata for step in ("real", "model", "published"))
    assert real["dagster/row_count"].value == ROWS
    assert real["train rows"].value + real["holdout rows"].value == ROWS
    assert model["seconds"].value > 0
    assert model["peak memory (MB)"].value > 0
    assert model["seed"].value == 0
    columns = published["dagster/column_schema"].value.columns
    assert [column.name for column in columns][-1] == "region"
    assert published["dagster/row_count"].value == real["train rows"].value


def test_one_check_can_be_run_alone(good: tuple[Bench, dg.ExecuteInProcessResult]) -> None:
    ready, _ = good
    key = dg.AssetCheckKey(dg.AssetKey([ready.spec.name, "scorecard"]), "privacy")
    job = dg.define_asset_job("alone", dg.AssetSelection.checks(key))
    defs = dg.Definitions.merge(ready.defs, dg.Definitions(jobs=[job]))
    with ready.at_home():
        result = defs.resolve_job_def("alone").execute_in_process(instance=ready.instance)
    assert [check.check_name for check in result.get_asset_check_evaluations()] == ["privacy"]


def test_a_copier_is_stopped_by_privacy_alone(
    leaky: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    ready, result = leaky
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [check.check_name for check in failed] == ["privacy"]
    assert failed[0].severity is dg.AssetCheckSeverity.ERROR
    assert ready.materialised() == set(STEPS) - {"published"}
    assert not (ready.home.lake / ready.spec.name).exists()


def test_published_alone_refuses_what_a_gate_has_stopped(
    leaky: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    ready, _ = leaky
    result = ready.run("published")
    assert not result.success
    (failure,) = result.get_step_failure_events()
    assert "privacy-copies" in failure.step_failure_data.user_failure_data.description
    assert "published" not in ready.materialised()
    assert not (ready.home.lake / ready.spec.name).exists()


def test_published_needs_the_verdict_on_what_lies_there_now(
    leaky: tuple[Bench, dg.ExecuteInProcessResult],
) -> None:
    """Declaring the verdict passed by hand opens nothing."""
    ready, _ = leaky
    release = steps.prepare(ready.spec, ready.home)
    path = release.evidence_folder / "verdict.json"
    honest = path.read_text()
    forged = json.loads(honest)
    forged["passed"] = True
    for gate in forged["gates"]:
        gate["status"] = "passed"
    path.write_text(json.dumps(forged))
    try:
        assert not ready.run("published").success
    finally:
        path.write_text(honest)
    assert not (ready.home.lake / ready.spec.name).exists()


@pytest.mark.parametrize("which", ["good", "leaky"])
def test_dagster_never_sees_a_real_value(which: str, request: pytest.FixtureRequest) -> None:
    ready, _ = request.getfixturevalue(which)
    written = ready.all_bytes()
    assert ready.event("candidate").metadata["content digest"].value.encode() in written
    assert CANARY.encode() not in written
    assert str(OUTLIER).encode() not in written


def test_a_failure_shows_the_remedy_and_no_cell(
    table: Path, contract: Path, tmp_path: Path
) -> None:
    spec = declare(table, contract, columns={"region": ColumnSpec(kind="numerical")})
    with bench(spec, tmp_path) as ready:
        result = ready.run("real")
        assert not result.success
        (failure,) = result.get_step_failure_events()
        said = failure.step_failure_data.user_failure_data.description
        written = ready.all_bytes()
        assert said.encode() in written
        assert CANARY.encode() not in written
        assert b"north" not in written


def test_a_step_before_its_time_says_what_to_run_first(
    table: Path, contract: Path, tmp_path: Path
) -> None:
    with bench(declare(table, contract), tmp_path) as ready:
        result = ready.run("published")
        (failure,) = result.get_step_failure_events()
        assert "must be ingested first" in failure.step_failure_data.user_failure_data.description
