"""How a step speaks to Dagster: progress in its log, known errors as short failures."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from generators.base import LikenessError, OnProgress, Progress

_SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def short_failures() -> Iterator[None]:
    """Turn a known error into a failure that shows its message alone.

    Its cause is cut off: a foreign exception may quote a cell. Only an internal error is worth a
    retry; bad input and a failed gate stay what they are.
    """
    from .steps import InternalError

    try:
        yield
    except LikenessError as error:
        retry = isinstance(error, InternalError)
        raise dg.Failure(description=str(error), allow_retries=retry) from None


def log_progress(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> OnProgress:
    """A callback that writes a line to the run's log, at most every five seconds or so."""
    last_line, last_phase = float("-inf"), ""

    def report(progress: Progress) -> None:
        nonlocal last_line, last_phase
        now = time.monotonic()
        done = progress.step >= progress.total
        if progress.phase == last_phase and not done and now - last_line < _SECONDS_BETWEEN_LINES:
            return
        last_line, last_phase = now, progress.phase
        context.log.info(describe(progress))

    return report


def describe(progress: Progress) -> str:
    """One line: what is done, how far it is, how long it will take."""
    parts = [f"{progress.phase}: {progress.step:,} of {progress.total:,}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.4g}")
    if progress.remaining is not None and progress.step < progress.total:
        parts.append(f"about {progress.remaining:.0f} s to go")
    return ", ".join(parts)
