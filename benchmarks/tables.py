"""Side by side: table generators on one real table with a holdout.

    python benchmarks/tables.py --train adult.csv --test adult_test.csv --target income

Every generator learns the train file and samples as many rows. Measured are seconds, the error of
columns and of pairs (SDMetrics' QualityReport without its thresholds and without subsampling),
how well boosted trees tell synthetic from holdout rows, how well they learn the target from
synthetic rows, how many rows are copied, and a membership attack. Each has its real counterpart in
the first line. The result goes to ``benchmarks/results/`` with machine, versions and command.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from sdmetrics.reports.single_table.quality_report import QualityReport
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generators import GENERATORS, TableSchema
from generators.base import Generator

RESULTS = Path(__file__).resolve().parent / "results"
VERSIONS = ("numpy", "pandas", "scikit-learn", "scipy", "sdmetrics", "sdv", "torch")
DEFAULT_FAMILIES = "independent,forest"
MAX_CATEGORIES = 255  # of HistGradientBoosting


@dataclass(frozen=True, kw_only=True)
class Table:
    """Real rows that are learned, and real rows that are not."""

    train: pd.DataFrame
    test: pd.DataFrame
    schema: TableSchema


def main() -> None:
    """Run the benchmark that the command line asks for."""
    options = _options()
    table = read_table(options.train, options.test, options.target)
    families = [*options.generators.split(","), *(_peers() if options.peers else [])]
    rows: dict[str, dict[str, float]] = {"real holdout": floor(table, options.seed)}
    print_row("", rows["real holdout"], header=True)
    print_row("real holdout", rows["real holdout"])
    for family in dict.fromkeys(families):
        for seed in range(options.seed, options.seed + options.seeds):
            label = family if options.seeds == 1 else f"{family} seed {seed}"
            generator = GENERATORS[family].from_parameters({**options.set, "seed": seed})
            rows[label] = measure(generator, table, seed)
            print_row(label, rows[label])
    print(f"\nwritten: {write(options, table, rows)}")


def read_table(train: Path, test: Path, target: str) -> Table:
    """Both files, with the schema of the train file."""
    frames = pd.read_csv(train), pd.read_csv(test)
    return Table(
        train=frames[0], test=frames[1], schema=TableSchema.infer(frames[0], target=target)
    )


def measure(generator: Generator, table: Table, seed: int) -> dict[str, float]:
    """All figures of one generator."""
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about their own habits
        generator.fit(table.train, table.schema)
        fitted = time.perf_counter()
        synthetic = generator.sample(len(table.train), seed=seed)
    sampled = time.perf_counter()
    if not isinstance(synthetic, pd.DataFrame):
        raise TypeError(f"a table generator must be given, got {generator.name}")
    return {
        "fit s": fitted - begin,
        "sample s": sampled - fitted,
        **score(table, synthetic, seed),
    }


def floor(table: Table, seed: int) -> dict[str, float]:
    """The same figures for fresh real rows: one half of the test file is judged by the other."""
    shuffled = table.test.sample(frac=1, random_state=seed)
    half = len(shuffled) // 2
    rest = Table(train=table.train, test=shuffled[half:], schema=table.schema)
    real = score(rest, shuffled[:half], seed)
    everyone = Table(train=table.train, test=table.test, schema=table.schema)
    return {"fit s": 0.0, "sample s": 0.0, **real, "TSTR": utility(everyone, table.train, seed)}


def score(table: Table, synthetic: pd.DataFrame, seed: int) -> dict[str, float]:
    """Every figure but the seconds."""
    shape, trend = quality(table, synthetic)
    auc, tpr = membership(table, synthetic, seed)
    return {
        "shape %": shape,
        "trend %": trend,
        "C2ST": detection(table, synthetic, seed),
        "TSTR": utility(table, synthetic, seed),
        "copies train": copies(synthetic, table.train, len(table.test), seed),
        "copies holdout": copies(synthetic, table.test, len(table.test), seed),
        "MIA AUC": auc,
        "MIA TPR@1%": tpr,
    }


def quality(table: Table, synthetic: pd.DataFrame) -> tuple[float, float]:
    """Shape and trend error in percent, comparable with SDMetrics 0.11 to 0.26."""
    report = QualityReport()
    report.real_correlation_threshold = report.real_association_threshold = 0
    report.num_rows_subsample = None
    kinds = {"boolean": "categorical", "text": "unknown"}
    columns = {c.name: {"sdtype": kinds.get(c.kind, c.kind)} for c in table.schema.columns}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        report.generate(table.train, synthetic, {"columns": columns}, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return (
        100 * (1 - float(scores["Column Shapes"])),
        100 * (1 - float(scores["Column Pair Trends"])),
    )


def detection(table: Table, synthetic: pd.DataFrame, seed: int) -> float:
    """AUC of boosted trees that tell synthetic from holdout rows, 3 folds; 0.5 is best."""
    size = min(len(synthetic), len(table.test))
    both = pd.concat(
        [
            table.test.sample(size, random_state=seed),
            synthetic.sample(size, random_state=seed),
        ],
        ignore_index=True,
    )
    truth = np.repeat([0, 1], size)
    features, mask = numbers(both, table.schema)
    model = HistGradientBoostingClassifier(categorical_features=mask, random_state=seed)
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    guess = cross_val_predict(model, features, truth, cv=folds, method="predict_proba")
    return float(roc_auc_score(truth, guess[:, 1]))


def utility(table: Table, synthetic: pd.DataFrame, seed: int) -> float:
    """Trained on synthetic, tested on real: AUC (mean of one against rest), or R² for numbers."""
    target = str(table.schema.target)
    names = [name for name in table.schema.names if name != target]
    train, mask = numbers(synthetic[names], table.schema)
    test, _ = numbers(table.test[names], table.schema)
    if not table.schema[target].discrete:
        regressor = HistGradientBoostingRegressor(categorical_features=mask, random_state=seed)
        regressor.fit(train, synthetic[target])
        return float(r2_score(table.test[target], regressor.predict(test)))
    model = HistGradientBoostingClassifier(categorical_features=mask, random_state=seed)
    model.fit(train, synthetic[target].astype(str))
    guess = model.predict_proba(test)
    truth = table.test[target].astype(str).to_numpy()
    aucs = [
        roc_auc_score(truth == level, guess[:, at])
        for at, level in enumerate(model.classes_)
        if 0 < (truth == level).sum() < len(truth)
    ]
    return float(np.mean(aucs))


def copies(synthetic: pd.DataFrame, real: pd.DataFrame, size: int, seed: int) -> float:
    """Share of synthetic rows that equal one of ``size`` real rows in every column."""
    some = real.sample(min(size, len(real)), random_state=seed)
    known = pd.util.hash_pandas_object(some, index=False)
    return float(pd.util.hash_pandas_object(synthetic, index=False).isin(set(known)).mean())


def membership(table: Table, synthetic: pd.DataFrame, seed: int) -> tuple[float, float]:
    """AUC and true-positive rate at 1 % false positives of a distance attack.

    Members are train rows, the others one half of the holdout; the score is the distance to the
    nearest synthetic row over the distance to the nearest row of the holdout's other half.
    """
    half = min(len(table.test) // 2, len(table.train))
    shuffled = table.test.sample(frac=1, random_state=seed)
    outside, reference = shuffled[:half], shuffled[half : 2 * half]
    members = table.train.sample(half, random_state=seed)
    embed = embedding(table)
    queries = np.concatenate([embed(members), embed(outside)])
    near = nearest(embed(synthetic), queries)
    usual = nearest(embed(reference), queries)
    score = -near / np.maximum(usual, 1e-9)
    truth = np.repeat([1, 0], half)
    bar = np.quantile(score[half:], 0.99, method="higher")
    return float(roc_auc_score(truth, score)), float((score[:half] > bar).mean())


def nearest(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Euclidean distance of each query to the nearest point."""
    index = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
    return index.kneighbors(queries)[0][:, 0]


def embedding(table: Table) -> Callable[[pd.DataFrame], np.ndarray]:
    """A function from frames to points: numbers as train ranks, categories at distance 1."""
    known = {
        c.name: np.sort(table.train[c.name].dropna().to_numpy())
        for c in table.schema.modelled
        if not c.discrete
    }

    def embed(frame: pd.DataFrame) -> np.ndarray:
        parts = []
        for column in table.schema.modelled:
            series = frame[column.name]
            if column.discrete:
                hot = series.to_numpy()[:, None] == np.array(column.levels, dtype=object)
                parts.append(hot.astype(np.float32) / np.float32(2**0.5))
                continue
            order = known[column.name]
            place = np.searchsorted(order, series.to_numpy()) / max(len(order), 1)
            parts.append(np.where(series.isna(), -1, place)[:, None].astype(np.float32))
        return np.concatenate(parts, axis=1)

    return embed


def numbers(frame: pd.DataFrame, schema: TableSchema) -> tuple[np.ndarray, np.ndarray]:
    """Features for boosted trees and which of them are categories."""
    columns = [schema[name] for name in frame.columns if schema[name].modelled]
    made, mask = [], []
    for column in columns:
        series = frame[column.name]
        if column.discrete:
            lookup = {level: code for code, level in enumerate(column.levels)}
            made.append(series.map(lookup).astype(float).to_numpy())
            mask.append(len(column.levels) <= MAX_CATEGORIES)
        else:
            made.append(series.to_numpy(dtype=np.float64, na_value=np.nan))
            mask.append(False)
    return np.column_stack(made), np.array(mask)


def print_row(label: str, figures: dict[str, float], *, header: bool = False) -> None:
    """One line of the table, as soon as it is known."""
    if header:
        print(f"{label:22s}" + "".join(f"{name:>15s}" for name in figures), flush=True)
        return
    print(f"{label:22s}" + "".join(f"{value:15.4f}" for value in figures.values()), flush=True)


def write(options: argparse.Namespace, table: Table, rows: dict[str, dict[str, float]]) -> Path:
    """The result as JSON, with all that is needed to repeat it."""
    result = {
        "command": shlex.join(["python", "benchmarks/tables.py", *_public_arguments()]),
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cpu": _cpu(), "cores": os.cpu_count(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{n: version(n) for n in VERSIONS}},
        "rows": {"train": len(table.train), "test": len(table.test)},
        "columns": len(table.schema.columns),
        "parameters": options.set,
        "figures": rows,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{options.name or options.train.stem}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--generators", default=DEFAULT_FAMILIES, help="comma-separated names")
    parser.add_argument("--peers", action="store_true", help="add SDV's families")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="models with different seeds")
    parser.add_argument("--set", type=json.loads, default={}, help="parameters as JSON")
    parser.add_argument("--name", help="of the result file")
    return parser.parse_args()


def _peers() -> list[str]:
    return [name for name in GENERATORS if name.startswith("sdv-")]


def _public_arguments() -> list[str]:
    """The arguments with file names only: folders are nobody's business."""
    return [Path(word).name if word.endswith(".csv") else word for word in sys.argv[1:]]


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
