"""Copies of training rows: exact ones, near ones, and the pull towards train as a tripwire.

Distance to the closest record is no evidence of privacy (Yao et al. 2025, "The DCR Delusion",
arXiv:2505.01524): the tripwire can fail a release, never pass one. Membership is measured apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from generators.base import ParameterError
from validators.base import Score, skipped
from validators.binning import TableEncoding
from validators.comparison import Comparison
from validators.statistics import Estimate, detectable_of, wilson

from .neighbours import MixedPoints, Points, nearest

_METRICS = ("copy_excess", "near_copy_excess", "dcr_share")


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Exact copies, near copies and the share of rows nearer to train than to the holdout.

    Attributes:
        queries: synthetic rows whose nearest neighbours are sought; exact copies are sought of all.
        reference: rows of train and of the holdout among which they are sought, equally many.
        near: the quantile of the distances from holdout to train below which a row is near.
    """

    queries: int = 5_000
    reference: int = 50_000
    near: float = 0.01

    name: ClassVar[str] = "copies"
    modality: ClassVar[Literal["table"]] = "table"

    def __call__(self, comparison: Comparison) -> list[Score]:
        """Scores ``copy_excess``, ``near_copy_excess`` and ``dcr_share``."""
        table = comparison.table
        if (nothing := nothing_to_compare(table)) is not None:
            return [skipped(metric, "privacy", nothing) for metric in _METRICS]
        train_subjects, holdout_subjects = map(comparison.subjects, comparison.frames()[:2])
        copies = copy_excess(
            table.synthetic.rows,
            table.train.rows,
            table.holdout.rows,
            subjects=(train_subjects, holdout_subjects),
        )
        rng = comparison.rng(self.name)
        size = min(self.reference, len(table.train), len(table.holdout))
        synthetic, train, holdout = (
            MixedPoints.of(view.take(rows))
            for view, rows in (
                (table.synthetic, pick_rows(len(table.synthetic), self.queries, rng)),
                (table.train, whole_subjects(train_subjects, size, rng)),
                (table.holdout, whole_subjects(holdout_subjects, size, rng)),
            )
        )
        pull = Pull.measure(synthetic, train, holdout)
        radius = self._radius(train, holdout, rng)
        return [
            privacy_score("copy_excess", copies, len(table.synthetic)),
            privacy_score("near_copy_excess", pull.near_excess(radius), len(synthetic)),
            privacy_score("dcr_share", pull.share(), len(synthetic), reference=0.5),
        ]

    def _radius(self, train: Points, holdout: Points, rng: np.random.Generator) -> float:
        rows = pick_rows(len(holdout), self.queries // 2, rng)
        return float(np.quantile(nearest(holdout.take(rows), train), self.near))


def nothing_to_compare(table: TableEncoding) -> str | None:
    """Why records cannot be compared, or None: no synthetic row, or no column that is learned."""
    if len(table.synthetic) == 0:
        return "needs synthetic rows, got none; sample some"
    if not table.columns:
        return "not applicable: the table has ids and text only, which are never learned"
    return None


def copy_excess(
    synthetic: np.ndarray,
    train: np.ndarray,
    holdout: np.ndarray,
    *,
    subjects: tuple[np.ndarray, np.ndarray] | None = None,
    level: float = 0.95,
) -> Estimate:
    """Share of synthetic rows that copy a train row, beyond what occurs naturally.

    Counted are synthetic rows equal to a real row that occurs exactly once in train and holdout
    together: common rows identify nobody. Had the generator not seen train, such a row would
    lie in train with odds |train| : |holdout|, whatever the data; so with a and b copies of train
    and of holdout rows the excess is (a - b |train| / |holdout|) / n, of mean zero. This is the
    comparison at equal n averaged over all subsamples of train, without losing the rest of train.

    The interval combines two Wilson intervals (square-and-add, Zou & Donner 2008, Statistics in
    Medicine 27, 1693). Copies of one real row, or of one subject's rows, are not independent:
    they are one cluster (Kish's design effect).

    Args:
        synthetic: identities of the rows, equal where the rows are equal, shape (N,).
        train: likewise.
        holdout: likewise.
        subjects: numbers of the subjects of the train rows, and of the holdout rows; where they
            are not given, every row is its own.
        level: of the interval.
    """
    values, counts = np.unique(np.concatenate([train, holdout]), return_counts=True)
    single = values[counts == 1]
    copied, times = np.unique(synthetic[np.isin(synthetic, single)], return_counts=True)
    of_train = np.isin(copied, train)
    n, weight = len(synthetic), len(train) / len(holdout)
    first, other = int(times[of_train].sum()), int(times[~of_train].sum())
    owners = subjects or (np.arange(len(train)), np.arange(len(holdout)))
    sizes = np.concatenate(
        [
            _per_subject(copied[of_train], times[of_train], train, owners[0]),
            _per_subject(copied[~of_train], times[~of_train], holdout, owners[1]),
        ]
    )
    cluster = float((sizes**2).sum() / sizes.sum()) if len(sizes) else 1.0
    of_first = wilson(first / cluster, n / cluster, level)
    of_other = wilson(other / cluster, n / cluster, level)
    share, natural = first / n, other / n
    value = share - weight * natural
    down = np.hypot(share - of_first.low, weight * (of_other.high - natural))
    up = np.hypot(of_first.high - share, weight * (natural - of_other.low))
    return Estimate(value, value - float(down), value + float(up))


def _per_subject(
    copied: np.ndarray, times: np.ndarray, rows: np.ndarray, subjects: np.ndarray
) -> np.ndarray:
    """How often each subject that was copied was; ``copied`` are rows that occur once."""
    order = np.argsort(rows, kind="stable")
    owners = subjects[order[np.searchsorted(rows[order], copied)]]
    _, group = np.unique(owners, return_inverse=True)
    return np.bincount(group, weights=times)


@dataclass(frozen=True)
class Pull:
    """Nearest distances of synthetic points to equally many train and holdout points.

    Attributes:
        train: distance to the nearest train point, shape (N,).
        holdout: distance to the nearest holdout point, shape (N,).
    """

    train: np.ndarray
    holdout: np.ndarray

    @classmethod
    def measure(cls, synthetic: Points, train: Points, holdout: Points) -> Pull:
        """The distances; train and holdout must be of one size."""
        if len(train) != len(holdout):
            raise ParameterError(
                "train and holdout points must be equally many, got "
                f"{len(train)} and {len(holdout)}; subsample the larger"
            )
        return cls(nearest(synthetic, train)[:, 0], nearest(synthetic, holdout)[:, 0])

    def share(self) -> Estimate:
        """Share of points nearer to train, ties half, with Wilson's interval: 0.5 is ideal."""
        nearer = float((self.train < self.holdout).sum() + 0.5 * (self.train == self.holdout).sum())
        bounds = wilson(nearer, len(self.train))
        return Estimate(nearer / len(self.train), bounds.low, bounds.high)

    def near_excess(self, radius: float) -> Estimate:
        """Share within ``radius`` of train only less the share within it of holdout only.

        The interval is square-and-add of two Wilson intervals, see ``copy_excess``.
        """
        n = len(self.train)
        near_train, near_holdout = self.train <= radius, self.holdout <= radius
        first = float((near_train & ~near_holdout).mean())
        other = float((near_holdout & ~near_train).mean())
        of_first, of_other = wilson(first * n, n), wilson(other * n, n)
        down = np.hypot(first - of_first.low, of_other.high - other)
        up = np.hypot(of_first.high - first, other - of_other.low)
        return Estimate(first - other, first - other - float(down), first - other + float(up))


def privacy_score(
    metric: str, estimate: Estimate, n: int, *, reference: float = 0.0, unit: str = "share"
) -> Score:
    """A score of the privacy dimension; what it can detect follows from its interval."""
    return Score(
        metric=metric,
        dimension="privacy",
        value=float(estimate.value),
        low=float(estimate.low),
        high=float(estimate.high),
        reference=reference,
        unit=unit,
        n=n,
        minimum_detectable=detectable_of(estimate),
    )


def pick_rows(n: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``limit`` of ``n`` row numbers, sorted, without replacement."""
    if n <= limit:
        return np.arange(n)
    return np.sort(rng.choice(n, limit, replace=False))


def whole_subjects(subjects: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """``size`` row numbers that hold all rows of random subjects (the last one's as they fit).

    Rows picked one by one would come from more subjects than as many whole ones, and so lie
    closer to everything: no fair reference.
    """
    rank = rng.permutation(int(subjects.max(initial=-1)) + 1)[subjects]
    return np.sort(np.argsort(rank, kind="stable")[:size])
