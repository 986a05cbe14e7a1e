"""A real Postgres of a test's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def postgres_server(folder: Path) -> Iterator[str]:
    """The URI of a server whose files lie in ``folder``; it is gone afterwards."""
    pgserver = pytest.importorskip("pgserver")
    module = pytest.importorskip("pgserver.postgres_server")
    control = module.pg_ctl

    def patient(arguments: list[str], **options: Any) -> str:
        # It would wait for ten seconds, which a busy disk may take.
        said: str = control(arguments, **{**options, "timeout": 200})
        return said

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "pg_ctl", patient)
        server = pgserver.get_server(folder, cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()
