"""The application: what stands before the doors, and the doors."""

from __future__ import annotations

import functools
import json
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from generators.base import LikenessError

from ..boundary import InternalError
from ..requests.model import json_schema
from . import guard, pages, request_pages, requests_api, shelf_api
from .problems import MEDIA_TYPE, FieldProblem, Problem, ProblemError, pointer, sentence
from .render import error_response
from .settings import Settings, settings_of

_ABOUT = """
Synthetic data that was judged before it was published: find it, read it, ask for more.

Send the token as `Authorization: Bearer TOKEN`. Errors are RFC 9457 `application/problem+json`,
with every wrong field at once.
"""
_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "The token is missing or wrong"},
    422: {"model": Problem, "description": "Something sent is wrong; each field is named"},
    429: {"model": Problem, "description": "Too often; see Retry-After"},
}


class Health(BaseModel):
    """That the server answers."""

    status: str = "ok"
    read_only: bool


def build_app(settings: Settings) -> FastAPI:
    """The server of a home."""
    app = FastAPI(
        title="Likeness",
        version="1",
        summary="A likeness of your data, never a copy of it, and the proof.",
        description=_ABOUT,
        openapi_url="/v1/openapi.json",
        # Their pages load scripts from other hosts.
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.streams = guard.Streams(settings.streams)
    token = Depends(HTTPBearer(auto_error=False, description="See `likeness serve --help`"))
    app.include_router(shelf_api.router, dependencies=[token], responses=_ERRORS)
    app.include_router(requests_api.router, dependencies=[token], responses=_ERRORS)
    app.include_router(pages.router, include_in_schema=False)
    app.include_router(request_pages.router, include_in_schema=False)
    app.add_api_route("/v1/health", health, tags=["server"], summary="Is it up?")
    app.add_exception_handler(HTTPException, _as_problem)
    app.add_exception_handler(RequestValidationError, _as_problem)
    app.add_exception_handler(LikenessError, _as_problem)
    app.openapi = functools.partial(_openapi, app)  # type: ignore[method-assign]
    _stand_before(app, settings)
    return app


def health(request: Request) -> Health:
    """Answers without a token, and says nothing of the home."""
    return Health(read_only=settings_of(request).read_only)


def _stand_before(app: FastAPI, settings: Settings) -> None:
    # The one added last is the outermost.
    app.add_middleware(guard.Login, failures=settings.failures_per_minute)
    app.add_middleware(
        guard.Throttle, writes=settings.writes_per_minute, checks=settings.checks_per_minute
    )
    app.add_middleware(guard.BoundedBody)
    app.add_middleware(guard.KnownHosts, hosts=settings.hosts)
    app.add_middleware(guard.SafeErrors, home=settings.home)


async def _as_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        return error_response(request, _of_validation(error))
    if isinstance(error, HTTPException):
        headers = dict(error.headers or {})
        return error_response(request, ProblemError(error.status_code, error.detail, (), headers))
    if isinstance(error, InternalError):
        raise error
    return error_response(request, ProblemError(422, str(error)))


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The description of the interface, with the published schema of a request in it."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            summary=app.summary,
            description=app.description,
            routes=app.routes,
        )
        schema = json_schema()
        parts = described["components"]["schemas"]
        text = json.dumps({**schema.pop("$defs"), "DataRequest": schema})
        # The parts get names of their own: an answer could have a model of the same name.
        text = text.replace('"#/$defs/', '"#/components/schemas/Request.')
        for name, part in json.loads(text).items():
            parts[name if name == "DataRequest" else f"Request.{name}"] = part
        _describe_problems(described["paths"])
        app.openapi_schema = described
    return app.openapi_schema


def _of_validation(error: RequestValidationError) -> ProblemError:
    wrong = [
        FieldProblem(pointer=pointer(issue["loc"]), detail=sentence(issue["msg"]))
        for issue in error.errors()
    ]
    count = f"{len(wrong)} field" + ("" if len(wrong) == 1 else "s")
    return ProblemError(422, f"what was sent is wrong in {count}", wrong)


def _describe_problems(paths: dict[str, Any]) -> None:
    """Errors have a media type of their own."""
    for operations in paths.values():
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if status >= "400":
                    answer["content"] = {MEDIA_TYPE: answer["content"].pop("application/json")}
