"""REST over the inbox: ask, watch, approve, cancel. It only drops requests; others answer them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

import pyarrow.parquet as pq
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..requests.inbox import STATES, Event, Inbox, InboxError, Status
from ..requests.model import RequestError, json_schema, parse_request
from . import shelf
from .guard import address_of
from .problems import FieldProblem, Problem, ProblemError
from .settings import access_of, settings_of
from .shelf_api import RowsOut

STREAM_SECONDS = 600.0
"""A stream ends after it; a browser comes back by itself and goes on where it was."""
ASKED = "by_ask_token"
"""The fact of a request that came with the token that may only read and ask."""
_ONLY_ASKS = "this one may only read and ask"
SOMEBODY = "a holder of the token"
"""Who approves, where nobody is named."""
_HEARTBEAT_SECONDS = 15.0
_EXAMPLE = {
    "apiVersion": "likeness/v1",
    "kind": "DataRequest",
    "metadata": {"name": "ill-visitors", "purpose": "unit tests of scoring"},
    "spec": {
        "source": {"dataset": "randhie"},
        "rows": 1000,
        "seed": 7,
        "where": ["mdvis >= 1"],
        "balance": {"column": "hlthp", "probabilities": {"1": 0.5}},
    },
}


class ReceiptOut(BaseModel):
    """The answer to a submission."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"id": "20261125210000-0a1b2c3d4e5f", "state": "RECEIVED", "created": True}
            ]
        }
    )

    id: str
    state: str
    created: bool = Field(description="False where the idempotency key had been used already")


class EventOut(BaseModel):
    """What happened to a request."""

    number: int
    state: str
    at: str
    facts: dict[str, Any]


class FaultOut(BaseModel):
    """What was wrong with a request that was rejected or failed."""

    field: str
    message: str


class RequestOut(BaseModel):
    """Where a request stands."""

    id: str
    name: str
    state: str
    answered: bool = Field(description="Whether there is nothing more to wait for")
    version: str | None = Field(description="The published version, as name@3")
    versions: list[str]
    problems: list[FaultOut]
    progress: dict[str, Any]
    message: str
    events: list[EventOut]
    request: dict[str, Any] = Field(description="What was asked")


class RequestLine(BaseModel):
    """A request in a list."""

    id: str
    name: str
    state: str
    answered: bool
    version: str | None
    at: str = Field(description="When it came in")


class RequestsOut(BaseModel):
    """Requests, the newest first."""

    requests: list[RequestLine]
    total: int


class EventsOut(BaseModel):
    """All that happened to a request, oldest first."""

    events: list[EventOut]


class Checked(BaseModel):
    """A request that would be taken."""

    valid: bool = True


class Reason(BaseModel):
    """Why a request is canceled."""

    model_config = ConfigDict(extra="forbid")

    reason: str = Field(default="", max_length=500)


class Approval(BaseModel):
    """Who approves."""

    model_config = ConfigDict(extra="forbid")

    by: str = Field(default="", max_length=200, examples=["ann@example.org"])


async def _raw(request: Request) -> bytes:
    return await request.body()


def inbox_of(request: Request) -> Inbox:
    """The inbox of the server's home."""
    return Inbox(settings_of(request).home)


def writable(request: Request) -> None:
    """Refuse where the server only shows.

    Raises:
        ProblemError: it does.
    """
    if settings_of(request).read_only:
        raise ProblemError(403, "this server was started with --read-only and takes no requests")


def decides(request: Request) -> bool:
    """Whether who sent a request may approve, and cancel what others asked."""
    access = access_of(request)
    return access is not None and access.decides


def may_cancel(request: Request, status: Status) -> bool:
    """Whether who sent a request may cancel that one: its own, or any where it decides."""
    return decides(request) or bool(status.events[0].facts.get(ASKED))


Body = Annotated[bytes, Depends(_raw)]
Desk = Annotated[Inbox, Depends(inbox_of)]
Identity = Annotated[
    str,
    Path(
        pattern=r"^[0-9a-z][0-9a-z-]{7,63}$",
        examples=["20261125210000-0a1b2c3d4e5f"],
        description="As the answer to the submission named it",
    ),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="A second submission with the same key is the first one again",
    ),
]
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"$ref": "#/components/schemas/DataRequest"}, "example": _EXAMPLE}
            for kind in ("application/json", "application/yaml")
        },
    }
}
_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"model": Problem, "description": "The server is read-only, or the token may only ask"},
    413: {"model": Problem, "description": "The body is too large"},
}
_MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "There is none"}
}
_CONFLICT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "It is not in a state for that"}
}
router = APIRouter(prefix="/v1", tags=["requests"])


@router.get("/schema/request", summary="JSON Schema of a request")
def get_schema() -> dict[str, Any]:
    """For editors and other programs; the same as the file in the repository."""
    return json_schema()


@router.post(
    "/requests",
    status_code=202,
    summary="Ask for data",
    responses={
        **_REFUSED,
        202: {"headers": {"Location": {"schema": {"type": "string"}, "description": "Its status"}}},
    },
    openapi_extra=_BODY,
    dependencies=[Depends(writable)],
)
def submit(
    request: Request,
    body: Body,
    desk: Desk,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> ReceiptOut:
    """Drop a request, as JSON or YAML. Wrong ones are refused at once, with every wrong field."""
    facts = origin(request)
    receipt = _refusing(desk.submit, body, idempotency_key=idempotency_key, facts=facts)
    response.headers["Location"] = f"/v1/requests/{receipt.id}"
    return ReceiptOut(**asdict(receipt))


@router.post(
    "/requests/check",
    summary="Check a request, and keep nothing",
    responses=_REFUSED,
    openapi_extra=_BODY,
)
def check(body: Body) -> Checked:
    """What submitting it would say of its fields."""
    _refusing(parse_request, body)
    return Checked()


@router.get("/requests", summary="List requests")
def list_requests(
    desk: Desk,
    state: Annotated[str | None, Query(pattern=f"^({'|'.join(STATES)})$")] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> RequestsOut:
    """The newest first."""
    found = [status for status in desk.list() if state in (None, status.state)]
    lines = [
        RequestLine(
            id=status.id,
            name=status.name,
            state=status.state,
            answered=status.answered,
            version=status.version,
            at=status.events[0].at,
        )
        for status in found[offset : offset + limit]
    ]
    return RequestsOut(requests=lines, total=len(found))


@router.get("/requests/{identity}", summary="Where a request stands", responses=_MISSING)
def get_request(desk: Desk, identity: Identity) -> RequestOut:
    """Its state, what happened, and what came of it."""
    return request_out(desk, existing(desk, identity))


@router.post(
    "/requests/{identity}/cancel",
    summary="Cancel a request",
    responses={**_REFUSED, **_MISSING, **_CONFLICT},
    dependencies=[Depends(writable)],
)
def cancel(
    request: Request, desk: Desk, identity: Identity, why: Reason | None = None
) -> RequestOut:
    """Stop a request that is not published yet; a second call changes nothing."""
    require_cancel(request, existing(desk, identity))
    return request_out(desk, settled(desk.cancel, identity, why.reason if why else ""))


@router.post(
    "/requests/{identity}/approve",
    summary="Approve a request",
    responses={**_REFUSED, **_MISSING, **_CONFLICT},
    dependencies=[Depends(writable)],
)
def approve(
    request: Request, desk: Desk, identity: Identity, who: Approval | None = None
) -> RequestOut:
    """Let a request go on that needs approval."""
    may_approve(request)
    existing(desk, identity)
    return request_out(desk, settled(desk.approve, identity, (who.by if who else "") or SOMEBODY))


@router.get(
    "/requests/{identity}/preview",
    summary="Rows to look at before the rest is made",
    responses=_MISSING,
)
def get_preview(desk: Desk, identity: Identity) -> RowsOut:
    """Synthetic rows that nobody has judged yet; for looking, not for using."""
    taken = preview_rows(existing(desk, identity))
    return RowsOut(offset=0, total=len(taken), rows=taken)


@router.get(
    "/requests/{identity}/events",
    summary="Watch a request",
    response_model=EventsOut,
    responses={
        **_MISSING,
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}},
    },
)
async def watch(
    request: Request,
    desk: Desk,
    identity: Identity,
    last_event_id: Annotated[int, Header(ge=0, le=9_999)] = 0,
) -> Response:
    """All events so far; as `text/event-stream`, also those to come until it is answered."""
    await run_in_threadpool(existing, desk, identity)
    if "text/event-stream" not in request.headers.get("accept", ""):
        events = await run_in_threadpool(desk.events, identity)
        return JSONResponse({"events": [told(event) for event in events]})
    poll = settings_of(request).poll_seconds
    request.app.state.streams.enter(address_of(request.scope))
    stream = _stream(desk, identity, last_event_id, poll)
    return _Watched(stream, media_type="text/event-stream")


class _Watched(StreamingResponse):
    """A stream that is counted until it ends, however it does."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            scope["app"].state.streams.leave(address_of(scope))


def existing(desk: Inbox, identity: str) -> Status:
    """The status of a request.

    Raises:
        ProblemError: there is none.
    """
    try:
        return desk.status(identity)
    except InboxError:
        raise ProblemError(404, "there is no request of this id") from None


def settled(action: Any, *arguments: Any) -> Status:  # noqa: ANN401 - cancel or approve
    """What ``action`` gives.

    Raises:
        ProblemError: the request is not in a state for it.
    """
    try:
        status: Status = action(*arguments)
    except InboxError as refused:
        raise ProblemError(409, str(refused)) from None
    return status


def may_approve(request: Request) -> None:
    """Refuse where approvals are given elsewhere, or by others.

    Raises:
        ProblemError: they are.
    """
    if not settings_of(request).approvals:
        raise ProblemError(403, "this server was started with --no-approvals")
    if not decides(request):
        raise ProblemError(403, f"approvals want the owner's token, {_ONLY_ASKS}")


def require_cancel(request: Request, status: Status) -> None:
    """Refuse to cancel what somebody else has asked.

    Raises:
        ProblemError: somebody else has.
    """
    if not may_cancel(request, status):
        raise ProblemError(403, f"to cancel it wants the owner's token, {_ONLY_ASKS}")


def origin(request: Request) -> dict[str, Any]:
    """What the inbox remembers of who asks: whether that was the token that only asks."""
    return {} if decides(request) else {ASKED: True}


def field_problems(error: RequestError) -> list[FieldProblem]:
    """The problems of a request, each with the JSON Pointer of its field."""
    return [
        FieldProblem(
            pointer="" if problem.field == "request" else f"/{problem.field.replace('.', '/')}",
            detail=problem.message,
        )
        for problem in error.problems
    ]


def request_out(desk: Inbox, status: Status) -> RequestOut:
    """A request as REST shows it."""
    asked: dict[str, Any] = {}
    if not desk.unreadable(status.id):
        given = desk.request(status.id)
        asked = given.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return RequestOut(
        id=status.id,
        name=status.name,
        state=status.state,
        answered=status.answered,
        version=status.version,
        versions=list(status.versions),
        problems=[FaultOut(**asdict(problem)) for problem in status.problems],
        progress=dict(status.progress),
        message=status.message,
        events=[EventOut(**told(event)) for event in status.events],
        request=asked,
    )


def told(event: Event) -> dict[str, Any]:
    """An event as REST shows it: where a report lies, in the lake or the vault, is not told."""
    facts = {name: value for name, value in event.facts.items() if name != "report"}
    return {**asdict(event), "facts": facts}


def preview_rows(status: Status) -> list[dict[str, Any]]:
    """The rows of a request's preview.

    Raises:
        ProblemError: there is none.
    """
    if status.preview is None:
        raise ProblemError(404, "this request has no preview")
    table = pq.read_table(status.preview)
    names = [name for name in table.column_names if name != "image"]
    rows = table.select(names).slice(0, shelf.MAX_ROWS).to_pylist()
    return [{name: shelf.plain(value) for name, value in row.items()} for row in rows]


def _refusing(action: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
    try:
        return action(*arguments, **named)
    except RequestError as error:
        wrong = field_problems(error)
        count = f"{len(wrong)} field" + ("" if len(wrong) == 1 else "s")
        raise ProblemError(422, f"the request is wrong in {count}", wrong) from None


async def _stream(desk: Inbox, identity: str, seen: int, poll: float) -> AsyncIterator[str]:
    until = time.monotonic() + STREAM_SECONDS
    shown, quiet = None, time.monotonic()
    yield "retry: 1000\n\n"
    while time.monotonic() < until:
        status = await run_in_threadpool(desk.status, identity)
        for event in status.events[seen:]:
            yield f"id: {event.number}\nevent: state\ndata: {json.dumps(told(event))}\n\n"
            seen, quiet = event.number, time.monotonic()
        if status.progress and status.progress != shown:
            shown, quiet = status.progress, time.monotonic()
            yield f"event: progress\ndata: {json.dumps(dict(shown))}\n\n"
        if status.answered:
            yield f"event: end\ndata: {json.dumps({'state': status.state})}\n\n"
            return
        if time.monotonic() - quiet > _HEARTBEAT_SECONDS:
            quiet = time.monotonic()
            yield ": still here\n\n"
        await asyncio.sleep(poll)
