"""The one component: the declaration of a dataset becomes its assets, checks, job and schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import BaseModel

from ..assets import build_assets, build_augmented
from ..automation import (
    build_augment_job,
    build_augment_schedule,
    build_job,
    build_retrain_sensor,
    build_revalidate_job,
    build_revalidate_schedule,
    build_schedule,
)
from ..checks import build_checks, build_drift_check
from ..spec import DatasetSpec


@dataclass
class SyntheticDataset(dg.Component):
    """A real dataset and how its likeness is made, judged and published.

    The attributes are the fields of ``DatasetSpec``, taken as they are: templates such as
    ``{{ env.X }}`` are not expanded, so that a file means the same to Dagster and to ``likeness``.
    """

    spec: DatasetSpec

    @classmethod
    def get_model_cls(cls) -> type[BaseModel]:
        """The model of the attributes; ``dg check yaml`` validates against it."""
        return DatasetSpec

    @classmethod
    def load(cls, attributes: BaseModel | None, context: dg.ComponentLoadContext) -> Self:
        """The component that a ``defs.yaml`` declares."""
        spec = DatasetSpec.model_validate(attributes)
        if context.path.name not in (spec.name, "defs.yaml"):
            raise dg.DagsterInvalidDefinitionError(
                f"a dataset must be called as its folder, {context.path} says {spec.name!r}; "
                "rename one"
            )
        return cls(spec)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:  # noqa: ARG002
        """All definitions of the dataset."""
        return build_dataset_defs(self.spec)


def build_dataset_defs(spec: DatasetSpec) -> dg.Definitions:
    """The assets of a dataset, their checks, the jobs that make a release and a day, schedules."""
    job = build_job(spec)
    release = dg.Definitions(
        assets=build_assets(spec),
        asset_checks=[build_checks(spec)],
        jobs=[job],
        schedules=[build_schedule(spec, job)],
    )
    return dg.Definitions.merge(
        release, _build_augment_defs(spec), _build_revalidate_defs(spec, job)
    )


def _build_augment_defs(spec: DatasetSpec) -> dg.Definitions:
    """The daily rows, where the dataset declares them."""
    if spec.augment is None:
        return dg.Definitions()
    job = build_augment_job(spec)
    return dg.Definitions(
        assets=[build_augmented(spec, spec.augment)],
        jobs=[job],
        schedules=[build_augment_schedule(spec, spec.augment, job)],
    )


def _build_revalidate_defs(
    spec: DatasetSpec, release: UnresolvedAssetJobDefinition
) -> dg.Definitions:
    """The look for drift, where the dataset declares it, and what it leads to."""
    if spec.revalidate is None:
        return dg.Definitions()
    job = build_revalidate_job(spec)
    return dg.Definitions(
        asset_checks=[build_drift_check(spec)],
        jobs=[job],
        schedules=[build_revalidate_schedule(spec, spec.revalidate, job)],
        sensors=[build_retrain_sensor(spec, release)],
    )
