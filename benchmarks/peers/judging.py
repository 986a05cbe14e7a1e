"""What every peer that judges does with the folders it is given.

A folder holds ``train.parquet``, ``holdout.parquet``, ``synthetic.parquet`` and ``schema.json``;
the peer leaves ``judgement-SCRIPT.json`` there and passes over folders that have one. Runs in the
peer's own Python: pandas with pyarrow is all it asks for.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Sides:
    """Three tables of equal columns without ids, and what the schema says of them."""

    train: pd.DataFrame
    holdout: pd.DataFrame
    synthetic: pd.DataFrame
    kinds: dict[str, str]
    target: str

    @classmethod
    def read(cls, folder: Path) -> Sides:
        """The tables of a folder."""
        schema = json.loads((folder / "schema.json").read_text())["table"]
        kinds = {c["name"]: c["kind"] for c in schema["columns"] if c["kind"] != "id"}
        parts = ("train", "holdout", "synthetic")
        tables = [pd.read_parquet(folder / f"{part}.parquet")[list(kinds)] for part in parts]
        return cls(*tables, kinds, schema["target"])

    @property
    def words(self) -> list[str]:
        """The columns of categories."""
        return [name for name, kind in self.kinds.items() if kind in ("categorical", "boolean")]

    @property
    def numbers(self) -> list[str]:
        """The other columns, once dates are days."""
        return [name for name in self.kinds if name not in self.words]

    def in_days(self) -> Sides:
        """For a tool that takes no dates: days since 2000 instead."""
        tables = []
        for table in (self.train, self.holdout, self.synthetic):
            days = {
                name: (table[name] - pd.Timestamp("2000-01-01")) / pd.Timedelta(days=1)
                for name, kind in self.kinds.items()
                if kind == "datetime"
            }
            tables.append(table.assign(**days))
        return Sides(*tables, self.kinds, self.target)


@dataclass(frozen=True)
class Judgement:
    """What a tool says of one synthetic table.

    Attributes:
        scores: by name; higher is better in every one.
        rules: the tool's own pass or fail: by rule, what broke it.
    """

    scores: dict[str, float]
    rules: dict[str, list[str]]


def judge_all(tool: str, licence: str, judge: Callable[[Sides], Judgement]) -> None:
    """Judge every folder of the command line and leave the answer in it.

    Args:
        tool: its distribution on PyPI.
        licence: of the tool.
        judge: what it says of the three tables.
    """
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        print(f"python {Path(sys.argv[0]).name} FOLDER...: {tool} {version(tool)} ({licence})")
        return
    warnings.simplefilter("ignore")
    about = {"tool": tool, "version": version(tool), "licence": licence}
    for folder in map(Path, sys.argv[1:]):
        path = folder / f"judgement-{Path(sys.argv[0]).stem}.json"
        if path.is_file():
            continue
        sides = Sides.read(folder)
        np.random.seed(0)  # noqa: NPY002 - peers draw from the global state
        begin = time.process_time()
        answer: dict[str, object]
        try:
            said = judge(sides)
        except Exception as error:  # noqa: BLE001 - that a tool fails is a result
            answer = {"error": f"{type(error).__name__}: {error}"}
        else:
            scores = {n: float(v) if math.isfinite(v) else None for n, v in said.scores.items()}
            answer = {"scores": scores, "rules": said.rules}
        answer["seconds"] = time.process_time() - begin
        path.write_text(json.dumps({**about, **answer}))
        print(tool, folder.name, answer.get("error") or answer.get("rules"), flush=True)
    sys.stdout.flush()
    os._exit(0)  # no waiting for a peer's threads
