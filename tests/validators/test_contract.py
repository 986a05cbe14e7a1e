from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generators.base import ParameterError
from validators import Score, Scorecard
from validators.contract import Adjustment, Contract, Gate, contract_names, load_contract
from validators.verdict import (
    STRUCTURE_GATES,
    GateResult,
    QuarantinedError,
    Verdict,
    scorecard_digest,
)

WHY = "a sentence on why this is required"
GATE = f"""
  - id: copies
    metric: copy_excess
    dimension: privacy
    on: high
    max: 0.02
    why: {WHY}
"""
DIGEST = "c" * 64


def gate(**changes) -> Gate:
    settings_ = {"id": "g", "metric": "m", "dimension": "fidelity", "max": 1.0, "why": WHY}
    return Gate.model_validate({**settings_, **changes})


def score(value: float, low: float | None = None, high: float | None = None, **changes) -> Score:
    ends = {"low": value if low is None else low, "high": value if high is None else high}
    return Score(**{"metric": "m", "dimension": "fidelity", "value": value, **ends, **changes})


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def good_scores(contract: Contract) -> Scorecard:
    """A score at every gate's bound or better, one a metric."""
    found: dict[str, Score] = {}
    for each in contract.gates:
        number = 0.0 if each.max is not None else 1.0
        found.setdefault(each.metric, score(number, metric=each.metric, dimension=each.dimension))
    return Scorecard(tuple(found.values()))


def verdict_on(contract: Contract, scorecard: Scorecard, modality="table") -> Verdict:
    """A verdict as ``judge`` gives it, with a structure that holds."""
    structure = tuple(
        GateResult(
            gate=name,
            dimension="structure",
            metric=name,
            subject="all",
            severity="critical",
            status="passed",
            value=0.0,
            low=0.0,
            high=0.0,
            reference=None,
            bound="0 rules broken",
            why=WHY,
        )
        for name in STRUCTURE_GATES[modality]
    )
    gates = contract.for_modality(modality).answers(scorecard)
    return Verdict(
        contract=contract.name,
        contract_digest=contract.digest,
        candidate_digest=DIGEST,
        scorecard_digest=scorecard_digest(scorecard),
        modality=modality,
        generated="2026-01-01T00:00:00+00:00",
        gates=(*structure, *gates),
    )


@pytest.mark.parametrize("name", contract_names())
@pytest.mark.parametrize("modality", ["table", "image"])
def test_a_preset_covers_every_dimension_and_demands_proof_of_privacy(name, modality):
    contract = load_contract(name).for_modality(modality)
    assert {each.dimension for each in contract.gates if not each.precondition} == {
        "fidelity",
        "utility",
        "diversity",
        "privacy",
        "bias",
    }
    for each in contract.gates:
        if each.dimension == "privacy" and each.severity == "critical":
            assert each.on == "high"
        elif each.dimension != "privacy":
            favourable = "low" if each.max is not None else "high"
            assert each.on in (favourable, "value")


def test_presets_grow_stricter():
    internal, standard, strict = (load_contract(n) for n in ("internal", "standard", "strict"))
    assert [g.id for g in internal.gates] == [g.id for g in standard.gates]
    for looser, tighter in ((internal, standard), (standard, strict)):
        for one, other in zip(looser.gates, tighter.gates, strict=True):
            if one.max is not None:
                assert one.max >= other.max
            if one.min is not None:
                assert one.min <= other.min
            assert (one.severity, other.severity) != ("critical", "warning")


def test_the_word_on_is_a_word_and_a_path_is_read(tmp_path):
    contract = load_contract(write(tmp_path, f"name: mine\ngates:{GATE}"))
    assert contract.gates[0].on == "high"
    assert contract.gates[0].bound == "high end ≤ 0.02"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"name: mine\ngates:{GATE.replace('max:', 'maxx:')}", "did you mean 'max'"),
        (f"name: mine\ngates:{GATE.replace('    max: 0.02', '')}", "must have a bound"),
        (f"name: mine\ngates:{GATE}{GATE}", "copies occur twice"),
        ("name: mine\ngates: []", "gates"),
        ("name: mine", "gates"),
        ("- a\n- b", "mapping"),
        ("name: [", "readable YAML"),
        (f"name: mine\nname: other\ngates:{GATE}", "must occur once"),
        (f"name: mine\ngates:{GATE.replace('high', 'low')}", "proven good"),
        (f"name: mine\ngates:{GATE.replace('0.02', '.nan')}", "finite"),
        (f"name: mine\ngates:{GATE.replace('0.02', '0.02')}    min: 0.5", "min <= max"),
        (f"name: mine\ngates:{GATE.replace('copies', 'structure-rows')}", "always judged"),
        (f"name: mine\ngates:{GATE.replace('privacy', 'privicy')}", "dimension"),
    ],
)
def test_a_broken_contract_says_what_is_wrong(tmp_path, text, says):
    with pytest.raises(ParameterError, match=says):
        load_contract(write(tmp_path, text))


def test_an_unknown_name_gives_the_nearest_one():
    with pytest.raises(ParameterError, match="did you mean 'standard'"):
        load_contract("standart")


def test_a_contract_without_a_gate_for_the_modality_is_refused(tmp_path):
    text = f"name: mine\ngates:{GATE}    modality: image\n"
    with pytest.raises(ParameterError, match="none for modality table"):
        load_contract(write(tmp_path, text)).for_modality("table")


def test_the_digest_sees_every_bound_and_word():
    contract = load_contract("standard")
    digests = {contract.digest}
    for number, each in enumerate(contract.gates):
        for changes in ({"why": each.why + "!"}, {"severity": "warning"}, {"on": "value"}):
            if changes.items() <= each.model_dump().items():
                continue
            gates = list(contract.gates)
            gates[number] = each.model_copy(update=changes)
            digests.add(contract.model_copy(update={"gates": tuple(gates)}).digest)
    assert len(digests) > 2 * len(contract.gates)


@given(st.floats(-1, 1), st.floats(0, 0.5), st.floats(-1, 1))
@settings(deadline=None, max_examples=50)
def test_the_burden_of_proof(value, width, bound):
    measured = score(value, value - width, value + width)
    not_refuted = gate(on="low", max=bound).holds(measured)
    proven = gate(on="high", max=bound).holds(measured)
    assert not_refuted == (value - width <= bound)
    assert proven == (value + width <= bound)
    assert not_refuted or not proven


def test_a_gate_on_every_subject_takes_the_worst():
    every = gate(subject="*", max=0.5)
    card = Scorecard((score(0.1, subject="a"), score(0.7, subject="b"), score(0.2, subject="c")))
    answer = every.answer(card)
    assert (answer.status, answer.subject, answer.value) == ("failed", "b", 0.7)


def test_one_unmeasured_subject_among_good_ones_fails():
    card = Scorecard((score(0.1, subject="a"), Score("m", "fidelity", "b", skipped="too few rows")))
    answer = gate(subject="*").answer(card)
    assert answer.failed
    assert "too few rows" in answer.reason


def test_missing_skipped_and_not_applicable_are_three_answers():
    skipped = Score("m", "fidelity", skipped="too few rows")
    not_asked = Score("m", "fidelity", skipped="not applicable: no target")
    assert gate().answer(Scorecard(())).failed
    assert gate().answer(Scorecard((skipped,))).failed
    assert gate().answer(Scorecard((not_asked,))).not_applicable


@pytest.fixture(scope="module")
def cleared() -> tuple[Contract, Scorecard, Verdict]:
    contract = load_contract("standard")
    card = good_scores(contract.for_modality("table"))
    return contract, card, verdict_on(contract, card)


def test_a_good_verdict_clears_its_own_candidate(cleared):
    contract, card, verdict = cleared
    verdict.require_passed(DIGEST, contract, card)
    again = Verdict.from_json(verdict.to_json())
    assert again == verdict
    again.require_passed(DIGEST, contract, card)


def test_a_verdict_is_bound_to_candidate_contract_and_scorecard(cleared):
    contract, card, verdict = cleared
    with pytest.raises(QuarantinedError, match="candidate"):
        verdict.require_passed("d" * 64, contract, card)
    with pytest.raises(QuarantinedError, match="contract"):
        verdict.require_passed(DIGEST, load_contract("internal"), card)
    with pytest.raises(QuarantinedError, match="scorecard"):
        verdict.require_passed(DIGEST, contract, Scorecard(card.scores[:-1]))


def test_every_gate_turns_red_by_a_bad_score(cleared):
    contract, card, _ = cleared
    for each in contract.for_modality("table").gates:
        bad = (each.max or 0) + 0.5 if each.max is not None else each.min - 0.5
        scores = tuple(
            score(bad, metric=s.metric, dimension=s.dimension) if s.metric == each.metric else s
            for s in card
        )
        worse = Scorecard(scores)
        verdict = verdict_on(contract, worse)
        assert {g.gate for g in verdict.gates if g.failed} >= {each.id}
        if each.severity == "critical":
            assert not verdict.passed
            with pytest.raises(QuarantinedError, match=each.id):
                verdict.require_passed(DIGEST, contract, worse)


def test_an_edited_verdict_does_not_open_the_lock(cleared):
    contract, card, verdict = cleared
    bad = Scorecard(tuple(score(9.0, metric=s.metric, dimension=s.dimension) for s in card))
    forged = dataclasses.replace(verdict, scorecard_digest=scorecard_digest(bad))
    with pytest.raises(QuarantinedError, match="what the scores say"):
        forged.require_passed(DIGEST, contract, bad)
    softened = tuple(dataclasses.replace(g, severity="warning") for g in verdict.gates)
    with pytest.raises(QuarantinedError):
        dataclasses.replace(verdict, gates=softened).require_passed(DIGEST, contract, card)


@pytest.mark.parametrize("change", ["dropped", "unknown", "twice", "structure dropped"])
def test_a_verdict_with_other_gates_is_refused(cleared, change):
    contract, card, verdict = cleared
    gates = {
        "dropped": verdict.gates[:-1],
        "unknown": (*verdict.gates, dataclasses.replace(verdict.gates[-1], gate="extra")),
        "twice": (*verdict.gates, verdict.gates[-1]),
        "structure dropped": verdict.gates[1:],
    }[change]
    with pytest.raises(QuarantinedError, match="answer each gate"):
        dataclasses.replace(verdict, gates=gates).require_passed(DIGEST, contract, card)


def test_a_failed_structure_gate_blocks(cleared):
    contract, card, verdict = cleared
    broken = dataclasses.replace(verdict.gates[0], status="failed")
    failed = dataclasses.replace(verdict, gates=(broken, *verdict.gates[1:]))
    assert not failed.passed
    with pytest.raises(QuarantinedError, match="structure-columns"):
        failed.require_passed(DIGEST, contract, card)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "passed": true, "gates": []}'])
def test_what_is_no_verdict_is_refused(text):
    with pytest.raises(QuarantinedError):
        Verdict.from_json(text)


def test_a_verdict_that_contradicts_its_gates_is_refused(cleared):
    raw = json.loads(cleared[2].to_json())
    raw["passed"] = False
    with pytest.raises(QuarantinedError, match="agree"):
        Verdict.from_json(json.dumps(raw))


def test_a_verdict_is_read_without_great_expectations():
    code = "import sys, validators.verdict, validators.contract; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"great_expectations", "sklearn", "torch"} & set(run.stdout.split())


def test_an_empty_verdict_never_passes(cleared):
    assert not dataclasses.replace(cleared[2], gates=()).passed


@pytest.mark.parametrize(
    ("on", "interval", "status", "holds"),
    [
        ("low", (0.1, 0.4), "passed", True),
        ("low", (0.4, 0.6), "inconclusive", True),
        ("low", (0.6, 0.9), "failed", False),
        ("high", (0.1, 0.4), "passed", True),
        ("high", (0.4, 0.6), "inconclusive", False),
        ("high", (0.6, 0.9), "failed", False),
        ("value", (0.4, 0.6), "passed", True),
    ],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_three_verdicts_and_the_burden_of_proof(on, interval, status, holds, mirrored):
    """Upper bounds of 0.5, and the same as lower bounds of mirrored numbers."""
    low, high = interval
    if mirrored:
        low, high = 1 - high, 1 - low
        on = {"low": "high", "high": "low"}.get(on, on)
    bounds = {"min": 0.5, "max": None} if mirrored else {"max": 0.5}
    value = (low + high) / 2 if on != "value" else 0.5
    answer = gate(on=on, **bounds).answer(Scorecard((score(value, low, high, n=100),)))
    assert (answer.status, answer.passed, answer.failed) == (status, holds, not holds)
    assert answer.blocks is not holds
    assert ("rows to tell" in answer.reason) == (status == "inconclusive")


def test_an_open_answer_says_how_many_rows_would_tell():
    """Half a width of 0.2, 0.1 from the bound: four times the rows."""
    answer = gate(on="low", max=0.5).answer(Scorecard((score(0.4, 0.2, 0.6, n=1_000),)))
    assert "about 4,000 would (n = 1,000)" in answer.reason
    assert answer.n == 1_000


def test_the_worst_subject_is_the_one_with_the_worst_answer():
    card = Scorecard((score(0.45, 0.44, 0.46, subject="a"), score(0.4, 0.1, 0.9, subject="b")))
    answer = gate(subject="*", on="low", max=0.5).answer(card)
    assert (answer.subject, answer.status) == ("b", "inconclusive")


FIRST = {"id": "first", "metric": "p", "dimension": "structure", "precondition": True, "max": 0.5}


def test_where_the_yardstick_fails_nothing_else_is_judged():
    both = Contract.model_validate(
        {"name": "mine", "gates": [{**FIRST, "why": WHY}, gate(max=0.5).model_dump()]}
    )
    sound, other = score(0.1, metric="p", dimension="structure"), score(0.9)
    assert [a.status for a in both.answers(Scorecard((sound, other)))] == ["passed", "failed"]
    broken = score(0.9, metric="p", dimension="structure")
    for second in (other, score(0.1)):
        first, void = both.answers(Scorecard((broken, second)))
        assert first.blocks
        assert void.not_applicable
        assert "not judged: first" in void.reason
        verdict = verdict_on(both, Scorecard((broken, second)))
        assert not verdict.passed


def test_structure_is_only_set_by_preconditions():
    with pytest.raises(ValueError, match="structure"):
        gate(dimension="structure")
    with pytest.raises(ValueError, match="structure"):
        gate(precondition=True)


def adjusted(**changes) -> Contract:
    return load_contract("standard").adjusted(
        {name.replace("_", "-"): Adjustment(**change) for name, change in changes.items()}
    )


def test_a_dataset_tightens_or_waives_and_says_so():
    own = adjusted(
        fidelity_marginal_mean={"max": 0.01},
        bias_label_drift={"waive": "the trial gave women the drug more often by design"},
    )
    found = {gate.id: gate for gate in own.gates}
    tight, waived = found["fidelity-marginal-mean"], found["bias-label-drift"]
    assert (tight.max, tight.declared) == (0.01, "low end ≤ 0.02")
    assert own.digest != load_contract("standard").digest
    bad = score(0.3, metric="label_drift_worst", dimension="bias")
    answer = waived.answer(Scorecard((bad,)))
    assert answer.failed
    assert not answer.blocks
    assert "by design" in answer.waiver
    again = Contract.model_validate_json(own.model_dump_json())
    assert again.digest == own.digest


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fidelity_marginal_mean": {"max": 0.03}}, "would loosen"),
        ({"utility_retention": {"min": 0.5}}, "would loosen"),
        ({"utility_retention": {"max": 0.5}}, "would loosen"),
        ({"fidelity_marginal_men": {"max": 0.01}}, "did you mean 'fidelity-marginal-mean'"),
        ({"fidelity_marginal_mean": {}}, "nothing is changed"),
        ({"fidelity_marginal_mean": {"max": 0.01, "waive": "a reason of some length"}}, "not both"),
    ],
)
def test_a_dataset_cannot_loosen_a_gate_in_silence(changes, said):
    with pytest.raises(ParameterError, match=said):
        adjusted(**changes)


def test_strict_allows_no_waiver():
    reason = Adjustment(waive="a reason of some length, but strict is strict")
    with pytest.raises(ParameterError, match="allows no waiver"):
        load_contract("strict").adjusted({"bias-label-drift": reason})
    with pytest.raises(ValueError, match="at least 20"):
        Adjustment(waive="because")
