"""Tell people how a request or a release ended: a line in the log, and webhooks.

Webhooks are the operator's, in ``requests/notify.yaml``, and hold no secret::

    webhooks:
      - name: team-risk
        url: env:LIKENESS_WEBHOOK_URL      # or https://...
        secret: env:LIKENESS_WEBHOOK_SECRET
        on: [PUBLISHED, QUARANTINED, FAILED]

A message is a JSON POST with the header ``X-Likeness-Signature: t=<unix time>,v1=<hex>``, where
``v1`` is HMAC-SHA256 of ``<t>.<body>`` under the secret. A message is tried three times; one that
does not arrive is logged and stops nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import Field, SecretStr, ValidationError, field_validator

from generators.base import ParameterError

from ..home import Home
from .declaration import Model
from .inbox import Status

SIGNATURE = "X-Likeness-Signature"
FILE = "notify.yaml"
_TRIES = 3
_log = logging.getLogger("likeness.notify")
NotifiedState = Literal[
    "PUBLISHED", "QUARANTINED", "FAILED", "REJECTED", "NEEDS_APPROVAL", "EXPIRED"
]
NOTIFIED: tuple[str, ...] = get_args(NotifiedState)


class Webhook(Model):
    """Where messages go.

    Attributes:
        name: by which requests name it; a webhook that no request names hears of all.
        url: http or https, or ``env:NAME`` of the variable that holds it.
        secret: ``env:NAME`` of the variable that holds the key of the signature.
        on: states that are told.
        timeout: seconds a try may take.
        pause: seconds before the second try; doubled before the third.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")
    url: str = Field(min_length=1, max_length=2_000)
    secret: str | None = Field(default=None, pattern=r"^env:[A-Za-z_][A-Za-z0-9_]*$")
    on: tuple[NotifiedState, ...] = ("PUBLISHED", "QUARANTINED", "FAILED")
    timeout: float = Field(default=5.0, gt=0, le=60)
    pause: float = Field(default=1.0, ge=0, le=60)

    @field_validator("url")
    @classmethod
    def _is_web(cls, url: str) -> str:
        if url.startswith("env:"):
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a webhook's url must be http(s)://..., or env:NAME")
        if parts.username or parts.password:
            raise ValueError("a password does not belong into a file; use url: env:NAME")
        return url

    def key(self) -> SecretStr | None:
        """The key of the signature.

        Raises:
            ParameterError: its variable is not set.
        """
        return None if self.secret is None else SecretStr(_variable(self.secret))

    def address(self) -> str:
        """The URL itself.

        Raises:
            ParameterError: its variable is not set.
        """
        return _variable(self.url) if self.url.startswith("env:") else self.url


class _Settings(Model):
    webhooks: tuple[Webhook, ...] = ()


@dataclass(frozen=True)
class Message:
    """What is told: counts, names, states; no value of any data."""

    event: str
    dataset: str
    request: str | None = None
    version: str | None = None
    gates: tuple[str, ...] = ()
    message: str = ""

    def to_json(self) -> bytes:
        """The body of the POST."""
        fields = {name: value for name, value in vars(self).items() if value}
        return json.dumps({**fields, "kind": "likeness"}, sort_keys=True).encode()


def webhooks(home: Home) -> tuple[Webhook, ...]:
    """The operator's webhooks.

    Raises:
        ParameterError: the file is wrong.
    """
    path = home.requests / FILE
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        return _Settings.model_validate(raw).webhooks
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise ParameterError(f"{path} must be readable YAML; correct it") from None
    except ValidationError as error:
        issues = error.errors(include_input=False, include_url=False)
        said = "; ".join(f"{'.'.join(map(str, i['loc']))}: {i['msg']}" for i in issues)
        raise ParameterError(f"{path} is wrong: {said}") from None


def of_request(status: Status) -> Message:
    """The message about a request."""
    gates = status.events[-1].facts.get("gates", ())
    return Message(
        event=status.state,
        dataset=status.name,
        request=status.id,
        version=status.version,
        gates=tuple(gate["gate"] for gate in gates),
        message=status.message,
    )


def notify(home: Home, message: Message, names: Iterable[str] = ()) -> dict[str, bool]:
    """Log ``message`` and send it; gives for each webhook whether it arrived.

    Args:
        home: whose webhooks.
        message: what is told.
        names: of webhooks that a request asks for; all where none is named.
    """
    level = logging.INFO if message.event == "PUBLISHED" else logging.WARNING
    _log.log(level, "%s %s %s", message.event, message.dataset, message.version or message.message)
    try:
        known = webhooks(home)
    except ParameterError as error:
        _log.error("%s", error)
        return {}
    wanted = set(names)
    for missing in sorted(wanted - {hook.name for hook in known}):
        _log.error("a request names the webhook %r, %s has none of that name", missing, FILE)
    chosen = [hook for hook in known if not wanted or hook.name in wanted]
    return {hook.name: _sent(hook, message) for hook in chosen if message.event in hook.on}


def signature(body: bytes, key: str, at: int) -> str:
    """The value of the header ``X-Likeness-Signature``."""
    digest = hmac.new(key.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def _sent(hook: Webhook, message: Message) -> bool:
    pause = hook.pause
    for attempt in range(1, _TRIES + 1):
        problem = _tried(hook, message.to_json())
        if problem is None:
            return True
        _log.warning("webhook %s: try %d of %d: %s", hook.name, attempt, _TRIES, problem)
        if attempt < _TRIES:
            time.sleep(pause)
            pause *= 2
    return False


def _tried(hook: Webhook, body: bytes) -> str | None:
    """Why the message did not arrive, or None; never the URL, which may hold a token."""
    try:
        headers = {"Content-Type": "application/json", "User-Agent": "likeness"}
        key = hook.key()
        if key is not None:
            headers[SIGNATURE] = signature(body, key.get_secret_value(), int(time.time()))
        asked = urllib.request.Request(hook.address(), data=body, headers=headers, method="POST")
        opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
        with opener.open(asked, timeout=hook.timeout):
            return None
    except urllib.error.HTTPError as error:
        error.close()
        return f"it answered {error.code}"
    except ParameterError as error:
        return str(error)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return type(error).__name__


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A signed message goes where the operator said, nowhere else."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002, ANN401
        """Follow nothing: the answer counts as a failure."""
        return


def _variable(text: str) -> str:
    name = text.removeprefix("env:")
    value = os.environ.get(name, "")
    if not value:
        raise ParameterError(f"the environment variable {name} must be set, it is not")
    return value
