"""What a contract decided about one candidate: readable, and checkable, without Great Expectations.

A verdict is bound to the digests of the candidate, of the contract and of the scorecard. Whoever
publishes calls ``Verdict.require_passed``: it believes no ``passed`` flag, it does the sums again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from generators.base import LikenessError, Modality

from .base import DIMENSIONS, Scorecard

if TYPE_CHECKING:
    from .contract import Contract

Status = Literal["passed", "failed", "inconclusive", "not applicable"]
"""What the 95 % interval says of a bound: within it, beyond it, or across it."""
Severity = Literal["critical", "warning"]

STRUCTURE_GATES: dict[Modality, tuple[str, ...]] = {
    "table": (
        "structure-columns",
        "structure-rows",
        "structure-types",
        "structure-nulls",
        "structure-domain",
        "structure-ids",
    ),
    "image": ("structure-rows", "structure-shape", "structure-pixels", "structure-labels"),
}
"""The gates that the ordinary suite over the candidate must answer, whatever the contract says."""


class QuarantinedError(LikenessError):
    """The candidate may not be published: a gate failed, or the verdict is not about it."""


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """The answer to one gate.

    Attributes:
        gate: the gate's id.
        dimension: which of the report's questions it belongs to.
        metric: what was measured.
        subject: about what; of a gate on every subject, the worst one.
        severity: a failed ``critical`` gate stops the release, a failed ``warning`` is shown.
        status: ``passed`` or ``failed`` where the interval lies within the bound or beyond it,
            ``inconclusive`` where it reaches across, ``not applicable`` where nothing is asked.
        value, low, high: the estimate and its 95 % interval; None where there is no number.
        reference: the same measure between real train and real holdout, where it exists.
        bound: the requirement in words.
        why: why the gate exists.
        minimum, maximum: the bounds as numbers.
        reason: what there is to say about this answer, e.g. why a number is missing.
        proof: whether the gate holds only when it is proven good, as privacy is; the others fail
            only when they are proven bad.
        n: rows (images) that entered the number.
        minimum_detectable: the smallest deviation that so many rows would show.
        waiver: why the dataset's owner lets a failure be shown instead of stopping the release.
        declared: the bound of the preset, where the owner has set a tighter one.
    """

    gate: str
    dimension: str
    metric: str
    subject: str
    severity: Severity
    status: Status
    value: float | None
    low: float | None
    high: float | None
    reference: float | None
    bound: str
    why: str
    minimum: float | None = None
    maximum: float | None = None
    reason: str = ""
    proof: bool = False
    n: int | None = None
    minimum_detectable: float | None = None
    waiver: str = ""
    declared: str = ""

    @property
    def passed(self) -> bool:
        """Whether the gate holds: an open question holds where no proof is asked for."""
        return self.status == "passed" or (self.inconclusive and not self.proof)

    @property
    def inconclusive(self) -> bool:
        """Whether the rows are too few to tell."""
        return self.status == "inconclusive"

    @property
    def not_applicable(self) -> bool:
        """Whether the gate asks for something that this dataset does not have."""
        return self.status == "not applicable"

    @property
    def failed(self) -> bool:
        """Whether the gate does not hold: proven bad, or not proven good where that is asked."""
        return self.status == "failed" or (self.inconclusive and self.proof)

    @property
    def blocks(self) -> bool:
        """Whether this answer stops the release."""
        return self.failed and self.severity == "critical"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All answers about one candidate, and what they are bound to.

    Attributes:
        contract: name of the contract.
        contract_digest: its digest.
        candidate_digest: content digest of the synthetic data that was judged.
        scorecard_digest: digest of the scores that were judged.
        modality: ``table`` or ``image``: decides which gates of the contract apply.
        generated: when, ISO 8601 in UTC.
        gates: the answers, structure first.
    """

    contract: str
    contract_digest: str
    candidate_digest: str
    scorecard_digest: str
    modality: Modality
    generated: str
    gates: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the candidate may be published: there are gates, and none of them blocks."""
        return bool(self.gates) and not self.blocking

    @property
    def blocking(self) -> tuple[GateResult, ...]:
        """The failed critical gates."""
        return tuple(gate for gate in self.gates if gate.blocks)

    @property
    def warnings(self) -> tuple[GateResult, ...]:
        """The failed gates that do not stop the release."""
        return tuple(gate for gate in self.gates if gate.failed and not gate.blocks)

    @property
    def open(self) -> tuple[GateResult, ...]:
        """The gates that these rows are too few to answer; those of privacy block."""
        return tuple(gate for gate in self.gates if gate.inconclusive)

    @property
    def waived(self) -> tuple[GateResult, ...]:
        """The gates that the owner of the data has waived, each with the reason."""
        return tuple(gate for gate in self.gates if gate.waiver)

    def of(self, dimension: str) -> tuple[GateResult, ...]:
        """The gates of one dimension."""
        return tuple(gate for gate in self.gates if gate.dimension == dimension)

    def by_dimension(self) -> dict[str, tuple[GateResult, ...]]:
        """The gates of every dimension, in the order of the report."""
        return {dimension: self.of(dimension) for dimension in DIMENSIONS}

    def require_passed(
        self, candidate_digest: str, contract: Contract, scorecard: Scorecard
    ) -> None:
        """Return only if this verdict clears this candidate.

        The answers are compared with the scores once more, so that neither an edited file nor a
        gate that was left out can open the lock.

        Raises:
            QuarantinedError: the verdict is about something else, a required gate is absent or
                contradicts the scores, or a critical gate failed.
        """
        self._require_bound(candidate_digest, contract, scorecard)
        required = contract.for_modality(self.modality)
        self._require_complete({*STRUCTURE_GATES[self.modality], *(g.id for g in required.gates)})
        answers = {answer.gate: answer for answer in self.gates}
        for own in required.answers(scorecard):
            answer = answers[own.gate]
            said = (answer.status, answer.severity, answer.proof)
            if said != (own.status, own.severity, own.proof):
                raise QuarantinedError(
                    f"gate {own.gate} must say what the scores say ({own.status}, {own.severity}), "
                    f"it says {answer.status}, {answer.severity}; judge the candidate again"
                )
        self._require_structure(answers)
        if self.blocking:
            names = ", ".join(gate.gate for gate in self.blocking)
            raise QuarantinedError(
                f"every critical gate of contract {self.contract} must hold, "
                f"{len(self.blocking)} failed: {names}; see the report, then retrain or change "
                "the request"
            )

    def to_json(self) -> str:
        """JSON text; ``from_json`` is the inverse."""
        raw = {"format": 1, "passed": self.passed, **dataclasses.asdict(self)}
        return json.dumps(raw, ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """The verdict that ``to_json`` wrote.

        Raises:
            QuarantinedError: the text is no verdict, or contradicts itself.
        """
        try:
            raw: dict[str, Any] = json.loads(text)
            version, flag = raw.pop("format"), raw.pop("passed")
            gates = tuple(GateResult(**gate) for gate in raw.pop("gates"))
            verdict = cls(**raw, gates=gates)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise QuarantinedError(
                f"a verdict must be the JSON that judge wrote, it is not "
                f"({type(error).__name__}); judge the candidate again"
            ) from error
        if version != 1 or flag != verdict.passed:
            raise QuarantinedError(
                f"a verdict must be of format 1 and agree with its gates, this one is of format "
                f"{version} and says passed={flag}; judge the candidate again"
            )
        return verdict

    def _require_bound(
        self, candidate_digest: str, contract: Contract, scorecard: Scorecard
    ) -> None:
        bound = {
            "candidate": (self.candidate_digest, candidate_digest),
            "contract": (self.contract_digest, contract.digest),
            "scorecard": (self.scorecard_digest, scorecard_digest(scorecard)),
        }
        for what, (said, actual) in bound.items():
            if said != actual:
                raise QuarantinedError(
                    f"the verdict must be about this {what} ({actual[:12]}…), it is about "
                    f"{said[:12]}…; judge the candidate again"
                )

    def _require_complete(self, required: set[str]) -> None:
        names = [gate.gate for gate in self.gates]
        if set(names) != required or len(names) != len(required):
            missing = sorted(required - set(names))
            extra = sorted(set(names) - required)
            raise QuarantinedError(
                "a verdict must answer each gate of the contract once; "
                f"missing {missing or 'none'}, unknown {extra or 'none'}; "
                "judge the candidate again"
            )

    def _require_structure(self, answers: dict[str, GateResult]) -> None:
        weak = [i for i in STRUCTURE_GATES[self.modality] if answers[i].severity != "critical"]
        if weak:
            raise QuarantinedError(f"structure gates must be critical, {weak} are not; judge again")


def scorecard_digest(scorecard: Scorecard) -> str:
    """SHA-256 of a scorecard's JSON."""
    return hashlib.sha256(scorecard.to_json().encode()).hexdigest()
