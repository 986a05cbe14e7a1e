"""The private tree: what it keeps, that noise is there, and that it cannot be taken away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from generators import GENERATORS, TableSchema
from generators.base import DataError, ParameterError, SchemaError
from generators.mechanisms import Counted, RandomBits, choose, noisy_counts, rho_of
from generators.schema import Column
from generators.tabular import noisy_columns, noisy_tree
from generators.tabular.mst import MST
from generators.tabular.noisy_columns import independent_rows, on_simplex
from generators.tabular.noisy_tree import agreeing

KEY = b"of these tests"


def table(rows: int = 4000, seed: int = 0) -> pd.DataFrame:
    """A chain of three columns, a spike, a date and one that hangs on nothing."""
    rng = np.random.default_rng(seed)
    first = rng.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1])
    likes = rng.random(rows) < np.where(first == "a", 0.9, 0.2)
    pay = np.where(rng.random(rows) < 0.5, 0, rng.integers(100, 10_000, rows))
    return pd.DataFrame(
        {
            "first": first,
            "likes": np.where(likes, "yes", "no"),
            "spend": np.round(rng.normal(np.where(likes, 50, 10), 5), 2),
            "pay": pay,
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), "D"),
            "alone": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
        }
    )


def private(**parameters: Any) -> MST:
    model = MST(**parameters)
    model.noise_key = KEY
    return model


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def schema(frame: pd.DataFrame) -> TableSchema:
    return TableSchema.infer(frame)


def test_a_generous_budget_gives_the_table_back(frame: pd.DataFrame, schema: TableSchema) -> None:
    made = private(epsilon=1000.0).fit(frame, schema).sample(4000, seed=1)
    assert abs((made["pay"] == 0).mean() - (frame["pay"] == 0).mean()) < 0.02
    assert abs(made["alone"].isna().mean() - 0.2) < 0.02
    for one, other in (("first", "likes"), ("likes", "first")):
        real, found = (pd.crosstab(f[one], f[other], normalize=True) for f in (frame, made))
        assert (real - found).abs().to_numpy().sum() / 2 < 0.03
    spend = made.groupby("likes")["spend"].mean()
    assert spend["yes"] - spend["no"] > 30
    assert abs(made["day"].astype("int64").mean() / frame["day"].astype("int64").mean() - 1) < 1e-3


def test_what_predicts_the_target_is_kept() -> None:
    """Two columns that tell the target only together with it in one tree."""
    rng = np.random.default_rng(3)
    wins = rng.random(6000) < 0.4
    left, right = (np.where(wins, rng.random(6000) < 0.8, rng.random(6000) < 0.3) for _ in "ab")
    frame = pd.DataFrame({"left": left, "right": right, "wins": np.where(wins, "yes", "no")})
    schema = TableSchema.infer(frame, target="wins")
    made = private(epsilon=50.0).fit(frame, schema).sample(6000, seed=1)
    for part in (frame, made):
        both = part.groupby(["left", "right"])["wins"].apply(lambda w: (w == "yes").mean())
        assert both[(True, True)] > 0.75
        assert both[(False, False)] < 0.1


def test_a_smaller_budget_costs_fidelity(frame: pd.DataFrame, schema: TableSchema) -> None:
    real = pd.crosstab(frame["first"], frame["likes"], normalize=True)

    def error(epsilon: float) -> float:
        found = []
        for seed in range(2):
            made = private(epsilon=epsilon, seed=seed).fit(frame, schema).sample(4000, seed=1)
            both = pd.crosstab(made["first"], made["likes"], normalize=True)
            off = both.reindex(index=real.index, columns=real.columns, fill_value=0) - real
            found.append(off.abs().to_numpy().sum() / 2)
        return float(np.mean(found))

    assert error(100.0) < 0.03 < error(0.01)


def test_noise_hangs_on_the_key_the_data_and_the_parameters(
    frame: pd.DataFrame, schema: TableSchema
) -> None:
    def tables(model: MST, data: pd.DataFrame) -> np.ndarray:
        return np.concatenate([t.ravel() for t in model.fit(data, schema).branching_.tables])

    once = tables(private(), frame)
    assert np.array_equal(once, tables(private(), frame))
    other_key = MST()
    other_key.noise_key = b"another"
    assert not np.array_equal(once, tables(other_key, frame))
    assert not np.array_equal(once, tables(private(seed=1), frame))
    assert not np.array_equal(once, tables(private(epsilon=1.001), frame))
    # The same noise on two tables that differ by a row would give that row away.
    changed = frame.copy()
    changed.loc[0, "first"] = "b" if changed.loc[0, "first"] == "a" else "a"
    assert not np.array_equal(once, tables(private(), changed))
    assert not np.array_equal(tables(MST(), frame), tables(MST(), frame))


def test_one_row_does_not_show(frame: pd.DataFrame, schema: TableSchema) -> None:
    """The odds of any outcome with and without a row stay within e^ε, but for δ.

    The row is the only one of its category. The outcome is that the category is seen more often
    than one that nobody has: with too little noise that would tell.
    """
    epsilon, fits = 1.0, 600
    rare = Column("first", "categorical", "object", levels=("a", "b", "c", "rare"))
    schema, rho = TableSchema((rare,)), rho_of(epsilon, 1e-6)
    without = frame[["first"]].iloc[:60].reset_index(drop=True)
    with_row = without.copy()
    with_row.loc[0, "first"] = "rare"
    bits = RandomBits(KEY, "columns")
    seen = []
    for data in (without, with_row):
        made = (independent_rows(data, schema, rho, bits)["first"] for _ in range(fits))
        seen.append(np.mean([int((each == "rare").sum()) > 1 for each in made]))
    low, high = sorted(seen)
    spare = 3 * np.sqrt(high * (1 - high) / fits)
    assert high - spare <= np.exp(epsilon) * low + 1e-6
    assert 0 < low < 1


class Asked(NamedTuple):
    """A question to a mechanism: what it reads, and how far that may move with a row."""

    numbers: np.ndarray
    squared: bool
    sensitivity: int
    rho: float

    def moved(self, other: Asked) -> int:
        away = np.abs(self.numbers - other.numbers)
        return int(np.square(away).sum() if self.squared else away.max())


class Answers:
    """The real mechanisms, overheard; once told to, they repeat the answers that they gave."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.told: list[Any] = []

    def counts(self, counts: np.ndarray, rho: float, bits: RandomBits) -> Counted:
        # Its noise is made for a squared sensitivity of 2.
        asked = Asked(counts.astype(np.int64), True, 2, rho)
        found: Counted = self._told(asked, lambda: noisy_counts(counts, rho, bits))
        return found

    def choice(self, scores: Sequence[int], sensitivity: int, rho: float, bits: RandomBits) -> int:
        asked = Asked(np.array(scores), False, sensitivity, rho)
        found: int = self._told(asked, lambda: choose(scores, sensitivity, rho, bits))
        return found

    def _told(self, asked: Asked, ask: Callable[[], Any]) -> Any:
        if len(self.asked) == len(self.told):
            self.told.append(ask())
        self.asked.append(asked)
        return self.told[len(self.asked) - 1]


@pytest.mark.parametrize("target", [None, "likes"])
def test_a_row_is_seen_by_the_mechanisms_alone_and_within_their_sensitivity(
    target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof, run: given the same answers, two tables that differ in a row give one model."""
    frame = table(600)
    schema = TableSchema.infer(frame, target=target)

    answers = Answers()
    for module in (noisy_columns, noisy_tree):
        monkeypatch.setattr(module, "noisy_counts", answers.counts)
    monkeypatch.setattr(noisy_tree, "choose", answers.choice)

    def trained(data: pd.DataFrame) -> tuple[MST, list[Asked]]:
        answers.asked = []
        return private(epsilon=10.0).fit(data, schema), answers.asked

    model, asked = trained(frame)
    assert 0.8 * model.rho_ < sum(one.rho for one in asked) <= model.rho_ * (1 + 1e-9)
    arrays, state = model._state()
    for row, like in ((0, 1), (5, 17), (8, 300)):
        changed = frame.copy()
        changed.loc[row] = frame.loc[like]
        changed.loc[row, "alone"] = np.nan if row else frame["alone"].max()
        other, theirs = trained(changed)
        moved = [one.moved(two) for one, two in zip(asked, theirs, strict=True)]
        assert all(far <= one.sensitivity for far, one in zip(moved, asked, strict=True))
        assert max(moved) == 2
        other_arrays, other_state = other._state()
        assert state == other_state
        assert all(np.array_equal(arrays[name], other_arrays[name]) for name in arrays)


def test_nothing_but_noisy_counts_of_a_column_is_known(frame: pd.DataFrame) -> None:
    """Rows that stand for the columns have its values, but not their order or their pairs."""
    schema = TableSchema.infer(frame)
    rows = independent_rows(frame, schema, 1e6, RandomBits(KEY, "columns"))
    assert abs((rows["pay"] == 0).mean() - (frame["pay"] == 0).mean()) < 0.01
    assert rows["day"].dtype == frame["day"].dtype
    for name in ("spend", "alone", "pay"):
        real, made = (np.sort(f[name].dropna().to_numpy()) for f in (frame, rows))
        at = np.linspace(0.01, 0.99, 50)
        far = np.abs(np.quantile(real, at) - np.quantile(made, at)).max()
        assert far < 0.03 * (real[-1] - real[0])


def test_what_is_unknown_to_the_schema_is_refused(frame: pd.DataFrame, schema: TableSchema) -> None:
    with pytest.raises(SchemaError, match="levels"):
        private().fit(frame.assign(first="zebra"), schema)
    with pytest.raises(DataError, match="finite"):
        private().fit(frame.assign(spend=np.inf), schema)


def test_hostile_tables() -> None:
    rows = 30
    odd = pd.DataFrame(
        {
            "constant": np.ones(rows),
            "nothing": np.full(rows, np.nan),
            "one": ["x"] * rows,
            "huge": np.linspace(-1e300, 1e300, rows),
            "tiny": np.linspace(0, 1e-12, rows),
        }
    )
    made = private(epsilon=0.01).fit(odd, TableSchema.infer(odd)).sample(50, seed=0)
    assert (made["constant"] == 1).all()
    assert made["nothing"].isna().all()
    assert np.isfinite(made["huge"]).all()
    assert made["tiny"].between(0, 1e-12).all()


@pytest.mark.parametrize(
    "parameters",
    [{"epsilon": e} for e in (0.0, -1.0, np.inf, np.nan)] + [{"delta": d} for d in (0.0, 1.0)],
)
def test_a_budget_must_be_one(parameters: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        GENERATORS["mst"].from_parameters(parameters)


def test_the_guarantee_is_told(frame: pd.DataFrame, schema: TableSchema) -> None:
    model = private(epsilon=2.0, delta=1e-7).fit(frame, schema)
    assert "ε = 2 and δ = 1e-07" in model.privacy.sentence
    assert "key" not in "".join(model._state()[0])
    assert not model.training_notes_
    vain = private(delta=1 / 4000).fit(frame, schema)
    assert "4000 rows to be given away" in vain.training_notes_[0]


def test_the_nearest_table_of_a_sum() -> None:
    counts = np.array([[3.0, 1.0, -2.0, 0.0], [1.0, 1.0, -np.inf, -np.inf]])
    assert np.allclose(on_simplex(counts, np.array([2.0, 4.0])), [[2, 0, 0, 0], [2, 2, 0, 0]])


def test_a_table_agrees_with_its_columns() -> None:
    rng = np.random.default_rng(0)
    left, right = np.array([10.0, 0.0, 30.0]), np.array([25.0, 15.0])
    table = agreeing(rng.random((3, 2)) * 10, left, right)
    assert np.allclose(table.sum(axis=1), left, atol=1e-3)
    assert np.allclose(table.sum(axis=0), right, atol=1e-3)
