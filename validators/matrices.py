"""Matrices of a report: groups or classes as rows, what was measured of them as columns."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import wording
from .aggregates import Discretion
from .base import Score

_GROUPS = 12


@dataclass(frozen=True)
class Tolerance:
    """A column of a matrix.

    Attributes:
        title: its head.
        words: what is tolerated, in words; empty where nothing is asked.
        minimum, maximum: the same as numbers.
        neutral: the number of no difference, from which departures are counted.
    """

    title: str
    words: str = ""
    minimum: float = -math.inf
    maximum: float = math.inf
    neutral: float = 0.0


OF_GROUPS: dict[str, Tolerance] = {
    "representation_ratio": Tolerance("Share, over real", "0.8 to 1.25", 0.8, 1.25, 1.0),
    "label_drift": Tolerance("Outcome gap, drift", "up to 0.05", maximum=0.05),
    "subgroup_tvd": Tolerance("Fidelity, distance", "up to 0.10", maximum=0.10),
    "equalised_odds_drift": Tolerance("TPR or FPR, drift", "up to 0.05", maximum=0.05),
    "subgroup_auc_loss": Tolerance("Utility, AUC lost", "up to 0.05", maximum=0.05),
    "membership_auc_group": Tolerance(
        "Privacy, attack AUC", "up to 0.65", maximum=0.65, neutral=0.5
    ),
}
OF_CLASSES: dict[str, Tolerance] = {
    "class_share_ratio": Tolerance("Share, over real", "0.8 to 1.25", 0.8, 1.25, 1.0),
    "label_fidelity": Tolerance("Shows its label", "0.85 and more", minimum=0.85, neutral=1.0),
    "class_coverage": Tolerance("Coverage, over real", "0.5 and more", minimum=0.5, neutral=1.0),
    "tstr_gap": Tolerance("Accuracy lost", "up to 0.10", maximum=0.10),
}
OF_NETWORKS: dict[str, Tolerance] = {
    "frechet_ratio": Tolerance("Fréchet, over real", "1 is real"),
    "sliced_wasserstein_ratio": Tolerance("Sliced Wasserstein, over real", "1 is real"),
    "density_ratio": Tolerance("Density, over real", "1 is real"),
    "coverage_ratio": Tolerance("Coverage, over real", "1 is real"),
}


def groups(scores: Iterable[Score], discretion: Discretion) -> dict[str, Any]:
    """The matrix of protected groups, the most different first."""
    named = [
        (discretion.subject(score.subject), score)
        for score in scores
        if "=" in score.subject and score.metric in OF_GROUPS
    ]
    departure: dict[str, float] = defaultdict(float)
    for group, score in named:
        departure[group] = max(departure[group], _departure(score, OF_GROUPS[score.metric]))
    order = sorted(departure, key=lambda group: (-departure[group], group))
    return matrix(named, OF_GROUPS, order[:_GROUPS]) | {"left_out": max(len(order) - _GROUPS, 0)}


def matrix(
    named: Iterable[tuple[str, Score]], columns: Mapping[str, Tolerance], order: Sequence[str]
) -> dict[str, Any]:
    """Heads and rows; columns that nobody has a score of are left out."""
    cells: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    for name, score in named:
        if score.metric in columns:
            cells[name][score.metric] = _cell(score, columns[score.metric])
    chosen = [name for name in order if name in cells]
    metrics = [metric for metric in columns if any(metric in cells[name] for name in chosen)]
    empty = {"kind": "none", "value": "–", "interval": "", "word": "not measured"}
    return {
        "heads": [{"title": columns[m].title, "bound": columns[m].words} for m in metrics],
        "rows": [
            {"group": name, "cells": [cells[name].get(metric, empty) for metric in metrics]}
            for name in chosen
        ],
    }


def _cell(score: Score, tolerance: Tolerance) -> dict[str, str]:
    """The number, and whether its interval lies within what is tolerated, beyond it, or across."""
    if score.value is None or score.low is None or score.high is None:
        return {"kind": "none", "value": "–", "interval": "", "word": "too few rows"}
    if math.isinf(tolerance.minimum) and math.isinf(tolerance.maximum):
        kind, word = "none", "no bound"
    elif score.low > tolerance.maximum or score.high < tolerance.minimum:
        kind, word = "failed", "beyond"
    elif tolerance.minimum <= score.low and score.high <= tolerance.maximum:
        kind, word = "passed", "within"
    else:
        kind, word = "warning", "open"
    return {
        "kind": kind,
        "value": wording.number(score.value),
        "interval": wording.interval(score.low, score.high),
        "word": word,
    }


def _departure(score: Score, tolerance: Tolerance) -> float:
    """How far beyond its tolerance an interval surely reaches; the estimate breaks ties."""
    if score.value is None or score.low is None or score.high is None:
        return 0.0
    if score.unit == "ratio":
        low, high, value = (math.log(max(x, 1e-9)) for x in (score.low, score.high, score.value))
        sure, size = max(low, -high, 0.0), abs(value)
        return (sure + size / 100) / math.log(tolerance.maximum)
    sure = max(score.low - tolerance.neutral, 0.0)
    return (sure + abs(score.value - tolerance.neutral) / 100) / tolerance.maximum
