"""Answer a request: plan it, run the steps, publish, record the state; once, whatever dies.

``process`` may be called by any number of workers, at any time, again and again: one of them holds
the request's lock and goes on from the state that is recorded. What the steps have done is found
again in the vault by its digest, and the lake publishes a release key once, so a worker that is
killed at any point leaves nothing that the next one does twice.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from generators.base import LikenessError, OnProgress, Progress
from validators.verdict import QuarantinedError

from .. import steps
from ..boundary import InternalError, boundary
from ..home import Home
from ..matching import ENOUGH, ON_MODEL
from ..protection.leaks import LeakError
from ..publication import log
from ..publication.log import Published
from ..publication.publish import Placed
from ..publication.retire import collect
from ..publication.retire import retire as retire_version
from ..publication.store import PublicationError, open_lake
from ..release import Release
from ..steps import RunResult
from . import announcement, declared, related
from .announcement import Announce, finish
from .inbox import PUBLISHING, Inbox, State, Status
from .model import DataRequest, Problem, RequestError, duration
from .notify import NOTIFIED, notify, of_request
from .plan import (
    Plan,
    approval,
    check_name,
    dataset_of,
    find_base,
    plan,
    problems_in,
    read,
)

MAX_ATTEMPTS = 3
"""Internal failures and dead workers after which a request is given up."""
_SECONDS_BETWEEN_NOTES = 1.0
_FEW = (
    f"fewer than {ENOUGH} real rows fulfil the conditions: the verdict on likeness is of the model "
    "without them, structure and privacy are judged on these rows"
)


class CanceledError(LikenessError):
    """The request was canceled while it ran."""


@dataclass(frozen=True)
class Answer:
    """What a request led to.

    Attributes:
        published: the versions; empty where a gate stopped it.
        report: path of the report.
        gates: the gates that stopped it, with their numbers.
    """

    published: tuple[Published, ...]
    report: str | None = None
    gates: tuple[dict[str, Any], ...] = ()


def process(home: Home, identity: str, progress: OnProgress | None = None) -> Status:
    """Bring a request as far as it gets now; gives where it stands then.

    Args:
        home: whose inbox, vault and lake.
        identity: of the request.
        progress: told of the steps, beside the inbox.

    Raises:
        InboxError: there is no such request.
    """
    inbox = Inbox(home)
    inbox.status(identity)
    with inbox.working(identity) as mine:
        if mine:
            before = inbox.status(identity).state
            for advance in (_refuse_unreadable, _admit, _answer, _expire):
                advance(inbox, identity, progress)
            if inbox.status(identity).state != before:
                _notify(inbox, identity)
    return inbox.status(identity)


def admit(home: Home, identity: str) -> Status:
    """Check a request against its dataset, and answer it at once where a version does already."""
    inbox = Inbox(home)
    with inbox.working(identity) as mine:
        before = inbox.status(identity).state
        if mine:
            _refuse_unreadable(inbox, identity, None)
            _admit(inbox, identity, None)
            if inbox.status(identity).state != before:
                _notify(inbox, identity)
    return inbox.status(identity)


def pending(home: Home) -> list[str]:
    """The requests that a worker can advance now, the oldest first."""
    inbox = Inbox(home)
    return [identity for identity in inbox.ids() if _actionable(inbox, identity)]


def attempts(status: Status) -> int:
    """How often a worker has begun with the request."""
    return sum("attempt" in event.facts and event.state == "RUNNING" for event in status.events)


def _actionable(inbox: Inbox, identity: str) -> bool:
    last = inbox.last(identity)
    if last is None or last.state in ("RECEIVED", "VALIDATED", "QUEUED"):
        return True
    if last.state == "RUNNING":
        return inbox.idle(identity)
    return last.state in ("PUBLISHED", "EXPIRED") and _due(inbox, inbox.status(identity))


def _refuse_unreadable(
    inbox: Inbox,
    identity: str,
    progress: OnProgress | None,  # noqa: ARG001
) -> None:
    """Reject what an older version took and this one cannot read; it must not stop the others."""
    problems = inbox.unreadable(identity)
    if problems and inbox.status(identity).state in ("RECEIVED", "VALIDATED", "QUEUED", "RUNNING"):
        _end(inbox, identity, "REJECTED", **_problems(RequestError(problems)))


def _admit(inbox: Inbox, identity: str, progress: OnProgress | None) -> None:  # noqa: ARG001
    """RECEIVED → VALIDATED → QUEUED, NEEDS_APPROVAL or, of an equal one, PUBLISHED."""
    if inbox.status(identity).state not in ("RECEIVED", "VALIDATED"):
        return
    request = inbox.request(identity)
    try:
        with boundary("admit", inbox.home):
            existing = _existing(inbox.home, request)
            reason = approval(request, inbox.home)
    except RequestError as error:
        _append(inbox, identity, "REJECTED", **_problems(error))
        return
    except LikenessError as error:
        _append(inbox, identity, "FAILED", message=str(error))
        return
    if inbox.status(identity).state == "RECEIVED":
        _append(inbox, identity, "VALIDATED")
    if existing and _settled(inbox, identity, existing, request):
        return
    if reason:
        _append(inbox, identity, "NEEDS_APPROVAL", message=reason)
    else:
        _append(inbox, identity, "QUEUED")


def _existing(home: Home, request: DataRequest) -> tuple[Published, ...]:
    """The versions that answer an equal request, as far as that is known without real data.

    Raises:
        RequestError: the request does not fit its source; all problems at once.
    """
    about = request.metadata.name
    for name in [f"{about}.{table}" for table in request.spec.source.tables] or [about]:
        check_name(home, name)
    if request.spec.source.learned_tables:
        for name in request.spec.source.learned_tables:
            with problems_in("spec.source.tables"):
                dataset_of(home, request, name)
        return ()
    if request.spec.source.dataset is None:
        declared.check(request)
        return declared.standing(declared.parts(home, request))
    base = find_base(home, request)
    if base.real is None:
        return ()
    found = plan(home, request, base, base.real).existing
    return (found,) if found is not None else ()


def _answer(inbox: Inbox, identity: str, progress: OnProgress | None) -> None:
    """QUEUED, or RUNNING without a worker → PUBLISHED, QUARANTINED, FAILED, ..."""
    while (status := inbox.status(identity)).state in ("QUEUED", "RUNNING"):
        attempt = attempts(status) + 1
        if attempt > 1 and _finished(inbox, status):
            return
        if attempt > MAX_ATTEMPTS:
            message = f"given up after {MAX_ATTEMPTS} attempts; see the vault's tracebacks"
            _end(inbox, identity, "FAILED", message=message, retryable=True)
            return
        if not _append(inbox, identity, "RUNNING", attempt=attempt, phase="start"):
            continue
        _attempt(inbox, identity, _Reporter(inbox, identity, progress))


def _finished(inbox: Inbox, status: Status) -> bool:
    """Whether a worker that died had come to publish all the same: the request is answered so."""
    request = inbox.request(status.id)
    try:
        with boundary("request", inbox.home):
            versions = finish(inbox.home, status) or _existing(inbox.home, request)
    except LikenessError:
        return False
    return bool(versions) and _settled(inbox, status.id, versions, request)


def _settled(
    inbox: Inbox, identity: str, versions: tuple[Published, ...], request: DataRequest
) -> bool:
    """Answer with ``versions``; False where one of them was withdrawn meanwhile."""
    with inbox.settling():
        for version in versions:
            if log.is_retired(version):
                return False
        _withdraw_halves(inbox, identity, {version.name for version in versions})
        _append(inbox, identity, "PUBLISHED", **_published(versions, request))
    return True


def _end(inbox: Inbox, identity: str, state: State, **facts: Any) -> None:  # noqa: ANN401
    """Record an end without an answer, once nothing stands that was announced with more."""
    with inbox.settling():
        _withdraw_halves(inbox, identity)
    _append(inbox, identity, state, **facts)


def _withdraw_halves(inbox: Inbox, identity: str, kept: Collection[str] = ()) -> None:
    """Retire versions of an attempt that stand without those announced with them."""
    names = announcement.halves(inbox.home, inbox.status(identity)) - set(kept)
    for name in names - _still_wanted(inbox, identity, names):
        retire_version(
            inbox.home.lake, name, f"not whole: request {identity} ended without the rest"
        )


def _attempt(inbox: Inbox, identity: str, report: OnProgress) -> None:
    request = inbox.request(identity)
    try:
        with boundary("request", inbox.home):
            answer = _made(inbox, identity, request, report)
    except CanceledError:
        return
    except RequestError as error:
        _end(inbox, identity, "REJECTED", **_problems(error))
    except (LeakError, QuarantinedError) as error:
        _end(inbox, identity, "QUARANTINED", message=str(error))
    except InternalError as error:
        _append(inbox, identity, "QUEUED", message=str(error))
    except LikenessError as error:
        if isinstance(error, PublicationError) and announcement.is_made(inbox.status(identity)):
            # Perhaps nothing but log entries is missing.
            _append(inbox, identity, "QUEUED", message=str(error))
            return
        problems = [asdict(Problem("spec", str(error)))]
        _end(inbox, identity, "FAILED", message=str(error), problems=problems, retryable=False)
    else:
        if answer.published:
            if not _settled(inbox, identity, answer.published, request):
                _append(inbox, identity, "QUEUED", message="its version was withdrawn meanwhile")
        else:
            names = ", ".join(gate["gate"] for gate in answer.gates)
            message = f"stopped by {names}; nothing was published"
            facts = {"message": message, "gates": list(answer.gates), "report": answer.report}
            _end(inbox, identity, "QUARANTINED", **facts)


def _made(inbox: Inbox, identity: str, request: DataRequest, report: OnProgress) -> Answer:
    def announce(placed: Sequence[Placed]) -> None:
        _announce(inbox, identity, placed)

    home = inbox.home
    if request.spec.source.learned_tables:
        versions, halted = related.answer(home, request, report, announce)
        return Answer(versions) if halted is None else _stopped(halted)
    if request.spec.source.dataset is None:
        return _declared(inbox, identity, request, report, announce)
    report(Progress("ingest", 0, 1, 0.0))
    base = find_base(home, request)
    ready = plan(home, request, base, read(home, base))
    if ready.existing is not None:
        return Answer((ready.existing,))
    if request.spec.preview:
        _preview(inbox, identity, ready.release, request.spec.preview)
    return _learned(ready, report, announce)


def _preview(inbox: Inbox, identity: str, release: Release, rows: int) -> None:
    """Keep some rows of a model that is there, if a release of it has been published before.

    A preview is not judged, so it is shown only of a model whose own release a contract has let
    through and nobody has withdrawn, and after a search for values that must not be seen and for
    copied rows.
    """
    plain = replace(release, order=None)
    lake = open_lake(inbox.home.lake)
    judged = log.find_standing(lake, plain.spec.name, plain.key)
    if judged is None or not plain.model_folder.is_dir():
        return
    frame = steps.previewed(release, rows)
    if frame is not None:
        inbox.show(identity, frame)


def _declared(
    inbox: Inbox,
    identity: str,
    request: DataRequest,
    report: OnProgress,
    announce: Announce,
) -> Answer:
    declared.check(request)
    made = declared.parts(inbox.home, request)
    if existing := declared.standing(made):
        return Answer(existing)
    if request.spec.preview:
        inbox.show(identity, declared.preview(made, request.spec.preview))
    published, stopped = declared.answer(made, report, announce)
    return Answer(
        published, None, tuple(_number(gate) for gate in stopped.blocking) if stopped else ()
    )


def _learned(ready: Plan, report: OnProgress, announce: Announce) -> Answer:
    release = ready.release
    report(Progress("fit", 0, 1, 0.0))
    steps.fit(release, report)
    report(Progress("sample", 0, 1, 0.0))
    steps.sample(release, report)
    steps.score(release, report)
    report(Progress("decide", 0, 1, 0.0))
    verdict = steps.decide(release)
    if not verdict.passed:
        return _stopped(release)
    place = partial(steps.place, release)
    (published,) = announcement.publish(release.home, [place], announce, report)
    return Answer((published,), str(RunResult(release, verdict, published).report))


def _stopped(release: Release) -> Answer:
    verdict = steps.decide(release)
    gates = tuple(_number(gate) for gate in verdict.blocking)
    return Answer((), str(RunResult(release, verdict, None).report), gates)


def _number(gate: Any) -> dict[str, Any]:  # noqa: ANN401
    names = ("gate", "dimension", "metric", "value", "low", "high", "reference", "bound")
    return {name: getattr(gate, name) for name in names}


def _announce(inbox: Inbox, identity: str, placed: Sequence[Placed]) -> None:
    """From here on the request cannot be canceled: of this event and a cancellation one is first.

    It says what is to be committed, so that whoever comes after a worker that died can do it.

    Raises:
        CanceledError: the cancellation was.
    """
    while True:
        status = inbox.status(identity)
        if status.state != "RUNNING":
            raise CanceledError("the request was canceled before it was published")
        facts = {"phase": PUBLISHING, **announcement.facts(placed)}
        if inbox.append(identity, status.events[-1].number, "RUNNING", **facts):
            return


def _published(versions: tuple[Published, ...], request: DataRequest) -> dict[str, Any]:
    first = versions[0]
    report = f"{first.location}/reports/report.html"
    there = first.store.exists(f"{first.folder}/reports/report.html")
    facts: dict[str, Any] = {
        "versions": [version.name for version in versions],
        "location": first.location,
        "content_digest": first.content_digest,
        "existing": first.existing,
        "report": report if there else None,
    }
    if first.manifest().reproduce.get("likeness_on") == ON_MODEL:
        facts |= {"likeness_on": ON_MODEL, "message": _FEW}
    if request.spec.lifecycle.expires is not None:
        ends = datetime.now(UTC) + duration(request.spec.lifecycle.expires)
        facts["expires_at"] = ends.isoformat(timespec="seconds")
    return facts


def _due(inbox: Inbox, status: Status) -> bool:
    if status.state == "EXPIRED":
        if inbox.unreadable(status.id):
            return False
        return inbox.request(status.id).spec.lifecycle.on_expiry == "purge"
    ends = status.events[-1].facts.get("expires_at")
    return ends is not None and datetime.fromisoformat(ends) <= datetime.now(UTC)


def _expire(inbox: Inbox, identity: str, progress: OnProgress | None) -> None:  # noqa: ARG001
    """PUBLISHED → EXPIRED → PURGED, once its time has come."""
    status = inbox.status(identity)
    if status.state == "PUBLISHED" and _due(inbox, status):
        with inbox.settling():
            kept = _still_wanted(inbox, identity, status.versions)
            for name in status.versions:
                if name not in kept:
                    retire_version(inbox.home.lake, name, f"expired, as request {identity} asked")
        _append(inbox, identity, "EXPIRED", kept=sorted(kept))
        status = inbox.status(identity)
    if status.state == "EXPIRED" and _due(inbox, status):
        removed = collect(inbox.home.lake)
        _append(inbox, identity, "PURGED", bytes=sum(item.bytes for item in removed))


def _still_wanted(inbox: Inbox, identity: str, names: Collection[str]) -> set[str]:
    """Those of ``names`` that another request was answered with, whose time has not come."""
    return {
        name
        for other in inbox.list()
        if other.id != identity and other.state == "PUBLISHED" and not _due(inbox, other)
        for name in other.versions
        if name in names
    }


def _notify(inbox: Inbox, identity: str) -> None:
    if inbox.status(identity).state not in NOTIFIED:
        return
    if inbox.unreadable(identity):
        return
    names = inbox.request(identity).spec.delivery.notify
    notify(inbox.home, of_request(inbox.status(identity)), names)


def _append(inbox: Inbox, identity: str, state: Any, **facts: Any) -> bool:  # noqa: ANN401
    """Record a state after the newest event; False where the request was canceled meanwhile."""
    while True:
        status = inbox.status(identity)
        if status.state == "CANCELED":
            return False
        if inbox.append(identity, status.events[-1].number, state, **facts):
            return True


def _problems(error: RequestError) -> dict[str, Any]:
    return {"problems": error.to_json(), "message": str(error)}


class _Reporter:
    """Tells the inbox and a listener of progress, at most once a second, and hears of the end."""

    def __init__(self, inbox: Inbox, identity: str, also: OnProgress | None) -> None:
        self._inbox, self._identity, self._also = inbox, identity, also
        self._phase, self._last = "", float("-inf")

    def __call__(self, progress: Progress) -> None:
        if self._also is not None:
            self._also(progress)
        now = time.monotonic()
        if progress.phase == self._phase and now - self._last < _SECONDS_BETWEEN_NOTES:
            return
        self._phase, self._last = progress.phase, now
        if self._inbox.status(self._identity).state == "CANCELED":
            raise CanceledError("the request was canceled")
        told = {**asdict(progress), "remaining": progress.remaining, "at": time.time()}
        self._inbox.tell(self._identity, told)
