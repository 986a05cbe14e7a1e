"""The three package names are common words: an installed stranger must not be imported instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "sklearn", "sdv", "great_expectations", "dagster", "matplotlib", "scipy"}


def isolated(code: str, tmp_path: Path) -> str:
    """Output of ``code`` in a fresh interpreter that sees neither this directory nor PYTHONPATH."""
    command = [sys.executable, "-I", "-c", code]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    return result.stdout


def test_installed_packages_are_ours(tmp_path: Path) -> None:
    code = "import generators, validators, pipelines\n" + "".join(
        f"print({name}.__file__)\n" for name in ("generators", "validators", "pipelines")
    )
    for line in isolated(code, tmp_path).split():
        assert Path(line).is_relative_to(ROOT), "a stranger hides our package; pip uninstall it"


def test_listing_families_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, generators, validators, pipelines.spec\n"
        "list(generators.GENERATORS), list(validators.VALIDATORS)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    assert not HEAVY & set(isolated(code, tmp_path).split())


def test_the_layers_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
