"""Peak memory and time of a large candidate: sampled and written, published, verified.

Usage: python benchmarks/streaming.py [--rows 500000 5000000] [--family independent]

Each stage runs in a process of its own, whose peak is told. The model is fitted on 20,000 made-up
rows of 20 columns; the candidate is released by a verdict that is made here, since what is
measured is the way of the rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

RESULTS = Path(__file__).parent / "results"
STAGES = ("sample", "publish", "verify")


def real(rows: int = 20_000) -> pd.DataFrame:
    """A table of 20 columns: numbers, categories, dates, gaps."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f"number{i}": rng.gamma(2, size=rows).round(4) for i in range(8)})
    for i in range(4):
        frame[f"whole{i}"] = pd.Series(rng.integers(0, 50 * 9**i, rows), dtype="Int64")
    for i in range(6):
        levels = [f"level {number}" for number in range(3 + 5 * i)]
        frame[f"category{i}"] = rng.choice(levels, rows)
    days = pd.to_timedelta(rng.integers(0, 3_000, rows), "D")
    frame["day"] = pd.Timestamp("2018-01-01") + days
    frame["gaps"] = frame["number0"].where(rng.random(rows) < 0.7)
    return frame


def stage(name: str, folder: Path, rows: int, family: str) -> None:
    """One stage, in this process; prints its figures."""
    from generators import GENERATORS, load_generator
    from generators.schema import TableSchema
    from pipelines.candidate import candidate_files, recomputed, write_parts
    from pipelines.publication.publish import PublishRequest, publish
    from pipelines.publication.verify import verify

    if name == "fit":
        frame = real()
        GENERATORS[family](seed=0).fit(frame, TableSchema.infer(frame)).save(folder / "model")
        return
    started = time.perf_counter()
    if name == "sample":
        generator = load_generator(folder / "model")
        parts = (generator.sample_block(block) for block in generator.blocks(rows, 0))
        schema = generator.schema_
        write_parts(folder / "candidate", parts, schema, "large", {"train": rows})
    elif name == "publish":
        digest, found = recomputed(folder / "candidate")
        verdict = {"passed": True, "candidate_digest": digest, "contract": "none", "gates": []}
        (folder / "verdict.json").write_text(json.dumps(verdict))
        data = {f"data/{file.name}": file for file in candidate_files(folder / "candidate")}
        request = PublishRequest(
            dataset="large",
            key="key",
            files={**data, "reports/verdict.json": folder / "verdict.json"},
            schema=load_generator(folder / "model").schema_,
            rows=found,
            content_digest=digest,
            facts={},
            created_at="2026-01-01T00:00:00+00:00",
        )
        publish(folder / "lake", request)
    else:
        report = verify(folder / "lake", "large")
        if not report.passed:
            raise SystemExit(f"not whole: {report}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": round(time.perf_counter() - started, 1), "peak_mb": round(peak)}))


def main() -> None:
    """Run all stages for each number of rows and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--family", default="independent")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        stage(options.stage[0], Path(options.stage[1]), options.rows[0], options.family)
        return
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    figures: dict[str, object] = {
        "command": "python " + " ".join(["benchmarks/streaming.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}",
        "family": options.family,
        "columns": real(10).shape[1],
        "rows": {},
    }
    found: dict[str, object] = {}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            steps = {}
            for name in ("fit", *STAGES):
                command = [sys.executable, __file__, "--stage", name, folder]
                command += ["--rows", str(rows), "--family", options.family]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                if name in STAGES:
                    steps[name] = json.loads(done.stdout)
            size = sum(file.stat().st_size for file in Path(folder).glob("lake/**/*.parquet"))
            found[str(rows)] = {**steps, "parquet_mb": round(size / 1e6)}
            print(rows, found[str(rows)], flush=True)
    figures["rows"] = found
    text = json.dumps(figures, indent=1) + "\n"
    (RESULTS / "streaming.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
