"""Side by side: table generators on one real table with a holdout.

    python benchmarks/tabular.py --train adult.csv --test adult_test.csv --target income --seeds 3
    python benchmarks/tabular.py --models ours,sdv    # the RAND health insurance experiment

Every generator learns the train rows and samples as many, in a process of its own that has the
machine to itself; a peer that cannot be installed beside us runs in an environment of its own
(``--mostlyai PYTHON``, ``--dpmm PYTHON``). Measured are seconds and memory; the error of columns
and of pairs (SDMetrics' QualityReport without its thresholds and without subsampling) and of the
normalised mutual information; how well boosted trees tell synthetic from holdout rows (with
``--xgboost PYTHON`` also the papers' XGB-C2ST), how well they learn the target from synthetic rows,
how many rows are copied more than from the holdout, and a membership attack, with 95 % intervals.
The first line is the same for fresh real rows. The result goes to ``benchmarks/results/`` with
machine, versions, commit and command, a table in Markdown and a picture of fidelity against time.

A run that measures some models only replaces their lines and leaves the others; every line keeps
the circumstances of its own run: when, commit, machine, threads, load, command. The result is
written after every model, so a long run that is stopped loses one at most.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import normalized_mutual_info_score, r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from generators import GENERATORS, Generator, TableSchema
from generators.base import Private
from generators.schema import schema_from_json
from validators.charts import LIGHT
from validators.statistics import auc_with_interval, two_proportion_difference, wilson

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
VERSIONS = ("numpy", "pandas", "scikit-learn", "scipy", "sdmetrics", "sdv", "torch")
DEFAULT_MODELS = "independent,forest,autoregressive"
# Peers in environments of their own: the script, and the option that names their Python.
PEERS = {
    "mostlyai-engine": ("mostlyai_engine.py", "mostlyai"),
    "dpmm-mst": ("dpmm_private.py", "dpmm"),
    "dpmm-aim": ("dpmm_private.py", "dpmm"),
}
MAX_CATEGORIES = 255  # of HistGradientBoosting
_NMI_BINS = 16


@dataclass(frozen=True, kw_only=True)
class Table:
    """Real rows that are learned, and real rows that are not."""

    train: pd.DataFrame
    test: pd.DataFrame
    schema: TableSchema


Figures = dict[str, float]
Line = dict[str, Any]


def main() -> None:
    """Run the benchmark that the command line asks for."""
    options = _options()
    if options.child:
        child(Path(options.child[0]), options.child[1], int(options.child[2]), options.set)
        return
    wanted = models(options)
    table = randhie() if options.train is None else read_table(options)
    real = floor(table, options.seed, options.xgboost)
    record(options, table, REAL, real)
    print_row("", real, header=True)
    print_row(REAL, real)
    for family in wanted:
        for seed in range(options.seed, options.seed + options.seeds):
            words = f" {json.dumps(options.set)}" if options.set else ""
            label = f"{family}{words} seed {seed}"
            figures = measure(family, seed, table, options)
            print_row(label, figures)
            path = record(options, table, label, figures)
    print(f"\nwritten: {path}")


def models(options: argparse.Namespace) -> list[str]:
    """The families that are asked for, each once, in order."""
    tables = [name for name in GENERATORS if GENERATORS[name].modality == "table"]
    groups = {
        "all": tables,
        "ours": [name for name in tables if not name.startswith("sdv-")],
        "sdv": [name for name in tables if name.startswith("sdv-")],
    }
    named = [one for word in options.models.split(",") for one in groups.get(word, [word])]
    unknown = [name for name in named if name not in tables]
    if unknown:
        raise SystemExit(f"models must be of {', '.join([*groups, *tables])}; got {unknown}")
    named += [name for name, (_, option) in PEERS.items() if getattr(options, option)]
    return list(dict.fromkeys(named))


def read_table(options: argparse.Namespace) -> Table:
    """Both files, with the schema of the train file."""
    train, test = pd.read_csv(options.train), pd.read_csv(options.test)
    return Table(train=train, test=test, schema=TableSchema.infer(train, target=options.target))


def randhie() -> Table:
    """Persons' first years in the RAND experiment: two thirds to learn, a third held out."""
    from statsmodels.datasets import randhie as source

    frame = source.load_pandas().data
    constant = frame.drop(columns="mdvis")
    first = (constant != constant.shift()).any(axis=1)
    persons = frame[first].sample(frac=1, random_state=0).reset_index(drop=True)
    cut = 2 * len(persons) // 3
    train, test = persons[:cut], persons[cut:].reset_index(drop=True)
    return Table(train=train, test=test, schema=TableSchema.infer(train, target="hlthp"))


def measure(family: str, seed: int, table: Table, options: argparse.Namespace) -> Figures:
    """All figures of one generator, fitted and sampled in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table.train.to_parquet(folder / "train.parquet", index=False)
        (folder / "schema.json").write_text(table.schema.to_json())
        command = [sys.executable, __file__, "--set", json.dumps(options.set)]
        command += ["--child", name, family, str(seed)]
        if family in PEERS:
            script, option = PEERS[family]
            peer = Path(__file__).parent / "peers" / script
            command = [getattr(options, option), str(peer), name, str(seed), family]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{family} must fit and sample, it ended with\n{done.stderr[-2000:]}")
        cost = json.loads((folder / "cost.json").read_text())
        synthetic = pd.read_parquet(folder / "synthetic.parquet")
    synthetic = synthetic.astype(table.train.dtypes)
    return {**cost, **score(table, synthetic, seed), **xgboost(table, synthetic, options.xgboost)}


def xgboost(table: Table, synthetic: pd.DataFrame, judge: str | None) -> Figures:
    """The papers' detection score against holdout and train; ``judge`` is a Python with XGBoost."""
    if judge is None:
        return {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides = {"train": table.train, "test": table.test, "synthetic": synthetic}
        for side, frame in sides.items():
            frame.to_parquet(folder / f"{side}.parquet", index=False)
        peer = Path(__file__).parent / "peers" / "xgboost_detection.py"
        subprocess.run([judge, str(peer), name], check=True)
        figures: Figures = json.loads((folder / "xgboost.json").read_text())
    return figures


def child(folder: Path, family: str, seed: int, parameters: dict[str, object]) -> Generator:
    """Fit and sample, and leave the rows and what they cost in ``folder``; the fitted generator."""
    train = pd.read_parquet(folder / "train.parquet")
    schema = schema_from_json((folder / "schema.json").read_text())
    generator = GENERATORS[family].from_parameters({**parameters, "seed": seed})
    if isinstance(generator, Private):
        generator.noise_key = b"public, so that the benchmark can be repeated"
    begin, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peers warn about their own habits
        generator.fit(train, schema)
        fitted = time.perf_counter()
        synthetic = generator.sample(len(train), seed=seed)
    sampled, busy = time.perf_counter(), time.process_time() - busy
    if not isinstance(synthetic, pd.DataFrame):
        raise TypeError(f"a table generator must be given, got {family}")
    synthetic.to_parquet(folder / "synthetic.parquet", index=False)
    # Processor seconds of all threads: what other load on the machine moves least.
    cost = {"fit s": fitted - begin, "sample s": sampled - fitted, "cpu s": busy}
    cost["memory MB"] = _peak_megabytes()
    (folder / "cost.json").write_text(json.dumps(cost))
    return generator


def _peak_megabytes() -> float:
    """Of this process alone; ``getrusage`` would count the parent's, from before exec."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def floor(table: Table, seed: int, judge: str | None = None) -> Figures:
    """The same figures for fresh real rows: one half of the test file is judged by the other."""
    shuffled = table.test.sample(frac=1, random_state=seed)
    half = len(shuffled) // 2
    rest = Table(train=table.train, test=shuffled[half:], schema=table.schema)
    real = {**score(rest, shuffled[:half], seed), **xgboost(rest, shuffled[:half], judge)}
    everyone = Table(train=table.train, test=table.test, schema=table.schema)
    cost = {"fit s": 0.0, "sample s": 0.0, "cpu s": 0.0, "memory MB": 0.0}
    return {**cost, **real, "TSTR": utility(everyone, table.train, seed)}


def score(table: Table, synthetic: pd.DataFrame, seed: int) -> Figures:
    """Every figure but the cost."""
    shape, trend = quality(table, synthetic)
    return {
        "shape %": shape,
        "trend %": trend,
        "wNMI": information_error(table, synthetic),
        "C2ST": detection(table, synthetic, seed),
        "TSTR": utility(table, synthetic, seed),
        **copy_excess(table, synthetic, seed),
        **membership(table, synthetic, seed),
    }


def quality(table: Table, synthetic: pd.DataFrame) -> tuple[float, float]:
    """Shape and trend error in percent, comparable with SDMetrics 0.11 to 0.26."""
    from sdmetrics.reports import QualityReport

    report = QualityReport()
    report.real_correlation_threshold = report.real_association_threshold = 0
    report.num_rows_subsample = None
    kinds = {"boolean": "categorical", "text": "unknown"}
    columns = {c.name: {"sdtype": kinds.get(c.kind, c.kind)} for c in table.schema.columns}
    metadata = {"tables": {"table": {"columns": columns}}}
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        report.generate({"table": table.train}, {"table": synthetic}, metadata, verbose=False)
    scores = report.get_properties().set_index("Property")["Score"]
    return (
        100 * (1 - float(scores["Column Shapes"])),
        100 * (1 - float(scores["Column Pair Trends"])),
    )


def detection(table: Table, synthetic: pd.DataFrame, seed: int) -> float:
    """AUC of boosted trees that tell synthetic from holdout rows, 3 folds; 0.5 is best."""
    return told_apart(table, table.test, synthetic, seed, folds=3)


def told_apart(
    table: Table, one: pd.DataFrame, other: pd.DataFrame, seed: int, *, folds: int
) -> float:
    """AUC of boosted trees that tell equally many rows of two frames apart."""
    size = min(len(one), len(other))
    both = pd.concat([f.sample(size, random_state=seed) for f in (one, other)], ignore_index=True)
    truth = np.repeat([0, 1], size)
    features, mask = numbers(both, table.schema)
    model = HistGradientBoostingClassifier(categorical_features=mask, random_state=seed)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    guess = cross_val_predict(model, features, truth, cv=parts, method="predict_proba")
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


def information_error(table: Table, synthetic: pd.DataFrame) -> float:
    """Error of the normalised mutual information of pairs, weighted by the real one.

    Numbers are cut at the train table's quantiles, so both tables have the same bins.
    """
    real, made = _binned(table, table.train), _binned(table, synthetic)
    pairs = list(itertools.combinations(real, 2))
    true = np.array([normalized_mutual_info_score(real[a], real[b]) for a, b in pairs])
    found = np.array([normalized_mutual_info_score(made[a], made[b]) for a, b in pairs])
    return float((true * abs(true - found)).sum() / true.sum())


def _binned(table: Table, frame: pd.DataFrame) -> dict[str, np.ndarray]:
    bins = {}
    for column in table.schema.modelled:
        series = frame[column.name]
        if column.discrete:
            bins[column.name] = pd.Categorical(series.astype(str)).codes
            continue
        edges = np.unique(table.train[column.name].quantile(np.linspace(0, 1, _NMI_BINS + 1)[1:-1]))
        place = np.searchsorted(edges, series.to_numpy(dtype=np.float64, na_value=np.nan), "right")
        bins[column.name] = np.where(series.isna(), -1, place)
    return bins


def copy_excess(table: Table, synthetic: pd.DataFrame, seed: int) -> Figures:
    """How much oftener a synthetic row equals a train row than one of as many holdout rows."""
    size = min(len(table.test), len(table.train))
    n = len(synthetic)
    train = copies(synthetic, table.train, size, seed)
    holdout = copies(synthetic, table.test, size, seed)
    excess = two_proportion_difference(train, n, holdout, n)
    return {
        "copy excess": excess.value,
        "copy excess low": excess.low,
        "copy excess high": excess.high,
    }


def copies(synthetic: pd.DataFrame, real: pd.DataFrame, size: int, seed: int) -> int:
    """How many synthetic rows equal one of ``size`` real rows in every column."""
    some = real.sample(size, random_state=seed)
    known = pd.util.hash_pandas_object(some, index=False)
    return int(pd.util.hash_pandas_object(synthetic, index=False).isin(set(known)).sum())


def membership(table: Table, synthetic: pd.DataFrame, seed: int) -> Figures:
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
    attack = -near / np.maximum(usual, 1e-9)
    auc = auc_with_interval(attack[:half], attack[half:])
    bar = np.quantile(attack[half:], 0.99, method="higher")
    caught = int((attack[:half] > bar).sum())
    low, high = wilson(caught, half)
    return {
        "MIA AUC": auc.value,
        "MIA AUC low": auc.low,
        "MIA AUC high": auc.high,
        "MIA TPR@1%": caught / half,
        "MIA TPR@1% low": low,
        "MIA TPR@1% high": high,
    }


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


SHOWN = (
    *("fit s", "sample s", "cpu s", "memory MB", "shape %", "trend %", "wNMI"),
    *("C2ST", "XGB-C2ST", "TSTR", "copy excess", "MIA AUC", "MIA TPR@1%"),
)


REAL = "fresh real rows"


def print_row(label: str, figures: Figures, *, header: bool = False) -> None:
    """One line of the table, as soon as it is known."""
    words = (
        SHOWN if header else [_spread([figures[name]] if name in figures else []) for name in SHOWN]
    )
    print(f"{'' if header else label:26s}" + "".join(f"{word:>12s}" for word in words), flush=True)


def record(options: argparse.Namespace, table: Table, label: str, figures: Figures) -> Path:
    """Put one line into the result, with how it came about; also as Markdown and as a picture.

    Lines of other models stay where they are of the same tables.
    """
    path, table_facts = _result_file(options), facts(table)
    lines: dict[str, Line] = {}
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["table"] != table_facts:
            raise SystemExit(
                f"{path.name} must be of the same table, it is of another; give --name"
            )
        lines = kept["lines"]
    run = {"command": shlex.join(["python", "benchmarks/tabular.py", *public_arguments()])}
    lines[label] = {"figures": figures, "run": {**run, **circumstances()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"table": table_facts, "lines": lines}, indent=2) + "\n")
    families = by_family({name: line["figures"] for name, line in lines.items()})
    path.with_suffix(".md").write_text(markdown(families))
    path.with_suffix(".svg").write_text(picture(families))
    return path


def facts(table: Table) -> dict[str, object]:
    """What a table is told apart by; of real rows the numbers alone."""
    return {
        "train": len(table.train),
        "test": len(table.test),
        "columns": len(table.schema.columns),
        "target": table.schema.target,
    }


def _result_file(options: argparse.Namespace) -> Path:
    name = options.name or (options.train.stem if options.train else "randhie")
    return RESULTS / f"{name}.json"


def circumstances() -> dict[str, object]:
    """When, with what and on what machine."""
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": os.environ.get("OMP_NUM_THREADS", "default"),
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version(), **{n: version(n) for n in VERSIONS}},
    }


def by_family(rows: dict[str, Figures]) -> dict[str, list[Figures]]:
    """The figures of each family's seeds, real rows first, then by how hard they are to tell."""
    families: dict[str, list[Figures]] = {}
    for label, figures in rows.items():
        families.setdefault(label.partition(" seed ")[0], []).append(figures)

    def rank(family: str) -> float:
        told = float(np.mean([seed["C2ST"] for seed in families[family]]))
        return -1.0 if family == REAL else told

    return {family: families[family] for family in sorted(families, key=rank)}


def markdown(families: dict[str, list[Figures]]) -> str:
    """A table with the mean over the seeds and, in brackets, the least and the greatest."""
    lines = ["| | " + " | ".join(SHOWN) + " |", "|---" * (len(SHOWN) + 1) + "|"]
    for family, seeds in families.items():
        cells = [_spread([each[name] for each in seeds if name in each]) for name in SHOWN]
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if not values:
        return "not measured"
    mean = float(np.mean(values))
    digits = 1 if abs(mean) >= 10 else 2 if abs(mean) >= 1 else 4
    text = f"{mean:.{digits}f}"
    if len(values) > 1:
        text += f" ({min(values):.{digits}f} – {max(values):.{digits}f})"
    return text


def picture(families: dict[str, list[Figures]]) -> str:
    """Seconds (log) against the C2ST AUC of every seed, as SVG: low and left is best.

    Processor seconds, which other work on the machine moves least, where they were counted.
    """
    points = [
        (family, seed.get("cpu s") or seed["fit s"] + seed["sample s"], seed["C2ST"])
        for family, seeds in families.items()
        for seed in seeds
        if seed["fit s"] > 0
    ]
    wide, high, margin = 720, 400, 60
    times = np.log10([seconds for _, seconds, _ in points] or [1.0])
    low, span = np.floor(times.min()), max(np.ceil(times.max()) - np.floor(times.min()), 1.0)

    def place(seconds: float, auc: float) -> tuple[float, float]:
        x = margin + (np.log10(seconds) - low) / span * (wide - 2 * margin)
        return float(x), float(margin + (1.0 - auc) / 0.5 * (high - 2 * margin))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" '
        'font-family="system-ui,sans-serif" font-size="13">',
        f'<rect width="{wide}" height="{high}" fill="{LIGHT.surface}"/>',
        f'<text x="{margin}" y="24" fill="{LIGHT.ink}">How well boosted trees tell synthetic from '
        "held-out real rows: AUC, 0.5 is best</text>",
        f'<text x="{wide / 2}" y="{high - 12}" text-anchor="middle" fill="{LIGHT.muted}">'
        "processor seconds (elapsed where not counted); a dot is a training seed; "
        "blue is Likeness</text>",
    ]
    for auc in (0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        y = place(10.0**low, auc)[1]
        parts.append(
            f'<path d="M{margin} {y:.1f}H{wide - margin}" stroke="{LIGHT.line}"/>'
            f'<text x="{margin - 8}" y="{y + 4:.1f}" text-anchor="end" fill="{LIGHT.muted}">'
            f"{auc:.1f}</text>"
        )
    for power in range(int(low), int(low + span) + 1):
        x = place(10.0**power, 0.5)[0]
        parts.append(
            f'<text x="{x:.1f}" y="{high - margin + 22}" text-anchor="middle" '
            f'fill="{LIGHT.muted}">{10.0**power:g} s</text>'
        )
    dots = [(family, *place(seconds, auc)) for family, seconds, auc in points]
    for family, x, y in dots:
        ours = not family.startswith(("sdv-", *PEERS))
        fill = LIGHT.real if ours else LIGHT.synthetic
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>')
    for family, x, y in _names(dots):
        parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{LIGHT.ink}">{family}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _names(dots: list[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Where each family's name starts: beside one of its dots, clear of dots and other names."""
    placed: list[tuple[str, float, float]] = []
    for family in dict.fromkeys(name for name, _, _ in dots):
        wide = 7.5 * len(family)
        choices = [
            (family, x + shift, y + 4 + lift)
            for lift in (0, -14, 14, -28)
            for name, x, y in dots
            if name == family
            for shift in (9, -9 - wide)
        ]
        placed.append(min(choices, key=lambda one: _covered(one, dots, placed)))
    return placed


def _covered(
    name: tuple[str, float, float],
    dots: list[tuple[str, float, float]],
    placed: list[tuple[str, float, float]],
) -> int:
    """How many dots and names a name at this place would cover."""
    family, left, base = name
    right = left + 7.5 * len(family)
    over_dots = sum(left - 6 < x < right + 6 and base - 16 < y < base + 6 for _, x, y in dots)
    over_names = sum(
        left < x + 7.5 * len(other) and x < right and abs(y - base) < 14 for other, x, y in placed
    )
    return over_dots + over_names


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=Path, help="CSV to learn; without it, randhie")
    parser.add_argument("--test", type=Path, help="CSV of rows that are not learned")
    parser.add_argument("--target", help="the column that TSTR predicts")
    parser.add_argument(
        "--models",
        default=DEFAULT_MODELS,
        help="comma-separated names, or the groups ours, sdv, all",
    )
    parser.add_argument("--mostlyai", help="a Python that has mostlyai-engine")
    parser.add_argument("--dpmm", help="a Python that has dpmm")
    parser.add_argument("--xgboost", help="a Python that has xgboost and sdmetrics: XGB-C2ST too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, help="models with different seeds")
    parser.add_argument("--set", type=json.loads, default={}, help="parameters as JSON")
    parser.add_argument("--name", help="of the result files")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def public_arguments() -> Iterable[str]:
    """The arguments with file names only: folders are nobody's business."""
    return [re.sub(r"[^=\s]*/", "", word.rstrip("/")) for word in sys.argv[1:]]


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
