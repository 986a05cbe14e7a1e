"""Conditions under CTGAN and TVAE: the same distribution as throwing away what does not fit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chisquare, ks_2samp, norm

from generators import GENERATORS, TableSchema
from generators.base import Conditional
from generators.conditions import Conditions
from generators.tabular.latent import AllowedTokens, Outputs

SMALL = {"epochs": 60, "batch_size": 100}
SETTINGS = {
    "ctgan": {**SMALL, "generator_dim": [32], "discriminator_dim": [32]},
    "tvae": {**SMALL, "compress_dims": [32], "decompress_dims": [32]},
}


def dependent(n: int = 1_500) -> pd.DataFrame:
    rng = np.random.default_rng(7)
    group = rng.choice(["rare", "mid", "often"], n, p=[0.04, 0.26, 0.7])
    shift = pd.Series(group).map({"rare": 6.0, "mid": 3.0, "often": 0.0}).to_numpy()
    return pd.DataFrame(
        {
            "group": group,
            "x": rng.normal(shift, 1.0),
            "flag": rng.random(n) < np.where(group == "often", 0.2, 0.9),
            "many": rng.integers(0, 400, n).astype(str),
        }
    )


@pytest.fixture(scope="module", params=SETTINGS)
def model(request: pytest.FixtureRequest) -> Conditional:
    frame = dependent()
    made = GENERATORS[request.param].from_parameters(SETTINGS[request.param])
    made.fit(frame, TableSchema.infer(frame, kinds={"many": "categorical"}))
    assert isinstance(made, Conditional)
    return made


@pytest.mark.parametrize(
    "where", [["group = mid"], ["x >= 1.5", "x < 4"], ["flag = true", "x < 1"]]
)
def test_conditions_give_what_filtering_would(model: Conditional, where: list[str]) -> None:
    everything = model.sample(60_000, seed=1)
    assert isinstance(everything, pd.DataFrame)
    filtered = everything[Conditions.parse(where, model.codec_.schema).matches(everything)]
    drawn = model.sample_where(where, 3_000, seed=2)
    assert isinstance(drawn, pd.DataFrame)
    assert ks_2samp(drawn["x"], filtered["x"]).statistic < 0.05
    for name in ("group", "flag"):
        shares = [frame[name].value_counts(normalize=True) for frame in (drawn, filtered)]
        assert shares[0].sub(shares[1], fill_value=0).abs().sum() / 2 < 0.04, name


def test_a_rare_category_is_as_easy_to_ask_for(model: Conditional) -> None:
    drawn = model.sample_where(["group = rare", "many in ('3', '77', '311')"], 500, seed=3)
    assert isinstance(drawn, pd.DataFrame)
    assert (drawn["group"] == "rare").all()
    assert set(drawn["many"]) <= {"3", "77", "311"}
    assert drawn["x"].nunique() > 100


def test_given_cells_decide_what_is_filled(model: Conditional) -> None:
    everything = model.sample(30_000, seed=4)
    assert isinstance(everything, pd.DataFrame)
    for group in ("mid", "often"):
        given = pd.DataFrame({"group": [group] * 2_000})
        filled = model.fill(given, seed=5)
        expected = everything[everything["group"] == group]
        assert abs(filled["flag"].mean() - expected["flag"].mean()) < 0.06
        assert ks_2samp(filled["x"], expected["x"]).statistic < 0.08


def outputs(n: int, deviations: torch.Tensor | None) -> Outputs:
    logits = torch.tensor([[0.3, -0.2, 0.9]]).expand(n, -1)
    return Outputs(logits, torch.full((n, 1), 0.1), deviations)


def allowed() -> AllowedTokens:
    """The first token by half; of two modes alphas within (0, 0.3) and above 0.05."""
    bounds = torch.tensor([[[0.0, 0.3], [0.05, torch.inf]]], dtype=torch.float64)
    return AllowedTokens(0, 0, torch.tensor([0.5], dtype=torch.float64), bounds)


def test_chances_are_those_of_the_closed_form() -> None:
    share = torch.tensor([0.3, -0.2, 0.9]).double().softmax(0).numpy()
    within = norm.cdf(0.3, 0.1, 0.2) - norm.cdf(0.0, 0.1, 0.2), norm.sf(0.05, 0.1, 0.2)
    found = allowed().chances(outputs(1, torch.tensor([0.2])))[0].numpy()
    np.testing.assert_allclose(found, share * [0.5, *within], rtol=1e-6)
    exact = allowed().chances(outputs(1, None))[0].numpy()
    np.testing.assert_allclose(exact, share * [0.5, 1.0, 1.0], rtol=1e-6)


def test_draws_follow_the_chances_and_stay_within() -> None:
    one = outputs(20_000, torch.tensor([0.2]))
    tokens, alphas = allowed().draw(one, torch.Generator().manual_seed(0))
    chances = allowed().chances(one)[0].numpy()
    counts = np.bincount(tokens.numpy(), minlength=3)
    assert chisquare(counts, chances / chances.sum() * len(tokens)).pvalue > 1e-3
    first, second = alphas[tokens == 1].numpy(), alphas[tokens == 2].numpy()
    assert 0.0 <= first.min() < first.max() <= 0.3 + 1e-6
    assert second.min() >= 0.05 - 1e-6
    inside = norm(0.1, 0.2)
    uniform = (inside.cdf(first) - inside.cdf(0)) / (inside.cdf(0.3) - inside.cdf(0))
    assert ks_2samp(uniform, np.linspace(0, 1, 5_000)).pvalue > 1e-3
