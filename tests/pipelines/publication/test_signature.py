"""Signatures over log entries: whose a version is, and that it is whole."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from generators.base import ParameterError
from pipelines.publication import log
from pipelines.publication.publish import publish
from pipelines.publication.signature import SIGNING_KEY, Signer, signature_name
from pipelines.publication.store import LocalStore
from pipelines.publication.verify import verify

from ...warm import likeness

PEM = serialization.Encoding.PEM
PLAIN = serialization.NoEncryption()


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Files of a private and a public key."""
    key = Ed25519PrivateKey.generate()
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(PEM, form))
    return private, public


@pytest.fixture
def lake(make_release, tmp_path) -> Path:
    """Two versions, both signed by ``mine``."""
    private, _ = keys(tmp_path, "mine")
    for number in (1, 2):
        made = publish(tmp_path / "lake", make_release(key=f"key-{number}"))
        entry = log.read(made.store, "people")[number - 1]
        Signer.from_file(private).sign(made.store, "people", number, entry.to_bytes())
    return tmp_path / "lake"


def signature(lake: Path, name: str, key: Path | None = None) -> tuple[bool, str]:
    found = {check.name: check for check in verify(lake, name, key).checks}["signature"]
    return found.passed, found.detail


def test_a_signed_version_tells_whose_it_is(lake, tmp_path):
    assert signature(lake, "people@1", tmp_path / "mine.pub.pem")[0]
    assert signature(lake, "people@1")[1].endswith("proves whose key that is")
    _, other = keys(tmp_path, "other")
    passed, detail = signature(lake, "people@2", other)
    assert not passed
    assert "another key" in detail


def test_no_signature_is_no_failure_unless_one_is_asked_for(lake, tmp_path):
    shutil.rmtree(lake / "people" / "_signatures")
    report = verify(lake, "people@1")
    assert report.passed
    assert "signature" not in {check.name for check in report.checks}
    assert signature(lake, "people@1", tmp_path / "mine.pub.pem") == (
        False,
        "the version is not signed",
    )


def test_a_signature_belongs_to_its_version_and_every_bit_counts(lake):
    store = LocalStore(lake)
    one, two = (lake / signature_name("people", number) for number in (1, 2))
    first = one.read_bytes()
    one.unlink()
    one.write_bytes(two.read_bytes())
    assert not verify(lake, "people@1").passed
    for at in range(0, len(first), 7):
        flipped = bytearray(first)
        flipped[at] ^= 1 << at % 8
        one.write_bytes(bytes(flipped))
        assert not signature(lake, "people@1")[0], at
    one.write_bytes(first)
    assert verify(lake, "people@1").passed
    assert store.list("people/_signatures") == [signature_name("people", n) for n in (1, 2)]


def test_a_forged_history_is_not_signed_by_the_owner(lake, tmp_path, make_release):
    other = tmp_path / "elsewhere"
    publish(other, make_release(key="key-9"))
    shutil.copytree(lake / "people" / "_signatures", other / "people" / "_signatures")
    assert signature(other, "people@1", tmp_path / "mine.pub.pem")[0] is False


def test_signing_twice_changes_nothing(lake, tmp_path):
    name = signature_name("people", 1)
    before = (lake / name).read_bytes()
    private, _ = keys(tmp_path, "late")
    Signer.from_file(private).sign(LocalStore(lake), "people", 1, b"anything")
    assert (lake / name).read_bytes() == before


def test_what_is_no_ed25519_key_is_refused(tmp_path, monkeypatch):
    wrong = tmp_path / "ec.pem"
    key = ec.generate_private_key(ec.SECP256R1())
    wrong.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, PLAIN))
    monkeypatch.setenv(SIGNING_KEY, str(wrong))
    with pytest.raises(ParameterError, match="openssl genpkey"):
        Signer.from_environment()
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "none.pem"))
    with pytest.raises(ParameterError, match="openssl genpkey"):
        Signer.from_environment()
    with pytest.raises(ParameterError, match="--key must name"):
        verify(tmp_path, "people@1", wrong)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_the_commands_sign_and_check_with_keys_of_openssl(tmp_path, monkeypatch):
    import numpy as np
    import pandas as pd

    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
        ["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"],
    ):
        subprocess.run(["openssl", *command], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.setenv(SIGNING_KEY, str(tmp_path / "key.pem"))
    x, noise = np.random.default_rng(1).normal(size=(2, 1_200))
    frame = pd.DataFrame({"x": x.round(3), "y": (x + noise).round(3)})
    frame.to_csv(tmp_path / "toy.csv", index=False)
    options = ["--contract", "internal", "--generator", "forest"]
    for command in (["run", "toy.csv", *options], ["verify", "toy", "--key", "public.pem"]):
        done = likeness(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "signed by the given key" in done.stdout
