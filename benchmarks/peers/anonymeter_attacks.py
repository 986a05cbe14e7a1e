"""Anonymeter's attacks as a judge: ``python anonymeter_attacks.py FOLDER...``.

Singling out by one and by three columns, linkability of the two halves of the columns, inference
of every column from the others, each with its default of 500 attacks and the holdout as control.
Its own rule: the 95 % interval of a risk, which is the excess over the control, lies above zero.
"""

from __future__ import annotations

from anonymeter.evaluators import (
    InferenceEvaluator,
    LinkabilityEvaluator,
    SinglingOutEvaluator,
)
from anonymeter.stats.confidence import PrivacyRisk
from judging import Judgement, Sides, judge_all


def judge(dated: Sides) -> Judgement:
    """Risks of all attacks, as the tool reports them."""
    sides = dated.in_days()
    tables = {"ori": sides.train, "syn": sides.synthetic, "control": sides.holdout}
    names = list(sides.train)
    risks: dict[str, PrivacyRisk] = {}
    for mode in ("univariate", "multivariate"):
        attack = SinglingOutEvaluator(**tables, seed=0, max_attempts=100_000)
        risks[f"singling out, {mode}"] = attack.evaluate(mode=mode).risk()
    halves = (names[::2], names[1::2])
    link = LinkabilityEvaluator(**tables, aux_cols=halves).evaluate(n_jobs=1)
    risks["linkability"] = link.risk()
    for secret in names:
        known = [name for name in names if name != secret]
        number = secret in sides.numbers
        guess = InferenceEvaluator(**tables, aux_cols=known, secret=secret, regression=number)
        risks[f"inference of {secret}"] = guess.evaluate(n_jobs=1).risk()
    found = [name for name, risk in risks.items() if risk.ci[0] > 0]
    return Judgement({name: -risk.value for name, risk in risks.items()}, {"risk above 0": found})


if __name__ == "__main__":
    judge_all("anonymeter", "BSD-3-Clause-Clear, patent pending", judge)
