"""dpmm's private generators (MST, AIM) on one table, in an environment of its own.

    python benchmarks/peers/dpmm_private.py FOLDER SEED dpmm-mst

Reads ``train.parquet`` and ``schema.json`` in FOLDER; leaves ``synthetic.parquet`` and
``cost.json``. As with ours, the levels and bounds of the schema are public, ε is 1 in all, of which
dpmm's default of 0.1 goes to the bins of numbers, and δ is 1e-6. All else is its default.
Install it with ``pip install dpmm==0.1.9 "pyarrow<16"``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pandas as pd
from dpmm.pipelines import AIMPipeline, MSTPipeline

PIPELINES = {"dpmm-mst": MSTPipeline, "dpmm-aim": AIMPipeline}
BINS = 0.1


def main(folder: Path, seed: int, family: str) -> None:
    """Fit and sample as many rows."""
    train = pd.read_parquet(folder / "train.parquet")
    columns = json.loads((folder / "schema.json").read_text())["table"]["columns"]
    domain = {
        c["name"]: {"categories": c["levels"]}
        if c["levels"]
        else {"lower": c["low"], "upper": c["high"]}
        for c in columns
    }
    begin, busy = time.perf_counter(), time.process_time()
    pipeline = PIPELINES[family](epsilon=1 - BINS, proc_epsilon=BINS, delta=1e-6, n_jobs=1)
    pipeline.fit(train, domain=domain, random_state=seed)
    fitted = time.perf_counter()
    synthetic = pipeline.generate(n_records=len(train), random_state=seed)
    sampled, busy = time.perf_counter(), time.process_time() - busy
    synthetic[train.columns].to_parquet(folder / "synthetic.parquet", index=False)
    peak = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
    cost = {"fit s": fitted - begin, "sample s": sampled - fitted, "cpu s": busy}
    (folder / "cost.json").write_text(json.dumps({**cost, "memory MB": int(peak) / 1024}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
