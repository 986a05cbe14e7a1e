"""Webhooks over a real HTTP server: what is sent, signed, tried again; no secret in a file."""

import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.home import Home
from pipelines.requests.notify import FILE, SIGNATURE, Message, notify

MESSAGE = Message("PUBLISHED", "adult", request="r", version="adult@3")


class Receiver(HTTPServer):
    """Answers with the next of ``answers`` and keeps what came."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = []
        self.came: list[tuple[dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook?token=hidden"


class _Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append((dict(self.headers), body))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def settings(home: Home, *hooks: dict[str, object]) -> None:
    (home.requests / FILE).write_text(json.dumps({"webhooks": [{"pause": 0, **h} for h in hooks]}))


def test_a_message_is_posted_with_its_signature(
    home: Home, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", receiver.url)
    monkeypatch.setenv("HOOK_KEY", "very secret")
    settings(home, {"name": "team", "url": "env:HOOK", "secret": "env:HOOK_KEY"})
    assert notify(home, MESSAGE) == {"team": True}
    ((headers, body),) = receiver.came
    assert json.loads(body) == {
        "kind": "likeness", "event": "PUBLISHED", "dataset": "adult", "request": "r",
        "version": "adult@3",
    }  # fmt: skip
    at, _, given = headers[SIGNATURE].removeprefix("t=").partition(",v1=")
    signed = hmac.new(b"very secret", f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    assert given == signed


def test_a_failed_try_is_repeated_and_a_dead_webhook_stops_nothing(
    home: Home, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    settings(
        home,
        {"name": "flaky", "url": receiver.url},
        {"name": "dead", "url": "http://127.0.0.1:9/token=hidden", "timeout": 0.5},
    )
    receiver.answers = [500, 302]
    with caplog.at_level(logging.INFO):
        assert notify(home, MESSAGE) == {"flaky": True, "dead": False}
    assert len(receiver.came) == 3
    assert "PUBLISHED adult adult@3" in caplog.text
    assert "hidden" not in caplog.text


def test_only_those_hear_who_want_to(home: Home, receiver: Receiver) -> None:
    settings(
        home,
        {"name": "one", "url": receiver.url, "on": ["FAILED"]},
        {"name": "two", "url": receiver.url},
        {"name": "three", "url": receiver.url},
    )
    assert notify(home, MESSAGE, ["one", "two"]) == {"two": True}
    assert len(receiver.came) == 1


@pytest.mark.parametrize(
    "hook",
    [
        {"url": "http://me:secret@host/"},
        {"url": "file:///etc/passwd"},
        {"url": "http://host/", "secret": "in the file"},
        {"url": "env:NOT_SET_ANYWHERE"},
    ],
)
def test_a_wrong_setting_is_told_and_nothing_is_sent(
    home: Home, hook: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    settings(home, {"name": "team", **hook})
    assert not any(notify(home, MESSAGE).values())
    assert "secret@" not in caplog.text
    assert "in the file" not in caplog.text
    assert any(record.levelno >= logging.WARNING for record in caplog.records)
