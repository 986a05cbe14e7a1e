"""What autoregression promises beyond the contract: exact likelihoods, sound cells, the order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from generators import TableSchema, load_generator
from generators.base import ParameterError
from generators.encoding import TableCodec
from generators.tabular.autoregressive import Autoregressive, _Training
from generators.tabular.tokens import QuantileCells, TwoLevelTokens


def fitted(frame: pd.DataFrame, **parameters: object) -> Autoregressive:
    settings = {"epochs": 3, **parameters}
    return Autoregressive.from_parameters(settings).fit(frame, TableSchema.infer(frame))


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    sex = rng.choice(["F", "M"], n)
    pay = np.round(np.exp(9 + 0.5 * (sex == "M") + 0.4 * rng.normal(size=n)), 2)
    return pd.DataFrame({"sex": sex, "pay": pay, "rich": pay > 10_000})


@given(
    values=st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=30, max_size=400),
    step=st.sampled_from([None, 1.0, 0.01]),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_a_value_comes_back_within_its_cell(
    values: list[float], step: float | None, seed: int
) -> None:
    numbers = np.array(values)
    frame = pd.DataFrame({"x": np.round(numbers / step) * step if step else numbers})
    column = TableSchema.infer(frame, kinds={"x": "numerical"})
    codec = TableCodec.fit(frame, column)
    encoded = codec.encode(frame)
    tokens = TwoLevelTokens.fit(codec, encoded)
    there = tokens.encode(encoded)
    back = tokens.decode(there, np.random.default_rng(seed))
    again = tokens.encode(codec.encode(codec.decode(back)))
    low, high = frame["x"].min(), frame["x"].max()
    decoded = codec.decode(back)["x"]
    assert decoded.between(low, high).all()
    if step is not None:
        # On a grid a drawn value is in the cell that it was drawn from, or is an atom.
        same = (again == there).all(axis=1) | ~np.isfinite(
            codec.encode(codec.decode(back)).values[:, 0]
        )
        assert same.all()


def test_drawn_values_follow_the_column() -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).lognormal(3, 1, 20_000)})
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    encoded = codec.encode(frame)
    tokens = TwoLevelTokens.fit(codec, encoded)
    drawn = codec.decode(tokens.decode(tokens.encode(encoded), np.random.default_rng(1)))["x"]
    assert ks_2samp(drawn, frame["x"]).statistic < 0.002


def test_probabilities_of_a_discrete_table_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.choice(list("xyz"), 500), "b": rng.choice([True, False], 500)})
    model = fitted(frame)
    cells = pd.MultiIndex.from_product([list("xyz"), [False, True]], names=["a", "b"])
    everything = cells.to_frame(index=False)
    assert np.exp(model.log_density(everything)).sum() == pytest.approx(1.0, abs=1e-5)


def test_the_density_of_a_continuous_column_integrates_to_one() -> None:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"x": rng.normal(size=2_000) / 3, "a": rng.choice(["u", "v"], 2_000)})
    model = fitted(frame)
    grid = np.linspace(frame["x"].min(), frame["x"].max(), 200_001)
    total = 0.0
    for level in ("u", "v"):
        at = pd.DataFrame({"x": (grid[:-1] + grid[1:]) / 2, "a": level})
        total += float(np.exp(model.log_density(at)).mean() * (grid[-1] - grid[0]))
    assert total == pytest.approx(1.0, abs=0.01)


def test_likelihood_prefers_rows_of_the_table() -> None:
    frame = mixed(4_000)
    model = fitted(frame, epochs=8)
    fresh, broken = mixed(1_000, seed=9), mixed(1_000, seed=9)
    broken["sex"] = broken["sex"].to_numpy()[::-1]
    broken["rich"] = ~broken["rich"]
    assert model.log_density(fresh).mean() > model.log_density(broken).mean() + 1


def test_an_unknown_category_has_no_probability() -> None:
    frame = mixed(600)
    model = fitted(frame, epochs=1)
    strange = frame.head(3).assign(sex=["F", "X", "M"])
    assert np.isneginf(model.log_density(strange)).tolist() == [False, True, False]


def test_a_relation_is_learned() -> None:
    frame = mixed(6_000)
    sample = fitted(frame, epochs=12).sample(6_000, seed=1)
    agree = ((sample["pay"] > 10_000) == sample["rich"]).mean()
    assert agree > 0.98
    means = sample.groupby("sex")["pay"].median() / frame.groupby("sex")["pay"].median()
    assert means.between(0.93, 1.07).all()


def test_density_survives_saving(tmp_path: Path) -> None:
    frame = mixed(800)
    model = fitted(frame, epochs=1)
    model.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, Autoregressive)
    assert np.array_equal(loaded.log_density(frame), model.log_density(frame))


def test_training_stops_early_where_held_out_rows_gain_no_more() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("abcdefgh"), 600) for name in "uvwx"})
    model = fitted(frame, epochs=400, lr=0.02)
    assert model.loss_history_[-1][0] < 400 * (500 // 32)


def test_bad_settings_are_refused() -> None:
    for field, value in {"width": 0, "lr": 0.0, "fixed_order": 2.0, "max_minutes": -1.0}.items():
        with pytest.raises(ParameterError, match=field):
            Autoregressive.from_parameters({field: value})


def test_cells_of_few_values_are_sound() -> None:
    frame = pd.DataFrame({"x": [0.5, 0.25, 0.125]})
    codec = TableCodec.fit(frame, TableSchema.infer(frame, kinds={"x": "numerical"})).columns[0]
    cells = QuantileCells.of(codec, frame["x"].to_numpy())
    drawn = cells.pieces().draw(np.zeros(50, np.int64), np.random.default_rng(0))
    assert ((drawn >= 0.125) & (drawn <= 0.5 + (cells.step or 0))).all()


def test_conditions_give_the_conditional_distribution() -> None:
    frame = mixed(8_000)
    model = fitted(frame, epochs=8)
    where = ["sex = F", "pay in 9000..14000"]
    cut = model.sample_where(where, 6_000, seed=1)
    whole = model.sample(60_000, seed=2)
    held = whole[(whole["sex"] == "F") & whole["pay"].between(9_000, 14_000)]
    assert ks_2samp(cut["pay"], held["pay"]).statistic < 0.04
    assert abs(cut["rich"].mean() - held["rich"].mean()) < 0.03


def test_two_conditions_weigh_each_other() -> None:
    rng = np.random.default_rng(1)
    first = rng.choice(list("ab"), 6_000)
    # Under a, u is nine times as likely as under b; so among u, nine of ten rows are a.
    second = np.where(rng.random(6_000) < np.where(first == "a", 0.9, 0.1), "u", "v")
    third = np.where(rng.random(6_000) < 0.5, "p", first)
    frame = pd.DataFrame({"one": first, "two": second, "three": third})
    model = fitted(frame, epochs=12)
    cut = model.sample_where(["two = u", "three in (p, a, b)", "one in (a, b)"], 8_000, seed=3)
    real = frame[frame["two"] == "u"]
    assert abs((cut["one"] == "a").mean() - (real["one"] == "a").mean()) < 0.03


def test_rows_are_copied_no_oftener_than_is_natural() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.choice(list("abcdefg"), 300) for name in "wxyz"})
    hashes = pd.util.hash_pandas_object(frame, index=False)
    once = set(hashes[~hashes.duplicated(keep=False)])
    # Too few rows to hold any out, and trained for long: this model learns them by heart.
    settings = {"epochs": 30, "lr": 0.01, "fixed_order": 1.0, "weight_decay": 0.0}
    shares = {}
    for guarded in (True, False):
        model = fitted(frame, verbatim_guard=guarded, **settings)
        drawn = pd.util.hash_pandas_object(model.sample(4_000, seed=1), index=False)
        shares[guarded] = drawn.isin(once).mean()
    assert shares[False] > 0.6
    # Ten redraws of a model that copies 71 % of its rows leave 0.71 ** 11 = 2.3 % above natural.
    assert shares[True] < model.guard_.natural + 0.04


def test_filled_cells_follow_the_order_that_the_model_knows() -> None:
    rng = np.random.default_rng(1)
    one = rng.choice(list("ab"), 4_000)
    two = np.where(rng.random(4_000) < np.where(one == "a", 0.9, 0.1), "u", "v")
    frame = pd.DataFrame({"one": one, "two": two})
    # No random orders: the conditional of the first column on the second is never trained.
    model = fitted(frame, epochs=12, fixed_order=1.0)
    agree = [
        ((full["one"] == "a") == (full["two"] == "u")).mean()
        for full in (model.fill(frame[["one"]], seed=1), model.fill(frame[["two"]], seed=1))
    ]
    assert min(agree) > 0.78


def test_a_fine_token_comes_at_once_after_its_coarse_one() -> None:
    frame = mixed(2_000)
    model = fitted(frame, epochs=1)
    tokens = model.tokens_.encode(model.codec_.encode(frame))
    training = _Training(model, torch.from_numpy(tokens))
    known = training.orders(500, torch.Generator().manual_seed(0))
    fine = next(at for at, sub in enumerate(model.tokens_.subcolumns) if sub.fine)
    assert (known[fine, :, fine - 1] == 1).all()
    others = [at for at in range(len(known)) if at not in (fine - 1, fine)]
    assert (known[others][:, :, fine] == known[others][:, :, fine - 1]).all()


def test_values_are_drawn_from_all_of_a_cell() -> None:
    frame = pd.DataFrame({"x": np.random.default_rng(0).normal(size=20_000)})
    codec = TableCodec.fit(frame, TableSchema.infer(frame)).columns[0]
    cells = QuantileCells.of(codec, frame["x"].to_numpy())
    assert cells.per_fine > 1
    drawn = cells.pieces().draw(np.full(30_000, 5), np.random.default_rng(0))
    places = np.bincount(cells.interval(drawn) - 5 * cells.per_fine, minlength=cells.per_fine)
    assert len(places) == cells.per_fine
    assert np.allclose(places / 30_000, 1 / cells.per_fine, atol=0.05)


def test_rows_of_one_order_are_judged_as_if_each_had_it_for_its_own() -> None:
    """The mask taken out of the weights, out of the inputs, and column after column: all alike."""
    model = fitted(mixed(2_000), epochs=1)
    tokens = torch.from_numpy(model.tokens_.encode(model.codec_.encode(mixed(40))))
    training = _Training(model, tokens)
    network = model.network_
    alike = network.losses(tokens, training.same, torch.empty(len(training.same), 0, 0))
    own = training.same.unsqueeze(1).expand(-1, len(tokens), -1)
    each = network.losses(tokens, training.same, own.contiguous())
    assert torch.allclose(alike, each, atol=1e-4)
    for at in range(len(training.same)):
        known = training.same[at].expand(len(tokens), -1)
        inputs = network.embedded(tokens) * known.unsqueeze(-1)
        logits = network.logits(inputs, known, at)
        likely = logits.log_softmax(1).gather(1, tokens[:, at : at + 1])[:, 0]
        assert torch.allclose(-likely, alike[at], atol=1e-4)
