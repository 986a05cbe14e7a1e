"""The edge of the vault: what goes wrong on real data is told outside without a cell of it.

Messages of pandas, pyarrow, scikit-learn and others quote cells, in exceptions, warnings and logs
alike. Outside the vault a failure is its step, its class, and the place in the code; the rest lies
in ``vault/tracebacks``, for the owner of the data alone.
"""

from __future__ import annotations

import functools
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ParamSpec, TypeVar

from generators.base import LikenessError

from .home import Home

P = ParamSpec("P")
R = TypeVar("R")

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("generators", "validators", "pipelines")


class InternalError(LikenessError, RuntimeError):
    """Something failed that should not have; the details are in the vault alone."""


def guarded(step: Callable[P, R]) -> Callable[P, R]:
    """Let only known errors out of ``step``; its vault is that of its ``Home`` or ``Release``."""

    @functools.wraps(step)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        with boundary(step.__name__, _home_of((*args, *kwargs.values()))):
            return step(*args, **kwargs)

    return inside


@contextmanager
def boundary(step: str, home: Home, *, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Keep foreign exceptions of the block in the vault of ``home``.

    Warnings and log lines are kept with a failure that they led to, and dropped without one.

    Args:
        step: what fails, for the message.
        home: where the details go.
        passing: exceptions that are let through beside ``LikenessError``.

    Raises:
        InternalError: the block failed with anything but a ``LikenessError``.
    """
    failure: str | None = None
    known: tuple[type[Exception], ...] = (LikenessError, *passing)
    with _overheard() as lines:
        try:
            yield
        except known:
            raise
        except Exception as error:  # noqa: BLE001 - the edge where real data could leak
            said, failure = traceback.format_exception(error), _code(error)
    if failure is not None:
        path = _keep(home, [*said, *lines])
        # Raised out here, where no exception is being handled: its context would quote cells.
        raise InternalError(
            f"step {step!r} must not fail, it did with {failure}; "
            f"the owner of the data finds the details in {path}"
        )


def _code(error: Exception) -> str:
    """The class of ``error`` and the innermost line of our own code that it came through."""
    own = [
        f"{path.relative_to(_ROOT).as_posix()}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename).resolve()).is_relative_to(_ROOT)
        and path.relative_to(_ROOT).parts[0] in _PACKAGES
    ]
    return f"{type(error).__name__} at {own[-1]}" if own else type(error).__name__


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Warnings and log lines that would be printed, as a list instead."""
    lines: list[str] = []
    handler = _Listener(lines)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as heard:
            yield lines
    finally:
        root.removeHandler(handler)
        lines.extend(
            f"{w.filename}:{w.lineno}: {w.category.__name__}: {w.message}\n" for w in heard
        )


class _Listener(logging.Handler):
    """Takes what nobody else would: without a handler Python prints to stderr."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._lines.append(f"{record.name}: {record.getMessage()}\n")


def _home_of(arguments: tuple[object, ...]) -> Home:
    for argument in arguments:
        if isinstance(argument, Home):
            return argument
        home = getattr(argument, "home", None)
        if isinstance(home, Home):
            return home
    return Home.from_environment()


def _keep(home: Home, lines: list[str]) -> Path:
    folder = home.vault / "tracebacks"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}.txt"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write("".join(lines))
    return path
