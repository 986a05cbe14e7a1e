"""Whether an image and the row beside it say of each other what real ones say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from generators.schema import Column, Images, TableSchema, to_numbers

from .base import Score, skipped
from .comparison import Comparison

_MAX_COLUMNS = 20
_MAX_LEVELS = 12
_PARTS = 4
_MIN_ROWS = 20
_MAX_ROWS = 2_000


def association(comparison: Comparison) -> list[Score]:
    """Score ``association_gap`` of each column of the rows beside images.

    How much better a column is predicted from real holdout images by a model that learned real
    pairs than by one that learned as many synthetic pairs; 0 where synthetic pairs teach as much.
    Ranges are predicted by quarter. The interval is normal, over the holdout's images.

    Raises:
        SchemaError: images without rows.
    """
    beside = comparison.beside
    if beside is None or not isinstance(beside.schema, TableSchema):
        return []
    return list(_gaps(comparison, beside.schema.modelled[:_MAX_COLUMNS]))


def _gaps(comparison: Comparison, columns: tuple[Column, ...]) -> Iterator[Score]:
    features = comparison.image_features
    # Coarse pixels and a network that has seen none of the images, in the order of ``parts``.
    points = dict(zip(("holdout", "synthetic", "train"), features.neutral, strict=True))
    rows = {name: _rows(getattr(features, name)) for name in points}
    n = min(len(points["train"]), len(points["synthetic"]), _MAX_ROWS)
    test = points["holdout"]
    for column in columns:
        classes = _classes(column, {name: frame[column.name] for name, frame in rows.items()})
        wanted = classes["holdout"]
        enough = [len(np.unique(classes[name][:n])) > 1 for name in ("train", "synthetic")]
        if len(wanted) < _MIN_ROWS or not all(enough):
            reason = f"needs {_MIN_ROWS} holdout images and two values on each side"
            yield skipped("association_gap", "fidelity", reason, column.name)
            continue
        hits = [
            _predicted(points[name][:n], classes[name][:n], test) == wanted
            for name in ("train", "synthetic")
        ]
        gap = hits[0].astype(float) - hits[1].astype(float)
        half = 1.96 * float(gap.std(ddof=1)) / len(gap) ** 0.5 + 0.5 / len(gap)
        yield Score(
            metric="association_gap",
            dimension="fidelity",
            subject=column.name,
            value=float(gap.mean()),
            low=float(gap.mean()) - half,
            high=float(gap.mean()) + half,
            reference=0.0,
            n=n,
        )


def _rows(images: Images) -> pd.DataFrame:
    if images.rows is None:
        raise TypeError("the comparison has a table, its images must have rows")
    return images.rows


def _predicted(points: np.ndarray, classes: np.ndarray, test: np.ndarray) -> np.ndarray:
    scaler = StandardScaler().fit(points)
    model = LogisticRegression(C=0.1, max_iter=200)
    with warnings.catch_warnings():
        # Both sides get the same effort: that is what is compared.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(points), classes)
    guesses: np.ndarray = model.predict(scaler.transform(test))
    return guesses


def _classes(column: Column, parts: dict[str, pd.Series]) -> dict[str, np.ndarray]:
    """What is predicted, as numbers: the commonest levels, or the quarter of the train range."""
    if column.discrete:
        common = parts["train"].value_counts().index[:_MAX_LEVELS]
        levels = {level: number for number, level in enumerate(common, start=1)}
        return {
            name: np.array([levels.get(cell, 0) for cell in series], np.int64)
            for name, series in parts.items()
        }
    numbers = {name: to_numbers(series) for name, series in parts.items()}
    edges = np.nanquantile(numbers["train"], np.linspace(0, 1, _PARTS + 1)[1:-1])
    return {
        name: np.where(np.isnan(values), -1, np.searchsorted(edges, values)).astype(np.int64)
        for name, values in numbers.items()
    }
