"""The gate table: n and power where the window is wide, a summary that counts each gate once."""

import io

import pytest
from rich.console import Console

from pipelines.terminal import Terminal, remedies
from validators.verdict import GateResult, Verdict


def gate(name, status, **given):
    answer = {
        "gate": name,
        "dimension": "fidelity",
        "metric": "pair_tvd_mean",
        "subject": "all",
        "severity": "critical",
        "status": status,
        "value": 0.0123,
        "low": 0.01,
        "high": 0.02,
        "reference": 0.0111,
        "bound": "low end ≤ 0.015",
        "why": "because",
        "n": 4321,
        "minimum_detectable": 0.0077,
    }
    return GateResult(**{**answer, **given})


@pytest.mark.parametrize("width", [140, 100])
def test_the_gate_table_says_how_much_it_could_see(width):
    verdict = Verdict(
        contract="standard",
        contract_digest="a" * 64,
        candidate_digest="b" * 64,
        scorecard_digest="c" * 64,
        modality="table",
        generated="2026-01-01T00:00:00+00:00",
        gates=(
            gate("fidelity-one", "passed"),
            gate("fidelity-two", "inconclusive"),
            gate("fidelity-three", "failed", severity="warning"),
            gate("fidelity-four", "passed", low=0.0123, high=0.0123, minimum_detectable=None),
        ),
    )
    terminal = Terminal(as_json=False)
    terminal.out = Console(file=io.StringIO(), width=width, highlight=False)
    terminal.show_verdict(verdict)
    lines = terminal.out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (first,) = (line for line in lines if "fidelity-one" in line)
    (exact,) = (line for line in lines if "fidelity-four" in line)
    assert ("4,321" in first) == ("0.0077" in first) == (width == 140)
    assert "4,321" not in exact
    assert any(line.startswith("4 gates: 2 hold, 1 is open, 1 warns; open:") for line in lines)


def test_a_stopped_release_says_what_may_help_once_for_each_kind():
    blocking = [
        gate("fidelity-one", "failed"),
        gate("utility-one", "failed", dimension="utility"),
        gate("privacy-one", "failed", dimension="privacy"),
        gate("structure-one", "failed", dimension="structure"),
    ]
    longer, less = remedies(blocking, "autoregressive")
    assert "max_minutes" in longer
    assert "privacy=0.75" in less
    # Of a family only what it can be told.
    for family, words in (
        ("forest", "privacy=0.25"),
        ("mst", "epsilon="),
        ("independent", "--gen"),
    ):
        first, _ = remedies(blocking, family)
        assert words in first
        assert "max_minutes" not in first
