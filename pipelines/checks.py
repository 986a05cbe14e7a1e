"""The asset checks of a dataset: the verdict's gates, one check for each dimension.

They block ``published`` within their run. They are the display; the lock is in ``steps.publish``,
which believes no check.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from validators.base import DIMENSIONS
from validators.verdict import GateResult
from validators.wording import tally_of

from .assets import asset_key, identifier
from .home import Home
from .reporting import short_failures
from .spec import DatasetSpec

QUESTIONS = {
    "structure": "Is it the same table: columns, types, domain, number of rows?",
    "fidelity": "Is it distributed like the real data?",
    "utility": "Is a model that is trained on it as good on real data?",
    "diversity": "Does it cover the real data, rare parts too?",
    "privacy": "Does it keep the people behind the real data hidden?",
    "bias": "Are groups as alike, or as different, as in the real data?",
}


def build_checks(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Six blocking checks on the scorecard, answered together."""
    specs = [
        dg.AssetCheckSpec(
            dimension,
            asset=asset_key(spec, "scorecard"),
            blocking=True,
            description=QUESTIONS[dimension],
        )
        for dimension in DIMENSIONS
    ]

    @dg.multi_asset_check(name=f"{identifier(spec.name)}_gates", specs=specs, can_subset=True)
    def gates(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        from . import metadata, steps

        with short_failures():
            release = steps.prepare(spec, Home.from_environment())
            verdict = steps.decide(release)
        for key in sorted(context.selected_asset_check_keys):
            answers = verdict.of(key.name)
            yield _result(key, answers, metadata.of_gates(release, answers))

    return gates


def build_drift_check(spec: DatasetSpec) -> dg.AssetChecksDefinition:
    """Whether the newest real data are still what the published model has learned from.

    It reads the source, so a job of its own runs it; a failure asks for a release, see
    ``automation.build_retrain_sensor``.
    """

    @dg.asset_check(
        asset=asset_key(spec, "published"),
        name="drift",
        description="Are the newest real data still what the published model has learned from?",
    )
    def drift() -> dg.AssetCheckResult:
        from . import metadata
        from .revalidate import revalidate

        with short_failures():
            return metadata.of_revalidation(revalidate(spec, Home.from_environment()))

    return drift


def _result(
    key: dg.AssetCheckKey, answers: tuple[GateResult, ...], metadata: dict[str, Any]
) -> dg.AssetCheckResult:
    failed = [answer for answer in answers if answer.failed]
    blocks = any(answer.blocks for answer in failed)
    return dg.AssetCheckResult(
        asset_key=key.asset_key,
        check_name=key.name,
        passed=not failed,
        severity=dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN,
        description=_sentence(answers),
        metadata=metadata,
    )


def _sentence(answers: tuple[GateResult, ...]) -> str:
    failed = ", ".join(answer.gate for answer in answers if answer.failed)
    return f"{tally_of(answers)}; not held: {failed}" if failed else tally_of(answers)
