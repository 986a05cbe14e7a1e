"""MOSTLY AI's quality report as a judge: ``python mostlyai_qa.py FOLDER...``.

Its own rule, after the documentation of its metrics: the share of synthetic rows that are closer
to a training than to a holdout row "should not be significantly larger than 50%", and "we expect
to see about as many identical matches" to training as to holdout rows; both are tested one-sided
at 5 %, which the tool leaves to the reader. It names no bound for accuracy and similarity. The
pictures of its page are left out and its steps run one after the other: neither changes a metric,
and processor seconds would not count its workers.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import joblib  # noqa: TID251 - the tool's own
from judging import Judgement, Sides, judge_all
from mostlyai import qa
from mostlyai.qa import _distances, _html_report, _similarity, reporting

ONE_SIDED = 1.645


def without_pictures() -> None:
    """The steps that only draw do nothing."""
    for module in (reporting, _similarity, _distances, _html_report):
        for name in dir(module):
            if name.startswith(("plot_store_", "store_report")):
                setattr(module, name, lambda *_, **__: None)


def judge(sides: Sides) -> Judgement:
    """The metrics of the whole report, by its defaults."""
    one_by_one = joblib.parallel_config(backend="sequential")
    with tempfile.TemporaryDirectory() as name, one_by_one:
        _, metrics = qa.report(
            syn_tgt_data=sides.synthetic,
            trn_tgt_data=sides.train,
            hol_tgt_data=sides.holdout,
            report_path=Path(name) / "report.html",
        )
    accuracy, similarity, near = metrics.accuracy, metrics.similarity, metrics.distances
    n = min(len(sides.synthetic), len(sides.train), len(sides.holdout))
    both = (near.ims_training + near.ims_holdout) / 2
    matches = near.ims_training - near.ims_holdout
    rule = {
        "DCR share": near.dcr_share > 0.5 + ONE_SIDED * math.sqrt(0.25 / n),
        "identical matches": matches > ONE_SIDED * math.sqrt(2 * both * (1 - both) / n),
    }
    scores = {
        "accuracy univariate": accuracy.univariate,
        "accuracy bivariate": accuracy.bivariate,
        "accuracy trivariate": accuracy.trivariate,
        "cosine similarity": similarity.cosine_similarity_training_synthetic,
        "discriminator AUC": -max(0.5, similarity.discriminator_auc_training_synthetic),
        "identical matches": -matches,
        "DCR share": -near.dcr_share,
        "NNDR": near.nndr_training / near.nndr_holdout if near.nndr_holdout else math.nan,
    }
    return Judgement(scores, {"documented": [name for name, broken in rule.items() if broken]})


if __name__ == "__main__":
    without_pictures()
    judge_all("mostlyai-qa", "Apache-2.0", judge)
