"""Proof of the validation suite: its speed, its false failures, and what it catches beside others.

    python benchmarks/validation.py speed --train adult/train.csv --target income
    python benchmarks/validation.py null --splits 100
    python benchmarks/validation.py detection
    python benchmarks/validation.py detection --peer alibi_drift=VENV/bin/python

``speed`` times the whole suite on Adult, all pairs of a made-up table of a million rows, and the
same by SDMetrics in the same process. ``null`` judges fresh real rows as if
they were synthetic, over random splits of two tables that ship with statsmodels: no gate may fail
more often than its interval says; it goes on from the splits that are there, and ``--again
fidelity`` measures that part of all of them anew. ``detection`` plants
the defects of ``tests/validators`` and asks our gates and SDMetrics which they see, or the peers
that are named, whose columns join those that are there. Results go to
``benchmarks/results/validation-*.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import detection_matrix
import tabular

from generators.schema import TableSchema
from validators import VALIDATORS, Comparison, Score, Scorecard
from validators.binning import COARSE_BINS, encode
from validators.contract import load_contract
from validators.fidelity import Fidelity
from validators.pair_counts import pair_counts
from validators.statistics import clopper_pearson, tvd

CONTRACT = load_contract("standard").for_modality("table")
SUITE = [name for name in VALIDATORS if VALIDATORS[name].modality == "table"]
# Of each number what it is where nothing is wrong, and which end must not be beyond it.
NULL = {
    "holdout_detection": 0.5,
    "c2st_auc": 0.5,
    "dcr_share": 0.5,
    "membership_auc": 0.5,
    "membership_auc_isolated": 0.5,
    "membership_auc_group_worst": 0.5,
    "membership_tpr_at_fpr1": 0.01,
    "utility_retention": 1.0,
    "utility_global": 1.0,
    "coverage_ratio": 1.0,
    "representation_worst": 1.0,
}


def main() -> None:
    """Run one section and write its result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("section", choices=["speed", "null", "detection"])
    parser.add_argument("--train", type=Path, help="Adult, or another table, for speed.")
    parser.add_argument("--target", default="income")
    parser.add_argument("--protected", default="sex,race")
    parser.add_argument("--rows", type=int, default=1_000_000, help="Rows of the made-up table.")
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--tables", default="randhie,fair", help="For null.")
    parser.add_argument(
        "--again", default="", help="For null: parts to measure anew, e.g. utility."
    )
    parser.add_argument("--folder", type=Path, help="For detection: tables and judgements stay.")
    parser.add_argument(
        "--samples", type=int, default=20, help="For detection: 0 asks for own rules only."
    )
    parser.add_argument(
        "--peer",
        type=lambda word: word.split("=", 1),
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="For detection: a script of benchmarks/peers and a Python that has the tool.",
    )
    options = parser.parse_args()
    sections: dict[str, Callable[[argparse.Namespace], tuple[dict[str, Any], str]]] = {
        "speed": speed,
        "null": null,
        "detection": detection,
    }
    figures, text = sections[options.section](options)
    write(options.section, figures, text)
    print(text)


def write(section: str, figures: dict[str, Any], text: str) -> None:
    """The figures with the circumstances, as JSON and Markdown."""
    result = {
        "command": shlex.join(["python", "benchmarks/validation.py", *tabular.public_arguments()]),
        **tabular.circumstances(),
        "figures": figures,
    }
    path = tabular.RESULTS / f"validation-{section}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)


def measured(
    comparison: Comparison, parts: Sequence[str] = SUITE
) -> tuple[Scorecard, dict[str, float]]:
    """The scores of the suite, and its processor seconds by part."""
    seconds, scores = {}, []
    started = time.process_time()
    comparison.table, comparison.coarse  # noqa: B018 - encoded once for all
    seconds["encode"] = time.process_time() - started
    for name in parts:
        started = time.process_time()
        scores.extend(VALIDATORS[name]()(comparison))
        seconds[name] = time.process_time() - started
    return Scorecard(tuple(scores)), {k: round(v, 3) for k, v in seconds.items()}


# ---- speed


def speed(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Processor seconds of the suite and of all pairs: other work on the machine costs none."""
    figures: dict[str, Any] = {}
    lines = ["| what | rows | seconds of one processor |", "|---|---|---|"]
    if options.train is not None:
        whole, seconds = _adult(options)
        figures["suite"] = {"rows": whole, "seconds": seconds, "all": sum(seconds.values())}
        lines.append(
            f"| the standard suite, {options.train.parent.name} | {whole} each | "
            f"{sum(seconds.values()):.1f} |"
        )
    million = made_up(options.rows)
    alone = distances_alone(million)
    started = time.process_time()
    million.coarse  # noqa: B018
    encoded = time.process_time() - started
    rows = million.equal_rows("fidelity", options.rows)
    started = time.process_time()
    Fidelity(draws=42).pairs_of(million, rows)
    whole = time.process_time() - started
    theirs = sdmetrics_pairs(million)
    figures["pairs"] = {
        "rows": options.rows,
        "columns": 20,
        "distances alone": alone,
        "whole": {"encode": round(encoded, 2), "seconds": round(whole, 2)},
        "SDMetrics": theirs,
        "times faster": {
            "distances alone, from the tables": theirs["seconds"] / sum(alone.values()),
            "distances alone, from cells": theirs["seconds"] / alone["seconds"],
            "with errors and associations, from the tables": theirs["seconds"] / (encoded + whole),
            "with errors and associations, from cells": theirs["seconds"] / whole,
        },
    }
    ratios = list(figures["pairs"]["times faster"].values())
    size = f"{options.rows:,} + {options.rows:,}"
    lines += [
        f"| SDMetrics' similarity of all {theirs['pairs']} pairs of 20 columns, exact | {size} | "
        f"{theirs['seconds']:.1f} |",
        f"| our distances of the same pairs, nothing else: {alone['encode']:.1f} s to put both "
        f"tables into cells, {alone['seconds']:.1f} s to count | {size} | "
        f"{sum(alone.values()):.1f}: {ratios[0]:.0f}× as fast, {ratios[1]:.0f}× from cells |",
        "| our pairs as the suite reports them, with null, intervals, associations and equivalent "
        f"share: {encoded:.1f} s to put three tables into cells, once for all metrics, "
        f"{whole:.1f} s for the pairs | {size} + {options.rows:,} | {encoded + whole:.1f}: "
        f"{ratios[2]:.0f}× as fast, {ratios[3]:.0f}× from cells |",
    ]
    return figures, "\n".join(lines) + "\n"


def distances_alone(comparison: Comparison) -> dict[str, float]:
    """Processor seconds of what SDMetrics does: cells of two tables, and a distance a pair."""
    _, holdout, synthetic, schema = comparison.frames()
    started = time.process_time()
    table = encode(holdout, holdout[:0], synthetic, schema, COARSE_BINS)
    encoded = time.process_time() - started
    rows = np.arange(min(len(holdout), len(synthetic)))
    tables = [(view.codes, rows) for view in (table.train, table.synthetic)]
    pairs = list(combinations(range(len(table.columns)), 2))
    slices = rows * 25 // len(rows)  # parts of the rows that fit the cache
    for real, made in pair_counts(tables, table.sizes, pairs, slices):
        tvd(real.sum(axis=1), made.sum(axis=1))
    return {
        "encode": round(encoded, 2),
        "seconds": round(time.process_time() - started - encoded, 2),
    }


def _adult(options: argparse.Namespace) -> tuple[int, dict[str, float]]:
    table = pd.read_csv(options.train).sample(frac=1, random_state=0).reset_index(drop=True)
    n = len(table) // 3
    schema = TableSchema.infer(table, target=options.target, protected=options.protected.split(","))
    parts = [table[start : start + n].reset_index(drop=True) for start in (0, n, 2 * n)]
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1, user_api="openmp"):  # as pipelines.steps.measure does
        _, seconds = measured(Comparison(parts[2], parts[0], parts[1], schema))
    return n, seconds


def made_up(n: int) -> Comparison:
    """Twenty columns of numbers and levels that hang on one hidden number."""
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(3):
        hidden = rng.normal(size=n)
        columns: dict[str, np.ndarray] = {}
        for place in range(10):
            columns[f"x{place}"] = np.round(hidden * (place % 4) / 3 + rng.normal(size=n), 3)
        for place in range(10):
            level = np.clip((hidden + rng.normal(size=n)) * 2 + 5, 0, 9).astype(np.int64)
            columns[f"k{place}"] = np.array([f"level {at}" for at in range(10)])[level]
        tables.append(pd.DataFrame(columns))
    schema = TableSchema.infer(tables[0][:50_000])
    return Comparison(tables[2], tables[0], tables[1], schema)


def sdmetrics_pairs(comparison: Comparison) -> dict[str, float]:
    """Processor seconds of SDMetrics' similarity of all pairs on all rows.

    Its report takes 50,000 rows in silence; its metrics take them all when they are called.
    """
    from sdmetrics.column_pairs import ContingencySimilarity

    _, real, made, _ = comparison.frames()
    pairs = list(combinations(real.columns, 2))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for pair in pairs:
            numbers = [name for name in pair if name.startswith("x")]
            ContingencySimilarity.compute(
                real[list(pair)],
                made[list(pair)],
                continuous_column_names=numbers or None,
                num_rows_subsample=None,
            )
    return {"pairs": len(pairs), "seconds": round(time.process_time() - started, 1)}


# ---- null


def null(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """How often gates fail, and intervals miss the truth, for fresh real rows."""
    again = [part for part in options.again.split(",") if part]
    for name in options.tables.split(","):
        path = tabular.RESULTS / f"validation-null-{name}.json"
        splits = json.loads(path.read_text())["figures"]["splits"] if path.is_file() else []
        for split in splits if again else []:
            _put(split, _split(name, split["number"], again))
            print(name, split["number"], *again, flush=True)
        there = {split["number"] for split in splits}
        for number in (one for one in range(options.splits) if one not in there):
            splits.append(_split(name, number))
            write(f"null-{name}", _summary(splits), null_text({name: _summary(splits)}))
            print(name, number, splits[-1]["seconds"], splits[-1]["failed"], flush=True)
        write(f"null-{name}", _summary(splits), null_text({name: _summary(splits)}))
    found = {
        name: json.loads(path.read_text())["figures"]
        for name in TABLES
        if (path := tabular.RESULTS / f"validation-null-{name}.json").is_file()
    }
    return {
        name: {**figures, "splits": len(figures["splits"])} for name, figures in found.items()
    }, (null_text(found))


def _split(name: str, number: int, parts: Sequence[str] = SUITE) -> dict[str, Any]:
    """What these parts of the suite, and their gates, say of one split."""
    table, settings = TABLES[name]()
    mixed = table.sample(frac=1, random_state=number).reset_index(drop=True)
    n = min(len(mixed) // 3, 1_000)
    thirds = [mixed[at * n : (at + 1) * n].reset_index(drop=True) for at in range(3)]
    schema = TableSchema.infer(table, **settings)
    card, seconds = measured(Comparison(thirds[2], thirds[0], thirds[1], schema, number), parts)
    known = {score.metric for score in card}
    asked = [gate.answer(card) for gate in CONTRACT.gates if gate.metric in known]
    answers = CONTRACT.withheld(tuple(asked))
    numbers = [score for score in card if score.subject == "all" and score.value is not None]
    return {
        "number": number,
        "n": n,
        "seconds": round(sum(seconds.values()), 2),
        "failed": [a.gate for a in answers if a.status == "failed"],
        "open": [a.gate for a in answers if a.inconclusive],
        "asked": [a.gate for a in answers if not a.not_applicable],
        "blocked": [a.gate for a in answers if a.blocks],
        "beyond": {s.metric: _beyond(s) for s in numbers if s.low != s.high},
        "scores": {s.metric: [s.value, s.low, s.high] for s in numbers},
        "commit": dict.fromkeys(parts, tabular.circumstances()["commit"]),
    }


def _put(split: dict[str, Any], part: dict[str, Any]) -> None:
    """Replace in a split what some of its parts, measured anew, say now."""
    for key in ("failed", "open", "asked", "blocked"):
        kept = [gate for gate in split[key] if gate not in part["asked"]]
        split[key] = [*kept, *part[key]]
    for key in ("beyond", "scores", "commit"):
        split[key] = {**split.get(key, {}), **part[key]}


def _beyond(score: Score) -> bool:
    """Whether the interval says that something is wrong where nothing is."""
    truth = NULL.get(score.metric, 0.0)
    return bool(score.high < truth if score.higher_is_better else score.low > truth)


def _summary(splits: list[dict[str, Any]]) -> dict[str, Any]:
    gates = sorted({gate for split in splits for gate in split["asked"]})
    metrics = sorted({metric for split in splits for metric in split["beyond"]})
    critical = {gate.id for gate in CONTRACT.gates if gate.severity == "critical"}
    accused = sum(bool(critical & set(split["failed"])) for split in splits)
    return {
        "gates": {
            gate: {
                "failed": sum(gate in split["failed"] for split in splits),
                "open": sum(gate in split["open"] for split in splits),
            }
            for gate in gates
        },
        "intervals": {
            metric: _rate(sum(split["beyond"].get(metric, False) for split in splits), len(splits))
            for metric in metrics
        },
        "accused": _rate(accused, len(splits)),
        "released": _rate(sum(not split["blocked"] for split in splits), len(splits)),
        "splits": splits,
    }


def _rate(count: int, n: int) -> dict[str, Any]:
    low, high = clopper_pearson(count, n)
    return {"count": count, "of": n, "low": round(low, 4), "high": round(high, 4)}


def null_text(figures: dict[str, Any]) -> str:
    """For each dataset the gates that failed, the rates of intervals, and what made which."""
    lines = []
    for name, found in figures.items():
        accused, released = found["accused"], found["released"]
        splits, tested = found["splits"], list(found["intervals"].values())
        misses, of = sum(r["count"] for r in tested), sum(r["of"] for r in tested)
        answers = sum(len(split["asked"]) for split in splits)
        failed = {gate: told["failed"] for gate, told in found["gates"].items() if told["failed"]}
        rate = _rate(sum(failed.values()), answers)
        lines += [
            f"**{name}**, {accused['of']} splits of {splits[0]['n']} rows a side. A critical gate "
            f"was proven broken in {accused['count']} ({accused['low']:.1%} to "
            f"{accused['high']:.1%}). Of {answers:,} answers {rate['count']} are false failures "
            f"({rate['count'] / answers:.2%}; nominal 2.5 % where the truth lies on the bound, "
            "less within it): "
            f"{', '.join(f'{gate} {count}' for gate, count in failed.items()) or 'none'}. "
            f"{released['count']} would have been released: the rest are too few rows to prove "
            f"privacy. Of {of:,} intervals {misses / max(of, 1):.1%} lie beyond the truth "
            "(nominal: 2.5 % or less).",
            "",
            f"Made by: {_makers(splits)}.",
            "",
            "| interval | beyond the truth | 95 % |",
            "|---|---|---|",
            *(
                f"| {metric} | {rate['count']} of {rate['of']} | {rate['low']:.1%} – "
                f"{rate['high']:.1%} |"
                for metric, rate in found["intervals"].items()
            ),
            "",
        ]
    lines += [
        "Intervals of `utility_*`, `equalised_odds_*` and `subgroup_auc_*` speak of new holdout "
        "rows, for the training rows at hand. Two training samples of one source differ, too, so "
        "that 1 (or 0) is not the truth of every split, and may lie beyond more often. Those of "
        "`c2st_*` leave out that a classifier trained on other rows would differ.",
        "",
    ]
    return "\n".join(lines)


def _makers(splits: list[dict[str, Any]]) -> str:
    """Which commit measured which parts, and how many splits of them."""
    made: dict[str, Counter[str]] = {}
    for split in splits:
        for part, commit in split.get("commit", {}).items():
            made.setdefault(part, Counter())[commit] += 1
    said: dict[str, list[str]] = {}
    for part, commits in made.items():
        text = ", ".join(f"{commit} ({count} splits)" for commit, count in commits.items())
        said.setdefault(text, []).append(part)
    return "; ".join(f"{', '.join(parts)}: {text}" for text, parts in said.items())


def _randhie() -> tuple[pd.DataFrame, dict[str, Any]]:
    from statsmodels.datasets import randhie

    table = randhie.load_pandas().data
    person = table.drop(columns="mdvis")
    first = (person != person.shift()).any(axis=1)
    return table[first].reset_index(drop=True), {"target": "hlthg", "protected": ["idp"]}


def _fair() -> tuple[pd.DataFrame, dict[str, Any]]:
    from statsmodels.datasets import fair

    table = fair.load_pandas().data
    table["affair"] = np.where(table.pop("affairs") > 0, "yes", "no")
    return table, {"target": "affair", "protected": ["religious"]}


TABLES: dict[str, Callable[[], tuple[pd.DataFrame, dict[str, Any]]]] = {
    "randhie": _randhie,
    "fair": _fair,
}


# ---- detection


def detection(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Which planted defects our gates, SDMetrics and other tools see."""
    comparisons, defects = detection_matrix.cases(options.samples)
    path = tabular.RESULTS / "validation-detection.json"
    earlier = json.loads(path.read_text())["figures"] if path.is_file() else {}
    tools = earlier.get("tools", {})
    with tempfile.TemporaryDirectory() as name:
        folders = detection_matrix.written(comparisons, options.folder or Path(name))
        found = {}
        for script, python in options.peer:
            said = detection_matrix.judged_by_peer(script, python, folders)
            found[said[detection_matrix.FRESH]["tool"]] = said
        here = {} if options.peer else {detection_matrix.OURS: _gates, "sdmetrics": _sdmetrics}
        for tool, judge in here.items():
            found[tool] = detection_matrix.judged_here(tool, judge, comparisons, folders)
    for tool, judgements in found.items():
        tools[tool] = {**tabular.circumstances(), "judgements": judgements}
    figures = {"defects": defects, "tools": tools}
    return figures, detection_matrix.text(figures)


def _gates(comparison: Comparison) -> dict[str, Any]:
    """The gates that are proven broken."""
    card, _ = measured(comparison)
    proven = [a for a in CONTRACT.answers(card) if a.status == "failed"]
    return {
        "rules": {"gates": sorted({a.gate for a in proven})},
        "dimensions": sorted({a.dimension for a in proven}),
    }


def sdmetrics_metadata(schema: TableSchema) -> dict[str, Any]:
    """A schema as SDMetrics wants it."""
    kinds = {"id": "id", "text": "id", "boolean": "boolean"}
    columns = {
        column.name: {"sdtype": kinds.get(column.kind, column.kind)} for column in schema.columns
    }
    return {"columns": columns}


def _sdmetrics(comparison: Comparison) -> dict[str, Any]:
    """The quality report's two scores, and SDMetrics' two scores for privacy.

    Its documentation names no bound. 0.9 is a usual one for quality; fresh real rows do not reach
    it in the scores for privacy.
    """
    from sdmetrics.reports import SingleTableQualityReport
    from sdmetrics.single_table import DCRBaselineProtection, DCROverfittingProtection

    metadata = sdmetrics_metadata(comparison.schema)
    real, made = comparison.train, comparison.synthetic
    report = SingleTableQualityReport()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report.generate(real, made, metadata, verbose=False)
        properties = report.get_properties().set_index("Property")["Score"]
        plain = {"columns": {k: v for k, v in metadata["columns"].items() if v["sdtype"] != "id"}}
        names = list(plain["columns"])
        overfit = DCROverfittingProtection.compute_breakdown(
            real[names],
            made[names],
            comparison.holdout[names],
            plain,
            "table",
            num_rows_subsample=500,
        )
        baseline = DCRBaselineProtection.compute_breakdown(
            real[names], made[names], plain, "table", num_rows_subsample=500
        )
    quality = {
        "column shapes": float(properties["Column Shapes"]),
        "column pair trends": float(properties["Column Pair Trends"]),
    }
    privacy = {
        "DCR overfitting": float(overfit["score"]),
        "DCR baseline": float(baseline["score"]),
    }
    poor = [name for name, value in quality.items() if value < 0.9]
    return {"scores": quality | privacy, "rules": {"quality below 0.9": poor}}


if __name__ == "__main__":
    main()
