"""Bytes that atheris makes, by what code they reach, into the readers; for benchmarks/faults.py.

Usage: python benchmarks/fuzz_bytes.py -max_total_time=60 (the options are those of libFuzzer)
"""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
import warnings
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["pipelines.sources"]):
    from pipelines.sources import tables

from generators.base import LikenessError

MEMORY = 4 << 30
_FILE = Path(tempfile.mkdtemp()) / "file"
_READERS = ((".csv", tables.read_csv), (".parquet", tables.read_parquet))


def read(data: bytes) -> None:
    """Read ``data`` as the file that its first byte names; anything but a refusal is a crash."""
    suffix, reader = _READERS[data[0] % len(_READERS) if data else 0]
    path = _FILE.with_suffix(suffix)
    path.write_bytes(data[1:])
    with contextlib.suppress(LikenessError, MemoryError):
        reader(path)


def main() -> None:
    """Fuzz until libFuzzer's options say stop."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    atheris.Setup(sys.argv, read)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
