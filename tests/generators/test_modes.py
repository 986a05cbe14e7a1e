"""Mixtures against known ones and scikit-learn, tokens and back, softmax over spans."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from generators import TableSchema
from generators.base import SchemaError
from generators.encoding import TableCodec
from generators.tabular.modes import MAX_LEVELS, Mixture, Spans, TableTokens, fit_mixtures

CPU = torch.device("cpu")


def three_modes(n: int = 6000) -> np.ndarray:
    rng = np.random.default_rng(0)
    mode = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    return rng.normal(np.array([-10.0, 0.0, 6.0])[mode], np.array([1.0, 0.5, 2.0])[mode])


def log_likelihood(mixture: Mixture, x: np.ndarray) -> float:
    z = (x[:, None] - mixture.means) / mixture.stds
    density = mixture.weights * np.exp(-0.5 * z**2) / mixture.stds / np.sqrt(2 * np.pi)
    return float(np.log(density.sum(axis=1)).mean())


def test_a_known_mixture_is_recovered():
    (mixture,) = fit_mixtures([three_modes()])
    assert len(mixture.means) == 3
    order = np.argsort(mixture.means)
    np.testing.assert_allclose(mixture.means[order], [-10, 0, 6], atol=0.2)
    np.testing.assert_allclose(mixture.stds[order], [1, 0.5, 2], rtol=0.1)
    np.testing.assert_allclose(mixture.weights[order], [0.5, 0.3, 0.2], atol=0.03)


def test_as_likely_as_the_mixture_of_scikit_learn():
    x = np.random.default_rng(1).gamma(1.5, 20.0, 3000)
    (mixture,) = fit_mixtures([x])
    peer = GaussianMixture(len(mixture.means), n_init=3, random_state=0, max_iter=200)
    peer.fit(x[:, None])
    theirs = Mixture(peer.weights_, peer.means_[:, 0], np.sqrt(peer.covariances_[:, 0, 0]))
    assert log_likelihood(mixture, x) > log_likelihood(theirs, x) - 0.005


def test_columns_do_not_disturb_each_other_and_units_do_not_matter():
    x = three_modes(1500)
    alone = fit_mixtures([x])[0]
    beside = fit_mixtures([x, np.random.default_rng(2).exponential(size=4000), x * 1e12 + 1.6e15])
    for other, scale, shift in ((beside[0], 1.0, 0.0), (beside[2], 1e12, 1.6e15)):
        assert len(other.means) == len(alone.means)
        np.testing.assert_allclose((other.means - shift) / scale, alone.means, atol=0.05)


@pytest.mark.parametrize(
    "values", [[3.0], [3.0, 3.0], [0.0, 1e-300], [1e15, 1e15 + 1.0], [5.0] * 3000]
)
def test_hardly_any_values_give_a_usable_mixture(values: list[float]):
    (mixture,) = fit_mixtures([np.array(values)])
    assert np.all(mixture.stds > 0)
    assert np.all(np.isfinite(mixture.means))
    np.testing.assert_allclose(mixture.posterior(np.array(values)).sum(axis=1), 1.0)


def mixed_table(n: int = 1200) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    money = np.where(rng.random(n) < 0.4, 0.0, rng.lognormal(8, 1, n))
    return pd.DataFrame(
        {
            "money": np.where(rng.random(n) < 0.1, np.nan, money),
            "age": rng.integers(18, 90, n),
            "colour": pd.Series(rng.choice(["red", "green", "blue", None], n), dtype=object),
            "code": pd.Series([f"k{int(k)}" for k in rng.zipf(1.3, n) % 700], dtype=object),
            "one": np.ones(n),
        }
    )


def fitted(frame: pd.DataFrame) -> tuple[TableCodec, TableTokens]:
    schema = TableSchema.infer(frame, kinds={"code": "categorical", "one": "numerical"})
    codec = TableCodec.fit(frame, schema)
    return codec, TableTokens.fit(codec, codec.encode(frame))


def test_numbers_whose_squares_overflow_have_modes():
    sample = np.random.default_rng(0).normal(size=300)
    small, great = fit_mixtures([sample, sample * 1e300])
    assert np.allclose(small.weights, great.weights)
    assert np.allclose(small.means, great.means / 1e300)
    assert np.allclose(small.stds, great.stds / 1e300)


def test_tokens_give_the_table_back():
    frame = mixed_table()
    codec, layout = fitted(frame)
    layout = TableTokens.from_json(codec, json.loads(json.dumps(layout.to_json())))
    tokens, alphas = layout.encode(codec.encode(frame), np.random.default_rng(4))
    assert np.all(tokens < np.array(layout.sizes))
    back = codec.decode(layout.decode(tokens, alphas, np.random.default_rng(5)))
    pd.testing.assert_series_equal(back["colour"], frame["colour"])
    assert back["money"].isna().equals(frame["money"].isna())
    assert (back["money"] == 0).equals(frame["money"] == 0)
    # Ages take more values than may be tokens, so they pass through modes and come back exactly.
    assert (back["age"] == frame["age"]).mean() > 0.99
    paid = frame["money"] > 0
    assert (np.abs(back["money"] / frame["money"] - 1)[paid] < 1e-3).mean() > 0.97


def test_a_spike_and_a_missing_value_are_tokens_without_alpha():
    frame = mixed_table()
    codec, layout = fitted(frame)
    tokens, alphas = layout.encode(codec.encode(frame), np.random.default_rng(4))
    money = layout.columns[0]
    no_width = (frame["money"].isna() | (frame["money"] == 0)).to_numpy()
    assert len(money.codes) == 2
    assert np.array_equal(tokens[:, 0] < money.first_mode, no_width)
    assert np.all(alphas[no_width, 0] == 0)


def test_rare_categories_share_a_token_and_keep_their_shares():
    n, rare = 40_000, 300
    common = np.repeat(np.arange(MAX_LEVELS), 100)
    tail = np.repeat(np.arange(1000, 1000 + rare), 2)
    tail[:150] = 1000  # the commonest of the rare
    frame = pd.DataFrame({"c": [f"v{k:04d}" for k in np.concatenate([common, tail])]})
    codec, layout = fitted(frame.assign(code="x", one=1.0)[["c", "code", "one"]])
    column = layout.columns[0]
    assert column.size == MAX_LEVELS
    tokens = np.full((n, 3), [column.size - 1, 0, 0])
    drawn = codec.decode(layout.decode(tokens, np.zeros((n, 0)), np.random.default_rng(6)))["c"]
    truth = frame["c"][~frame["c"].isin({codec.columns[0].levels[k] for k in column.codes})]
    gap = drawn.value_counts(normalize=True).sub(truth.value_counts(normalize=True), fill_value=0)
    assert set(drawn) == set(truth)
    assert gap.abs().max() < 0.01


def test_an_unknown_category_is_reported_without_its_value():
    frame = mixed_table()
    codec, _ = fitted(frame)
    other = frame.assign(colour="SECRET")
    with pytest.raises(SchemaError, match=r"'colour'.*1200 rows") as error:
        TableTokens.fit(codec, codec.encode(other))
    assert "SECRET" not in str(error.value)


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    scale=st.sampled_from([0.1, 5.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_spans_agree_with_torch_span_by_span(sizes: list[int], scale: float, seed: int):
    logits = torch.randn(4, sum(sizes), generator=torch.Generator().manual_seed(seed)) * scale
    spans, parts = Spans(sizes, CPU), logits.split(sizes, dim=1)
    softmax = torch.cat([part.softmax(1) for part in parts], dim=1)
    torch.testing.assert_close(spans.softmax(logits), softmax)
    token = [torch.arange(4) % size for size in sizes]
    exact = sum(F.cross_entropy(*pair, reduction="sum") for pair in zip(parts, token, strict=True))
    at = torch.stack(token) + spans.first[:, None]
    places = (at * 4 + torch.arange(4)).flatten()
    torch.testing.assert_close(spans.cross_entropy(logits.t().contiguous(), places), exact)
    largest = torch.stack([part.argmax(1) for part in parts], dim=1)
    assert torch.equal(spans.largest(logits), largest)
    span = torch.arange(4) % len(sizes)
    alone = torch.stack([parts[int(at)][row].logsumexp(0) for row, at in enumerate(span)])
    torch.testing.assert_close(spans.within(logits, span).logsumexp(1), alone)


def test_the_gradient_of_a_softmax_over_spans_is_right():
    spans = Spans([3, 1, 4], CPU)
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 8, generator=random, requires_grad=True)
    weight = torch.randn(5, 8, generator=random)
    (ours,) = torch.autograd.grad((spans.softmax(logits) * weight).sum(), logits)
    exact = torch.cat([part.softmax(1) for part in logits.split([3, 1, 4], dim=1)], dim=1)
    (theirs,) = torch.autograd.grad((exact * weight).sum(), logits)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_gradient_of_a_cross_entropy_over_spans_is_right():
    spans, random = Spans([3, 1, 4], CPU), torch.Generator().manual_seed(0)
    logits = torch.randn(8, 2, generator=random, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([0, 3, 6, 7, 10, 15])
    assert torch.autograd.gradcheck(lambda x: spans.cross_entropy(x, places), (logits,))
    rough = logits.detach().bfloat16().requires_grad_()
    (by_rough,) = torch.autograd.grad(spans.cross_entropy(rough, places), rough)
    (by_logits,) = torch.autograd.grad(spans.cross_entropy(logits, places), logits)
    assert by_rough.dtype is torch.bfloat16
    torch.testing.assert_close(by_rough.double(), by_logits, atol=0.01, rtol=0.02)


def test_draws_follow_the_softmax():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1, 0.5, 0.5]])).expand(20_000, 5)
    drawn = Spans([3, 2], CPU).draw(logits, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn[:, 0], minlength=3) / len(drawn)
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.015, rtol=0)
    assert abs(float(drawn[:, 1].float().mean()) - 0.5) < 0.015
