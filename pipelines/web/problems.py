"""Errors as RFC 9457 ``application/problem+json``: every field that is wrong, at once.

What a caller sent is never repeated: it may hold a real value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description="JSON Pointer of the field in what was sent; empty: all of it")
    detail: str = Field(description="What is required, what was found, what to do")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "about:blank",
                    "title": "Unprocessable Content",
                    "status": 422,
                    "detail": "the request is wrong in 1 field",
                    "errors": [
                        {"pointer": "/spec/rows", "detail": "Input should be greater than 0"}
                    ],
                }
            ]
        }
    )

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


class ProblemError(Exception):
    """An answer that is an error; the doors render it as JSON or as a page."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldProblem] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.errors, self.headers = list(errors), headers or {}

    @property
    def title(self) -> str:
        """The phrase of the status."""
        return phrase(self.status)

    def response(self) -> JSONResponse:
        """The error for programs."""
        body = Problem(title=self.title, status=self.status, detail=self.detail, errors=self.errors)
        return JSONResponse(
            body.model_dump(), self.status, headers=self.headers, media_type=MEDIA_TYPE
        )


def phrase(status: int) -> str:
    """The name of an HTTP status; 422 as RFC 9110 calls it."""
    return "Unprocessable Content" if status == 422 else HTTPStatus(status).phrase


def pointer(location: Iterable[str | int]) -> str:
    """The JSON Pointer (RFC 6901) of a place in a document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def sentence(message: str) -> str:
    """A message of pydantic as a reader expects it."""
    return re.sub(r"^Value error, ", "", message)
