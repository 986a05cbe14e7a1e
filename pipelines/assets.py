"""The assets of a dataset: thin shells around ``steps``, which know nothing of Dagster.

No IO manager: an asset finds what it needs in the vault, so no frame is ever pickled. Imports that
cost seconds or memory stand inside the bodies: loading the definitions must stay cheap.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from importlib.metadata import version
from typing import Any

import dagster as dg

from .home import Home, canonical_json
from .reporting import log_progress, short_failures
from .spec import AugmentSpec, DatasetSpec

GPU_POOL = "gpu"
STEPS = ("real", "model", "candidate", "scorecard", "published")
CATALOGUE = dg.AssetKey("catalogue")
_CHANGES_NOTHING = {
    *("description", "license", "owners", "tags", "schedule", "citation"),
    *("augment", "revalidate"),
}
_LATE, _TOO_LATE = timedelta(days=8), timedelta(days=15)


def build_assets(spec: DatasetSpec) -> list[dg.AssetsDefinition]:
    """The five assets of a dataset, in the order of the data's way."""
    return [_real(spec), _model(spec), _candidate(spec), _scorecard(spec), _published(spec)]


def asset_key(spec: DatasetSpec, step: str) -> dg.AssetKey:
    """The key of a dataset's asset."""
    return dg.AssetKey([spec.name, step])


def identifier(name: str) -> str:
    """``name`` as Dagster wants the names of groups, jobs and schedules."""
    return re.sub(r"[^A-Za-z0-9_]", "_", name)


def _real(spec: DatasetSpec) -> dg.AssetsDefinition:
    @_asset(
        spec,
        "real",
        description="Ingested, split by subject, protected; stays in the vault.",
        kinds={spec.source.kind, "parquet"},
        retry_policy=dg.RetryPolicy(max_retries=1, delay=5),
    )
    def real() -> dg.MaterializeResult[Any]:
        from . import metadata, steps

        with short_failures():
            data = steps.ingest(spec, Home.from_environment())
            return _result(metadata.of_real(data), data.digest)

    return real


def _model(spec: DatasetSpec) -> dg.AssetsDefinition:
    @_asset(
        spec,
        "model",
        after=["real"],
        description="The generator, fitted on the train rows; stays in the vault.",
        kinds={spec.generator.name},
        pool=GPU_POOL,
    )
    def model(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from . import metadata, steps

        with short_failures():
            release = steps.prepare(spec, Home.from_environment())
            fitted = steps.fit(release, log_progress(context))
            return _result(metadata.of_model(release, fitted), fitted.digest)

    return model


def _candidate(spec: DatasetSpec) -> dg.AssetsDefinition:
    @_asset(
        spec,
        "candidate",
        after=["model"],
        description="Sampled, not judged yet: nobody may use it.",
        kinds={"parquet"},
    )
    def candidate(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from . import metadata, steps

        with short_failures():
            release = steps.prepare(spec, Home.from_environment())
            sampled = steps.sample(release, log_progress(context))
            return _result(metadata.of_candidate(release, sampled), sampled.content_digest)

    return candidate


def _scorecard(spec: DatasetSpec) -> dg.AssetsDefinition:
    @_asset(
        spec,
        "scorecard",
        after=["real", "candidate"],
        description="The candidate measured against train and holdout, and the contract's answer.",
        kinds={"greatexpectations"},
    )
    def scorecard(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        from . import metadata, steps

        with short_failures():
            release = steps.prepare(spec, Home.from_environment())
            steps.score(release, log_progress(context))
            verdict = steps.decide(release)
            return _result(metadata.of_scorecard(release, verdict), verdict.scorecard_digest)

    return scorecard


def _published(spec: DatasetSpec) -> dg.AssetsDefinition:
    @_asset(
        spec,
        "published",
        after=["candidate", "scorecard"],
        description="An immutable version in the lake. It refuses a candidate that failed a gate, "
        "whoever asks: the checks are the display, the verdict is the lock.",
        kinds={"parquet"},
        freshness_policy=dg.FreshnessPolicy.time_window(fail_window=_TOO_LATE, warn_window=_LATE),
    )
    def published() -> dg.MaterializeResult[Any]:
        from . import metadata, steps

        with short_failures():
            release = steps.prepare(spec, Home.from_environment())
            version = steps.publish(release)
            return _result(metadata.of_published(release, version), version.content_digest)

    return published


def build_augmented(spec: DatasetSpec, asked: AugmentSpec) -> dg.AssetsDefinition:
    """The daily rows of a dataset, with what they add to the real ones as a check.

    A range of days is made in one run. The check warns where rows are proven to harm; it blocks
    nothing, for what harms one model may serve another.
    """
    key = asset_key(spec, "augmented")

    @_asset(
        spec,
        "augmented",
        after=["published"],
        description=f"Fresh rows of a day, {asked.mode}, from the newest published model.",
        kinds={"parquet"},
        partitions_def=dg.DailyPartitionsDefinition(start_date=asked.start.isoformat()),
        backfill_policy=dg.BackfillPolicy.single_run(),
        check_specs=[
            dg.AssetCheckSpec(
                "uplift",
                asset=key,
                description="Does a model that learns them beside the real rows predict the "
                "holdout better than one that learns the real rows alone?",
            )
        ],
        pool=GPU_POOL,
    )
    def augmented(context: dg.AssetExecutionContext) -> dg.MaterializeResult:  # type: ignore[type-arg]
        from . import metadata
        from .augment import augment

        home, report = Home.from_environment(), log_progress(context)
        with short_failures():
            asked_for = [date.fromisoformat(day) for day in context.partition_keys]
            made = [augment(spec, home, day, report) for day in asked_for]
        for day in made:
            context.add_asset_metadata(metadata.of_day(day), key, day.day.isoformat())
        check = metadata.of_uplift([day.uplift for day in made])
        return dg.MaterializeResult(check_results=[check])

    return augmented


def build_catalogue(published: Sequence[dg.AssetKey]) -> dg.AssetsDefinition:
    """The index of the lake: one asset for all datasets.

    It follows every publication. A dataset that was never published does not hold it up: there is
    always one that a gate has stopped.
    """

    @dg.asset(
        key=CATALOGUE,
        deps=list(published),
        group_name="catalogue",
        kinds={"json"},
        owners=["team:likeness"],
        description="The lake's index page and its machine-readable catalogue.",
        automation_condition=dg.AutomationCondition.eager().without(
            ~dg.AutomationCondition.any_deps_missing()
        ),
        pool="catalogue",
    )
    def catalogue() -> dg.MaterializeResult[Any]:
        from .publication.catalogue import write_catalogue

        with short_failures():
            page = write_catalogue(Home.from_environment().lake)
        return dg.MaterializeResult(metadata={"page": dg.MetadataValue.path(page)})

    return catalogue


def _asset(
    spec: DatasetSpec,
    step: str,
    *,
    description: str,
    after: Sequence[str] = (),
    **options: Any,  # noqa: ANN401 - passed on to dagster.asset
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """``dagster.asset`` with what all assets of a dataset have in common."""
    declare: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key=asset_key(spec, step),
        deps=[asset_key(spec, other) for other in after],
        group_name=identifier(spec.name),
        description=f"{description}\n\n{spec.description}".strip(),
        owners=list(spec.owners),
        tags=dict(spec.tags),
        code_version=code_version(spec),
        **options,
    )
    return declare


def code_version(spec: DatasetSpec) -> str:
    """Changes when Likeness or the declaration changes, so that Dagster shows what is outdated."""
    decides = canonical_json(spec.model_dump(mode="json", exclude=_CHANGES_NOTHING))
    return f"{version('likeness')}-{hashlib.sha256(decides.encode()).hexdigest()[:8]}"


def _result(metadata: dict[str, Any], digest: str) -> dg.MaterializeResult[Any]:
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest))
