"""TVAE: its loss against closed forms, learning on a toy, determinism."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer

from generators import TableSchema
from generators.base import Block, ParameterError, TrainingError
from generators.encoding import TableCodec
from generators.tabular.modes import TableTokens
from generators.tabular.neural import ResidentTable
from generators.tabular.perceptron import Perceptron
from generators.tabular.tvae import TVAE, Reparametrised, _Training
from generators.training import build, torch_generator

CPU = torch.device("cpu")
SMALL = {"compress_dims": (64, 64), "decompress_dims": (64, 64), "embedding_dim": 16}


def toy(n: int = 3000) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b"], n, p=[0.7, 0.3])
    x = rng.normal(np.where(group == "a", -4.0, 4.0), 0.5)
    return pd.DataFrame({"group": group, "x": np.where(rng.random(n) < 0.1, np.nan, x)})


def training(frame: pd.DataFrame) -> _Training:
    model = TVAE(**SMALL)  # type: ignore[arg-type]
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    encoded = codec.encode(frame)
    model.layout_ = TableTokens.fit(codec, encoded)
    tokens = model.layout_.encode(encoded, np.random.default_rng(0))
    model.network_ = build(model._network, CPU, torch_generator("cpu", "test"))
    return _Training(model, ResidentTable(model.layout_, *tokens, CPU))


@pytest.fixture(scope="module")
def learned() -> TVAE:
    frame = toy()
    return TVAE(epochs=80, batch_size=200, **SMALL).fit(frame, TableSchema.infer(frame))


def test_learns_shares_modes_and_the_dependence(learned: TVAE):
    sample = learned.sample(4000, seed=1)
    assert abs((sample["group"] == "a").mean() - 0.7) < 0.06
    assert abs(sample["x"].isna().mean() - 0.1) < 0.08
    present = sample.dropna()
    assert ((present["x"] > 0) == (present["group"] == "b")).mean() > 0.9
    for group, centre in (("a", -4.0), ("b", 4.0)):
        x = present.loc[present["group"] == group, "x"]
        assert abs(x.median() - centre) < 0.5
        assert 0.2 < x.quantile(0.8) - x.quantile(0.2) < 2.0


def test_the_loss_falls(learned: TVAE):
    losses = [loss for _, loss in learned.loss_history_]
    assert losses[-1] < losses[0]


def test_a_block_is_the_same_alone_and_rows_do_not_depend_on_its_size(learned: TVAE):
    long = learned.sample_block(Block(0, 1500, 7))
    pd.testing.assert_frame_equal(long, learned.sample_block(Block(0, 1500, 7)))
    pd.testing.assert_frame_equal(long.head(10), learned.sample_block(Block(0, 10, 7)))
    assert not learned.sample_block(Block(0, 10, 8)).equals(long.head(10))


def test_saved_and_loaded_gives_the_same_rows(learned: TVAE, tmp_path):
    learned.save(tmp_path)
    loaded = TVAE.load(tmp_path)
    assert loaded.parameters() == learned.parameters()
    pd.testing.assert_frame_equal(loaded.sample(50, seed=3), learned.sample(50, seed=3))


def test_a_gradient_reaches_every_parameter():
    run = training(toy(300))
    run.loss(torch.arange(100)).backward()
    for module in (run.encoder, run.decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name


def test_the_loss_and_its_gradients_are_those_of_a_plain_reading_of_the_paper():
    run = training(toy(300))
    run.dtype = torch.float32
    rows = torch.randperm(300, generator=torch.Generator().manual_seed(1))[:120]
    state = run.random.get_state()
    parameters = [*run.encoder.parameters(), *run.decoder.parameters()]
    loss = run.loss(rows)
    ours = torch.autograd.grad(loss, parameters)

    run.random.set_state(state)
    noise = torch.randn(16, 120, generator=run.random).t()
    mean, log_variance = run.encoder(run.table.dense(rows)).chunk(2, dim=1)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    means, logits = run.decoder(posterior.mean + posterior.stddev * noise)
    sizes = run.table.spans.sizes
    exact = sum(
        torch.nn.functional.cross_entropy(part, run.table.tokens[rows, at].long(), reduction="sum")
        for at, part in enumerate(logits.split(sizes, dim=1))
    )
    std = run.decoder.std()
    gauss = torch.distributions.Normal(means, std).log_prob(run.table.alphas[rows])
    gauss = (gauss + 0.5 * np.log(2 * np.pi)) * run.table.has_alpha[rows]
    standard = torch.distributions.Normal(0.0, 1.0)
    divergence = torch.distributions.kl_divergence(posterior, standard).sum()
    plain = (2.0 * (exact - gauss.sum()) + divergence) / 120
    torch.testing.assert_close(loss, plain)
    for mine, theirs in zip(ours, torch.autograd.grad(plain, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_rows_as_columns_are_the_same_rows():
    table = training(toy(50)).table
    rows = torch.tensor([3, 40, 3])
    columns = table.columns(rows)
    assert torch.equal(columns.dense(torch.float32).t(), table.dense(rows))
    assert columns.dense(torch.bfloat16).dtype is torch.bfloat16


def test_the_gradients_of_the_posterior_are_those_of_autograd():
    random = torch.Generator().manual_seed(0)
    posterior = torch.randn(6, 5, generator=random, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 5, generator=random, dtype=torch.float64)
    mean, log_variance = posterior.chunk(2)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    z, divergence = Reparametrised.apply(posterior, noise)
    torch.testing.assert_close(z, normal.mean + normal.stddev * noise)
    standard = torch.distributions.Normal(0.0, 1.0)
    exact = torch.distributions.kl_divergence(normal, standard).sum()
    torch.testing.assert_close(divergence, exact)
    assert torch.autograd.gradcheck(Reparametrised.apply, (posterior, noise))


def test_the_gradients_of_a_perceptron_are_those_of_autograd():
    network = build(lambda: Perceptron(4, (5, 3), 2), CPU, torch_generator("cpu", "test"))
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(network.across(x), network(x.t()).t())
    rough = network.across(x.bfloat16())
    assert rough.dtype is torch.bfloat16
    torch.testing.assert_close(rough.float(), network.across(x), rtol=0.05, atol=0.02)
    rough.sum().backward()
    assert all(parameter.grad.dtype is torch.float32 for parameter in network.parameters())
    inputs = x.double().requires_grad_()
    assert torch.autograd.gradcheck(network.double().across, (inputs,))


def test_the_alpha_loss_is_gaussian_and_ignores_missing_values():
    frame = toy(300)
    run = training(frame)
    columns = run.table.columns(torch.arange(300))
    means = torch.zeros(1, 300)
    present = torch.from_numpy(frame["x"].notna().to_numpy())
    std = float(run.decoder.std().detach())
    normal = torch.distributions.Normal(0.0, std)
    constant = 0.5 * np.log(2 * np.pi)
    exact = (-normal.log_prob(run.table.alphas[present, 0]) - constant).sum()
    torch.testing.assert_close(run.alpha_loss(means, columns), exact)
    means[:, ~present] = 9.0
    torch.testing.assert_close(run.alpha_loss(means, columns), exact)


@pytest.mark.parametrize(
    "frame",
    [toy(60)[["x"]], toy(60)[["group"]], toy(7), pd.DataFrame({"only": ["same"] * 5})],
    ids=["continuous", "discrete", "tiny", "one value"],
)
def test_odd_tables(frame: pd.DataFrame):
    schema = TableSchema.infer(frame)
    sample = TVAE(epochs=2, **SMALL).fit(frame, schema).sample(30, seed=0)
    assert list(sample.dtypes) == list(frame.dtypes)
    assert len(sample) == 30


def test_correlations_of_real_data_are_learned():
    frame = load_breast_cancer(as_frame=True).frame[["mean radius", "mean area", "target"]]
    model = TVAE(epochs=150, batch_size=100, **SMALL)
    sample = model.fit(frame, TableSchema.infer(frame)).sample(2000, seed=0)
    assert sample.corr(method="spearman").loc["mean radius", "mean area"] > 0.6  # really 0.99
    assert sample.corr(method="spearman").loc["mean radius", "target"] < -0.4  # really -0.73


def test_divergence_is_an_error_not_a_model():
    frame = toy(200)
    with pytest.raises(TrainingError, match="learning rate"):
        TVAE(epochs=60, lr=1e30, **SMALL).fit(frame, TableSchema.infer(frame))


def test_settings_out_of_range_are_named():
    with pytest.raises(ParameterError, match="compress_dims"):
        TVAE(compress_dims=())
    with pytest.raises(ParameterError, match="loss_factor"):
        TVAE(loss_factor=0.0)
