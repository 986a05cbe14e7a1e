"""What stands before every door: plain ASGI layers, each with one duty.

From the outside in: ``SafeErrors`` (no traceback leaves), ``KnownHosts`` (DNS rebinding),
``BoundedBody`` (size and time of what is sent), ``Throttle`` (how often), ``Login`` (who).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..boundary import InternalError, boundary
from ..home import Home
from .problems import ProblemError
from .render import error_response
from .settings import session_of, token_of

MAX_BODY_BYTES = 1 << 20
"""A request is text of some kilobytes; a megabyte is generous."""
BODY_SECONDS = 10.0
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_PATHS = ("/login", "/static/", "/v1/health", "/favicon.ico")
"""What is served without a login: it tells nothing of the home."""

HARMLESS = frozenset({"/requests/check", "/requests/form", "/v1/requests/check"})
"""Posted, but changing nothing: a form that is filled in asks with every pause."""
_MOST_ADDRESSES = 10_000
"""Clients that are remembered at once; a header of a proxy can name any number."""
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
_log = logging.getLogger(__name__)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
}


class SafeErrors:
    """Turn every exception into an answer; what was unforeseen is kept in the vault alone."""

    def __init__(self, app: ASGIApp, home: Home) -> None:
        self._app, self._home = app, home

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, come what may."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            return await self._app(scope, receive, watched)
        except ProblemError as known:
            problem = known
        except Exception as unforeseen:  # noqa: BLE001 - the edge where a traceback could leave
            problem = ProblemError(500, self._keep(unforeseen))
        if started:
            # Half an answer is out: the connection is broken off, so that nobody takes it as whole.
            raise ConnectionAbortedError
        await error_response(Request(scope), problem)(scope, receive, watched)
        return None

    def _keep(self, error: Exception) -> str:
        try:
            with boundary("serve", self._home):
                raise error
        except InternalError as told:
            _log.error("%s", told)
        return "the server must not fail, it did; its owner finds the details in the vault"


class KnownHosts:
    """Refuse names that are not ours: a foreign name that resolves to us is an attack."""

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, frozenset(host.lower() for host in hosts) | _LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is addressed to us."""
        if scope["type"] == "http" and self._name(scope) not in self._hosts:
            raise ProblemError(
                421, "the Host header must name this server; see --allow-host of likeness serve"
            )
        await self._app(scope, receive, send)

    @staticmethod
    def _name(scope: Scope) -> str:
        host = Headers(scope=scope).get("host", "").lower()
        name, colon, port = host.rpartition(":")
        return name if colon and port.isdigit() else host


class BoundedBody:
    """Read the body before the application does, as far as it may go and as long as it may take."""

    def __init__(self, app: ASGIApp, limit: int = MAX_BODY_BYTES) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on the whole body as one message."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(receive)
        except TimeoutError:
            raise ProblemError(
                408, f"a body must arrive within {BODY_SECONDS:.0f} s", headers=_CLOSE
            ) from None
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self._app(scope, replay, send)

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ProblemError(400, "a body must arrive whole, it was cut off")
            body += message.get("body", b"")
            if len(body) > self._limit:
                raise ProblemError(
                    413, f"a body must have at most {self._limit:,} bytes", headers=_CLOSE
                )
            if not message.get("more_body", False):
                return bytes(body)


class Throttle:
    """Let an address change things only so often.

    Args:
        writes: requests that may change something, a minute.
        checks: requests that are posted and change nothing, a minute.
    """

    def __init__(self, app: ASGIApp, writes: int, checks: int) -> None:
        self._app, self._writes, self._checks = app, _Window(writes), _Window(checks)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what is not too much."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS:
            harmless = scope["path"] in HARMLESS
            window = self._checks if harmless else self._writes
            if not window.take(address_of(scope)):
                what = "checks" if harmless else "requests that change something"
                raise _too_much(what)
        await self._app(scope, receive, send)


class Login:
    """Let in who shows a token, or a cookie that was made from it.

    A cookie alone changes nothing: pages that do carry a key of the session in their forms, and
    REST wants the token itself.

    Args:
        failures: wrong tokens that an address may show a minute.
    """

    def __init__(self, app: ASGIApp, failures: int) -> None:
        self._app, self._failures = app, _Window(failures)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on who may come in."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request = Request(scope)
        _refuse_foreign_origin(request)
        if self._has_session(request):
            return await self._app(scope, receive, send)
        if self._failures.full(address_of(scope)):
            raise _too_much("wrong tokens")
        if scope["path"].startswith(OPEN_PATHS) or token_of(request):
            return await self._app(scope, receive, self._counting(scope, send))
        if not is_api(scope) and request.method in SAFE_METHODS:
            target = f"/login?{urlencode({'next': _target(scope)})}"
            return await RedirectResponse(target, 303)(scope, receive, send)
        self._failures.take(address_of(scope))
        raise ProblemError(
            401,
            "a token must be sent as Authorization: Bearer TOKEN; `likeness serve` says where",
            headers={"WWW-Authenticate": 'Bearer realm="likeness"'},
        )

    def _has_session(self, request: Request) -> bool:
        allowed = request.method in SAFE_METHODS or not is_api(request.scope)
        return allowed and session_of(request) is not None

    def _counting(self, scope: Scope, send: Send) -> Send:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 401:
                self._failures.take(address_of(scope))
            await send(message)

        return watched


class Streams:
    """How many answers without an end each address holds open at once.

    Args:
        limit: of one address.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: Counter[str] = Counter()

    def enter(self, address: str) -> None:
        """Count one more; ``leave`` must follow.

        Raises:
            ProblemError: there are as many as may be.
        """
        if self._open[address] >= self._limit:
            raise ProblemError(
                429,
                f"an address may watch {self._limit} requests at once; close some",
                headers={"Retry-After": "60"},
            )
        self._open[address] += 1

    def leave(self, address: str) -> None:
        """One has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class _Window:
    """How many events of each key lie within the last minute."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._times: dict[str, deque[float]] = defaultdict(deque)

    def full(self, key: str) -> bool:
        """Whether there is no room left."""
        now, times = time.monotonic(), self._times[key]
        while times and times[0] < now - 60:
            times.popleft()
        if not times:
            del self._times[key]
        return len(times) >= self._limit

    def take(self, key: str) -> bool:
        """Count an event, if there is room."""
        if self.full(key) or not self._known(key):
            return False
        self._times[key].append(time.monotonic())
        return True

    def _known(self, key: str) -> bool:
        """Whether the events of ``key`` can be remembered; those of a minute ago are forgotten."""
        if key not in self._times and len(self._times) >= _MOST_ADDRESSES:
            since = time.monotonic() - 60
            for old in [other for other, times in self._times.items() if times[-1] < since]:
                del self._times[old]
        return key in self._times or len(self._times) < _MOST_ADDRESSES


_CLOSE = {"Connection": "close"}


def _too_much(what: str) -> ProblemError:
    return ProblemError(
        429, f"there were too many {what} within a minute; wait", headers={"Retry-After": "60"}
    )


def address_of(scope: Scope) -> str:
    """Where a request comes from."""
    return str((scope.get("client") or ("",))[0])


def _target(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def is_api(scope: Scope) -> bool:
    """Whether a path belongs to programs, not to people."""
    path: str = scope["path"]
    return path.startswith("/v1/")


def _refuse_foreign_origin(request: Request) -> None:
    """Browsers say where a request comes from; whatever is not ours changes nothing here."""
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    try:
        own = origin is None or urlsplit(origin).netloc == request.headers.get("host")
    except ValueError:
        own = False
    if not own:
        raise ProblemError(403, "a form must be sent from a page of this server")
