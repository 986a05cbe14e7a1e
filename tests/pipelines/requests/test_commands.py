"""``likeness request`` and the worker as processes would be used, on the real command line."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pipelines.cli import main
from pipelines.home import Home
from pipelines.requests import Inbox, parse_request
from pipelines.requests.commands import TEMPLATE

ROOT = Path(__file__).resolve().parents[3]
ASK = """\
apiVersion: likeness/v1
kind: DataRequest
metadata: {name: made}
spec:
  source: {schema: people.yaml}
  rows: 20
"""
SCHEMA = """\
columns:
  id: {kind: id}
  text: {kind: text, pattern: "[=+]x{3}"}
"""


def likeness(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words: str | Path) -> tuple[dict[str, Any], int]:
    done = likeness(*words, "--json")
    found: dict[str, Any] = json.loads(done.stdout)
    return found, done.exit_code


@pytest.fixture
def ask(tmp_path: Path) -> Path:
    (tmp_path / "people.yaml").write_text(SCHEMA)
    path = tmp_path / "ask.yaml"
    path.write_text(ASK)
    return path


def test_a_request_from_its_template_to_its_rows(ask: Path, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    facts, code = answer("request", "submit", ask, "--run", *home)
    assert (facts["state"], facts["version"], code) == ("PUBLISHED", "made@1", 0)
    identity = facts["id"]
    assert answer("request", "status", identity, *home)[0]["state"] == "PUBLISHED"
    assert answer("request", "wait", identity, "--timeout", "1", *home)[1] == 0
    assert [row["id"] for row in answer("request", "list", *home)[0]["requests"]] == [identity]
    out = tmp_path / "rows.csv"
    assert answer("request", "get", identity, "--output", out, *home)[0]["rows"] == 20
    assert out.read_text().splitlines()[1].startswith("1,'")
    refused = likeness("request", "cancel", identity, *home)
    assert refused.exit_code == 2
    assert "PUBLISHED" in refused.output


def test_the_template_is_a_request_and_names_what_can_be_asked(tmp_path: Path) -> None:
    shown = likeness("request", "init", "adult").stdout
    assert parse_request(shown).spec.source.dataset == "adult"
    # Of the three ways to set shares one is meant; a comment behind a value stays one.
    asked = re.sub(r"^  # (balance|fairness):.*\n", "", TEMPLATE, flags=re.MULTILINE)
    asked = re.sub(r"^  # ", "  ", asked, flags=re.MULTILINE)
    assert parse_request(asked.format(name="adult", schema="")).spec.preview == 20
    assert likeness("request", "lint", tmp_path / "nowhere.yaml").exit_code == 2


def test_lint_tells_all_problems_and_needs_no_home(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(ASK.replace("rows: 20", "rows: 0\n  seed: -1"))
    (tmp_path / "people.yaml").write_text(SCHEMA)
    found, code = answer("request", "lint", path)
    assert code == 2
    assert {problem["field"] for problem in found["problems"]} == {"spec.rows", "spec.seed"}


def test_the_worker_answers_what_is_dropped_and_ends_on_ctrl_c(ask: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    raw = parse_request(ASK.replace("schema: people.yaml", "schema: {columns: {id: {kind: id}}}"))
    (home.requests / "dropped.yaml").write_text(raw.to_yaml())
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from pipelines.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "worker", "--interval", "0.1", "--home"]
    with subprocess.Popen(
        [*command, str(home.root)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as worker:
        end = time.monotonic() + 200
        while time.monotonic() < end and not any(status.answered for status in Inbox(home).list()):
            time.sleep(0.2)
        worker.send_signal(signal.SIGINT)
        worker.communicate(timeout=120)
    (status,) = Inbox(home).list()
    assert status.version == "made@1"
    assert worker.returncode == 130


def test_the_help_shows_its_examples_on_lines_of_their_own() -> None:
    shown = likeness("request", "--help").output
    assert "\\b" not in shown
    assert re.search(r"ask\.yaml\n +likeness request submit", shown)


def test_a_wrong_option_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    home = ("--home", tmp_path / "home")
    done = likeness("run", "randhie", "--generator", "forrest", *home)
    assert (done.exit_code, "forrest" in done.output) == (2, True)
    done = likeness("sample", tmp_path, "--rows", "5", "--output", tmp_path / "w.csv", *home)
    assert (done.exit_code, "must end in .parquet" in " ".join(done.output.split())) == (2, True)
    assert not list(tmp_path.iterdir())
