"""Split and protection: subjects stay together, rare values go, nothing else changes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.base import DataError, ParameterError
from generators.schema import Images, ImageSchema, TableSchema
from pipelines.home import Home
from pipelines.ingest import split_and_protect, store
from pipelines.protection import OTHER, fit_protection, looks_personal
from pipelines.release import recall_real
from pipelines.sources import RawImages, RawTable
from pipelines.spec import DatasetSpec, SourceSpec, parse_spec

N = 400


def spec(**changes: object) -> DatasetSpec:
    base = {"name": "toy", "source": {"kind": "builtin", "name": "randhie"}}
    return parse_spec({**base, **changes})


def table(n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "person": np.repeat(np.arange(n // 4), 4),
            "age": rng.integers(18, 90, n),
            "job": rng.choice(["clerk", "nurse", "miner"], n, p=[0.5, 0.48, 0.02]),
            "income": np.round(rng.lognormal(10, 1, n), 2),
        }
    )


@pytest.mark.parametrize("bound", [1, 2, 9])
def test_a_subject_is_never_split_and_bounded(bound: int) -> None:
    frame = table().assign(site=lambda f: "s" + (f["person"] % 7).astype(str))
    frame["row"] = frame["person"] * 10.0 + np.arange(N) % 4
    declared = spec(
        entity=["person"], drop=["person"], protection={"rows_per_subject": bound, "k": 1}
    )
    split = split_and_protect(RawTable(frame), declared)
    subjects = {part: (getattr(split, part)["row"] // 10) for part in ("train", "holdout")}
    assert not set(subjects["train"]) & set(subjects["holdout"])
    assert len(set(subjects["train"]) | set(subjects["holdout"])) == N // 4
    assert all((counts.value_counts() == min(bound, 4)).all() for counts in subjects.values())
    assert (bound < 4) == any("left out" in note for note in split.facts["protection"])


def test_the_split_ignores_the_seed() -> None:
    one = split_and_protect(RawTable(table()), spec(seed=1))
    two = split_and_protect(RawTable(table()), spec(seed=2))
    pd.testing.assert_frame_equal(one.holdout, two.holdout)


def test_rare_categories_and_extremes_are_gone() -> None:
    frame = table()
    frame.loc[3, "job"] = "astronaut"
    frame.loc[3, "income"] = 9e9
    split = split_and_protect(RawTable(frame), spec(drop=["person"]))
    for part in (split.train, split.holdout):
        assert "astronaut" not in set(part["job"])
        assert part["income"].max() < 9e9
    assert isinstance(split.schema, TableSchema)
    assert "astronaut" not in split.schema.to_json()
    counts = split.train["job"].value_counts()
    assert all(counts[level] >= 11 for level in counts.index if level != OTHER)


def test_unseen_levels_of_the_holdout_are_merged() -> None:
    frame = table()
    protection = fit_protection(frame[frame["job"] != "miner"], spec())
    assert set(protection.apply(frame)["job"]) == {"clerk", "nurse", OTHER}


@given(st.integers(1, 40))
@settings(deadline=None, max_examples=15)
def test_clipping_leaves_k_rows_at_the_ends(k: int) -> None:
    frame = table()
    protected = fit_protection(frame, spec(protection={"k": k})).apply(frame)
    assert (protected["income"] == protected["income"].max()).sum() >= k
    assert (protected["income"] == protected["income"].min()).sum() >= k
    untouched = frame["income"].between(protected["income"].min(), protected["income"].max())
    assert (frame["income"] == protected["income"])[untouched].all()


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (["ann@example.org", "bob.b@mail.example.com"], "e-mail"),
        (["4111 1111 1111 1111", "5500-0000-0000-0004"], "card"),
        (["078-05-1120", "219-09-9999"], "social security"),
        (["+41 44 668 18 00", "(212) 555-0182 00"], "telephone"),
        (["123e4567-e89b-12d3-a456-426614174000"], "UUID"),
        (["192.168.0.1", "10.0.0.7"], "IP"),
        (["12 Baker Street", "7 Long Acre Road"], "postal"),
    ],
)
def test_identifiers_are_recognised_by_value(values: list[str], what: str) -> None:
    found = looks_personal(pd.Series(values * 20))
    assert found is not None
    assert what in found


@pytest.mark.parametrize("values", [["red", "green"], ["2020", "2021"], ["A12", "B7"], ["", "x"]])
def test_ordinary_categories_are_not_personal(values: list[str]) -> None:
    assert looks_personal(pd.Series(values * 20)) is None


def test_personal_columns_are_replaced_or_refused() -> None:
    frame = table()
    frame["contact"] = [f"user{i}@example.org" for i in range(N)]
    split = split_and_protect(RawTable(frame), spec())
    assert isinstance(split.schema, TableSchema)
    assert split.schema["contact"].kind == "id"
    assert any("e-mail" in note for note in split.facts["protection"])
    with pytest.raises(DataError, match="'contact'") as caught:
        split_and_protect(RawTable(frame), spec(protection={"pii": "refuse"}))
    assert "user" not in str(caught.value)


def test_texts_that_few_rows_share_are_no_category() -> None:
    frame = table()
    frame["remark"] = [f"a matter called {i // 3}" for i in range(N)]
    with pytest.raises(DataError, match="'remark'"):
        split_and_protect(RawTable(frame), spec())


def test_undeclared_text_is_refused_and_declared_text_is_not_learned() -> None:
    frame = table()
    frame["note"] = [f"saw patient {i} at noon" for i in range(N)]
    with pytest.raises(DataError, match="'note'"):
        split_and_protect(RawTable(frame), spec())
    declared = spec(columns={"note": {"kind": "text"}})
    split = split_and_protect(RawTable(frame), declared)
    assert isinstance(split.schema, TableSchema)
    assert not split.schema["note"].modelled


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.iloc[:1], "at least 50 rows"),
        (lambda f: f.assign(same=1), "one constant value in: 'same'"),
        (lambda f: f.assign(gone=np.nan), "only missing values in: 'gone'"),
        (lambda f: f.assign(big=np.where(f.index == 3, np.inf, 1.5)), "infinite values in: 'big'"),
    ],
)
def test_columns_without_information_are_refused(change, message: str) -> None:
    with pytest.raises(DataError, match=message):
        split_and_protect(RawTable(change(table())), spec())


def test_a_declared_constant_is_kept() -> None:
    frame = table().assign(same=1, gone=None)
    columns = {"same": {"kind": "categorical"}, "gone": {"kind": "categorical"}}
    split = split_and_protect(RawTable(frame), spec(columns=columns))
    assert set(split.train["same"]) == {1}


@pytest.mark.parametrize("role", ["target", "protected", "entity", "drop"])
def test_unknown_columns_are_named(role: str) -> None:
    value = "agee" if role == "target" else ["agee"]
    with pytest.raises(ParameterError, match="agee is not one; the columns are person, age"):
        split_and_protect(RawTable(table()), spec(**{role: value}))


def test_the_vault_gives_back_what_was_put(tmp_path) -> None:
    home = Home(tmp_path / "home")
    frame = table().assign(gap=pd.array([None, *range(N - 1)], dtype="Int64"))
    split = split_and_protect(RawTable(frame), spec())
    real = store(split, spec(), home)
    pd.testing.assert_frame_equal(real.train(), split.train)
    pd.testing.assert_frame_equal(real.holdout(), split.holdout)
    assert recall_real(home, spec()) == real
    assert (home.vault.stat().st_mode & 0o777) == 0o700


def test_equal_pictures_stay_on_one_side() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (60, 4, 4, 1)).astype(np.uint8).repeat(2, axis=0)
    raw = RawImages(Images(pixels, np.zeros(120, np.int64)), ImageSchema(4, 4, 1))
    split = split_and_protect(raw, spec())
    train = {image.tobytes() for image in split.train.pixels}
    assert not any(image.tobytes() in train for image in split.holdout.pixels)


def test_a_wrong_declaration_names_every_field() -> None:
    with pytest.raises(ParameterError) as caught:
        parse_spec({"name": "Bad Name", "source": {"kind": "csv"}, "rows": 0, "colour": 1})
    for field in ("name:", "rows:", "colour:"):
        assert field in str(caught.value)
    assert SourceSpec(kind="csv").path is None
