"""Conditions, quotas and completion as a user asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generators import GENERATORS, TableSchema
from generators.base import NoSupport, ParameterError
from generators.tabular.forest import Forest
from generators.tabular.independent import Independent
from pipelines.sampling import apportion, conditional, sample_rows, strata
from pipelines.spec import parse_sample
from pipelines.steps import fill_to_file, sample_to_file

from ..warm import likeness


def people(rows: int = 800) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    age = rng.integers(18, 80, rows)
    return pd.DataFrame(
        {
            "person_id": np.arange(rows) + 10_000,
            "age": age,
            "sex": rng.choice(["F", "M"], rows),
            "pay": np.round(np.exp(9 + age / 60 + 0.4 * rng.normal(size=rows)), 2),
            "bmi": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(25, 4, rows).round(1)),
            "income": rng.choice(["<=50K", ">50K", "none"], rows, p=[0.7, 0.2, 0.1]),
        }
    )


@pytest.fixture(scope="module")
def schema() -> TableSchema:
    return TableSchema.infer(people())


@pytest.fixture(scope="module")
def model(schema: TableSchema) -> Forest:
    return Forest(trees=3).fit(people(), schema)


@pytest.fixture(scope="module")
def folder(model: Forest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sampling")
    model.save(place / "model")
    return place


def test_quotas_are_exact_and_leave_the_rest(model: Forest) -> None:
    asked = {"rows": 101, "where": ["age >= 30"], "quotas": ["income='>50K':0.5", "income=none:.3"]}
    sample = sample_rows(model, parse_sample(asked))
    assert isinstance(sample, pd.DataFrame)
    assert sample["income"].value_counts().to_dict() == {">50K": 51, "none": 30, "<=50K": 20}
    assert (sample["age"] >= 30).all()
    assert list(sample["person_id"]) == list(range(1, 102))
    # Strata are mixed: the first half is not all of one kind.
    assert sample["income"][:50].nunique() == 3
    assert sample.equals(sample_rows(model, parse_sample(asked)))
    assert not sample.equals(sample_rows(model, parse_sample({**asked, "seed": 1})))


def test_quotas_of_numbers_and_of_missing_cells(model: Forest) -> None:
    asked = {"rows": 60, "quotas": ["bmi is missing:0.25", "bmi >= 25:0.5"]}
    sample = sample_rows(model, parse_sample(asked))
    assert isinstance(sample, pd.DataFrame)
    assert sample["bmi"].isna().sum() == 15
    assert (sample["bmi"] >= 25).sum() == 30
    assert (sample["bmi"] < 25).sum() == 15


def test_a_quota_of_one_is_a_condition(model: Forest) -> None:
    sample = sample_rows(model, parse_sample({"rows": 9, "quotas": ["sex=F:1"]}))
    assert isinstance(sample, pd.DataFrame)
    assert set(sample["sex"]) == {"F"}


@pytest.mark.parametrize(
    ("quotas", "error", "message"),
    [
        (["income=none:0.6", "income='>50K':0.6"], ParameterError, "sum to 1.2"),
        (["income=none:0.5", "income!='>50K':0.2"], ParameterError, "must not overlap"),
        (["income=none:0.5", "sex=F:0.2"], ParameterError, "on one column.*income, sex"),
        (["income=nix:0.5"], ParameterError, "'income'"),
        (["age>900:0.5"], NoSupport, "age>900"),
        (["sex in (F, M):0.5"], NoSupport, r"not \(sex in \(F, M\)\)"),
    ],
)
def test_wrong_quotas_are_one_clear_error(
    model: Forest, quotas: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sample_rows(model, parse_sample({"rows": 10, "quotas": quotas}))


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"rows": 0}, "rows"),
        ({}, "rows: Field required"),
        ({"rows": 5, "quotas": ["income=none"]}, "must read like"),
        ({"rows": 5, "quotas": ["income=none:much"]}, "quotas.0.share"),
        ({"rows": 5, "quotas": ["income=none:1.5"]}, "quotas.0.share"),
        ({"rows": 5, "quotas": ["income=none:nan"]}, "quotas.0.share"),
        ({"rows": 5, "where": [""]}, "where.0"),
        ({"rows": 5, "when": ["age>3"]}, "when"),
    ],
)
def test_a_wrong_request_is_refused(raw: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_sample(raw)


@given(shares=st.lists(st.integers(1, 100), min_size=1, max_size=8), rows=st.integers(0, 100_000))
def test_largest_remainders_give_out_every_row(shares: list[int], rows: int) -> None:
    parts = [share / sum(shares) for share in shares]
    counts = apportion(parts, rows)
    assert sum(counts) == rows
    assert all(abs(count - part * rows) < 1 for count, part in zip(counts, parts, strict=True))


def test_small_quotas_of_few_rows(schema: TableSchema) -> None:
    asked = parse_sample({"rows": 2, "quotas": ["income=none:0.1"]})
    found = strata(asked.quotas, asked.rows, schema)
    assert [(condition.text, rows) for condition, rows in found] == [("not (income=none)", 2)]


def test_a_family_that_takes_no_conditions_names_those_that_do() -> None:
    with pytest.raises(
        ParameterError, match=r"sdv-tvae cannot; fit one of .*forest, .*independent"
    ):
        conditional(GENERATORS["sdv-tvae"]())


def test_without_conditions_it_is_a_plain_sample(model: Forest) -> None:
    plain = sample_rows(model, parse_sample({"rows": 20, "seed": 3}))
    assert plain.equals(model.sample(20, seed=3))


def test_copies_are_guarded_under_conditions_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    size = rng.normal(0, 1, (3000, 1))
    grid = np.round(3 * (size + 0.4 * rng.normal(0, 1, (3000, 5)))).astype(int)
    frame = pd.DataFrame(grid, columns=list("abcde"))
    once = set(map(tuple, frame.drop_duplicates(keep=False).to_numpy()))
    shares = []
    for guard in (False, True):
        careless = Forest(trees=4, min_leaf=2, privacy=0.0, honest=False, verbatim_guard=guard)
        careless.fit(frame, TableSchema.infer(frame)).save(tmp_path / str(guard))
        asked = parse_sample({"rows": 2000, "where": ["a >= 0"], "quotas": ["e >= 1:0.7"]})
        output = tmp_path / f"{guard}.parquet"
        sample_to_file(tmp_path / str(guard), asked, output)
        rows = pd.read_parquet(output).to_numpy()
        shares.append(np.mean([tuple(row) in once for row in rows]))
    assert shares[0] > 2 * shares[1] > 0


def test_a_csv_is_completed_in_its_order(folder: Path) -> None:
    whole = people(120).drop(columns=["pay"])
    part = whole.astype(object).mask(np.random.default_rng(1).random(whole.shape) < 0.3)
    part[part.columns[::-1]].to_csv(folder / "part.csv", index=False)
    _, rows = fill_to_file(folder / "model", folder / "part.csv", 4, folder / "full.parquet")
    full = pd.read_parquet(folder / "full.parquet")
    assert rows == len(full) == 120
    assert list(full.columns) == list(people(2).columns)
    assert full.dtypes.astype(str).to_dict() == people(2).dtypes.astype(str).to_dict()
    for name in part.columns:
        there = part[name].notna()
        assert (full[name][there] == whole[name][there]).all(), name
    assert full.notna().all(axis=None)


def test_the_command_samples_under_conditions_and_completes(folder: Path) -> None:
    options = ["--where", "age>=30", "--quota", "income='>50K':0.5", "--rows", 40, "--json"]
    done = likeness("sample", "model", *options, "--output", "a.parquet", cwd=folder)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["where"] == ["age>=30"]
    sample = pd.read_parquet(folder / "a.parquet")
    assert len(sample) == 40
    assert (sample["income"] == ">50K").sum() == 20
    people(60).drop(columns="age").to_csv(folder / "given.csv", index=False)
    done = likeness("sample", "model", "--fill", "given.csv", "--output", "b.parquet", cwd=folder)
    assert done.returncode == 0, done.stderr
    pd.testing.assert_series_equal(pd.read_parquet(folder / "b.parquet")["pay"], people(60)["pay"])


def test_a_bad_request_ends_with_exit_code_2(folder: Path) -> None:
    options = ["--rows", 5, "--where", "agee>3", "--output", "c.parquet"]
    failed = likeness("sample", "model", *options, cwd=folder)
    assert failed.returncode == 2
    assert "did you mean 'age'" in " ".join(failed.stderr.split())
    assert not (folder / "c.parquet").exists()


def test_independent_takes_the_same_requests(schema: TableSchema) -> None:
    plain = Independent().fit(people(), schema)
    sample = sample_rows(plain, parse_sample({"rows": 30, "quotas": ["age < 40:0.5"]}))
    assert isinstance(sample, pd.DataFrame)
    assert (sample["age"] < 40).sum() == 15


def unequal(rows: int = 3_000) -> tuple[pd.DataFrame, TableSchema]:
    """Loans: women and the old get fewer, and pay depends on sex and on the loan."""
    rng = np.random.default_rng(11)
    sex = rng.choice(["F", "M", None], rows, p=[0.4, 0.5, 0.1])
    old = rng.random(rows) < 0.3
    loan = rng.random(rows) < np.where(sex == "F", 0.2, 0.6) - 0.15 * old
    pay = np.round(rng.normal(20 + 10 * (sex == "M") + 15 * loan, 3), 1)
    frame = pd.DataFrame({"sex": sex, "old": old, "pay": pay, "loan": np.where(loan, "yes", "no")})
    return frame, TableSchema.infer(frame, target="loan", protected=("sex", "old"))


@pytest.mark.parametrize("name", ["forest", "autoregressive"])
def test_parity_makes_group_and_outcome_independent_and_keeps_the_rest(name: str) -> None:
    frame, schema = unequal()
    model = GENERATORS[name].from_parameters({}).fit(frame, schema)
    plain = sample_rows(model, parse_sample({"rows": 4_000}))
    fair = sample_rows(model, parse_sample({"rows": 4_000, "parity": True}))
    assert isinstance(plain, pd.DataFrame)
    assert isinstance(fair, pd.DataFrame)
    assert len(fair) == 4_000
    rates = {}
    for drawn in (plain, fair):
        yes = drawn["loan"] == "yes"
        groups = yes.groupby([drawn["sex"].fillna("none"), drawn["old"]])
        rates[drawn is fair] = groups.mean()
        assert abs(yes.mean() - (frame["loan"] == "yes").mean()) < 0.03
    assert np.ptp(rates[False]) > 0.3
    # One row of the smallest group is what rounding may cost.
    assert np.ptp(rates[True]) < 1.0 / 80
    assert abs((fair["sex"] == "F").mean() - (frame["sex"] == "F").mean()) < 0.03
    pay = fair.groupby([fair["sex"], fair["loan"]])["pay"].mean()
    assert pay["M", "yes"] - pay["M", "no"] == pytest.approx(15, abs=2)
    assert pay["M", "no"] - pay["F", "no"] == pytest.approx(10, abs=2)
    again = sample_rows(model, parse_sample({"rows": 4_000, "parity": True}))
    assert fair.equals(again)


def test_parity_goes_with_conditions_and_not_with_quotas(
    schema: TableSchema, model: Forest
) -> None:
    frame, declared = unequal(1_000)
    fitted = Forest(trees=3).fit(frame, declared)
    fair = sample_rows(fitted, parse_sample({"rows": 500, "parity": True, "where": ["pay > 25"]}))
    assert isinstance(fair, pd.DataFrame)
    assert len(fair) == 500
    assert (fair["pay"] > 25).all()
    with pytest.raises(ParameterError, match="take one"):
        parse_sample({"rows": 5, "parity": True, "quotas": ["loan = yes:0.5"]})
    with pytest.raises(ParameterError, match="--target and --protected"):
        sample_rows(model, parse_sample({"rows": 5, "parity": True}))
    ranged = TableSchema.infer(frame, target="loan", protected=("pay",))
    with pytest.raises(ParameterError, match="pay has a range"):
        sample_rows(Forest(trees=3).fit(frame, ranged), parse_sample({"rows": 5, "parity": True}))
