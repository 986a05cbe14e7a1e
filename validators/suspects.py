"""Which synthetic rows or images give themselves away, told by their number alone.

Rows that lie closest to real ones are not told: that would show an attacker where to look.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from generators.schema import Images, ImageSchema

from .comparison import Comparison
from .features import Features

_ROWS = 4_000
_FEWEST = 40
_SHOWN = 10


@dataclass(frozen=True)
class Suspect:
    """A synthetic row or image.

    Attributes:
        place: its number in the synthetic data, from 0.
        surer: share of the real holdout that looks less synthetic to the classifier.
        label: the class of an image.
    """

    place: int
    surer: float
    label: str = ""


def least_convincing(comparison: Comparison) -> tuple[Suspect, ...]:
    """The rows that boosted trees call synthetic most surely, out of fold; the surest first.

    Rows that look no more synthetic than 95 % of the holdout does are not listed.
    """
    places, synthetic, holdout, categorical = _inputs(comparison)
    if min(len(synthetic), len(holdout)) < _FEWEST or synthetic.shape[1] == 0:
        return ()
    made, real = _scores(synthetic, holdout, categorical, comparison)
    surer = np.searchsorted(np.sort(real), made) / len(real)
    order = np.lexsort((places, -made))[:_SHOWN]
    return tuple(
        Suspect(int(places[at]), float(surer[at]), _label(comparison, int(places[at])))
        for at in order
        if surer[at] > 0.95
    )


def _inputs(
    comparison: Comparison,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[bool] | None]:
    if isinstance(comparison.schema, ImageSchema):
        features = comparison.image_features
        holdout, synthetic, _ = features.neutral
        n = min(len(holdout), len(synthetic), _ROWS)
        rng = comparison.rng("suspects")
        made, real = (np.sort(rng.permutation(len(p))[:n]) for p in (synthetic, holdout))
        return features.places[made], synthetic[made], holdout[real], None
    rows = comparison.equal_rows("suspects", _ROWS)
    table = comparison.table
    model = Features.of(table)
    synthetic = model.for_trees(table.synthetic.take(rows.synthetic))
    holdout = model.for_trees(table.holdout.take(rows.holdout))
    return rows.synthetic, synthetic, holdout, model.categorical


def _scores(
    synthetic: np.ndarray,
    holdout: np.ndarray,
    categorical: list[bool] | None,
    comparison: Comparison,
) -> tuple[np.ndarray, np.ndarray]:
    """What a classifier says that has not seen the row; higher is more synthetic."""
    data = np.vstack([synthetic, holdout])
    labels = np.repeat([1, 0], [len(synthetic), len(holdout)])
    fold = comparison.rng("suspects/folds").permutation(len(data)) % 2
    scores = np.empty(len(data))
    for part in (0, 1):
        model = HistGradientBoostingClassifier(
            max_iter=40,
            max_leaf_nodes=15,
            categorical_features=categorical,
            early_stopping=False,
            random_state=comparison.seed_for("suspects"),
        )
        model.fit(data[fold != part], labels[fold != part])
        scores[fold == part] = model.decision_function(data[fold == part])
    return scores[labels == 1], scores[labels == 0]


def _label(comparison: Comparison, place: int) -> str:
    schema, synthetic = comparison.schema, comparison.synthetic
    if isinstance(schema, ImageSchema) and isinstance(synthetic, Images) and schema.labelled:
        return schema.classes[int(synthetic.labels[place])]
    return ""
