"""Canaries: a lower bound on ε from one training with records that were put in by fair coins.

Who put the records in knows which ones a generator has seen, so guesses about them can be counted:
a generator that is ε-differentially private lets nobody guess better than e^ε / (1 + e^ε). One
training is enough, since every canary is a coin of its own (Steinke, Nasr, Jagielski 2023, Privacy
Auditing with One (1) Training Run, arXiv:2305.08846, theorem 5.2 with δ = 0).

The canaries are records that would stand out: isolated real ones, and rows whose columns are drawn
independently of each other, so that no other row explains them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import special

from generators.base import DataError
from generators.schema import TableSchema
from validators.base import Score
from validators.binning import TableEncoding, encode
from validators.statistics import Estimate, clopper_pearson

from .neighbours import MixedPoints, Points, nearest

METRIC = "canary_epsilon"
MIN_CANARIES = 50
LIMIT = 1.0
"""Where a generator claims no ε, an ε that is proven beyond this is a finding."""
_NEIGHBOURS = 5
# Shares of the canaries that are guessed, the surest ones; for the rest there is no guess.
_GUESSED = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class CanaryAudit:
    """What guesses about the canaries prove.

    Attributes:
        canaries: how many there were.
        inserted: how many the coins put into the training rows.
        guesses: about how many a guess was made.
        correct: how many guesses were right.
        epsilon: log odds of a right guess; ``low`` is the lower bound on ε that holds with 95 %.
    """

    canaries: int
    inserted: int
    guesses: int
    correct: int
    epsilon: Estimate

    @property
    def score(self) -> Score:
        """The bound as a number of the scorecard; zero is what fresh real rows would give away."""
        return Score(
            metric=METRIC,
            dimension="privacy",
            value=self.epsilon.value,
            low=self.epsilon.low,
            high=self.epsilon.high,
            reference=0.0,
            unit="epsilon",
            n=self.canaries,
            minimum_detectable=_detectable(self.canaries),
        )


def plant(
    real: pd.DataFrame,
    unseen: pd.DataFrame,
    schema: TableSchema,
    count: int,
    rng: np.random.Generator,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """At most ``count`` canaries, and the unseen rows that remain to compare with.

    Half of them are the most isolated unseen rows; the other half are unseen rows with every
    modelled column replaced by a value of a random training row of its own.

    Args:
        real: the training rows.
        unseen: rows that the generator does not see; at most half of them become canaries.
        schema: describes both.
        count: of canaries.
        rng: of the choice.

    Raises:
        DataError: the unseen rows are too few, or no column is modelled.
    """
    wanted = min(count, len(unseen) // 2) // 2
    if not schema.modelled:
        raise DataError("an audit needs columns that are learned, there are ids and text only")
    if 2 * wanted < MIN_CANARIES:
        raise DataError(
            f"an audit needs at least {MIN_CANARIES} canaries, {len(unseen)} unseen rows give "
            f"{2 * wanted}; hold out more rows"
        )
    points = MixedPoints.of(encode(unseen, unseen, unseen[:0], schema).train)
    isolated, chosen, kept = pick_canaries(points, wanted, rng)
    mixed = unseen.iloc[chosen].reset_index(drop=True)
    for column in schema.modelled:
        rows = rng.integers(0, len(real), wanted)
        mixed[column.name] = real[column.name].iloc[rows].reset_index(drop=True)
    canaries = pd.concat([unseen.iloc[isolated], mixed], ignore_index=True)
    return canaries.astype(unseen.dtypes), unseen.iloc[kept].reset_index(drop=True)


def pick_canaries(
    points: Points, wanted: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the ``wanted`` most isolated points, of as many other ones, and of the rest."""
    # The nearest is the point itself.
    lonely = nearest(points, points, _NEIGHBOURS + 1)[:, 1:].mean(axis=1)
    order = np.argsort(-(lonely + 1e-9 * rng.random(len(lonely))), kind="stable")
    isolated, rest = order[:wanted], order[wanted:]
    chosen = rng.permutation(rest)[:wanted]
    kept = np.setdiff1d(np.arange(len(points)), np.concatenate([isolated, chosen]))
    return isolated, chosen, kept


def audit_canaries(
    synthetic: pd.DataFrame,
    canaries: pd.DataFrame,
    inserted: np.ndarray,
    unseen: pd.DataFrame,
    schema: TableSchema,
) -> CanaryAudit:
    """Guess from the synthetic table which canaries were trained on, and bound ε by the hits.

    A canary's score is its nearness to the synthetic rows, calibrated by how isolated it lies among
    unseen rows; the highest scores are guessed to be in, the lowest to be out.

    Args:
        synthetic: sampled from the model that was trained with the canaries.
        canaries: all of them.
        inserted: which ones were in the training rows, boolean (N,), by fair coins.
        unseen: real rows that were neither trained on nor canaries.
        schema: describes all.
    """
    table = encode(canaries, unseen, synthetic, schema)
    return bound_epsilon(_nearness(table), np.asarray(inserted, dtype=bool))


def bound_epsilon(scores: np.ndarray, inserted: np.ndarray, level: float = 0.95) -> CanaryAudit:
    """The best bound over some numbers of guesses, each at a level that lets all hold together.

    Args:
        scores: higher where a canary was more likely trained on, (N,).
        inserted: whether it was, boolean (N,).
        level: with which the lower bound holds.
    """
    order, count = np.argsort(-scores, kind="stable"), len(scores)
    error = (1 - level) / len(_GUESSED)
    found = []
    for share in _GUESSED:
        side = max(1, int(share * count / 2))
        correct = int(inserted[order[:side]].sum() + (~inserted[order[-side:]]).sum())
        epsilon = epsilon_bounds(correct, 2 * side, 1 - error)
        found.append(CanaryAudit(count, int(inserted.sum()), 2 * side, correct, epsilon))
    return max(found, key=lambda audit: (audit.epsilon.low, audit.guesses))


def epsilon_bounds(correct: int, guesses: int, level: float = 0.95) -> Estimate:
    """ε from ``correct`` of ``guesses``: the log odds, and one-sided bounds, each at ``level``.

    The low end is the largest ε for which so many hits would be too many: P[Bin(r, e^ε / (1 + e^ε))
    >= v] <= 1 - level. It is 0 where guessing was no better than a coin, and finite always.
    """
    share = clopper_pearson(correct, guesses, 1 - 2 * (1 - level))
    middle = (correct + 0.5) / (guesses + 1)
    # Where every guess was right no high end exists; half a miss keeps it finite.
    highest = min(share.high, 1 - 0.5 / (guesses + 1) * (1 - level))
    low, value, high = (
        max(0.0, float(special.logit(p))) for p in (max(share.low, 1e-12), middle, highest)
    )
    return Estimate(max(value, low), low, max(high, value, low))


def _detectable(canaries: int, level: float = 0.95, power: float = 0.8) -> float:
    """The ε whose right guesses about all canaries prove some ε above zero with that power."""
    z = special.ndtri(1 - (1 - level) / len(_GUESSED)) + special.ndtri(power)
    return float(special.logit(min(0.5 + z * 0.5 / np.sqrt(canaries), 1 - 0.5 / canaries)))


def _nearness(table: TableEncoding) -> np.ndarray:
    canaries, unseen, released = (
        MixedPoints.of(view) for view in (table.train, table.holdout, table.synthetic)
    )
    small = 1e-4
    near = nearest(canaries, released)[:, 0]
    usual = nearest(canaries, unseen, _NEIGHBOURS).mean(axis=1)
    nearness: np.ndarray = np.log(usual + small) - np.log(near + small)
    return nearness
