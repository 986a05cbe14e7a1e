"""Rows of a sample are kept such that pairs of columns are as frequent as the model says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators import GENERATORS, TableSchema, load_generator
from generators.base import derive_seed
from generators.encoding import EncodedTable
from generators.tabular.balance import Balance
from generators.tabular.independent import learnable
from generators.tabular.token_model import TokenModel


def table(rows: int = 3000, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    return pd.DataFrame(
        {
            "x": x,
            "y": x + rng.normal(size=rows),
            "k": rng.choice(list("abcd"), rows, p=[0.4, 0.3, 0.2, 0.1]),
            "t": np.where(x + rng.normal(size=rows) > 1.0, "yes", "no"),
        }
    )


def fitted(frame: pd.DataFrame) -> tuple[Balance, EncodedTable]:
    codec, encoded = learnable(frame, TableSchema.infer(frame, target="t"))
    return Balance.fit(codec, encoded, np.random.default_rng(1), third=3), encoded


def distance(balance: Balance, rows: EncodedTable, all_: EncodedTable, columns: list[int]) -> float:
    """The mean squared difference from what is due, where independent draws are at 1."""
    sizes = balance.cells.sizes
    counts = []
    for part in (rows, all_):
        at = np.zeros(len(part), np.int64)
        for column, cell in zip(columns, balance.cells.encode(part)[:, columns].T, strict=True):
            at = at * sizes[column] + cell
        counts.append(np.bincount(at, minlength=int(np.prod([sizes[c] for c in columns]))))
    due = counts[1] * len(rows) / len(all_)
    return float(((counts[0] - due)[due > 1] ** 2 / due[due > 1]).mean())


@pytest.mark.parametrize("columns", [[0, 1], [2, 3], [0, 2, 3]])
def test_kept_rows_have_the_shares_of_all(columns: list[int]) -> None:
    balance, encoded = fitted(table(9000))
    rng = np.random.default_rng(2)
    kept = balance.pick(encoded, 3000, rng)
    some = encoded.take(rng.choice(9000, 3000, replace=False))
    assert len(kept) == 3000
    # Draws without replacement of a third are at two thirds.
    assert distance(balance, some, encoded, columns) > 0.4
    assert distance(balance, kept, encoded, columns) < 0.25


def test_every_row_is_kept_as_often_as_any_other() -> None:
    balance, encoded = fitted(table(600))
    where = EncodedTable(encoded.codes, encoded.values.copy())
    where.values[:, 2] = np.arange(600)  # a category has no values: a place to number the rows
    found = np.zeros(600)
    for seed in range(400):
        kept = balance.pick(where, 200, np.random.default_rng(seed))
        found[kept.values[:, 2].astype(int)] += 1
    # Binomial of 400 draws with chance 1/3: mean 133, deviation 9.4.
    assert abs(found - 400 / 3).max() < 5 * 9.43
    assert found.std() < 1.15 * 9.43


def test_what_was_saved_comes_back() -> None:
    balance, encoded = fitted(table())
    codec, _ = learnable(table(), TableSchema.infer(table(), target="t"))
    back = Balance.restore(codec, balance.arrays(), balance.to_json())
    one, other = (b.pick(encoded, 500, np.random.default_rng(3)) for b in (balance, back))
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.values, other.values, equal_nan=True)


def test_a_single_column_and_a_single_row_are_picked() -> None:
    frame = table()[["k"]]
    codec, encoded = learnable(frame, TableSchema.infer(frame))
    balance = Balance.fit(codec, encoded, np.random.default_rng(4))
    assert len(balance.pick(encoded, 1, np.random.default_rng(5))) == 1
    assert len(balance.pick(encoded, 0, np.random.default_rng(5))) == 0


@pytest.mark.parametrize("name", ["autoregressive", "table-diffusion", "table-flow"])
def test_a_token_model_draws_evenly_and_one_saved_before_plainly(name: str, tmp_path: Path) -> None:
    frame = table()
    model = GENERATORS[name].from_parameters({"epochs": 1, "verbatim_guard": False})
    model.fit(frame, TableSchema.infer(frame, target="t"))
    assert isinstance(model, TokenModel)
    balance = model.balance_
    assert balance is not None
    seed = derive_seed("a block")
    pool, even = model._draw_rows(9000, seed), model._draw_evenly(3000, seed)
    assert distance(balance, even, pool, [0, 1]) < 0.3
    model.candidates = 1
    plain = model._draw_rows(300, seed)
    assert np.array_equal(model._draw_evenly(300, seed).codes, plain.codes)
    model.candidates = 3
    model.save(tmp_path / "new")
    again = load_generator(tmp_path / "new")
    sample, other = model.sample(300, seed=1), again.sample(300, seed=1)
    assert isinstance(sample, pd.DataFrame)
    assert isinstance(other, pd.DataFrame)
    pd.testing.assert_frame_equal(sample, other)

    model.balance_ = None
    model.save(tmp_path / "old")
    older = load_generator(tmp_path / "old")
    assert isinstance(older, TokenModel)
    assert older.balance_ is None
    assert len(older.sample(300, seed=1)) == 300
