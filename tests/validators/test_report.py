from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.api import datasets

from generators.schema import TableSchema
from validators import Comparison, Score, Scorecard, report, wording
from validators.aggregates import MIN_ROWS, OTHER, Discretion, associations, cramers_v, marginals
from validators.base import skipped
from validators.contract import load_contract
from validators.privacy.canaries import CanaryAudit, epsilon_bounds
from validators.report import ReportContext, gate_rows, render_report
from validators.verdict import GateResult, Verdict, scorecard_digest

CANARY = "Zebulon-Quarantine"
VOID = {"meta", "img", "br", "col", "link", "input", "hr"}
LOADS = re.compile(
    r"(src|href|srcset|data|action|poster)\s*=\s*[\"']?\s*(https?:)?//"
    r"|url\(\s*[\"']?(?!data:)|@import|<script|<link|<iframe",
    re.IGNORECASE,
)


class Checker(HTMLParser):
    """Every element that is opened is closed, in order; ids are unique."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def checked(html: str) -> str:
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert len(set(checker.ids)) == len(checker.ids)
    assert not LOADS.search(html)
    return " ".join(checker.text)


def real_table() -> pd.DataFrame:
    """randhie with a category of three rows, one extreme number, gaps and dates."""
    table = datasets.randhie.load_pandas().data.iloc[:3000].copy()
    rng = np.random.default_rng(0)
    table["place"] = rng.choice(["north", "south", "west"], len(table), p=[0.6, 0.3, 0.1])
    table["since"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(
        rng.integers(0, 900, len(table)), "D"
    )
    table["income"] = rng.lognormal(10, 1, len(table)).round(2)
    table.loc[table.index[[3, 700, 2500]], "place"] = CANARY
    table.loc[table.index[5], "income"] = 987654321.12
    table.loc[table.index[::17], "lpi"] = np.nan
    return table


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    table = real_table()
    train, holdout = (part.reset_index(drop=True) for part in (table[:1800], table[1800:]))
    synthetic = train.sample(1000, random_state=0).reset_index(drop=True)
    synthetic["lncoins"] = synthetic["lncoins"].sample(frac=1, random_state=1).to_numpy()
    schema = TableSchema.infer(train, target="hlthp", protected=["place"])
    return Comparison(synthetic=synthetic, train=train, holdout=holdout, schema=schema)


@pytest.fixture(scope="module")
def context(comparison) -> ReportContext:
    contract = load_contract("standard").for_modality("table")
    scores: dict[str, Score] = {}
    for gate in contract.gates:
        number = 0.0 if gate.max is not None else 1.0
        measured = Score(gate.metric, gate.dimension, value=number, low=number - 0.01, high=number)
        scores.setdefault(gate.metric, measured)
    scores["representation_worst"] = Score(
        "representation_worst", "bias", f"place={CANARY}", value=3.0, low=2.0, high=4.0
    )
    scores["membership_auc"] = Score(
        "membership_auc", "privacy", value=0.51, low=0.49, high=0.53, reference=0.5
    )
    scores["label_drift_worst"] = Score(
        "label_drift_worst", "bias", skipped=f"not applicable: {CANARY} has too few rows"
    )
    extra = (
        Score("marginal_tvd", "fidelity", "mdvis", value=0.02, low=0.01, high=0.03),
        Score("marginal_tvd", "fidelity", "lpi", value=0.04, low=0.03, high=0.05),
        Score("representation_ratio", "bias", "place=west", value=1.1, low=1.0, high=1.2),
        Score("representation_ratio", "bias", f"place={CANARY}", value=2.0, low=1.0, high=3.0),
        Score("representation_ratio", "bias", "disea=part 2 of 4", value=1.3, low=1.0, high=1.5),
        Score("c2st_auc", "fidelity", skipped="too few rows"),
    )
    card = Scorecard((*scores.values(), *extra))
    verdict = Verdict(
        contract="standard",
        contract_digest=contract.digest,
        candidate_digest="c" * 64,
        scorecard_digest=scorecard_digest(card),
        modality="table",
        generated="2026-01-01T00:00:00+00:00",
        gates=tuple(gate.answer(card) for gate in contract.gates),
    )
    return ReportContext(
        dataset="randhie <b>bold</b>",
        description="A study & its visits",
        verdict=verdict,
        scorecard=card,
        comparison=comparison,
        loss_history=[(0, 3.0), (10, 2.0), (20, 1.5)],
        reproduce={"generator": "forest", "parameters": {"trees": 8}, "seed": 7},
        protection=("3 values of column place were replaced",),
        created_at="2026-01-01",
    )


@pytest.fixture(scope="module")
def page(context) -> str:
    return render_report(context)


def test_the_page_is_whole_and_loads_nothing(page):
    text = checked(page)
    for section in ("Columns, one by one", "Columns in pairs", "Groups", "What was not tested"):
        assert section in text
    assert "<b>bold</b>" not in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_the_page_has_every_gate_with_its_reason(page, context):
    text = checked(page)
    for gate in context.verdict.gates:
        assert gate.why in text
        assert gate.bound in text
    assert "Quarantined" in text
    assert "bias-representation" in text


def test_the_page_says_evidence_and_never_anonymous(page):
    text = checked(page).lower()
    assert "evidence for" in text
    assert "anonymous" not in text


def test_no_rare_category_and_no_extreme_is_shown(page):
    for secret in (CANARY, "987654321", "987 654 321"):
        assert secret not in page
    assert "place=(withheld)" in page
    assert "place=west" in page
    assert "disea=part 2 of 4" in page


def test_without_a_comparison_no_group_is_named(context):
    html = render_report(dataclasses.replace(context, comparison=None))
    checked(html)
    assert CANARY not in html.replace(f"{CANARY} has too few rows", "")
    assert "place=west" not in html
    assert "Columns in pairs" not in html


def test_a_verdict_that_passes_is_cleared_for_release(context):
    gates = tuple(dataclasses.replace(g, status="passed") for g in context.verdict.gates)
    html = render_report(
        dataclasses.replace(context, verdict=dataclasses.replace(context.verdict, gates=gates))
    )
    text = checked(html)
    assert "Cleared for release" in text
    assert "There is evidence for low disclosure risk" in text
    assert "no sufficient evidence" not in text


def test_planted_records_have_their_bound_with_what_it_means(context):
    """ε ≥ 1.03 where 80 of 100 guesses are right at one third of 5 %, see ``bound_epsilon``."""
    found = CanaryAudit(400, 203, 100, 80, epsilon_bounds(80, 100, 1 - 0.05 / 3))
    text = checked(render_report(dataclasses.replace(context, audit=found)))
    assert "100 surest 80 were right, 80 %" in " ".join(text.split())
    assert f"ε ≥ {found.epsilon.low:.3f}" in text
    assert "It does not mean" in text
    assert "No more than 1 proven" in text
    proven = dataclasses.replace(found, epsilon=epsilon_bounds(100, 100))
    text = checked(render_report(dataclasses.replace(context, audit=proven)))
    assert "More than 1 is proven" in text


def test_without_an_audit_the_page_says_so_with_the_command(context):
    reason = "not tested: `likeness audit` does it"
    card = Scorecard((*context.scorecard, skipped("canary_epsilon", "privacy", reason)))
    text = checked(render_report(dataclasses.replace(context, scorecard=card)))
    untested = text[text.index("What was not tested") :]
    assert "Privacy loss ε by planted records" in untested
    assert reason in untested
    assert "It does not mean" not in text


def test_every_gate_is_counted_once(context):
    """Open questions neither hold nor fail; what is not asked is not counted."""
    asked = [g for g in context.verdict.gates if not g.not_applicable]
    said = wording.tally_of(context.verdict.gates)
    counts = [int(number) for number in re.findall(r"\d+", said)]
    assert counts[0] == len(asked) == sum(counts[1:])
    assert said in checked(render_report(context))
    assert wording.tally(hold=1, undecided=0, warned=0) == "1 gate: 1 holds"
    assert wording.tally(hold=0, undecided=0, warned=0) == "no gate applies"
    several = wording.tally(hold=2, undecided=1, warned=1, failed=2)
    assert several == "6 gates: 2 hold, 1 is open, 1 warns, 2 fail"


def test_privacy_without_a_gate_is_no_evidence():
    assert report._stance((), "evidence", "none") == "none"


def test_a_contact_sheet_is_inline(context):
    png = b"\x89PNG\r\n\x1a\n"
    html = render_report(dataclasses.replace(context, contact_sheet_png=png, comparison=None))
    checked(html)
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in html


def test_the_same_context_gives_the_same_page(context, page):
    assert render_report(context) == page


def test_gate_rows_are_text_in_the_verdicts_order(context):
    rows = gate_rows(context.verdict)
    assert [row["gate"] for row in rows] == [gate.gate for gate in context.verdict.gates]
    assert all(isinstance(value, str) for row in rows for value in row.values())
    by_name = {row["gate"]: row for row in rows}
    assert by_name["privacy-membership"]["interval"] == "0.490 to 0.530"
    assert by_name["bias-representation"]["verdict"] == "Failed"
    assert by_name["bias-label-drift"]["verdict"] == "Not applicable"


def test_every_cell_of_a_marginal_rests_on_eleven_holdout_rows(comparison):
    found = marginals(comparison)
    assert {marginal.column for marginal in found} == set(comparison.schema.names)
    rows = len(comparison.holdout)
    for marginal in found:
        for bar in marginal.bars:
            assert round(bar.real * rows) >= MIN_ROWS or (bar.label == OTHER and bar.real == 0)
        missing = marginal.missing[0] if marginal.missing else 0.0
        assert sum(bar.real for bar in marginal.bars) == pytest.approx(1 - missing)
    place = next(m for m in found if m.column == "place")
    assert CANARY not in {bar.label for bar in place.bars}


def test_edges_of_bins_are_round_numbers_not_extremes(comparison):
    income = next(m for m in marginals(comparison) if m.column == "income")
    train = comparison.train["income"]
    low, high = train.quantile([0.01, 0.99])
    edges = np.array([bar.start for bar in income.bars] + [income.bars[-1].end])
    steps = edges / 10 ** np.floor(np.log10(np.diff(edges).min()))
    assert np.allclose(steps, np.round(steps))
    assert edges[-1] < 2 * high < train.max()
    assert edges[0] <= low


def test_cramers_v_is_zero_by_chance_and_one_by_identity():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 20_000), rng.integers(0, 5, 20_000)
    joint = np.bincount(a * 5 + b, minlength=25).reshape(5, 5)
    assert cramers_v(joint) < 0.02
    assert cramers_v(np.diag([10, 20, 30])) == pytest.approx(1.0)
    assert cramers_v(np.array([[5, 5]])) == 0.0


def test_a_lost_association_is_visible(comparison):
    found = associations(comparison)
    at = found.names.index("lncoins"), found.names.index("fmde")
    assert found.real[at] > 0.5
    assert found.synthetic[at] < 0.1
    assert np.allclose(found.real, found.real.T)


def test_discretion_keeps_columns_and_common_levels(comparison):
    discretion = Discretion(comparison)
    assert discretion.subject("place=north & idp=1") == "place=north & idp=1"
    assert discretion.subject(f"place={CANARY} & idp=1") == "place=(withheld) & idp=1"
    assert discretion.subject(f"place={CANARY}, and more") == "place=(withheld)"
    assert discretion.subject("nowhere=x") == "nowhere=(withheld)"
    assert discretion.subject("mdvis × lpi") == "mdvis × lpi"
    assert discretion.text(f"the level {CANARY} is rare") == "the level (withheld) is rare"


def test_the_colours_of_the_page_are_those_of_the_pictures():
    style = (Path(report.__file__).parent / "templates" / "report.css").read_text()
    for name in ("ink", "muted", "line", "surface", "real", "synthetic", "good", "bad", "warn"):
        assert style.count(f"--{name}:") == 3, f"{name} needs a light, a dark and a print colour"


def test_a_point_has_no_whisker():
    gate = GateResult(
        gate="g",
        dimension="structure",
        metric="m",
        subject="all",
        severity="critical",
        status="passed",
        value=0.0,
        low=0.0,
        high=0.0,
        reference=None,
        bound="0",
        why="",
    )
    assert report._gate_chart(gate) == ""
    assert "<svg" in report._gate_chart(dataclasses.replace(gate, high=0.1))


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [(0.85, 1.2, "passed"), (0.7, 1.2, "warning"), (1.3, 2.0, "failed"), (0.2, 0.6, "failed")],
)
def test_a_cell_of_the_group_matrix_has_the_colour_of_its_interval(context, low, high, kind):
    score = Score("representation_ratio", "bias", "place=west", value=low, low=low, high=high)
    score = dataclasses.replace(score, unit="ratio")
    small = Score("label_drift", "bias", "place=west", skipped="too few rows are in the group")
    page = render_report(dataclasses.replace(context, scorecard=Scorecard((score, small))))
    checked(page)
    assert re.findall(r'<td class="cell (\w+)">', page) == [kind, "none"]
