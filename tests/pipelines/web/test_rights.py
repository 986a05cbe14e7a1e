"""The second token: it reads and asks, and decides nothing that is others' to decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from generators.base import ParameterError
from pipelines.home import Home
from pipelines.requests import Inbox
from pipelines.web.access import Access
from pipelines.web.serve import Options, serve

from .conftest import REQUEST, TOKEN, Site

ASKING = "another-token-of-the-tests-01234"
FORM = {"Content_Type": "application/x-www-form-urlencoded", "token": None}


@pytest.fixture
def site(make_site: Callable[..., Any], lake_home: Home, tmp_path: Path) -> Iterator[Site]:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    (home.root / "lake").symlink_to(lake_home.lake)
    with make_site(home=home, asking=Access(ASKING, decides=False)) as running:
        yield running


def asked(site: Site, token: str) -> str:
    identity: str = site.ask("POST", "/v1/requests", REQUEST, token=token).json()["id"]
    return identity


def test_it_reads_and_asks_and_cancels_its_own_alone(site: Site) -> None:
    assert site.get("/v1/datasets", token=ASKING).json()["datasets"]
    own, others = asked(site, ASKING), asked(site, TOKEN)
    assert site.get(f"/v1/requests/{others}", token=ASKING).status == 200
    refused = site.ask("POST", f"/v1/requests/{others}/cancel", token=ASKING)
    assert (refused.status, "owner's token" in refused.text) == (403, True)
    canceled = site.ask("POST", f"/v1/requests/{own}/cancel", token=ASKING)
    assert (canceled.status, canceled.json()["state"]) == (200, "CANCELED")
    assert site.ask("POST", f"/v1/requests/{others}/cancel").json()["state"] == "CANCELED"


def test_it_approves_nothing_not_even_its_own(site: Site) -> None:
    identity, inbox = asked(site, ASKING), Inbox(site.home)
    inbox.append(identity, 1, "VALIDATED")
    inbox.append(identity, 2, "NEEDS_APPROVAL", message="more rows than usual")
    assert site.ask("POST", f"/v1/requests/{identity}/approve", token=ASKING).status == 403
    assert inbox.status(identity).state == "NEEDS_APPROVAL"
    assert site.ask("POST", f"/v1/requests/{identity}/approve").json()["state"] == "QUEUED"


def test_its_pages_offer_no_more_than_it_may(site: Site) -> None:
    own, others = asked(site, ASKING), asked(site, TOKEN)
    for identity in (own, others):
        Inbox(site.home).append(identity, 1, "VALIDATED")
        Inbox(site.home).append(identity, 2, "NEEDS_APPROVAL", message="more rows than usual")

    def offered(cookie: str, identity: str) -> set[str]:
        page = site.get(f"/requests/{identity}", token=None, Cookie=cookie).text
        return set(re.findall(rf'action="/requests/{identity}/(\w+)"', page))

    asker, owner = signed_in(site, ASKING), signed_in(site, TOKEN)
    assert offered(asker, own) == {"cancel"}
    assert offered(asker, others) == set()
    assert offered(owner, own) == offered(owner, others) == {"cancel", "approve"}

    page = site.get("/requests/new", token=None, Cookie=asker).text
    found = re.search(r'name="form_key" value="([^"]+)"', page)
    assert found
    form = urlencode({"form_key": found[1]})
    for path in (f"{others}/cancel", f"{others}/approve", f"{own}/approve"):
        assert site.ask("POST", f"/requests/{path}", form, Cookie=asker, **FORM).status == 403
    # A form of one session is none of another's.
    answer = site.ask("POST", f"/requests/{others}/approve", form, Cookie=owner, **FORM)
    assert answer.status == 403
    assert Inbox(site.home).status(others).state == "NEEDS_APPROVAL"


def test_a_page_asks_in_the_name_of_its_token(site: Site) -> None:
    cookie = signed_in(site, ASKING)
    page = site.get("/requests/new?dataset=people", token=None, Cookie=cookie).text
    found = re.search(r'name="form_key" value="([^"]+)"', page)
    assert found
    fields = {"form_key": found[1], "dataset": "people", "name": "by-page", "rows": "20"}
    sent = site.ask("POST", "/requests", urlencode(fields), Cookie=cookie, **FORM)
    identity = sent.headers["location"].rpartition("/")[2]
    assert site.ask("POST", f"/v1/requests/{identity}/cancel", token=ASKING).status == 200


def test_it_is_not_the_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_TOKEN", TOKEN)
    monkeypatch.setenv("LIKENESS_ASK_TOKEN", TOKEN)
    with pytest.raises(ParameterError, match="must not be the owner's"):
        serve(Home(tmp_path), Options(port=0), print)


def signed_in(site: Site, token: str) -> str:
    answer = site.ask("POST", "/login", urlencode({"token": token, "next": "/"}), **FORM)
    assert answer.status == 303
    return answer.headers["set-cookie"].partition(";")[0]
