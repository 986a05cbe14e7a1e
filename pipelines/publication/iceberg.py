"""Published versions as snapshots of Apache Iceberg tables, for engines that read those.

The files stay where they are and as they are: Iceberg's metadata point at them. The log remains
the truth; what stands here can be made again from it at any time. A version is the snapshot with
the tag ``v3``; the table itself shows the newest version that stands.

The catalogue is pyiceberg's SQL catalogue: an SQLite file in the lake for a start, and Postgres
where several machines register (``postgresql+pg8000://``).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from generators.base import DataError, ParameterError

from . import log
from .catalogue import dataset_names
from .manifest import MANIFEST, Manifest
from .store import Lake, LocalStore, PublicationError, Store, check_dataset_name, open_lake

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.catalog.sql import SqlCatalog
    from pyiceberg.table import Table

CATALOGUE = "LIKENESS_ICEBERG"
"""The environment variable that holds the catalogue's URL: a password belongs there."""
NAMESPACE = "likeness"
# No dataset can be called so: its folder is not taken for one.
_FOLDER = ".iceberg"
_VERSION = "likeness.version"
# Each attempt that another process beats reads the table again.
_ATTEMPTS = 20


@dataclass(frozen=True)
class Registered:
    """A dataset's table.

    Attributes:
        dataset: its name; the table is ``likeness.<dataset>``.
        versions: that the table has as tags, ascending.
        current: that the table shows; None where all are retired, and there is no table.
        metadata: location of the table's metadata file, which can be read without a catalogue.
        problem: why the dataset has no table.
    """

    dataset: str
    versions: tuple[int, ...] = ()
    current: int | None = None
    metadata: str = ""
    problem: str = ""


def register(
    lake: Lake, datasets: Sequence[str] = (), catalogue: str | None = None
) -> list[Registered]:
    """Let the Iceberg catalogue show what the logs say; does nothing where it does already.

    Args:
        lake: the folder or URL that holds the datasets.
        datasets: names; all datasets of the lake without any.
        catalogue: SQLAlchemy URL; an SQLite file in the lake by default.

    Raises:
        ParameterError: pyiceberg is not installed, the URL is missing or of no database, or a name
            is malformed.
        PublicationError: the catalogue does not answer, or a log is damaged.
    """
    from sqlalchemy.exc import SQLAlchemyError

    # It warns of each column of images that has no statistics, as it must not.
    logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
    store = open_lake(lake)
    names = [check_dataset_name(name) for name in datasets] or dataset_names(store)
    opened = open_catalogue(lake, catalogue)
    try:
        return [_registered(store, opened, name) for name in names]
    except SQLAlchemyError as error:  # its message may quote the URL
        raise _silent(error) from None
    finally:
        opened.engine.dispose()


def open_catalogue(lake: Lake, url: str | None = None) -> SqlCatalog:
    """The lake's Iceberg catalogue, made where there is none.

    Raises:
        ParameterError: pyiceberg is not installed, or the URL is missing or of no database.
        PublicationError: the database does not answer.
    """
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        from pyiceberg.catalog.sql import SqlCatalog
    except ImportError:
        raise ParameterError(
            "Iceberg needs pyiceberg, it is not installed; pip install 'likeness[iceberg]'"
        ) from None
    store = open_lake(lake)
    warehouse = store.location(_FOLDER)
    if isinstance(store, LocalStore):
        place = store.path(_FOLDER)
        place.mkdir(parents=True, exist_ok=True)
        warehouse, url = place.as_uri(), url or f"sqlite:///{place / 'catalog.db'}"
    if not url:
        raise ParameterError(
            "the Iceberg catalogue of a lake in an object service needs a database; give its URL "
            f"with --catalog or ${CATALOGUE}"
        )
    try:
        opened = SqlCatalog(NAMESPACE, uri=url, warehouse=warehouse, **_service())
        opened.create_namespace_if_not_exists(NAMESPACE)
    except (ArgumentError, NoSuchModuleError, ImportError):
        raise ParameterError(
            "the catalogue must be a database as SQLAlchemy writes it (sqlite:///file.db, "
            "postgresql+pg8000://host/db) with its driver installed, it is not; check the URL"
        ) from None
    except SQLAlchemyError as error:  # its message quotes the URL
        raise _silent(error) from None
    return opened


def _silent(error: Exception) -> PublicationError:
    return PublicationError(
        f"the Iceberg catalogue's database must answer, it gave {type(error).__name__}; "
        "check the URL, the network and the rights"
    )


def _service() -> dict[str, str]:
    """What pyiceberg must be told to reach the object service that the environment names."""
    names = {
        "s3.endpoint": "AWS_ENDPOINT_URL",
        "s3.access-key-id": "AWS_ACCESS_KEY_ID",
        "s3.secret-access-key": "AWS_SECRET_ACCESS_KEY",
        "s3.session-token": "AWS_SESSION_TOKEN",
        "s3.region": "AWS_REGION",
    }
    return {key: os.environ[name] for key, name in names.items() if name in os.environ}


def _registered(store: Store, opened: SqlCatalog, name: str) -> Registered:
    from pyiceberg.exceptions import (
        CommitFailedException,
        NoSuchTableError,
        TableAlreadyExistsError,
        ValidationException,
    )

    faster = (
        CommitFailedException,
        NoSuchTableError,
        TableAlreadyExistsError,
        ValidationException,
    )
    entries = log.read(store, name)
    standing = [entry for entry in entries if log.tombstone(store, name, entry) is None]
    identifier = (NAMESPACE, name)
    if not standing:
        if opened.table_exists(identifier):
            opened.drop_table(identifier)
        problem = "all versions are retired" if entries else "nothing is published"
        return Registered(name, problem=problem)
    for _ in range(_ATTEMPTS):
        try:
            table = _table(store, opened, name, standing[0])
            for entry in standing:
                _add(store, table, name, entry)
            _show(table, standing)
        except faster:
            continue  # another process was: look again
        except DataError as error:
            return Registered(name, problem=str(error))
        versions = tuple(sorted(_tags(table)))
        return Registered(name, versions, versions[-1], table.metadata_location)
    raise PublicationError(
        f"the Iceberg table of {name!r} must come to rest, others changed it {_ATTEMPTS} times; "
        "register again"
    )


def _table(store: Store, opened: SqlCatalog, name: str, first: log.LogEntry) -> Table:
    identifier = (NAMESPACE, name)
    if opened.table_exists(identifier):
        return opened.load_table(identifier)
    folder = f"{name}/{first.snapshot}"
    return opened.create_table(
        identifier,
        _arrow_schema(store, folder, name),
        # A commit that another one beat is never put on top of it: both may add one version.
        properties={"likeness.synthetic": "true", "commit.retry.num-retries": "0"},
    )


def _add(store: Store, table: Table, name: str, entry: log.LogEntry) -> None:
    """Make a version a snapshot of the table with its tag, in one commit, where it is none yet."""
    from pyiceberg.exceptions import ValidationError
    from pyiceberg.expressions import AlwaysTrue
    from pyiceberg.table.update.snapshot import ManageSnapshots

    if entry.version in _tags(table):
        return
    folder = f"{name}/{entry.snapshot}"
    manifest = Manifest.from_bytes(store.get(f"{folder}/{MANIFEST}"))
    schema = _arrow_schema(store, folder, name)
    told = {
        _VERSION: str(entry.version),
        "likeness.content-digest": entry.content_digest,
        "likeness.manifest-sha256": entry.manifest_sha256,
    }
    files = [_url(store, f"{folder}/{file.path}") for file in manifest.data_files]
    try:
        with table.transaction() as change:
            with change.update_schema() as columns:
                columns.union_by_name(schema)
            if table.current_snapshot() is not None:
                change.delete(AlwaysTrue())
            change.add_files(files, snapshot_properties=told, check_duplicate_files=False)
            made = change.table_metadata.current_snapshot_id
            if made is not None:
                ManageSnapshots(change).create_tag(made, f"v{entry.version}").commit()
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"the versions of an Iceberg table must have columns that go together, those of "
            f"{name}@{entry.version} do not ({type(error).__name__}); publish them under another "
            "name, or retire the older versions"
        ) from None


def _show(table: Table, standing: Sequence[log.LogEntry]) -> None:
    """Let the table show the newest version, and keep no way to a retired one."""
    from pyiceberg.exceptions import CommitFailedException

    tags = _tags(table)
    wanted = tags[standing[-1].version]
    current = table.current_snapshot()
    if current is None or current.snapshot_id != wanted:
        table.manage_snapshots().set_current_snapshot(wanted).commit()
    kept = {entry.version for entry in standing}
    retired = [version for version in tags if version not in kept]
    for version in retired:
        table.manage_snapshots().remove_tag(f"v{version}").commit()
    # What a retired version and the steps between two versions leave: nobody can name it.
    named = {tags[version] for version in kept}
    nameless = [one.snapshot_id for one in table.snapshots() if one.snapshot_id not in named]
    try:
        if nameless:
            table.maintenance.expire_snapshots().by_ids(nameless).commit()
    except ValueError:  # another process has expired one of them
        raise CommitFailedException("expired meanwhile") from None


def _tags(table: Table) -> dict[int, int]:
    """Snapshot id by version."""
    tags = [name for name in table.refs() if name.startswith("v") and name[1:].isdigit()]
    return {int(name[1:]): table.refs()[name].snapshot_id for name in tags}


def _arrow_schema(store: Store, folder: str, name: str) -> pa.Schema:
    """The columns of a version as Iceberg can have them: all optional, so that later ones may be.

    Raises:
        DataError: Iceberg has no type for a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = Manifest.from_bytes(store.get(f"{folder}/{MANIFEST}"))
    with store.open(f"{folder}/{manifest.data_files[0].path}") as stream:
        found = pq.ParquetFile(stream).schema_arrow
    alien = [f"{field.name} ({field.type})" for field in found if not _known(field.type)]
    if alien:
        raise DataError(
            f"Iceberg has no type for some columns of {name!r}: {', '.join(alien)}; "
            "read its Parquet files instead"
        )
    return pa.schema([field.with_nullable(True).remove_metadata() for field in found])


def _known(kind: pa.DataType) -> bool:
    """Whether Iceberg (format 2) has a type that holds every value of ``kind``."""
    import pyarrow as pa

    if pa.types.is_timestamp(kind):
        return kind.tz in (None, "UTC", "+00:00")
    # pyiceberg takes uint32 and uint64, as signed ones of the same width.
    too_wide = pa.types.is_uint32(kind) or pa.types.is_uint64(kind)
    return not (too_wide or pa.types.is_duration(kind) or pa.types.is_null(kind))


def _url(store: Store, name: str) -> str:
    return store.path(name).as_uri() if isinstance(store, LocalStore) else store.location(name)
