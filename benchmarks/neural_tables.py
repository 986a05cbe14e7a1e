"""CTGAN and TVAE beside SDV's: seconds, and how close the samples are, in one run.

    python -m benchmarks.neural_tables train.csv --rows 8000 --epochs 31 --rounds 3

Both sides run in this process with the same number of threads and networks of SDV's default sizes,
taking turns; batches are each side's default (SDV's 500; ours 500, and 1,000 from 20,000 rows on).
Ours multiplies matrices in bfloat16 where the processor has instructions for it.

The time of an epoch is what further epochs add: (T(epochs) - T(1)) / (epochs - 1), the median over
the rounds; the setup is T(1) less one epoch. ``fit_300`` extrapolates to 300 epochs from these and
is no measurement. On a GPU, which both sides take where there is one, an epoch of ours is short
beside the setup: ``--own-epochs`` gives ours more of them (its errors are then of a longer
training). ``wall`` is elapsed time; ``cpu`` is processor time of all threads, which other
load on the machine moves less. Errors are those of the model after ``epochs`` epochs:

- shape: mean over columns of the Kolmogorov-Smirnov or total variation distance;
- trend: mean over pairs of columns, each cut into at most 10 groups, of the total variation
  distance between the joint shares.

Run it on a machine with nothing else to do, and read the load averages in the report: with more
runnable threads than cores, our steps at several threads slow down many times over.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from generators import GENERATORS, Generator, TableSchema
from generators.training import fast_bfloat16

PAIRS = {"ctgan": "sdv-ctgan", "tvae": "sdv-tvae"}
_GROUPS = 10


def grouped(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> list[np.ndarray]:
    """Codes of each modelled column in at most ten groups: an array per column, real first."""
    codes = []
    for column in schema.modelled:
        both = pd.concat([real[column.name], synthetic[column.name]], ignore_index=True)
        if column.discrete:
            top = real[column.name].value_counts().index[: _GROUPS - 1]
            codes.append(pd.Categorical(both, categories=top).codes + 1)
        else:
            cuts = np.unique(real[column.name].quantile(np.linspace(0, 1, _GROUPS)[1:-1]))
            codes.append(np.searchsorted(cuts, both.to_numpy(), side="right"))
    return codes


def trend_error(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> float:
    """Mean total variation distance between joint shares over all pairs of columns."""
    codes, n = grouped(real, synthetic, schema), len(real)
    errors = []
    for left, right in itertools.combinations(codes, 2):
        cell = left.astype(np.int64) * (_GROUPS + 1) + right
        p = np.bincount(cell[:n], minlength=(_GROUPS + 1) ** 2) / n
        q = np.bincount(cell[n:], minlength=(_GROUPS + 1) ** 2) / (len(cell) - n)
        errors.append(0.5 * np.abs(p - q).sum())
    return float(np.mean(errors))


def shape_error(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> float:
    """Mean distance of the columns' distributions."""
    errors = []
    for column in schema.modelled:
        ours, theirs = real[column.name].dropna(), synthetic[column.name].dropna()
        if column.discrete:
            p, q = ours.value_counts(normalize=True), theirs.value_counts(normalize=True)
            errors.append(0.5 * float(p.sub(q, fill_value=0).abs().sum()))
        else:
            x, y = np.sort(ours.to_numpy()), np.sort(theirs.to_numpy())
            grid = np.concatenate([x, y])
            below = [np.searchsorted(v, grid, side="right") / len(v) for v in (x, y)]
            errors.append(float(np.abs(below[0] - below[1]).max()))
    return float(np.mean(errors))


def clock() -> np.ndarray:
    """Elapsed and processor seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def fit(
    name: str, epochs: int, frame: pd.DataFrame, schema: TableSchema
) -> tuple[Generator, np.ndarray]:
    """The fitted generator and the seconds it took."""
    generator = GENERATORS[name].from_parameters({"epochs": epochs, "seed": 0})
    begin = clock()
    generator.fit(frame, schema)
    return generator, clock() - begin


def measure(
    names: dict[str, int], frame: pd.DataFrame, schema: TableSchema, rounds: int
) -> dict[str, dict[str, float]]:
    """Seconds and errors of each generator after its epochs; they take turns in every round."""
    for name in names:  # imports and first-call costs stay out of the figures
        fit(name, 1, frame.head(500), schema)
    one: dict[str, list[np.ndarray]] = {name: [] for name in names}
    many: dict[str, list[np.ndarray]] = {name: [] for name in names}
    results: dict[str, dict[str, float]] = {name: {} for name in names}
    for _ in range(rounds):
        for name, epochs in names.items():
            one[name].append(fit(name, 1, frame, schema)[1])
            generator, seconds = fit(name, epochs, frame, schema)
            many[name].append(seconds)
            if not results[name]:
                sample = generator.sample(len(frame), seed=1)
                results[name] = {
                    "shape_error": shape_error(frame, sample, schema),
                    "trend_error": trend_error(frame, sample, schema),
                }
    for name, epochs in names.items():
        epoch = np.median((np.array(many[name]) - np.array(one[name])) / (epochs - 1), axis=0)
        if not np.all(epoch > 0):
            raise SystemExit(f"{name}: too much other load for {epochs} epochs; take more epochs")
        setup = np.median(one[name], axis=0) - epoch
        for at, kind in enumerate(("wall", "cpu")):
            results[name][f"epoch_{kind}"] = float(epoch[at])
            results[name][f"setup_{kind}"] = float(setup[at])
            results[name][f"fit_300_{kind}"] = float(setup[at] + 300 * epoch[at])
    return results


def main() -> None:
    """Run the comparison and write benchmarks/results/neural_tables.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--epochs", type=int, default=31)
    parser.add_argument("--own-epochs", type=int, help="of ours; else as many")
    parser.add_argument("--rows", type=int, help="a random subset of so many rows")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", choices=sorted(PAIRS))
    folder = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=folder / "neural_tables.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    frame = pd.read_csv(options.csv)
    if options.rows:
        frame = frame.sample(options.rows, random_state=0).reset_index(drop=True)
    schema = TableSchema.infer(frame)
    report: dict[str, Any] = {
        "rows": len(frame),
        "columns": frame.shape[1],
        "epochs": options.epochs,
        "own epochs": options.own_epochs or options.epochs,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "rounds": options.rounds,
        "threads": options.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "bfloat16": fast_bfloat16(torch.device("cpu")),
        "load_before": os.getloadavg()[0],
    }
    for ours, theirs in PAIRS.items():
        if options.only in (None, ours):
            epochs = {ours: options.own_epochs or options.epochs, theirs: options.epochs}
            result = measure(epochs, frame, schema, options.rounds)
            ratio = {key: result[theirs][key] / result[ours][key] for key in result[ours]}
            report[ours] = {**result, "sdv over ours": ratio}
    report["load_after"] = os.getloadavg()[0]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
