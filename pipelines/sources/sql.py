"""Tables of a database, through SQLAlchemy, fetched in parts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from generators.base import DataError, ParameterError

from .reservoir import Reservoir
from .tables import check_names

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

_PART = 65_536
_ISO = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)?$"


def read_sql(url: str, table: str | None, query: str | None, keep: Reservoir) -> pa.Table:
    """The rows of a table or of a query.

    Args:
        url: of SQLAlchemy, e.g. ``sqlite:///shop.db``; ``env:NAME`` takes it from the environment,
            which is where a password belongs.
        table: its name, with its schema before a dot where it has one.
        query: a SELECT statement, instead of a table.
        keep: takes the rows.

    Raises:
        DataError: the database does not answer, or a column has values of several types.
        ParameterError: there is not exactly one of ``table`` and ``query``, or no driver.
    """
    if (table is None) == (query is None):
        raise ParameterError("an sql source needs one of table and query; set source.table")
    with _connected(_resolved(url)) as connection:
        names, parts = _rows(connection, table, query)
        check_names(names)
        schema: pa.Schema | None = None
        for rows in parts:
            batch = _to_table(names, rows, schema)
            if schema is not None and batch.schema != schema:
                batch, schema = _widened(batch, schema, keep)
            schema = schema or batch.schema
            keep.add(batch)
    if schema is None:
        raise DataError("a table needs rows, this one has none; give data")
    return _with_dates(keep.table(schema))


def _with_dates(table: pa.Table) -> pa.Table:
    """ISO dates that are kept as text, as SQLite keeps all dates, become timestamps."""
    for at, field in enumerate(table.schema):
        if not pa.types.is_string(field.type):
            continue
        present = table.column(at).drop_null()
        if len(present) and pc.all(pc.match_substring_regex(present, _ISO)).as_py():
            with suppress(pa.ArrowInvalid):
                stamps = table.column(at).cast(pa.timestamp("us"))
                table = table.set_column(at, field.name, stamps)
    return table


def _resolved(url: str) -> str:
    scheme, _, name = url.partition(":")
    if scheme != "env":
        return url
    if name not in os.environ:
        raise ParameterError(f"source.url names the environment variable {name}, it is not set")
    return os.environ[name]


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        engine: Engine = create_engine(url, hide_parameters=True)
    except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
        kind = type(error).__name__
        raise ParameterError(
            f"source.url must be one that SQLAlchemy knows and has a driver for, it is not ({kind})"
            "; e.g. sqlite:///shop.db, or postgresql+pg8000://user@host/db after pip install pg8000"
        ) from None
    if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
        raise DataError("the SQLite file must exist, it does not; check source.url")
    try:
        with engine.connect() as connection:
            yield connection.execution_options(stream_results=True, yield_per=_PART)
    except SQLAlchemyError as error:
        kind = type(error).__name__
    except OSError as error:
        kind = type(error).__name__
    else:
        return
    finally:
        engine.dispose()
    raise DataError(
        f"the database must answer, it gave {kind}; check source.url, the table and the rights"
    )


def _rows(
    connection: Connection, table: str | None, query: str | None
) -> tuple[list[str], Iterator[Any]]:
    import sqlalchemy as sa

    if table is not None:
        schema, _, name = table.rpartition(".")
        # Quoted by SQLAlchemy: a name is never part of the statement's text.
        found = sa.table(sa.quoted_name(name, quote=True), schema=schema or None)
        result = connection.execute(sa.select(sa.text("*")).select_from(found))
    else:
        result = connection.execute(sa.text(query or ""))
    return [str(name) for name in result.keys()], iter(result.partitions(_PART))  # noqa: SIM118


def _to_table(names: list[str], rows: Any, schema: pa.Schema | None) -> pa.Table:  # noqa: ANN401
    columns = list(zip(*rows, strict=True))
    arrays = []
    for name, values in zip(names, columns, strict=True):
        known = schema.field(name).type if schema is not None else None
        arrays.append(_to_array(name, values, known))
    return pa.table(dict(zip(names, arrays, strict=True)))


def _to_array(name: str, values: tuple[Any, ...], known: pa.DataType | None) -> pa.Array:
    for kind in (known, None):
        try:
            return pa.array(values, type=kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
            continue
    numbers = all(value is None or isinstance(value, int | float) for value in values)
    if numbers:
        return pa.array([None if value is None else float(value) for value in values])
    types = ", ".join(sorted({type(value).__name__ for value in values if value is not None}))
    raise DataError(
        f"column {name!r} must have values of one type that a table can hold, it has {types}; "
        "cast it in a query"
    )


def _widened(batch: pa.Table, schema: pa.Schema, keep: Reservoir) -> tuple[pa.Table, pa.Schema]:
    """Bring a part and what is kept to one schema: nulls first, then integers become floats."""
    try:
        wide = pa.unify_schemas([schema, batch.schema], promote_options="permissive")
        keep.cast(wide)
        return batch.cast(wide), wide
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        changed = [f.name for f in schema if batch.schema.field(f.name).type != f.type]
        raise DataError(
            "a column must have one type in all rows, these have not: "
            f"{', '.join(repr(name) for name in changed)}; cast them in a query"
        ) from None
