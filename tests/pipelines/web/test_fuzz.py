"""REST against its own description: what schemathesis makes up of it never breaks the server.

``benchmarks/fuzz_rest.py`` does the same for longer.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import CHECKS

from pipelines.home import Home
from pipelines.requests.inbox import Inbox

from .conftest import REQUEST, TOKEN, Site

EXAMPLES = 4
CHECKED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "ignored_auth",
]


def fuzz(site: Site, examples: int, seed: int) -> int:
    """Ask made-up questions of every operation; gives how many. Raises where an answer is wrong."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    schema = schemathesis.openapi.from_url(f"{site.url}/v1/openapi.json", headers=headers)
    identity = Inbox(site.home).submit(REQUEST).id
    return sum(
        asked(operation.ok(), headers, identity, examples, seed)
        for operation in schema.get_all_operations()
    )


def asked(operation: Any, headers: dict[str, str], identity: str, examples: int, seed: int) -> int:
    from hypothesis import given
    from hypothesis import seed as seeded

    checks = CHECKS.get_by_names(CHECKED)
    count = 0
    there = {
        "dataset": "people",
        "version": 1,
        "path": "data/train-00000-of-00001.parquet",
        "identity": identity,
    }

    @seeded(seed)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=False,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        nonlocal count
        count += 1
        if count % 2 and case.path_parameters:
            # Half of the questions are about what is there; else all answers would be 404.
            case.path_parameters |= {
                name: there[name] for name in case.path_parameters if name in there
            }
        case.call_and_validate(headers=headers, checks=checks)

    ask()
    return count


def test_nothing_made_up_breaks_the_server(
    make_site: Callable[..., Any], lake_home: Home, tmp_path: Any
) -> None:
    shutil.copytree(lake_home.root, tmp_path / "home")
    with make_site(home=Home(tmp_path / "home"), failures_per_minute=10**9) as site:
        assert fuzz(site, EXAMPLES, seed=1) > 50
        assert not (site.home.vault / "tracebacks").exists()
