"""What a measurement is: a Score, a Scorecard of them, and the Validators that produce them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args

import pandas as pd

from generators.base import ParameterError

if TYPE_CHECKING:
    from .comparison import Comparison

Dimension = Literal["structure", "fidelity", "utility", "diversity", "privacy", "bias"]
DIMENSIONS: tuple[str, ...] = get_args(Dimension)


@dataclass(frozen=True)
class Score:
    """One measured number with its error and its yardstick.

    Attributes:
        metric: its id, e.g. ``marginal_tvd``.
        dimension: which of the report's questions it answers.
        subject: what it is about: ``all``, a column, a pair ``a × b``, a group ``sex=F``.
        value: the estimate.
        low, high: ends of its 95 % interval; both equal ``value`` where the metric is exact.
        reference: the same measure between real train and real holdout at equal n: what a perfect
            generator would score. None where no such measure exists.
        unit: ``share``, ``auc``, ``ratio``, ...
        n: number of synthetic rows (or images) that entered.
        minimum_detectable: the smallest deviation that this n would show, or None.
        higher_is_better: direction.
        skipped: why there is no number; then ``value``, ``low`` and ``high`` are None.
    """

    metric: str
    dimension: Dimension
    subject: str = "all"
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reference: float | None = None
    unit: str = "share"
    n: int = 0
    minimum_detectable: float | None = None
    higher_is_better: bool = False
    skipped: str | None = None

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high)
        if self.dimension not in DIMENSIONS:
            raise ParameterError(f"a score's dimension must be one of {DIMENSIONS}")
        if self.skipped is None:
            if any(number is None or not math.isfinite(number) for number in numbers):
                raise ParameterError(
                    f"score {self.metric}/{self.subject} must have a finite value and interval, "
                    f"got {numbers}; set skipped to the reason instead"
                )
        elif any(number is not None for number in numbers):
            raise ParameterError(f"a skipped score has no numbers: {self.metric}/{self.subject}")


@dataclass(frozen=True)
class Scorecard:
    """All scores of one candidate."""

    scores: tuple[Score, ...]

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, metric: str, subject: str | None = None) -> tuple[Score, ...]:
        """The scores of a metric, of one subject where it is given."""
        return tuple(
            score
            for score in self.scores
            if score.metric == metric and subject in (None, score.subject)
        )

    def to_frame(self) -> pd.DataFrame:
        """The long table: one row a score, columns as the fields of ``Score``."""
        names = [field.name for field in dataclasses.fields(Score)]
        frame = pd.DataFrame([dataclasses.asdict(score) for score in self.scores], columns=names)
        floats = ["value", "low", "high", "reference", "minimum_detectable"]
        return frame.astype(dict.fromkeys(floats, "float64"))

    def to_json(self) -> str:
        """JSON text; ``from_json`` is the inverse."""
        rows = [dataclasses.asdict(score) for score in self.scores]
        return json.dumps({"scores": rows}, ensure_ascii=False, allow_nan=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> Scorecard:
        """The scorecard that ``to_json`` wrote."""
        rows: list[dict[str, Any]] = json.loads(text)["scores"]
        return cls(tuple(Score(**row) for row in rows))


class Validator(Protocol):
    """A measurement of (train, holdout, synthetic): a dataclass whose fields are its settings."""

    name: ClassVar[str]
    modality: ClassVar[Literal["table", "image"]]

    def __call__(self, comparison: Comparison) -> list[Score]:
        """The scores; what cannot be computed is a skipped score with its reason."""
        ...


def skipped(metric: str, dimension: Dimension, reason: str, subject: str = "all") -> Score:
    """A score without a number; a contract that needs it fails."""
    return Score(metric=metric, dimension=dimension, subject=subject, skipped=reason)


def worst(scores: Sequence[Score]) -> Score | None:
    """The worst of comparable scores by value, or None where none has a number."""
    measured = [score for score in scores if score.value is not None]
    if not measured:
        return None
    sign = -1.0 if measured[0].higher_is_better else 1.0
    return max(measured, key=lambda score: sign * (score.value or 0.0))
