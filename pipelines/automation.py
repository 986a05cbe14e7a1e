"""When things run: by hand, or on schedules and a sensor that an operator switches on."""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from .assets import CATALOGUE, asset_key, identifier
from .spec import DatasetSpec


def build_job(spec: DatasetSpec) -> UnresolvedAssetJobDefinition:
    """The job that makes a release: the dataset's assets, their checks, then the catalogue."""
    assets = dg.AssetSelection.groups(identifier(spec.name))
    catalogue = dg.AssetSelection.assets(asset_key(spec, "published")).downstream(depth=1)
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


def build_catalogue_sensor() -> dg.AutomationConditionSensorDefinition:
    """The sensor that renews the catalogue after a publication by another job or by hand."""
    return dg.AutomationConditionSensorDefinition(
        "renew_catalogue",
        target=dg.AssetSelection.assets(CATALOGUE),
        default_status=dg.DefaultSensorStatus.STOPPED,
    )
