"""SynthEval as a judge: ``python syntheval_report.py FOLDER...``.

The metrics of its presets ``fast_eval`` and ``privacy``, with the holdout. It refuses missing
cells; of its two remedies the rows that have some are dropped (``missing_directive="drop"``).
Its own rule: a column differs significantly in its permutation test, at its default level of 5 %.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from importlib.resources import files

import matplotlib
from judging import Judgement, Sides, judge_all

matplotlib.use("Agg")

from syntheval import SynthEval


def judge(dated: Sides) -> Judgement:
    """The normalised values, higher is better, of both presets."""
    # It leaves a file of settings wherever it is called.
    with tempfile.TemporaryDirectory() as elsewhere, contextlib.chdir(elsewhere):
        return _judged(dated)


def _judged(dated: Sides) -> Judgement:
    sides = dated.in_days()
    tool = SynthEval(
        sides.train,
        holdout_dataframe=sides.holdout,
        cat_cols=sides.words,
        missing_directive="drop",
        verbose=False,
        enable_plots=False,
        console="off",
    )
    settings: dict[str, dict[str, object]] = {}
    for preset in ("fast_eval", "privacy"):
        settings |= json.loads((files("syntheval") / "presets" / f"{preset}.json").read_text())
    found = tool.evaluate(sides.synthetic, sides.target, **settings)
    scores = {str(row.metric): float(row.n_val) for row in found.itertuples()}
    return Judgement(scores, {"KS test at 5 %": list(tool._raw_results["ks_test"]["sigs cols"])})


if __name__ == "__main__":
    judge_all("syntheval", "MIT", judge)
