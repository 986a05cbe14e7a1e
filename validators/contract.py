"""The gates of a release, read from YAML: what is required of which number, and why.

The burden of proof is part of a gate. Fidelity, utility, diversity and bias fail only when they
are proven bad: such a gate bounds the favourable end of the 95 % interval. Privacy passes only
when it is proven good: such a gate bounds the unfavourable end, so that an audit with too few rows
to say anything cannot pass. Between proven good and proven bad an answer is inconclusive, and says
how many rows would tell. A number that is missing fails, whatever the dimension.

Some gates judge the yardstick and not the candidate (``precondition``): a holdout that is no fair
sample of what train is a sample of makes every comparison with it void, so nothing else is judged.

The owner of a dataset can set tighter bounds than a preset has, or waive a gate with a reason that
every reader of the report sees (``Adjustment``).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Hashable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from generators.base import Modality, ParameterError

from .base import Dimension, Score, Scorecard
from .verdict import STRUCTURE_GATES, GateResult, Severity, Status

FOLDER = Path(__file__).parent / "contracts"
EVERY_SUBJECT = "*"
NOT_APPLICABLE = "not applicable:"
"""A skipped score whose reason starts so asks for something that the dataset does not have, such
as a group comparison without protected columns. Its gate is listed, it neither passes nor fails."""

_RESERVED = {gate for gates in STRUCTURE_GATES.values() for gate in gates}
_ENDS = {"value": "value", "low": "low end", "high": "high end"}
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
Sentence = Annotated[str, Field(min_length=10)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Gate(_Strict):
    """One requirement on one metric.

    Attributes:
        id: its name in reports, checks and errors; unique in a contract.
        metric: the metric that it bounds.
        dimension: which of the report's questions it belongs to.
        subject: ``all``, one subject of the metric, or ``*`` for every one of them.
        on: which number is bounded: the estimate, or an end of its interval.
        min, max: the bounds, inclusive; at least one.
        severity: ``critical`` stops the release, ``warning`` is shown.
        modality: ``table``, ``image`` or ``any``.
        why: a sentence for people.
        precondition: judges the yardstick; where it fails, no other gate is judged.
        waiver: the owner's reason why a failure is shown and does not stop the release.
        declared: the preset's bound, where the owner has tightened it.
    """

    id: Name
    metric: Name
    dimension: Dimension
    subject: Annotated[str, Field(min_length=1)] = "all"
    on: Literal["value", "low", "high"] = "value"
    min: float | None = None
    max: float | None = None
    severity: Severity = "critical"
    modality: Literal["table", "image", "any"] = "any"
    why: Sentence
    precondition: bool = False
    waiver: str = ""
    declared: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError(f"gate {self.id} must have a bound; add min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"gate {self.id} must have min <= max; swap them")
        if self.id in _RESERVED or (self.dimension == "structure") != self.precondition:
            raise ValueError(
                f"gate {self.id}: structure is always judged, and of its gates a contract sets the "
                "preconditions alone; remove the gate"
            )
        if self.dimension == "privacy" and self.severity == "critical":
            self._check_proof()
        return self

    def _check_proof(self) -> None:
        wanted = "high" if self.min is None else "low" if self.max is None else None
        if wanted is None or self.on != wanted:
            raise ValueError(
                f"gate {self.id}: privacy passes only when proven good, so a critical gate bounds "
                "the unfavourable end; use on: high with max, or on: low with min"
            )

    @property
    def proof(self) -> bool:
        """Whether the gate bounds the unfavourable end: it holds only when proven good."""
        return self.on == ("high" if self.max is not None else "low")

    @property
    def bound(self) -> str:
        """The requirement in words, e.g. ``high end ≤ 0.55``."""
        end = _ENDS[self.on]
        if self.min is not None and self.max is not None:
            return f"{self.min:g} ≤ {end} ≤ {self.max:g}"
        return f"{end} ≤ {self.max:g}" if self.max is not None else f"{end} ≥ {self.min:g}"

    def scores(self, scorecard: Scorecard) -> tuple[Score, ...]:
        """The scores that the gate is about."""
        subject = None if self.subject == EVERY_SUBJECT else self.subject
        return scorecard.select(self.metric, subject)

    def bounded(self, score: Score) -> float | None:
        """The number of a score that the gate bounds."""
        number: float | None = getattr(score, self.on)
        return number

    def holds(self, score: Score) -> bool:
        """Whether a score is within the bounds; one without a number is not."""
        return self._excess(score) <= 0

    def status(self, score: Score) -> Status:
        """What the interval of a score says of the bounds; without a number they are broken."""
        within = self.holds(score)
        if self.on == "value" or score.value is None:
            return "passed" if within else "failed"
        other = self.model_copy(update={"on": "low" if self.on == "high" else "high"}).holds(score)
        if within and other:
            return "passed"
        # The favourable end beyond the bound proves the candidate bad, whoever has to prove.
        favourable = other if self.proof else within
        return "inconclusive" if favourable else "failed"

    def answer(self, scorecard: Scorecard) -> GateResult:
        """What the gate says about the scores, the worst of them where there are several."""
        scores = self.scores(scorecard)
        relevant = [score for score in scores if not _not_applicable(score)]
        unmeasured = [score for score in relevant if self.bounded(score) is None]
        if not scores:
            return self._result(None, "failed", f"the metric was not measured for {self.subject}")
        if not relevant:
            return self._result(scores[0], "not applicable", scores[0].skipped or "")
        if unmeasured:
            return self._result(unmeasured[0], "failed", f"skipped: {unmeasured[0].skipped}")
        order = ("passed", "inconclusive", "failed")
        worst = max(relevant, key=lambda one: (order.index(self.status(one)), self._excess(one)))
        status = self.status(worst)
        return self._result(worst, status, self._open(worst) if status == "inconclusive" else "")

    def _open(self, score: Score) -> str:
        """How many rows would tell: half the interval shrinks with the root of their number."""
        value, low, high = score.value or 0.0, score.low or 0.0, score.high or 0.0
        bounds = [bound for bound in (self.min, self.max) if bound is not None]
        bound = min(bounds, key=lambda one: abs(one - value))
        room = abs(bound - value)
        half = high - value if bound > value else value - low
        said = "the interval reaches across the bound: too few rows to tell"
        if not score.n or room <= 0 or half / room > 100:
            return said
        needed = score.n * (half / room) ** 2
        digits = 1 - math.floor(math.log10(needed))
        return f"{said}, about {int(round(needed, digits)):,} would (n = {score.n:,})"

    def _excess(self, score: Score) -> float:
        number = self.bounded(score)
        if number is None:
            return float("inf")
        over = number - self.max if self.max is not None else float("-inf")
        under = self.min - number if self.min is not None else float("-inf")
        return max(over, under)

    def _result(self, score: Score | None, status: Status, said: str) -> GateResult:
        return GateResult(
            gate=self.id,
            dimension=self.dimension,
            metric=self.metric,
            subject=score.subject if score else self.subject,
            severity=self.severity,
            status=status,
            value=score.value if score else None,
            low=score.low if score else None,
            high=score.high if score else None,
            reference=score.reference if score else None,
            bound=self.bound,
            why=self.why,
            minimum=self.min,
            maximum=self.max,
            reason=said,
            proof=self.proof,
            n=score.n if score else None,
            minimum_detectable=score.minimum_detectable if score else None,
            waiver=self.waiver,
            declared=self.declared,
        )


class Adjustment(_Strict):
    """What a dataset's owner changes of one gate: tighter, or waived with a reason.

    Attributes:
        min, max: bounds that are at least as tight as the contract's.
        severity: ``critical`` where the contract only warns.
        waive: why a failure is acceptable for this dataset: shown on the report, beside the
            failure. The gate is still judged.
    """

    min: float | None = None
    max: float | None = None
    severity: Literal["critical"] | None = None
    waive: Annotated[str, Field(min_length=20, max_length=500)] | None = None

    def of(self, gate: Gate) -> Gate:
        """The gate with this change.

        Raises:
            ParameterError: the change loosens the gate without a reason, or waives a precondition.
        """
        if self.waive is not None:
            if gate.precondition:
                raise ParameterError(
                    f"gate {gate.id} judges the yardstick of all others, so it cannot be waived; "
                    "split the data anew"
                )
            if (self.min, self.max, self.severity) != (None, None, None):
                raise ParameterError(f"gate {gate.id} can be tightened or waived, not both at once")
            return gate.model_copy(update={"severity": "warning", "waiver": self.waive})
        changes = self.model_dump(exclude_none=True)
        loosened = [
            name
            for name, tighter in (("max", -1), ("min", 1))
            if (new := changes.get(name)) is not None
            and ((old := getattr(gate, name)) is None or tighter * (new - old) < 0)
        ]
        if loosened:
            raise ParameterError(
                f"a dataset can only tighten gate {gate.id} ({gate.bound}), its "
                f"{' and '.join(loosened)} would loosen it; to accept a failure, give waive: a "
                "reason"
            )
        if not changes:
            raise ParameterError(f"gate {gate.id} must be tightened or waived, nothing is changed")
        return Gate.model_validate({**gate.model_dump(), **changes, "declared": gate.bound})


class Contract(_Strict):
    """The gates of a release.

    Attributes:
        name: stored with every release.
        description: for whom the contract is meant.
        waivers: whether the owner of a dataset may waive a gate.
        gates: at least one; ids are unique.
    """

    name: Name
    description: str = ""
    waivers: bool = True
    gates: Annotated[tuple[Gate, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [gate.id for gate in self.gates]
        twice = sorted({name for name in ids if ids.count(name) > 1})
        if twice:
            raise ValueError(f"gate ids must be unique, {', '.join(twice)} occur twice; rename one")
        return self

    def for_modality(self, modality: Modality) -> Contract:
        """The contract with the gates of one modality; its digest differs from the whole one's.

        Raises:
            ParameterError: no gate is left; an empty contract would pass everything.
        """
        gates = tuple(gate for gate in self.gates if gate.modality in (modality, "any"))
        if not gates:
            raise ParameterError(
                f"a contract must have a gate, {self.name} has none for modality {modality}; "
                "add gates or choose another contract"
            )
        return self.model_copy(update={"gates": gates})

    def answers(self, scorecard: Scorecard) -> tuple[GateResult, ...]:
        """The answer of every gate, in their order.

        Where a precondition fails the others are not judged: what they compare with is no fair
        sample of the source.
        """
        answers = tuple(gate.answer(scorecard) for gate in self.gates)
        return self.withheld(answers)

    def withheld(self, answers: tuple[GateResult, ...]) -> tuple[GateResult, ...]:
        """The answers without those that a failed precondition makes void."""
        first = {gate.id for gate in self.gates if gate.precondition}
        broken = [answer.gate for answer in answers if answer.gate in first and answer.blocks]
        if not broken:
            return answers
        reason = f"not judged: {' and '.join(broken)} failed, so the holdout is no fair yardstick"
        return tuple(
            answer
            if answer.gate in first
            else replace(answer, status="not applicable", reason=reason)
            for answer in answers
        )

    def adjusted(self, changes: Mapping[str, Adjustment]) -> Contract:
        """The contract as the owner of a dataset wants it; its digest differs from the preset's.

        Raises:
            ParameterError: a gate is not there, would be loosened, or may not be waived.
        """
        if not changes:
            return self
        for name in changes:
            self._require_gate(name)
        waived = [name for name, change in changes.items() if change.waive is not None]
        if waived and not self.waivers:
            raise ParameterError(
                f"contract {self.name} allows no waiver, {', '.join(waived)} would be waived; "
                "choose another contract"
            )
        gates = tuple(changes[g.id].of(g) if g.id in changes else g for g in self.gates)
        return self.model_copy(update={"gates": gates})

    def _require_gate(self, name: str) -> None:
        ids = [gate.id for gate in self.gates]
        if name not in ids:
            near = difflib.get_close_matches(name, ids, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; they are {', '.join(ids)}"
            raise ParameterError(f"contract {self.name} must have the gate {name!r}{hint}")

    @property
    def digest(self) -> str:
        """SHA-256 of the contract's content: any change of a bound or a word changes it."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(content, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


def load_contract(name_or_path: str | Path) -> Contract:
    """The contract of that name in ``validators/contracts``, or in that YAML file.

    Raises:
        ParameterError: there is no such contract, or its YAML is not one.
    """
    path = _find(name_or_path)
    try:
        raw = _Loader(path.read_text(encoding="utf-8")).get_single_data()
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"contract {path} must be readable YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ParameterError(f"contract {path} must be a mapping with name and gates")
    try:
        return Contract.model_validate(raw)
    except ValidationError as error:
        raise ParameterError(f"contract {path}: {_explain(error, raw)}") from error


def contract_names() -> tuple[str, ...]:
    """The names of the contracts that come with Likeness."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def _find(name_or_path: str | Path) -> Path:
    if str(name_or_path) in contract_names():
        return FOLDER / f"{name_or_path}.yaml"
    path = Path(name_or_path)
    if path.is_file():
        return path
    near = difflib.get_close_matches(str(name_or_path), contract_names(), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; check the path"
    raise ParameterError(
        f"the contract must be one of {', '.join(contract_names())} or a YAML file, "
        f"got {str(name_or_path)!r}{hint}"
    )


def _not_applicable(score: Score) -> bool:
    return score.skipped is not None and score.skipped.startswith(NOT_APPLICABLE)


def _explain(error: ValidationError, raw: dict[Any, Any]) -> str:
    parts = []
    for problem in error.errors():
        place = ".".join(str(step) for step in problem["loc"]) or "contract"
        known: dict[str, Any] = dict(Gate.model_fields if "." in place else Contract.model_fields)
        near = difflib.get_close_matches(place.rpartition(".")[2], known, n=1)
        unknown = problem["type"] == "extra_forbidden"
        hint = f"; did you mean {near[0]!r}?" if unknown and near else ""
        what = f"unknown key, known are {', '.join(known)}" if unknown else problem["msg"]
        parts.append(f"{_gate_name(problem['loc'], raw)}{place}: {what}{hint}")
    return " | ".join(parts)


def _gate_name(place: tuple[int | str, ...], raw: dict[Any, Any]) -> str:
    """The id of the gate that a problem is about, which people find faster than its number."""
    if len(place) < 2 or place[0] != "gates" or not isinstance(place[1], int):
        return ""
    gate = raw["gates"][place[1]]
    return f"gate {gate['id']}: " if isinstance(gate, dict) and "id" in gate else ""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``on`` is a word, as in YAML 1.2, and no key may occur twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A dictionary; a key that occurs twice is an error, not a silent replacement."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} must occur once", node.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith(":bool")]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
