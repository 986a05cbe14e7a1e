"""Drift: what has not changed is not accused, what has is found and named."""

import numpy as np
import pandas as pd
import pytest

from generators.schema import TableSchema
from validators import Comparison
from validators.calibration import Calibration
from validators.drift import Drift, drift

FEW = Calibration(iterations=20, draws=300)


def rows(n: int, seed: int, *, shift: float = 0.0, north: float = 0.5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "x": (x + shift).round(2),
            "y": (x + rng.normal(size=n)).round(2),
            "place": rng.choice(["north", "south", "west"], n, p=[north, 0.8 - north, 0.2]),
        }
    )


def between(old: pd.DataFrame, new: pd.DataFrame, seed: int = 0) -> Drift:
    schema = TableSchema.infer(pd.concat([old, new]))
    return drift(Comparison(new, old, new, schema, seed), FEW)


def test_data_of_the_same_kind_are_not_accused() -> None:
    for seed in range(8):
        found = between(rows(1_500, seed), rows(1_000, 100 + seed), seed)
        assert not found.proven
    assert found.sentence == "no drift beyond the tolerance is proven"


def test_a_shifted_column_is_named_and_its_size_is_right() -> None:
    found = between(rows(3_000, 1), rows(3_000, 2, north=0.65))
    assert found.drifted == ("place",)
    assert found.proven
    (place,) = (score for score in found.columns if score.subject == "place")
    assert place.low is not None
    assert place.high is not None
    assert place.low <= 0.15 <= place.high
    assert "place" in found.sentence


def test_a_lost_relation_is_found_though_no_column_has_moved() -> None:
    new = rows(4_000, 4)
    new["y"] = new["y"].sample(frac=1, random_state=1).to_numpy()
    found = between(rows(4_000, 3), new)
    assert found.drifted == ()
    assert found.proven
    assert "the columns together" in found.sentence


def test_new_data_that_hold_the_old_ones_have_not_drifted() -> None:
    old = rows(1_000, 5)
    assert not between(old, pd.concat([old, rows(200, 6)], ignore_index=True)).proven


@pytest.mark.parametrize("n", [3, 15])
def test_too_few_rows_are_a_reason_and_no_drift(n: int) -> None:
    found = between(rows(500, 1), rows(n, 2, shift=5))
    assert found.detection.skipped is not None
    assert not found.proven
