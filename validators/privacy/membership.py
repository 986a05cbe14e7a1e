"""Membership inference: can an attacker tell who was in the training data?

The attacker holds the synthetic data and a reference sample of the same population: half of the
holdout, split by subject. A battery of attacks scores training rows (members) and the other half
of the holdout (non-members); then the halves change roles, with other members. No attack
dominates, so the best counts (Synth-MIA, arXiv:2509.18014). Which one is best is decided on other
records than those on which it is scored, else the maximum of several null attacks would read as a
leak.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from validators.base import Score, skipped
from validators.bias import Bias
from validators.binning import TableView
from validators.comparison import Comparison, one_each
from validators.statistics import (
    Estimate,
    auc_with_interval,
    bonferroni,
    clopper_pearson,
    minimum_detectable_auc,
    minimum_detectable_difference,
)

from .copies import nothing_to_compare, pick_rows
from .neighbours import MixedPoints, Points, nearest, nearest_rows

FALSE_POSITIVE_RATE = 0.01
MIN_NON_MEMBERS = 40
_NEIGHBOURS = 5
_POOL = 20
_LOCAL = 3
_MISSING = -1e6
_SURE = 0.999
# Correlation of two cross-fitted halves where nothing leaks: each half's chance picks the attack
# that the other half is scored with. Computed for k independent attacks it is 0.32, 0.36, 0.35,
# 0.32 for k = 2, 3, 4, 6, and less for attacks that resemble each other.
_FOLD_CORRELATION = 0.36
_METRICS = (
    "membership_auc",
    "membership_tpr_at_fpr1",
    "membership_auc_isolated",
    "membership_auc_group_worst",
)


@dataclass(frozen=True)
class Attacks:
    """What every attack says of every record; higher means more likely a member.

    Attributes:
        members: shape (attacks, N).
        others: non-members, shape (attacks, M).
    """

    members: np.ndarray
    others: np.ndarray

    def take(self, members: np.ndarray, others: np.ndarray) -> Attacks:
        """The same attacks on a subset of the records."""
        return Attacks(self.members[:, members], self.others[:, others])

    def best(self) -> tuple[int, float]:
        """The attack whose AUC is farthest from one half, and its sign.

        The sign matters: a guard that removes near-copies makes absence a signal. An attack is
        turned round only where it is surely below one half, since a coin's sign is not a finding.
        """
        found = [
            auc_with_interval(member, other, _SURE)
            for member, other in zip(self.members, self.others, strict=True)
        ]
        strength = [
            max(area.value - 0.5, 0.5 - area.value if area.high < 0.5 else -0.5) for area in found
        ]
        attack = int(np.argmax(strength))
        turned = found[attack].high < 0.5 and strength[attack] > found[attack].value - 0.5
        return attack, -1.0 if turned else 1.0


@dataclass(frozen=True, kw_only=True)
class Membership:
    """Membership inference against a table.

    Attributes:
        records: members and non-members each, at most.
        pairs: distances that may be computed; fewer records are attacked where the synthetic
            table is so long that this would be exceeded. The table itself is never subsampled.
        isolated: share of the most isolated records.
        min_isolated: members and non-members each among them, at least.
        max_isolated: the share beyond which records are no longer called isolated.
    """

    records: int = 4_000
    pairs: float = 1e9
    isolated: float = 0.02
    min_isolated: int = 50
    max_isolated: float = 0.10

    name: ClassVar[str] = "membership"
    modality: ClassVar[Literal["table"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """The attacks on all records, on the isolated ones, and on each protected group."""
        rng = comparison.rng(self.name)
        table = comparison.table
        if (nothing := nothing_to_compare(table)) is not None:
            return [skipped(metric, "privacy", nothing) for metric in _METRICS]
        limit = min(self.records, max(1_000, int(self.pairs / 2 / max(len(table.synthetic), 1))))
        numbers = self._roles(comparison, limit, rng)
        roles = [
            (table.holdout.take(known), table.train.take(in_train), table.holdout.take(unseen))
            for known, in_train, unseen in numbers
        ]
        member_rows, other_rows = (
            np.concatenate([role[part] for role in numbers]) for part in (1, 2)
        )
        members, others = (sum(len(role[part]) for role in roles) for part in (1, 2))
        if min(members, others) < MIN_NON_MEMBERS:
            reason = (
                f"needs at least {MIN_NON_MEMBERS} members and non-members, got "
                f"{members} and {others}; hold out more rows"
            )
            return [skipped(metric, "privacy", reason) for metric in _METRICS]
        found = [
            table_attacks(table.synthetic, *role, comparison.seed_for(self.name)) for role in roles
        ]
        attacks, isolation = (join([role[part] for role in found]) for part in (0, 1))
        isolated = self._isolated(isolation, rng, attacks)
        whole = [auc_score(attacks, rng), tpr_score(attacks, rng), isolated]
        return [*whole, *self._groups(comparison, attacks, (member_rows, other_rows))]

    def _groups(
        self, comparison: Comparison, attacks: Attacks, rows: tuple[np.ndarray, np.ndarray]
    ) -> list[Score]:
        """The battery on each protected group, and the worst with simultaneous intervals."""
        metric, worst = "membership_auc_group", _METRICS[-1]
        if not comparison.frames()[3].protected:
            return [skipped(worst, "privacy", "not applicable: no protected column declared")]
        scores, sure, assessed = [], [], []
        for group in Bias().groups(comparison):
            if len(group.columns) > 1:
                continue
            chosen = attacks.take(
                np.flatnonzero(group.train[rows[0]]), np.flatnonzero(group.holdout[rows[1]])
            )
            if min(chosen.members.shape[1], chosen.others.shape[1]) < self.min_isolated:
                reason = f"not assessable: fewer than {self.min_isolated} members or non-members"
                scores.append(skipped(metric, "privacy", reason, group.subject))
            else:
                assessed.append((group.subject, chosen))
        level = bonferroni(0.95, len(assessed))
        for subject, chosen in assessed:
            seed = f"{self.name}/{subject}"
            single = auc_score(chosen, comparison.rng(seed), metric)
            scores.append(replace(single, subject=subject))
            sure.append(auc_score(chosen, comparison.rng(seed), worst, level))
        if not sure:
            reason = f"no group has {self.min_isolated} members and non-members"
            return [*scores, skipped(worst, "privacy", reason)]
        largest = max(sure, key=lambda score: score.value or 0.0)
        low, high = (max(ends) for ends in zip(*((s.low, s.high) for s in sure), strict=True))
        return [*scores, replace(largest, low=low, high=high)]

    def _roles(
        self, comparison: Comparison, limit: int, rng: np.random.Generator
    ) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Rows of reference, members and non-members, twice; no subject is twice in a role."""
        train, holdout, _, _ = comparison.frames()
        learned = one_each(comparison.subjects(train), rng)[:limit]
        subjects = comparison.subjects(holdout)
        side = (rng.permutation(int(subjects.max(initial=-1)) + 1) % 2)[subjects]
        roles = []
        for role in (0, 1):
            known, unknown = np.flatnonzero(side == role), np.flatnonzero(side != role)
            others = unknown[one_each(subjects[unknown], rng)][: limit // 2]
            roles.append((known, learned[role::2], others))
        return roles

    def _isolated(self, isolation: Attacks, rng: np.random.Generator, attacks: Attacks) -> Score:
        metric = "membership_auc_isolated"
        smaller = min(attacks.members.shape[1], attacks.others.shape[1])
        share = max(self.isolated, self.min_isolated / smaller)
        if share > self.max_isolated:
            needed = int(np.ceil(self.min_isolated / self.max_isolated))
            return skipped(
                metric,
                "privacy",
                f"needs {needed} members and non-members to hold {self.min_isolated} isolated "
                f"ones, got {smaller}; hold out more rows",
            )
        cut = np.quantile(np.concatenate([isolation.members[0], isolation.others[0]]), 1 - share)
        chosen = attacks.take(
            np.flatnonzero(isolation.members[0] >= cut), np.flatnonzero(isolation.others[0] >= cut)
        )
        if min(chosen.members.shape[1], chosen.others.shape[1]) < self.min_isolated // 2:
            return skipped(metric, "privacy", "too few records are isolated; hold out more rows")
        return auc_score(chosen, rng, metric)


def join(parts: Sequence[Attacks]) -> Attacks:
    """The records of all parts; every part must have the same share of members."""
    return Attacks(
        np.hstack([part.members for part in parts]), np.hstack([part.others for part in parts])
    )


def table_attacks(
    synthetic: TableView, reference: TableView, members: TableView, others: TableView, seed: int
) -> tuple[Attacks, Attacks]:
    """The battery on a table, and how isolated each record lies.

    Distance to the nearest synthetic row (Chen et al. 2020, GAN-Leaks, arXiv:1909.03935), the same
    calibrated by the distance to reference rows, three attacks on how synthetic and reference rows
    mix around the record (``neighbour_scores``), and a boosted classifier of synthetic against
    reference rows, whose odds are the density ratio (LOGAN, Hayes et al. 2019; DOMIAS, van Breugel
    et al. 2023, arXiv:2302.12580). Isolation is the mean distance to the nearest reference rows
    (Meeus et al. 2023, arXiv:2306.10308); members take no part in it.
    """
    released, known = MixedPoints.of(synthetic), MixedPoints.of(reference)
    model = _density_ratio(synthetic, reference, seed)
    scores, isolation = [], []
    rng = np.random.default_rng(seed)
    equal = released.take(pick_rows(len(released), len(known), rng))
    for view in (members, others):
        queries = MixedPoints.of(view)
        distances, lonely = distance_scores(queries, released, known)
        local = neighbour_scores(queries, equal, known)
        scores.append(np.vstack([distances, local, model.decision_function(_features(view))]))
        isolation.append(lonely[None, :])
    return Attacks(scores[0], scores[1]), Attacks(isolation[0], isolation[1])


def distance_scores(
    queries: Points, released: Points, known: Points
) -> tuple[np.ndarray, np.ndarray]:
    """Three distance attacks, shape (3, N), and the isolation of each record, shape (N,)."""
    near = nearest(queries, released)[:, 0]
    usual = nearest(queries, known, _NEIGHBOURS)
    isolation = usual.mean(axis=1)
    # Copies lie at distance 0: a small constant keeps the logarithm finite and nothing tied to it.
    small = 1e-4
    closeness = -np.log(near + small)
    scores = np.stack(
        [closeness, closeness + np.log(usual[:, 0] + small), closeness + np.log(isolation + small)]
    )
    return scores, isolation


def neighbour_scores(queries: Points, released: Points, known: Points) -> np.ndarray:
    """Three attacks on how synthetic and reference rows mix around a record, shape (3, N).

    Args:
        queries: the records.
        released: synthetic rows, as many as ``known``, so that neither side is nearer by number.
        known: reference rows.

    Returns:
        the ratio of kNN densities, which DOMIAS is with neighbours; the share of synthetic rows
        among the nearest of both (Data Plagiarism Index, Ward et al. 2024, arXiv:2406.13012);
        and how much better the nearest synthetic rows are explained by the reference when the
        record is added to it (Gen-LRA, Ward et al. 2025, arXiv:2508.21146), with a Laplace kernel
        of the local width of the reference.
    """
    near, usual = nearest(queries, released, _POOL), nearest(queries, known, _POOL)
    small = 1e-4
    ratio = np.log(usual[:, :_NEIGHBOURS].mean(axis=1) + small) - np.log(
        near[:, :_NEIGHBOURS].mean(axis=1) + small
    )
    # Ties count half: of equally near rows of both sides half are synthetic.
    cut = np.sort(np.hstack([near, usual]), axis=1)[:, _POOL - 1, None]
    within = (near < cut).sum(axis=1) + (near <= cut).sum(axis=1)
    of_known = (usual < cut).sum(axis=1) + (usual <= cut).sum(axis=1)
    plagiarism = within / np.maximum(within + of_known, 1)
    rows = nearest_rows(queries, released, min(_LOCAL, len(released))).reshape(len(queries), -1)
    chosen, place = np.unique(rows, return_inverse=True)
    width = nearest(released.take(chosen), known, _NEIGHBOURS)[:, -1] + small
    # The nearest rows come in no order, their distances do: the likeliest pairing is by width.
    widths = np.sort(width[place.reshape(rows.shape)], axis=1)
    likelihood = np.log1p(np.exp(-near[:, : rows.shape[1]] / widths)).sum(axis=1)
    return np.stack([ratio, plagiarism, likelihood])


def crossfit_auc(attacks: Attacks, rng: np.random.Generator, level: float = 0.95) -> Estimate:
    """AUC of the best attack, chosen on one half of the records and scored on the other.

    The halves then change roles, and the mean of both counts: unbiased, so 0.5 where nothing
    leaks. The intervals of the halves are DeLong's, combined by square-and-add with the
    correlation that choosing an attack brings.
    """
    folds = _folds(attacks, 2, rng)
    parts = []
    for choose, judge in (folds, folds[::-1]):
        attack, sign = choose.best()
        parts.append(
            auc_with_interval(sign * judge.members[attack], sign * judge.others[attack], level)
        )
    value = sum(part.value for part in parts) / 2
    down = _mean_width(*(part.value - part.low for part in parts))
    up = _mean_width(*(part.high - part.value for part in parts))
    return Estimate(value, max(0.0, value - down), min(1.0, value + up))


def auc_score(
    attacks: Attacks, rng: np.random.Generator, metric: str = "membership_auc", level: float = 0.95
) -> Score:
    """The score of ``crossfit_auc``; its reference is the same with non-members as members."""
    n, m = attacks.members.shape[1], attacks.others.shape[1]
    estimate = crossfit_auc(attacks, rng, level)
    null = crossfit_auc(Attacks(attacks.others[:, 0::2], attacks.others[:, 1::2]), rng)
    return Score(
        metric=metric,
        dimension="privacy",
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        reference=null.value,
        unit="auc",
        n=min(n, m),
        minimum_detectable=minimum_detectable_auc(n, m) - 0.5,
    )


def tpr_score(attacks: Attacks, rng: np.random.Generator) -> Score:
    """Members found at 1 % false positives.

    Of three folds, one chooses the attack, the non-members of the next set the threshold, and
    the members of the last are judged; in turn. The threshold is the order statistic that keeps
    the expected false positive rate within 1 % for any distribution (Vovk et al. 2005, conformal
    prediction). The interval is Clopper and Pearson's, widened by what the threshold's own chance
    moves. The reference is the rate observed on the judged folds' non-members.
    """
    metric = "membership_tpr_at_fpr1"
    folds = _folds(attacks, 3, rng)
    fewest = min(fold.others.shape[1] for fold in folds)
    needed = round(1 / FALSE_POSITIVE_RATE)
    if fewest < needed:
        return skipped(
            metric,
            "privacy",
            f"a threshold at 1 % needs {needed} non-members in each of 3 folds, got {fewest}; "
            "hold out more rows",
        )
    parts = [_found(*(folds[(number + step) % 3] for step in range(3))) for number in range(3)]
    n, m = attacks.members.shape[1], attacks.others.shape[1]
    value = sum(part.members for part in parts) / n
    exact = clopper_pearson(sum(part.members for part in parts), n)
    down = math.hypot(value - exact.low, *((part.members - part.fewer) / n for part in parts))
    up = math.hypot(exact.high - value, *((part.more - part.members) / n for part in parts))
    return Score(
        metric=metric,
        dimension="privacy",
        value=value,
        low=max(0.0, value - down),
        high=min(1.0, value + up),
        reference=sum(part.others for part in parts) / m,
        n=min(n, m),
        minimum_detectable=minimum_detectable_difference(FALSE_POSITIVE_RATE, n, m),
    )


class _Found(NamedTuple):
    """Members and others above a threshold; members if it were higher or lower by chance."""

    members: int
    others: int
    fewer: int
    more: int


def _found(choose: Attacks, calibrate: Attacks, judge: Attacks) -> _Found:
    attack, sign = _best_in_tail(choose)
    members, others = sign * judge.members[attack], sign * judge.others[attack]
    null = np.sort(sign * calibrate.others[attack])
    count = len(null)
    middle = _threshold(null)
    fewest, most = stats.binom.ppf([0.025, 0.975], count, FALSE_POSITIVE_RATE).astype(int)
    # With no calibrating record to spare, the right threshold may lie above them all.
    fewer = int((members > null[count - 1 - fewest]).sum()) if fewest else 0
    more = int((members > null[count - 1 - most]).sum())
    found = int((members > middle).sum())
    return _Found(found, int((others > middle).sum()), min(found, fewer), max(found, more))


def _mean_width(first: float, other: float) -> float:
    return math.sqrt(first**2 + other**2 + 2 * _FOLD_CORRELATION * first * other) / 2


def _best_in_tail(attacks: Attacks) -> tuple[int, float]:
    rates = {
        (attack, sign): float(
            (sign * attacks.members[attack] > _threshold(sign * attacks.others[attack])).mean()
        )
        for attack in range(len(attacks.members))
        for sign in (1.0, -1.0)
    }
    return max(rates, key=lambda choice: rates[choice])


def _threshold(others: np.ndarray) -> float:
    rank = int(np.ceil((1 - FALSE_POSITIVE_RATE) * (len(others) + 1)))
    return float(np.sort(others)[min(rank, len(others)) - 1])


def _folds(attacks: Attacks, count: int, rng: np.random.Generator) -> list[Attacks]:
    members = rng.permutation(attacks.members.shape[1])
    others = rng.permutation(attacks.others.shape[1])
    return [attacks.take(members[fold::count], others[fold::count]) for fold in range(count)]


def _density_ratio(
    synthetic: TableView, reference: TableView, seed: int
) -> HistGradientBoostingClassifier:
    rows = pick_rows(len(synthetic), 10_000, np.random.default_rng(seed))
    features = np.vstack([_features(synthetic.take(rows)), _features(reference)])
    labels = np.concatenate([np.ones(len(rows)), np.zeros(len(reference))])
    model = HistGradientBoostingClassifier(
        max_iter=60,
        max_leaf_nodes=15,
        class_weight="balanced",
        early_stopping=False,
        random_state=seed,
    )
    return model.fit(features, labels)


def _features(view: TableView) -> np.ndarray:
    # Missing is a number far below all others and not NaN: boosted trees of scikit-learn refuse a
    # column without any number.
    numbers = np.where(view.missing, _MISSING, view.numbers)
    return np.hstack([numbers, view.categories])
