"""The inbox of another machine from Python, through ``likeness serve``, by standard means."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from generators.base import ParameterError

from .inbox import Event, InboxError, Receipt, Status
from .model import DataRequest, Problem, RequestError, parse_request

if TYPE_CHECKING:
    import pandas as pd

_SECONDS = 60.0
_POLL_SECONDS = 1.0
_PAGE = 500


class RemoteClient:
    """What ``Client`` does, at the server ``url``; made by ``Client.http``.

    Args:
        url: of the server, e.g. ``http://127.0.0.1:8321``.
        token: that ``likeness serve`` names.

    Raises:
        ParameterError: the URL is not one of HTTP.
    """

    def __init__(self, url: str, token: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ParameterError("a server's URL must begin with http:// or https://")
        self._url, self._token = url.rstrip("/"), token

    def lint(self, request: DataRequest | Mapping[str, Any] | str) -> DataRequest:
        """The request, if nothing is wrong with it by itself; asks nobody.

        Raises:
            RequestError: all problems at once, each with its field.
        """
        return parse_request(request)

    def submit(
        self,
        request: DataRequest | Mapping[str, Any] | str,
        *,
        idempotency_key: str | None = None,
    ) -> Receipt:
        """Drop a request.

        Raises:
            RequestError: all problems at once; nothing is kept.
            InboxError: the server cannot be reached, or does not take it.
        """
        body = parse_request(request).to_yaml().encode()
        headers = {"Content-Type": "application/yaml"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        return Receipt(**self._json("POST", "/v1/requests", body, headers))

    def status(self, identity: str) -> Status:
        """Where a request stands."""
        return _status(self._json("GET", f"/v1/requests/{quote(identity)}"))

    def list(self) -> Sequence[Status]:
        """All requests, the newest first."""
        found: list[Status] = []
        while True:
            page = self._json("GET", f"/v1/requests?limit={_PAGE}&offset={len(found)}")
            found += [self.status(line["id"]) for line in page["requests"]]
            if len(found) >= page["total"] or not page["requests"]:
                return found

    def wait(self, identity: str, timeout: float = 3600.0) -> Status:
        """The status once it is answered, or when ``timeout`` seconds have passed."""
        end = time.monotonic() + timeout
        while True:
            status = self.status(identity)
            if status.answered or time.monotonic() >= end:
                return status
            time.sleep(_POLL_SECONDS)

    def cancel(self, identity: str, reason: str = "") -> Status:
        """Stop a request that is not published yet."""
        return self._act(identity, "cancel", {"reason": reason})

    def approve(self, identity: str) -> Status:
        """Let a request go on that needs approval."""
        return self._act(identity, "approve", {})

    def run(self, identity: str) -> Status:
        """Requests are answered where the server is, so this only refuses.

        Raises:
            InboxError: always.
        """
        raise InboxError(f"request {identity} must be answered at the server; wait for it")

    def read(self, identity: str, name: str | None = None) -> pd.DataFrame:
        """The published rows; of a request for tables, those of the dataset ``name``.

        Raises:
            InboxError: the request is not published, or has no such dataset.
        """
        import pandas as pd

        dataset, _, version = self.status(identity).answer(name).partition("@")
        place = f"/v1/datasets/{dataset}/versions/{version}/files"
        files = [file["path"] for file in self._json("GET", place)["files"] if file["rows"]]
        parts = [io.BytesIO(self._ask("GET", f"{place}/{quote(path)}")) for path in files]
        return pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)

    def _act(self, identity: str, action: str, fields: dict[str, str]) -> Status:
        body = json.dumps(fields).encode()
        headers = {"Content-Type": "application/json"}
        return _status(
            self._json("POST", f"/v1/requests/{quote(identity)}/{action}", body, headers)
        )

    def _json(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:  # noqa: ANN401 - as JSON is
        return json.loads(self._ask(method, path, body, headers))

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> bytes:
        sent = {**(headers or {}), "Authorization": f"Bearer {self._token}"}
        asked = urllib.request.Request(f"{self._url}{path}", body, sent, method=method)
        try:
            with urllib.request.urlopen(asked, timeout=_SECONDS) as answer:
                data: bytes = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise _refusal(error.code, error.read()) from None
        except OSError as error:
            raise InboxError(
                f"the server at {self._url} must be reachable, it is not "
                f"({type(error).__name__}); start likeness serve there"
            ) from None
        return data


def _refusal(code: int, body: bytes) -> RequestError | InboxError:
    try:
        said = json.loads(body)
        detail, errors = str(said["detail"]), list(said["errors"])
    except (ValueError, KeyError, TypeError):
        return InboxError(f"the server must answer as Likeness does, it answered {code}")
    if code == 422 and errors:
        return RequestError(tuple(Problem(_field(e["pointer"]), e["detail"]) for e in errors))
    return InboxError(detail)


def _field(pointer: str) -> str:
    return pointer.strip("/").replace("/", ".") or "request"


def _status(told: dict[str, Any]) -> Status:
    judged = [event["facts"].get("likeness_on", "") for event in told["events"]]
    return Status(
        id=told["id"],
        name=told["name"],
        state=told["state"],
        events=tuple(Event(**event) for event in told["events"]),
        version=told["version"],
        versions=tuple(told["versions"]),
        problems=tuple(Problem(**problem) for problem in told["problems"]),
        progress=told["progress"],
        message=told["message"],
        likeness_on=next(filter(None, judged), ""),
    )
