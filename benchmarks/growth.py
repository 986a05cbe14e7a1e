"""How time and memory grow with the rows: 10,000, 100,000 and a million of 20 columns.

    python benchmarks/growth.py --generators forest,autoregressive

Each generator learns a made-up table of dependent columns (numbers, spikes, dates, categories,
missing cells) and samples as many rows, in a process of its own. The exponent is that of a power
law between the last two sizes: 1 is linear. The result goes to ``benchmarks/results/growth.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tabular

from generators import TableSchema

SIZES = (10_000, 100_000, 1_000_000)


def made_up(rows: int) -> pd.DataFrame:
    """20 columns that hang together by three hidden numbers."""
    rng = np.random.default_rng(rows)
    hidden = rng.normal(size=(rows, 3))
    columns: dict[str, object] = {}
    for number in range(20):
        mix = hidden @ rng.normal(size=3) + rng.normal(size=rows)
        kind = number % 5
        if kind == 0:
            columns[f"real_{number}"] = np.where(rng.random(rows) < 0.05, np.nan, mix)
        elif kind == 1:
            columns[f"money_{number}"] = np.where(mix < 0, 0.0, np.round(np.exp(mix + 5), 2))
        elif kind == 2:
            columns[f"class_{number}"] = np.char.add(
                "c", np.digitize(mix, [-2, -1, 0, 2]).astype(str)
            )
        elif kind == 3:
            columns[f"count_{number}"] = np.floor(np.exp(np.clip(mix, -3, 3))).astype(np.int64)
        else:
            days = np.datetime64("2020-01-01") + (400 + 80 * mix).astype("timedelta64[D]")
            columns[f"day_{number}"] = days.astype("datetime64[us]")
    return pd.DataFrame(columns)


def main() -> None:
    """Measure every size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--generators", default="forest")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    options = parser.parse_args()
    figures: dict[str, dict[int, tabular.Figures]] = {}
    for family in options.generators.split(","):
        figures[family] = {rows: cost(family, rows) for rows in options.rows}
    result = {
        "command": shlex.join(["python", "benchmarks/growth.py", *tabular.public_arguments()]),
        **tabular.circumstances(),
        "figures": figures,
        "exponent": {family: exponent(sizes) for family, sizes in figures.items()},
    }
    path = tabular.RESULTS / "growth.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


def cost(family: str, rows: int) -> tabular.Figures:
    """Seconds of fit and sample, and the peak of memory, of one size."""
    with tempfile.TemporaryDirectory() as name:
        folder, frame = Path(name), made_up(rows)
        frame.to_parquet(folder / "train.parquet", index=False)
        (folder / "schema.json").write_text(TableSchema.infer(frame).to_json())
        command = [sys.executable, tabular.__file__, "--child", name, family, "0"]
        subprocess.run(command, check=True)
        found: tabular.Figures = json.loads((folder / "cost.json").read_text())
    print(family, rows, {name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def exponent(sizes: dict[int, tabular.Figures]) -> float:
    """Of the power law through the two largest sizes."""
    few, many = sorted(sizes)[-2:]
    seconds = [sizes[rows]["fit s"] + sizes[rows]["sample s"] for rows in (few, many)]
    return math.log(seconds[1] / seconds[0]) / math.log(many / few)


if __name__ == "__main__":
    main()
