"""Pages for people: the catalogue, a dataset, the login. Requests have their own module."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, RedirectResponse, Response

from ..publication.card import strip
from ..publication.catalogue import PICTURE
from ..publication.manifest import MANIFEST, README, REPORT
from ..publication.pages import PAGE, headline
from . import shelf
from .access import SESSION_SECONDS
from .problems import ProblemError
from .render import STATIC, page
from .settings import COOKIE, session_of, settings_of
from .shelf_api import file_response, lake_response

_PREVIEW_ROWS = 8
_STATIC_FILES = frozenset(path.name for path in STATIC.iterdir())
router = APIRouter()


@router.get("/")
def home() -> Response:
    """The catalogue is where one starts."""
    return RedirectResponse("/datasets", 303)


@router.get("/datasets")
def list_datasets(request: Request, search: Annotated[str, Query(max_length=200)] = "") -> Response:
    """The datasets, and a search among them."""
    found = shelf.datasets(settings_of(request).home.lake, search)
    return page(
        request, "datasets.html.j2", found=found, search=search, strip=strip, headline=headline
    )


@router.get("/datasets/{dataset}")
def show_dataset(request: Request, dataset: str, version: int | None = None) -> Response:
    """One version of a dataset: what it is, how good, a look at its rows, its files."""
    lake = settings_of(request).home.lake
    shown = shelf.version(lake, dataset, version)
    return page(
        request,
        "dataset.html.j2",
        shown=shown,
        m=shown.manifest,
        versions=shelf.versions(lake, dataset),
        columns=shelf.columns(shown),
        rows=shelf.rows(shown, 0, _PREVIEW_ROWS),
        picture=PICTURE if shown.manifest.has(PICTURE) else "",
        strip=strip,
        headline=headline,
        report=REPORT if shown.manifest.has(REPORT) else "",
        card=README if shown.manifest.has(README) else "",
        manifest_name=MANIFEST,
        full=f"/lake/{dataset}/{PAGE}" if shown.store.exists(f"{dataset}/{PAGE}") else "",
    )


@router.get("/datasets/{dataset}/{version}/{path:path}")
def show_file(request: Request, dataset: str, version: int, path: str) -> Response:
    """A published file: pages and pictures are shown, data are saved."""
    shown = shelf.version(settings_of(request).home.lake, dataset, version)
    return file_response(shown, path, attachment=path.endswith((".parquet", ".csv")))


@router.get("/lake/{path:path}")
def show_lake(request: Request, path: str) -> Response:
    """A file of the lake as it lies there: the pages of its own catalogue, logs, snapshots."""
    return lake_response(settings_of(request).home.lake, path or PAGE)


@router.get("/static/{name}")
def static(name: str) -> Response:
    """Style and script of the pages."""
    if name not in _STATIC_FILES:
        raise ProblemError(404, "there is no such file")
    return FileResponse(STATIC / name, headers={"Cache-Control": "private, max-age=300"})


@router.get("/login")
def ask_token(request: Request, next: Annotated[str, Query(max_length=2000)] = "/") -> Response:
    """The page that asks for the token."""
    return page(request, "login.html.j2", target=_own_path(next), wrong=False)


@router.post("/login")
async def log_in(request: Request) -> Response:
    """Exchange the token for a cookie that proves it."""
    fields = await form_fields(request)
    target = _own_path(fields.get("next", "/"))
    access = settings_of(request).access_of_token(fields.get("token", "").strip())
    if access is None:
        return page(request, "login.html.j2", code=401, target=target, wrong=True)
    response = RedirectResponse(target, 303)
    response.set_cookie(
        COOKIE,
        access.new_session(),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
async def log_out(request: Request) -> Response:
    """Forget the cookie."""
    await checked_form(request)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


async def form_fields(request: Request) -> dict[str, str]:
    """The fields of a form; of a repeated one, the last."""
    return dict(await form_pairs(request))


async def form_pairs(request: Request) -> list[tuple[str, str]]:
    """The fields of a form in their order.

    Raises:
        ProblemError: it is not a form, or has too many fields.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise ProblemError(415, "a form must be sent as application/x-www-form-urlencoded")
    try:
        text = (await request.body()).decode("utf-8")
        return parse_qsl(text, keep_blank_values=True, max_num_fields=5_000, errors="strict")
    except ValueError:
        raise ProblemError(400, "a form must be UTF-8 text of at most 5,000 fields") from None


async def checked_form(request: Request) -> list[tuple[str, str]]:
    """The fields of a form that was made for this session.

    Raises:
        ProblemError: it was made for another, or by somebody else.
    """
    pairs = await form_pairs(request)
    session = session_of(request)
    given = dict(pairs).get("form_key", "")
    if session is None or not session[0].is_form_key(session[1], given):
        raise ProblemError(403, "a form must come from a page of this session; load it again")
    return [(name, value) for name, value in pairs if name != "form_key"]


def _own_path(target: str) -> str:
    """Where to go after the login: a path of ours, whatever a link said."""
    own = target.startswith("/") and not target.startswith(("//", "/\\"))
    return target if own and target.isprintable() else "/"
