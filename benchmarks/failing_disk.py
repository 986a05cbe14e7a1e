"""A folder whose k-th step on disk fails, as a full, broken or forbidden disk does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from pipelines.publication.store import LocalStore, PublicationError, Store


class FailingStore(LocalStore):
    """A folder that fails once.

    Args:
        root: the folder.
        step: number of the step on disk that fails, from 0.
        code: the error that it gives, of ``errno``.

    Attributes:
        failed: whether it has.
    """

    def __init__(self, root: Path, step: int, code: int) -> None:
        super().__init__(root)
        self._left, self._code = step, code
        self.failed = False

    def _fail(self) -> bool:
        self._left -= 1
        if self._left == -1:
            self.failed = True
        return self._left == -1

    def _error(self) -> OSError:
        return OSError(self._code, os.strerror(self._code))

    def _write(self, path: Path, source: BinaryIO) -> None:
        if self._fail():
            data = source.read()
            path.write_bytes(data[: len(data) // 2])
            raise self._error()
        super()._write(path, source)

    def _mkdir(self, path: Path) -> None:
        if self._fail():
            raise self._error()
        super()._mkdir(path)

    def _link(self, source: Path, target: Path) -> None:
        if self._fail():
            raise self._error()
        super()._link(source, target)

    def _rename(self, source: Path, target: Path) -> None:
        if self._fail():
            raise self._error()
        super()._rename(source, target)

    def _unlink(self, path: Path) -> None:
        if self._fail():
            raise self._error()
        super()._unlink(path)

    def _fsync(self, folder: Path) -> None:
        if self._fail():
            raise self._error()
        super()._fsync(folder)


def every_step(
    lakes: Callable[[int], Path], act: Callable[[Store], object], code: int
) -> tuple[int, int, list[str]]:
    """Let each step of an act fail once, and do it again on a whole disk.

    Args:
        lakes: a prepared lake for each step.
        act: what is done; it may be done twice.
        code: of ``errno``.

    Returns:
        Steps that failed; how many were told as one clear error (the others were not needed); and
        what was wrong.
    """
    step = told = 0
    wrong: list[str] = []
    while True:
        lake = lakes(step)
        store = FailingStore(lake, step, code)
        try:
            act(store)
        except PublicationError as error:
            told += 1
            if os.strerror(code).lower() not in str(error):
                wrong.append(f"step {step}: told as {error}")
        except OSError as error:
            wrong.append(f"step {step}: {type(error).__name__} escaped")
        if not store.failed:
            return step, told, wrong
        try:
            act(LocalStore(lake))
        except (PublicationError, OSError) as error:
            wrong.append(f"step {step}: no second try: {error}")
        step += 1
