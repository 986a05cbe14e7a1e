"""Bind, say where, and serve until Ctrl-C: the loopback by default, elsewhere only on purpose."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from generators.base import ParameterError

from ..home import Home
from .access import ASK_TOKEN_VARIABLE, TOKEN_VARIABLE, Access, given_token, kept_token
from .app import build_app
from .settings import Settings

HEADER_SECONDS = 10.0
"""A client that has not said within it what it wants is hung up on."""
_KEEP_ALIVE_SECONDS = 15
_CONNECTIONS = 200
_HEADER_BYTES = 16_384
_GRACE_SECONDS = 3


@dataclass(frozen=True)
class Options:
    """What ``likeness serve`` is told.

    Attributes:
        host: to bind.
        port: to bind; 0 is any free one.
        token_file: that holds the owner's token.
        ask_token_file: that holds the token which may only read and ask.
        hosts: further names the server is reached by.
        read_only: take no requests.
        approvals: let approvals be given here.
    """

    host: str = "127.0.0.1"
    port: int = 8321
    token_file: Path | None = None
    ask_token_file: Path | None = None
    hosts: tuple[str, ...] = ()
    read_only: bool = False
    approvals: bool = True


def serve(home: Home, options: Options, say: Callable[[str], None]) -> None:
    """Serve a home until the process is told to stop.

    Args:
        home: whose lake and inbox.
        options: where and how.
        say: told where the server is, once it is there.

    Raises:
        ParameterError: it may not be bound so, or the port is taken.
    """
    _check_lake(home)
    token, told = given_token(options.token_file), f"${TOKEN_VARIABLE}"
    if token is not None and options.token_file is not None:
        told = str(options.token_file)
    if token is None:
        if not is_loopback(options.host):
            raise ParameterError(
                f"a server that others reach must be given its token, {options.host} is not the "
                f"loopback; set {TOKEN_VARIABLE} or --token-file"
            )
        token, path = kept_token(home)
        told = str(path)
    settings = Settings(
        home=home,
        access=Access(token),
        asking=_asking(options, token),
        hosts=(*options.hosts, options.host.lower()),
        read_only=options.read_only,
        approvals=options.approvals,
        # Without a proxy the header that names a client is a client's own word for it.
        proxied=bool(options.hosts) or not is_loopback(options.host),
    )
    listener = bound(options.host, options.port)
    with listener:
        say(f"Likeness at http://{_address(listener)}, its token is in {told}")
        _hear_failures()
        uvicorn.Server(configured(settings)).run(sockets=[listener])


def _asking(options: Options, owners: str) -> Access | None:
    """The access of those who may only read and ask, where a token for them is given.

    Raises:
        ParameterError: it is the owner's.
    """
    token = given_token(options.ask_token_file, ASK_TOKEN_VARIABLE)
    if token == owners:
        raise ParameterError(
            "the token that only asks must not be the owner's, both are the same; make another "
            "with: openssl rand -hex 32"
        )
    return Access(token, decides=False) if token else None


def _check_lake(home: Home) -> None:
    """Refuse a lake that the vault lies in: all of a lake is served."""
    lake = home.lake
    if isinstance(lake, Path) and home.root.resolve().is_relative_to(lake.resolve()):
        raise ParameterError(
            f"the lake must not hold the vault, {lake} does; set LIKENESS_LAKE to another folder"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Impatient(H11Protocol):
    """HTTP that hangs up on a client that says nothing, or says it too slowly."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._clock = self.loop.call_later(HEADER_SECONDS, self._hang_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop it."""
        self._clock.cancel()
        super().connection_lost(exc)

    def _hang_up(self) -> None:
        if self.scope is None:
            self.transport.close()


def configured(settings: Settings) -> uvicorn.Config:
    """The server of ``settings``, with its bounds on time, size and number of connections."""
    return uvicorn.Config(
        build_app(settings),
        http=_Impatient,
        ws="none",
        lifespan="off",
        log_config=None,
        # What clients send wrongly is theirs to know; our own failures are told by `SafeErrors`.
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=settings.proxied,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        limit_concurrency=_CONNECTIONS,
        h11_max_incomplete_event_size=_HEADER_BYTES,
    )


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ParameterError: the address is not ours, or the port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        raise ParameterError(
            f"the server must be able to bind {host}:{port}, it is not ({error.strerror}); "
            "choose another --port or --host"
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _hear_failures() -> None:
    """Let what went wrong be read on the terminal; it holds no value of the data."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    logger.propagate = False
