"""The policy of each column: what is dropped, masked, invented or kept, and what is told of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.base import DataError, ParameterError
from generators.schema import TableSchema
from pipelines import steps
from pipelines.declare import Options, to_spec
from pipelines.home import Home
from pipelines.ingest import split_and_protect
from pipelines.protection.fake import fake_columns, fresh_surrogates, invent
from pipelines.protection.policy import MASKED, Protection, fit_protection
from pipelines.sources import RawTable
from pipelines.spec import DatasetSpec, parse_spec

N = 400


def people(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    age = rng.integers(20, 80, n)
    born = pd.Timestamp("2026-01-01") - pd.to_timedelta(age * 365 + rng.integers(0, 365, n), "D")
    return pd.DataFrame(
        {
            "mail": [f"user{number}@firm.example" for number in range(n)],
            "card": [4_000_000_000_000_000 + number for number in range(n)],
            "born": pd.Series(born).astype("datetime64[us]"),
            "lat": rng.uniform(46, 47, n).round(5),
            "age": age,
            "job": rng.choice(["clerk", "nurse"], n),
        }
    )


def spec(**changes: object) -> DatasetSpec:
    return parse_spec({"name": "toy", "source": {"kind": "csv", "path": "x.csv"}, **changes})


def test_each_kind_of_personal_column_has_a_default() -> None:
    split = split_and_protect(RawTable(people()), spec())
    schema, train = split.schema, split.train
    assert isinstance(schema, TableSchema)
    assert isinstance(train, pd.DataFrame)
    assert schema["mail"].kind == "id"
    assert split.protection is not None
    assert split.protection.fakes == {"mail": "safe_email"}
    assert set(train["born"].dt.strftime("%m-%d %H")) == {"01-01 00"}
    assert np.allclose(train["lat"] * 10, (train["lat"] * 10).round())
    told = " ".join(split.facts["protection"])
    for sentence in ("mail: recognised as e-mail address; its values are replaced by invented",
                     "born: recognised as date of birth; masked, only the year is kept",
                     "lat: recognised as geographic position; masked, only one"):  # fmt: skip
        assert sentence in told


@pytest.mark.parametrize("policy", ["drop", "mask", "fake", "keep"])
def test_the_owner_decides(policy: str) -> None:
    declared = spec(columns={"mail": {"policy": policy}}, drop=["card"])
    split = split_and_protect(RawTable(people()), declared)
    assert isinstance(split.train, pd.DataFrame)
    assert isinstance(split.schema, TableSchema)
    assert ("mail" in split.train) == (policy != "drop")
    if policy == "mask":
        assert set(split.train["mail"]) == {MASKED}
    elif policy == "keep":
        # Kept means: not treated as personal. Unique text is still not learned.
        assert not split.schema["mail"].modelled
    real = set(people()["mail"])
    assert set(split.sensitive.values["mail"]) == real


def test_what_is_learned_from_cannot_be_hidden() -> None:
    with pytest.raises(DataError, match="'mail'"):
        split_and_protect(RawTable(people()), spec(target="mail"))
    with pytest.raises(DataError, match="only text can be faked"):
        split_and_protect(RawTable(people()), spec(columns={"age": {"policy": "fake"}}))
    columns = {"mail": {"policy": "fake", "fake": "nonsense"}}
    with pytest.raises(ParameterError, match="no 'nonsense'"):
        split_and_protect(RawTable(people()), spec(columns=columns))


def test_policies_on_the_command_line(tmp_path: Path) -> None:
    people().to_csv(tmp_path / "p.csv", index=False)
    options = Options(policies=["mail=fake:company_email", "born=drop"], kinds=["age=numerical"])
    columns = to_spec(str(tmp_path / "p.csv"), options).columns
    assert (columns["mail"].policy, columns["mail"].fake) == ("fake", "company_email")
    assert columns["born"].policy == "drop"
    assert columns["age"].kind == "numerical"
    with pytest.raises(ParameterError, match=r"columns\.mail\.policy"):
        to_spec(str(tmp_path / "p.csv"), Options(policies=["mail=burn"]))


def test_categories_are_counted_by_subject_and_codes_are_merged() -> None:
    frame = people().drop(columns=["mail", "card", "born", "lat"])
    frame["job"] = "clerk"
    frame.loc[:99, "job"] = "envoy"
    frame["code"] = [1, 5] * (N // 2)
    frame.loc[:2, "code"] = 9
    subjects = np.where(frame["job"] == "envoy", 0, np.arange(N))
    declared = spec(columns={"code": {"kind": "categorical"}})
    by_row = fit_protection(frame, declared)
    by_subject = fit_protection(frame, declared, subjects)
    assert by_row.kept["job"] == ("clerk", "envoy")
    assert by_subject.kept["job"] == ("clerk",)
    assert set(by_row.apply(frame)["code"]) == {1, 5}
    assert str(by_row.apply(frame)["code"].dtype) == "int64"
    assert Protection.from_json(by_row.to_json()) == by_row


@given(
    st.integers(0, 300), st.booleans(), st.integers(0, 2**40), st.sampled_from(["name", "email"])
)
@settings(deadline=None, max_examples=25)
def test_invented_values_are_never_real(n: int, unique: bool, seed: int, provider: str) -> None:
    real = [value.upper() for value in invent(50, provider, seed=seed)]
    made = invent(n, provider, forbidden=real, unique=unique, seed=seed)
    assert made == invent(n, provider, forbidden=real, unique=unique, seed=seed)
    assert len(made) == n
    assert not {value.lower() for value in made} & {value.lower() for value in real}
    assert not unique or len(set(made)) == n


def test_more_unique_values_than_a_provider_knows() -> None:
    made = invent(3_000, "month_name", unique=True, forbidden=["May"], seed=3)
    assert len(set(made)) == 3_000
    assert "May" not in made
    with pytest.raises(DataError, match="declare another provider"):
        invent(5, "boolean", forbidden=["true", "false"])


@pytest.mark.parametrize(
    ("surrogates", "real"),
    [
        (pd.Series([1, 2, 3]), pd.Series([3, 17])),
        (pd.Series([1, 2, 3], dtype="Int64"), pd.Series([3, None, -400], dtype="Int64")),
        (pd.Series(["a-1", "a-2"]), pd.Series(["a-2", "sa-1", None])),
    ],
)
def test_no_surrogate_is_a_real_id(surrogates: pd.Series, real: pd.Series) -> None:
    moved = fresh_surrogates(surrogates, real)
    assert not set(moved) & set(real.dropna())
    assert moved.is_unique
    assert moved.dtype == surrogates.dtype
    assert fresh_surrogates(surrogates, real.iloc[:0]).equals(surrogates)
    with pytest.raises(DataError, match="room for new ids"):
        fresh_surrogates(pd.Series([1, 2], dtype="int8"), pd.Series([2, 120], dtype="int8"))


def test_gaps_stay_gaps() -> None:
    frame = pd.DataFrame({"a": ["x", None, "y"], "b": [1, 2, 3]})
    changed = fake_columns(frame, {"a": "name"}, {}, seed=1)
    assert changed["a"].isna().tolist() == [False, True, False]
    assert changed["b"].equals(frame["b"])


def test_a_published_table_holds_invented_values(tmp_path: Path) -> None:
    frame = people(700).drop(columns="card")
    frame.to_csv(tmp_path / "p.csv", index=False)
    source = {"kind": "csv", "path": str(tmp_path / "p.csv")}
    declared = spec(source=source, generator={"name": "independent"})
    release = steps.prepare(
        declared, Home(tmp_path / "h"), steps.ingest(declared, Home(tmp_path / "h"))
    )
    steps.fit(release)
    steps.sample(release)
    sampled = steps.comparison(release).synthetic
    assert isinstance(sampled, pd.DataFrame)
    assert sampled["mail"].str.fullmatch(r"[\w.]+@example\.\w+").all()
    assert sampled["mail"].is_unique
    assert not set(sampled["mail"]) & set(frame["mail"])
