"""What stands before the doors: who comes in, from where, with how much, how often."""

from __future__ import annotations

import os
import re
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from generators.base import ParameterError
from pipelines.home import Home
from pipelines.web import guard, shelf
from pipelines.web.access import SESSION_SECONDS, Access, given_token, kept_token
from pipelines.web.serve import Options, serve

from .conftest import PATIENCE, REQUEST, TOKEN, Site


def form(**fields: str) -> str:
    return urlencode(fields)


FORM = {"Content_Type": "application/x-www-form-urlencoded"}


def signed_in(site: Site) -> str:
    """The Cookie header after a login."""
    answer = site.ask("POST", "/login", form(token=TOKEN, next="/requests"), token=None, **FORM)
    assert (answer.status, answer.headers["location"]) == (303, "/requests")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert TOKEN not in cookie
    return cookie.partition(";")[0]


def form_key(site: Site, cookie: str) -> str:
    page = site.get("/requests/new", token=None, Cookie=cookie).text
    found = re.search(r'name="form_key" value="([^"]+)"', page)
    assert found
    return found[1]


def test_without_a_token_nothing_is_told(site: Site) -> None:
    for path in ("/v1/datasets", "/v1/requests", "/v1/openapi.json", "/v1/nothing"):
        answer = site.get(path, token=None)
        assert answer.status == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    for path in ("/datasets", "/requests", "/lake/index.html", "/"):
        answer = site.get(path, token=None)
        assert answer.status == 303
        assert answer.headers["location"].startswith("/login?next=")
    assert site.get("/v1/datasets", token=TOKEN[:-1]).status == 401
    assert site.get("/v1/datasets", token="").status == 401
    assert site.get("/v1/health", token=None).json() == {"status": "ok", "read_only": False}


def test_a_wrong_token_may_be_shown_only_so_often(make_site: Callable[..., Any]) -> None:
    with make_site(failures_per_minute=5) as site:
        cookie = signed_in(site)
        tried = [site.get("/v1/datasets", token=f"wrong-{n}").status for n in range(7)]
        assert tried == [401] * 5 + [429] * 2
        wrong = site.ask("POST", "/login", form(token=TOKEN, next="/"), token=None, **FORM)
        assert wrong.status == 429, "the right one must not be told from the wrong ones"
        assert site.get("/v1/datasets").status == 429
        assert site.get("/datasets", token=None, Cookie=cookie).status == 200


def test_any_number_of_addresses_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_MOST_ADDRESSES", 3)
    now = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    window = guard._Window(2)
    assert [window.take(key) for key in ("a", "b", "c", "d", "a", "a")] == [
        *(True, True, True),
        *(False, True, False),
    ]
    now += 61
    assert window.take("d"), "the others are forgotten"
    assert [window.take("a"), window.take("b"), window.take("c")] == [True, True, False]


def test_writes_are_bounded_and_questions_are_not(
    make_site: Callable[..., Any], tmp_path: Path
) -> None:
    with make_site(writes_per_minute=3, home=Home(tmp_path)) as site:
        tried = [site.ask("POST", "/v1/requests", REQUEST).status for _ in range(5)]
        assert tried == [202] * 3 + [429] * 2
        assert site.ask("POST", "/v1/requests/check", REQUEST).status == 200
        assert site.get("/v1/datasets").status == 200


def test_checks_have_a_window_of_their_own_that_no_header_widens(
    make_site: Callable[..., Any],
) -> None:
    def checks(site: Site) -> list[int]:
        return [
            site.ask("POST", "/v1/requests/check", REQUEST, X_Forwarded_For=f"10.0.0.{n}").status
            for n in range(4)
        ]

    with make_site(checks_per_minute=3) as site:
        assert checks(site) == [200] * 3 + [429]
    with make_site(checks_per_minute=3, proxied=True) as site:
        assert checks(site) == [200] * 4


def test_an_address_watches_only_so_many_requests_at_once(
    make_site: Callable[..., Any], tmp_path: Path
) -> None:
    with make_site(streams=2, home=Home(tmp_path)) as site:
        identity = site.ask("POST", "/v1/requests", REQUEST).json()["id"]
        path = f"/v1/requests/{identity}/events"
        headers = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/event-stream"}
        held = [site.connection() for _ in range(2)]
        for connection in held:
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == 200
        assert site.get(path, Accept="text/event-stream").status == 429
        assert site.get(path).status == 200
        ended = site.ask("POST", f"/v1/requests/{identity}/cancel", {"reason": "done"})
        assert ended.status == 200
        for connection in held:
            connection.close()
        while site.get(path, Accept="text/event-stream").status == 429:
            time.sleep(0.01)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_a_foreign_host_is_refused(site: Site, host: str) -> None:
    answer = site.get("/v1/health", Host=host)
    assert answer.status in (400, 421)


def test_names_of_ours_are_served(make_site: Callable[..., Any]) -> None:
    with make_site(hosts=("Data.Example",)) as site:
        for host in ("localhost", f"localhost:{site.port}", "[::1]:80", "DATA.example:443"):
            assert site.get("/v1/health", Host=host).status == 200


def test_a_cookie_reads_but_does_not_change(site: Site) -> None:
    cookie = signed_in(site)
    assert site.get("/v1/requests", token=None, Cookie=cookie).status == 200
    assert site.ask("POST", "/v1/requests", REQUEST, token=None, Cookie=cookie).status == 401
    fields = form(dataset="people", name="x", rows="1")
    for key in ("", "form_key=&", "form_key=wrong&"):
        answer = site.ask("POST", "/requests", key + fields, token=None, Cookie=cookie, **FORM)
        assert answer.status == 403
    other = signed_in(site)
    stolen = f"form_key={form_key(site, other)}&{fields}"
    answer = site.ask("POST", "/requests", stolen, token=None, Cookie=cookie, **FORM)
    assert answer.status == 403, "the key of another session"
    key = f"form_key={form_key(site, cookie)}&{fields}"
    for origin in ("http://127.0.0.1:1", "null", "http://["):
        sent = {"Cookie": cookie, "Origin": origin, **FORM}
        answer = site.ask("POST", "/requests/check", key, token=None, **sent)
        assert answer.status == 403, "another port is another site"
    answer = site.ask("POST", "/requests/check", key, token=None, Cookie=cookie, **FORM)
    assert answer.status == 200


def test_signing_out_needs_the_form_and_forgets_the_cookie(site: Site) -> None:
    cookie = signed_in(site)
    assert site.ask("POST", "/logout", "", token=None, Cookie=cookie, **FORM).status == 403
    key = form(form_key=form_key(site, cookie))
    answer = site.ask("POST", "/logout", key, token=None, Cookie=cookie, **FORM)
    assert answer.status == 303
    assert 'likeness_session=""' in answer.headers["set-cookie"]


@pytest.mark.parametrize("target", ["//evil.example", "/\\evil.example", "https://evil.example"])
def test_the_login_leads_nowhere_else(site: Site, target: str) -> None:
    answer = site.ask("POST", "/login", form(token=TOKEN, next=target), token=None, **FORM)
    assert answer.headers["location"] == "/"


def test_sessions_end_and_cannot_be_forged(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN)
    cookie = access.new_session()
    assert access.is_session(cookie)
    until, nonce, proof = cookie.split(".")
    for forged in ("", "..", f"{int(until) + 1}.{nonce}.{proof}", f"{until}.x{nonce}.{proof}"):
        assert not access.is_session(forged)
    assert not Access(TOKEN + "x").is_session(cookie), "a new token ends all sessions"
    later = time.time() + SESSION_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    assert not access.is_session(cookie)


def test_a_body_is_bounded_however_it_is_sent(site: Site) -> None:
    large = "x" * (guard.MAX_BODY_BYTES + 1)
    assert site.ask("POST", "/v1/requests", large).status == 413
    head = f"POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as client:
        client.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        sent = 0
        try:
            for _ in range(1_000):
                client.sendall(chunk)
                sent += 0x10000
        except OSError:
            pass  # the server has hung up
        assert sent < 40 * guard.MAX_BODY_BYTES
        client.settimeout(5)
        try:
            answer = client.recv(1000)
        except OSError:
            answer = b""
        assert answer == b"" or b" 413 " in answer
    assert site.ask("POST", "/v1/requests/check", REQUEST).status == 200


def test_slow_clients_are_hung_up_on(
    make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.web.serve.HEADER_SECONDS", 0.3)
    monkeypatch.setattr("pipelines.web.guard.BODY_SECONDS", 0.3)
    with make_site() as site:
        with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as silent:
            silent.sendall(b"GET /v1/health HTTP/1.1\r\nHost: loc")
            assert silent.recv(100) == b""
        head = f"POST /v1/requests HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
        with socket.create_connection(("127.0.0.1", site.port), timeout=PATIENCE) as slow:
            slow.sendall(f"{head}Content-Length: 100\r\n\r\nabc".encode())
            assert b" 408 " in slow.recv(1000)


def test_every_answer_bears_the_headers(site: Site) -> None:
    for path in ("/v1/health", "/login", "/v1/nothing", "/datasets", "/static/likeness.css"):
        headers = site.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert "server" not in headers


def test_no_traceback_leaves(
    make_site: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "Ada Lovelace"

    def fails(*_: object) -> None:
        raise RuntimeError(f"cell {secret}")

    monkeypatch.setattr(shelf, "datasets", fails)
    with make_site(home=Home(tmp_path)) as site:
        for path, kind in (
            ("/v1/datasets", "application/problem+json"),
            ("/datasets", "text/html"),
        ):
            answer = site.get(path, Accept="text/html")
            assert answer.status == 500
            assert answer.headers["content-type"].startswith(kind)
            assert secret not in answer.text
            assert "Traceback" not in answer.text
        kept = list((site.home.vault / "tracebacks").iterdir())
    assert len(kept) == 2
    assert all(secret in file.read_text() for file in kept)


def test_the_token_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    token, path = kept_token(home)
    assert len(token) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert kept_token(home) == (token, path)
    assert os.listdir(home.root) == [path.name]
    with pytest.raises(ParameterError, match="at least 24"):
        Access("short")
    with pytest.raises(ParameterError, match="readable"):
        given_token(tmp_path / "nothing")
    assert token not in repr(Access(token))


def test_a_server_for_others_needs_a_token_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LIKENESS_TOKEN", raising=False)
    with pytest.raises(ParameterError, match="must be given its token"):
        serve(Home(tmp_path), Options(host="0.0.0.0", port=0), print)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ParameterError, match="choose another --port"):
            serve(Home(tmp_path), Options(port=port), print)


def test_a_lake_that_holds_the_vault_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIKENESS_LAKE", str(tmp_path))
    with pytest.raises(ParameterError, match="must not hold the vault"):
        serve(Home(tmp_path / "home"), Options(port=0), print)


def test_a_server_may_only_show(make_site: Callable[..., Any]) -> None:
    with make_site(read_only=True) as site:
        assert site.ask("POST", "/v1/requests", REQUEST).status == 403
        assert site.get("/requests/new", Accept="text/html").status == 403
        assert "/requests/new" not in site.get("/datasets").text
        assert site.get("/v1/datasets").status == 200


def test_a_request_that_cannot_be_read_any_more_is_shown(
    make_site: Callable[..., Any], tmp_path: Path
) -> None:
    home = Home(tmp_path)
    with make_site(home=home) as site:
        identity = site.ask("POST", "/v1/requests", REQUEST).json()["id"]
        (home.requests / identity / "request.yaml").write_text("apiVersion: likeness/v0\n")
        cookie = signed_in(site)
        for path in ("/requests", f"/requests/{identity}"):
            assert site.get(path, token=None, Cookie=cookie).status == 200
        assert [one["id"] for one in site.get("/v1/requests").json()["requests"]] == [identity]
        told = site.get(f"/v1/requests/{identity}").json()
        assert "cannot read" in told["message"]
        assert told["request"] == {}
