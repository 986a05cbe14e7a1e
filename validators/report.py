"""The page for people: one self-contained HTML file on what was measured and decided.

Nothing is loaded from anywhere; pictures are inline. Of real data it shows what ``aggregates``
allows: no cell, no extreme, no category or bin of fewer than eleven rows.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from generators.schema import Images, ImageSchema, TableSchema

from . import charts, matrices, wording
from .aggregates import MIN_ROWS, Discretion, Marginal, associations, marginals
from .base import Score, Scorecard
from .comparison import Comparison
from .contract import NOT_APPLICABLE
from .privacy.canaries import LIMIT, METRIC, CanaryAudit
from .suspects import least_convincing
from .verdict import GateResult, Verdict
from .wording import gate_rows as gate_rows

_TEMPLATES = Path(__file__).parent / "templates"
_WORST = 6
_IMAGES = 2_000
# A deviation that is found four times in five is 1.27 times as large as the reach of chance.
_CHANCE = 1.96 / 2.487
_LARGE_GAP = 0.2
# What each reader looks for first, in that order; as many as there are, up to four.
_FIGURES: dict[str, tuple[str, ...]] = {
    "For the privacy officer": (
        "membership_auc",
        METRIC,
        "attribute_excess",
        "copy_excess",
        "membership_auc_isolated",
        "memorisation_excess",
        "membership_loss_auc",
    ),
    "For the ML engineer": (
        "utility_retention",
        "tstr_gap",
        "frechet_ratio",
        "marginal_tvd_mean",
        "pair_tvd_mean",
        "c2st_auc",
        "label_fidelity",
    ),
    "For the data steward": (
        "representation_worst",
        "class_representation_worst",
        "label_drift_worst",
        "missing_categories",
        "missing_classes",
        "coverage_ratio",
        "duplicate_excess",
    ),
}
_SHOWN = 4
_IN_A_MATRIX = {*matrices.OF_CLASSES, *matrices.OF_NETWORKS}

WEIGHTS = "Attackers who know the generator's weights: the attacks see the published data only."
NOT_TESTED = (
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
        audit: what planted records proved of the model; None where nobody has tried.
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
    audit: CanaryAudit | None = None
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
        readers=_readers(context),
        strip=_strip(context.verdict),
        groups=_gate_groups(context.verdict, discretion),
        changes=_changes(context.verdict),
        marginals=_marginal_figures(context.comparison) if table and context.comparison else [],
        associations=_association_figures(context.comparison)
        if table and context.comparison
        else [],
        worst=_worst_lists(context.scorecard, discretion),
        subgroups=matrices.groups(context.scorecard, discretion),
        classes=_classes(context.scorecard, context.comparison),
        networks=_networks(context.scorecard, context.comparison),
        appearance=_appearance_figures(context.comparison),
        suspects=least_convincing(context.comparison) if context.comparison is not None else (),
        contact_sheet=_data_uri(context.contact_sheet_png),
        loss=Markup(charts.line_chart(context.loss_history, "Loss over the steps of training")),
        audit=_audit(context.audit),
        untested=_untested(context.scorecard, discretion),
        standing=_standing(context.scorecard),
        reproduce=_flat(context.reproduce),
    )


def _headline(verdict: Verdict) -> dict[str, str]:
    counted = f"Contract “{verdict.contract}”, {wording.tally_of(verdict.gates)}."
    if any(gate.inconclusive and gate.passed for gate in verdict.gates):
        counted += " Open: too few rows to tell; nothing is proven against it."
    if verdict.passed:
        return {"kind": "passed", "title": "Cleared for release", "text": counted}
    names = ", ".join(gate.gate for gate in verdict.blocking) or "none was judged"
    return {
        "kind": "failed",
        "title": "Quarantined",
        "text": f"Stopped by {names}; it may not be published. {counted}",
    }


def _summaries(context: ReportContext) -> list[tuple[str, str]]:
    """One sentence for each of three readers."""
    card, verdict = context.scorecard, context.verdict
    measured = _first(card, "membership_auc") or _first(card, "copy_excess")
    evidence = _stance(verdict.of("privacy"), "evidence for", "no sufficient evidence for")
    against = "the attacks below" if measured else "attacks, since none was measured"
    utility = _first(card, "utility_retention")
    kept = (
        f"models trained on it keep {_in_percent(utility)} of the skill that real data give"
        if utility
        else "the skill of models trained on it was not measured"
    )
    return [
        (
            "For the privacy officer",
            f"There is {evidence} low disclosure risk from {against}. It is no promise about "
            "others: see what was not tested.",
        ),
        ("For the ML engineer", f"{kept[0].upper()}{kept[1:]}."),
        (
            "For the data steward",
            f"Structure, {wording.tally_of(verdict.of('structure'))}. The verdict is bound to "
            f"content {verdict.candidate_digest[:12]} and contract {verdict.contract} "
            f"({verdict.contract_digest[:12]}).",
        ),
    ]


def _readers(context: ReportContext) -> list[dict[str, Any]]:
    """For each of three readers a sentence, and the numbers that they look for."""
    by_metric: dict[str, GateResult] = {}
    for gate in context.verdict.gates:
        if gate.subject == "all":
            by_metric.setdefault(gate.metric, gate)
    return [
        {
            "title": title,
            "sentence": sentence,
            "figures": [
                _figure(score, by_metric.get(metric))
                for metric in _FIGURES[title]
                if (score := _first(context.scorecard, metric)) is not None
            ][:_SHOWN],
        }
        for title, sentence in _summaries(context)
    ]


def _figure(score: Score, gate: GateResult | None) -> dict[str, str]:
    return {
        "name": wording.metric_words(score.metric),
        "value": wording.number(score.value),
        "interval": wording.interval(score.low, score.high),
        "bound": gate.bound if gate is not None else "no gate",
        "kind": _kind(gate) if gate is not None else "none",
    }


def _kind(gate: GateResult) -> str:
    """The look of an answer: passed, open, warning, failed or none."""
    if gate.not_applicable:
        return "none"
    if gate.failed:
        return "failed" if gate.blocks else "warning"
    return "open" if gate.inconclusive else "passed"


def _changes(verdict: Verdict) -> list[tuple[str, str]]:
    """What the owner of the dataset changed of the contract's gates, in words."""
    found = []
    for gate in verdict.gates:
        if gate.waiver:
            said = "it fails, and is accepted" if gate.failed else "it holds all the same"
            found.append((gate.gate, f"waived, {said}: {gate.waiver}"))
        elif gate.declared:
            found.append(
                (gate.gate, f"tightened to {gate.bound}, the contract asks {gate.declared}")
            )
    return found


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
                "count": wording.tally_of(gates),
            }
        )
    return cards


def _gate_groups(verdict: Verdict, discretion: Discretion) -> list[dict[str, Any]]:
    """The gates by dimension; rules of structure that hold are one line together."""
    groups = []
    for dimension, gates in verdict.by_dimension().items():
        if not gates:
            continue
        held = [g for g in gates if dimension == "structure" and g.passed and g.low == g.high]
        rows = [_gate_row(gate, discretion) for gate in gates if gate not in held]
        groups.append(
            {
                "name": dimension.capitalize(),
                "question": wording.DIMENSIONS[dimension],
                "rows": rows,
                "held": [(wording.metric_words(g.metric), g.why) for g in held],
            }
        )
    return groups


def _gate_row(gate: GateResult, discretion: Discretion) -> dict[str, Any]:
    return {
        "id": gate.gate,
        "metric": wording.metric_words(gate.metric),
        "subject": "" if gate.subject in ("all", "*") else discretion.subject(gate.subject),
        "value": wording.number(gate.value),
        "interval": wording.interval(gate.low, gate.high),
        "reference": wording.number(gate.reference),
        "bound": gate.bound,
        "declared": gate.declared,
        "sees": wording.number(gate.minimum_detectable) if gate.minimum_detectable else "",
        "kind": _kind(gate),
        "word": wording.status_words(gate),
        "severity": gate.severity,
        "why": gate.why,
        "waiver": gate.waiver,
        "reason": discretion.text(gate.reason.removeprefix(NOT_APPLICABLE).strip()),
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
        chance=gate.minimum_detectable * _CHANCE if gate.minimum_detectable else None,
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
        ("Real (holdout)", found.real * blank, None, "strongest at 1"),
        ("Synthetic", found.synthetic * blank, None, "strongest at 1"),
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
        if len(several) < 2 or metric in _IN_A_MATRIX:
            continue
        chosen = _worst_first(several)[:_WORST]
        span = _span(chosen)
        rows = [_subject_row(score, discretion, span) for score in chosen]
        title = wording.metric_words(metric)
        lists.append({"name": title, "rows": rows, "of": len(several)})
    return lists


def _classes(scorecard: Scorecard, comparison: Comparison | None) -> dict[str, Any]:
    """The matrix of an image set's classes."""
    if comparison is None or not isinstance(comparison.schema, ImageSchema):
        return {"heads": [], "rows": []}
    named = [(score.subject, score) for score in scorecard if score.subject != "all"]
    return matrices.matrix(named, matrices.OF_CLASSES, comparison.schema.classes)


def _networks(scorecard: Scorecard, comparison: Comparison | None) -> dict[str, Any]:
    """The matrix of the networks in whose features images were compared."""
    named = [("all of ours", s) if s.subject == "all" else (s.subject, s) for s in scorecard]
    order = list(dict.fromkeys(n for n, score in named if score.metric in matrices.OF_NETWORKS))
    if comparison is None or not isinstance(comparison.schema, ImageSchema):
        order = []
    return matrices.matrix(named, matrices.OF_NETWORKS, order)


def _appearance_figures(comparison: Comparison | None) -> list[dict[str, Any]]:
    """How bright images are, and how fine their detail is: means over many real images."""
    if comparison is None or not isinstance(comparison.schema, ImageSchema):
        return []
    from .image_appearance import intensities, spectra

    rng = comparison.rng("appearance-figures")
    parts = []
    for data in (comparison.holdout, comparison.synthetic):
        assert isinstance(data, Images)
        parts.append(data.pixels[rng.permutation(len(data))[:_IMAGES]])
    if len(parts[0]) < MIN_ROWS:
        return []
    power = [10 * np.log10(spectra(pixels).mean(axis=0) + 1e-2) for pixels in parts]
    return [
        {
            "name": "Grey values",
            "note": "from dark to bright; heights are roots of shares",
            "chart": Markup(
                charts.histogram(
                    _grey_bars(*(intensities(pixels).mean(axis=1) for pixels in parts)),
                    "Grey values of real and synthetic images",
                    width=400,
                    height=170,
                    root=True,
                )
            ),
        },
        _curves("Detail", power, ("coarse", "fine"), "power at each spatial frequency, in dB"),
    ]


def _grey_bars(real: np.ndarray, synthetic: np.ndarray) -> list[charts.Bar]:
    """Cells of 16 grey values each; one that fewer than eleven real images have is left empty."""
    shares = [part.reshape(len(part), -1, 2).sum(axis=2) for part in (real, synthetic)]
    enough = (shares[0] > 0).sum(axis=0) >= MIN_ROWS
    of_real, of_synthetic = (np.where(enough, part.mean(axis=0), 0.0) for part in shares)
    width = 256 // len(of_real)
    return [
        charts.Bar(
            f"{width * at} to {width * at + width - 1}", one, other, width * at, width * (at + 1)
        )
        for at, (one, other) in enumerate(zip(of_real.tolist(), of_synthetic.tolist(), strict=True))
    ]


def _curves(
    name: str, heights: Sequence[np.ndarray], ends: tuple[str, str], note: str
) -> dict[str, Any]:
    real, synthetic = (values.tolist() for values in heights)
    label = f"{name} of real and synthetic images"
    return {
        "name": name,
        "note": note,
        "chart": Markup(charts.two_curves(real, synthetic, label, ends=ends)),
    }


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


def _audit(found: CanaryAudit | None) -> dict[str, Any] | None:
    """What planted records proved, in words and as a whisker."""
    if found is None:
        return None
    epsilon, share = found.epsilon, found.correct / found.guesses
    lowest, over = wording.number(epsilon.low), epsilon.low > LIMIT
    drawn = charts.Whisker(
        value=epsilon.value,
        low=epsilon.low,
        high=epsilon.high,
        maximum=LIMIT,
        reference=0.0,
        failed=over,
        label=f"ε of at least {lowest} is proven",
    )
    return {
        "kind": "warning" if over else "passed",
        "word": f"More than {LIMIT:g} is proven" if over else f"No more than {LIMIT:g} proven",
        "low": lowest,
        "value": wording.number(epsilon.value),
        "high": wording.number(epsilon.high),
        "sees": wording.number(found.score.minimum_detectable),
        "canaries": f"{found.canaries:,}",
        "inserted": f"{found.inserted:,}",
        "guesses": f"{found.guesses:,}",
        "correct": f"{found.correct:,}",
        "share": wording.percent(share),
        "odds": wording.percent(1 / (1 + np.exp(-epsilon.low))),
        "chart": Markup(charts.whisker(drawn)),
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


def _standing(scorecard: Scorecard) -> tuple[str, ...]:
    """What no release is tested for; one whose model was attacked is tested for that."""
    attacked = _first(scorecard, "membership_loss_auc") is not None
    return NOT_TESTED if attacked else (WEIGHTS, *NOT_TESTED)


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
    # A drift may go either way, and is worse the farther it goes.
    signed = scores[0].unit != "ratio" and any((score.value or 0.0) < 0 for score in scores)
    size = abs if signed else float
    return sorted(scores, key=lambda score: -direction * size(score.value or 0.0))


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


def _in_percent(score: Score) -> str:
    low, high = wording.percent(score.low or 0.0), wording.percent(score.high or 0.0)
    return f"{wording.percent(score.value or 0.0)} (95 % interval {low} to {high})"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _data_uri(png: bytes | None) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else ""


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts as rows of name and text; nested ones are one row."""
    return [(name.replace("_", " "), _fact(value)) for name, value in facts.items()]


def _fact(value: Any) -> str:  # noqa: ANN401 - a fact of a JSON file
    if isinstance(value, Mapping):
        return " · ".join(f"{name.replace('_', ' ')} {_fact(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)
