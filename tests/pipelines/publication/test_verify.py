from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from generators.base import ParameterError
from pipelines.publication.log import LogEntry, read_log
from pipelines.publication.publish import publish
from pipelines.publication.store import PublicationError
from pipelines.publication.verify import verify


@pytest.fixture
def lake(make_release, tmp_path) -> Path:
    publish(tmp_path / "lake", make_release())
    publish(tmp_path / "lake", make_release(key="key-2"))
    return tmp_path / "lake"


def failed(lake: Path, name: str = "people@2") -> set[str]:
    return {check.name for check in verify(lake, name).checks if not check.passed}


def damage(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(data)


def test_a_whole_version_passes_every_check(lake):
    report = verify(lake, "people@1")
    assert report.passed
    assert report.name == "people@1"
    assert [check.name for check in report.checks] == [
        "log",
        "latest",
        "manifest",
        "files",
        "bytes",
        "pages",
        "content",
        "verdict",
    ]
    assert verify(lake, "people").name == "people@2"


def test_a_flipped_byte_is_found_in_every_file(lake):
    rng = np.random.default_rng(0)
    snapshot = next(iter((lake / "people/snapshots").iterdir()))
    files = [path for path in (lake / "people").rglob("*") if path.is_file()]
    other = {path for path in files if path.is_relative_to(lake / "people/snapshots")}
    assert len(files) == 2 * 9 + 3
    for path in files:
        # A file of the other version is none of this version's business.
        name = "people@1" if path not in other or self_of(lake, path) == 1 else "people@2"
        whole = path.read_bytes()
        for at in {0, len(whole) - 1, *rng.integers(0, len(whole), 12).tolist()}:
            flipped = bytearray(whole)
            flipped[at] ^= 1 << int(rng.integers(0, 8))
            damage(path, bytes(flipped))
            assert not verify(lake, name).passed, (path, at)
        damage(path, whole)
    assert verify(lake, "people@1").passed
    assert snapshot.is_dir()


def self_of(lake: Path, path: Path) -> int:
    folders = [entry.snapshot.split("/")[1] for entry in read_log(lake, "people")]
    return folders.index(path.relative_to(lake / "people/snapshots").parts[0]) + 1


def test_every_byte_of_a_log_entry_counts(lake):
    path = lake / "people/_log/00000002.json"
    whole = path.read_bytes()
    for at in range(len(whole)):
        damage(path, whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert failed(lake) == {"log"}, at


def test_missing_and_unknown_files_are_found(lake, make_release):
    snapshot = publish(lake, make_release(key="key-2")).path
    (snapshot / "data/extra.parquet").write_bytes(b"")
    assert failed(lake) == {"files"}
    (snapshot / "data/extra.parquet").unlink()
    for hidden in ("data/.tmp-hidden", "data/.hidden"):
        (snapshot / hidden).write_bytes(b"")
        assert failed(lake) == {"files"}
        (snapshot / hidden).unlink()
    (snapshot / "linked").symlink_to(lake)
    assert failed(lake) == {"files"}
    (snapshot / "linked").unlink()
    data = snapshot / "data/train-00000-of-00001.parquet"
    data.rename(lake.parent / "outside.parquet")
    data.symlink_to(lake.parent / "outside.parquet")
    assert failed(lake) == {"bytes", "pages", "content"}
    data.unlink()
    (lake.parent / "outside.parquet").rename(data)
    (snapshot / "README.md").unlink()
    assert failed(lake) == {"files", "bytes"}
    (snapshot / "manifest.json").unlink()
    assert failed(lake) == {"manifest"}
    shutil.rmtree(snapshot)
    assert failed(lake) == {"manifest"}
    assert verify(lake, "people@1").passed


def test_a_cut_or_reordered_log_is_found(lake):
    first, second = sorted((lake / "people/_log").iterdir())
    bytes_of_first, bytes_of_second = first.read_bytes(), second.read_bytes()
    damage(first, bytes_of_second)
    damage(second, bytes_of_first)
    assert failed(lake, "people@1") == {"log"}
    damage(first, bytes_of_first)
    damage(second, bytes_of_first)
    assert failed(lake, "people@1") == {"log"}
    first.unlink()
    assert failed(lake, "people@1") == {"log"}


def test_a_forged_entry_breaks_the_chain(lake):
    first = lake / "people/_log/00000001.json"
    entry = LogEntry.model_validate_json(first.read_bytes())
    forged = entry.model_copy(update={"at": "2020-01-01T00:00:00.000000Z"})
    forged = forged.model_copy(update={"sha256": forged.self_digest()})
    damage(first, forged.to_bytes())
    assert failed(lake, "people@2") == {"log"}


def test_a_stale_short_cut_is_told_and_a_false_one_fails(lake):
    pointer = lake / "people/latest.json"
    newest = pointer.read_bytes()
    damage(pointer, newest.replace(b'"version": 2', b'"version": 1'))
    assert failed(lake) == {"latest"}
    pointer.unlink()
    assert failed(lake) == set()


def test_unknown_names_are_errors(lake):
    with pytest.raises(PublicationError):
        verify(lake, "people@9")
    with pytest.raises(PublicationError):
        verify(lake, "nobody")
    with pytest.raises(ParameterError):
        verify(lake, "../people")
