"""The code location: the datasets of ``defs/``, the catalogue of all, and how steps are run.

Loading it must stay cheap: nothing here imports torch, scikit-learn, SDV or Great Expectations.
"""

from __future__ import annotations

import sys
from pathlib import Path

import dagster as dg

from .assets import build_catalogue
from .automation import build_catalogue_sensor, build_request_job, build_request_sensor
from .datasets import dataset_names

_MAX_CONCURRENT_STEPS = 2
# Imported once per run by the fork server instead of once per step; nothing here starts CUDA.
_PRELOAD = ["pipelines.definitions", "pipelines.steps", "great_expectations", "sklearn", "torch"]


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions of Likeness."""
    datasets = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    published = [dg.AssetKey([name, "published"]) for name in dataset_names()]
    request = build_request_job()
    common = dg.Definitions(
        assets=[build_catalogue(published)],
        jobs=[request],
        sensors=[build_catalogue_sensor(), build_request_sensor(request)],
        executor=build_executor(),
    )
    return dg.Definitions.merge(datasets, common)


def build_executor() -> dg.ExecutorDefinition:
    """Steps as processes of a fork server; in one process where there is no fork."""
    if sys.platform == "win32":
        return dg.in_process_executor
    return dg.multiprocess_executor.configured(
        {
            "max_concurrent": _MAX_CONCURRENT_STEPS,
            "start_method": {"forkserver": {"preload_modules": _PRELOAD}},
        }
    )
