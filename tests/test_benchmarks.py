"""The programs in benchmarks/ start as they say they do; what they measure is not tested here."""

import importlib.util
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators import TableSchema
from validators import Comparison

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "benchmarks"
PROGRAMS = sorted(
    path.stem for path in FOLDER.glob("*.py") if '__name__ == "__main__"' in path.read_text()
)


def documented(name):
    """The first command of a program's docstring: the words after ``python``."""
    text = (FOLDER / f"{name}.py").read_text()
    found = re.search(rf"python (-m benchmarks\.{name}|benchmarks/{name}\.py)\b", text)
    assert found, f"benchmarks/{name}.py does not say how to start it"
    return found[1].split()


@pytest.fixture
def own_modules(monkeypatch):
    """What a program finds beside itself is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    yield
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "fuzz_bytes"])
def test_a_program_starts_the_documented_way(name, monkeypatch, capsys, own_modules):
    command = documented(name)
    monkeypatch.setattr(sys, "argv", [command[-1], "--help"])
    module = command[0] == "-m"
    if not module:
        sys.path.insert(0, str(FOLDER))  # as python does for a script
    start = runpy.run_module if module else runpy.run_path
    with pytest.raises(SystemExit) as ended:
        start(command[-1] if module else str(ROOT / command[0]), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.slow
def test_the_fuzzer_of_bytes_starts():
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed")
    command = [sys.executable, *documented("fuzz_bytes"), "-runs=5"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr[-500:]


@pytest.fixture
def comparison(detection_matrix):
    """Three small tables of one law."""
    train, holdout, fresh = (
        pd.DataFrame(
            {
                "age": np.random.default_rng(part).integers(18, 80, 50),
                "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(np.arange(50), unit="D"),
                "bought": np.resize(["yes", "no"], 50),
            }
        )
        for part in range(3)
    )
    schema = TableSchema.infer(train, target="bought")
    return Comparison(fresh, train, holdout, schema)


@pytest.fixture
def detection_matrix(monkeypatch, own_modules):
    monkeypatch.syspath_prepend(str(FOLDER))
    import detection_matrix as module

    return module


PEER = """
from judging import Judgement, judge_all

def judge(sides):
    if sides.synthetic["age"].isna().any():
        raise KeyError("age")
    older = sides.synthetic["age"].mean() - sides.holdout["age"].mean()
    days = sides.in_days().train["joined"].iloc[0]
    return Judgement({"age": -abs(older), "days": days}, {"older": ["age"] if older > 1 else []})

judge_all("pandas", "BSD", judge)
"""


def test_a_peer_judges_folders_and_its_failure_is_a_result(
    detection_matrix, comparison, monkeypatch, tmp_path
):
    older, broken = comparison.synthetic.copy(), comparison.synthetic.copy()
    older["age"] += 40
    broken["age"] = np.nan
    cases = {
        detection_matrix.FRESH: comparison,
        "older": detection_matrix.replace(comparison, synthetic=older),
        "broken": detection_matrix.replace(comparison, synthetic=broken),
    }
    folders = detection_matrix.written(cases, tmp_path / "tables")
    peers = tmp_path / "peers"
    peers.mkdir()
    (peers / "ages.py").write_text(PEER)
    (peers / "judging.py").write_text((FOLDER / "peers" / "judging.py").read_text())
    monkeypatch.setattr(detection_matrix, "PEERS", peers)
    said = detection_matrix.judged_by_peer("ages", sys.executable, folders)
    assert said[detection_matrix.FRESH]["version"] == pd.__version__
    assert said["older"]["rules"] == {"older": ["age"]}
    first = comparison.train["joined"].iloc[0] - pd.Timestamp("2000-01-01")
    assert said["older"]["scores"]["days"] == first.days
    assert said["broken"]["error"] == "KeyError: 'age'"
    assert json.loads((folders["older"] / "schema.json").read_text())["table"]["target"]
    with pytest.raises(SystemExit, match="must name one of ages"):
        detection_matrix.judged_by_peer("nobody", sys.executable, folders)


def test_the_matrix_counts_what_rules_see_and_whom_they_accuse(detection_matrix):
    def said(value, ring):
        return {"scores": {"one": value}, "rules": {"rule": ["x"] if ring else []}, "seconds": 1}

    names = [detection_matrix.sample(at) for at in range(detection_matrix.JUDGED)]
    judgements = {name: said(1 + at, at < 2) for at, name in enumerate(names)}
    about = {"tool": "t", "version": "1", "licence": "free"}
    judgements[detection_matrix.FRESH] = {**said(5, False), **about}
    judgements["low"], judgements["unknown"] = said(0.5, False), said(None, True)
    judgements["crash"] = {"error": "KeyError", "seconds": 1}
    tool = {"judgements": judgements}
    bar = detection_matrix.BAR
    assert [detection_matrix.mark(tool, "rule", n, "") for n in ("low", "unknown")] == ["–", "✓"]
    assert [detection_matrix.mark(tool, bar, n, "") for n in ("low", "unknown")] == ["✓", "✓"]
    assert detection_matrix.mark(tool, bar, "crash", "") == "error"
    assert detection_matrix.false_alarms(tool, "rule") == (2, 21)
    # Only the lowest sample lies below all the others.
    assert detection_matrix.false_alarms(tool, bar) == (1, 21)
    defects = dict.fromkeys(["low", "unknown", "crash"], "bias")
    lines = detection_matrix.text({"defects": defects, "tools": {"t": tool}}).splitlines()
    assert "| t 1 (free) | rule | 1, fails on 1 | 2 of 21 | 1 |" in lines
    assert f"| t 1 (free) | {bar} | 2, fails on 1 | 1 of 21 | 1 |" in lines
