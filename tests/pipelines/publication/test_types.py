"""A published table has the types of its source: dates stay dates, decimals decimals."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from generators import GENERATORS
from generators.base import SchemaError
from generators.schema import TableSchema, schema_from_json
from pipelines.ingest import split_and_protect
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import to_arrow, write_parquet
from pipelines.publication.read import read_published
from pipelines.sources.tables import RawTable, read_parquet
from pipelines.spec import DatasetSpec

N = 600
TYPES = {
    "day": pa.date32(),
    "at": pa.timestamp("us", "Europe/Berlin"),
    "opened": pa.time64("us"),
    "took": pa.duration("us"),
    "amount": pa.decimal128(12, 2),
    "pieces": pa.int8(),
    "weight": pa.float32(),
    "rating": pa.int16(),
    "account": pa.decimal128(18, 0),
    "plain": pa.int64(),
    "shop": pa.string(),
}


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(3)
    start = dt.datetime(2022, 1, 3)
    moments = [start + dt.timedelta(seconds=int(s)) for s in rng.integers(0, 6 * 10**7, N)]
    zoned = pa.array(moments, pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    table = pa.table(
        {
            "day": pa.array([moment.date() for moment in moments]),
            "at": zoned.cast(TYPES["at"]),
            "opened": pa.array([moment.time() for moment in moments]),
            "took": pa.array(rng.integers(60, 9_000, N)).cast(pa.duration("s")),
            "amount": pa.array(
                [Decimal(int(c)).scaleb(-2) for c in rng.integers(99, 90_000, N)]
            ).cast(TYPES["amount"]),
            "pieces": pa.array(rng.integers(1, 100, N), pa.int8()),
            "weight": pa.array(rng.gamma(2, 2, N), pa.float32()),
            "rating": pa.array(
                [None if x < 0.2 else int(5 * x) for x in rng.random(N)], pa.int16()
            ),
            "account": pa.array([Decimal(int(c)) for c in rng.integers(0, 30, N)]).cast(
                TYPES["account"]
            ),
            "plain": pa.array(rng.integers(0, 10**6, N)),
            "shop": pa.array(rng.choice(["north", "south"], N)).dictionary_encode(),
        }
    )
    path = tmp_path_factory.mktemp("orders") / "orders.parquet"
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def schema(orders: Path) -> TableSchema:
    raw = read_parquet(orders)
    assert isinstance(raw, RawTable)
    source = {"kind": "parquet", "path": str(orders)}
    spec = DatasetSpec.model_validate({"name": "orders", "source": source})
    found = split_and_protect(raw, spec).schema
    again = schema_from_json(found.to_json())
    assert isinstance(again, TableSchema)
    assert again == found
    return again


@pytest.fixture(scope="module")
def drawn(orders: Path, schema: TableSchema) -> pd.DataFrame:
    raw = read_parquet(orders)
    assert isinstance(raw, RawTable)
    model = GENERATORS["forest"].from_parameters({}).fit(raw.frame, TableSchema.infer(raw.frame))
    frame = model.sample(400, seed=1)
    assert isinstance(frame, pd.DataFrame)
    return frame


def test_samples_are_published_in_the_types_of_the_source(
    drawn: pd.DataFrame, schema: TableSchema, tmp_path: Path
) -> None:
    table = to_arrow(drawn, schema)
    assert {field.name: field.type for field in table.schema} == TYPES
    write_parquet(table, tmp_path / "a.parquet", {})
    stored = pq.read_table(tmp_path / "a.parquet")
    assert {field.name: field.type for field in stored.schema} == TYPES
    assert content_digest(stored) == content_digest(table)
    sliced = pa.concat_tables([table.slice(0, 7), table.slice(7)])
    assert content_digest(sliced) == content_digest(table)
    back = read_published([tmp_path / "a.parquet"], schema)
    for name in drawn.columns:
        cents = drawn[name].astype("float32") if name == "weight" else drawn[name]
        pd.testing.assert_series_equal(back[name], cents.astype(drawn[name].dtype))


def test_another_decimal_is_another_content(drawn: pd.DataFrame, schema: TableSchema) -> None:
    other = drawn.copy()
    other.loc[5, "amount"] += 0.01
    assert content_digest(to_arrow(other, schema)) != content_digest(to_arrow(drawn, schema))


def test_what_does_not_fit_the_type_is_refused_without_naming_it(
    drawn: pd.DataFrame, schema: TableSchema
) -> None:
    with pytest.raises(SchemaError, match="'pieces' must hold int8") as caught:
        to_arrow(drawn.assign(pieces=31_337), schema)
    assert "31337" not in str(caught.value)


def test_readers_see_the_types(drawn: pd.DataFrame, schema: TableSchema, tmp_path: Path) -> None:
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    datasets = pytest.importorskip("datasets")
    path = tmp_path / "a.parquet"
    write_parquet(to_arrow(drawn, schema), path, {})
    described = duckdb.sql(f"describe select * from '{path}'").fetchall()
    assert {name: kind for name, kind, *_ in described} | {"took": ""} == {
        "day": "DATE",
        "at": "TIMESTAMP WITH TIME ZONE",
        "opened": "TIME",
        "took": "",
        "amount": "DECIMAL(12,2)",
        "pieces": "TINYINT",
        "weight": "FLOAT",
        "rating": "SMALLINT",
        "account": "DECIMAL(18,0)",
        "plain": "BIGINT",
        "shop": "VARCHAR",
    }
    frame = polars.read_parquet(path)
    assert frame.schema["day"] == polars.Date
    assert frame.schema["amount"] == polars.Decimal(12, 2)
    assert frame.schema["took"] == polars.Duration("us")
    loaded = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    assert loaded.features["day"].dtype == "date32"
    assert loaded[0]["amount"] == to_arrow(drawn, schema)["amount"][0].as_py()
