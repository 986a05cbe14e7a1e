"""A lake in an object service: the same protocol and commands, over a real S3 server."""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipelines.publication import log
from pipelines.publication.catalogue import PAGE, write_catalogue
from pipelines.publication.objects import ObjectStore
from pipelines.publication.publish import publish, publish_to
from pipelines.publication.retire import collect, retire
from pipelines.publication.store import PublicationError
from pipelines.publication.verify import verify

from ...warm import likeness


def test_a_version_lives_and_ends_in_a_bucket(bucket, make_release):
    lake = f"{bucket}/lake"
    made = publish(lake, make_release())
    assert not made.existing
    assert made.location.startswith(f"{lake}/people/snapshots/")
    assert publish(lake, make_release()).existing
    report = verify(lake, "people@1")
    assert report.passed, report
    with pytest.raises(PublicationError, match=lake):
        _ = made.path
    publish(lake, make_release(key="key-2"))
    page = write_catalogue(lake)
    assert page == f"{lake}/{PAGE}"
    assert b"people" in ObjectStore(lake).get(PAGE)
    retire(lake, "people@1", "a mistake")
    assert log.standing(lake, "people") == "version 2"
    assert [found.why for found in collect(lake, dry_run=True)] == ["retired"]
    collect(lake)
    assert not ObjectStore(lake).exists(made.folder)
    assert verify(lake, "people@1").passed
    assert verify(lake, "people@2").passed


def test_damage_in_a_bucket_is_found(bucket, make_release):
    lake = f"{bucket}/lake"
    made = publish(lake, make_release())
    store = ObjectStore(lake)
    for name in store.list(made.folder):
        whole = store.get(name)
        store.put(name, whole[:-1] + bytes([whole[-1] ^ 4]))
        assert not verify(lake, "people").passed, name
        store.put(name, whole)
    assert verify(lake, "people").passed


def test_eight_publishers_at_once_lose_nothing_and_double_nothing(bucket, make_release):
    lake = f"{bucket}/lake"
    keys = [f"key-{number % 5}" for number in range(8)]
    releases = [make_release(key=key, folder=f"work-{at}") for at, key in enumerate(keys)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda release: publish_to(ObjectStore(lake), release), releases))
    entries = log.read_log(lake, "people")
    assert sorted(entry.key for entry in entries) == sorted(set(keys))
    assert [entry.version for entry in entries] == [1, 2, 3, 4, 5]
    assert {entry.key: entry.version for entry, _ in answers} == {e.key: e.version for e in entries}
    assert sum(not existing for _, existing in answers) == 5
    for entry in entries:
        assert verify(lake, f"people@{entry.version}").passed
    assert not ObjectStore(lake).list("people/.staging")


@pytest.mark.parametrize("step", range(1, 40, 4))
def test_a_publisher_that_dies_at_any_call_and_comes_again_publishes_once(
    bucket, make_release, monkeypatch, step
):
    lake, calls = f"{bucket}/lake", 0

    class Dying(ObjectStore):
        pass

    def mortal(name: str) -> None:
        living = getattr(ObjectStore, name)

        def call(self, *arguments):
            nonlocal calls
            calls += 1
            if calls == step:
                raise SystemExit(9)
            return living(self, *arguments)

        monkeypatch.setattr(Dying, name, call, raising=False)

    for name in ("put", "put_if_absent", "add", "move", "delete"):
        mortal(name)
    try:
        publish_to(Dying(lake), make_release())
    except SystemExit:
        calls = -(10**6)
        publish_to(ObjectStore(lake), make_release())
    assert [entry.key for entry in log.read_log(lake, "people")] == ["key-1"]
    assert verify(lake, "people").passed


def test_the_commands_work_on_a_bucket(bucket, tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=1_200)
    frame = pd.DataFrame({"x": x.round(3), "y": (x + rng.normal(size=1_200)).round(3)})
    frame.to_csv(tmp_path / "toy.csv", index=False)
    monkeypatch.setenv("LIKENESS_LAKE", f"{bucket}/lake")

    options = ["--contract", "internal", "--generator", "forest", "--json"]
    done = likeness("run", "toy.csv", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["published"]["path"].startswith(f"{bucket}/lake/toy/snapshots/")
    assert Path(facts["report"]).is_file()
    assert likeness("verify", "toy", "--rebuild", cwd=tmp_path).returncode == 0
    assert likeness("retire", "toy@1", "--reason", "test", cwd=tmp_path).returncode == 0
    assert log.standing(f"{bucket}/lake", "toy") == "all retired"
    assert not list((tmp_path / "likeness_home").glob("lake/*"))


def test_the_printed_lines_read_a_bucket(bucket, make_release, s3_server):
    import pyarrow.fs as fs
    import pyarrow.parquet as pq

    made = publish(f"{bucket}/lake", make_release())
    service = fs.S3FileSystem(
        endpoint_override=s3_server, access_key="testing", secret_key="testing"
    )
    table = pq.read_table(f"{made.location.removeprefix('s3://')}/data", filesystem=service)
    assert len(table) == 200
    with ObjectStore(f"{bucket}/lake").open(f"{made.folder}/manifest.json") as stream:
        assert json.load(io.TextIOWrapper(stream))["rows"] == 200
