"""What the commands show: rich tables and progress for people, one JSON object for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from generators import GENERATORS
from generators.base import OnProgress
from generators.base import Progress as Report
from generators.schema import ImageSchema, TableSchema

if TYPE_CHECKING:
    from validators.verdict import GateResult, Verdict

    from .audit import AuditResult
    from .publication.verify import VerifyReport
    from .release import RealData
    from .spec import DatasetSpec
    from .steps import Fitted, RunResult

_MARKS = {"passed": "[green]pass[/]", "failed": "[red]FAIL[/]", "not applicable": "[dim]n/a[/]"}
# Where nobody looks at a window, lines are as long as a table needs.
_PIPE_WIDTH = 140
# A window of so many columns shows from how many rows a gate was judged, too.
_WIDE = 112
# What to try where gates of a dimension stop a release: first what the family itself can be told.
_OTHER_FAMILY = "another family: --generator NAME (`likeness generators` lists them)"
_OF_FAMILY = {
    "max_minutes": "learn longer: --set max_minutes=15",
    "epsilon": "allow a greater privacy loss (--set epsilon=NUMBER), more rows",
    "privacy": "learn more of single rows: --set privacy=0.25",
}
_REMEDIES = {
    "privacy": "more rows, or less learned of single ones: --set privacy=0.75 of forest, or "
    "`likeness generators NAME` for what another family can be told",
    "bias": "more rows of the groups that the report names, or --parity and --quota when sampling",
}
# Fields of a gate in the JSON output.
_GATE_FIELDS = (
    "gate", "dimension", "metric", "subject", "severity", "status",
    "value", "low", "high", "reference", "bound", "n", "minimum_detectable",
)  # fmt: skip


class Terminal:
    """Output of one command. With ``as_json`` facts are collected into one object on stdout."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        self.out = Console(highlight=False, width=width)
        self.err = Console(stderr=True, highlight=False)

    def error(self, message: str) -> None:
        """One clear error on stderr (with ``--json``: an object on stdout)."""
        if self.as_json:
            self._json({"error": message})
        else:
            self.err.print(f"[red]error:[/] {escape(message)}")

    @contextmanager
    def progress(self) -> Iterator[OnProgress]:
        """A progress callback that draws a bar with a time to go, on stderr."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        shown = self.err.is_terminal and not self.as_json
        with Progress(*columns, console=self.err, disable=not shown) as bar:
            task = bar.add_task("", total=None, note="")

            def report(step: Report) -> None:
                bar.update(
                    task,
                    description=step.phase,
                    completed=step.step,
                    total=step.total,
                    note=_note(step),
                )

            yield report

    def show_real(self, spec: DatasetSpec, real: RealData) -> None:
        """The schema that was inferred, and what protection did; no value of the data."""
        if self.as_json:
            return
        rows, schema = real.facts["rows"], real.schema
        self.out.print(
            f"[bold]{spec.name}[/]: {rows['train']:,} train and {rows['holdout']:,} holdout "
            + ("images" if real.facts["modality"] == "image" else "rows")
        )
        beside = schema.table if isinstance(schema, ImageSchema) else schema
        if beside is not None:
            table = Table("column", "kind", "type", "missing", "role", box=None, padding=(0, 2))
            for column in beside.columns:
                table.add_row(
                    escape(column.name),
                    column.kind,
                    column.stored or column.dtype,
                    "yes" if column.nullable else "",
                    _role(column.name, beside),
                )
            self.out.print(table)
        if isinstance(schema, ImageSchema):
            self.out.print(
                f"{schema.height} x {schema.width} pixels, {schema.channels} channel(s), "
                f"{len(schema.classes)} class(es)"
            )
        for note in real.facts["protection"]:
            self.out.print(f"[dim]protection: {escape(note)}[/]")

    def show_result(self, result: RunResult) -> None:
        """The gate table, where everything lies, and how it is read."""
        published = result.published
        if self.as_json:
            self._json(_result_json(result))
            return
        if result.rows is not None:
            self.out.print("[bold]the rows beside the images[/]")
            self.show_verdict(result.rows)
            self.out.print("[bold]the images[/]")
        self.show_verdict(result.verdict)
        for sheet in result.owners_sheets:
            self.out.print(f"[dim]shows real images, for you alone: {sheet}[/]", soft_wrap=True)
        if published is None:
            verdicts = [v for v in (result.rows, result.verdict) if v is not None]
            failed = ", ".join(gate.gate for verdict in verdicts for gate in verdict.blocking)
            self.out.print(f"[red]quarantined[/]: stopped by {failed}; nothing was published")
            blocking = (gate for verdict in verdicts for gate in verdict.blocking)
            for remedy in remedies(blocking, result.release.generator):
                self.out.print(f"what may help: {remedy}", soft_wrap=True)
            self.out.print(f"report: {result.report}", soft_wrap=True)
            return
        state = "already published as" if published.existing else "published"
        where = f"{published.location}/data"
        self.out.print(
            f"[green]{state}[/] {published.dataset}@{published.version}: {published.location}",
            soft_wrap=True,
        )
        self.out.print(f"report: {result.report}", soft_wrap=True)
        self.out.print("read it:", style="bold")
        self.out.print(
            f'  import pandas as pd\n  synthetic = pd.read_parquet("{where}")', soft_wrap=True
        )

    def show_verdict(self, verdict: Verdict) -> None:
        """The table of gates, and how many said what.

        ``real`` is the same measure between real train and real holdout, ``n`` the rows that
        entered, ``sees`` the smallest deviation that so many rows show four times in five; a narrow
        window leaves the last two out.
        """
        if self.as_json:
            return
        from validators.wording import tally_of

        wide = self.out.width >= _WIDE
        names = ["gate", "value", "95 % interval", "real", "bound", "verdict"]
        names[5:5] = ["n", "sees ≥"] if wide else []
        table = Table(*names, box=SIMPLE_HEAD, padding=(0, 1))
        for dimension, gates in verdict.by_dimension().items():
            for number, gate in enumerate(gates):
                table.add_row(
                    gate.gate,
                    _number(gate.value),
                    _interval(gate),
                    _number(gate.reference),
                    gate.bound,
                    *(_power(gate) if wide else ()),
                    _mark(gate),
                    end_section=number == len(gates) - 1 and dimension != "bias",
                )
        self.out.print(table)
        said = tally_of(verdict.gates)
        if any(gate.inconclusive and gate.passed for gate in verdict.gates):
            said += "; open: too few rows to tell, nothing is proven against it"
        self.out.print(said, soft_wrap=True)
        if not wide:
            self.out.print(
                "[dim]the report and --json also say from how many rows, and what they can see[/]"
            )

    def show_model(self, model: Fitted, folder: Path) -> None:
        """What was fitted and where it lies."""
        self.show_facts(
            {
                "generator": model.generator,
                "seconds": model.facts["seconds"],
                "model_digest": model.digest,
                "folder": str(folder),
                "saved": bool(model.facts["persistent"]),
                **({"privacy": model.facts["privacy"]} if model.facts.get("privacy") else {}),
                **{f"note {at}": n for at, n in enumerate(model.facts["training_notes"], start=1)},
            }
        )

    def show_audit(self, generator: str, result: AuditResult) -> None:
        """What canaries prove of a generator."""
        found, epsilon = result.found, result.found.epsilon
        if self.as_json:
            facts = {
                **dataclasses.asdict(found),
                "epsilon": epsilon._asdict(),
                "limit": result.limit,
            }
            self._json({"generator": generator, "passed": result.passed, **facts})
            return
        share = found.correct / found.guesses
        self.show_facts(
            {
                "generator": generator,
                "canaries": f"{found.canaries}, {found.inserted} of them in the training rows",
                "guesses": f"{found.correct} of the {found.guesses} surest are right, {share:.1%}",
                "epsilon": f"at least {epsilon.low:.2f} with 95 % "
                f"(estimate {epsilon.value:.2f}, high end {epsilon.high:.2f})",
                "verdict": f"no more than {result.limit:g} is proven"
                if result.passed
                else f"more than {result.limit:g} is proven: it remembers records that stand out",
                "meaning": "a lower bound for these attacks on these records, not a guarantee",
                "kept in": str(result.path),
                "shown": "on reports of this model from now on; what is published stays",
            }
        )

    def show_checks(self, report: VerifyReport) -> None:
        """Every check of a verification."""
        if self.as_json:
            rows = [
                {"check": c.name, "passed": c.passed, "detail": c.detail} for c in report.checks
            ]
            self._json({"version": report.name, "passed": report.passed, "checks": rows})
            return
        for check in report.checks:
            mark = "[green]ok  [/]" if check.passed else "[red]FAIL[/]"
            self.out.print(f"{mark} {check.name}: {escape(check.detail)}", soft_wrap=True)

    def show_rows(self, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A list of things."""
        if self.as_json:
            self._json({title: list(rows)})
            return
        names = list(rows[0]) if rows else []
        table = Table(*names, box=None, padding=(0, 2))
        for row in rows:
            table.add_row(*(escape(str(row[name])) for name in names))
        self.out.print(table)

    def show_family(self, family: Mapping[str, Any]) -> None:
        """A generator family: facts, then a line and a paragraph for each field."""
        if self.as_json:
            self._json(family)
            return
        for name, value in family.items():
            if name != "fields" and value != "":
                shown = {True: "yes", False: "no"}.get(value, value)
                self.out.print(f"[bold]{name}[/]: {escape(str(shown))}", soft_wrap=True)
        self.out.print("\nfields, each set by --set FIELD=VALUE:")
        for field in family["fields"]:
            head = f"{field['field']}: {field['type']} = {field['default']}"
            self.out.print(f"  [bold]{escape(head)}[/]", soft_wrap=True)
            for text in (field["meaning"], field["bounds"]):
                if text:
                    self.out.print(f"      {escape(text)}", soft_wrap=True)

    def show_facts(self, facts: Mapping[str, Any]) -> None:
        """Names and values."""
        if self.as_json:
            self._json(dict(facts))
            return
        for name, value in facts.items():
            self.out.print(f"{name}: {escape(str(value))}", soft_wrap=True)

    def _json(self, value: Mapping[str, Any]) -> None:
        self.out.print_json(json.dumps(value), indent=2)


def _result_json(result: RunResult) -> dict[str, Any]:
    published = result.published
    gates = [
        {field: getattr(gate, field) for field in _GATE_FIELDS} for gate in result.verdict.gates
    ]
    facts: dict[str, Any] = {
        "dataset": result.release.spec.name,
        "release_key": result.release.key,
        "passed": result.verdict.passed,
        "blocking": [gate.gate for gate in result.verdict.blocking],
        "report": str(result.report),
        "gates": gates,
    }
    if published is not None:
        facts["published"] = {
            "version": published.version,
            "path": published.location,
            "content_digest": published.content_digest,
            "existing": published.existing,
        }
    return facts


def _role(name: str, schema: TableSchema) -> str:
    roles = ["target"] if name == schema.target else []
    return ", ".join(roles + (["protected"] if name in schema.protected else []))


def _note(step: Report) -> str:
    loss = f"loss {step.loss:.4g}  " if step.loss is not None else ""
    remaining = step.remaining
    if remaining is None or step.step >= step.total:
        return loss
    return f"{loss}{remaining:.0f} s to go"


def _mark(gate: GateResult) -> str:
    if gate.inconclusive:
        return "[red]OPEN[/]" if gate.blocks else "[yellow]open[/]"
    return "[yellow]warn[/]" if gate.failed and not gate.blocks else _MARKS[gate.status]


def _power(gate: GateResult) -> tuple[str, str]:
    """From how many rows, and what they can see; a rule without an error needs neither."""
    counted = f"{gate.n:,}" if gate.n and _interval(gate) else ""
    return counted, _number(gate.minimum_detectable)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _interval(gate: GateResult) -> str:
    if gate.low is None or gate.high is None or gate.low == gate.high:
        return ""
    return f"{gate.low:.4f} – {gate.high:.4f}"


def remedies(blocking: Iterable[GateResult], generator: str) -> list[str]:
    """What to try, a line for each kind of gate that stopped a release of this family."""
    fields = {field.name for field in dataclasses.fields(GENERATORS[generator])}
    known = next((words for name, words in _OF_FAMILY.items() if name in fields), None)
    more = f"{known}, or {_OTHER_FAMILY}" if known else _OTHER_FAMILY
    by_dimension = {**dict.fromkeys(("fidelity", "utility", "diversity"), more), **_REMEDIES}
    found = (by_dimension[g.dimension] for g in blocking if g.dimension in by_dimension)
    return list(dict.fromkeys(found))
