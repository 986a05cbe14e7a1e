"""XGB-C2ST, the detection score of the papers on tables: ``python xgboost_detection.py FOLDER``.

SDMetrics' detection metric with XGBoost as its classifier, as TabPC's and ORiGAMi's tables report
it: 1 - mean over 3 folds of (2 max(AUC, 0.5) - 1), so 1 is best. FOLDER holds ``train.parquet``,
``test.parquet`` and ``synthetic.parquet``; the scores against either real table go to
``xgboost.json``. The papers take the train table, which flatters who copies it; the holdout does
not. Both sides have equally many rows. The folds come from numpy's global state, so a score is the
mean over three states.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sdmetrics.single_table.detection.sklearn import ScikitLearnClassifierDetectionMetric
from xgboost import XGBClassifier

SEEDS = range(3)


class XGBDetection(ScikitLearnClassifierDetectionMetric):
    """SDMetrics' imputer, scaler and folds around XGBoost."""

    @staticmethod
    def _get_classifier() -> XGBClassifier:
        return XGBClassifier(eval_metric="logloss", enable_categorical=True, random_state=0)


def score(real: pd.DataFrame, synthetic: pd.DataFrame) -> float:
    """How little XGBoost tells the two tables apart; 1 is best."""
    size = min(len(real), len(synthetic))
    found = []
    for seed in SEEDS:
        np.random.seed(seed)  # noqa: NPY002 - SDMetrics draws its folds from there
        sides = [table.sample(size, random_state=seed) for table in (real, synthetic)]
        found.append(XGBDetection.compute(*one_hot(*sides)))
    return float(np.mean(found))


def one_hot(real: pd.DataFrame, synthetic: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with a column for each level, as SDMetrics makes of the real one.

    Its own encoder knows the levels of the real table alone and stops at any other.
    """
    both = pd.concat([real, synthetic], ignore_index=True)
    words = [name for name, column in both.items() if not isinstance(column.dtype, np.dtype)]
    words += list(both.select_dtypes(["object", "bool"]).columns)
    numbers = pd.get_dummies(both, columns=list(dict.fromkeys(words)), dummy_na=True, dtype=float)
    return numbers[: len(real)], numbers[len(real) :]


def main(folder: Path) -> None:
    """Score the synthetic table of a folder against either real one."""
    warnings.simplefilter("ignore")
    synthetic = pd.read_parquet(folder / "synthetic.parquet")
    scores = {
        "XGB-C2ST": score(pd.read_parquet(folder / "test.parquet"), synthetic),
        "XGB-C2ST train": score(pd.read_parquet(folder / "train.parquet"), synthetic),
    }
    (folder / "xgboost.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
