"""Pages for asking: the form, the list, and a page that follows a request to its answer."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from ..datasets import dataset_names
from ..publication.store import Lake
from ..requests.inbox import Status
from ..requests.model import RequestError
from . import shelf
from .form import DESCRIBED, DESCRIBED_KINDS, OPERATORS, REPEATED, Form
from .pages import checked_form
from .problems import ProblemError
from .render import page
from .requests_api import (
    SOMEBODY,
    decides,
    existing,
    inbox_of,
    may_approve,
    may_cancel,
    origin,
    preview_rows,
    require_cancel,
    settled,
    writable,
)
from .settings import settings_of

KINDS = {
    "PUBLISHED": "good",
    "RUNNING": "busy",
    "QUEUED": "busy",
    "RECEIVED": "busy",
    "VALIDATED": "busy",
    "NEEDS_APPROVAL": "warn",
    "QUARANTINED": "warn",
    "REJECTED": "bad",
    "FAILED": "bad",
}
"""How a state looks; the others are neutral."""
WORDS = {
    "RECEIVED": "The request came in",
    "VALIDATED": "Every field fits the dataset",
    "NEEDS_APPROVAL": "Somebody has to approve it",
    "QUEUED": "Waiting for a worker",
    "RUNNING": "A worker is on it",
    "PUBLISHED": "Published",
    "QUARANTINED": "Stopped by a gate; nothing was published",
    "REJECTED": "Refused",
    "FAILED": "Failed",
    "CANCELED": "Canceled",
    "EXPIRED": "Its time was over; the version is retired",
    "PURGED": "Its files were removed",
}
_CANCELABLE = frozenset({"RECEIVED", "VALIDATED", "NEEDS_APPROVAL", "QUEUED", "RUNNING"})
_LEVELS = {
    "": "As the dataset declares",
    "standard": "Standard",
    "strict": "Strict: tighter gates, rarer values go",
    "internal": "Internal: looser gates; needs approval where the dataset declares more",
}
_PAGE = 50
router = APIRouter(prefix="/requests")


@router.get("")
def list_requests(
    request: Request, after: Annotated[int, Query(ge=0, le=1_000_000)] = 0
) -> Response:
    """The requests, the newest first."""
    found = inbox_of(request).list()
    return page(
        request,
        "requests.html.j2",
        found=found[after : after + _PAGE],
        total=len(found),
        after=after,
        step=_PAGE,
        kinds=KINDS,
    )


@router.get("/new")
def ask(request: Request, dataset: Annotated[str, Query(max_length=63)] = "") -> Response:
    """The empty form, for a dataset where one is named."""
    writable(request)
    known = sources(settings_of(request).home.lake)
    chosen = dataset in known or dataset == DESCRIBED
    form = Form.empty(dataset if chosen else next(iter(known), DESCRIBED))
    return _form_page(request, _informed(request, form), known)


@router.post("/form")
async def fill(request: Request) -> Response:
    """The form as it is filled in, with a row more or less, or another dataset's columns."""
    form = await _sent(request)
    if form.get("check"):
        await run_in_threadpool(form.parse)
    return await run_in_threadpool(_form_page, request, form)


@router.post("/check")
async def check(request: Request) -> Response:
    """What is wrong with the form as it is, for a script that shows it at the fields."""
    form = await _sent(request)
    asked = await run_in_threadpool(form.parse)
    text = await run_in_threadpool(asked.to_yaml) if asked else ""
    return JSONResponse({"faults": form.faults, "yaml": text})


@router.post("")
async def submit(request: Request) -> Response:
    """Drop the request, or show the form again with each error at its field."""
    form = await _sent(request)
    asked = await run_in_threadpool(form.parse)
    if asked is not None:
        desk, key = inbox_of(request), await run_in_threadpool(form.idempotency_key, asked)
        try:
            receipt = await run_in_threadpool(
                desk.submit, asked, idempotency_key=key, facts=origin(request)
            )
        except RequestError as error:
            form.note(error.problems)
        else:
            return RedirectResponse(f"/requests/{receipt.id}", 303)
    return await run_in_threadpool(_form_page, request, form, code=422)


@router.get("/{identity}")
def follow(request: Request, identity: str) -> Response:
    """Where a request stands; the page follows it until it is answered."""
    return page(request, "request.html.j2", **_told(request, identity))


@router.get("/{identity}/live")
def live(request: Request, identity: str) -> Response:
    """The part of that page that changes."""
    return page(request, "progress.html.j2", **_told(request, identity))


@router.post("/{identity}/cancel")
async def cancel(request: Request, identity: str) -> Response:
    """Stop a request."""
    require_cancel(request, await _changing(request, identity))
    await run_in_threadpool(settled, inbox_of(request).cancel, identity, "on the page")
    return RedirectResponse(f"/requests/{identity}", 303)


@router.post("/{identity}/approve")
async def approve(request: Request, identity: str) -> Response:
    """Let a request go on."""
    await _changing(request, identity)
    may_approve(request)
    await run_in_threadpool(settled, inbox_of(request).approve, identity, SOMEBODY)
    return RedirectResponse(f"/requests/{identity}", 303)


def sources(lake: Lake) -> dict[str, str]:
    """The datasets that rows can be asked of, and in words what is known of each."""
    known = dict.fromkeys(dataset_names(), "not published yet")
    for item in shelf.datasets(lake):
        # A version that answers a request is no source: its own source is.
        if item.manifest is not None and "order" not in item.manifest.reproduce:
            known[item.name] = f"{item.manifest.rows:,} {item.manifest.kind} rows published"
    return dict(sorted(known.items(), key=lambda entry: ("not" in entry[1], entry[0])))


async def _sent(request: Request) -> Form:
    writable(request)
    pairs = await checked_form(request)
    return await run_in_threadpool(_informed, request, Form.of_pairs(pairs))


async def _changing(request: Request, identity: str) -> Status:
    writable(request)
    await checked_form(request)
    return await run_in_threadpool(existing, inbox_of(request), identity)


def _informed(request: Request, form: Form) -> Form:
    """The form with what the newest version of its dataset shows of its columns."""
    if form.described:
        form.columns = form.described_columns()
        form.faults = {}
        return form
    try:
        shown = shelf.version(settings_of(request).home.lake, form.get("dataset"))
        form.columns = tuple(
            column for column in shelf.columns(shown) if shown.manifest.kind == "table"
        )
    except ProblemError:
        form.columns = ()
    return form


def _form_page(
    request: Request, form: Form, known: dict[str, str] | None = None, code: int = 200
) -> Response:
    return page(
        request,
        "ask.html.j2",
        code=code,
        form=form,
        known=known or sources(settings_of(request).home.lake),
        once=form.get("once") or secrets.token_urlsafe(12),
        operators=OPERATORS,
        levels=_LEVELS,
        groups=REPEATED,
        kinds=DESCRIBED_KINDS,
    )


def _told(request: Request, identity: str) -> dict[str, Any]:
    desk = inbox_of(request)
    status = existing(desk, identity)
    return {
        "status": status,
        "asked": "" if desk.unreadable(identity) else desk.request(identity).to_yaml(),
        "kinds": KINDS,
        "words": WORDS,
        "preview": preview_rows(status)[:8] if status.preview else [],
        "share": _share(status),
        "gates": status.events[-1].facts.get("gates", ()) if status.answered else (),
        "cancelable": status.state in _CANCELABLE and may_cancel(request, status),
        "approvals": settings_of(request).approvals and decides(request),
        "published": [name.partition("@") for name in status.versions],
    }


def _share(status: Status) -> float | None:
    """How far the running phase is, from 0 to 1."""
    total = status.progress.get("total") or 0
    return min(1.0, status.progress.get("step", 0) / total) if total else None
