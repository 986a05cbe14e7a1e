"""The inbox from Python: submit, wait, read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..home import Home
from .inbox import Inbox, Receipt, Status
from .model import DataRequest, parse_request
from .remote import RemoteClient

if TYPE_CHECKING:
    import pandas as pd


class Client:
    """Requests of the home at ``home`` (default ``$LIKENESS_HOME``), without a server.

    >>> client = Client()                                          # doctest: +SKIP
    >>> receipt = client.submit({"apiVersion": "likeness/v1", ...})  # doctest: +SKIP
    >>> client.run(receipt.id); frame = client.read(receipt.id)      # doctest: +SKIP
    """

    def __init__(self, home: Path | str | None = None) -> None:
        self.home = Home.from_environment() if home is None else Home(Path(home).absolute())
        self.inbox = Inbox(self.home)

    @staticmethod
    def http(url: str, token: str) -> RemoteClient:
        """The same for the inbox behind a ``likeness serve`` at ``url``."""
        return RemoteClient(url, token)

    def lint(self, request: DataRequest | Mapping[str, Any] | str) -> DataRequest:
        """The request, if nothing is wrong with it by itself.

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
        """Drop a request, and check it against its dataset; an equal one is answered at once.

        Raises:
            RequestError: all problems at once; nothing is kept.
        """
        from .work import admit

        receipt = self.inbox.submit(request, idempotency_key=idempotency_key)
        return Receipt(receipt.id, admit(self.home, receipt.id).state, receipt.created)

    def status(self, identity: str) -> Status:
        """Where a request stands."""
        return self.inbox.status(identity)

    def list(self) -> Sequence[Status]:
        """All requests, the newest first."""
        return self.inbox.list()

    def wait(self, identity: str, timeout: float = 3600.0) -> Status:
        """The status once it is answered, or when ``timeout`` seconds have passed."""
        return self.inbox.wait(identity, timeout)

    def cancel(self, identity: str, reason: str = "") -> Status:
        """Stop a request that is not published yet."""
        return self.inbox.cancel(identity, reason)

    def approve(self, identity: str) -> Status:
        """Let a request go on that needs approval."""
        return self.inbox.approve(identity)

    def run(self, identity: str) -> Status:
        """Answer a request here and now, where no daemon does."""
        from .work import process

        return process(self.home, identity)

    def read(self, identity: str, name: str | None = None) -> pd.DataFrame:
        """The published rows; of a request for tables, those of the dataset ``name``.

        Raises:
            InboxError: the request is not published, or has no such dataset.
        """
        import pandas as pd

        from ..publication.log import resolve

        return pd.read_parquet(
            resolve(self.home.lake, self.status(identity).answer(name)).path / "data"
        )
