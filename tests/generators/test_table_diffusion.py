"""What the diffusion of tables promises beyond the contract: known laws, exact conditioning."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from generators import TableSchema
from generators.base import ParameterError
from generators.encoding import TableCodec
from generators.image.edm import SIGMA_DATA
from generators.tabular.diffusion import Places, TableDiffusion, _Training
from generators.tabular.tokens import TwoLevelTokens

CORRELATION = 0.8


def fitted(frame: pd.DataFrame, **parameters: object) -> TableDiffusion:
    model = TableDiffusion.from_parameters(parameters)
    return model.fit(frame, TableSchema.infer(frame))


def joint(n: int, seed: int = 0) -> tuple[pd.DataFrame, dict[tuple[str, str, bool], float]]:
    """Three discrete columns, of which the last follows from both others; and the true law."""
    truth = {}
    for a, b in [(a, b) for a in "xyz" for b in "uv"]:
        likely = {"x": 0.5, "y": 0.3, "z": 0.2}[a] * (0.9 if (a == "x") == (b == "u") else 0.1)
        flag = 0.95 if (a == "y") != (b == "u") else 0.2
        truth[a, b, True], truth[a, b, False] = likely * flag, likely * (1 - flag)
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(truth), n, p=list(truth.values()))
    return pd.DataFrame([list(truth)[at] for at in drawn], columns=["a", "b", "c"]), truth


@pytest.fixture(scope="module")
def discrete() -> TableDiffusion:
    return fitted(joint(6_000)[0], max_steps=800, verbatim_guard=False)


@pytest.fixture(scope="module")
def normal() -> TableDiffusion:
    rng = np.random.default_rng(0)
    one = rng.normal(size=8_000)
    two = CORRELATION * one + math.sqrt(1 - CORRELATION**2) * rng.normal(size=8_000)
    return fitted(pd.DataFrame({"one": one, "two": two}), max_steps=500)


def test_a_discrete_law_is_learned(discrete: TableDiffusion) -> None:
    _, truth = joint(1)
    found = discrete.sample(20_000, seed=1).value_counts(normalize=True)
    distance = sum(abs(found.get(cell, 0.0) - share) for cell, share in truth.items()) / 2
    # 6,000 rows of the truth are 0.011 away on average, 20,000 of a model 0.006 more.
    assert distance < 0.03


@pytest.mark.parametrize("given", [{"a": "y"}, {"b": "u", "c": True}, {"c": False}], ids=str)
def test_completion_is_the_law_of_the_rest(
    discrete: TableDiffusion, given: dict[str, object]
) -> None:
    _, truth = joint(1)
    full = discrete.fill(pd.DataFrame({k: [v] * 8_000 for k, v in given.items()}), seed=2)
    cells = {
        cell: share
        for cell, share in truth.items()
        if all(dict(zip("abc", cell, strict=True))[name] == v for name, v in given.items())
    }
    total, found = sum(cells.values()), full.value_counts(normalize=True)
    distance = sum(abs(found.get(cell, 0.0) - share / total) for cell, share in cells.items()) / 2
    assert distance < 0.06


def test_conditions_are_filtering(discrete: TableDiffusion) -> None:
    whole = discrete.sample(30_000, seed=3)
    held = whole[whole["c"] & whole["a"].isin(["x", "z"])].value_counts(normalize=True)
    cut = discrete.sample_where(["c = true", "a in (x, z)"], 8_000, seed=4)
    found = cut.value_counts(normalize=True)
    assert (held - found.reindex(held.index, fill_value=0.0)).abs().sum() / 2 < 0.03


def test_a_normal_pair_is_completed_by_its_formula(normal: TableDiffusion) -> None:
    one = np.linspace(-2, 2, 41)
    full = normal.fill(pd.DataFrame({"one": np.repeat(one, 400)}), seed=1)
    two = full["two"].to_numpy().reshape(41, 400)
    # A mean of 400 rows is 0.03 off, and 0.95 where "one" is not heeded.
    assert np.sqrt(((two.mean(axis=1) - CORRELATION * one) ** 2).mean()) < 0.13
    assert two.std(axis=1).mean() == pytest.approx(math.sqrt(1 - CORRELATION**2), abs=0.06)


def test_ranges_are_filtering(normal: TableDiffusion) -> None:
    whole = normal.sample(20_000, seed=2)
    held = whole[whole["one"].between(0.31, 1.17) & (whole["two"] < 0.5)]
    cut = normal.sample_where(["one in 0.31..1.17", "two < 0.5"], 3_000, seed=1)
    for name in ("one", "two"):
        assert ks_2samp(cut[name], held[name]).statistic < 0.04
    assert abs(cut.corr().iloc[0, 1] - held.corr().iloc[0, 1]) < 0.08


def test_numbers_are_denoised_within_their_cells() -> None:
    rng = np.random.default_rng(1)
    one = rng.random(3_000)
    frame = pd.DataFrame({"one": one, "two": 2 * one + 0.02 * rng.normal(size=3_000)})
    sample = fitted(frame, max_steps=450, cells=4).sample(4_000, seed=1)
    # Four cells alone would leave an error of 2 / 4 / sqrt(6) = 0.2.
    assert (sample["two"] - 2 * sample["one"]).std() < 0.08
    assert ks_2samp(sample["one"], one).statistic < 0.04


@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=30, max_size=400),
    step=st.sampled_from([None, 1.0, 0.01]),
    seed=st.integers(0, 100),
)
@settings(max_examples=40, deadline=None)
def test_a_place_gives_its_value_back(values: list[float], step: float | None, seed: int) -> None:
    numbers = np.array(values)
    frame = pd.DataFrame({"x": np.round(numbers / step) * step if step else numbers})
    codec = TableCodec.fit(frame, TableSchema.infer(frame, kinds={"x": "numerical"}))
    encoded = codec.encode(frame)
    cells = TwoLevelTokens.fit(codec, encoded, coarse=8, fine=1).cells[0]
    known = encoded.values[np.isfinite(encoded.values[:, 0]), 0]
    if cells is None:
        assert len(known) == 0
        return
    place = cells.place(known, np.random.default_rng(seed))
    assert ((place >= 0) & (place <= 1)).all()
    again = cells.pieces().at(cells.interval(known) // cells.per_fine, place)
    span = np.ptp(cells.knots) + (step or 1e-9)
    assert np.abs(codec.columns[0].snap(again) - known).max() <= 1e-6 * span


def test_an_untrained_model_has_the_bound_of_independent_columns() -> None:
    frame, _ = joint(4_000)
    model = fitted(frame, epochs=1)
    tokens = torch.from_numpy(model.tokens_.encode(model.codec_.encode(frame)))
    training = _Training(model, tokens, torch.zeros(len(tokens), 0))
    rows = training.rows.long()
    with torch.no_grad():
        each = [training.losses(training.network, rows, training.random) for _ in range(8)]
    entropy = sum(
        -(share * np.log(share)).sum()
        for share in (frame[name].value_counts(normalize=True).to_numpy() for name in frame)
    )
    assert float(torch.stack(each).mean(dim=(0, 2)).sum()) == pytest.approx(entropy, rel=0.02)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 3.0])
def test_features_are_what_is_to_be_expected_of_the_clean_place(sigma: float) -> None:
    rng = np.random.default_rng(2)
    clean = SIGMA_DATA * rng.normal(size=400_000)
    noisy = clean + sigma * rng.normal(size=len(clean))
    near = clean[np.abs(noisy - 0.4) < 0.02] / SIGMA_DATA
    features = Places(torch.tensor([[0.4]]), torch.tensor([[sigma]])).features()[0]
    expected = [near.mean(), np.cos(2 * near).mean() / 2, np.sin(2 * near).mean() / 2]
    assert features[[0, 4, 8]].tolist() == pytest.approx(expected, abs=0.05)


def test_bad_settings_are_refused() -> None:
    bad = {"width": 0, "cells": 2, "evaluations": 1, "weight_decay": -1.0, "max_minutes": 0.0}
    for field, value in bad.items():
        with pytest.raises(ParameterError, match=field):
            TableDiffusion.from_parameters({field: value})
