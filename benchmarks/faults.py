"""Faults of every kind against publication and ingest; print what was tried and what broke.

Usage: python -m benchmarks.faults [--only crashes storm disk flips ingest] [--minutes 1.5]

crashes   every state that a power cut may leave of the protocol (benchmarks/crash_model.py), then
          the same with one thing left out at a time: these mutants must be found
storm     real publisher processes at once, many of them killed by SIGKILL at a random moment
disk      ENOSPC, EIO and EPERM at every step on disk, one at a time, then another try
flips     single bits flipped in every published file, each of which ``verify`` must find
ingest    damaged files (benchmarks/fuzz.py), bombs, and bytes led by atheris where it is installed

Each part takes about ``--minutes``. The figures go to benchmarks/results/faults.json.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from generators.schema import TableSchema
from pipelines.publication import log
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import to_arrow, write_parquet
from pipelines.publication.publish import PublishRequest, publish, publish_to
from pipelines.publication.retire import retire_in
from pipelines.publication.verify import verify

from . import crash_model, fuzz
from .failing_disk import every_step
from .mutants import MUTANTS

RESULTS = Path(__file__).parent / "results"
_PUBLISHERS = 4
_CODES = (errno.ENOSPC, errno.EIO, errno.EPERM)


def release(folder: Path, key: str = "key-1", rows: int = 20) -> PublishRequest:
    """A small release, its files in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=rows), "c": rng.choice(["a", "b"], rows)})
    schema = TableSchema.infer(frame)
    table = to_arrow(frame, schema)
    digest = content_digest(table)
    write_parquet(table, folder / "train.parquet", {"content_digest": digest})
    verdict = {"passed": True, "candidate_digest": digest, "contract": "none", "gates": []}
    (folder / "verdict.json").write_text(json.dumps(verdict))
    return PublishRequest(
        dataset="people",
        key=key,
        files={
            "data/train-00000-of-00001.parquet": folder / "train.parquet",
            "reports/verdict.json": folder / "verdict.json",
        },
        schema=schema,
        rows=rows,
        content_digest=digest,
        facts={},
        created_at="2026-01-31T12:00:00+00:00",
    )


def crashes(folder: Path, seconds: float) -> dict[str, Any]:
    """States of all scenarios until the time is over, then each mutant until it is found."""
    scenarios = crash_model.scenarios(release(folder / "release"))
    found = crash_model.Findings()
    orders = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for name, scenario in scenarios.items():
            place = folder / f"{name} {orders}"
            crash_model.run_scenario(scenario, place, orders, found, recover_every=5)
        orders += 1
    killed = {}
    for name, mutant in MUTANTS.items():
        seen = crash_model.Findings()
        for seed in range(100):
            with mutant.applied() as store:
                crash_model.run_scenario(
                    scenarios[mutant.scenario],
                    folder / f"mutant {name} {seed}",
                    seed,
                    seen,
                    store=store,
                    recover_every=10**9,
                )
            if seen.violations:
                break
        killed[name] = seen.violations
    return {
        "scenarios": len(scenarios),
        "orders_of_each": orders,
        "states": found.states,
        "distinct_states": found.distinct,
        "recoveries": found.recovered,
        "violations": found.violations,
        "mutants": len(MUTANTS),
        "mutants_found": sum(bool(violations) for violations in killed.values()),
        "found_by": killed,
    }


def storm(folder: Path, seconds: float) -> dict[str, Any]:
    """Publishers of shared keys, killed at random; then every key once more, in peace."""
    base, lake = release(folder / "release"), folder / "lake"
    rng = random.Random(0)
    counts: Counter[str] = Counter()
    told: list[tuple[str, int]] = []
    running: dict[int, tuple[int, float]] = {}
    recovery: list[float] = []
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end or running:
        while len(running) < _PUBLISHERS and time.monotonic() < end:
            # A new key now and then: the others meet keys of each other, done or half done.
            number += rng.random() < 0.3
            pid, pipe = _publisher(base, f"key-{number}", lake)
            lives = rng.expovariate(1 / 0.06) if rng.random() < 0.8 else float("inf")
            running[pid] = (pipe, time.monotonic() + lives)
            counts["publishers"] += 1
        for pid, (pipe, dies) in list(running.items()):
            if time.monotonic() >= dies:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del running[pid]
                told += _told(pipe)
                counts["killed"] += os.WIFSIGNALED(status)
                counts["failed"] += os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0
        time.sleep(0.001)
    for key in sorted({f"key-{at}" for at in range(1, number + 1)}):
        started = time.perf_counter()
        publish(lake, _named(base, key))
        recovery.append(time.perf_counter() - started)
    entries = log.read_log(lake, "people")
    keys = [entry.key for entry in entries]
    whole = [verify(lake, f"people@{entry.version}").passed for entry in entries]
    lost = [one for one in told if one[1] > len(keys) or keys[one[1] - 1] != one[0]]
    return {
        **counts,
        "keys": number,
        "acknowledged": len(told),
        "acknowledged_lost": len(lost),
        "duplicates": len(keys) - len(set(keys)),
        "corrupt": whole.count(False),
        "versions": len(entries),
        "p95_of_another_try_s": round(float(np.quantile(recovery, 0.95)), 3),
    }


def _named(base: PublishRequest, key: str) -> PublishRequest:
    return PublishRequest(**{**vars(base), "key": key})


def _publisher(base: PublishRequest, key: str, lake: Path) -> tuple[int, int]:
    """A process that publishes and tells of it; its id and the pipe to hear it by."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        made = publish(lake, _named(base, key))
        os.write(writer, f"{key} {made.version}\n".encode())
        status = 0
    finally:
        os._exit(status)


def _told(pipe: int) -> list[tuple[str, int]]:
    with os.fdopen(pipe) as stream:
        return [(line.split()[0], int(line.split()[1])) for line in stream]


def disk(folder: Path, _: float) -> dict[str, Any]:
    """Each step of publishing and retiring fails once, by each error."""
    base = release(folder / "release")
    acts: dict[str, Callable[[Any], object]] = {
        "publish": lambda store: publish_to(store, base),
        "retire": lambda store: retire_in(store, "people@1", "wrong"),
    }
    steps = told = whole = 0
    wrong: list[str] = []
    for name, act in acts.items():
        for code in _CODES:

            def lake(step: int, name: str = name, code: int = code) -> Path:
                place = folder / f"{name}-{code}-{step}"
                if name == "retire" and not place.exists():
                    publish(place, base)
                return place

            done, clear, problems = every_step(lake, act, code)
            steps, told, wrong = steps + done, told + clear, wrong + problems
            whole += sum(verify(lake(step), "people@1").passed for step in range(done))
    return {"steps_failed": steps, "clear_errors": told, "whole_after": whole, "wrong": wrong}


def flips(folder: Path, seconds: float) -> dict[str, Any]:
    """Bits of all published files, log and short cut; and what a plain reader says to them."""
    publish(folder / "lake", release(folder / "release", rows=400))
    files = sorted(path for path in (folder / "lake").rglob("*") if path.is_file())
    rng = np.random.default_rng(0)
    tried = found = plain = silent = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = files[int(rng.integers(len(files)))]
        whole = path.read_bytes()
        damaged = bytearray(whole)
        damaged[int(rng.integers(len(whole)))] ^= 1 << int(rng.integers(8))
        path.chmod(0o644)
        path.write_bytes(damaged)
        tried += 1
        found += not verify(folder / "lake", "people").passed
        if path.suffix == ".parquet":
            plain += 1
            silent += _reads_silently(path)
        path.write_bytes(whole)
    return {
        "files": len(files),
        "bits_flipped": tried,
        "found_by_verify": found,
        "in_parquet": plain,
        "silent_to_a_plain_reader": silent,
    }


def _reads_silently(path: Path) -> bool:
    try:
        pq.ParquetFile(path).read()
    except (OSError, ValueError):
        return False
    return True


def ingest(folder: Path, seconds: float) -> dict[str, Any]:
    """Damaged files, bombs, and bytes that atheris makes."""
    damaged = fuzz.run(seconds / 2, seed=0, kept=folder)
    made = subprocess.run([sys.executable, "-c", _BOMBS], cwd=folder, check=False)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bombs = _bombs(folder)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "damaged": {kind: dict(sorted(found.items())) for kind, found in damaged.items()},
        "bombs": bombs if made.returncode == 0 else "could not be made",
        "memory_grown_by_bombs_mb": round(grown / 1024),
        "atheris": _atheris(folder, seconds / 2),
    }


# Made in a process of its own: what reads them is measured.
_BOMBS = """
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from PIL import Image

index = pa.array(np.zeros(20_000, np.int32))
bomb = pa.table({"x": pa.DictionaryArray.from_arrays(index, pa.array(["x" * 1_000_000]))})
pq.write_table(bomb, "dictionary.parquet")
pq.write_table(bomb, "plain.parquet", store_schema=False)
Path("pictures/a").mkdir(parents=True)
Image.new("1", (30_000, 30_000)).save("pictures/a/large.png")
Path("wide.csv").write_text(",".join(f"c{i}" for i in range(200_000)) + chr(10))
Path("long.csv").write_bytes(b"x" + bytes([10]) + b"y" * 300_000_000)
"""


def _bombs(folder: Path) -> dict[str, str]:
    """What the bounded reader says to files that are small and decode to far too much."""
    from generators.base import LikenessError
    from pipelines.sources import read_source, source_for_path

    said = {}
    for name in ("dictionary.parquet", "plain.parquet", "pictures", "wide.csv", "long.csv"):
        try:
            read_source(source_for_path(folder / name), folder)
            said[name] = "read"
        except LikenessError as error:
            said[name] = f"refused: {type(error).__name__}"
    return said


def _atheris(folder: Path, seconds: float) -> dict[str, Any] | str:
    """Coverage-guided bytes into the readers of CSV and SQL text, in a process of its own."""
    script = Path(__file__).with_name("fuzz_bytes.py")
    command = [sys.executable, str(script), f"-max_total_time={max(int(seconds), 5)}"]
    command += ["-rss_limit_mb=4096", "-max_len=4096", f"-artifact_prefix={folder}/"]
    try:
        import atheris  # noqa: F401 - only whether it is there
    except ImportError:
        return "not installed"
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    runs = [line for line in done.stderr.splitlines() if line.startswith("Done ")]
    inputs = int(runs[-1].split()[1]) if runs else 0
    return {"inputs": inputs, "crashes": int(done.returncode != 0), "exit": done.returncode}


PARTS: dict[str, Callable[[Path, float], dict[str, Any]]] = {
    "storm": storm,  # forks: before anything has started threads
    "crashes": crashes,
    "disk": disk,
    "flips": flips,
    "ingest": ingest,
}


def main() -> None:
    """Run the parts and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--minutes", type=float, default=1.5)
    options = parser.parse_args()
    path = RESULTS / "faults.json"
    figures = json.loads(path.read_text()) if path.is_file() else {}
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    for name in (name for name in PARTS if name in options.only):
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = PARTS[name](Path(folder), 60 * options.minutes)
        figures[name] = {
            "command": f"python -m benchmarks.faults --only {name} --minutes {options.minutes:g}",
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "commit": commit,
            "seconds": round(time.monotonic() - started),
            **found,
        }
        print(name, json.dumps(figures[name], indent=1), flush=True)
        path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
