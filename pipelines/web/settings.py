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
        access: the owner's token.
        asking: the token that may only read and ask, if there is one.
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
    asking: Access | None = None
    hosts: tuple[str, ...] = ()
    read_only: bool = False
    approvals: bool = True
    writes_per_minute: int = 120
    checks_per_minute: int = 600
    failures_per_minute: int = 20
    streams: int = 20
    proxied: bool = False
    poll_seconds: float = 0.5

    def access_of_token(self, given: str) -> Access | None:
        """The access that a token gives; how long it takes says nothing of the token."""
        found = [access for access in self._accesses if access.is_token(given)]
        return found[0] if found else None

    def access_of_session(self, cookie: str) -> Access | None:
        """The access that a session's cookie gives."""
        found = [access for access in self._accesses if cookie and access.is_session(cookie)]
        return found[0] if found else None

    @property
    def _accesses(self) -> tuple[Access, ...]:
        return (self.access,) if self.asking is None else (self.access, self.asking)


def settings_of(request: Request) -> Settings:
    """The settings of the server that a request came to."""
    settings: Settings = request.app.state.settings
    return settings


def session_of(request: Request) -> tuple[Access, str] | None:
    """The access of a request's session and its cookie, if it is valid."""
    cookie = request.cookies.get(COOKIE, "")
    access = settings_of(request).access_of_session(cookie)
    return None if access is None else (access, cookie)


def access_of(request: Request) -> Access | None:
    """What a request has shown: the token itself, or the cookie of a session."""
    session = session_of(request)
    return token_of(request) or (session[0] if session else None)


def token_of(request: Request) -> Access | None:
    """The access of the token that a request carries."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return settings_of(request).access_of_token(given.strip())
