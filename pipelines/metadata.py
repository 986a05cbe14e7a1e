"""What Dagster shows of each step: counts, digests, times, curves. Never a value of real data.

Column schemas are the declared part alone (name, type, description): ranges and levels that were
inferred from real rows stay in the vault.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

from generators.schema import Images, ImageSchema, Schema
from validators.base import Score
from validators.charts import LIGHT, line_chart
from validators.contract import Gate
from validators.verdict import GateResult, Verdict

from .augment import Day
from .candidate import candidate_files
from .pictures import contact_sheet
from .publication.log import Published
from .publication.manifest import columns_of
from .publication.read import read_published
from .release import RealData, Release
from .revalidate import Revalidation
from .steps import Candidate, Fitted, contract_of

Metadata = dict[str, Any]
_MARKS = {
    "passed": "✓\N{NO-BREAK SPACE}holds",
    "failed": "✗\N{NO-BREAK SPACE}fails",
    "inconclusive": "?\N{NO-BREAK SPACE}open",
    "not applicable": "–\N{NO-BREAK SPACE}not\N{NO-BREAK SPACE}applicable",
}


def of_real(real: RealData) -> Metadata:
    """Of the asset ``real``."""
    facts = real.facts
    rows = facts["rows"]
    return {
        **_rows_and_columns(rows["train"] + rows["holdout"], real.schema),
        "train rows": rows["train"],
        "holdout rows": rows["holdout"],
        "protection": dg.MetadataValue.md(_list(facts["protection"])),
        "digest": real.digest,
    }


def of_model(release: Release, fitted: Fitted) -> Metadata:
    """Of the asset ``model``."""
    facts = fitted.facts
    history: list[tuple[int, float]] = [(int(s), float(v)) for s, v in facts["loss_history"]]
    shown: Metadata = {
        "generator": fitted.generator,
        "seed": release.spec.seed,
        "seconds": float(facts["seconds"]),
        "peak memory (MB)": int(facts["peak_memory_mb"]),
        "parameters": dg.MetadataValue.json(facts["parameters"]),
        "digest": fitted.digest,
    }
    if facts.get("privacy"):
        shown["privacy"] = dg.MetadataValue.md(facts["privacy"])
    if facts["training_notes"]:
        shown["training notes"] = dg.MetadataValue.md(_list(facts["training_notes"]))
    if history:
        shown["final loss"] = history[-1][1]
        shown["loss curve"] = _picture("loss curve", _loss_curve(history), "svg+xml")
    return shown


def of_candidate(release: Release, candidate: Candidate) -> Metadata:
    """Of the asset ``candidate``; images as a contact sheet of synthetic ones."""
    schema = release.real.schema
    shown: Metadata = {
        **_rows_and_columns(candidate.rows, schema),
        "seed": release.spec.seed,
        "content digest": candidate.content_digest,
        "folder": dg.MetadataValue.path(candidate.folder),
    }
    if isinstance(schema, ImageSchema):
        images = read_published(candidate_files(candidate.folder), schema)
        if isinstance(images, Images):
            sheet = contact_sheet(images, schema)
            shown["synthetic images"] = _picture("synthetic images", sheet, "png")
    return shown


def of_scorecard(release: Release, verdict: Verdict) -> Metadata:
    """Of the asset ``scorecard``: the gates as a table, each observed number as a trend."""
    report = release.evidence_folder / "report.html"
    gates = _gates_of(release)
    observed = {
        answer.gate: number
        for answer in verdict.gates
        if (number := _observed(answer, gates)) is not None
    }
    return {
        "verdict": "passed" if verdict.passed else "stopped",
        "report": dg.MetadataValue.path(report),
        "gates": dg.MetadataValue.md(_gate_table(verdict.gates)),
        "gates held": sum(answer.passed for answer in verdict.gates),
        "gates failed": sum(answer.failed for answer in verdict.gates),
        "contract": verdict.contract,
        **observed,
    }


def of_published(release: Release, published: Published) -> Metadata:
    """Of the asset ``published``."""
    manifest = published.manifest()
    return {
        **_rows_and_columns(manifest.rows, release.real.schema),
        "version": published.version,
        "new": not published.existing,
        "content digest": published.content_digest,
        "license": release.spec.license,
        "folder": dg.MetadataValue.path(published.location),
        "report": dg.MetadataValue.path(f"{published.location}/reports/report.html"),
    }


def of_day(day: Day) -> Metadata:
    """Of a partition of the asset ``augmented``."""
    shown: Metadata = {
        "dagster/partition_row_count": day.rows,
        "model": f"{day.dataset}@{day.version}",
        "content digest": day.content_digest,
    }
    if day.published is not None:
        shown["version"] = day.published.name
        shown["folder"] = dg.MetadataValue.path(day.published.location)
    if day.folder is not None:
        shown["folder"] = dg.MetadataValue.path(day.folder)
    return shown


def of_uplift(scores: Sequence[Score]) -> dg.AssetCheckResult:
    """The check ``uplift``: the worst day decides, and only where harm is proven."""
    measured = [score for score in scores if score.value is not None]
    if not measured:
        said = (scores[0].skipped if scores else None) or "nothing was measured"
        return dg.AssetCheckResult(check_name="uplift", passed=True, description=said)
    worst = min(measured, key=lambda score: score.high or 0.0)
    value, low, high = worst.value or 0.0, worst.low or 0.0, worst.high or 0.0
    stance = "helps" if low > 0 else "harms" if high < 0 else "no difference is proven"
    return dg.AssetCheckResult(
        check_name="uplift",
        passed=high >= 0,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{stance}: {value:+.4f} {worst.unit} [{low:+.4f}, {high:+.4f}]",
        metadata={
            "uplift": value,
            "low": low,
            "high": high,
            "target": worst.subject,
            "smallest detectable": worst.minimum_detectable or 0.0,
        },
    )


def of_revalidation(found: Revalidation) -> dg.AssetCheckResult:
    """The check ``drift``: columns, distances, intervals."""
    lines = ["| column | distance | 99 % interval |", "|---|---|---|"]
    for score in found.columns[:20]:
        name = score.subject.replace("|", "\\|")
        lines.append(f"| {name} | {score.value:.4f} | {score.low:.4f} – {score.high:.4f} |")
    shown: Metadata = {
        "model": f"{found.dataset}@{found.version}",
        "newest rows": found.rows,
        "columns": dg.MetadataValue.md("\n".join(lines)),
    }
    if found.detection.value is not None:
        shown["auc between old and new rows"] = found.detection.value
    if found.columns:
        shown["largest distance"] = found.columns[0].value or 0.0
    return dg.AssetCheckResult(
        passed=not found.proven,
        severity=dg.AssetCheckSeverity.WARN,
        description=found.sentence,
        metadata=shown,
    )


def of_gates(release: Release, answers: tuple[GateResult, ...]) -> Metadata:
    """Of one asset check: for each gate what was observed, its bound, and the room between."""
    gates = _gates_of(release)
    shown: Metadata = {"gates": dg.MetadataValue.md(_gate_table(answers))}
    for answer in answers:
        observed = _observed(answer, gates)
        if observed is None:
            continue
        gate = gates[answer.gate]
        for bound, room in ((gate.max, 1.0), (gate.min, -1.0)):
            if bound is not None:
                shown[f"{answer.gate}: observed"] = observed
                shown[f"{answer.gate}: bound"] = float(bound)
                shown[f"{answer.gate}: margin"] = room * (bound - observed)
    return shown


def _observed(answer: GateResult, gates: dict[str, Gate]) -> float | None:
    gate = gates.get(answer.gate)
    if gate is None:
        return None
    numbers = {"value": answer.value, "low": answer.low, "high": answer.high}
    return numbers[gate.on]


def _gates_of(release: Release) -> dict[str, Gate]:
    return {gate.id: gate for gate in contract_of(release.spec).gates}


def _rows_and_columns(rows: int, schema: Schema) -> Metadata:
    columns = [
        dg.TableColumn(
            column.name,
            column.type,
            description=column.description or None,
            constraints=dg.TableColumnConstraints(nullable=column.nullable),
            tags={"role": column.role} if column.role else None,
        )
        for column in columns_of(schema)
    ]
    return {"dagster/row_count": rows, "dagster/column_schema": dg.TableSchema(columns=columns)}


def _gate_table(answers: Iterable[GateResult]) -> str:
    lines = ["| gate | required | measured | about | answer |", "|---|---|---|---|---|"]
    for answer in answers:
        required = answer.bound + (" (warning)" if answer.severity == "warning" else "")
        cells = (answer.gate, required, _measured(answer), answer.subject, _MARKS[answer.status])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _measured(answer: GateResult) -> str:
    if answer.value is None:
        return answer.reason or "–"
    if answer.low is None or answer.high is None or answer.low == answer.high:
        return f"{answer.value:.4g}"
    return f"{answer.value:.4g} [{answer.low:.4g}, {answer.high:.4g}]"


def _loss_curve(history: Sequence[tuple[int, float]]) -> bytes:
    chart = line_chart(history, "loss over the steps of the training", LIGHT)
    # Dagster has a dark theme too, and a picture cannot know which one it is shown in.
    return chart.replace("<svg ", f'<svg style="background:{LIGHT.surface}" ', 1).encode()


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or "nothing had to be done"


def _picture(name: str, content: bytes, kind: str) -> dg.MarkdownMetadataValue:
    encoded = base64.b64encode(content).decode()
    return dg.MetadataValue.md(f"![{name}](data:image/{kind};base64,{encoded})")
