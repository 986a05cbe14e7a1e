from __future__ import annotations

import io
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from generators.base import ParameterError
from pipelines.publication.objects import ObjectStore
from pipelines.publication.store import (
    LocalStore,
    MemoryStore,
    PublicationError,
    Store,
    check_dataset_name,
    check_name,
)


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "s3":
        return ObjectStore(f"{request.getfixturevalue('bucket')}/{uuid.uuid4().hex}")
    return LocalStore(tmp_path / "root") if request.param == "local" else MemoryStore()


def test_what_is_put_can_be_got_and_replaced(store):
    store.put("a/b.json", b"one")
    store.put("a/b.json", b"two")
    assert store.get("a/b.json") == b"two"
    assert store.exists("a/b.json")
    assert store.exists("a")
    assert store.list("a") == ["a/b.json"]
    assert store.list("nothing") == []
    with pytest.raises(FileNotFoundError):
        store.get("a/c.json")
    store.delete("a")
    assert not store.exists("a/b.json")
    store.delete("a")


def test_put_if_absent_never_replaces(store):
    assert store.put_if_absent("log/1", b"mine")
    assert not store.put_if_absent("log/1", b"yours")
    assert store.get("log/1") == b"mine"
    assert store.list("log") == ["log/1"]


def test_of_many_writers_one_wins_each_name(store):
    with ThreadPoolExecutor(8) as pool:
        for name in range(20):
            answers = list(
                pool.map(lambda i, n=name: store.put_if_absent(f"log/{n}", b"%d" % i), range(8))
            )
            assert answers.count(True) == 1
            assert store.get(f"log/{name}") == b"%d" % answers.index(True)


def test_a_folder_moves_as_a_whole_and_only_once(store):
    for place in ("stage1", "stage2"):
        store.add(f"{place}/x.txt", io.BytesIO(place.encode()))
        store.add(f"{place}/deep/y.txt", io.BytesIO(b"y"))
    assert store.move("stage1", "final/one")
    assert not store.move("stage2", "final/one")
    assert store.list("final") == ["final/one/deep/y.txt", "final/one/x.txt"]
    assert store.get("final/one/x.txt") == b"stage1"
    assert store.list("stage1") == []
    assert store.exists("stage2")
    store.touch("final/one")
    store.fsync("final")


@pytest.mark.parametrize(
    "name", ["", "..", "a/../b", "/etc/passwd", "a//b", "./a", "a\\b", "a b", "a\n", "x" * 256, "ä"]
)
def test_names_stay_inside(store, name):
    with pytest.raises(ParameterError):
        store.put(name, b"")
    with pytest.raises(ParameterError):
        check_name(name)


@pytest.mark.parametrize(
    "name", ["", "Adult", "_x", ".x", "a/b", "x" * 64, "index.html", "con", "nul.txt", "a.", "a\n"]
)
def test_datasets_have_plain_names(name):
    with pytest.raises(ParameterError, match="dataset"):
        check_dataset_name(name)


@pytest.mark.parametrize("name", ["a", "adult-2.1_x", "0", "x" * 63, "console"])
def test_plain_names_are_taken(name):
    assert check_dataset_name(name) == name


def test_a_link_does_not_lead_out_of_the_root(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    (tmp_path / "root" / "way").symlink_to(tmp_path / "outside")
    store = LocalStore(tmp_path / "root")
    with pytest.raises(ParameterError, match="leads out"):
        store.get("way/secret")


def test_files_are_read_only(tmp_path):
    store = LocalStore(tmp_path)
    store.put("a/x", b"1")
    assert (tmp_path / "a" / "x").stat().st_mode & 0o777 == 0o444


def test_everything_is_synced_before_it_gets_its_name(tmp_path):
    """No rename or link of data, and no name, that a power cut could take back."""
    steps: list[tuple[str, str]] = []

    class Recording(LocalStore):
        def _write(self, path, source):
            super()._write(path, source)
            steps.append(("write", path.name))

        def _link(self, source, target):
            super()._link(source, target)
            steps.append(("link", target.name))

        def _rename(self, source, target):
            super()._rename(source, target)
            steps.append(("rename", target.name))

        def _fsync(self, folder):
            super()._fsync(folder)
            steps.append(("fsync", folder.name))

    store = Recording(tmp_path)
    store.add("stage/deep/x", io.BytesIO(b"x"))
    store.move("stage", "final")
    at = steps.index(("rename", "final"))
    assert {("fsync", "stage"), ("fsync", "deep")} <= set(steps[:at])
    assert ("fsync", tmp_path.name) in steps[at:]
    steps.clear()
    store.put_if_absent("log/1", b"x")
    assert [step for step, _ in steps][-3:] == ["write", "link", "fsync"]
    assert steps[-1] == ("fsync", "log")
    steps.clear()
    store.put("latest", b"x")
    assert [step for step, _ in steps] == ["write", "rename", "fsync"]


def test_a_stream_of_an_object_is_a_file(bucket):
    store = ObjectStore(f"{bucket}/streams")
    whole = bytes(range(256)) * 20_000
    store.add("a/b.bin", io.BytesIO(whole))
    with store.open("a/b.bin") as stream:
        assert stream.read(3) == whole[:3]
        assert stream.seek(-5, io.SEEK_END) == len(whole) - 5
        assert stream.read() == whole[-5:]
        stream.seek(300)
        assert stream.tell() == 300
        assert stream.read(2_000_000) == whole[300:2_000_300]


def test_half_a_move_is_finished_by_the_next(bucket):
    store = ObjectStore(f"{bucket}/{uuid.uuid4().hex}")
    for place in ("stage1", "stage2", "half"):
        store.add(f"{place}/data.bin", io.BytesIO(b"data"))
    store.add("stage1/manifest.json", io.BytesIO(b"{}"))
    store.add("stage2/manifest.json", io.BytesIO(b"{}"))
    assert store.move("stage1", "half")
    assert not store.move("stage2", "half")
    assert store.list("half") == ["half/data.bin", "half/manifest.json"]


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/lake", "s3://bucket?key=x", "gopher://a"])
def test_urls_with_secrets_or_of_no_service_are_refused(url):
    with pytest.raises(ParameterError) as caught:
        ObjectStore(url)
    assert "secret" not in str(caught.value)


def test_a_service_that_refuses_is_told_without_its_words(bucket, monkeypatch):
    missing = ObjectStore(bucket.replace("lake-", "no-such-"))
    with pytest.raises(PublicationError, match="must answer"):
        missing.put("a/b", b"1")
