"""The inbox: requests as files, their states as an append-only list of events.

``requests/<id>/request.yaml`` is what was asked; ``requests/<id>/events/0003.json`` is what
happened third. An event is created under the next free number, which one process can do only: two
that would advance a request at once cannot both. Its number alone names the file, for else
``0003-RUNNING`` and ``0003-CANCELED`` could both be created.

::

    RECEIVED ─▶ VALIDATED ─▶ QUEUED ─▶ RUNNING ─▶ PUBLISHED ─▶ EXPIRED ─▶ PURGED
        │            └▶ NEEDS_APPROVAL ─▶ QUEUED     ├▶ QUARANTINED
        └▶ REJECTED                                  ├▶ FAILED ─▶ QUEUED (another attempt)
                       CANCELED from any state before the publication
"""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from generators.base import LikenessError, ParameterError

from ..home import Home, canonical_json, write_text
from ..publication.store import TEMPORARY, LocalStore
from .model import DataRequest, Problem, RequestError, parse_request

if TYPE_CHECKING:
    import pandas as pd

State = Literal[
    "RECEIVED",
    "REJECTED",
    "VALIDATED",
    "NEEDS_APPROVAL",
    "QUEUED",
    "RUNNING",
    "PUBLISHED",
    "QUARANTINED",
    "FAILED",
    "CANCELED",
    "EXPIRED",
    "PURGED",
]
STATES: tuple[str, ...] = get_args(State)
FINAL = frozenset({"REJECTED", "QUARANTINED", "FAILED", "CANCELED", "EXPIRED", "PURGED"})
"""States that nothing follows, but for an expired version that is purged."""
ANSWERED = FINAL | {"PUBLISHED"}
"""States in which there is nothing to wait for."""
_NEXT: dict[str, frozenset[str]] = {
    "": frozenset({"RECEIVED"}),
    "RECEIVED": frozenset({"VALIDATED", "REJECTED", "FAILED", "CANCELED"}),
    "VALIDATED": frozenset(
        {"NEEDS_APPROVAL", "QUEUED", "PUBLISHED", "REJECTED", "FAILED", "CANCELED"}
    ),
    "NEEDS_APPROVAL": frozenset({"QUEUED", "CANCELED"}),
    "QUEUED": frozenset({"RUNNING", "CANCELED", "FAILED", "REJECTED"}),
    "RUNNING": frozenset(
        {"RUNNING", "PUBLISHED", "QUARANTINED", "FAILED", "CANCELED", "QUEUED", "REJECTED"}
    ),
    "FAILED": frozenset({"QUEUED"}),
    "PUBLISHED": frozenset({"EXPIRED"}),
    "EXPIRED": frozenset({"PURGED"}),
}
_ID = re.compile(r"^[0-9a-z][0-9a-z-]{7,63}$")
_REQUEST, _PROGRESS, _LOCK = "request.yaml", "progress.json", "lock"
_SETTLING = "settling.lock"
_PREVIEW = "preview.parquet"
WITHDRAWN = frozenset({"QUARANTINED", "EXPIRED", "PURGED"})
"""States in which a preview is not shown: its rows are those of what was stopped or withdrawn."""
PUBLISHING = "publish"
"""The phase of a running request from which on it cannot be canceled any more."""
_POLL_SECONDS = 0.2
_UNREADABLE = "this version of Likeness cannot read the request; submit it anew"


class InboxError(LikenessError, RuntimeError):
    """A request is not there, or not in a state for what was asked."""


@dataclass(frozen=True)
class Event:
    """What happened to a request.

    Attributes:
        number: from 1 without gaps.
        state: the state that the request is in from then on.
        at: when, ISO 8601 in UTC.
        facts: what there is to know, without any real value.
    """

    number: int
    state: State
    at: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """The answer to a submission; ``created`` is False where it was there already."""

    id: str
    state: State
    created: bool


@dataclass(frozen=True)
class Status:
    """Where a request stands.

    Attributes:
        state: the newest.
        events: all, oldest first.
        version: of the dataset, as ``adult@3``, where it was published; the first of several.
        versions: all of them: a request for tables has one each.
        problems: what was wrong, of a rejected or failed request.
        report: path of the report, in the lake or, of a quarantined candidate, in the vault.
        progress: of a running request: ``phase``, ``step``, ``total``, ``seconds``,
            ``remaining``, ``loss``; else empty.
        preview: path of the preview's Parquet file, where there is one and nothing was withdrawn.
        message: a sentence for people, where there is something to say.
        likeness_on: what the verdict on likeness was reached on, where that is not these rows.
    """

    id: str
    name: str
    state: State
    events: tuple[Event, ...]
    version: str | None = None
    versions: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    report: str | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)
    preview: str | None = None
    message: str = ""
    likeness_on: str = ""

    @property
    def answered(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.state in ANSWERED

    def answer(self, name: str | None = None) -> str:
        """The published version; of a request for tables, that of the dataset ``name``.

        Raises:
            InboxError: the request is not published, or has no such dataset.
        """
        found = [v for v in self.versions if name is None or v.partition("@")[0] == name]
        if self.state != "PUBLISHED" or not found:
            raise InboxError(
                f"rows can be read of a published version, {self.id} is {self.state} with "
                f"{', '.join(self.versions) or 'no version'}"
            )
        return found[0]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able object."""
        return asdict(self)


class Inbox:
    """The requests of a home. Every door only drops a request here; ``work.process`` answers it.

    Args:
        home: ``requests/`` of it is made at the first request.
    """

    def __init__(self, home: Home) -> None:
        self.home = home
        self._store = LocalStore(home.requests)

    def submit(
        self,
        request: DataRequest | Mapping[str, Any] | str | bytes,
        *,
        idempotency_key: str | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> Receipt:
        """Drop a request.

        Args:
            request: fields, or YAML or JSON text.
            idempotency_key: a second submission with the same key is the first one again.
            facts: to remember of how it came in.

        Raises:
            RequestError: all problems at once; nothing is kept.
        """
        asked = parse_request(request)
        identity = _id_of(idempotency_key) if idempotency_key is not None else _new_id()
        text = asked.to_yaml().encode()
        created = self._store.put_if_absent(f"{identity}/{_REQUEST}", text)
        if not created and self._store.get(f"{identity}/{_REQUEST}") != text:
            said = "the idempotency key was used for another request; choose a new one"
            raise RequestError((Problem("idempotency_key", said),))
        # A crash between the two files is mended by whoever submits or looks next.
        self._received(identity, **(facts or {}))
        return Receipt(identity, self.status(identity).state, created)

    def request(self, identity: str) -> DataRequest:
        """What was asked.

        Raises:
            InboxError: there is no such request.
            RequestError: this version cannot read it.
        """
        return parse_request(self._bytes(identity))

    def unreadable(self, identity: str) -> tuple[Problem, ...]:
        """Why this version of Likeness cannot read a request that an older one took; else empty.

        Raises:
            InboxError: there is no such request.
        """
        try:
            self.request(identity)
        except RequestError as error:
            return error.problems
        return ()

    def status(self, identity: str) -> Status:
        """Where a request stands; of one that cannot be read any more, too.

        Raises:
            InboxError: there is no such request.
        """
        try:
            name, unreadable = self.request(identity).metadata.name, ""
        except RequestError as error:
            name, unreadable = "unreadable", f"{_UNREADABLE}: {error}"
        events = self.events(identity)
        if not events:
            self._received(identity)
            events = self.events(identity)
        last = events[-1]
        facts: dict[str, Any] = {}
        for event in events:
            facts |= event.facts
        versions = tuple(facts.get("versions", ()))
        problems = last.facts.get("problems", ()) if last.state in FINAL else ()
        running = last.state == "RUNNING"
        return Status(
            id=identity,
            name=name,
            state=last.state,
            events=events,
            version=versions[0] if versions else None,
            versions=versions,
            problems=tuple(Problem(**problem) for problem in problems),
            report=facts.get("report"),
            progress=self._progress(identity) if running else {},
            preview=None if last.state in WITHDRAWN else self._preview(identity),
            message=str(last.facts.get("message", "")) or unreadable,
            likeness_on=str(facts.get("likeness_on", "")),
        )

    def list(self) -> Sequence[Status]:
        """All requests, the newest first."""
        found = [self.status(identity) for identity in self.ids()]
        return sorted(found, key=lambda status: (status.events[0].at, status.id), reverse=True)

    def ids(self) -> Sequence[str]:
        """The ids of all requests, sorted."""
        folders = [name for name in self._store.folders() if _ID.fullmatch(name)]
        return [name for name in folders if self._store.exists(f"{name}/{_REQUEST}")]

    def last(self, identity: str) -> Event | None:
        """The newest event, or None where a crash has left none."""
        names = self._event_names(identity)
        if not names:
            return None
        return Event(len(names), **json.loads(self._store.get(names[-1])))

    def _event_names(self, identity: str) -> Sequence[str]:
        names = self._store.list(f"{_checked(identity)}/events")
        return [name for name in names if f"/{TEMPORARY}" not in name]

    def events(self, identity: str) -> tuple[Event, ...]:
        """What happened, oldest first."""
        found = [json.loads(self._store.get(name)) for name in self._event_names(identity)]
        return tuple(Event(number, **event) for number, event in enumerate(found, start=1))

    def append(self, identity: str, after: int, state: State, **facts: Any) -> bool:  # noqa: ANN401
        """Record that ``state`` follows event number ``after``; False if another event does.

        Raises:
            InboxError: the state cannot follow.
        """
        events = self.events(identity)
        if len(events) > after:
            return False
        before = events[-1].state if events else ""
        if state not in _NEXT.get(before, frozenset()):
            raise InboxError(
                f"request {identity} is {before or 'new'}, {state} cannot follow; "
                "look at its status"
            )
        event = {"state": state, "at": _now(), "facts": facts}
        name = f"{identity}/events/{after + 1:04d}.json"
        appended = self._store.put_if_absent(name, f"{canonical_json(event)}\n".encode())
        if appended and state in WITHDRAWN:
            (self.folder(identity) / _PREVIEW).unlink(missing_ok=True)
        return appended

    def cancel(self, identity: str, reason: str = "") -> Status:
        """Stop a request that is not published yet; a second call changes nothing.

        Raises:
            InboxError: it is answered already, or just being published.
        """
        while True:
            status = self.status(identity)
            last = status.events[-1]
            if status.state == "CANCELED":
                return status
            # A worker that died after it leaves perhaps a version, which the next one finds.
            publishing = any(event.facts.get("phase") == PUBLISHING for event in status.events)
            if status.answered or publishing:
                raise InboxError(
                    f"only a request that is not answered can be canceled, {identity} is "
                    + (status.state if status.answered else "being published")
                )
            message = f"canceled{f': {reason}' if reason else ''}"
            if self.append(identity, last.number, "CANCELED", message=message, by=_user()):
                return self.status(identity)

    def approve(self, identity: str, by: str | None = None) -> Status:
        """Let a request go on that needs approval.

        Raises:
            InboxError: it does not need one.
        """
        status = self.status(identity)
        if status.state != "NEEDS_APPROVAL":
            raise InboxError(
                f"a request that needs approval can be approved, {identity} is {status.state}"
            )
        facts = {"approved_by": by or _user(), "attempt": 1}
        self.append(identity, status.events[-1].number, "QUEUED", **facts)
        return self.status(identity)

    def wait(self, identity: str, timeout: float = 3600.0) -> Status:
        """The status once it is answered, or when ``timeout`` seconds have passed."""
        end = time.monotonic() + timeout
        while True:
            status = self.status(identity)
            if status.answered or time.monotonic() >= end:
                return status
            time.sleep(_POLL_SECONDS)

    def tell(self, identity: str, progress: Mapping[str, Any]) -> None:
        """Replace what is told of a running request's progress."""
        write_text(self.folder(identity) / _PROGRESS, canonical_json(dict(progress)))

    def show(self, identity: str, rows: pd.DataFrame) -> None:
        """Keep ``rows`` as the request's preview."""
        target = self.folder(identity) / _PREVIEW
        partial = target.with_name(f".{_PREVIEW}.{os.getpid()}")
        rows.to_parquet(partial, index=False)
        partial.replace(target)

    def folder(self, identity: str) -> Path:
        """Where a request lies."""
        return self.home.requests / _checked(identity)

    @contextmanager
    def working(self, identity: str) -> Iterator[bool]:
        """Whether this process alone works on the request until the block ends.

        The kernel lets go of the lock when a process dies, however it dies; so a request that is
        RUNNING while nobody holds it was left by a worker that is gone.
        """
        path = self.folder(identity) / _LOCK
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Alone among all processes: to answer with versions that stand, or to withdraw some.

        Else a version that nobody seems to want is withdrawn while a request is answered with it.
        """
        path = self.home.requests / _SETTLING
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def idle(self, identity: str) -> bool:
        """Whether nobody works on the request at this moment."""
        with self.working(identity) as mine:
            return mine

    def _received(self, identity: str, **facts: Any) -> None:  # noqa: ANN401
        if not self.events(identity):
            self.append(identity, 0, "RECEIVED", by=_user(), **facts)

    def _bytes(self, identity: str) -> bytes:
        try:
            return self._store.get(f"{_checked(identity)}/{_REQUEST}")
        except FileNotFoundError:
            raise InboxError(f"there must be a request {identity!r}, there is none") from None

    def _progress(self, identity: str) -> dict[str, Any]:
        try:
            told: dict[str, Any] = json.loads(
                (self.folder(identity) / _PROGRESS).read_text(encoding="utf-8")
            )
        except OSError:
            return {}
        return told

    def _preview(self, identity: str) -> str | None:
        path = self.folder(identity) / _PREVIEW
        return str(path) if path.is_file() else None


def _checked(identity: str) -> str:
    if not _ID.fullmatch(identity):
        raise InboxError(f"a request's id is as `likeness request list` shows it, got {identity!r}")
    return identity


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d%H%M%S}-{secrets.token_hex(6)}"


def _id_of(key: str) -> str:
    if not 1 <= len(key) <= 255 or not key.isprintable():
        raise ParameterError(
            f"an idempotency key must be 1 to 255 printable characters, got {len(key)}; shorten it"
        )
    return f"key-{hashlib.sha256(key.encode()).hexdigest()[:32]}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
