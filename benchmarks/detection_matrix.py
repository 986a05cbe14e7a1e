"""Which planted defects our gates and other tools see: the tables, the judges, the matrix.

Twenty-one tables of fresh real rows and one for every defect of ``tests/validators`` are judged by
each tool under its own rule, where it has one, and under a bar that is generous to all: below the
worst of twenty fresh real samples in any score. A peer that cannot be installed beside us runs in
its own Python by its script in ``benchmarks/peers``. Judgements stay in the folder of their table,
so a run that was stopped goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "validators"))

from generators.schema import TableSchema
from validators import Comparison

PEERS = Path(__file__).parent / "peers"
OURS = "likeness"
FRESH = "fresh real rows"
JUDGED = 20  # fresh real samples that set the bar for a tool without a rule of its own
BAR = f"below {JUDGED} real samples"

LICENCES = {OURS: "Apache-2.0", "sdmetrics": "MIT"}

Judgement = dict[str, Any]
Figures = dict[str, Any]


def cases(samples: int = JUDGED) -> tuple[dict[str, Comparison], dict[str, str]]:
    """Every table to judge by name, and the dimension that each defect belongs to.

    Args:
        samples: fresh real samples beside the first; with none a tool is asked for its own rules
            only.
    """
    import conftest
    import test_mutations

    n = test_mutations.N
    parts = [conftest.draw_people(n, part) for part in range(3)]
    both = pd.concat(parts[:2])
    schema = TableSchema.infer(both, kinds={"id": "id"}, target="bought", protected=["sex"])
    fresh = Comparison(parts[2], parts[0], parts[1], schema)
    found = {FRESH: fresh}
    for at in range(samples):
        # Nothing that was encoded is kept: the comparison is a new one.
        found[sample(at)] = replace(fresh, synthetic=conftest.draw_people(n, 100 + at))
    defects = {}
    for defect, dimension in test_mutations.DEFECTS:
        name = defect.__name__.replace("_", " ")
        found[name], defects[name] = test_mutations.planted(fresh, defect), dimension
    return found, defects


def sample(at: int) -> str:
    """The name of one of the samples that set the bar."""
    return f"{FRESH} {at}"


def written(comparisons: dict[str, Comparison], folder: Path) -> dict[str, Path]:
    """Every table in a folder of its own."""
    folders = {}
    for name, comparison in comparisons.items():
        place = folders[name] = folder / name.replace(" ", "-")
        place.mkdir(parents=True, exist_ok=True)
        (place / "schema.json").write_text(comparison.schema.to_json())
        for part in ("train", "holdout", "synthetic"):
            getattr(comparison, part).to_parquet(place / f"{part}.parquet", index=False)
    return folders


def judged_here(
    tool: str,
    judge: Callable[[Comparison], Judgement],
    comparisons: dict[str, Comparison],
    folders: dict[str, Path],
) -> dict[str, Judgement]:
    """The judgements of a tool that runs in this process."""
    for name, comparison in comparisons.items():
        path = folders[name] / f"judgement-{tool}.json"
        if path.is_file():
            continue
        begin = time.process_time()
        answer = judge(comparison)
        answer["seconds"] = time.process_time() - begin
        about = {"tool": tool, "version": version(tool), "licence": LICENCES[tool]}
        path.write_text(json.dumps({**about, **answer}))
        print(tool, name, answer["rules"], flush=True)
    return _read(tool, folders)


def judged_by_peer(script: str, python: str, folders: dict[str, Path]) -> dict[str, Judgement]:
    """The judgements of a peer in its own Python."""
    path = PEERS / f"{script}.py"
    if not path.is_file():
        known = sorted(p.stem for p in PEERS.glob("*.py") if "judge_all(" in p.read_text())
        raise SystemExit(f"--peer must name one of {', '.join(known)}; got {script}")
    subprocess.run([python, str(path), *map(str, folders.values())], check=True)
    return _read(script, folders)


def _read(script: str, folders: dict[str, Path]) -> dict[str, Judgement]:
    return {
        name: json.loads((folder / f"judgement-{script}.json").read_text())
        for name, folder in folders.items()
    }


# ---- the matrix


def text(figures: Figures) -> str:
    """Defects against rules, then what each rule catches, accuses in vain and costs."""
    defects, tools = figures["defects"], figures["tools"]
    columns = [(tool, rule) for tool in tools for rule in rules_of(tools[tool])]
    heads = [f"{tool}: {rule}" for tool, rule in columns]
    lines = [
        f"| planted defect | belongs to | {' | '.join(heads)} |",
        f"|---|---|{'|'.join(':-:' for _ in columns)}|",
    ]
    marks = {}
    for name, dimension in defects.items():
        said = [mark(tools[tool], rule, name, dimension) for tool, rule in columns]
        marks[name] = dict(zip(columns, said, strict=True))
        lines.append(f"| {name} | {dimension} | {' | '.join(said)} |")
    lines += [
        "",
        f"| tool | rule | sees, of {len(defects)} | accuses fresh real rows | seconds a table |",
        "|---|---|---|---|---|",
    ]
    for tool, rule in columns:
        said = [row[tool, rule] for row in marks.values()]
        failed = f", fails on {said.count('error')}" if "error" in said else ""
        found = tools[tool]
        some = found["judgements"][FRESH]
        accused, fresh = false_alarms(found, rule)
        known = [j["seconds"] for j in found["judgements"].values() if "seconds" in j]
        seconds = f"{np.mean(known):.2g}" if known else "–"
        lines.append(
            f"| {tool} {some['version']} ({some['licence']}) | {rule} | {said.count('✓')}{failed} "
            f"| {accused} of {fresh} | {seconds} |"
        )
    return "\n".join(lines) + "\n"


def rules_of(tool: Figures) -> list[str]:
    """The tool's own rules, and the bar of real samples where it gives scores and judged them."""
    said = tool["judgements"][FRESH]
    bar = said.get("scores") and len(_samples(tool)) == JUDGED
    return [*said["rules"], *([BAR] if bar else [])]


def _samples(tool: Figures) -> list[str]:
    return [name for name in map(sample, range(JUDGED)) if name in tool["judgements"]]


def mark(tool: Figures, rule: str, name: str, dimension: str) -> str:
    """✓ where the tool sees the defect; of our gates one of the defect's own dimension must."""
    said = tool["judgements"][name]
    if "error" in said:
        return "error"
    if "dimensions" in said:
        return "✓" if dimension in said["dimensions"] else "–"
    seen = below(tool, name, _samples(tool)) if rule == BAR else said["rules"][rule]
    return "✓" if seen else "–"


def below(tool: Figures, name: str, others: list[str]) -> list[str]:
    """The scores that are below those of all ``others``, or cannot be computed any more."""
    judgements = tool["judgements"]
    scores, real = judgements[name]["scores"], [judgements[other]["scores"] for other in others]
    found = []
    for score, value in scores.items():
        known = [row.get(score) for row in real]
        if None not in known and (value is None or value < min(known)):
            found.append(score)
    return found


def false_alarms(tool: Figures, rule: str) -> tuple[int, int]:
    """Fresh real tables that the rule accuses, of how many; the bar is that of the others."""
    samples = _samples(tool)
    fresh = [FRESH, *samples]
    if rule == BAR:
        accused = [below(tool, n, [other for other in samples if other != n]) for n in fresh]
    else:
        accused = [tool["judgements"][n]["rules"][rule] for n in fresh]
    return sum(map(bool, accused)), len(fresh)
