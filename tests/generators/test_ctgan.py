"""CTGAN: the parts against closed forms, training-by-sampling, learning on a toy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from statsmodels.api import datasets

from generators import TableSchema
from generators.base import Block, DataError, ParameterError, TrainingError
from generators.encoding import TableCodec
from generators.tabular.ctgan import (
    CTGAN,
    Conditions,
    Critic,
    _Training,
    draw_conditions,
    gradient_penalty,
)
from generators.tabular.modes import TableTokens
from generators.tabular.neural import ResidentTable
from generators.training import build, torch_generator

CPU = torch.device("cpu")
SMALL = {"generator_dim": (64, 64), "discriminator_dim": (64, 64), "embedding_dim": 16}


def toy(n: int = 3000) -> pd.DataFrame:
    """A category that decides a number of two modes; the rarest category has 2 % of the rows."""
    rng = np.random.default_rng(0)
    group = rng.choice(["a", "b", "c"], n, p=[0.58, 0.40, 0.02])
    centre = np.select([group == "a", group == "b"], [-4.0, 4.0], 0.0)
    return pd.DataFrame({"group": group, "x": rng.normal(centre, 0.5)})


def training(frame: pd.DataFrame, **settings: object) -> tuple[CTGAN, _Training]:
    model = CTGAN(**{**SMALL, **settings})  # type: ignore[arg-type]
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    encoded = codec.encode(frame)
    model.layout_ = TableTokens.fit(codec, encoded)
    table = ResidentTable(
        model.layout_, *model.layout_.encode(encoded, np.random.default_rng(0)), CPU
    )
    model.network_ = build(model._network, CPU, torch_generator("cpu", "test"))
    return model, _Training(model, table)


@pytest.fixture(scope="module")
def learned() -> CTGAN:
    frame = toy()
    model = CTGAN(epochs=60, batch_size=200, generator_lr=1e-3, discriminator_lr=1e-3, **SMALL)
    return model.fit(frame, TableSchema.infer(frame))


def test_learns_the_dependence_and_both_modes(learned: CTGAN):
    sample = learned.sample(4000, seed=1)
    main = sample[sample["group"] != "c"]
    agree = ((main["x"] > 0) == (main["group"] == "b")).mean()
    assert agree > 0.9  # independent columns: about 0.5
    for group, centre in (("a", -4.0), ("b", 4.0)):
        assert abs(main.loc[main["group"] == group, "x"].median() - centre) < 1.0


def test_categories_keep_their_true_frequencies(learned: CTGAN):
    # Log frequencies, right in training, would give the category of 2 % about 20 %.
    shares = learned.sample(4000, seed=2)["group"].value_counts(normalize=True)
    assert abs(shares["a"] - 0.58) < 0.05
    assert 0.005 < shares["c"] < 0.06
    assert learned.loss_history_[-1][0] == 60 * (3000 // 200)


def test_a_block_is_the_same_alone_and_rows_do_not_depend_on_its_size(learned: CTGAN):
    long = learned.sample_block(Block(0, 1500, 7))
    again = learned.sample_block(Block(0, 1500, 7))
    short = learned.sample_block(Block(0, 10, 7))
    pd.testing.assert_frame_equal(long, again)
    pd.testing.assert_frame_equal(long.head(10), short)
    assert not learned.sample_block(Block(0, 10, 8)).equals(short)


def test_the_critics_gradient_is_the_one_of_autograd():
    random = torch.Generator().manual_seed(0)
    critic = build(lambda: Critic(6, 4, 5, (7, 9, 8)), CPU, random).double()
    rows = torch.randn(20, 6, generator=random, dtype=torch.float64, requires_grad=True)
    condition = torch.randint(4, (20,), generator=random)
    masks = [mask.double() for mask in critic.masks(4, random)]
    entered = critic.enter(rows, condition)
    (exact,) = torch.autograd.grad(critic.score(entered, masks).sum(), rows)
    ours = critic.gradient(entered.detach(), masks)
    torch.testing.assert_close(ours.reshape(20, 6), exact)


def test_the_penalty_has_the_gradient_of_double_backward():
    random = torch.Generator().manual_seed(1)
    critic = build(lambda: Critic(3, 0, 2, (5, 4)), CPU, random).double()
    rows = torch.randn(8, 3, generator=random, dtype=torch.float64, requires_grad=True)
    condition = torch.zeros(8, dtype=torch.int64)
    masks = [torch.ones(4, 5).double(), torch.ones(4, 4).double()]
    entered = critic.enter(rows, condition)
    (exact,) = torch.autograd.grad(
        critic.score(entered, masks).sum(), rows, create_graph=True, retain_graph=True
    )
    weights = [critic.first.linear.weight, critic.hidden[0].weight, critic.last.weight]
    theirs = torch.autograd.grad(gradient_penalty(exact.reshape(4, 6)), weights)
    ours = torch.autograd.grad(gradient_penalty(critic.gradient(entered.detach(), masks)), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_the_penalty_of_a_linear_critic_is_known():
    # f(x) = 3 x1 + 4 x2 has a gradient of norm 5 everywhere: the penalty is (5 - 1)^2.
    gradient = torch.tensor([[3.0, 4.0]]).expand(7, 2)
    assert float(gradient_penalty(gradient)) == pytest.approx(16.0)
    assert float(gradient_penalty(gradient / 5)) == pytest.approx(0.0, abs=1e-12)


def test_a_gradient_reaches_every_parameter_and_none_crosses():
    _, run = training(toy(400), batch_size=100)
    condition, rows = run.conditions.draw(100, run.random)
    out = run._forward(condition)
    fake = run._activate(out)
    run.critic_loss(run.table.dense(rows), fake, condition).backward()
    for name, parameter in run.critic.named_parameters():
        assert parameter.grad is not None, name
        # The last bias adds the same to real and fake: it cancels.
        assert name == "last.bias" or parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for p in run.generator.parameters())
    run.generator_loss(out, fake, condition).backward()
    for name, parameter in run.generator.named_parameters():
        assert parameter.grad is not None, name
        # A bias before batch normalisation is cancelled by it.
        if not (name.startswith("hidden") and name.endswith("bias")):
            assert parameter.grad.abs().sum() > 0, name


def test_training_by_sampling_draws_rows_that_meet_their_condition():
    frame = toy(2000).assign(flag=lambda f: np.where(f["x"] > 5, "high", "low"))
    model, run = training(frame)
    columns = run.conditions.column
    condition, rows = run.conditions.draw(5000, run.random)
    held = run.table.tokens[rows].long().gather(1, columns[condition][:, None])[:, 0]
    assert torch.equal(held, run.conditions.token[condition])
    assert len(torch.unique(rows)) > 1200
    # A column evenly, then a category by the logarithm of its frequency.
    counts = np.concatenate([frame[c].value_counts().sort_index() for c in ("group", "flag")])
    log = np.log1p(counts)
    expected = np.concatenate([log[:3] / log[:3].sum(), log[3:] / log[3:].sum()]) / 2
    shares = torch.bincount(condition, minlength=5).numpy() / 5000
    np.testing.assert_allclose(shares, expected, atol=0.03)
    uniform = torch.rand(20_000, generator=run.random, dtype=torch.float64)
    true = draw_conditions(run.conditions.frequencies, uniform)
    shares = torch.bincount(true, minlength=5).numpy() / 20_000
    np.testing.assert_allclose(shares, counts / 2000 / 2, atol=0.015)
    assert model.layout_.conditional == [0, 2]


def test_conditions_at_the_ends_of_the_unit_interval_exist():
    cumulative = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    ends = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert draw_conditions(cumulative, ends).tolist() == [0, 1, 2]


def test_no_conditional_columns_means_rows_at_random():
    _, run = training(toy(300)[["x"]])
    assert isinstance(run.conditions, Conditions)
    assert run.conditions.size == 0
    condition, rows = run.conditions.draw(2000, run.random)
    assert condition.sum() == 0
    assert len(torch.unique(rows)) > 290


@pytest.mark.parametrize(
    "frame",
    [
        toy(60)[["x"]],
        toy(60)[["group"]],
        toy(60).assign(one="same", nothing=np.nan),
        toy(7),
        pd.DataFrame({"only": ["same"] * 5}),
    ],
    ids=["continuous", "discrete", "constant", "tiny", "one value"],
)
def test_odd_tables(frame: pd.DataFrame):
    schema = TableSchema.infer(frame)
    model = CTGAN(epochs=2, batch_size=20, **SMALL).fit(frame, schema)
    sample = model.sample(30, seed=0)
    assert list(sample.dtypes) == list(frame.dtypes)
    assert len(sample) == 30


def test_saved_and_loaded_gives_the_same_rows(learned: CTGAN, tmp_path):
    learned.save(tmp_path)
    loaded = CTGAN.load(tmp_path)
    assert loaded.parameters() == learned.parameters()
    pd.testing.assert_frame_equal(loaded.sample(50, seed=3), learned.sample(50, seed=3))


def test_missing_values_and_spikes_of_real_data_come_back():
    frame = datasets.randhie.load_pandas().data.head(2000)[["mdvis", "lpi", "fmde", "hlthg"]]
    frame = frame.assign(lpi=frame["lpi"].where(np.arange(2000) % 4 > 0))
    schema = TableSchema.infer(frame)
    sample = (
        CTGAN(epochs=25, batch_size=200, generator_lr=1e-3, **SMALL)
        .fit(frame, schema)
        .sample(1000, seed=0)
    )
    assert abs(sample["lpi"].isna().mean() - 0.25) < 0.15
    assert abs((sample["fmde"] == 0).mean() - (frame["fmde"] == 0).mean()) < 0.2


def test_half_the_bits_give_nearly_the_same_losses():
    condition, rows = training(toy(400), batch_size=100)[1].conditions.draw(
        100, torch.Generator().manual_seed(0)
    )
    losses = []
    for precision in ("float32", "bfloat16"):
        _, run = training(toy(400), batch_size=100, precision=precision)
        out = run._forward(condition)
        fake = run._activate(out)
        assert out.dtype == fake.dtype == torch.float32
        critic = run.critic_loss(run.table.dense(rows), fake, condition)
        losses.append(torch.stack([critic, run.generator_loss(out, fake, condition)]))
    assert not torch.equal(*losses)
    torch.testing.assert_close(*losses, rtol=0.02, atol=0.02)


def test_divergence_is_an_error_not_a_model():
    frame = toy(200)
    model = CTGAN(epochs=60, batch_size=100, generator_lr=1e30, discriminator_lr=1e30, **SMALL)
    with pytest.raises(TrainingError, match="learning rate"):
        model.fit(frame, TableSchema.infer(frame))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 25}, "multiple of pac"),
        ({"pac": 0}, "pac"),
        ({"generator_dim": ()}, "generator_dim"),
        ({"temperature": 0.0}, "temperature"),
        ({"average": 0.5}, "average"),
        ({"precision": "float16"}, "precision"),
    ],
)
def test_settings_out_of_range_are_named(settings: dict[str, object], words: str):
    with pytest.raises(ParameterError, match=words):
        CTGAN.from_parameters(settings)


def test_a_table_of_ids_alone_is_refused():
    frame = pd.DataFrame({"id": np.arange(100)})
    with pytest.raises(DataError, match="column to learn"):
        CTGAN(epochs=1).fit(frame, TableSchema.infer(frame, kinds={"id": "id"}))
