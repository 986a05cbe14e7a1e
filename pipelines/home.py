"""Where things lie at run time: the lake that is shared, the vault that never is, the inbox."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any


@dataclass(frozen=True)
class Home:
    """The run-time folders under ``$LIKENESS_HOME`` (default ``./likeness_home``)."""

    root: Path

    @classmethod
    def from_environment(cls) -> Home:
        """The home that the environment names."""
        return cls(Path(os.environ.get("LIKENESS_HOME", "likeness_home")).absolute())

    @property
    def lake(self) -> Path | str:
        """Published datasets; shareable: ``$LIKENESS_LAKE``, a folder or a URL, else ``lake/``."""
        named = os.environ.get("LIKENESS_LAKE", "")
        if "://" in named:
            return named
        return self._made(Path(named).absolute() if named else self.root / "lake", 0o755)

    @property
    def vault(self) -> Path:
        """Real data, holdouts, models, quarantine, tracebacks; owner only."""
        return self._made(self.root / "vault", 0o700)

    @property
    def requests(self) -> Path:
        """The inbox: what was asked and what came of it; owner only."""
        return self._made(self.root / "requests", 0o700)

    def dataset_vault(self, dataset: str) -> Path:
        """The vault folder of one dataset."""
        return self._made(self.vault / dataset, 0o700)

    @property
    def secret(self) -> bytes:
        """64 random bytes that never leave the vault: the key that models are sealed with."""
        path = self.vault / "secret.key"
        if not path.is_file():
            # Whole under its name, and of those who make one at once the first one's stays.
            handle, made = tempfile.mkstemp(prefix=".secret.", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(64))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):
                os.link(made, path)
            Path(made).unlink()
        return path.read_bytes()

    @staticmethod
    def _made(folder: Path, mode: int) -> Path:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        return folder


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well.

    A killed process leaves no half-written ``target``. When another process was faster, its
    result stays and ours is discarded: both are the same bytes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield stage
        try:
            stage.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        rmtree(stage, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


def canonical_json(value: Any) -> str:  # noqa: ANN401 - any JSON-able value
    """JSON text that is the same for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
