"""Where published files lie: a small interface, a durable POSIX driver, and memory for tests.

A store holds bytes under names such as ``adult/_log/00000001.json``. The one operation that
publication leans on is ``put_if_absent``: of any number of writers exactly one wins, and nobody
ever sees half of what it wrote.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from typing_extensions import override

from generators.base import LikenessError, ParameterError

Lake = Path | str
"""Where published datasets lie: a folder, or the URL of an object service."""

_DATASET = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")
# Names of files in the root of a lake, and names that Windows cannot have.
_RESERVED = frozenset(
    ["index.html", "catalog.jsonld", "con", "prn", "aux", "nul"]
    + [f"{device}{number}" for device in ("com", "lpt") for number in range(1, 10)]
)
_PART = re.compile(r"^[A-Za-z0-9_.+=@,-]{1,255}$")
TEMPORARY = ".tmp-"
"""What the names of files begin with that a crash may leave and nobody needs."""


class PublicationError(LikenessError, RuntimeError):
    """A dataset cannot be published, or what was published is not whole."""


def check_dataset_name(name: str) -> str:
    """``name``, if a dataset may be called so.

    Raises:
        ParameterError: it may not.
    """
    if not _DATASET.fullmatch(name) or name.endswith(".") or name.split(".")[0] in _RESERVED | {""}:
        raise ParameterError(
            "a dataset's name must be 1 to 63 of a-z 0-9 . _ -, begin with a letter or digit, and "
            f"not be reserved; got {name!r}; choose another"
        )
    if name in _RESERVED:
        raise ParameterError(f"the dataset name {name!r} is taken by the lake; choose another")
    return name


def check_name(name: str) -> str:
    """``name``, if it is a relative path of plain parts.

    Raises:
        ParameterError: it is absolute, leaves its root, or has unusual characters.
    """
    parts = name.split("/")
    if any(part in (".", "..") or not _PART.fullmatch(part) for part in parts):
        raise ParameterError(
            "a file's name must be a relative path of letters, digits and _ . + = @ , - without "
            f"'..'; got {name!r}; rename it"
        )
    return name


def disk_problem(error: OSError) -> PublicationError:
    """What a lake that cannot be read or written says: the system's reason, and what to do."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return PublicationError(
        f"the lake must take what is written to it, the system says: {reason.lower()}; mend that "
        "and try again: what was not acknowledged leaves nothing that readers see"
    )


class Store(ABC):
    """Bytes under names; see the module's docstring. Names are checked by ``check_name``."""

    @abstractmethod
    def put_if_absent(self, name: str, data: bytes) -> bool:
        """Durably create ``name`` with ``data``, whole or not at all; False if it exists."""

    @abstractmethod
    def put(self, name: str, data: bytes) -> None:
        """Durably create or replace ``name``; readers see the old or the new bytes."""

    @abstractmethod
    def add(self, name: str, source: BinaryIO) -> None:
        """Write a new read-only file from a stream; it may be half-written after a crash."""

    @abstractmethod
    def move(self, source: str, target: str) -> bool:
        """Make the whole folder ``source`` appear as ``target``; False if ``target`` exists."""

    @abstractmethod
    def fsync(self, folder: str) -> None:
        """Make what was created in ``folder``, and the way to it, survive a power cut."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The bytes of ``name`` as a seekable stream.

        Raises:
            FileNotFoundError: there is no such file.
        """

    @abstractmethod
    def list(self, folder: str) -> list[str]:
        """Full names of all files below ``folder``, sorted, with what crashes left there."""

    @abstractmethod
    def folders(self) -> Sequence[str]:
        """Names of the folders at the top, sorted."""

    @abstractmethod
    def location(self, name: str) -> str:
        """Where people and other tools find ``name``: a path or a URL."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is a file or folder ``name``."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all in it; nothing happens if it is not there."""

    @abstractmethod
    def touch(self, folder: str) -> None:
        """Make ``folder`` count as new, so that no clean-up by age takes it."""

    def get(self, name: str) -> bytes:
        """All bytes of ``name``.

        Raises:
            FileNotFoundError: there is no such file.
        """
        with self.open(name) as stream:
            return stream.read()


class LocalStore(Store):
    """A folder of a POSIX file system; every write is synced, files and folders alike.

    ``put_if_absent`` writes a temporary file, syncs it and hard-links it to its name, which the
    kernel does for one writer only. The methods that begin with an underscore are the single steps
    a crash can fall between.

    Args:
        root: the folder; it is created at the first write.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))

    def path(self, name: str) -> Path:
        """Where ``name`` lies.

        Raises:
            ParameterError: the name, or a link on the way, leads out of the root.
        """
        path = self.root / check_name(name)
        # realpath follows links; a link to elsewhere would let a name leave the root.
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.root)):
            raise ParameterError(f"a file's name must stay in the store, {name!r} leads out of it")
        return path

    @override
    def put_if_absent(self, name: str, data: bytes) -> bool:
        path = self.path(name)
        if path.exists():
            self._fsync(path.parent)
            return False
        temporary = self._temporary(path, data)
        try:
            self._link(temporary, path)
        except FileExistsError:
            return False
        finally:
            self._unlink(temporary)
            self._fsync(path.parent)
        return True

    @override
    def put(self, name: str, data: bytes) -> None:
        path = self.path(name)
        temporary = self._temporary(path, data)
        self._rename(temporary, path)
        self._fsync(path.parent)

    @override
    def add(self, name: str, source: BinaryIO) -> None:
        path = self.path(name)
        self._make_folder(path.parent)
        self._write(path, source)

    @override
    def move(self, source: str, target: str) -> bool:
        start, end = self.path(source), self.path(target)
        self._make_folder(end.parent)
        for folder in sorted(path for path in [start, *start.rglob("*")] if path.is_dir()):
            self._fsync(folder)
        try:
            self._rename(start, end)
        except OSError:
            if not end.is_dir():
                raise
            return False
        finally:
            self._fsync(end.parent)
        return True

    @override
    def fsync(self, folder: str) -> None:
        path = self.path(folder)
        for step in [path, *path.parents]:
            self._fsync(step)
            if step == self.root:
                self._fsync(step.parent)
                return

    @override
    def open(self, name: str) -> BinaryIO:
        return self.path(name).open("rb")

    @override
    def list(self, folder: str) -> list[str]:
        return sorted(
            path.relative_to(self.root).as_posix() for path in _files_below(self.path(folder))
        )

    @override
    def folders(self) -> Sequence[str]:
        there = self.root.iterdir() if self.root.is_dir() else iter(())
        return sorted(path.name for path in there if path.is_dir())

    @override
    def location(self, name: str) -> str:
        return str(self.path(name))

    @override
    def exists(self, name: str) -> bool:
        return self.path(name).exists()

    @override
    def delete(self, name: str) -> None:
        path = self.path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    @override
    def touch(self, folder: str) -> None:
        os.utime(self.path(folder))

    def _temporary(self, path: Path, data: bytes) -> Path:
        self._make_folder(path.parent)
        temporary = path.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
        try:
            self._write(temporary, io.BytesIO(data))
        except OSError:
            with contextlib.suppress(OSError):  # a full disk should not keep it
                self._unlink(temporary)
            raise
        return temporary

    def _make_folder(self, folder: Path) -> None:
        missing = [step for step in [folder, *folder.parents] if not step.exists()]
        for step in reversed(missing):
            self._mkdir(step)
            self._fsync(step.parent)

    def _mkdir(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def _write(self, path: Path, source: BinaryIO) -> None:
        """Create ``path`` read-only with the bytes of ``source``, synced."""
        with path.open("xb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fchmod(target.fileno(), 0o444)
            os.fsync(target.fileno())

    def _link(self, source: Path, target: Path) -> None:
        os.link(source, target)

    def _rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def _unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _fsync(self, folder: Path) -> None:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class MemoryStore(Store):
    """A store in memory, for tests; its folders are prefixes."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    @override
    def put_if_absent(self, name: str, data: bytes) -> bool:
        with self._lock:
            if check_name(name) in self._files:
                return False
            self._files[name] = data
            return True

    @override
    def put(self, name: str, data: bytes) -> None:
        self._files[check_name(name)] = data

    @override
    def add(self, name: str, source: BinaryIO) -> None:
        self._files[check_name(name)] = source.read()

    @override
    def move(self, source: str, target: str) -> bool:
        with self._lock:
            if self.exists(target):
                return False
            for name in self.list(source):
                self._files[target + name.removeprefix(source)] = self._files.pop(name)
            return True

    @override
    def fsync(self, folder: str) -> None:
        check_name(folder)

    @override
    def open(self, name: str) -> BinaryIO:
        try:
            return io.BytesIO(self._files[check_name(name)])
        except KeyError:
            raise FileNotFoundError(name) from None

    @override
    def list(self, folder: str) -> list[str]:
        return sorted(name for name in self._files if name.startswith(f"{check_name(folder)}/"))

    @override
    def folders(self) -> Sequence[str]:
        return sorted({name.split("/", 1)[0] for name in self._files if "/" in name})

    @override
    def location(self, name: str) -> str:
        return f"memory://{check_name(name)}"

    @override
    def exists(self, name: str) -> bool:
        return check_name(name) in self._files or bool(self.list(name))

    @override
    def delete(self, name: str) -> None:
        for gone in [*self.list(name), name]:
            self._files.pop(gone, None)

    @override
    def touch(self, folder: str) -> None:
        check_name(folder)


def open_lake(lake: Lake) -> Store:
    """The store of a lake.

    Raises:
        ParameterError: the URL is of no known object service.
    """
    if isinstance(lake, Path):
        return LocalStore(lake)
    from .objects import ObjectStore

    return ObjectStore(lake)


def _files_below(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        for name in files:
            yield Path(parent) / name
        # A linked folder is listed as a file: os.walk does not enter it, nobody may overlook it.
        yield from (Path(parent) / name for name in folders if (Path(parent) / name).is_symlink())


@contextlib.contextmanager
def removed_afterwards(store: Store, folder: str) -> Iterator[str]:
    """``folder``, which is deleted at the end, whatever happens."""
    try:
        yield folder
    finally:
        store.delete(folder)
