"""The README's code runs as it stands: its shell blocks first, then its Python, in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_code_blocks_run(tmp_path: Path) -> None:
    blocks = BLOCK.findall(README)
    assert {language for language, _ in blocks} == {"sh", "python"}
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "LIKENESS_HOME": str(tmp_path / "likeness_home"),
    }
    for language, code in blocks:
        command = ["bash", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{code}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("link", re.findall(r"\]\((?!http)([^)#]+)\)", BLOCK.sub("", README)))
def test_relative_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
