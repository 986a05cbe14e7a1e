"""Marginal and pair distances: no excess for real rows, each planted defect found."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.datasets import randhie

from generators.base import SchemaError
from generators.schema import TableSchema
from validators.binning import encode
from validators.comparison import Comparison
from validators.fidelity import (
    _BLOCKS,
    Fidelity,
    Noise,
    _pair_counts,
    _pair_distance,
    _shapes,
    column_distances,
)
from validators.statistics import cramers_v


def test_fresh_real_rows_show_no_excess(people):
    """The false-failure rate of every gate: the low end above zero in at most a few of 12 runs."""
    alarms = {"marginal_tvd_mean": 0, "marginal_tvd_worst": 0, "pair_tvd_mean": 0}
    columns = 0
    for seed in range(12):
        scores = Fidelity(draws=60)(people(800, seed))
        for score in (score for score in scores if not score.metric.startswith("association")):
            assert 0 <= score.low <= score.value <= score.high <= 1
            if score.metric in alarms:
                alarms[score.metric] += score.low > 0
            columns += score.metric == "marginal_tvd" and score.low > 0
    assert max(alarms.values()) <= 2, alarms
    assert columns <= 0.1 * 12 * 7


def test_a_known_distance_is_read_right(people, with_synthetic, number):
    """60 % of a column lost to NaN (5 % were missing): the distance is 0.55 + a little."""
    comparison = people(2000)
    income = comparison.synthetic["income"].mask(np.random.default_rng(0).random(2000) < 0.6)
    expected = income.isna().mean() - comparison.holdout["income"].isna().mean()
    scores = Fidelity()(with_synthetic(comparison, income=income))
    score = number(scores, "marginal_tvd", "income")
    assert score.value == pytest.approx(expected, abs=0.03)
    assert score.low > 0.5
    assert number(scores, "marginal_tvd_worst").low > 0.5


def test_interval_covers_the_true_distance(number):
    """A column of four levels whose shares are known on both sides."""
    real, fake = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.3, 0.3, 0.2, 0.2])
    truth = 0.5 * np.abs(real - fake).sum()
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        frames = [
            pd.DataFrame({"x": rng.choice(list("abcd"), 600, p=p)}) for p in (real, real, fake)
        ]
        comparison = Comparison(frames[2], frames[0], frames[1], TableSchema.infer(frames[0]))
        score = number(Fidelity()(comparison), "marginal_tvd", "x")
        hits += score.low <= truth <= score.high
    assert hits >= 53


def test_shuffled_column_breaks_pairs_not_columns(people, with_synthetic, number):
    comparison = people(2000)
    shuffled = np.random.default_rng(0).permutation(comparison.synthetic["age"].to_numpy())
    before = Fidelity()(comparison)
    after = Fidelity()(with_synthetic(comparison, age=shuffled))
    values = [number(scores, "marginal_tvd", "age").value for scores in (before, after)]
    assert values[0] == values[1]
    assert number(before, "pair_tvd_p95").low < 0.03
    assert number(after, "pair_tvd", "age × bought").low > 0.1
    assert number(after, "pair_tvd_p95").value > number(before, "pair_tvd_p95").value + 0.05


def test_invented_correlation_of_unrelated_columns_is_seen(people, with_synthetic, number):
    """Metrics that only look at pairs related in the real data miss it."""
    comparison = people(2000)
    rank = stats.rankdata(comparison.synthetic["age"], method="ordinal").astype(int) - 1
    joined = np.sort(comparison.synthetic["joined"].to_numpy())[rank]
    scores = Fidelity()(with_synthetic(comparison, joined=joined))
    assert number(scores, "pair_tvd", "age × joined").low > 0.4


@pytest.mark.parametrize(
    "defect",
    [
        lambda frame: {"age": frame["age"] + 12},
        lambda frame: {"income": frame["income"] * 1000 + 1e6},
        lambda frame: {"joined": frame["joined"] + pd.Timedelta(days=150)},
        lambda frame: {"region": frame["region"].replace("west", "north")},
        lambda frame: {"gain": frame["gain"] + 0.5},
        lambda frame: {"sex": frame["sex"].replace("F", "unheard of")},
    ],
    ids=["shifted", "scaled", "later dates", "dropped category", "spike lost", "unseen level"],
)
def test_broken_columns_are_proven_bad(people, with_synthetic, number, defect):
    comparison = people(2000)
    changed = defect(comparison.synthetic)
    (name,) = changed
    scores = Fidelity()(with_synthetic(comparison, **changed))
    assert number(scores, "marginal_tvd", name).low > 0.05
    assert number(scores, "marginal_tvd_worst").low > 0.05


@pytest.mark.parametrize("row_noise", [1_000, 100], ids=["rows", "blocks"])
def test_raw_distance_of_pairs_equals_a_crosstab(people, monkeypatch, row_noise):
    """An independent computation: pandas cross tables of the codes."""
    monkeypatch.setattr("validators.fidelity._ROW_NOISE", row_noise)
    comparison = people(500)
    table = comparison.coarse
    a, b = table.position("sex"), table.position("region")
    crosses = [
        pd.crosstab(view.codes[:, a], view.codes[:, b], normalize=True)
        for view in (table.synthetic, table.holdout)
    ]
    first, second = crosses[0].align(crosses[1], fill_value=0)
    expected = 0.5 * (first - second).abs().to_numpy().sum()
    rows = comparison.equal_rows("x")
    noise = Noise.draw(len(rows), 20, np.random.default_rng(0))
    ((_, counts),) = _pair_counts(table, rows, [(a, b)], noise)
    (shape,) = _shapes(table, [(a, b)])
    distance, drift = _pair_distance("x", counts, shape, noise)
    assert distance.raw == pytest.approx(expected)
    v = [cramers_v(cross.to_numpy() * 500) for cross in crosses]
    assert drift.value == pytest.approx(v[0] - v[1])


def test_cells_come_from_real_data_only(people, with_synthetic):
    comparison = people(300)
    wild = with_synthetic(comparison, age=comparison.synthetic["age"] * 1000)
    assert (wild.table.sizes == comparison.table.sizes).all()
    for name in ("train", "holdout"):
        before, after = getattr(comparison.table, name), getattr(wild.table, name)
        np.testing.assert_array_equal(before.codes, after.codes)
        np.testing.assert_array_equal(before.numbers, after.numbers)


def test_missing_is_a_cell_of_its_own(people):
    comparison = people(300)
    for table in (comparison.table, comparison.coarse):
        position = table.position("income")
        found = table.synthetic.codes[:, position] == table.sizes[position] - 1
        np.testing.assert_array_equal(found, comparison.synthetic["income"].isna())


def test_encoding_layout(people):
    table = people(300).table
    for view in (table.train, table.holdout, table.synthetic):
        assert view.codes.dtype == np.int32
        assert ((view.codes >= 0) & (view.codes < table.sizes)).all()
        assert ((view.categories >= 0) & (view.categories < table.category_sizes)).all()
        assert np.isfinite(view.numbers).all()
        assert (view.numbers[view.missing] == 0).all()
    for view in (table.train, table.holdout):
        assert not (view.codes == table.sizes - 2).any(), "no real value is unseen"


def test_row_identity_equals_an_exact_join(people):
    comparison = people(400)
    synthetic = comparison.synthetic.copy()
    synthetic.loc[:49, :] = comparison.train.loc[100:149, :].to_numpy()
    synthetic = synthetic.astype(comparison.train.dtypes)
    copied = Comparison(synthetic, comparison.train, comparison.holdout, comparison.schema)
    found = np.isin(copied.table.synthetic.rows, copied.table.train.rows)
    keys = [c.name for c in comparison.schema.modelled]
    expected = synthetic.merge(comparison.train[keys].drop_duplicates(), on=keys, how="inner")
    assert found[:50].all()
    assert found.sum() == len(expected)


def test_unseen_levels_keep_rows_apart():
    frame = pd.DataFrame({"x": list("ab") * 20})
    odd = pd.DataFrame({"x": ["c", "d", "c", None]})
    table = encode(frame, frame, odd, TableSchema.infer(frame))
    assert len(np.unique(table.synthetic.rows)) == 3
    assert not np.isin(table.synthetic.rows, table.train.rows).any()


def test_a_missing_column_is_refused(people):
    comparison = people(50)
    lacking = Comparison(
        comparison.synthetic.drop(columns="age"),
        comparison.train,
        comparison.holdout,
        comparison.schema,
    )
    with pytest.raises(SchemaError, match="age"):
        Fidelity()(lacking)


def with_schema(train, holdout, synthetic):
    schema = TableSchema.infer(pd.concat([train, holdout], ignore_index=True))
    return Comparison(synthetic, train, holdout, schema)


def related(n, seed, strength):
    """Two columns of four levels; with probability ``strength`` the second repeats the first."""
    rng = np.random.default_rng(seed)
    first, other = rng.integers(0, 4, n), rng.integers(0, 4, n)
    second = np.where(rng.random(n) < strength, first, other)
    return pd.DataFrame({"a": first, "b": second, "c": rng.integers(0, 4, n)}).astype(str)


@pytest.mark.parametrize(("real", "made"), [(0.0, 0.5), (0.5, 0.0)])
def test_invented_and_lost_associations_are_told_apart(number, real, made):
    """For four equal levels that are copied with probability p, Cramér's V is p."""
    comparison = with_schema(related(4000, 0, real), related(4000, 1, real), related(4000, 2, made))
    scores = Fidelity()(comparison)
    names = ["association_invented", "association_lost"]
    found, other = (number(scores, name) for name in (names if made > real else names[::-1]))
    assert found.value == pytest.approx(0.5, abs=0.08)
    assert 0.35 < found.low < found.value
    assert other.low <= 0 <= other.value < 0.08
    worst = next(score for score in scores if score.metric == "association_drift")
    assert worst.subject == "a × b"
    assert worst.value == pytest.approx(made - real, abs=0.08)


def test_equal_associations_are_rarely_accused(people):
    """The low end of the worst pair lies above 0 in about one of forty samples, each sign."""
    alarms = 0
    for seed in range(12):
        scores = Fidelity(draws=60)(people(600, seed))
        alarms += sum(
            s.low > 0.02
            for s in scores
            if s.metric.startswith("association_") and s.subject == "all"
        )
    assert alarms <= 3


def test_intervals_of_associations_hold_where_cells_are_rare():
    """Nominal 2.5 % of either sign. randhie has counts with long tails and rare flags: a bootstrap
    alone accuses one fresh sample in seven."""
    table = randhie.load_pandas().data
    person = table.drop(columns="mdvis")
    table = table[(person != person.shift()).any(axis=1)]
    schema, n, splits = TableSchema.infer(table), 500, 50
    beyond = dict.fromkeys(["association_invented", "association_lost", "pair_tvd_p95"], 0)
    for seed in range(splits):
        mixed = table.sample(3 * n, random_state=seed)
        parts = [mixed[at * n : (at + 1) * n].reset_index(drop=True) for at in range(3)]
        comparison = Comparison(parts[2], parts[0], parts[1], schema, seed)
        for score in Fidelity().pairs_of(comparison, comparison.equal_rows("fidelity")):
            if score.metric in beyond and score.subject == "all":
                beyond[score.metric] += score.low > 0
    assert max(beyond.values()) <= stats.binom.ppf(0.999, splits, 0.025), beyond


@pytest.mark.parametrize(("real", "made"), [(0.5, 0.2), (0.0, 0.3)])
def test_intervals_of_associations_cover_the_true_drift(number, real, made):
    """For four equal levels that are copied with probability p, Cramér's V is p."""
    name, truth = ("association_lost" if real > made else "association_invented"), abs(real - made)
    covered = 0
    for seed in range(0, 120, 3):
        train, holdout = (related(300, seed + at, real) for at in range(2))
        score = number(Fidelity()(with_schema(train, holdout, related(300, seed + 2, made))), name)
        covered += score.low <= truth <= score.high
    assert covered >= stats.binom.ppf(0.001, 40, 0.95)


@pytest.mark.parametrize("fraction", [0.05, 0.25])
def test_the_equivalent_fraction_of_repeated_rows_is_their_share(people, number, fraction):
    """n rows that are f n fresh ones, each repeated, tell as much as f n rows do."""
    comparison = people(2000)
    few = comparison.synthetic.iloc[: int(fraction * 2000)]
    repeated = pd.concat([few] * round(1 / fraction), ignore_index=True)
    scores = Fidelity()(
        Comparison(repeated, comparison.train, comparison.holdout, comparison.schema)
    )
    found = number(scores, "equivalent_fraction")
    assert fraction / 1.5 < found.value < fraction * 1.5
    fresh = number(Fidelity()(comparison), "equivalent_fraction")
    assert fresh.high > 0.9
    assert fresh.value > 0.6


def test_blocks_of_rows_have_the_spread_of_rows(people, monkeypatch):
    """Counting once and resampling blocks gives the null and the errors that rows give."""
    comparison = people(4000)
    rows = comparison.equal_rows("blocks")
    found = []
    for limit in (10_000, 1_000):
        monkeypatch.setattr("validators.fidelity._ROW_NOISE", limit)
        noise = Noise.draw(len(rows), 300, np.random.default_rng(0))
        assert noise.split.shape[0] == 2 * (len(rows) if limit > 4000 else _BLOCKS)
        found.append(column_distances(comparison.table, rows, noise))
    for by_row, by_block in zip(*found, strict=True):
        assert by_row.raw == by_block.raw
        assert by_row.null == pytest.approx(by_block.null, rel=0.12)
        assert by_row.error == pytest.approx(by_block.error, rel=0.25)
