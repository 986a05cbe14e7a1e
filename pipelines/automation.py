"""When things run: by hand, or on schedules and a sensor that an operator switches on."""

from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from .assets import CATALOGUE, GPU_POOL, STEPS, asset_key, identifier
from .home import Home
from .reporting import log_progress, short_failures
from .spec import AugmentSpec, DatasetSpec


def build_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """The job that makes a release: the dataset's assets, their checks, then the catalogue."""
    keys = [asset_key(spec, step) for step in STEPS]
    assets: dg.AssetSelection = dg.AssetSelection.assets(*keys)
    published = dg.AssetSelection.assets(asset_key(spec, "published"))
    catalogue = published.downstream(depth=1) & dg.AssetSelection.groups("catalogue")
    if spec.revalidate is not None:
        # A release would be compared with the data that it has just read.
        assets = assets - dg.AssetSelection.checks(_drift_key(spec))
    return dg.define_asset_job(
        f"release_{identifier(spec.name)}",
        selection=assets | catalogue,
        description=f"A new release of {spec.name}: ingest, fit, sample, score, decide, publish.",
        tags={"dataset": spec.name},
    )


def build_schedule(spec: DatasetSpec, job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition:
    """The schedule of the job: training costs, so it is off until an operator wants it."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=spec.schedule,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Releases {spec.name} anew.",
    )


def build_augment_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """The job that makes the rows of a day."""
    return dg.define_asset_job(
        f"augment_{identifier(spec.name)}",
        selection=dg.AssetSelection.assets(asset_key(spec, "augmented")),
        description=f"Fresh rows of {spec.name} for a day.",
        tags={"dataset": spec.name},
    )


def build_augment_schedule(
    spec: DatasetSpec, asked: AugmentSpec, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """The daily schedule; after a pause it makes the newest missed days, too."""
    days = dg.DailyPartitionsDefinition(start_date=asked.start.isoformat())

    def missed(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        now = context.scheduled_execution_time
        known = days.get_partition_keys(current_time=now)
        made = context.instance.get_materialized_partitions(asset_key(spec, "augmented"))
        for day in [day for day in known if day not in made][-asked.catch_up :]:
            # The tick is part of the key: a day that failed is tried again at the next one.
            yield dg.RunRequest(run_key=f"{day}@{now:%Y%m%dT%H%M}", partition_key=day)

    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=asked.cron,
        execution_timezone="UTC",
        execution_fn=missed,
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Fresh rows of {spec.name} every day, and of days that were missed.",
    )


def build_revalidate_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """The job that compares the newest real data with those that the model has learned from."""
    return dg.define_asset_job(
        f"revalidate_{identifier(spec.name)}",
        selection=dg.AssetSelection.checks(_drift_key(spec)),
        description=f"Has the source of {spec.name} drifted away from its published model?",
        tags={"dataset": spec.name},
    )


def _drift_key(spec: DatasetSpec) -> dg.AssetCheckKey:
    return dg.AssetCheckKey(asset_key(spec, "published"), "drift")


def build_revalidate_schedule(
    spec: DatasetSpec, cron: str, job: UnresolvedAssetJobDefinition
) -> dg.ScheduleDefinition:
    """The schedule of the job; off until an operator wants it."""
    return dg.ScheduleDefinition(
        name=f"{job.name}_schedule",
        job=job,
        cron_schedule=cron,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description=f"Looks for drift in the source of {spec.name}.",
    )


def build_retrain_sensor(
    spec: DatasetSpec, release: UnresolvedAssetJobDefinition
) -> dg.SensorDefinition:
    """The sensor that asks for a release once drift is proven: one for each finding."""

    @dg.sensor(
        name=f"retrain_{identifier(spec.name)}",
        job=release,
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Releases {spec.name} anew once its source has drifted.",
    )
    def retrain() -> Iterator[dg.RunRequest]:
        from .revalidate import wants_retraining

        key = wants_retraining(spec, Home.from_environment())
        if key is not None:
            yield dg.RunRequest(run_key=key, tags={"likeness/reason": "drift"})

    return retrain


def build_catalogue_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that renews the catalogue after a publication by another job or by hand."""
    return dg.AutomationConditionSensorDefinition(
        "renew_catalogue",
        target=dg.AssetSelection.assets(CATALOGUE),
        default_status=dg.DefaultSensorStatus.STOPPED,
    )


REQUEST_TAG = "likeness/request"
_MOST_RUNS = 10


class RequestConfig(dg.Config):
    """Which request a run answers."""

    id: str


def build_request_job() -> dg.JobDefinition:
    """The job that answers one request of the inbox."""

    @dg.op(name="answer_request", pool=GPU_POOL)
    def answer(context: dg.OpExecutionContext, config: RequestConfig) -> None:
        from .requests.work import process

        with short_failures():
            status = process(Home.from_environment(), config.id, log_progress(context))
        context.log.info(f"{status.name}: {status.state} {status.version or status.message}")
        context.add_output_metadata(
            {"state": status.state, "version": status.version or "", "request": status.id}
        )
        if status.state in ("QUARANTINED", "FAILED", "REJECTED"):
            raise dg.Failure(description=status.message, allow_retries=False)

    @dg.job(name="request", description="Answers a request: see `likeness request`.")
    def request() -> None:
        answer()

    return request


def build_request_sensor(job: dg.JobDefinition) -> dg.SensorDefinition:
    """The sensor that starts a run for each request that waits, and takes in dropped files."""

    @dg.sensor(
        name="requests",
        job=job,
        minimum_interval_seconds=5,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Answers the requests in the inbox.",
    )
    def requests(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        from .requests.dropped import take_dropped
        from .requests.work import pending

        home = Home.from_environment()
        take_dropped(home)
        for identity in pending(home):
            tags = {REQUEST_TAG: identity}
            runs = context.instance.get_run_records(dg.RunsFilter(tags=tags), limit=_MOST_RUNS)
            over = [run.dagster_run.is_finished for run in runs]
            # A key is never launched again, even if its run died; so each run has its own. Who has
            # died with its server is found by the run monitor: see ``launcher``.
            if len(runs) < _MOST_RUNS and all(over):
                yield dg.RunRequest(
                    run_key=f"{identity}:{len(runs) + 1}",
                    run_config={"ops": {"answer_request": {"config": {"id": identity}}}},
                    tags=tags,
                )

    return requests
