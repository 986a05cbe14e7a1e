"""MOSTLY AI's engine (TabularARGN) on one table, in an environment of its own.

    python benchmarks/peers/mostlyai_engine.py FOLDER SEED

Reads ``train.parquet`` in FOLDER; leaves ``synthetic.parquet`` and ``cost.json``. Defaults, but for
value protection, which is off: it would cost the engine fidelity that the others do not pay.
Install it with ``pip install mostlyai-engine==2.7.3 -c constraints.txt``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from mostlyai import engine


def main(folder: Path, seed: int) -> None:
    """Fit and sample as many rows."""
    train = pd.read_parquet(folder / "train.parquet")
    engine.set_random_state(seed)
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        space = Path(name)
        engine.split(tgt_data=train, workspace_dir=space)
        engine.analyze(value_protection=False, workspace_dir=space)
        engine.encode(workspace_dir=space)
        engine.train(workspace_dir=space)
        fitted = time.perf_counter()
        engine.generate(workspace_dir=space, sample_size=len(train))
        synthetic = pd.read_parquet(space / "SyntheticData")
    sampled = time.perf_counter()
    synthetic[train.columns].to_parquet(folder / "synthetic.parquet", index=False)
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    cost = {"fit s": fitted - begin, "sample s": sampled - fitted, "memory MB": int(peak) / 1024}
    (folder / "cost.json").write_text(json.dumps(cost))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
