"""Daily rows: reproducible, backfilled in one run, caught up, and what they add is measured."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from generators.base import ParameterError
from generators.schema import TableSchema
from pipelines import steps
from pipelines.augment import SOURCE, augment
from pipelines.components.synthetic_dataset import build_dataset_defs
from pipelines.home import Home
from pipelines.publication.log import read_log
from pipelines.spec import AugmentSpec, DatasetSpec, GeneratorSpec, QuotaSpec, SourceSpec
from validators import Comparison
from validators.utility import Utility, uplift

pytestmark = pytest.mark.filterwarnings(
    "ignore::dagster.BetaWarning", "ignore::dagster.PreviewWarning"
)
CONTRACT = """\
name: small
gates:
  - {id: privacy-copies, metric: copy_excess, dimension: privacy, on: high, max: 0.1,
     why: Verbatim rows that only training explains.}
"""
ASKED = AugmentSpec(
    rows=400, quotas=(QuotaSpec(condition="y = b", share=0.5),), start=date(2026, 3, 1)
)


def rows(n: int, seed: int) -> pd.DataFrame:
    """One in five is b, which x tells."""
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.2
    x = (rng.normal(size=n) + 1.5 * y).round(3)
    return pd.DataFrame({"x": x, "z": rng.normal(size=n).round(3), "y": np.where(y, "b", "a")})


@dataclass(frozen=True)
class Bench:
    spec: DatasetSpec
    home: Home


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    root = tmp_path_factory.mktemp("augment")
    rows(2_000, 1).to_csv(root / "toy.csv", index=False)
    (root / "small.yaml").write_text(CONTRACT)
    spec = DatasetSpec(
        name="toy",
        source=SourceSpec(kind="csv", path=str(root / "toy.csv")),
        generator=GeneratorSpec(name="forest"),
        target="y",
        contract=str(root / "small.yaml"),
        augment=ASKED,
    )
    home = Home(root / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIKENESS_HOME", str(home.root))
        assert steps.run(spec, home).published is not None
        yield Bench(spec, home)


def test_a_range_is_one_run_with_a_version_a_day_and_the_uplift_as_a_check(bench: Bench) -> None:
    defs = build_dataset_defs(bench.spec)
    job = defs.resolve_job_def("augment_toy")
    key = dg.AssetKey(["toy", "augmented"])
    before = len(read_log(bench.home.lake, "toy.augmented"))
    with dg.instance_for_test() as instance:
        done = job.execute_in_process(
            instance=instance,
            tags={
                "dagster/asset_partition_range_start": "2026-03-01",
                "dagster/asset_partition_range_end": "2026-03-02",
            },
        )
        assert done.success
        made = instance.get_materialized_partitions(key)
        (check,) = done.get_asset_check_evaluations()
        schedule = defs.resolve_schedule_def("augment_toy_schedule")
        context = dg.build_schedule_context(
            instance=instance,
            repository_def=defs.get_repository_def(),
            scheduled_execution_time=datetime(2026, 3, 5, 4, tzinfo=UTC),
        )
        asked = [run.partition_key for run in schedule.evaluate_tick(context).run_requests or ()]
    assert made == {"2026-03-01", "2026-03-02"}
    assert asked == ["2026-03-03", "2026-03-04"]
    assert check.check_name == "uplift"
    numbers = {name: check.metadata[name].value for name in ("low", "uplift", "high")}
    assert numbers["low"] <= numbers["uplift"] <= numbers["high"]
    assert len(read_log(bench.home.lake, "toy.augmented")) == before + 2
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED


def test_the_same_day_comes_out_the_same_and_another_does_not(bench: Bench) -> None:
    first = augment(bench.spec, bench.home, date(2026, 3, 8))
    steps.run(bench.spec.model_copy(update={"seed": 9}), bench.home)
    again = augment(bench.spec, bench.home, date(2026, 3, 8))
    assert again.published is not None
    assert again.published.existing
    assert (again.version, again.content_digest) == (first.version, first.content_digest)
    other = augment(bench.spec, bench.home, date(2026, 3, 9))
    assert other.version > first.version
    assert other.content_digest != first.content_digest
    assert other.published is not None
    frame = pd.read_parquet(other.published.path / "data")
    assert frame["y"].value_counts().to_dict() == {"a": 200, "b": 200}


def test_real_and_synthetic_rows_together_stay_in_the_vault(bench: Bench) -> None:
    asked = ASKED.model_copy(update={"mode": "real+synthetic"})
    spec = bench.spec.model_copy(update={"augment": asked})
    before = sorted(path.name for path in Path(bench.home.lake).iterdir())
    made = augment(spec, bench.home, date(2026, 4, 1))
    assert made.published is None
    assert made.folder is not None
    assert made.folder.is_relative_to(bench.home.vault)
    frame = pd.read_parquet(made.folder / "data")
    train = int(steps.prepare(spec, bench.home).real.facts["rows"]["train"])
    assert frame[SOURCE].value_counts().to_dict() == {"real": train, "synthetic": 400}
    assert sorted(path.name for path in Path(bench.home.lake).iterdir()) == before
    assert augment(spec, bench.home, date(2026, 4, 1)).content_digest == made.content_digest


def test_a_dataset_without_augment_says_so(bench: Bench) -> None:
    with pytest.raises(ParameterError, match="declares no augment"):
        augment(bench.spec.model_copy(update={"augment": None}), bench.home, date(2026, 3, 1))


@pytest.mark.parametrize(("added", "sign"), [("good", 1), ("flipped", -1)])
def test_uplift_tells_what_helps_from_what_harms(added: str, sign: int) -> None:
    """Few real rows and many of the same kind help; many with the answer turned round harm."""
    train, holdout, more = rows(60, 1), rows(3_000, 2), rows(3_000, 3)
    if added == "flipped":
        more["y"] = more["y"].map({"a": "b", "b": "a"})
    schema = TableSchema.infer(holdout, target="y")
    score = uplift(Comparison(more, train, holdout, schema), Utility(draws=300, iterations=20))
    assert score.low is not None
    assert score.high is not None
    assert (score.low if sign > 0 else -score.high) > 0
    assert score.unit == "auc"


def test_uplift_of_nothing_to_predict_is_skipped() -> None:
    frame = rows(100, 1)
    score = uplift(Comparison(frame, frame, frame, TableSchema.infer(frame)))
    assert score.skipped is not None
