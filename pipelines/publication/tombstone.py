"""The mark that a version is withdrawn: ``<dataset>/_retired/00000003.json``, created once.

It names the log entry that it withdraws by the hash of that entry, so that it cannot be moved to
another version. The log itself is never rewritten.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from .manifest import canonical_json, sha256
from .store import PublicationError, Store


class Tombstone(BaseModel):
    """That a version is withdrawn.

    Attributes:
        version: its number.
        entry_sha256: hash of its log entry's file.
        reason: why, as its owner said.
        at: when, ISO 8601 in UTC.
        sha256: hash of the tombstone without this field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: int
    entry_sha256: str
    reason: str
    at: str
    sha256: str = ""

    def to_bytes(self) -> bytes:
        """The bytes of the tombstone's file."""
        return canonical_json(self.model_dump())

    def self_digest(self) -> str:
        """What ``sha256`` must be."""
        return sha256(canonical_json(self.model_dump(exclude={"sha256"})))


def tombstone_name(dataset: str, version: int) -> str:
    """Where the tombstone of a version lies in the store."""
    return f"{dataset}/_retired/{version:08d}.json"


def find_tombstone(store: Store, dataset: str, version: int, entry: bytes) -> Tombstone | None:
    """The tombstone of a version, or None where it is not withdrawn.

    Args:
        store: where the dataset lies.
        dataset: its name.
        version: the version's number.
        entry: the bytes of its log entry.

    Raises:
        PublicationError: the tombstone is damaged or belongs to another entry.
    """
    name = tombstone_name(dataset, version)
    try:
        data = store.get(name)
    except FileNotFoundError:
        return None
    damaged = PublicationError(
        f"a tombstone must be whole and of its own version, {name} is not; "
        "restore the file from a copy of the lake"
    )
    try:
        found = Tombstone.model_validate_json(data)
    except ValidationError:
        raise damaged from None
    whole = found.to_bytes() == data and found.sha256 == found.self_digest()
    if not whole or (found.version, found.entry_sha256) != (version, sha256(entry)):
        raise damaged
    return found
