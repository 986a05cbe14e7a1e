"""Sampling under conditions, against sampling without them and filtering.

    python benchmarks/conditional.py --train adult.csv --test adult_test.csv --target income \
        --where "age >= 37" --where "capital_gain > 5000" --where "sex = Female; age in 60..64"

Both draw from the same fitted model. For each line of conditions: which share of the real rows
fulfils it, the seconds for ``--rows`` rows and what filtering would have taken, the share of rows
that are there twice, the mean total variation distance of the other columns from the real rows that
fulfil it (and for filtered rows the same), and the AUC of boosted trees that tell the rows from
filtered ones (0.5 is best). The result goes to ``benchmarks/results/conditional.json``.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from tabular import RESULTS, Table, circumstances, public_arguments, read_table, told_apart

from generators import GENERATORS
from generators.base import Conditional
from generators.conditions import Conditions

SHOWN = ("support", "seconds", "filtering s", "twice", "TVD", "filtered TVD", "C2ST")
_BINS = 20


def main() -> None:
    """Run the benchmark that the command line asks for."""
    options = _options()
    table = read_table(options)
    model = GENERATORS[options.generator](seed=options.seed).fit(table.train, table.schema)
    if not isinstance(model, Conditional):
        sys.exit(f"{options.generator} takes no conditions")
    begin = time.perf_counter()
    pool = model.sample(options.pool, seed=options.seed + 1)
    per_row = (time.perf_counter() - begin) / options.pool
    print(f"{'':38s}" + "".join(f"{name:>14s}" for name in SHOWN))
    rows: dict[str, dict[str, float]] = {}
    for text in options.where:
        rows[text] = measure(model, table, pool, text.split(";"), options, per_row)
        print(f"{text:38s}" + "".join(f"{rows[text][name]:14.4f}" for name in SHOWN), flush=True)
    print(f"\nwritten: {write(options, rows)}")


def measure(
    model: Conditional,
    table: Table,
    pool: pd.DataFrame,
    where: list[str],
    options: argparse.Namespace,
    per_row: float,
) -> dict[str, float]:
    """The figures of one line of conditions."""
    conditions = Conditions.parse(where, table.schema)
    real = pd.concat([table.train, table.test], ignore_index=True)
    held = real[conditions.matches(real)]
    filtered = pool[conditions.matches(pool)]
    begin = time.perf_counter()
    drawn = model.sample_where(conditions, options.rows, seed=options.seed)
    seconds = time.perf_counter() - begin
    assert isinstance(drawn, pd.DataFrame)
    assert len(drawn) == options.rows
    assert conditions.matches(drawn).all()
    names = [c.name for c in table.schema.modelled if c.name not in conditions.allowed]
    return {
        "support": len(held) / len(real),
        "seconds": seconds,
        "filtering s": per_row * options.rows * len(pool) / max(len(filtered), 1),
        "twice": float(drawn.duplicated().mean()),
        "TVD": distance(table, drawn, held, names),
        "filtered TVD": distance(table, filtered[: options.rows], held, names),
        "C2ST": told_apart(table, drawn, filtered, options.seed, folds=5),
        "filtered rows": len(filtered),
    }


def distance(table: Table, one: pd.DataFrame, other: pd.DataFrame, names: list[str]) -> float:
    """Total variation distance, averaged over columns; numbers in twentieths of ``other``."""
    found = []
    for name in names:
        left, right = one[name], other[name]
        if not table.schema[name].discrete:
            edges = np.unique(np.quantile(right, np.linspace(0, 1, _BINS + 1)))
            left, right = (
                pd.Series(np.searchsorted(edges, s, side="right")) for s in (left, right)
            )
        shares = [series.value_counts(normalize=True, dropna=False) for series in (left, right)]
        found.append(0.5 * shares[0].sub(shares[1], fill_value=0).abs().sum())
    return float(np.mean(found))


def write(options: argparse.Namespace, rows: dict[str, dict[str, float]]) -> Path:
    """The result with all that is needed to repeat it."""
    result = {
        "command": shlex.join(["python", "benchmarks/conditional.py", *public_arguments()]),
        **circumstances(),
        "generator": options.generator,
        "rows": options.rows,
        "figures": rows,
    }
    path = RESULTS / f"{options.name}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=Path, required=True, help="CSV to learn")
    parser.add_argument("--test", type=Path, required=True, help="CSV of rows not learned")
    parser.add_argument("--target", help="column that models would predict")
    parser.add_argument("--where", action="append", required=True, help="conditions, parted by ;")
    parser.add_argument("--generator", default="forest")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--pool", type=int, default=1_000_000, help="rows that are filtered")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="conditional", help="of the result file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
