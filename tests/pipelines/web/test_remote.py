"""The Python client of a server does what the local one does, over a real socket."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from generators.base import ParameterError
from pipelines.home import Home
from pipelines.publication.log import resolve
from pipelines.requests.client import Client
from pipelines.requests.inbox import Inbox, InboxError
from pipelines.requests.model import RequestError
from pipelines.requests.remote import RemoteClient

from .conftest import REQUEST, TOKEN, Site


def test_it_has_the_methods_of_the_local_one() -> None:
    own = {name for name, _ in inspect.getmembers(Client, inspect.isfunction)}
    there = {name for name, _ in inspect.getmembers(RemoteClient, inspect.isfunction)}
    public = {name for name in own if not name.startswith("_")} - {"http"}
    assert public == {name for name in there if not name.startswith("_")}
    for name in public:
        local, remote = (inspect.signature(getattr(one, name)) for one in (Client, RemoteClient))
        assert list(local.parameters) == list(remote.parameters), name


def test_a_request_and_its_rows(
    make_site: Callable[..., Any], lake_home: Home, tmp_path: Any
) -> None:
    with make_site(home=Home(tmp_path / "home")) as site:
        client = Client.http(site.url + "/", TOKEN)
        receipt = client.submit(REQUEST, idempotency_key="one")
        assert client.submit(REQUEST, idempotency_key="one").created is False
        local = Inbox(site.home)
        assert client.status(receipt.id) == local.status(receipt.id)
        assert client.list() == local.list()
        assert client.wait(receipt.id, timeout=0).state == "RECEIVED"
        with pytest.raises(InboxError, match="RECEIVED"):
            client.read(receipt.id)
        with pytest.raises(InboxError, match="needs approval"):
            client.approve(receipt.id)
        with pytest.raises(InboxError, match="at the server"):
            client.run(receipt.id)
        with pytest.raises(RequestError) as wrong:
            client.submit({**REQUEST, "kind": "Wish", "metadata": {"name": "NO"}})
        assert {p.field for p in wrong.value.problems} == {"kind", "metadata.name"}
        with pytest.raises(RequestError, match="idempotency key"):
            client.submit({**REQUEST, "metadata": {"name": "x"}}, idempotency_key="one")
        assert client.cancel(receipt.id, "enough").state == "CANCELED"
        with pytest.raises(InboxError, match="no request"):
            client.status("20260101000000-ffffffffffff")


def test_published_rows_are_those_of_the_lake(site: Site, lake_home: Home) -> None:
    inbox = Inbox(lake_home)
    identity = inbox.submit(REQUEST).id
    for number, state in enumerate(("VALIDATED", "QUEUED", "RUNNING"), start=1):
        inbox.append(identity, number, state)  # type: ignore[arg-type]
    inbox.append(identity, 4, "PUBLISHED", versions=["people@1", "towns@1"])
    client = Client.http(site.url, TOKEN)
    for name, version in ((None, "people@1"), ("towns", "towns@1")):
        published = pd.read_parquet(resolve(lake_home.lake, version).path / "data")
        pd.testing.assert_frame_equal(client.read(identity, name), published)
    with pytest.raises(InboxError, match="towns@1"):
        client.read(identity, "nobody")


def test_what_is_no_server_is_told_so(site: Site) -> None:
    with pytest.raises(ParameterError, match="http"):
        Client.http("file:///etc/passwd", TOKEN)
    with pytest.raises(InboxError, match="reachable"):
        Client.http("http://127.0.0.1:1", TOKEN).list()
    with pytest.raises(InboxError, match="Bearer"):
        Client.http(site.url, "wrong").list()
