from __future__ import annotations

import dataclasses
import json
import re
import shutil
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
import yaml

from generators.base import ParameterError
from pipelines.publication import log
from pipelines.publication.digest import content_digest
from pipelines.publication.log import latest, read_log, resolve
from pipelines.publication.parquet import to_arrow
from pipelines.publication.publish import (
    PublishRequest,
    commit,
    find_placed,
    place,
    publish,
    publish_to,
)
from pipelines.publication.retire import retire
from pipelines.publication.store import LocalStore, MemoryStore, PublicationError
from pipelines.publication.verify import verify

# Digests, and moments to the microsecond, in which any four digits may stand.
BY_CHANCE = re.compile(rb"[0-9a-f]{16,}|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+")
# Publishes in forked children that kill themselves with SIGKILL before their k-th step on disk, or
# in the middle of it where it is a write; the parent forks only, so the children start clean.
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from generators.schema import schema_from_json
from pipelines.publication import card
from pipelines.publication.publish import PublishRequest, publish, publish_to
from pipelines.publication.store import LocalStore


class Killed(LocalStore):
    def __init__(self, root, step, torn):
        super().__init__(root)
        self.left, self.torn = step, torn

    def die_here(self, counts=True):
        self.left -= counts
        return self.left < 0

    def _write(self, path, source):
        if self.die_here():
            if self.torn:
                data = source.read()
                path.write_bytes(data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super()._write(path, source)


def killing(name):
    def step(self, *args):
        if self.die_here(counts=not self.torn):
            os.kill(os.getpid(), signal.SIGKILL)
        return getattr(LocalStore, name)(self, *args)
    return step


for name in ("_mkdir", "_link", "_rename", "_unlink", "_fsync"):
    setattr(Killed, name, killing(name))


def request(raw):
    files = {name: Path(path) for name, path in raw.pop("files").items()}
    return PublishRequest(**raw | {"files": files, "schema": schema_from_json(raw["schema"])})


def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid


def died(pid):
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


base, releases, mode = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), sys.argv[3]
requests = [request(raw) for raw in releases]
card.template("README.md.j2")  # compiled once for all children
kills = 0
if mode == "every step":
    for torn in (False, True):
        step = 0
        while True:
            lake = base / f"{step}-{torn}"
            attempt = child(lambda: publish_to(Killed(lake, step, torn), requests[0]))
            if not died(attempt):
                break
            kills += 1
            assert not died(child(lambda: publish(lake, requests[step % 2])))
            step += 1
else:
    seeds = iter(range(0, 3000, 7))
    for _ in range(6):
        crowd = [
            child(lambda r=r, s=s: publish_to(Killed(base, s % 41, False), r))
            for r, s in zip(requests, seeds)
        ]
        kills += sum([died(pid) for pid in crowd])
    last = [child(lambda r=r: publish(base, r)) for r in requests]
    assert not any([died(pid) for pid in last])
print(kills)
"""


def run_script(folder: Path, releases: list[PublishRequest], mode: str) -> int:
    described = [
        {
            **{field.name: getattr(release, field.name) for field in dataclasses.fields(release)},
            "files": {name: str(path) for name, path in release.files.items()},
            "schema": release.schema.to_json(),
        }
        for release in releases
    ]
    (folder / "releases.json").write_text(json.dumps(described))
    command = [sys.executable, "-c", SCRIPT, folder / "lakes", folder / "releases.json", mode]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def assert_whole(lake: Path, dataset: str, versions: int) -> None:
    entries = read_log(lake, dataset)
    assert [entry.version for entry in entries] == list(range(1, versions + 1))
    assert len({entry.key for entry in entries}) == versions
    for entry in entries:
        report = verify(lake, f"{dataset}@{entry.version}")
        assert report.passed, report
    assert (lake / dataset / "latest.json").read_bytes() == log.latest_bytes(entries[-1])


def test_a_publisher_killed_at_any_step_and_run_again_publishes_once(make_release, tmp_path):
    release = make_release()
    # The next attempt may have another time, and so another manifest and another folder.
    again = dataclasses.replace(release, created_at="2026-02-01T00:00:00+00:00")
    kills = run_script(tmp_path, [release, again], "every step")
    lakes = sorted((tmp_path / "lakes").iterdir())
    assert kills > 40
    assert len(lakes) == kills + 2
    for lake in lakes:
        assert_whole(lake, "people", 1)


def test_a_storm_of_killed_publishers_publishes_each_key_once(make_release, tmp_path):
    base = make_release()
    releases = [
        dataclasses.replace(base, key=f"key-{i % 6}", created_at=f"2026-01-31T12:00:{i:02}Z")
        for i in range(12)
    ]
    kills = run_script(tmp_path, releases, "storm")
    assert kills > 15
    assert_whole(tmp_path / "lakes", "people", 6)


def test_a_version_can_be_read_and_verified(make_release, tmp_path):
    release = make_release()
    version = publish(tmp_path / "lake", release)
    assert (version.name, version.existing) == ("people@1", False)
    assert version.content_digest == release.content_digest
    assert verify(tmp_path / "lake", "people@1").passed
    assert resolve(tmp_path / "lake", "people") == dataclasses.replace(version, existing=True)
    pointer = json.loads((tmp_path / "lake/people/latest.json").read_text())
    assert tmp_path / "lake/people" / pointer["path"] == version.path
    for path in version.path.rglob("*"):
        assert path.is_dir() or stat.S_IMODE(path.stat().st_mode) == 0o444


def test_every_reader_reads_a_published_folder(make_release, tmp_path):
    release = make_release()
    data = publish(tmp_path / "lake", release).path / "data"
    tables = {
        "pandas": to_arrow(pd.read_parquet(data), release.schema),
        "polars": pl.read_parquet(f"{data}/*.parquet").to_arrow(),
        "duckdb": duckdb.sql(f"from '{data}/*.parquet'").to_arrow_table(),
    }
    for name, table in tables.items():
        assert content_digest(table) == release.content_digest, name


def test_a_key_is_published_once(make_release, tmp_path):
    first = publish(tmp_path / "lake", make_release())
    again = publish(tmp_path / "lake", make_release())
    assert again == dataclasses.replace(first, existing=True)
    other = publish(tmp_path / "lake", make_release(key="key-2"))
    assert (other.version, other.existing) == (2, False)
    assert latest(tmp_path / "lake", "people").version == 2
    assert_whole(tmp_path / "lake", "people", 2)


def test_what_is_placed_is_seen_with_its_commit_only(make_release, tmp_path):
    lake = tmp_path / "lake"
    store, release = LocalStore(lake), make_release()
    placed = place(store, release)
    assert read_log(lake, "people") == []
    assert not (lake / "people" / "latest.json").exists()
    # Another process makes the version, which knows of it what the log is to say.
    found = find_placed(store, "people", placed.commit)
    assert found is not None
    entry, existing = commit(store, found)
    assert (entry.key, entry.version, existing) == ("key-1", 1, False)
    assert verify(lake, "people@1").passed
    assert commit(store, placed) == (entry, True)
    assert publish(lake, release).existing
    retire(lake, "people@1", "wrong")
    assert find_placed(store, "people", placed.commit) is None


@pytest.mark.parametrize("damage", [None, "README.md", "data/train-00000-of-00001.parquet"])
def test_what_was_placed_and_is_not_whole_is_not_found(make_release, tmp_path, damage):
    store = LocalStore(tmp_path / "lake")
    placed = place(store, make_release())
    folder = store.path(f"people/{placed.commit.snapshot}")
    if damage is None:
        shutil.rmtree(folder)
    else:
        (folder / damage).chmod(0o644)
        (folder / damage).write_bytes(b"other")
    assert find_placed(store, "people", placed.commit) is None


def test_publishers_at_once_agree(make_release, tmp_path):
    base = make_release()
    releases = [
        dataclasses.replace(base, key=f"key-{i % 3}", created_at=f"2026-01-31T12:00:0{i}+00:00")
        for i in range(9)
    ]
    gate = threading.Barrier(len(releases))

    def one(release: PublishRequest):
        gate.wait()
        return publish(tmp_path / "lake", release)

    with ThreadPoolExecutor(len(releases)) as pool:
        versions = list(pool.map(one, releases))
    assert sum(not version.existing for version in versions) == 3
    assert len({version.version for version in versions}) == 3
    assert_whole(tmp_path / "lake", "people", 3)
    snapshots = list((tmp_path / "lake/people/snapshots").iterdir())
    assert len(snapshots) == 3, "what lost the race is removed"
    assert not list((tmp_path / "lake/people/.staging").iterdir())


def test_a_known_key_needs_no_files(make_release, tmp_path):
    release = make_release()
    first = publish(tmp_path / "lake", release)
    for path in release.files.values():
        path.unlink()
    assert publish(tmp_path / "lake", release) == dataclasses.replace(first, existing=True)


def test_a_rival_at_any_reading_of_the_log_does_not_double_a_key(make_release):
    release = make_release()
    rivals = [
        dataclasses.replace(release, created_at="2026-02-01T00:00:00Z"),
        dataclasses.replace(release, key="key-2"),
    ]

    class Raced(MemoryStore):
        """Lets the rivals publish right after one listing of the log was taken."""

        def __init__(self, at: int) -> None:
            super().__init__()
            self.left = at

        def list(self, folder: str) -> list[str]:
            names = super().list(folder)
            self.left -= folder.endswith("_log")
            if self.left == 0:
                self.left = -1
                for rival in rivals:
                    publish_to(self, rival)
            return names

    for at in range(1, 6):
        store = Raced(at)
        publish_to(store, release)
        store.left = -1
        entries = log.read(store, "people")
        assert len(entries) == len({entry.key for entry in entries}), at
        assert store.get("people/latest.json") == log.latest_bytes(entries[-1])


def test_the_same_release_has_the_same_manifest_anywhere(make_release, tmp_path):
    one = publish(tmp_path / "a", make_release())
    other = publish(tmp_path / "b", make_release(folder="elsewhere"))
    assert one.manifest_sha256 == other.manifest_sha256
    assert publish_to(MemoryStore(), make_release())[0].manifest_sha256 == one.manifest_sha256


def test_without_a_passed_verdict_on_these_rows_nothing_is_published(make_release, tmp_path, frame):
    good = make_release()
    passed = json.loads(good.files["reports/verdict.json"].read_text())
    bad = {
        "does not say passed": passed | {"passed": False},
        "other content": passed | {"candidate_digest": "v1:0"},
        "critical gate": passed | {"gates": [passed["gates"][0] | {"status": "failed"}]},
        "cannot be read": [],
    }
    for reason, verdict in bad.items():
        release = make_release(verdict=json.dumps(verdict))
        with pytest.raises(PublicationError, match=reason):
            publish(tmp_path / "lake", release)
    other = make_release(frame[:50], folder="other", verdict=json.dumps(passed))
    with pytest.raises(PublicationError, match="other content"):
        publish(tmp_path / "lake", other)
    with pytest.raises(PublicationError, match="not the rows"):
        publish(tmp_path / "lake", dataclasses.replace(make_release(), rows=7))
    with pytest.raises(PublicationError, match="another verdict"):
        publish(tmp_path / "lake", make_release(facts={"gates": {"passed": True}}))
    assert read_log(tmp_path / "lake", "people") == []
    assert not (tmp_path / "lake/people/latest.json").exists()


def test_a_disk_that_damages_a_file_publishes_nothing(make_release, tmp_path):
    class Bad(LocalStore):
        def _rename(self, source: Path, target: Path) -> None:
            super()._rename(source, target)
            for data in target.glob("reports/report.html"):
                data.chmod(0o644)
                data.write_bytes(b"?" + data.read_bytes()[1:])

    with pytest.raises(PublicationError, match=r"damaged: reports/report\.html"):
        publish_to(Bad(tmp_path / "lake"), make_release())
    assert read_log(tmp_path / "lake", "people") == []
    assert publish(tmp_path / "lake", make_release()).version == 1


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "../people"},
        {"key": ""},
        {"created_at": "2026-01-31T12:00:00"},
        {"created_at": "yesterday"},
        {"files": {}},
    ],
)
def test_a_malformed_request_is_refused(make_release, change):
    with pytest.raises(ParameterError):
        dataclasses.replace(make_release(), **change)


@pytest.mark.parametrize("name", ["data/x.parquet", "manifest.json", "../x", "data/deep/y"])
def test_files_with_bad_names_are_refused(make_release, tmp_path, name):
    release = make_release()
    with pytest.raises(ParameterError):
        dataclasses.replace(release, files={**release.files, name: tmp_path})


def test_unknown_facts_are_refused(make_release, tmp_path):
    with pytest.raises(ParameterError, match="sauce"):
        publish(tmp_path / "lake", make_release(facts={"sauce": "x"}))


def test_versions_are_named_by_number(make_release, tmp_path):
    publish(tmp_path / "lake", make_release())
    for name in ("people@2", "people@0", "nobody"):
        with pytest.raises(PublicationError):
            resolve(tmp_path / "lake", name)
    for name in ("people@", "people@x", "people@²"):
        with pytest.raises(ParameterError):
            resolve(tmp_path / "lake", name)


def test_a_damaged_log_is_not_continued(make_release, tmp_path):
    publish(tmp_path / "lake", make_release())
    publish(tmp_path / "lake", make_release(key="key-2"))
    (tmp_path / "lake/people/_log/00000001.json").unlink()
    with pytest.raises(PublicationError, match="chain"):
        publish(tmp_path / "lake", make_release(key="key-3"))


def test_images_are_published_like_tables(make_release, images, tmp_path):
    version = publish(tmp_path / "lake", make_release(*images, dataset="digits"))
    assert verify(tmp_path / "lake", "digits").passed
    manifest = version.manifest()
    names = ["id", "label", "label_name", "seed", "nfe", "model", "image"]
    assert [column.name for column in manifest.columns] == names
    assert manifest.kind == "image"


def test_the_card_tells_machines_and_people(make_release, tmp_path):
    facts = {
        "title": "People | *visits*",
        "description": "<script>alert(1)</script>",
        "license": "Proprietary-X",
        "reproduce": {"generator": "forest", "seed": 7},
        "protection": ["ages above 90 joined"],
        "citation": "A. Author",
        "owners": ["team:data"],
    }
    text = (publish(tmp_path / "lake", make_release(facts=facts)).path / "README.md").read_text()
    _, header, body = text.split("---\n", 2)
    meta = yaml.safe_load(header)
    assert meta["license"] == "other"
    assert meta["license_name"] == "proprietary-x"
    assert "synthetic" in meta["tags"]
    assert meta["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert meta["dataset_info"]["splits"][0]["num_examples"] == 200
    types = {f["name"]: f["dtype"] for f in meta["dataset_info"]["features"]}
    assert types["since"] == "timestamp[us]"
    assert "<script>" not in body
    for part in ("0.0312", "[0.0212, 0.0412\\]", "⚠ warning", "forest", "likeness verify people"):
        assert part in body
    assert "evidence" in body
    assert "is anonymous" not in body


def test_no_level_or_range_of_the_data_reaches_manifest_or_card(make_release, tmp_path, frame):
    canary = "Zyxwvut"
    frame = frame.assign(town=frame["town"].replace("Ulm", canary), amount=frame["amount"] + 98765)
    version = publish(tmp_path / "lake", make_release(frame))
    for path in [*version.path.glob("*.*"), *version.path.parents[1].glob("_log/*")]:
        # schema.json tells the categories that the published rows show, and only those.
        assert path.name == "schema.json" or canary.encode() not in path.read_bytes()
        assert not re.search(rb"9,?876", BY_CHANCE.sub(b"", path.read_bytes()))
