"""Weekday and time of day: what a moment on a line of microseconds does not show.

A model that sees a moment as one number learns the long run, and smears weekends and nights. So a
datetime column brings *parts* along, columns that are learned beside it: the weekday, and the time
of day where there is one. After sampling the moment is moved to the nearest day of the drawn
weekday, at the drawn time; so what depends on either keeps depending on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from .schema import MICROSECONDS_PER_DAY, Column, infer_column

What = Literal["weekday", "time"]

_WEEKS = 4
"""A column that spans less than so many weeks has no weekdays to learn."""
_MONDAY = 3  # the first of January 1970 was a Thursday


@dataclass(frozen=True)
class Part:
    """A part of the moments of a column.

    Attributes:
        base: position of the column that it is a part of.
        what: the weekday, 0 for Monday, or the time of day in seconds.
    """

    base: int
    what: What

    def column(self, moments: np.ndarray, name: str) -> Column:
        """The column of this part of ``moments``, whose column is ``name``."""
        series = pd.Series(self.of(moments))
        kind = "categorical" if self.what == "weekday" else "numerical"
        # No column of a user has such a name: a condition never finds it.
        return infer_column(f"{name}\x1f{self.what}", series, kind)

    def of(self, moments: np.ndarray) -> np.ndarray:
        """This part of each moment in microseconds; NaN stays."""
        day = np.floor(moments / MICROSECONDS_PER_DAY)
        if self.what == "weekday":
            return np.asarray((day + _MONDAY) % 7)
        return np.asarray((moments - day * MICROSECONDS_PER_DAY) / 1e6)


def parts_of(moments: np.ndarray, column: Column, base: int) -> list[Part]:
    """The parts that are worth learning of the moments of a column at position ``base``."""
    present = moments[np.isfinite(moments)]
    if column.kind != "datetime" or len(present) == 0:
        return []
    days = (present.max() - present.min()) / MICROSECONDS_PER_DAY
    weekday, time = Part(base, "weekday"), Part(base, "time")
    found = [weekday] if days >= 7 * _WEEKS and np.ptp(weekday.of(present)) > 0 else []
    if days >= 1 and np.ptp(time.of(present)) > 0:
        found.append(time)
    return found


def moved(
    moments: np.ndarray,
    weekday: np.ndarray | None,
    time: np.ndarray | None,
    allowed: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """``moments`` on the nearest day of that weekday, at that time of day.

    Where that is not allowed, a week earlier or later; else as they were.

    Args:
        moments: microseconds, shape (N,).
        weekday: 0 for Monday, NaN to leave it; None leaves all.
        time: seconds, NaN to leave it; None leaves all.
        allowed: whether moments may be; bool, shape (N,).
    """
    day = np.floor(moments / MICROSECONDS_PER_DAY)
    rest = moments - day * MICROSECONDS_PER_DAY
    if time is not None:
        rest = np.where(np.isnan(time), rest, np.round(time * 1e6))
    shift = np.zeros(len(moments))
    if weekday is not None:
        away = (weekday - (day + _MONDAY) % 7 + 3) % 7 - 3
        shift = np.where(np.isnan(weekday), 0.0, away)
    result = moments.copy()
    open_ = np.ones(len(moments), dtype=bool)
    back = np.where(shift > 0, -7.0, 7.0)
    for further in (np.zeros(len(moments)), back, -back):
        tried = (day + shift + further) * MICROSECONDS_PER_DAY + rest
        fits = open_ & allowed(tried)
        result[fits] = tried[fits]
        open_ &= ~fits
    return result
