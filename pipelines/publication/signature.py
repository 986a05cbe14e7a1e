"""Who published a version: an Ed25519 signature (RFC 8032) over its log entry.

``<dataset>/_signatures/00000003.json`` is created once, after the entry. An entry holds the hash of
the manifest, which holds those of all files, and the hash of the entry before: so a signature
covers the whole version and the history up to it. It is optional; a crash before it leaves a
version that the next publication of the same key signs.
"""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from generators.base import ParameterError

from .manifest import canonical_json
from .store import Store

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

SIGNING_KEY = "LIKENESS_SIGNING_KEY"
"""The environment variable that names the file of the private key."""
_CONTEXT = b"likeness log entry v1\n"


class Signature(BaseModel):
    """A signature over a log entry; bytes are in base64.

    Attributes:
        version: of the entry.
        public_key: 32 bytes, of whoever signed.
        signature: 64 bytes, over a fixed line and the bytes of the entry's file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: int
    public_key: str
    signature: str

    @property
    def fingerprint(self) -> str:
        """What people compare: the first digits of the public key's SHA-256."""
        return hashlib.sha256(base64.b64decode(self.public_key)).hexdigest()[:16]


@dataclass(frozen=True)
class Signer:
    """Signs log entries with a private key, which never leaves this process."""

    key: Ed25519PrivateKey

    @classmethod
    def from_environment(cls) -> Self | None:
        """The signer whose key ``$LIKENESS_SIGNING_KEY`` names, or None where it is not set.

        Raises:
            ParameterError: the file is no unencrypted Ed25519 private key in PEM.
        """
        named = os.environ.get(SIGNING_KEY)
        return cls.from_file(Path(named)) if named else None

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The signer with the private key in a PEM file.

        Raises:
            ParameterError: the file is no unencrypted Ed25519 private key in PEM.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise ParameterError(
                f"{SIGNING_KEY} must name an Ed25519 private key in PEM, its file is none; make "
                "one with openssl genpkey -algorithm ed25519 -out key.pem"
            )
        return cls(key)

    def sign(self, store: Store, dataset: str, version: int, entry: bytes) -> None:
        """Sign a log entry where it is not signed yet; a signature that is there stays."""
        name = signature_name(dataset, version)
        if store.exists(name):
            return
        public = self.key.public_key().public_bytes_raw()
        made = Signature(
            version=version,
            public_key=base64.b64encode(public).decode(),
            signature=base64.b64encode(self.key.sign(_CONTEXT + entry)).decode(),
        )
        store.put_if_absent(name, canonical_json(made.model_dump()))


def signature_name(dataset: str, version: int) -> str:
    """Where the signature of a version lies in the store."""
    return f"{dataset}/_signatures/{version:08d}.json"


def public_key(path: Path) -> bytes:
    """The 32 bytes of the Ed25519 public key in a PEM file.

    Raises:
        ParameterError: the file holds none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise ParameterError(
            f"--key must name an Ed25519 public key in PEM, {path.name} is none; its owner makes "
            "it with openssl pkey -in key.pem -pubout -out public.pem"
        )
    return key.public_bytes_raw()


def check_signature(
    store: Store, dataset: str, version: int, entry: bytes, wanted: bytes | None
) -> tuple[bool, str] | None:
    """Whether a version is signed as it should be, and what there is to say; None: nothing is.

    Args:
        store: where the dataset lies.
        dataset: its name.
        version: its number.
        entry: the bytes of its log entry.
        wanted: the public key that must have signed it; None takes whoever did, if anybody.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    name = signature_name(dataset, version)
    try:
        data = store.get(name)
    except FileNotFoundError:
        return None if wanted is None else (False, "the version is not signed")
    try:
        found = Signature.model_validate_json(data)
        public, signature = (
            base64.b64decode(text, validate=True) for text in (found.public_key, found.signature)
        )
        if canonical_json(found.model_dump()) != data or found.version != version:
            return False, f"{name} is damaged or of another version"
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _CONTEXT + entry)
    except (ValidationError, ValueError):
        return False, f"{name} is damaged"
    except InvalidSignature:
        return False, f"the signature is not over this version, or not of {found.fingerprint}"
    if wanted is None:
        return True, f"signed by {found.fingerprint}; --key proves whose key that is"
    if public != wanted:
        return False, f"signed by {found.fingerprint}, which is another key"
    return True, f"signed by the given key, {found.fingerprint}"
