"""The page for people: one self-contained HTML file on what was measured and decided.

Nothing is loaded from anywhere; pictures are inline. Of real data it shows what ``aggregates``
allows: no cell, no extreme, no category or bin of fewer than eleven rows.
"""

from __future__ import annotations

import base64
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from generators.schema import TableSchema

from . import charts, wording
from .aggregates import Discretion, Marginal, associations, marginals
from .base import Score, Scorecard
from .comparison import Comparison
from .contract import NOT_APPLICABLE
from .verdict import GateResult, Verdict
from .wording import gate_rows as gate_rows

_TEMPLATES = Path(__file__).parent / "templates"
_WORST = 6
_GROUPS = 12
_LARGE_GAP = 0.2
# Columns of the matrix of groups: title, what is tolerated in words, and as a number.
_GROUP_COLUMNS: dict[str, tuple[str, str, float]] = {
    "representation_ratio": ("Share, over real", "0.8 to 1.25", 1.25),
    "label_drift": ("Outcome gap, drift", "up to 0.05", 0.05),
    "subgroup_tvd": ("Fidelity, distance", "up to 0.10", 0.10),
    "equalised_odds_drift": ("TPR or FPR, drift", "up to 0.05", 0.05),
    "subgroup_auc_loss": ("Utility, AUC lost", "up to 0.05", 0.05),
    "membership_auc_group": ("Privacy, attack AUC", "up to 0.65", 0.65),
}

NOT_TESTED = (
    "Attackers who know the generator's weights: the attacks see the published data only.",
    "Linkage with outside sources, and what several releases together give away.",
    "Free text and ids: they are replaced, never learned, and not measured.",
)


@dataclass(frozen=True, kw_only=True)
class ReportContext:
    """What a report is made of.

    Attributes:
        dataset: its name.
        description: a sentence on what the data are.
        verdict: what was decided.
        scorecard: what was measured.
        comparison: the three datasets, for pictures; None leaves the pictures out.
        loss_history: (step, loss) pairs of the training.
        training_notes: what happened in it that should be known, a sentence each.
        contact_sheet_png: synthetic images on one sheet, or None.
        protection: what was done to the real data before training, a sentence each.
        reproduce: dataset, generator, parameters, seed, versions, digests.
        created_at: when, as text.
    """

    dataset: str
    verdict: Verdict
    scorecard: Scorecard
    description: str = ""
    comparison: Comparison | None = None
    loss_history: Sequence[tuple[int, float]] = ()
    training_notes: Sequence[str] = ()
    contact_sheet_png: bytes | None = None
    protection: Sequence[str] = ()
    reproduce: Mapping[str, Any] = field(default_factory=dict)
    created_at: str = ""


def render_report(context: ReportContext) -> str:
    """The report as HTML text."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    discretion = Discretion(context.comparison)
    table = context.comparison is not None and isinstance(context.comparison.schema, TableSchema)
    page = environment.get_template("report.html.j2")
    return page.render(
        context=context,
        verdict=context.verdict,
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        sign=lambda kind, size=18: Markup(charts.sign(kind, size=size)),
        headline=_headline(context.verdict),
        summaries=_summaries(context),
        strip=_strip(context.verdict),
        groups=_gate_groups(context.verdict, discretion),
        marginals=_marginal_figures(context.comparison) if table and context.comparison else [],
        associations=_association_figures(context.comparison)
        if table and context.comparison
        else [],
        worst=_worst_lists(context.scorecard, discretion),
        subgroups=_subgroups(context.scorecard, discretion),
        contact_sheet=_data_uri(context.contact_sheet_png),
        loss=Markup(charts.line_chart(context.loss_history, "Loss over the steps of training")),
        untested=_untested(context.scorecard, discretion),
        standing=NOT_TESTED,
        reproduce=_flat(context.reproduce),
    )


def _headline(verdict: Verdict) -> dict[str, str]:
    asked = [gate for gate in verdict.gates if not gate.not_applicable]
    held = sum(gate.passed for gate in asked)
    warned = len(verdict.warnings)
    if verdict.passed:
        note = f", {_count(warned, 'warning')}" if warned else ""
        return {
            "kind": "passed",
            "title": "Cleared for release",
            "text": f"{held} of {len(asked)} gates of contract “{verdict.contract}” hold{note}.",
        }
    names = ", ".join(gate.gate for gate in verdict.blocking) or "none was judged"
    return {
        "kind": "failed",
        "title": "Quarantined",
        "text": f"{_count(len(verdict.blocking), 'critical gate')} of contract "
        f"“{verdict.contract}” failed: {names}. Nothing of this candidate was published.",
    }


def _summaries(context: ReportContext) -> list[tuple[str, str]]:
    """One sentence for each of three readers."""
    card, verdict = context.scorecard, context.verdict
    attack, copies = _first(card, "membership_auc"), _first(card, "copy_excess")
    known = [
        f"the best membership attack scores {_with_interval(attack)} (guessing is 0.5)"
        if attack
        else "",
        f"verbatim copies beyond chance are {_in_percent(copies)} of the rows" if copies else "",
    ]
    found = " and ".join(filter(None, known)) or "no attack was measured"
    evidence = _stance(verdict.of("privacy"), "evidence for", "no sufficient evidence for")
    utility = _first(card, "utility_retention")
    kept = (
        f"models trained on it keep {_in_percent(utility)} of the skill that real data give"
        if utility
        else "the skill of models trained on it was not measured"
    )
    marginal = _first(card, "marginal_tvd_mean")
    shape = (
        f"; columns are off by {_in_percent(marginal)} of the rows on average" if marginal else ""
    )
    rules = [gate for gate in verdict.of("structure") if not gate.not_applicable]
    return [
        (
            "For the privacy officer",
            f"There is {evidence} low disclosure risk: {found}. This is evidence about the "
            "attacks named below, not a promise about all others.",
        ),
        ("For the ML engineer", f"{kept[0].upper()}{kept[1:]}{shape}."),
        (
            "For the data steward",
            f"{sum(gate.passed for gate in rules)} of {len(rules)} structure rules hold; the "
            f"verdict is bound to content {verdict.candidate_digest[:12]} and contract "
            f"{verdict.contract} ({verdict.contract_digest[:12]}).",
        ),
    ]


def _stance(gates: Sequence[GateResult], good: str, bad: str) -> str:
    asked = [gate for gate in gates if not gate.not_applicable and gate.severity == "critical"]
    return good if asked and all(gate.passed for gate in asked) else bad


def _strip(verdict: Verdict) -> list[dict[str, str]]:
    cards = []
    for dimension, gates in verdict.by_dimension().items():
        asked = [gate for gate in gates if not gate.not_applicable]
        blocked, warned = sum(g.blocks for g in asked), sum(g.failed for g in asked)
        kind = "failed" if blocked else "warning" if warned else "passed" if asked else "none"
        words = {
            "failed": "Failed",
            "warning": "Warning",
            "passed": "Holds",
            "none": "Not applicable",
        }
        cards.append(
            {
                "name": dimension.capitalize(),
                "question": wording.DIMENSIONS[dimension],
                "kind": kind,
                "word": words[kind],
                "count": f"{sum(g.passed for g in asked)} of {_count(len(asked), 'gate')}"
                if asked
                else "no gate applies",
            }
        )
    return cards


def _gate_groups(verdict: Verdict, discretion: Discretion) -> list[dict[str, Any]]:
    return [
        {"name": dimension.capitalize(), "rows": [_gate_row(gate, discretion) for gate in gates]}
        for dimension, gates in verdict.by_dimension().items()
        if gates
    ]


def _gate_row(gate: GateResult, discretion: Discretion) -> dict[str, Any]:
    kind = "passed" if gate.passed else "none" if gate.not_applicable else "warning"
    return {
        "id": gate.gate,
        "metric": wording.metric_words(gate.metric),
        "subject": "" if gate.subject in ("all", "*") else discretion.subject(gate.subject),
        "value": wording.number(gate.value),
        "interval": wording.interval(gate.low, gate.high),
        "reference": wording.number(gate.reference),
        "bound": gate.bound,
        "kind": "failed" if gate.blocks else kind,
        "word": wording.status_words(gate),
        "severity": gate.severity,
        "why": gate.why,
        "reason": discretion.text(gate.reason.removeprefix(NOT_APPLICABLE).strip()),
        "structure": gate.dimension == "structure",
        "chart": _gate_chart(gate),
    }


def _gate_chart(gate: GateResult) -> Markup:
    if gate.value is None or gate.low is None or gate.high is None or gate.low == gate.high:
        return Markup("")
    label = f"{wording.metric_words(gate.metric)}: {wording.number(gate.value)}, {gate.bound}"
    drawn = charts.Whisker(
        value=gate.value,
        low=gate.low,
        high=gate.high,
        minimum=gate.minimum,
        maximum=gate.maximum,
        reference=gate.reference,
        failed=gate.failed,
        label=label,
    )
    return Markup(charts.whisker(drawn))


def _marginal_figures(comparison: Comparison) -> list[dict[str, Any]]:
    return [
        {"name": m.column, "chart": _marginal_chart(m), "note": _missing_note(m)}
        for m in marginals(comparison)
    ]


def _marginal_chart(marginal: Marginal) -> Markup:
    label = f"Shares of {marginal.column}, real and synthetic"
    draw = charts.histogram if marginal.ordered else charts.category_bars
    return Markup(draw(marginal.bars, label))


def _missing_note(marginal: Marginal) -> str:
    if marginal.missing is None:
        return ""
    real, synthetic = marginal.missing
    return f"missing: real {real:.0%}, synthetic {synthetic:.0%}"


def _association_figures(comparison: Comparison) -> list[dict[str, Any]]:
    found = associations(comparison)
    if len(found.names) < 2:
        return []
    blank = ~np.eye(len(found.names), dtype=bool)
    gap = (found.synthetic - found.real) * blank
    pictures = [
        ("Real (holdout)", found.real * blank, None, "darkest at 1"),
        ("Synthetic", found.synthetic * blank, None, "darkest at 1"),
        ("Synthetic minus real", gap, _LARGE_GAP, f"full colour at ±{_LARGE_GAP}"),
    ]
    return [
        {
            "name": name,
            "scale": words,
            "chart": Markup(
                charts.heatmap(matrix, found.names, f"Associations: {name}", diverging=scale)
            ),
        }
        for name, matrix, scale, words in pictures
    ]


def _worst_lists(scorecard: Scorecard, discretion: Discretion) -> list[dict[str, Any]]:
    """The worst subjects of each metric that has several, groups apart."""
    lists = []
    for metric, scores in _by_metric(scorecard).items():
        several = [s for s in scores if s.subject != "all" and "=" not in s.subject]
        if len(several) < 2:
            continue
        chosen = _worst_first(several)[:_WORST]
        span = _span(chosen)
        rows = [_subject_row(score, discretion, span) for score in chosen]
        title = wording.metric_words(metric)
        lists.append({"name": title, "rows": rows, "of": len(several)})
    return lists


def _subgroups(scorecard: Scorecard, discretion: Discretion) -> dict[str, Any]:
    """The matrix of groups: rows the most different first, columns what was measured of them."""
    cells: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    departure: dict[str, float] = defaultdict(float)
    for score in scorecard:
        if "=" not in score.subject or score.metric not in _GROUP_COLUMNS:
            continue
        group = discretion.subject(score.subject)
        cells[group][score.metric] = _group_cell(score)
        departure[group] = max(departure[group], _departure(score))
    metrics = [
        metric
        for metric in _GROUP_COLUMNS
        if any(metric in of_group for of_group in cells.values())
    ]
    worst_first = sorted(cells, key=lambda group: (-departure[group], group))
    empty = {"kind": "none", "value": "–", "interval": "", "word": "not measured"}
    rows = [
        {"group": group, "cells": [cells[group].get(metric, empty) for metric in metrics]}
        for group in worst_first[:_GROUPS]
    ]
    heads = [
        {"title": _GROUP_COLUMNS[metric][0], "bound": _GROUP_COLUMNS[metric][1]}
        for metric in metrics
    ]
    return {"heads": heads, "rows": rows, "left_out": max(len(cells) - _GROUPS, 0)}


def _group_cell(score: Score) -> dict[str, str]:
    """The number, and whether its interval lies within what is tolerated, beyond it, or across."""
    if score.value is None or score.low is None or score.high is None:
        return {"kind": "none", "value": "–", "interval": "", "word": "too few rows"}
    tolerated = _GROUP_COLUMNS[score.metric][2]
    least = 1 / tolerated if score.unit == "ratio" else -math.inf
    if score.low > tolerated or score.high < least:
        kind, word = "failed", "beyond"
    elif least <= score.low and score.high <= tolerated:
        kind, word = "passed", "within"
    else:
        kind, word = "warning", "open"
    return {
        "kind": kind,
        "value": wording.number(score.value),
        "interval": wording.interval(score.low, score.high),
        "word": word,
    }


def _departure(score: Score) -> float:
    """How far beyond its tolerance an interval surely reaches; the estimate breaks ties."""
    if score.value is None or score.low is None or score.high is None:
        return 0.0
    if score.unit == "ratio":
        low, high, value = (math.log(max(x, 1e-9)) for x in (score.low, score.high, score.value))
        sure = max(low, -high, 0.0)
        size = abs(value)
        tolerated = math.log(_GROUP_COLUMNS[score.metric][2])
    else:
        neutral = 0.5 if score.metric == "membership_auc_group" else 0.0
        sure, size = max(score.low - neutral, 0.0), abs(score.value - neutral)
        tolerated = _GROUP_COLUMNS[score.metric][2]
    return (sure + size / 100) / tolerated


def _subject_row(score: Score, discretion: Discretion, span: tuple[float, float]) -> dict[str, Any]:
    subject = discretion.subject(score.subject)
    value, low, high = score.value or 0.0, score.low or 0.0, score.high or 0.0
    drawn = charts.Whisker(
        value=value,
        low=low,
        high=high,
        reference=score.reference,
        span=span,
        label=f"{subject}: {wording.number(value)}",
    )
    return {
        "subject": subject,
        "value": wording.number(value),
        "interval": wording.interval(low, high),
        "chart": Markup(charts.whisker(drawn, width=120, height=24)),
    }


def _untested(scorecard: Scorecard, discretion: Discretion) -> list[tuple[str, str]]:
    """Metrics without a number, with the reason; equal reasons of one metric are one row."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for score in scorecard:
        if score.skipped is not None:
            key = wording.metric_words(score.metric), discretion.text(score.skipped)
            found[key].append("" if score.subject == "all" else discretion.subject(score.subject))
    return [
        (f"{name}{_subjects(dict.fromkeys(subjects))}", reason)
        for (name, reason), subjects in found.items()
    ]


def _subjects(subjects: Collection[str]) -> str:
    if not any(subjects):
        return ""
    return f" ({', '.join(subjects)})" if len(subjects) <= 3 else f", {len(subjects)} subjects"


def _by_metric(scorecard: Scorecard) -> dict[str, list[Score]]:
    found: dict[str, list[Score]] = defaultdict(list)
    for score in scorecard:
        if score.value is not None:
            found[score.metric].append(score)
    return found


def _worst_first(scores: Sequence[Score]) -> list[Score]:
    direction = -1.0 if scores[0].higher_is_better else 1.0
    return sorted(scores, key=lambda score: -direction * (score.value or 0.0))


def _span(scores: Sequence[Score]) -> tuple[float, float]:
    numbers = [
        end for s in scores for end in (s.low, s.value, s.high, s.reference) if end is not None
    ]
    low, high = min(numbers), max(numbers)
    room = 0.06 * (high - low) or 1.0
    # Distances start at zero; what lies far from it, such as an AUC, has its own start.
    start = 0.0 if 0.0 <= low <= 0.5 * high else low - room
    return start, high + room


def _first(scorecard: Scorecard, metric: str) -> Score | None:
    found = [score for score in scorecard.select(metric, "all") if score.value is not None]
    return found[0] if found else None


def _with_interval(score: Score) -> str:
    bounds = wording.interval(score.low, score.high)
    return wording.number(score.value) + (f" (95 % interval {bounds})" if bounds else "")


def _in_percent(score: Score) -> str:
    low, high = wording.percent(score.low or 0.0), wording.percent(score.high or 0.0)
    return f"{wording.percent(score.value or 0.0)} (95 % interval {low} to {high})"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _data_uri(png: bytes | None) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _flat(facts: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as rows of name and text."""
    rows: list[tuple[str, str]] = []
    for name, value in facts.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, Mapping):
            rows.extend(_flat(value, f"{label} · "))
        elif isinstance(value, list | tuple):
            rows.append((label, ", ".join(str(item) for item in value)))
        else:
            rows.append((label, str(value)))
    return rows
