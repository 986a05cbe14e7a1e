"""Iceberg's own reader over the published files, by SQLite, by a real Postgres, in a bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators.base import ParameterError
from generators.schema import TableSchema
from pipelines.publication.catalogue import dataset_names
from pipelines.publication.digest import content_digest
from pipelines.publication.iceberg import open_catalogue, register
from pipelines.publication.publish import publish
from pipelines.publication.retire import collect, retire
from pipelines.publication.store import LocalStore, PublicationError
from pipelines.publication.verify import verify

from ...postgres import postgres_server
from ...warm import likeness

pytest.importorskip("pyiceberg")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server."""
    with postgres_server(tmp_path_factory.mktemp("pg")) as uri:
        host = uri.rsplit("host=", 1)[1]
        yield f"postgresql+pg8000://postgres@/postgres?unix_sock={host}/.s.PGSQL.5432"


@pytest.fixture(params=["sqlite", "postgres"])
def catalogue(request: pytest.FixtureRequest) -> str | None:
    return None if request.param == "sqlite" else request.getfixturevalue("postgres")


def rows(
    lake: Path | str, catalogue: str | None, name: str = "people", tag: str = ""
) -> pd.DataFrame:
    opened = open_catalogue(lake, catalogue)
    scan = opened.load_table(("likeness", name)).scan()
    read = (scan.use_ref(tag) if tag else scan).to_arrow().to_pandas()
    opened.engine.dispose()
    return read


def written(lake: Path) -> dict[Path, tuple[int, int, int]]:
    """Which data files there are, and since when; that one was read changes nothing."""
    found = {path: path.stat() for path in lake.rglob("*.parquet")}
    return {path: (one.st_ino, one.st_size, one.st_mtime_ns) for path, one in found.items()}


def drop_all(lake: Path, catalogue: str | None) -> None:
    opened = open_catalogue(lake, catalogue)
    for identifier in opened.list_tables("likeness"):
        opened.drop_table(identifier)
    opened.engine.dispose()


def test_each_version_is_a_snapshot_of_the_files_as_they_are(
    make_release, frame, tmp_path, catalogue
):
    lake = tmp_path / "lake"
    drop_all(lake, catalogue)
    versions = []
    for number in range(3):
        changed = frame.assign(visits=frame["visits"] + number)
        release = make_release(changed, key=f"key-{number}", folder=f"work-{number}")
        versions.append(publish(lake, release))
    before = written(lake)
    (made,) = register(lake, catalogue=catalogue)
    assert (made.versions, made.current, made.problem) == ((1, 2, 3), 3, "")
    for number in range(3):
        read = rows(lake, catalogue, tag=f"v{number + 1}")
        assert read["person_id"].tolist() == frame["person_id"].tolist()
        wanted = (frame["visits"] + number).astype(float).to_numpy(na_value=np.nan)
        np.testing.assert_array_equal(read["visits"].astype(float), wanted)
    np.testing.assert_array_equal(rows(lake, catalogue)["visits"], read["visits"])
    assert register(lake, ["people"], catalogue) == [made], "nothing is done twice"
    assert written(lake) == before, "not a byte is copied"
    assert all(verify(lake, version.name).passed for version in versions)
    assert dataset_names(LocalStore(lake)) == ["people"]


def test_what_is_retired_goes_and_the_table_shows_what_stands(
    make_release, frame, tmp_path, catalogue
):
    lake = tmp_path / "lake"
    drop_all(lake, catalogue)
    for number in range(3):
        changed = frame.assign(person_id=frame["person_id"] + 1000 * number)
        publish(lake, make_release(changed, key=f"key-{number}", folder=f"work-{number}"))
    register(lake, catalogue=catalogue)
    retire(lake, "people@3", "wrong")
    retire(lake, "people@1", "wrong")
    collect(lake)
    (left,) = register(lake, catalogue=catalogue)
    assert (left.versions, left.current) == ((2,), 2)
    assert rows(lake, catalogue)["person_id"].min() == 1001
    opened = open_catalogue(lake, catalogue)
    table = opened.load_table("likeness.people")
    assert {int(one.summary["likeness.version"]) for one in table.snapshots()} == {2}
    retire(lake, "people@2", "wrong")
    assert [item.problem for item in register(lake, catalogue=catalogue)] == [
        "all versions are retired"
    ]
    assert not opened.table_exists("likeness.people")
    opened.engine.dispose()


def test_registered_at_once_each_version_is_there_once(make_release, tmp_path, catalogue):
    lake = tmp_path / "lake"
    drop_all(lake, catalogue)
    for number in range(2):
        publish(lake, make_release(key=f"key-{number}"))
    open_catalogue(lake, catalogue).engine.dispose()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: register(lake, catalogue=catalogue), range(4)))
    assert {answer[0].versions for answer in answers} == {(1, 2)}
    opened = open_catalogue(lake, catalogue)
    assert len(opened.load_table("likeness.people").snapshots()) == 2
    opened.engine.dispose()


def test_the_metadata_read_without_a_catalogue_and_columns_may_come_and_go(
    make_release, frame, tmp_path
):
    from pyiceberg.table import StaticTable

    lake = tmp_path / "lake"
    publish(lake, make_release(frame, key="a", folder="a"))
    wider = frame.drop(columns="amount").assign(height=frame["amount"].fillna(0))
    publish(lake, make_release(wider, key="b", folder="b"))
    (made,) = register(lake)
    table = StaticTable.from_metadata(made.metadata)
    assert table.scan().to_arrow().to_pandas()["height"].tolist() == wider["height"].tolist()
    old = table.scan().use_ref("v1").to_arrow().to_pandas()
    assert old["amount"].isna().sum() == frame["amount"].isna().sum()


def test_images_are_rows_with_their_bytes(make_release, images, tmp_path):
    made = publish(tmp_path / "lake", make_release(*images, dataset="pets"))
    register(tmp_path / "lake")
    read = rows(tmp_path / "lake", None, "pets")
    wanted = pd.read_parquet(made.path / "data")
    assert read["image"].tolist() == wanted["image"].tolist()


def test_types_that_iceberg_lacks_are_told_and_hide_no_other_dataset(make_release, frame, tmp_path):
    lake = tmp_path / "lake"
    alien = frame.assign(
        big=np.arange(200, dtype=np.uint64) + 2**63,
        since=frame["since"].dt.tz_localize("Europe/Berlin"),
    )
    publish(lake, make_release(alien, TableSchema.infer(alien), dataset="alien", folder="alien"))
    publish(lake, make_release())
    first, second = register(lake)
    assert "big (uint64)" in first.problem
    assert "since (timestamp[us, tz=Europe/Berlin])" in first.problem
    assert second.versions == (1,)
    assert content_digest(
        open_catalogue(lake).load_table("likeness.people").scan().to_arrow()
    ) == verify_digest(lake)


def verify_digest(lake: Path) -> str:
    from pipelines.publication.log import latest

    return latest(lake, "people").content_digest


def test_a_version_whose_columns_changed_their_type_is_refused(make_release, frame, tmp_path):
    lake = tmp_path / "lake"
    publish(lake, make_release(frame, key="a", folder="a"))
    other = frame.assign(person_id=frame["person_id"].astype(str))
    publish(lake, make_release(other, key="b", folder="b"))
    (item,) = register(lake)
    assert "people@2" in item.problem
    assert rows(lake, None, tag="v1")["person_id"].tolist() == frame["person_id"].tolist()


@pytest.mark.parametrize("url", ["nonsense", "oracle+none://x/y"])
def test_a_url_of_no_database_is_one_clear_error(make_release, tmp_path, url):
    publish(tmp_path / "lake", make_release())
    with pytest.raises(ParameterError, match="SQLAlchemy"):
        register(tmp_path / "lake", catalogue=url)


def test_a_database_that_does_not_answer_is_told_without_its_password(make_release, tmp_path):
    publish(tmp_path / "lake", make_release())
    url = "postgresql+pg8000://someone:hush-hush@127.0.0.1:9/none"
    with pytest.raises(PublicationError, match="must answer") as caught:
        register(tmp_path / "lake", catalogue=url)
    assert "hush" not in str(caught.value)


def test_a_lake_in_a_bucket_needs_a_database_and_is_read_there(bucket, make_release, postgres):
    lake = f"{bucket}/lake"
    publish(lake, make_release())
    with pytest.raises(ParameterError, match="needs a database"):
        register(lake)
    drop_all(lake, postgres)
    (made,) = register(lake, catalogue=postgres)
    assert made.metadata.startswith(f"{lake}/.iceberg/")
    assert len(rows(lake, postgres)) == 200
    assert verify(lake, "people").passed


def test_the_command_registers_and_tells(make_release, tmp_path):
    publish(tmp_path / "home/lake", make_release())
    done = likeness("iceberg", "--home", tmp_path / "home", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (told,) = json.loads(done.stdout)["iceberg"]
    assert (told["table"], told["shows"], told["tags"]) == ("likeness.people", "people@1", "v1")
