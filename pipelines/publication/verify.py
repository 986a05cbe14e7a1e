"""Whether a published version is what its publisher committed, checked from its files alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pydantic import ValidationError

from generators.base import DataError, ParameterError
from validators.base import Scorecard
from validators.contract import Contract
from validators.verdict import GateResult, QuarantinedError, Verdict

from . import log
from .digest import ContentDigest
from .manifest import (
    CONTRACT,
    MANIFEST,
    ROWS_SCORECARD,
    ROWS_VERDICT,
    SCORECARD,
    VERDICT,
    Manifest,
    VerdictSummary,
    sha256,
)
from .parquet import read_batches
from .signature import check_signature, public_key
from .store import Lake, PublicationError, Store, open_lake


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """All checks of one version; ``name`` is ``dataset@version``."""

    name: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def verify(lake: Lake, name: str, signed_by: Path | None = None) -> VerifyReport:
    """Check a published version: log, manifest, every file, pages, content, verdict, signature.

    Args:
        lake: the folder or URL that holds the datasets.
        name: ``adult`` or ``adult@3``.
        signed_by: the PEM file of the public key that must have signed the version.

    Raises:
        ParameterError: the name is malformed, or the file holds no public key.
        PublicationError: there is no such dataset or version.
    """
    dataset = name.partition("@")[0]
    wanted = None if signed_by is None else public_key(signed_by)
    store = open_lake(lake)
    try:
        entries = log.read_log(lake, dataset)
    except PublicationError as error:
        return VerifyReport(name, (Check("log", False, str(error)),))
    version = log.resolve(lake, name).version
    entry = entries[version - 1]
    chain = f"{len(entries)} entries, each holding the hash of the one before"
    checks = [Check("log", True, chain), _check_latest(store, dataset, entries)]
    signed = check_signature(store, dataset, version, entry.to_bytes(), wanted)
    if signed is not None:
        checks.append(Check("signature", *signed))
    folder = f"{dataset}/{entry.snapshot}"
    try:
        stone = log.tombstone(store, dataset, entry)
    except PublicationError as error:
        return VerifyReport(
            f"{dataset}@{version}", (*checks, Check("tombstone", False, str(error)))
        )
    if stone is not None:
        files = "there" if store.exists(folder) else "removed"
        said = f"retired at {stone.at}: {stone.reason}; its files are {files}"
        checks.append(Check("tombstone", True, said))
    if stone is None or store.exists(folder):
        checks += check_snapshot(store, folder, entry.manifest_sha256, entry.content_digest)
    return VerifyReport(f"{dataset}@{version}", tuple(checks))


def check_snapshot(store: Store, folder: str, manifest_sha256: str, digest: str) -> list[Check]:
    """Check the files of one snapshot against the hashes that the log has of it."""
    try:
        data = store.get(f"{folder}/{MANIFEST}")
    except (OSError, ParameterError):
        return [Check("manifest", False, f"{MANIFEST} is missing")]
    if sha256(data) != manifest_sha256 or folder.rsplit("/", 1)[1] != manifest_sha256[:16]:
        return [Check("manifest", False, f"{MANIFEST} is not the one that was committed")]
    try:
        manifest = Manifest.from_bytes(data)
    except ValidationError:
        return [Check("manifest", False, f"{MANIFEST} is of a form this version cannot read")]
    return [
        Check("manifest", True, f"SHA-256 {manifest_sha256[:16]}… as committed"),
        _check_names(store, folder, manifest),
        _check_bytes(store, folder, manifest),
        *_check_content(store, folder, manifest, digest),
        _check_verdict(store, folder, manifest),
        *_check_gates(store, folder, manifest),
    ]


def file_sha256(stream: BinaryIO) -> tuple[str, int]:
    """Hexadecimal SHA-256 and number of bytes of a stream."""
    digest, size = hashlib.sha256(), 0
    while chunk := stream.read(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size


def verdict_problem(data: bytes, digest: str) -> str | None:
    """Why a verdict does not release the content ``digest``, or None where it does."""
    try:
        verdict = VerdictSummary.model_validate_json(data)
    except ValidationError:
        return "the verdict cannot be read"
    if not verdict.passed:
        return "the verdict does not say passed"
    asked = [gate for gate in verdict.gates if gate.applies and gate.severity == "critical"]
    if not all(gate.holds for gate in asked):
        return "a critical gate of the verdict failed"
    return None if verdict.candidate_digest == digest else "the verdict is about other content"


def _check_latest(store: Store, dataset: str, entries: list[log.LogEntry]) -> Check:
    name = f"{dataset}/latest.json"
    if not store.exists(name):
        return Check("latest", True, "latest.json is missing; the log is authoritative")
    data = store.get(name)
    for entry in entries:
        if data == log.latest_bytes(entry):
            newest = "the newest" if entry is entries[-1] else "stale: the log has newer ones"
            return Check("latest", True, f"latest.json names version {entry.version}, {newest}")
    return Check("latest", False, "latest.json names no version of the log")


def _check_names(store: Store, folder: str, manifest: Manifest) -> Check:
    there = {name.removeprefix(f"{folder}/") for name in store.list(folder)}
    wanted = {file.path for file in manifest.files} | {MANIFEST}
    missing, extra = sorted(wanted - there), sorted(there - wanted)
    if missing or extra:
        return Check("files", False, f"missing {missing or 'none'}, unknown {extra or 'none'}")
    return Check("files", True, f"{len(wanted)} files, none missing, none unknown")


def _check_bytes(store: Store, folder: str, manifest: Manifest) -> Check:
    damaged, total = [], 0
    for file in manifest.files:
        try:
            with store.open(f"{folder}/{file.path}") as stream:
                found = file_sha256(stream)
        except (OSError, ParameterError):  # missing, or a link that leads out of the lake
            found = ("", 0)
        total += found[1]
        if found != (file.sha256, file.bytes):
            damaged.append(file.path)
    if damaged:
        return Check("bytes", False, f"damaged: {', '.join(damaged)}")
    return Check("bytes", True, f"{total:,} bytes in {len(manifest.files)} files as hashed")


def _check_content(store: Store, folder: str, manifest: Manifest, digest: str) -> list[Check]:
    content, problem = ContentDigest(), ""
    for file in manifest.data_files:
        try:
            with store.open(f"{folder}/{file.path}") as stream:
                for part in read_batches(stream):
                    content.update(part)
        except OSError as error:
            problem = f"{file.path}: {type(error).__name__}"
        except (DataError, ParameterError) as error:
            problem = f"{file.path}: {error}"
    if problem:
        return [Check("pages", False, problem), Check("content", False, "cannot be read")]
    groups = sum(file.row_groups or 0 for file in manifest.data_files)
    pages = Check("pages", True, f"checksums of all pages in {groups} row group(s)")
    found = content.text()
    same = found == manifest.content_digest == digest
    detail = (
        f"{content.rows:,} rows, {found[:19]}…" if same else "the rows are not the committed ones"
    )
    return [pages, Check("content", same, detail)]


def _check_verdict(store: Store, folder: str, manifest: Manifest) -> Check:
    try:
        data = store.get(f"{folder}/{VERDICT}")
    except (OSError, ParameterError):
        return Check("verdict", False, f"{VERDICT} is missing")
    problem = verdict_problem(data, manifest.content_digest)
    if problem is None and VerdictSummary.model_validate_json(data) != manifest.verdict:
        problem = "the verdict is not the one in the manifest"
    gates = sum(gate.holds for gate in manifest.verdict.gates)
    detail = problem or f"{gates} gates hold, bound to this content"
    return Check("verdict", problem is None, detail)


def _check_gates(store: Store, folder: str, manifest: Manifest) -> list[Check]:
    """The verdicts done again: the published scores judged by the published contract.

    A table with an image column has two: on the images, and on the rows beside them.
    """
    names = {file.path for file in manifest.files}
    if CONTRACT not in names:
        return []
    checks = [_check_gates_of(store, folder, manifest, "gates", SCORECARD, VERDICT)]
    if ROWS_VERDICT in names:
        rows = (ROWS_SCORECARD, ROWS_VERDICT)
        checks.append(_check_gates_of(store, folder, manifest, "gates of the rows", *rows))
    return checks


def _check_gates_of(
    store: Store, folder: str, manifest: Manifest, name: str, card: str, judged_as: str
) -> Check:
    try:
        contract = Contract.model_validate_json(store.get(f"{folder}/{CONTRACT}"))
        scores = Scorecard.from_json(store.get(f"{folder}/{card}").decode())
        verdict = Verdict.from_json(store.get(f"{folder}/{judged_as}").decode())
        verdict.require_passed(manifest.content_digest, contract, scores)
    except QuarantinedError as error:
        return Check(name, False, str(error))
    except (OSError, ParameterError, ValueError, KeyError, TypeError) as error:
        return Check(name, False, f"scores or contract cannot be read: {type(error).__name__}")
    answers = {answer.gate: answer for answer in verdict.gates}
    judged = [gate.answer(scores) for gate in contract.for_modality(verdict.modality).gates]
    other = [own.gate for own in judged if _said(answers[own.gate]) != _said(own)]
    if other:
        return Check(name, False, f"not what the scores say: {', '.join(other)}")
    detail = f"{len(judged)} gates of contract {contract.name} judged again from the scores"
    return Check(name, True, detail)


def _said(answer: GateResult) -> tuple[object, ...]:
    return (answer.status, answer.value, answer.low, answer.high, answer.bound, answer.reference)
