"""Great Expectations judges the scorecard and the candidate: the only file that imports it.

The scorecard is one long table, and each gate of the contract is a built-in expectation on its
rows (``ExpectColumnMaxToBeBetween`` with a row condition): custom expectations are dropped
silently where a process has not imported them. Suites are built in code, in an ephemeral context,
because a shared file context loses writes of parallel runs. Every answer is counted, and compared
with ``Gate.answer``, so that no gate can go missing and no NaN can hide among good values.

Beside it stands an ordinary suite over the synthetic table (columns, rows, types, nulls, domain,
ids). The declared domain may hold real values: it is judged, but never written as evidence.
"""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from generators.base import DataError, LikenessError, Modality, ParameterError
from generators.schema import Column, Data, Images, ImageSchema, Schema, TableSchema, to_numbers

from .base import Scorecard
from .contract import EVERY_SUBJECT, Contract, Gate
from .verdict import STRUCTURE_GATES, GateResult, Status, Verdict, scorecard_digest

with warnings.catch_warnings():
    # Great Expectations imports the standard library's deprecated sre_constants.
    warnings.simplefilter("ignore", DeprecationWarning)
    import great_expectations as gx
    import great_expectations.expectations as gxe
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.base import ProgressBarsConfig
    from great_expectations.expectations.row_conditions import Column as Cell

# Counts only: the other formats put up to 20 offending values into results and Data Docs.
_COUNTS = {"result_format": "BASIC", "partial_unexpected_count": 0}
_BOOLEAN = {"result_format": "BOOLEAN_ONLY"}
_WITHHELD = ("value_set", "min_value", "max_value")
_STYLE = Path(__file__).parent / "templates" / "data_docs.css"

_RULES = {
    "structure-columns": "The columns are the declared ones, in their order.",
    "structure-rows": "There are exactly as many rows as were asked for.",
    "structure-types": "Each column has its declared dtype.",
    "structure-nulls": "Values are missing only where they may be.",
    "structure-domain": "Values are declared levels or within the declared range.",
    "structure-ids": "Ids are unique.",
    "structure-shape": "Each image has the declared height, width and channels.",
    "structure-pixels": "Pixels are 8-bit.",
    "structure-labels": "Each label is a declared class.",
}


class JudgementError(LikenessError, RuntimeError):
    """Great Expectations did not answer what was asked: no verdict can be given."""


def judge(
    contract: Contract,
    scorecard: Scorecard,
    *,
    synthetic: Data | None,
    schema: Schema,
    rows: int,
    candidate_digest: str,
    run_name: str,
    evidence: Path,
) -> Verdict:
    """The verdict of ``contract`` on a candidate.

    Args:
        contract: the gates; those of the other modality are left out.
        scorecard: what was measured.
        synthetic: the candidate: a frame, ``Images``, or the frame of ``image_facts``. Without it
            the structure gates fail.
        schema: what the candidate must look like.
        rows: the number of rows (images) that it must have.
        candidate_digest: content digest of the candidate, to bind the verdict to.
        run_name: names the run in the evidence; without ``/``.
        evidence: folder for results, suites and Data Docs; holds no value of real data.

    Raises:
        ParameterError: the contract has no gate that applies, or the run name holds a ``/``.
        JudgementError: an answer is missing or contradicts the scores.
    """
    modality: Modality = "image" if isinstance(schema, ImageSchema) else "table"
    session = _Session(run_name, evidence)
    answers = (
        *_judge_structure(session, synthetic, schema, rows),
        *_judge_gates(session, contract.for_modality(modality), scorecard),
    )
    return Verdict(
        contract=contract.name,
        contract_digest=contract.digest,
        candidate_digest=candidate_digest,
        scorecard_digest=scorecard_digest(scorecard),
        modality=modality,
        generated=datetime.now(UTC).isoformat(timespec="seconds"),
        gates=answers,
    )


def check_ingest(
    data: Data, schema: Schema, *, run_name: str = "ingest", evidence: Path | None = None
) -> tuple[GateResult, ...]:
    """The ordinary suite over real data; its results are booleans, never values.

    Args:
        data: the real rows or images; not modified.
        schema: what they were declared to be.
        run_name: names the run in the evidence; without ``/``.
        evidence: folder for the results; None writes nothing.

    Raises:
        DataError: a rule is broken; the message names rules and columns.
    """
    session = _Session(run_name, evidence, result_format=_BOOLEAN)
    answers = _judge_structure(session, data, schema, len(data), name="ingest")
    broken = [f"{answer.why.rstrip('.')} ({answer.reason})" for answer in answers if answer.failed]
    if broken:
        raise DataError(
            f"the data must be what the schema says, they are not: {'; '.join(broken)}; "
            "correct the source or declare the columns anew"
        )
    return answers


def image_facts(images: Images) -> pd.DataFrame:
    """One row an image: height, width, channels, pixel type and label."""
    n, height, width, channels = images.pixels.shape
    frame = pd.DataFrame({"label": np.asarray(images.labels)}, index=pd.RangeIndex(n))
    return frame.assign(
        height=height, width=width, channels=channels, pixel_type=str(images.pixels.dtype)
    )


@dataclass(frozen=True)
class _Rule:
    """One expectation, the gate that it belongs to, and the column that it is about."""

    gate: str
    expectation: Any
    column: str = ""


@dataclass
class _Session:
    """An ephemeral context; runs suites in checkpoints and leaves their evidence in a folder."""

    run_name: str
    evidence: Path | None
    result_format: dict[str, Any] = field(default_factory=lambda: dict(_COUNTS))

    def __post_init__(self) -> None:
        if "/" in self.run_name or not self.run_name:
            raise ParameterError(
                f"a run name must be without '/' and not empty, got {self.run_name!r}; "
                "use <dataset>@<version>"
            )
        with _quiet():
            self.context = gx.get_context(mode="ephemeral")
            self.context.variables.progress_bars = ProgressBarsConfig(globally=False)

    def run(
        self, name: str, frame: pd.DataFrame, rules: Sequence[_Rule], *, docs: bool = False
    ) -> list[bool]:
        """Judge ``frame``; one answer a rule, in their order.

        Raises:
            JudgementError: the answers are not those to the rules.
        """
        for number, rule in enumerate(rules):
            rule.expectation.meta = {**(rule.expectation.meta or {}), "rule": number}
        with _quiet():
            suite = self.context.suites.add(
                gx.ExpectationSuite(name=name, expectations=[rule.expectation for rule in rules])
            )
            result = self._checkpoint(name, suite, docs).run(
                batch_parameters={"dataframe": frame},
                run_id=RunIdentifier(run_name=self.run_name),
            )
        answers = [answer for run in result.run_results.values() for answer in run.results]
        if self.evidence is not None:
            _write(self.evidence / f"{name}.json", self._record(name, answers, docs))
            expectations = [_config(rule.expectation.configuration, docs) for rule in rules]
            suite_json = {"name": name, "expectations": expectations}
            _write(self.evidence / f"{name}_suite.json", suite_json)
            if docs:
                _make_offline(self.evidence / "data_docs")
        return _in_order(answers, rules)

    def _checkpoint(self, name: str, suite: Any, docs: bool) -> Any:  # noqa: ANN401 - GX untyped
        asset = self.context.data_sources.add_pandas(name).add_dataframe_asset(name)
        definition = self.context.validation_definitions.add(
            gx.ValidationDefinition(
                name=name, data=asset.add_batch_definition_whole_dataframe("all"), suite=suite
            )
        )
        return self.context.checkpoints.add(
            gx.Checkpoint(
                name=name,
                validation_definitions=[definition],
                actions=self._docs_actions() if docs else [],
                result_format=self.result_format,
            )
        )

    def _docs_actions(self) -> list[Any]:
        if self.evidence is None:
            return []
        folder = self.evidence / "data_docs"
        folder.mkdir(parents=True, exist_ok=True)
        store = {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(folder.resolve()),
        }
        site = {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": store,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        self.context.add_data_docs_site(site_name="release", site_config=site)
        return [gx.checkpoint.UpdateDataDocsAction(name="docs", site_names=["release"])]

    def _record(self, name: str, answers: Sequence[Any], docs: bool) -> dict[str, Any]:
        results = [
            {
                "success": bool(answer.success),
                "expectation": _config(answer.expectation_config, docs),
                "result": _numbers(answer.result),
            }
            for answer in answers
        ]
        return {
            "suite": name,
            "run_name": self.run_name,
            "great_expectations": gx.__version__,
            "success": all(result["success"] for result in results),
            "results": results,
        }


def _judge_gates(
    session: _Session, contract: Contract, scorecard: Scorecard
) -> tuple[GateResult, ...]:
    """The contract's gates, judged over the scorecard."""
    gates = contract.gates
    own = {gate.id: gate.answer(scorecard) for gate in gates}
    asked = [gate for gate in gates if not own[gate.id].not_applicable]
    if not asked:
        raise ParameterError(
            "a contract must judge something, no gate applies to this dataset; "
            "choose another contract"
        )
    rules = [rule for gate in asked for rule in _gate_rules(gate)]
    columns = ["metric", "subject", "value", "low", "high"]
    answers = session.run("release_gate", scorecard.to_frame()[columns], rules, docs=True)
    broken = _by_gate(rules, answers)
    answers_of = tuple(
        _agreed(own[gate.id], holds=not broken[gate.id]) if gate.id in broken else own[gate.id]
        for gate in gates
    )
    return contract.withheld(answers_of)


def _gate_rules(gate: Gate) -> Iterator[_Rule]:
    """Built-in expectations for one gate: one for each of its bounds.

    Min and max, never ``ExpectColumnValuesToBeBetween``: on no row, or on NaN only, that one is a
    success and these are a failure.
    """
    about = Cell("metric") == gate.metric
    if gate.subject != EVERY_SUBJECT:
        about = about & (Cell("subject") == gate.subject)
    settings = {
        "column": gate.on,
        "row_condition": about,
        "severity": gate.severity,
        "description": f"{gate.dimension.upper()}: {gate.metric}, {gate.bound}. {gate.why}",
        "meta": {"gate": gate.id, "dimension": gate.dimension, "metric": gate.metric},
    }
    if gate.max is not None:
        yield _Rule(gate.id, gxe.ExpectColumnMaxToBeBetween(max_value=gate.max, **settings))
    if gate.min is not None:
        yield _Rule(gate.id, gxe.ExpectColumnMinToBeBetween(min_value=gate.min, **settings))


def _agreed(own: GateResult, *, holds: bool) -> GateResult:
    """The contract's own answer where Great Expectations gives the same one.

    A gate with an unmeasured subject fails although the column's minimum or maximum may be good:
    it has no value, there the two may differ, and ``own.reason`` says why.
    """
    if own.passed != holds and own.value is not None:
        raise JudgementError(
            f"gate {own.gate} must be judged alike by the contract ({own.status}) and by Great "
            f"Expectations ({'passed' if holds else 'failed'}); report this as a bug"
        )
    return own


def _judge_structure(
    session: _Session, data: Data | None, schema: Schema, rows: int, name: str = "structure"
) -> tuple[GateResult, ...]:
    """The ordinary suite over a dataset, one answer a structure gate."""
    modality: Modality = "image" if isinstance(schema, ImageSchema) else "table"
    if data is None:
        return tuple(_structure(gate, ["no data"]) for gate in STRUCTURE_GATES[modality])
    broken: dict[str, list[str]] = {}
    for suffix, frame, rules in _structure_suites(data, schema, rows):
        broken |= _by_gate(rules, session.run(f"{name}{suffix}", frame, rules))
    return tuple(_structure(gate, broken.get(gate)) for gate in STRUCTURE_GATES[modality])


def _structure_suites(
    data: Data, schema: Schema, rows: int
) -> Iterator[tuple[str, pd.DataFrame, list[_Rule]]]:
    if isinstance(schema, ImageSchema):
        facts = image_facts(data) if isinstance(data, Images) else data
        yield "", facts, list(_image_rules(schema, rows))
    elif isinstance(data, pd.DataFrame):
        yield "", _comparable(data, schema), list(_table_rules(schema, rows))
        yield "_types", _dtypes(data, schema), list(_type_rules(schema))
    else:
        raise ParameterError("a table is judged as a DataFrame, got Images; give the frame")


def _table_rules(schema: TableSchema, rows: int) -> Iterator[_Rule]:
    names = list(schema.names)
    yield _Rule("structure-columns", gxe.ExpectTableColumnsToMatchOrderedList(column_list=names))
    yield _Rule("structure-rows", gxe.ExpectTableRowCountToEqual(value=rows))
    for column in schema.columns:
        yield from _column_rules(column)


def _column_rules(column: Column) -> Iterator[_Rule]:
    name = column.name
    if not column.nullable:
        yield _Rule("structure-nulls", gxe.ExpectColumnValuesToNotBeNull(column=name), name)
    if column.levels:
        domain = gxe.ExpectColumnValuesToBeInSet(column=name, value_set=list(column.levels))
        yield _Rule("structure-domain", domain, name)
    elif column.low is not None and column.high is not None:
        between = gxe.ExpectColumnValuesToBeBetween(
            column=name, min_value=column.low, max_value=column.high
        )
        yield _Rule("structure-domain", between, name)
    if column.kind == "id":
        yield _Rule("structure-ids", gxe.ExpectColumnValuesToBeUnique(column=name), name)


def _type_rules(schema: TableSchema) -> Iterator[_Rule]:
    """Over a frame of dtypes: Great Expectations' own check knows no extension dtypes."""
    for column in schema.columns:
        same = gxe.ExpectColumnValuesToBeInSet(column=column.name, value_set=[column.dtype])
        yield _Rule("structure-types", same, column.name)


def _image_rules(schema: ImageSchema, rows: int) -> Iterator[_Rule]:
    yield _Rule("structure-rows", gxe.ExpectTableRowCountToEqual(value=rows))
    shape = {"height": schema.height, "width": schema.width, "channels": schema.channels}
    for name, size in shape.items():
        same = gxe.ExpectColumnValuesToBeInSet(column=name, value_set=[size])
        yield _Rule("structure-shape", same, name)
    kind = gxe.ExpectColumnValuesToBeInSet(column="pixel_type", value_set=["uint8"])
    yield _Rule("structure-pixels", kind, "pixel_type")
    labels = list(range(len(schema.classes)))
    known = gxe.ExpectColumnValuesToBeInSet(column="label", value_set=labels)
    yield _Rule("structure-labels", known, "label")


def _comparable(frame: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """The frame with ranges as numbers and odd levels as text, as the schema declares them."""
    changed: dict[str, pd.Series] = {}
    for column in schema.columns:
        if column.name not in frame.columns:
            continue
        series = frame[column.name]
        ordered = pd.api.types.is_numeric_dtype(series) or series.dtype.kind == "M"
        if column.kind in ("numerical", "datetime") and ordered:
            changed[column.name] = pd.Series(to_numbers(series), index=series.index)
        elif column.levels and series.dtype == object:
            changed[column.name] = series.map(_plain, na_action="ignore")
    return frame.assign(**changed)


def _plain(value: object) -> object:
    return value if isinstance(value, str | bool | int | float | np.generic) else str(value)


def _dtypes(frame: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """One row with the dtype of each declared column, or ``absent``."""
    actual = {n: str(frame[n].dtype) if n in frame.columns else "absent" for n in schema.names}
    return pd.DataFrame([actual])


def _structure(gate: str, broken: list[str] | None) -> GateResult:
    """The answer of a structure gate; ``broken`` names what breaks it, None if nothing could."""
    status: Status = "not applicable" if broken is None else "failed" if broken else "passed"
    count = None if broken is None else float(len(broken))
    reasons = {
        "passed": "",
        "failed": f"broken by {', '.join(filter(None, broken or [])) or 'the table'}",
        "not applicable": "no column of that kind",
    }
    return GateResult(
        gate=gate,
        dimension="structure",
        metric=gate.replace("-", "_"),
        subject="all",
        severity="critical",
        status=status,
        value=count,
        low=count,
        high=count,
        reference=None,
        bound="0 rules broken",
        why=_RULES[gate],
        maximum=0.0,
        reason=reasons[status],
    )


def _by_gate(rules: Sequence[_Rule], answers: Sequence[bool]) -> dict[str, list[str]]:
    """The columns of the broken rules of each gate; an empty list where it holds."""
    broken: dict[str, list[str]] = {rule.gate: [] for rule in rules}
    for rule, held in zip(rules, answers, strict=True):
        if not held:
            broken[rule.gate].append(rule.column)
    return broken


def _in_order(answers: Sequence[Any], rules: Sequence[_Rule]) -> list[bool]:
    """The answers in the order of the rules; Great Expectations drops what it cannot load."""
    found = {a.expectation_config.meta.get("rule"): bool(a.success) for a in answers}
    if len(answers) != len(rules) or set(found) != set(range(len(rules))):
        asked = {rule.gate for rule in rules}
        raise JudgementError(
            f"Great Expectations must answer all {len(rules)} rules once, it answered "
            f"{len(answers)}, of the gates {', '.join(sorted(asked))}; report this as a bug"
        )
    return [found[number] for number in range(len(rules))]


def _config(configuration: Any, docs: bool) -> dict[str, Any]:  # noqa: ANN401 - GX untyped
    """An expectation as JSON; the domain of a dataset is withheld, the bounds of a gate are not."""
    raw: dict[str, Any] = configuration.to_json_dict()
    kwargs = {name: value for name, value in raw["kwargs"].items() if name != "batch_id"}
    if not docs:
        kwargs = {k: "withheld" if k in _WITHHELD else v for k, v in kwargs.items()}
    return {"type": raw["type"], "kwargs": kwargs, "meta": raw.get("meta", {})}


def _numbers(result: Mapping[str, Any]) -> dict[str, float | None]:
    """The scalars of a result as floats: NumPy types and lists of values stay out of JSON."""
    return {
        name: float(value)
        for name, value in result.items()
        if isinstance(value, int | float | np.number) and np.isfinite(value)
    }


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True, default=str)
    path.write_text(text, encoding="utf-8")


def _make_offline(site: Path) -> None:
    """Take out of Data Docs what loads from other hosts, and the 4 MB of fonts and films."""
    shutil.rmtree(site / "static", ignore_errors=True)
    style = f"<style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        text = re.sub(r"<script\b.*?</script>", "", text, flags=re.DOTALL | re.IGNORECASE)
        text = re.sub(r"<(link|img|iframe|form|source)\b[^>]*>", "", text, flags=re.IGNORECASE)
        text = re.sub(r"\b(src|srcset|onerror)\s*=\s*(\"[^\"]*\"|'[^']*')", "", text)
        text = re.sub(r"\burl\([^)]*\)", "none", text)
        text = re.sub(r"<footer\b.*?</footer>", "", text, flags=re.DOTALL | re.IGNORECASE)
        page.write_text(text.replace("</head>", style, 1), encoding="utf-8")


@contextmanager
def _quiet() -> Iterator[None]:
    """Great Expectations' own deprecation warnings are no news for its users."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield
