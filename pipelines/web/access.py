"""Who may come in: a bearer token for programs, a signed cookie made from it for browsers.

The owner's token lies in the home, readable by its owner alone; a second one, for others, may only
read and ask. A cookie holds no token but proves, by an HMAC under it, that the browser once showed
it; a new token ends all of its sessions.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from generators.base import ParameterError

from ..home import Home

TOKEN_VARIABLE = "LIKENESS_TOKEN"
ASK_TOKEN_VARIABLE = "LIKENESS_ASK_TOKEN"
TOKEN_FILE = "serve.token"
MIN_TOKEN_LENGTH = 24
SESSION_SECONDS = 12 * 3600
"""A working day; then a browser has to show the token again."""


@dataclass(frozen=True)
class Access:
    """A token and what is derived from it.

    Attributes:
        token: at least ``MIN_TOKEN_LENGTH`` characters.
        decides: whether its holder may approve, and cancel what others asked.
    """

    token: str = field(repr=False)
    decides: bool = True

    def __post_init__(self) -> None:
        if len(self.token) < MIN_TOKEN_LENGTH or not self.token.isascii():
            raise ParameterError(
                f"a token must have at least {MIN_TOKEN_LENGTH} ASCII characters, it has "
                f"{len(self.token)}; make one with: openssl rand -hex 32"
            )

    def is_token(self, given: str) -> bool:
        """Whether ``given`` is the token; the time it takes says nothing of how much is right."""
        return hmac.compare_digest(given.encode(), self.token.encode())

    def new_session(self) -> str:
        """The value of a cookie that lets a browser in for ``SESSION_SECONDS``."""
        until = int(time.time()) + SESSION_SECONDS
        claim = f"{until}.{secrets.token_urlsafe(16)}"
        return f"{claim}.{self._proof('session', claim)}"

    def is_session(self, cookie: str) -> bool:
        """Whether a cookie is one of ours and has not run out."""
        claim, _, proof = cookie.rpartition(".")
        if not hmac.compare_digest(proof.encode(), self._proof("session", claim).encode()):
            return False
        return int(claim.partition(".")[0]) > time.time()

    def form_key(self, cookie: str) -> str:
        """What a form of this session carries, so that no other site can send it."""
        return self._proof("form", cookie)

    def is_form_key(self, cookie: str, given: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(given.encode(), self.form_key(cookie).encode())

    def _proof(self, purpose: str, claim: str) -> str:
        digest = hmac.digest(self.token.encode(), f"{purpose}:{claim}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def given_token(file: Path | None, variable: str = TOKEN_VARIABLE) -> str | None:
    """The token that a file or an environment variable names, or None.

    Raises:
        ParameterError: the file cannot be read.
    """
    if file is None:
        return os.environ.get(variable) or None
    try:
        return file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(
            f"a token file must be a readable text file, {file} is not ({type(error).__name__}); "
            "write the token into it"
        ) from None


def kept_token(home: Home) -> tuple[str, Path]:
    """The token of a home and where it lies; made at the first call, for its owner's eyes only."""
    path = home.root / TOKEN_FILE
    home.root.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        # Linked when it is whole: a killed first start leaves no empty token behind.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{TOKEN_FILE}.", dir=home.root)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(32)}\n")
        with suppress(FileExistsError):
            os.link(temporary, path)
        Path(temporary).unlink()
    return given_token(path) or "", path
