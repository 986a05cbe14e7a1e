"""How time and memory grow with the rows: 10,000, 100,000 and a million of 20 columns.

    python benchmarks/growth.py --generators forest
    python benchmarks/growth.py --generators autoregressive --set '{"max_minutes": 10}'

Each generator learns a made-up table of dependent columns (numbers, spikes, dates, categories,
missing cells) and samples as many rows, in a process of its own. The exponent is that of a power
law of processor seconds between the last two sizes: 1 is linear; ``steps`` tells where a limit of
steps or of minutes, and not the rows, decides how long training takes. The result goes to
``benchmarks/results/growth.json``; a run replaces the families that it measures.
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
    """Measure every size and write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--generators", default="forest")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--set", type=json.loads, default={}, help="parameters, as JSON")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "FAMILY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), options.child[1], options.set)
        return
    for family in options.generators.split(","):
        figures: dict[int, tabular.Figures] = {}
        for rows in options.rows:
            figures[rows] = cost(family, rows, options.set)
            record(family, figures)


def record(family: str, figures: dict[int, tabular.Figures]) -> None:
    """Write one family's figures with the circumstances of this run; others stay."""
    path = tabular.RESULTS / "growth.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    found[family] = {
        "command": shlex.join(["python", "benchmarks/growth.py", *tabular.public_arguments()]),
        **tabular.circumstances(),
        "figures": figures,
        "exponent": exponent(figures) if len(figures) > 1 else None,
    }
    path.write_text(json.dumps(found, indent=2) + "\n")


def cost(family: str, rows: int, parameters: dict[str, object]) -> tabular.Figures:
    """Seconds of fit and sample, and the peak of memory, of one size."""
    with tempfile.TemporaryDirectory() as name:
        folder, frame = Path(name), made_up(rows)
        frame.to_parquet(folder / "train.parquet", index=False)
        (folder / "schema.json").write_text(TableSchema.infer(frame).to_json())
        command = [sys.executable, __file__, "--set", json.dumps(parameters)]
        subprocess.run([*command, "--child", name, family], check=True)
        found: tabular.Figures = json.loads((folder / "cost.json").read_text())
    print(family, rows, {name: round(value, 1) for name, value in found.items()}, flush=True)
    return found


def child(folder: Path, family: str, parameters: dict[str, object]) -> None:
    """Fit and sample as the table benchmark does; the steps of training join the cost."""
    generator = tabular.child(folder, family, 0, parameters)
    losses = getattr(generator, "loss_history_", None)
    if losses:
        path = folder / "cost.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "steps": losses[-1][0]}))


def exponent(sizes: dict[int, tabular.Figures]) -> float:
    """Of the power law through the two largest sizes."""
    few, many = sorted(sizes)[-2:]
    return math.log(sizes[many]["cpu s"] / sizes[few]["cpu s"]) / math.log(many / few)


if __name__ == "__main__":
    main()
