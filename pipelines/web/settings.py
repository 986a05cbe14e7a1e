"""What a server is told at its start, and what a request knows of it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from ..home import Home
from .access import Access

COOKIE = "likeness_session"


@dataclass(frozen=True)
class Settings:
    """How a server behaves.

    Attributes:
        home: whose lake is shown and whose inbox is filled.
        access: the token.
        hosts: names it is reached by, beside those of the loopback.
        read_only: show, but take no requests.
        approvals: whether requests that need approval can get it here.
        writes_per_minute: of an address, requests that may change something.
        checks_per_minute: of an address, what is posted and changes nothing.
        failures_per_minute: of an address, wrong tokens.
        streams: of an address, requests that it watches at once.
        proxied: believe a proxy on this machine whose requests it passes on.
        poll_seconds: how often the inbox is looked at for somebody who watches a request.
    """

    home: Home
    access: Access
    hosts: tuple[str, ...] = ()
    read_only: bool = False
    approvals: bool = True
    writes_per_minute: int = 120
    checks_per_minute: int = 600
    failures_per_minute: int = 20
    streams: int = 20
    proxied: bool = False
    poll_seconds: float = 0.5


def settings_of(request: Request) -> Settings:
    """The settings of the server that a request came to."""
    settings: Settings = request.app.state.settings
    return settings


def session_of(request: Request, access: Access) -> str:
    """The session's cookie, if it is valid, else nothing."""
    cookie = request.cookies.get(COOKIE, "")
    return cookie if cookie and access.is_session(cookie) else ""
