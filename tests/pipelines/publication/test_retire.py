from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from generators.base import ParameterError
from pipelines.cli import main
from pipelines.publication import log
from pipelines.publication.catalogue import write_catalogue
from pipelines.publication.publish import publish
from pipelines.publication.retire import collect, retire
from pipelines.publication.store import LocalStore, PublicationError
from pipelines.publication.tombstone import tombstone_name
from pipelines.publication.verify import verify


@pytest.fixture
def lake(make_release, tmp_path) -> Path:
    publish(tmp_path / "lake", make_release())
    publish(tmp_path / "lake", make_release(key="key-2"))
    return tmp_path / "lake"


def age(path: Path, hours: float) -> None:
    at = time.time() - hours * 3600
    os.utime(path, (at, at))


def test_a_retired_version_is_not_the_newest_and_keeps_its_number(lake, make_release):
    retire(lake, "people@2", "wrong licence")
    assert log.latest(lake, "people").version == 1
    assert json.loads((lake / "people/latest.json").read_bytes())["version"] == 1
    assert publish(lake, make_release(key="key-3")).version == 3
    assert log.resolve(lake, "people@2").version == 2


def test_when_all_are_retired_there_is_no_latest(lake):
    for version in (1, 2):
        retire(lake, f"people@{version}", "withdrawn")
    assert not (lake / "people/latest.json").exists()
    with pytest.raises(PublicationError, match="not retired, all are"):
        log.latest(lake, "people")
    assert "All versions are retired." in Path(write_catalogue(lake)).read_text()


def test_the_list_of_datasets_names_the_newest_that_stands(make_release, tmp_path, capsys):
    def listed() -> str:
        main(["datasets", "--home", str(tmp_path), "--json"], standalone_mode=False)
        rows = json.loads(capsys.readouterr().out)["datasets"]
        return next(row["published"] for row in rows if row["dataset"] == "randhie")

    assert listed() == "not yet"
    for key in ("key-1", "key-2"):
        publish(tmp_path / "lake", make_release(dataset="randhie", key=key))
    assert listed() == "version 2"
    retire(tmp_path / "lake", "randhie@2", "withdrawn")
    assert listed() == "version 1"
    retire(tmp_path / "lake", "randhie@1", "withdrawn")
    assert listed() == "all retired"


def test_a_second_retirement_returns_the_first(lake):
    first = retire(lake, "people@1", "first reason")
    assert retire(lake, "people@1", "second reason") == first


def test_a_retired_release_is_not_published_again(lake, make_release):
    retire(lake, "people@1", "withdrawn")
    with pytest.raises(PublicationError, match="was version 1"):
        publish(lake, make_release())
    assert len(log.read_log(lake, "people")) == 2


@pytest.mark.parametrize("name", ["people", "people@9", "nobody@1", "people@x"])
def test_one_existing_version_must_be_named(lake, name):
    with pytest.raises((ParameterError, PublicationError)):
        retire(lake, name, "withdrawn")


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_a_reason_is_one_short_line(lake, reason):
    with pytest.raises(ParameterError, match="one line"):
        retire(lake, "people@1", reason)
    assert verify(lake, "people@1").passed


def test_verify_knows_tombstones_before_and_after_collection(lake):
    retire(lake, "people@1", "wrong licence")
    checks = {check.name: check for check in verify(lake, "people@1").checks}
    assert "wrong licence; its files are there" in checks["tombstone"].detail
    assert "bytes" in checks
    collect(lake)
    report = verify(lake, "people@1")
    assert report.passed
    assert [check.name for check in report.checks] == ["log", "latest", "tombstone"]
    assert verify(lake, "people@2").passed


def test_every_byte_of_a_tombstone_counts(lake):
    retire(lake, "people@1", "wrong licence")
    path = lake / tombstone_name("people", 1)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.unlink()
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        failed = {check.name for check in verify(lake, "people@1").checks if not check.passed}
        assert failed == {"tombstone"}, at


def test_the_tombstone_of_one_version_does_not_retire_another(lake):
    retire(lake, "people@1", "withdrawn")
    (lake / tombstone_name("people", 1)).rename(lake / tombstone_name("people", 2))
    assert not verify(lake, "people@2").passed
    with pytest.raises(PublicationError, match="tombstone"):
        collect(lake)
    assert all(
        (lake / "people" / entry.snapshot).is_dir() for entry in log.read_log(lake, "people")
    )


def test_a_dry_run_tells_what_a_run_removes_and_removes_nothing(lake):
    retire(lake, "people@1", "withdrawn")
    before = sorted(lake.rglob("*"))
    told = collect(lake, dry_run=True)
    assert sorted(lake.rglob("*")) == before
    assert [item.why for item in told] == ["retired"]
    size = sum(path.stat().st_size for path in (lake / told[0].name).rglob("*") if path.is_file())
    assert told[0].bytes == size
    assert collect(lake) == told
    assert not (lake / told[0].name).exists()
    assert collect(lake) == []


def test_what_a_crash_left_goes_when_it_is_old_and_only_then(lake):
    orphan, staging = lake / "people/snapshots/0123", lake / "people/.staging/abc"
    temporary = lake / "people/_log/.tmp-1"
    for folder in (orphan, staging):
        folder.mkdir(parents=True)
        (folder / "half").write_bytes(b"half")
    temporary.write_bytes(b"half")
    assert collect(lake) == []
    for path in (orphan, staging, temporary):
        age(path, 25)
    assert {item.why for item in collect(lake)} == {"never committed", "unfinished"}
    assert not any(path.exists() for path in (orphan, staging, temporary))
    assert verify(lake, "people@1").passed
    assert verify(lake, "people@2").passed


def test_a_snapshot_whose_publisher_comes_back_is_not_taken(lake, monkeypatch):
    orphan = lake / "people/snapshots/0123"
    orphan.mkdir()
    age(orphan, 25)
    rename = Path.rename

    def taken_up_first(path: Path, target: Path) -> Path:
        if path == orphan:
            LocalStore(lake).touch("people/snapshots/0123")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", taken_up_first)
    assert collect(lake) == []
    assert orphan.is_dir()


def test_the_commands(lake, capsys):
    home = ["--home", str(lake.parent), "--json"]

    def run(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as done:
            main([*arguments, *home])
        return int(done.value.code or 0), capsys.readouterr().out

    assert run("retire", "people@1", "--reason", "wrong licence")[0] == 0
    code, out = run("gc", "--dry-run")
    assert (code, len(json.loads(out)["removed"])) == (0, 1)
    assert json.loads(run("gc")[1])["removed"] == json.loads(out)["removed"]
    assert json.loads(run("gc")[1])["removed"] == []
    assert run("verify", "people@1")[0] == 0
    assert run("retire", "people", "--reason", "x")[0] == 2
