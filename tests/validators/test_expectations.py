from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from generators.base import DataError, ParameterError
from generators.schema import Images, ImageSchema, TableSchema
from validators import Score, Scorecard
from validators.contract import Contract, load_contract
from validators.expectations import JudgementError, _Rule, _Session, check_ingest, gx, gxe, judge

ROWS = 60
CANARY = "Zebulon"
WHY = "a sentence on why this is required"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Great Expectations gives elements of its pages random ids, in which any two digits may stand."""


def frame() -> pd.DataFrame:
    """One column of each kind and dtype that schemas know."""
    rng = np.random.default_rng(0)
    days = pd.to_timedelta(rng.integers(0, 900, ROWS), "D")
    table = pd.DataFrame(
        {
            "id": np.arange(ROWS) + 1000,
            "income": rng.normal(size=ROWS),
            "age": rng.integers(18, 90, ROWS),
            "place": rng.choice(["north", "south", CANARY], ROWS),
            "member": rng.random(ROWS) < 0.5,
            "visits": pd.array(rng.integers(0, 9, ROWS), dtype="Int64"),
            "since": pd.Timestamp("2020-01-01") + days,
            "zoned": pd.Timestamp("2020-01-01", tz="UTC") + days,
            "grade": pd.Categorical(rng.choice(["a", "b"], ROWS)),
        }
    )
    table.loc[3, "income"] = np.nan
    return table


TABLE = frame()
SCHEMA = TableSchema.infer(TABLE)


def contract(*gates: dict) -> Contract:
    return Contract.model_validate({"name": "mine", "gates": [{"why": WHY, **g} for g in gates]})


ONE = contract({"id": "close", "metric": "tvd", "dimension": "fidelity", "on": "low", "max": 0.1})
GOOD = Scorecard((Score("tvd", "fidelity", value=0.05, low=0.04, high=0.06),))


def decide(tmp_path, of: Contract = ONE, scores: Scorecard = GOOD, **changes):
    settings = {
        "synthetic": TABLE,
        "schema": SCHEMA,
        "rows": ROWS,
        "candidate_digest": "c" * 64,
        "run_name": "mine@1",
        "evidence": tmp_path,
    }
    return judge(of, scores, **{**settings, **changes})


def status(verdict) -> dict[str, str]:
    return {gate.gate: gate.status for gate in verdict.gates}


def test_a_good_candidate_passes_and_leaves_evidence_without_real_values(tmp_path):
    verdict = decide(tmp_path)
    assert verdict.passed
    assert set(status(verdict).values()) == {"passed"}
    verdict.require_passed("c" * 64, ONE, GOOD)
    names = {"release_gate", "structure", "structure_types"}
    for name in names:
        assert json.loads((tmp_path / f"{name}.json").read_text())["success"]
        assert (tmp_path / f"{name}_suite.json").is_file()
    pages = list((tmp_path / "data_docs").rglob("*.html"))
    assert len(pages) >= 3
    for path in tmp_path.rglob("*"):
        text = UUID.sub("", path.read_text() if path.is_file() else "")
        assert CANARY not in text
        assert str(TABLE["age"].max()) + '"' not in text
        assert not re.search(r"<script|<link|<img|\ssrc\s*=|url\(", text, re.IGNORECASE)


def test_the_input_is_not_changed(tmp_path):
    before = TABLE.copy(deep=True)
    decide(tmp_path)
    pd.testing.assert_frame_equal(TABLE, before)


def test_each_structure_rule_turns_red_and_names_the_columns(tmp_path):
    broken = TABLE.drop(columns="visits").assign(
        id=TABLE["id"].replace(1000, 1001),
        age=TABLE["age"].astype(float),
        place=TABLE["place"].replace("north", "west"),
        income=TABLE["income"] * 50,
        since=TABLE["since"] + pd.Timedelta(days=3000),
        grade=TABLE["grade"].where(TABLE.index > 0),
    )
    verdict = decide(tmp_path, synthetic=broken, rows=ROWS + 1)
    assert not verdict.passed
    assert {gate.gate: gate.reason for gate in verdict.of("structure")} == {
        "structure-columns": "broken by the table",
        "structure-rows": "broken by the table",
        "structure-types": "broken by age, visits",
        "structure-nulls": "broken by visits, grade",
        "structure-domain": "broken by income, place, visits, since",
        "structure-ids": "broken by id",
    }


def test_the_order_of_columns_counts(tmp_path):
    verdict = decide(tmp_path, synthetic=TABLE[list(reversed(TABLE.columns))])
    assert {gate.gate for gate in verdict.gates if gate.failed} == {"structure-columns"}


def test_without_data_the_structure_fails(tmp_path):
    verdict = decide(tmp_path, synthetic=None)
    assert {gate.status for gate in verdict.of("structure")} == {"failed"}


def test_gates_of_each_kind_are_judged_as_the_contract_says(tmp_path):
    def gate(name: str, metric: str, **bounds) -> dict:
        return {"id": name, "metric": metric, "dimension": "fidelity", **bounds}

    every = contract(
        gate("at-bound", "m", on="value", max=0.5),
        gate("over", "m", on="high", max=0.5),
        gate("under", "m", on="low", min=0.5),
        gate("band", "m", min=0.4, max=0.6),
        gate("missing", "absent", max=1.0),
        gate("skipped", "few", max=1.0),
        gate("left-out", "none", max=1.0),
        gate("nan-among-good", "several", subject="*", max=1.0),
        gate("worst-of-all", "many", subject="*", max=0.5, severity="warning"),
        gate("one-subject", "many", subject="a", max=0.5),
    )
    scores = Scorecard(
        (
            Score("m", "fidelity", value=0.5, low=0.4, high=0.6),
            Score("few", "fidelity", skipped="too few rows"),
            Score("none", "fidelity", skipped="not applicable: no target column"),
            Score("several", "fidelity", "a", value=0.1, low=0.1, high=0.1),
            Score("several", "fidelity", "b", skipped="too few rows"),
            Score("many", "fidelity", "a", value=0.1, low=0.1, high=0.1),
            Score("many", "fidelity", "b", value=0.9, low=0.9, high=0.9),
        )
    )
    verdict = decide(tmp_path, of=every, scores=scores)
    found = {gate.gate: gate for gate in verdict.of("fidelity")}
    assert {name: gate.status for name, gate in found.items()} == {
        "at-bound": "passed",
        "over": "inconclusive",  # 0.4 to 0.6 reaches across 0.5, and a proof is asked for
        "under": "inconclusive",
        "band": "passed",
        "missing": "failed",
        "skipped": "failed",
        "left-out": "not applicable",
        "nan-among-good": "failed",
        "worst-of-all": "failed",
        "one-subject": "passed",
    }
    assert found["worst-of-all"].subject == "b"
    blocking = {gate.gate for gate in verdict.blocking}
    assert blocking == {"over", "under", "missing", "skipped", "nan-among-good"}


def test_every_gate_of_the_standard_contract_turns_red_when_its_metric_is_missing(tmp_path):
    standard = load_contract("standard")
    gates = standard.for_modality("table").gates
    fair = [gate for gate in gates if gate.precondition]
    measured = [Score(g.metric, g.dimension, value=0.0, low=0.0, high=0.0) for g in fair]
    verdict = decide(tmp_path / "fair", of=standard, scores=Scorecard(tuple(measured)))
    assert {g.gate for g in verdict.gates if g.failed} == {g.id for g in gates if g not in fair}
    # Without a yardstick nothing else is judged, and nothing passes.
    verdict = decide(tmp_path / "none", of=standard, scores=Scorecard(()))
    assert {g.gate for g in verdict.gates if g.failed} == {g.id for g in fair}
    assert not verdict.passed


def test_a_dropped_expectation_is_refused():
    class Forgetful(_Session):
        """Great Expectations drops what it cannot load: here the last expectation."""

        def _checkpoint(self, name, suite, docs):
            loaded = [one.copy(update={"id": None}) for one in suite.expectations[:-1]]
            kept = gx.ExpectationSuite(name=name, expectations=loaded)
            return super()._checkpoint(name, self.context.suites.add_or_update(kept), docs)

    session = Forgetful("mine@1", None)
    rules = [
        _Rule("one", gxe.ExpectColumnMaxToBeBetween(column="x", max_value=1)),
        _Rule("two", gxe.ExpectColumnMinToBeBetween(column="x", min_value=5)),
    ]
    with pytest.raises(JudgementError, match="answer all 2 rules"):
        session.run("forgetful", pd.DataFrame({"x": [0.0]}), rules)


def test_a_contract_of_which_nothing_applies_is_refused(tmp_path):
    scores = Scorecard((Score("tvd", "fidelity", skipped="not applicable: nothing"),))
    with pytest.raises(ParameterError, match="judge something"):
        decide(tmp_path, scores=scores)


def test_a_run_name_with_a_slash_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="'/'"):
        decide(tmp_path, run_name="a/b")


IMAGE_GATE = contract(
    {"id": "close", "metric": "tvd", "dimension": "fidelity", "max": 0.1, "modality": "image"}
)
IMAGE_SCHEMA = ImageSchema(8, 8, 1, ("no", "yes"))
IMAGES = Images(np.zeros((6, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1, 1, 0]))


def test_images_are_judged_by_their_facts(tmp_path):
    def failed(images: Images, rows: int = 6) -> set[str]:
        verdict = decide(tmp_path, of=IMAGE_GATE, synthetic=images, schema=IMAGE_SCHEMA, rows=rows)
        return {gate.gate for gate in verdict.gates if gate.failed}

    assert failed(IMAGES) == set()
    other_labels = dataclasses.replace(IMAGES, labels=IMAGES.labels + 1)
    assert failed(other_labels) == {"structure-labels"}
    wrong = Images(IMAGES.pixels[:, :7].astype(float), IMAGES.labels)
    assert failed(wrong, rows=7) == {"structure-rows", "structure-shape", "structure-pixels"}


def test_the_ingest_suite_names_columns_and_never_values(tmp_path):
    assert all(not gate.failed for gate in check_ingest(TABLE, SCHEMA))
    assert all(not gate.failed for gate in check_ingest(IMAGES, IMAGE_SCHEMA))
    strange = TABLE.assign(place=TABLE["place"].replace("north", "Atlantis"))
    with pytest.raises(DataError, match="place") as caught:
        check_ingest(strange, SCHEMA, evidence=tmp_path)
    evidence = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    for text in (str(caught.value), evidence):
        assert "Atlantis" not in text
        assert CANARY not in text
    assert '"success": false' in evidence
