"""Alibi Detect's drift test as a judge: ``python alibi_drift.py FOLDER...``.

``TabularDrift`` (Kolmogorov-Smirnov and chi-squared per column) with train as reference. Dates are
days; it takes no missing cells, so they get the median, or a level of their own, as a user would
have to. Its own rule: drift at its default level of 5 % over all columns (Bonferroni).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from alibi_detect.cd import TabularDrift
from judging import Judgement, Sides, judge_all


def judge(dated: Sides) -> Judgement:
    """The p-value of every column, and the verdict."""
    sides = dated.in_days()
    names = list(sides.train)
    both = pd.concat([sides.train, sides.synthetic])[sides.words].fillna("missing")
    levels = {
        name: {level: at for at, level in enumerate(sorted(both[name].unique()))}
        for name in sides.words
    }

    def array(table: pd.DataFrame) -> np.ndarray:
        columns = [
            table[name].fillna("missing").map(levels[name])
            if name in levels
            else table[name].fillna(sides.train[name].median())
            for name in names
        ]
        return np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])

    codes = {names.index(name): len(levels[name]) for name in levels}
    found = TabularDrift(array(sides.train), categories_per_feature=codes).predict(
        array(sides.synthetic)
    )["data"]
    p_values = dict(zip(names, map(float, found["p_val"]), strict=True))
    broken = [n for n, p in p_values.items() if p < found["threshold"]] if found["is_drift"] else []
    return Judgement(p_values, {"drift": broken})


if __name__ == "__main__":
    judge_all("alibi-detect", "BUSL-1.1", judge)
