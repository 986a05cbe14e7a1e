"""The one component: the declaration of a dataset becomes its assets, checks, job and schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import dagster as dg
from pydantic import BaseModel

from ..assets import build_assets
from ..automation import build_job, build_schedule
from ..checks import build_checks
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
    """The five assets of a dataset, their checks, the job that makes a release, its schedule."""
    job = build_job(spec)
    return dg.Definitions(
        assets=build_assets(spec),
        asset_checks=[build_checks(spec)],
        jobs=[job],
        schedules=[build_schedule(spec, job)],
    )
