"""Files that others made are read in a child process: bounded in memory, time and bytes.

A file can be made to crash, to hang or to fill a reader; parsers are written in C. So the child
limits itself before it opens anything, the parent waits for so long and no longer, and a child that
dies is one clear error. The child dies with its parent, however that ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file, save_file

from generators.base import DataError, LikenessError, ParameterError
from generators.schema import Images, ImageSchema, schema_from_json

from ..spec import SourceSpec
from .images import RawImages
from .tables import ArrowTable, RawTable

_TABLE, _PIXELS, _FACTS, _FAILURE = (
    "table.parquet",
    "images.safetensors",
    "facts.json",
    "failure.json",
)
_ERRORS: dict[str, type[LikenessError]] = {"DataError": DataError, "ParameterError": ParameterError}
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)
_STALE_SECONDS = 86_400.0
_ROOT = Path(__file__).resolve().parents[2]


def read_in_child(source: SourceSpec, vault: Path) -> RawTable | RawImages:
    """What ``source`` holds, read by a child process that passes it through a folder of the vault.

    Raises:
        DataError: the source is bad, or its reader had to be stopped.
        RuntimeError: the reader failed as it should not; the message may quote cells.
    """
    with _workplace(vault) as folder:
        _run(source, folder)
        return _result(folder, source)


def _run(source: SourceSpec, folder: Path) -> None:
    command = [sys.executable, "-m", "pipelines.sources.sandbox", str(folder), str(os.getpid())]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")]),
        # One thread of each library: their stacks count as memory, and reading is one stream.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "ARROW_IO_THREADS": "2",
        "TMPDIR": str(folder),
    }
    with (folder / "output.txt").open("wb") as output:
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment
        )
        try:
            child.communicate(source.model_dump_json().encode(), timeout=source.limits.seconds)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"a source may take {source.limits.seconds} s to read, this one takes longer; give "
                "a part of it, or raise source.limits.seconds"
            ) from None
        finally:
            # Also when Ctrl-C comes: no child is left behind.
            child.kill()
            child.wait()
    if child.returncode != 0:
        raise _failure(folder, child.returncode, source)


def _failure(folder: Path, status: int, source: SourceSpec) -> Exception:
    path = folder / _FAILURE
    if path.is_file():
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["class"] in _ERRORS:
            return _ERRORS[told["class"]](told["message"])
        if told["class"] == "MemoryError":
            return _too_much(source)
        return RuntimeError(told["message"])
    if status == -signal.SIGXCPU:
        return DataError(
            f"a source may take {source.limits.seconds} s to read, this one takes more; give a "
            "part of it, or raise source.limits.seconds"
        )
    if status in (-signal.SIGKILL, -signal.SIGABRT):
        return _too_much(source)
    name = signal.Signals(-status).name if status < 0 else f"status {status}"
    return DataError(
        f"the reader of a source must end well, it ended with {name}: the file is damaged or "
        "hostile; write it again"
    )


def _too_much(source: SourceSpec) -> DataError:
    return DataError(
        f"reading a source may use {source.limits.memory_mb} MB of memory, this one needs more; "
        "give a part of it, or raise source.limits.memory_mb"
    )


def _result(folder: Path, source: SourceSpec) -> RawTable | RawImages:
    facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
    table = None
    if (folder / _TABLE).is_file():
        table = ArrowTable(pq.read_table(folder / _TABLE), facts["seen"])
        if "schema" not in facts:
            return table.raw()
    schema = schema_from_json(facts["schema"])
    if not isinstance(schema, ImageSchema):
        raise DataError(f"a {source.kind} source must hold images, it holds none; give others")
    arrays = load_file(folder / _PIXELS)
    images = Images(arrays["pixels"], arrays["labels"])
    return RawImages(images, schema, facts["unreadable"], tuple(facts["notes"]), table)


@contextlib.contextmanager
def _workplace(vault: Path) -> Iterator[Path]:
    """A folder of the vault for one reading; those of killed runs are cleared away."""
    parent = vault / ".ingest"
    parent.mkdir(mode=0o700, exist_ok=True)
    for old in parent.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(folder: Path, parent: int) -> int:
    """The child: limit itself, read the source on stdin, leave the result or the failure."""
    source = SourceSpec.model_validate_json(sys.stdin.buffer.read())
    _limit(source, parent)
    # Reading forks nothing and writes here alone.
    try:
        _read_into(folder, source)
    except (MemoryError, pa.ArrowMemoryError):
        failure = {"class": "MemoryError", "message": ""}
    except LikenessError as error:
        failure = {"class": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - told to the parent, which keeps it in the vault
        failure = {"class": "Exception", "message": f"{type(error).__name__}: {error}"}
    else:
        return 0
    (folder / _FAILURE).write_text(json.dumps(failure), encoding="utf-8")
    return 1


def _limit(source: SourceSpec, parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os.kill(os.getpid(), signal.SIGKILL)
        # What is mapped already (libraries) is not the file's doing.
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _bound(resource.RLIMIT_AS, mapped + source.limits.memory_mb * 2**20)
    for kind, most in (
        (resource.RLIMIT_CPU, source.limits.seconds),
        (resource.RLIMIT_FSIZE, 4 * source.limits.memory_mb * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        _bound(kind, most)


def _bound(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (most if hard < 0 else min(most, hard), hard))


def _read_into(folder: Path, source: SourceSpec) -> None:
    from . import read_plainly

    raw = read_plainly(source)
    if isinstance(raw, RawImages):
        pixels = np.ascontiguousarray(raw.images.pixels)
        save_file({"pixels": pixels, "labels": raw.images.labels}, folder / _PIXELS)
        facts: dict[str, object] = {
            "schema": raw.schema.to_json(),
            "unreadable": raw.unreadable,
            "notes": raw.notes,
        }
        if raw.table is not None:
            pq.write_table(raw.table.table, folder / _TABLE, compression="none")
            facts["seen"] = raw.table.seen
    else:
        pq.write_table(raw.table, folder / _TABLE, compression="none")
        facts = {"seen": raw.seen}
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
