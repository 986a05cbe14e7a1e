"""What is corrected about pairs of columns, with models whose faults are known."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from generators import TableSchema
from generators.encoding import EncodedTable, TableCodec
from generators.tabular.forest import Forest
from generators.tabular.tilt import POOL, Tilt

ROWS = 6000
WIDE = ["x", "y", "1_x", "1_kind", "1_y", "2_x", "2_y"]


def table(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Two numbers that hang together, and a category that follows the first."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=rows)
    y = 0.4 * x + np.sqrt(0.84) * rng.normal(size=rows)
    kind = np.where(rng.random(rows) < 1 / (1 + np.exp(-x)), "high", "low").astype(object)
    return pd.DataFrame({"x": x, "y": y, "kind": kind})


def learned(frame: pd.DataFrame) -> tuple[TableCodec, EncodedTable]:
    codec = TableCodec.fit(frame, TableSchema.infer(frame))
    return codec, codec.encode(frame)


def shuffled(encoded: EncodedTable, n: int, rng: np.random.Generator) -> EncodedTable:
    """Rows of a model that knows every column and no relation."""
    places = rng.integers(len(encoded), size=(n, encoded.codes.shape[1]))
    columns = np.arange(encoded.codes.shape[1])
    return EncodedTable(encoded.codes[places, columns], encoded.values[places, columns])


def correlation(encoded: EncodedTable) -> float:
    return float(np.corrcoef(encoded.values[:, 0], encoded.values[:, 1])[0, 1])


def test_relations_that_a_model_misses_come_back() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(1)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng)
    pool = shuffled(encoded, 30_000, rng)
    kept = tilt.pick(pool, 10_000, rng)
    assert len(kept) == 10_000
    assert abs(correlation(pool)) < 0.05
    assert 0.3 < correlation(kept) < 0.45
    high = kept.codes[:, 2] == 0
    assert kept.values[high, 0].mean() - kept.values[~high, 0].mean() > 0.6


def test_a_model_without_fault_is_left_alone() -> None:
    codec, encoded = learned(table())
    fresh = [learned(table(seed=seed))[1] for seed in (1, 2, 3)]
    many = EncodedTable(
        np.concatenate([one.codes for one in fresh]), np.concatenate([one.values for one in fresh])
    )
    rng = np.random.default_rng(2)
    tilt = Tilt.fit(codec, encoded, lambda n, _: many.take(slice(0, n)), 20.0, rng)
    odds = tilt.odds(learned(table(seed=4))[1])
    assert abs(odds.mean() - 1) < 0.02
    assert odds.std() < 0.3


def test_a_large_ridge_changes_nothing() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(3)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 1e9, rng)
    assert np.allclose(tilt.odds(encoded), 1.0, atol=1e-3)


def test_no_row_counts_for_more_than_the_pool_holds() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(4)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 0.1, rng)
    odds = tilt.odds(shuffled(encoded, 20_000, rng))
    assert (odds > 0).all()
    assert odds.max() <= POOL + 1e-9
    one_each = tilt.pick_each(shuffled(encoded, 500 * POOL, rng), rng)
    assert len(one_each) == 500


def test_kept_rows_have_the_shares_of_the_few_cells_almost_exactly() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(7)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng)
    pool = shuffled(encoded, 3000, rng)
    odds = tilt.odds(pool)
    want = odds[pool.codes[:, 2] == 0].sum() / odds.sum()
    for _ in range(5):
        # The standard error of a thousand independent rows is 0.016.
        assert abs((tilt.pick(pool, 1000, rng).codes[:, 2] == 0).mean() - want) < 0.002


@pytest.mark.parametrize("columns", [(0, 4), (3, 1, 4)])
def test_kept_rows_have_the_shares_of_pairs_and_of_triples_nearly(columns: tuple[int, ...]) -> None:
    more = [table(seed=seed).add_prefix(f"{seed}_") for seed in (1, 2)]
    codec, encoded = learned(pd.concat([table(), *more], axis=1)[WIDE])
    rng = np.random.default_rng(8)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng, third=3)
    pool = shuffled(encoded, 12_000, rng)
    kept = tilt.pick(pool, 4000, rng)

    def counted(rows: EncodedTable, weights: np.ndarray) -> np.ndarray:
        cells = tilt.balance.cells.encode(rows)[:, columns] // (1 if len(columns) == 2 else 2)
        at = np.ravel_multi_index(cells.T, (20,) * len(columns))
        return np.bincount(at, weights, minlength=20 ** len(columns))

    odds = tilt.odds(pool)
    due, found = counted(pool, odds * 4000 / odds.sum()), counted(kept, np.ones(4000))
    # Rows that are kept in the order of their cells alone are at 0.38.
    assert ((found - due)[due > 1] ** 2 / due[due > 1]).mean() < 0.3


def test_what_was_saved_comes_back() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(5)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng, third=1)
    arrays, state = tilt.state()
    back = Tilt.restore(codec, arrays, state)
    assert np.array_equal(back.odds(encoded), tilt.odds(encoded))
    pool = shuffled(encoded, 300, rng)
    one, other = (t.pick(pool, 100, np.random.default_rng(6)) for t in (tilt, back))
    assert np.array_equal(one.codes, other.codes)
    assert np.array_equal(one.values, other.values, equal_nan=True)


def test_one_saved_before_there_was_a_third_column_still_picks() -> None:
    codec, encoded = learned(table())
    rng = np.random.default_rng(9)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng)
    arrays, state = tilt.state()
    del state["third"]
    assert (
        len(Tilt.restore(codec, arrays, state).pick(shuffled(encoded, 300, rng), 100, rng)) == 100
    )


def test_many_columns_take_the_pairs_that_differ_most() -> None:
    rng = np.random.default_rng(6)
    frame = pd.DataFrame(rng.integers(3, size=(3000, 20)), columns=[f"c{i}" for i in range(20)])
    frame["c7"] = frame["c3"]
    frame = frame.astype(str)
    codec, encoded = learned(frame)
    tilt = Tilt.fit(codec, encoded, lambda n, r: shuffled(encoded, n, r), 5.0, rng)
    assert len(tilt.balance.pairs) == 150
    assert [3, 7] in tilt.balance.pairs.tolist()


def test_the_pairs_of_a_forest_come_nearer() -> None:
    frame = pd.concat(
        [table(8000), table(8000, seed=1)[["y", "kind"]].add_prefix("other_")], axis=1
    )
    frame["sum"] = frame["x"] + frame["other_y"]
    schema = TableSchema.infer(frame)
    errors = {}
    for calibrate in (False, True):
        model = Forest(calibrate=calibrate, verbatim_guard=False, trees=2, privacy=0.5)
        made = model.fit(frame, schema).sample(16_000, seed=1)
        assert isinstance(made, pd.DataFrame)
        errors[calibrate] = pair_error(frame, made)
    assert errors[True] < 0.85 * errors[False]


def pair_error(real: pd.DataFrame, made: pd.DataFrame) -> float:
    """Mean total variation distance of the numbers' pairs, in six by six quantile bins."""
    names = ["x", "y", "other_y", "sum"]
    cuts = {name: real[name].quantile(np.linspace(0, 1, 7)[1:-1]) for name in names}
    bins = [{n: np.searchsorted(cuts[n], f[n]) for n in names} for f in (real, made)]
    found = []
    for one, other in itertools.combinations(names, 2):
        shares = [np.bincount(6 * b[one] + b[other], minlength=36) / len(b[one]) for b in bins]
        found.append(np.abs(shares[0] - shares[1]).sum() / 2)
    return float(np.mean(found))


def test_more_privacy_is_less_correction() -> None:
    frame = table(4000)
    schema, spread = TableSchema.infer(frame), {}
    for privacy in (0.0, 1.0):
        model = Forest(privacy=privacy, verbatim_guard=False, trees=2, min_leaf=1500)
        model.fit(frame, schema)
        assert model.tilt_ is not None
        spread[privacy] = np.log(model.tilt_.odds(model.codec_.encode(frame))).std()
    assert spread[1.0] < 0.7 * spread[0.0]
