"""A real server on a real socket, over a home with published datasets and an empty inbox."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from generators.schema import TableSchema
from pipelines.home import Home
from pipelines.publication.catalogue import write_catalogue
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import to_arrow, write_parquet
from pipelines.publication.publish import PublishRequest, publish
from pipelines.publication.retire import retire
from pipelines.web.access import Access
from pipelines.web.serve import bound, configured
from pipelines.web.settings import Settings

from ..publication.conftest import make_frame, verdict_json

TOKEN = "a-token-of-the-tests-0123456789"
PATIENCE = 60.0
"""Seconds for an answer that comes at once, where the machine has nothing else to do."""
REQUEST: dict[str, Any] = {
    "apiVersion": "likeness/v1",
    "kind": "DataRequest",
    "metadata": {"name": "people-test"},
    "spec": {"source": {"dataset": "people"}, "rows": 50, "where": ["visits >= 1"]},
}


def publish_people(home: Home, work: Path, *, name: str, seed: int, title: str) -> None:
    frame = make_frame(200, seed)
    schema = TableSchema.infer(frame, target="insured", protected=("sex",))
    table = to_arrow(frame, schema)
    digest = content_digest(table)
    work.mkdir()
    write_parquet(table, work / "data.parquet", {"dataset": name, "content_digest": digest})
    (work / "verdict.json").write_text(verdict_json(digest))
    (work / "report.html").write_text("<!doctype html><title>Report</title><script>bad()</script>")
    publish(
        home.lake,
        PublishRequest(
            dataset=name,
            key=f"key-{seed}",
            files={
                "data/train-00000-of-00001.parquet": work / "data.parquet",
                "reports/verdict.json": work / "verdict.json",
                "reports/report.html": work / "report.html",
            },
            schema=schema,
            rows=len(frame),
            content_digest=digest,
            facts={
                "title": title,
                "description": "Visits of people <b>to</b> a physician",
                "reproduce": {"generator": "forest", "dataset": name},
            },
            created_at="2026-01-31T12:00:00+00:00",
        ),
    )


@pytest.fixture(scope="package")
def lake_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """``people`` with two versions that stand and one retired between them, and ``towns``."""
    root = tmp_path_factory.mktemp("served")
    home = Home(root / "home")
    for seed in (1, 2, 3):
        publish_people(home, root / f"w{seed}", name="people", seed=seed, title="People")
    publish_people(home, root / "w4", name="towns", seed=4, title="Towns of people")
    retire(home.lake, "people@2", "a test retires it")
    write_catalogue(home.lake)
    return home


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


@dataclass
class Site:
    """Where a server is, and a browser that knows nothing of cookies by itself."""

    port: int
    home: Home
    token: str = TOKEN
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | dict[str, Any] | None = None,
        *,
        token: str | None = TOKEN,
        **headers: str,
    ) -> Answer:
        """One request on one connection; underscores in names of headers are dashes."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        if isinstance(body, dict):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        connection = self.connection()
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> Answer:
        return self.ask("GET", path, **more)


@contextmanager
def serving(settings: Settings) -> Iterator[Site]:
    """The server that ``likeness serve`` starts, in a thread of this process."""
    server = uvicorn.Server(configured(settings))
    with bound("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        try:
            yield Site(listener.getsockname()[1], settings.home)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="package")
def make_site(lake_home: Home) -> Callable[..., Any]:
    """A factory of servers over the published lake; their inbox is their own where one is named."""

    def make(**changes: Any) -> Any:
        many: dict[str, Any] = {"writes_per_minute": 100_000, "checks_per_minute": 100_000}
        settings = Settings(lake_home, Access(TOKEN), poll_seconds=0.05, **many)
        return serving(replace(settings, **changes))

    return make


@pytest.fixture(scope="package")
def site(make_site: Callable[..., Any]) -> Iterator[Site]:
    with make_site() as running:
        yield running
