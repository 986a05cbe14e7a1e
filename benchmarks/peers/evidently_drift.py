"""Evidently's drift report as a judge: ``python evidently_drift.py FOLDER...``.

Its preset ``DataDriftPreset`` with train as reference. Dates are days, for it skips dates. Its own
rules: the data set drifts where half of the columns do (its default), and a column drifts where
its distance passes its default threshold.
"""

from __future__ import annotations

import os

os.environ["DO_NOT_TRACK"] = "1"

from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset
from judging import Judgement, Sides, judge_all


def judge(dated: Sides) -> Judgement:
    """The distance of every column, and what the tool says of it."""
    sides = dated.in_days()
    kinds = DataDefinition(numerical_columns=sides.numbers, categorical_columns=sides.words)
    current, reference = (
        Dataset.from_pandas(table, data_definition=kinds)
        for table in (sides.synthetic, sides.train)
    )
    found = Report([DataDriftPreset()]).run(current, reference).dict()["metrics"]
    scores, drifted, whole = {}, [], []
    for metric in found:
        settings, value = metric["config"], metric["value"]
        if settings["type"].endswith("DriftedColumnsCount"):
            whole = ["data set"] if value["share"] >= settings["drift_share"] else []
            continue
        if "p_value" in settings["method"]:
            raise ValueError(f"a distance is expected at this n, got {settings['method']}")
        scores[settings["column"]] = -float(value)
        drifted += [settings["column"]] if value >= settings["threshold"] else []
    return Judgement(scores, {"data set drifts": whole, "a column drifts": drifted})


if __name__ == "__main__":
    judge_all("evidently", "Apache-2.0", judge)
