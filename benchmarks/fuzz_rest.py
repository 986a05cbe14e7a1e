"""Ask a server of likeness serve whatever schemathesis makes up from its own description.

Usage: python -m benchmarks.fuzz_rest likeness_home [--examples 200] [--seed 0]

The home is copied first. What is counted: questions, answers by status, and answers that are not as
described (`schemathesis run` prints each); a 5xx or a traceback in the vault is one of them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvicorn

from pipelines.home import Home
from pipelines.web.access import Access
from pipelines.web.serve import bound, configured
from pipelines.web.settings import Settings

RESULTS = Path(__file__).parent / "results" / "fuzz_rest.json"
TOKEN = "a-token-for-the-benchmark-alone"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,ignored_auth"
)


def main() -> None:
    """Fuzz a copy of a home and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--examples", type=int, default=200, help="of each operation")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        shutil.copytree(asked.home, home.root)
        shutil.rmtree(home.root / "vault" / "tracebacks", ignore_errors=True)
        # The bounds on how often would answer nearly all of it.
        settings = Settings(home, Access(TOKEN), (), False, True, 10**9, 10**9, 0.05)
        statuses: Counter[int] = Counter()
        server = uvicorn.Server(configured(settings))
        server.config.load()
        server.config.loaded_app = counting(server.config.loaded_app, statuses)
        with bound("127.0.0.1", 0) as listener:
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started = time.monotonic()
            said = fuzz(url, asked.examples, asked.seed)
            seconds = time.monotonic() - started
            server.should_exit = True
            thread.join()
        tracebacks = list(home.vault.glob("tracebacks/*"))
    failures = re.search(r"(\d+) (?:unique )?failures?", said)
    facts = {
        "examples": asked.examples,
        "seed": asked.seed,
        "seconds": round(seconds),
        "questions": sum(statuses.values()),
        "answers": {str(status): statuses[status] for status in sorted(statuses)},
        "server_errors": sum(count for status, count in statuses.items() if status >= 500),
        "tracebacks": len(tracebacks),
        "not_as_described": int(failures[1]) if failures else 0,
    }
    RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


def fuzz(url: str, examples: int, seed: int) -> str:
    """Run schemathesis; gives what it said."""
    program = str(Path(sys.executable).with_name("schemathesis"))
    command = [program, "run", f"{url}/v1/openapi.json", "--checks", CHECKS]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "--seed", str(seed), "--no-color"]
    command += ["--max-examples", str(examples), "--continue-on-failure"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    print(done.stdout[-4_000:], done.stderr[-2_000:])
    return done.stdout


def counting(app: Any, statuses: Counter[int]) -> Any:  # noqa: ANN401
    """``app``, with its answers counted."""

    async def counted(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
        async def heard(message: Any) -> None:  # noqa: ANN401
            if message["type"] == "http.response.start":
                statuses[message["status"]] += 1
            await send(message)

        await app(scope, receive, heard)

    return counted


if __name__ == "__main__":
    main()
