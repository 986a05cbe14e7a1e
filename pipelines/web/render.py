"""Pages from templates: everything that is filled in is escaped, nothing comes from elsewhere."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jinja2
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ..publication.card import interval, mark, number
from ..publication.pages import size_in_words, sketch_svg
from .problems import ProblemError
from .settings import session_of, settings_of

STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"


def page(
    request: Request,
    name: str,
    *,
    code: int = 200,
    headers: dict[str, str] | None = None,
    **values: Any,  # noqa: ANN401 - what the template shows
) -> HTMLResponse:
    """A page of ``templates/``; templates know the session's form key and the settings."""
    settings = settings_of(request)
    session = session_of(request)
    html = (
        _environment()
        .get_template(name)
        .render(
            form_key=session[0].form_key(session[1]) if session else "",
            read_only=settings.read_only,
            path=request.url.path,
            **values,
        )
    )
    return HTMLResponse(html, code, headers)


def error_response(request: Request, problem: ProblemError) -> Response:
    """A problem as its reader wants it: JSON for programs, a page for people."""
    if request.url.path.startswith("/v1") or "text/html" not in request.headers.get("accept", ""):
        return problem.response()
    return page(
        request, "error.html.j2", code=problem.status, headers=problem.headers, problem=problem
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval,
        "size": size_in_words,
        "thousands": lambda count: f"{count:,}",
        "moment": lambda text: text[:16].replace("T", " "),
    }
    environment.globals |= {"mark": mark, "sketch": sketch_svg}
    return environment
