"""The frontier of fidelity and membership along which `privacy` moves the forest.

    python benchmarks/privacy.py --train adult.csv --test adult_test.csv --target income --seeds 3

Each value of the knob is fitted and sampled in a process of its own and judged as in
``benchmarks/tabular.py``. The result goes to ``benchmarks/results/privacy.json``, a table in
Markdown and a picture.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tabular

KNOB = (0.0, 0.25, 0.5, 0.75, 1.0)
SHOWN = ("C2ST", "XGB-C2ST", "trend %", "TSTR", "MIA AUC", "MIA TPR@1%")


def main() -> None:
    """Measure every value and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--target", required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--xgboost", help="a Python that has xgboost and sdmetrics: XGB-C2ST too")
    options = parser.parse_args()
    table = tabular.read_table(options)
    real = [tabular.floor(table, seed, options.xgboost) for seed in range(options.seeds)]
    rows = {"fresh real rows": real}
    for value in KNOB:
        options.set = {"privacy": value}
        label = f"privacy {value:g}"
        rows[label] = [
            tabular.measure("forest", seed, table, options) for seed in range(options.seeds)
        ]
        tabular.print_row(label, rows[label][0])
    result = {
        "command": shlex.join(["python", "benchmarks/privacy.py", *tabular.public_arguments()]),
        **tabular.circumstances(),
        "figures": rows,
    }
    path = tabular.RESULTS / "privacy.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    path.with_suffix(".md").write_text(markdown(rows))
    path.with_suffix(".svg").write_text(picture(rows))


def markdown(rows: dict[str, list[tabular.Figures]]) -> str:
    """A line for each value: the mean over the seeds."""
    known = [name for name in SHOWN if all(name in seeds[0] for seeds in rows.values())]
    lines = ["| | " + " | ".join(known) + " |", "|---" * (len(known) + 1) + "|"]
    for label, seeds in rows.items():
        cells = [f"{np.mean([figures[name] for figures in seeds]):.4f}" for name in known]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def picture(rows: dict[str, list[tabular.Figures]]) -> str:
    """C2ST against the membership AUC, a dot per value, as SVG: low and left is best."""
    light = tabular.LIGHT
    points = {
        label.removeprefix("privacy "): tuple(
            float(np.mean([figures[name] for figures in seeds])) for name in ("MIA AUC", "C2ST")
        )
        for label, seeds in rows.items()
    }
    spots = np.array(list(points.values()))
    low, high = spots.min(axis=0) - 0.005, spots.max(axis=0) + 0.005
    wide, tall, margin = 560, 360, 60
    size = np.array([wide - 2 * margin, tall - 2 * margin])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" role="img" '
        'font-family="system-ui,sans-serif" font-size="13">',
        f'<rect width="{wide}" height="{tall}" fill="{light.surface}"/>',
        f'<text x="{margin}" y="24" fill="{light.ink}">What `privacy` of the forest buys and '
        "costs</text>",
        f'<text x="{wide / 2}" y="{tall - 12}" text-anchor="middle" fill="{light.muted}">'
        "membership AUC (0.5: nothing leaks)</text>",
        f'<text x="16" y="{margin - 12}" fill="{light.muted}">C2ST AUC</text>',
    ]
    for share in (0.0, 0.5, 1.0):
        at = low + share * (high - low)
        x, y = margin + share * size[0], tall - margin - share * size[1]
        parts += [
            f'<path d="M{margin} {y:.1f}H{wide - margin}" stroke="{light.line}"/>',
            f'<text x="{margin - 6}" y="{y + 4:.1f}" text-anchor="end" fill="{light.muted}">'
            f"{at[1]:.3f}</text>",
            f'<text x="{x:.1f}" y="{tall - margin + 20}" text-anchor="middle" '
            f'fill="{light.muted}">{at[0]:.3f}</text>',
        ]
    for label, spot in points.items():
        x, y = np.array([margin, tall - margin]) + (spot - low) / (high - low) * size * [1, -1]
        fill = light.synthetic if label == "fresh real rows" else light.real
        parts += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}"/>',
            # The two least values lie close together.
            f'<text x="{x + 8:.1f}" y="{y + (16 if label == "0" else -6):.1f}" '
            f'fill="{light.ink}">{label}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
