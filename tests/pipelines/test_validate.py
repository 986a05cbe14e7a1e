"""`likeness validate` on what people hand in: each ends in a verdict or one clear error."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from pipelines.cli import main

N = 160
SECRET = "Zaphod-Beeblebrox-42"


def people(seed: int, n: int = N) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    pay = np.round(np.exp(9 + age / 60 + 0.4 * rng.normal(size=n)), 2)
    return pd.DataFrame(
        {
            "person": rng.choice(10**6, n, replace=False),
            "age": age,
            "sex": rng.choice(["F", "M"], n),
            "town": rng.choice(["north", "south", "east"], n),
            "pay": pay,
            "rich": np.where(rng.random(n) < 1 / (1 + np.exp(5 - pay / 4_000)), "yes", "no"),
        }
    )


@pytest.fixture
def validate(tmp_path, monkeypatch):
    """The command on three tables; gives its exit code, its JSON and what it printed."""
    monkeypatch.setenv("LIKENESS_HOME", str(tmp_path / "home"))

    def call(synthetic, train=None, holdout=None, *options):
        parts = {
            "synthetic": synthetic,
            "train": people(0) if train is None else train,
            "holdout": people(1) if holdout is None else holdout,
        }
        for name, frame in parts.items():
            frame.to_parquet(tmp_path / f"{name}.parquet", index=False)
        said = [str(tmp_path / "synthetic.parquet")]
        for name in ("train", "holdout"):
            said += [f"--{name}", str(tmp_path / f"{name}.parquet")]
        said += ["--target", "rich", "--protected", "sex", "--output", str(tmp_path / "report")]
        result = CliRunner().invoke(main, ["validate", *said, *options])
        verdict = tmp_path / "report" / "verdict.json"
        facts = json.loads(verdict.read_text()) if verdict.is_file() else None
        assert not list((tmp_path / "home").glob("vault/tracebacks/*"))
        return result.exit_code, facts, result.output

    return call


def answers(facts, dimension):
    return {g["gate"]: g for g in facts["gates"] if g["dimension"] == dimension}


def failed(facts):
    return {g["gate"] for g in facts["gates"] if g["status"] == "failed"}


def one_clear_error(outcome, *words):
    """Exit code 2, one line, no traceback, no cell."""
    code, facts, said = outcome
    assert (code, facts) == (2, None), said
    lines = [line for line in said.splitlines() if line.startswith("error")]
    assert len(lines) == 1, said
    assert "Traceback" not in said
    for word in words:
        assert re.search(word, " ".join(said.split())), said


def test_fresh_rows_get_a_verdict_that_accuses_nobody(validate):
    code, facts, said = validate(people(2))
    assert code in (0, 3), said  # so few rows cannot prove all that privacy has to
    assert failed(facts) <= {"privacy-membership-tail", "privacy-membership-isolated"}
    assert answers(facts, "privacy")["privacy-membership"]["status"] in ("passed", "inconclusive")


def test_a_missing_column_is_an_error(validate):
    one_clear_error(validate(people(2).drop(columns="pay")), "columns", "pay")


def test_an_extra_column_is_an_error(validate):
    one_clear_error(validate(people(2).assign(shoe=41)), "shoe", "drop")


def test_another_dtype_gets_a_verdict_that_names_the_column(validate):
    synthetic = people(2)
    code, facts, said = validate(synthetic.assign(age=synthetic["age"].astype("float64")))
    assert code == 3, said
    assert "structure-types" in failed(facts)
    assert answers(facts, "structure")["structure-types"]["reason"] == "broken by age"
    assert "fidelity-marginal-mean" not in failed(facts)


def test_words_among_numbers_are_an_error_without_the_word(validate):
    outcome = validate(people(2).assign(age=[SECRET, *map(str, range(N - 1))]))
    one_clear_error(outcome, "age", "int64")
    assert SECRET not in outcome[2]


def test_no_rows_are_an_error(validate):
    one_clear_error(validate(people(2)[:0]), "synthetic data needs at least 50 rows", "has 0")


def test_a_holdout_of_twenty_rows_is_an_error(validate):
    outcome = validate(people(2), None, people(1, 20))
    one_clear_error(outcome, "holdout data needs at least 50 rows", "has 20")


@pytest.mark.slow
def test_unseen_categories_and_infinities_are_judged(validate):
    synthetic = people(2)
    some = np.arange(N) % 3 == 0
    changed = synthetic.assign(
        town=synthetic["town"].mask(some, "moon"), pay=synthetic["pay"].mask(some, np.inf)
    )
    code, facts, said = validate(changed)
    assert code == 3, said
    assert failed(facts) >= {"structure-domain", "fidelity-marginal-worst"}
    domain = answers(facts, "structure")["structure-domain"]
    assert domain["reason"] == "broken by town, pay"
    for gate in facts["gates"]:
        for number in ("value", "low", "high"):
            assert gate[number] is None or np.isfinite(gate[number])


@pytest.mark.slow
def test_one_protected_group_is_judged(validate):
    alike = [people(seed).assign(sex="F") for seed in range(3)]
    code, facts, said = validate(alike[2], alike[0], alike[1])
    assert code in (0, 3), said
    bias = answers(facts, "bias")
    assert bias["bias-representation"]["status"] == "passed"
    assert bias["bias-label-drift"]["reason"]


def test_a_leaked_holdout_is_refused_and_nothing_is_judged(validate):
    train = people(0)
    leaked = pd.concat([train[: N // 2], people(1)[N // 2 :]], ignore_index=True)
    code, facts, said = validate(
        people(2), train, leaked, "--kind", "person=id", "--entity", "person"
    )
    assert code == 3, said
    assert failed(facts) == {"holdout-overlap", "holdout-subjects"}
    assert all("not judged" in g["reason"] for g in answers(facts, "privacy").values())
