"""Copies: planted ones are found, natural ones are not, and distances agree with scipy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from generators.schema import TableSchema
from validators.comparison import Comparison
from validators.privacy.copies import Copies, Pull, copy_excess, whole_subjects
from validators.privacy.neighbours import MixedPoints, PixelPoints, nearest


def people(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, n)
    return pd.DataFrame(
        {
            "age": age,
            "income": np.round(rng.lognormal(10, 1, n) * (1 + age / 90), 2),
            "sex": rng.choice(["F", "M"], n),
            "town": rng.choice([f"t{k}" for k in range(9)], n),
        }
    )


def categories(n: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({f"c{k}": rng.choice(["a", "b", "c"], n) for k in range(8)})


def compare(synthetic: pd.DataFrame, train: pd.DataFrame, holdout: pd.DataFrame) -> Comparison:
    schema = TableSchema.infer(pd.concat([train, holdout], ignore_index=True))
    return Comparison(synthetic=synthetic, train=train, holdout=holdout, schema=schema, seed=3)


def with_copies(fresh: pd.DataFrame, train: pd.DataFrame, count: int) -> pd.DataFrame:
    return pd.concat([fresh.iloc[count:], train.iloc[:count]], ignore_index=True)


def scores(comparison: Comparison) -> dict:
    return {score.metric: score for score in Copies()(comparison)}


@pytest.fixture(scope="module")
def real() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    return people(2000, 0), people(800, 1), people(1500, 2)


def test_fresh_rows_are_no_copies(real):
    train, holdout, fresh = real
    found = scores(compare(fresh, train, holdout))
    for metric, ideal in (("copy_excess", 0), ("near_copy_excess", 0), ("dcr_share", 0.5)):
        assert found[metric].low <= ideal <= found[metric].high
    assert found["copy_excess"].high < 0.01


def test_five_percent_verbatim_copies_are_measured(real):
    train, holdout, fresh = real
    found = scores(compare(with_copies(fresh, train, 75), train, holdout))
    copies = found["copy_excess"]
    assert copies.low > 0.03
    assert copies.value == pytest.approx(0.05, abs=0.002)
    assert found["near_copy_excess"].low > 0


def test_near_copies_are_seen_where_no_row_is_equal(real):
    train, holdout, _ = real
    near = train.iloc[:1500].copy()
    near["income"] += 0.01
    found = scores(compare(near.reset_index(drop=True), train, holdout))
    assert found["copy_excess"].value == 0
    assert found["near_copy_excess"].low > 0.2
    assert found["dcr_share"].low > 0.6


def test_forty_percent_copies_in_a_table_of_categories():
    train, holdout, fresh = categories(1000, 0), categories(600, 1), categories(1000, 2)
    clean = scores(compare(fresh, train, holdout))["copy_excess"]
    planted = scores(compare(with_copies(fresh, train, 400), train, holdout))["copy_excess"]
    assert clean.low <= 0 <= clean.high
    assert planted.low > 0.15


def test_where_every_row_is_common_nobody_is_copied():
    train, holdout, fresh = (categories(900, seed)[["c0", "c1"]] for seed in range(3))
    found = scores(compare(fresh, train, holdout))["copy_excess"]
    assert found.value == 0


def test_train_larger_than_holdout_does_not_bias_the_excess():
    rng = np.random.default_rng(0)
    values = [
        copy_excess(
            rng.integers(0, 4000, 1000), rng.integers(0, 4000, 2400), rng.integers(0, 4000, 800)
        )
        for _ in range(60)
    ]
    covered = np.mean([estimate.low <= 0 <= estimate.high for estimate in values])
    assert abs(np.mean([estimate.value for estimate in values])) < 0.02
    assert covered >= 0.85


def test_one_row_repeated_is_one_piece_of_evidence():
    train, holdout = np.arange(1000), np.arange(1000, 2000)
    one = copy_excess(np.r_[np.zeros(50, int), np.arange(5000, 5950)], train, holdout)
    many = copy_excess(np.r_[np.arange(50), np.arange(5000, 5950)], train, holdout)
    assert one.value == many.value == 0.05
    assert one.low < 0 < many.low


def test_one_subject_copied_is_one_piece_of_evidence():
    train, holdout = np.arange(1000), np.arange(1000, 2000)
    synthetic = np.r_[np.arange(50), np.arange(5000, 5950)]
    families = (train // 50, holdout // 50)
    one = copy_excess(synthetic, train, holdout, subjects=families)
    assert one.value == 0.05
    assert one.low < 0


def test_references_hold_whole_subjects():
    subjects = np.repeat(np.arange(30), 4)
    rows = whole_subjects(subjects, 40, np.random.default_rng(0))
    assert len(rows) == 40
    assert (np.bincount(subjects[rows])[np.unique(subjects[rows])] == 4).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 60), st.integers(1, 6))
def test_nearest_equals_the_full_matrix(seed, n, m, k):
    rng = np.random.default_rng(seed)
    first, other = (
        MixedPoints(rng.normal(size=(size, 3)), rng.integers(0, 3, (size, 2)).astype(float))
        for size in (n, m)
    )
    full = cdist(first.numbers, other.numbers, "cityblock")
    full += (first.marks[:, None] != other.marks[None]).sum(axis=2)
    expected = np.sort(full, axis=1)[:, np.minimum(np.arange(k), m - 1)]
    np.testing.assert_allclose(nearest(first, other, k), expected, atol=1e-12)


def test_pixel_distances_are_euclidean_and_zero_for_equal_images():
    rng = np.random.default_rng(0)
    first = PixelPoints(rng.integers(0, 256, (30, 64)).astype(float))
    other = PixelPoints(np.vstack([first.pixels[:5], rng.integers(0, 256, (50, 64))]))
    full = np.sort(cdist(first.pixels, other.pixels), axis=1)[:, :2]
    found = nearest(first, other, 2)
    np.testing.assert_allclose(found, full, atol=1e-6)
    assert (found[:5, 0] == 0).all()


def test_ties_count_half():
    share = Pull(train=np.array([0.0, 1, 2, 2]), holdout=np.array([0.0, 2, 1, 2])).share()
    assert share.value == 0.5


def test_missing_values_are_at_distance_one_from_present_ones():
    train = people(300, 0).astype({"age": "float64"})
    train.loc[train.index[:60], "age"] = np.nan
    comparison = compare(train.copy(), train, train.iloc[::-1].reset_index(drop=True))
    points = MixedPoints.of(comparison.table.train)
    gap = points.take(np.array([0])).distances(points.take(np.array([0, 299])))[0]
    assert gap[0] == 0
    assert gap[1] >= 1


def test_same_seed_same_scores_and_inputs_untouched(real):
    train, holdout, fresh = (frame.copy() for frame in real)
    first, again = (Copies(queries=400)(compare(fresh, train, holdout)) for _ in range(2))
    assert first == again
    for frame, before in zip((train, holdout, fresh), real, strict=True):
        pd.testing.assert_frame_equal(frame, before)
