"""Requests as files: a ``*.yaml`` in the inbox becomes a request, or gets its problems beside."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ..home import Home, write_text
from .inbox import Inbox
from .model import MAX_BYTES, Problem, RequestError, parse_request
from .notify import FILE as WEBHOOKS

PROBLEMS = ".problems.json"
_TAKEN = "dropped.yaml"
_log = logging.getLogger(__name__)


def take_dropped(home: Home) -> list[str]:
    """Submit the files that lie in the inbox; gives the ids of the new requests.

    A good file moves to its request's folder. A bad one stays, and ``<name>.problems.json`` says
    what is wrong with it; it is looked at again once it has changed.
    """
    inbox = Inbox(home)
    taken = []
    for path in sorted(home.requests.glob("*.yaml")):
        if path.name == WEBHOOKS or path.name.startswith("."):
            continue
        try:
            identity = _take(inbox, path)
        except OSError as error:
            # Another worker has taken it, or it cannot be read; the others must not wait for it.
            _log.debug("%s is left where it is: %s", path.name, type(error).__name__)
            continue
        if identity is not None:
            taken.append(identity)
    return taken


def _take(inbox: Inbox, path: Path) -> str | None:
    """The id of the request that ``path`` has become; None where something is wrong with it."""
    try:
        content = _content(path)
        digest = hashlib.sha256(content).hexdigest()
        if _told(path) == digest:
            return None
        # The same file, found again after a crash, is the same request. Its name may be any.
        name = hashlib.sha256(os.fsencode(path.name)).hexdigest()
        receipt = inbox.submit(parse_request(content), idempotency_key=f"{name} {digest}")
    except RequestError as error:
        _tell(path, error)
        return None
    path.replace(inbox.folder(receipt.id) / _TAKEN)
    with suppress(OSError):
        _problems_of(path).unlink()
    return receipt.id


def _content(path: Path) -> bytes:
    """The bytes of a plain file: a link could name a file that its owner may not read."""
    if path.is_symlink():
        raise RequestError((Problem("request", "must be a plain file, not a link"),))
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RequestError((Problem("request", "must be a plain file"),))
        return file.read(MAX_BYTES + 1)


def _problems_of(path: Path) -> Path:
    return path.with_name(path.name + PROBLEMS)


def _told(path: Path) -> str | None:
    try:
        said: str = json.loads(_problems_of(path).read_text("utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return said


def _tell(path: Path, error: RequestError) -> None:
    try:
        digest = hashlib.sha256(_content(path)).hexdigest()
    except (OSError, RequestError):
        digest = ""
    problems = [asdict(problem) for problem in error.problems]
    write_text(_problems_of(path), json.dumps({"sha256": digest, "problems": problems}, indent=1))
