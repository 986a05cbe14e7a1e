"""A small release of every column kind, and one of images."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators.schema import Data, Images, ImageSchema, Schema, TableSchema
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import Origin, to_arrow, write_parquet
from pipelines.publication.publish import PublishRequest

MakeRelease = Callable[..., PublishRequest]


def make_frame(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    whole = pd.Series(rng.integers(0, 9, rows), dtype="Int64")
    whole[::7] = pd.NA
    amount = rng.normal(size=rows)
    amount[::11] = np.nan
    return pd.DataFrame(
        {
            "person_id": np.arange(rows) + 1,
            "amount": amount,
            "visits": whole,
            "sex": pd.Categorical(rng.choice(["f", "m"], rows), categories=["f", "m"]),
            "town": pd.Series(rng.choice(["Ulm", "Köln", None], rows), dtype=object),
            "insured": rng.random(rows) < 0.5,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 999, rows), "D"),
        }
    )


@pytest.fixture
def frame() -> pd.DataFrame:
    return make_frame()


@pytest.fixture
def images() -> tuple[Images, ImageSchema]:
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (30, 6, 5, 1), dtype=np.uint8)
    return Images(pixels, rng.integers(0, 3, 30)), ImageSchema(6, 5, 1, ("cat", "dog", "fox"))


def verdict_json(digest: str, *, passed: bool = True) -> str:
    def gate(name: str, dimension: str, value: float, **more: object) -> dict[str, object]:
        return {
            "gate": name,
            "dimension": dimension,
            "metric": name,
            "subject": "all",
            "severity": "critical",
            "status": "passed" if passed else "failed",
            "value": value,
            "low": value - 0.01,
            "high": value + 0.01,
            "reference": value / 2,
            "bound": "at most 0.2",
            "why": "because",
            "reason": "",
            **more,
        }

    return json.dumps(
        {
            "format": 1,
            "passed": passed,
            "contract": "standard",
            "contract_digest": "c" * 64,
            "candidate_digest": digest,
            "scorecard_digest": "d" * 64,
            "modality": "table",
            "generated": "2026-01-31T12:00:00+00:00",
            "gates": [
                gate("structure-rows", "structure", 0.0, low=0.0, high=0.0, reference=None),
                gate("fidelity-marginals", "fidelity", 0.0312),
                gate("utility-ratio", "utility", 0.11, severity="warning", status="failed"),
                gate("diversity-coverage", "diversity", 0.12),
                gate("privacy-membership", "privacy", 0.507),
                gate("bias-parity", "bias", 0.021),
            ],
        },
        indent=1,
    )


@pytest.fixture
def make_release(tmp_path: Path) -> MakeRelease:
    """A factory: data -> a request whose files lie in a folder of their own."""

    def make(
        data: Data | None = None,
        schema: Schema | None = None,
        *,
        dataset: str = "people",
        key: str = "key-1",
        folder: str = "work",
        verdict: str | None = None,
        facts: dict[str, object] | None = None,
    ) -> PublishRequest:
        data = make_frame() if data is None else data
        if schema is None:
            assert isinstance(data, pd.DataFrame)
            schema = TableSchema.infer(data, target="insured", protected=("sex",))
        work = tmp_path / folder
        work.mkdir(exist_ok=True)
        origin, classes = None, ()
        if isinstance(schema, ImageSchema):
            origin, classes = Origin(np.arange(len(data)), 10, "f" * 64), schema.classes
        table = to_arrow(data, schema, origin)
        digest = content_digest(table)
        parquet = work / "train.parquet"
        write_parquet(table, parquet, {"dataset": dataset, "content_digest": digest}, classes)
        (work / "verdict.json").write_text(verdict or verdict_json(digest))
        (work / "report.html").write_text("<!doctype html><title>Report</title>")
        return PublishRequest(
            dataset=dataset,
            key=key,
            files={
                "data/train-00000-of-00001.parquet": parquet,
                "reports/verdict.json": work / "verdict.json",
                "reports/report.html": work / "report.html",
            },
            schema=schema,
            rows=len(data),
            content_digest=digest,
            facts=facts
            or {"description": "Visits of people", "reproduce": {"generator": "forest"}},
            created_at="2026-01-31T12:00:00+00:00",
        )

    return make


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """A real server that speaks S3, on loopback; gives its URL."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; the environment knows how to reach it."""
    import urllib.request

    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    name = f"lake-{uuid.uuid4().hex[:12]}"
    made = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    urllib.request.urlopen(made).close()
    return f"s3://{name}"
