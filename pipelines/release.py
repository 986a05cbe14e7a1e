"""The record that travels beside the data: what a release is made from, and where its parts lie.

Every part is addressed by a digest of all that decides its content, so that a step that was done
is found again, a killed run goes on where it stopped, and two equal runs are one release.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file, save_file

from generators.base import DataError
from generators.schema import Data, Images, ImageSchema, Schema, TableSchema, schema_from_json

from .home import Home, canonical_json, write_text
from .order import Order
from .protection import Protection
from .protection.leaks import Sensitive
from .spec import DatasetSpec

# These fields describe a dataset to people; they do not change what is learned or decided.
_COSMETIC = {
    *("description", "license", "owners", "tags", "schedule", "citation", "source"),
    *("augment", "revalidate"),
}
_KEY_LENGTH = 16
PROTECTION = "protection.json"
SENSITIVE = "sensitive.json"
"""What protection removed, beside the real data in the vault."""


@dataclass(frozen=True)
class RealData:
    """Protected real data in the vault, split into train and holdout.

    Attributes:
        folder: where it lies.
        digest: of the data, its schema and its protection.
    """

    folder: Path
    digest: str

    @property
    def schema(self) -> Schema:
        """The schema, as inferred from train and declared by the owner."""
        return schema_from_json((self.folder / "schema.json").read_text(encoding="utf-8"))

    @property
    def facts(self) -> dict[str, Any]:
        """Row counts, notes on protection and the ingest checks; holds no cell."""
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text("utf-8"))
        return facts

    @property
    def protection(self) -> Protection | None:
        """What was done to a table's columns; nothing is remembered for images."""
        path = self.folder / PROTECTION
        return Protection.from_json(json.loads(path.read_text("utf-8"))) if path.is_file() else None

    @property
    def sensitive(self) -> Sensitive:
        """The values that protection removed: nothing published may hold one."""
        return Sensitive.read(self.folder / SENSITIVE)

    def train(self) -> Data:
        """The rows or images that generators may learn from."""
        return read_data(self.folder, "train", self.schema)

    def holdout(self) -> Data:
        """The rows or images that no generator sees."""
        return read_data(self.folder, "holdout", self.schema)


@dataclass(frozen=True)
class Release:
    """One likeness of one dataset: everything that decides its bytes, and its folders."""

    spec: DatasetSpec
    real: RealData
    generator: str
    contract_digest: str
    home: Home
    order: Order | None = None

    @property
    def name(self) -> str:
        """What the dataset is called in the lake."""
        return self.order.name if self.order else self.spec.name

    @property
    def seed(self) -> int:
        """The seed of the rows."""
        return self.order.sample.seed if self.order else self.spec.seed

    @property
    def rows(self) -> int:
        """How many rows or images are asked for, edge cases aside."""
        if self.order is not None:
            return self.order.sample.rows
        return self.spec.rows or int(self.real.facts["rows"]["train"])

    @property
    def judged_rows(self) -> int:
        """How many rows are judged: of the children of a parent, one."""
        kin = self.order.kin if self.order else None
        return kin.first if kin else self.rows

    @property
    def learned(self) -> Schema:
        """The schema of what is judged: the part of the real one that is published."""
        schema = self.real.schema
        if self.order is not None and isinstance(schema, TableSchema):
            return self.order.learned(schema)
        return schema

    @property
    def published(self) -> Schema:
        """The schema of what is published."""
        return self.order.published(self.real.schema) if self.order else self.real.schema

    @property
    def model_key(self) -> str:
        """Digest of all that decides the fitted model."""
        return _digest(
            {
                "real": self.real.digest,
                "generator": self.generator,
                "parameters": self.spec.generator.parameters,
                "seed": self.spec.seed,
                "code": code_digest(),
            }
        )

    @property
    def key(self) -> str:
        """Digest of all that decides the release: equal keys are the same publication."""
        decides = self.spec.model_dump(mode="json", exclude=_COSMETIC)
        whole = {"spec": decides, "model": self.model_key, "contract": self.contract_digest}
        if self.order is not None:
            whole["order"] = self.order.decides()
        return _digest(whole)

    @property
    def model_folder(self) -> Path:
        """The fitted generator, in the vault."""
        return self._vault / "models" / self.model_key[:_KEY_LENGTH]

    @property
    def checkpoint_file(self) -> Path:
        """The state of a training that has not ended, in the vault."""
        return self._vault / "checkpoints" / f"{self.model_key[:_KEY_LENGTH]}.safetensors"

    @property
    def candidate_folder(self) -> Path:
        """The sample before it is judged, in the vault."""
        return self._vault / "candidates" / self.key[:_KEY_LENGTH]

    @property
    def evidence_folder(self) -> Path:
        """Scorecard, verdict and report, in the vault until they are published."""
        return self._vault / "evidence" / self.key[:_KEY_LENGTH]

    @property
    def quarantine_folder(self) -> Path:
        """Where a candidate that failed a gate ends, with its report."""
        return self._vault / "quarantine" / self.key[:_KEY_LENGTH]

    def audit_file(self, canaries: int) -> Path:
        """The numbers of an audit with so many canaries, in the vault."""
        return self._vault / "audits" / f"{self._audited}-{canaries}.json"

    @property
    def audit_files(self) -> list[Path]:
        """Those of all audits that were made of this model, the one of most canaries last."""
        files = (self._vault / "audits").glob(f"{self._audited}-*.json")
        return sorted(files, key=lambda file: int(file.stem.rpartition("-")[2]))

    @property
    def _audited(self) -> str:
        """An audit is of a model, and of as many rows as the dataset publishes of it."""
        rows = self.spec.rows or self.real.facts["rows"]["train"]
        return f"{self.model_key[:_KEY_LENGTH]}-{rows}"

    @property
    def given(self) -> pd.DataFrame:
        """Of an order with parents, a row a child: the parent's key and attributes.

        Raises:
            DataError: the order has none, or the vault has lost them.
        """
        kin = self.order.kin if self.order else None
        path = given_file(self.home, self.spec, kin.digest) if kin else None
        if path is None or not path.is_file():
            raise DataError("rows of given parents need these, the vault has none; ask again")
        return pd.read_parquet(path)

    @property
    def _vault(self) -> Path:
        return self.home.dataset_vault(self.spec.name)


def given_file(home: Home, spec: DatasetSpec, digest: str) -> Path:
    """Where the parents of an order's rows lie."""
    return home.dataset_vault(spec.name) / "given" / f"{digest[:_KEY_LENGTH]}.parquet"


def remember_real(home: Home, spec: DatasetSpec, real: RealData) -> None:
    """Note which real data the following steps of this dataset's run work on."""
    pointer = home.dataset_vault(spec.name) / "real.json"
    write_text(pointer, canonical_json({"folder": real.folder.name, "digest": real.digest}))


def recall_real(home: Home, spec: DatasetSpec) -> RealData:
    """The real data that ``remember_real`` noted.

    Raises:
        DataError: nothing has been ingested yet.
    """
    vault = home.dataset_vault(spec.name)
    try:
        pointer = json.loads((vault / "real.json").read_text("utf-8"))
    except OSError:
        raise DataError(
            f"dataset {spec.name!r} must be ingested first, nothing of it is in the vault; "
            f"run `likeness run {spec.name}` or materialise its asset 'real'"
        ) from None
    return RealData(vault / "real" / pointer["folder"], pointer["digest"])


def remember_release(release: Release) -> None:
    """Note in the vault what ``release`` is made from, so that it can be made again."""
    note = {
        "spec": release.spec.model_dump(mode="json"),
        "real": {"folder": release.real.folder.name, "digest": release.real.digest},
        "generator": release.generator,
        "contract_digest": release.contract_digest,
        "model": release.model_folder.name,
        "order": release.order.model_dump(mode="json") if release.order else None,
    }
    write_text(_note(release.home, release.spec.name, release.key), canonical_json(note))


def recall_release(home: Home, dataset: str, key: str) -> tuple[Release, Path]:
    """The release that ``remember_release`` noted, and the folder of its model.

    Raises:
        DataError: the vault knows nothing of it.
    """
    vault = home.dataset_vault(dataset)
    try:
        note = json.loads(_note(home, dataset, key).read_text("utf-8"))
    except OSError:
        raise DataError(
            f"a release is made again from what its vault knows, {home.vault} knows nothing of "
            "this one; use the home that published it"
        ) from None
    real = RealData(vault / "real" / note["real"]["folder"], note["real"]["digest"])
    spec = DatasetSpec.model_validate(note["spec"])
    asked = note.get("order")
    order = Order.model_validate(asked) if asked else None
    release = Release(spec, real, note["generator"], note["contract_digest"], home, order)
    return release, vault / "models" / note["model"]


def _note(home: Home, dataset: str, key: str) -> Path:
    return home.dataset_vault(dataset) / "releases" / f"{key[:_KEY_LENGTH]}.json"


def write_data(folder: Path, name: str, data: Data) -> None:
    """Write a table as Parquet, images as safetensors."""
    if isinstance(data, Images):
        save_file(
            {"pixels": np.ascontiguousarray(data.pixels), "labels": data.labels},
            folder / f"{name}.safetensors",
        )
        if data.rows is not None:
            data.rows.to_parquet(folder / f"{name}.parquet", index=False)
    else:
        data.to_parquet(folder / f"{name}.parquet", index=False)


def read_data(folder: Path, name: str, schema: Schema) -> Data:
    """Read what ``write_data`` wrote, in the schema's dtypes."""
    if isinstance(schema, TableSchema):
        return as_schema(pd.read_parquet(folder / f"{name}.parquet"), schema)
    arrays = load_file(folder / f"{name}.safetensors")
    rows = None
    if isinstance(schema, ImageSchema) and schema.table is not None:
        rows = as_schema(pd.read_parquet(folder / f"{name}.parquet"), schema.table)
    return Images(arrays["pixels"], arrays["labels"], rows)


def as_schema(frame: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """The schema's columns of ``frame`` in its order and dtypes.

    Raises:
        DataError: a column is missing or does not fit its dtype.
    """
    missing = [name for name in schema.names if name not in frame.columns]
    if missing:
        raise DataError(f"the data must have the columns {missing}, it does not; add them")
    columns: dict[str, pd.Series] = {}
    for column in schema.columns:
        try:
            series = frame[column.name].astype(pd.api.types.pandas_dtype(column.dtype))
        except (TypeError, ValueError):
            raise DataError(
                f"column {column.name!r} must fit dtype {column.dtype}, it does not; convert it"
            ) from None
        if column.dtype == "object":
            series = pd.Series(
                [v if known else None for v, known in zip(series, series.notna(), strict=True)],
                dtype=object,
            )
        columns[column.name] = series.reset_index(drop=True)
    return pd.DataFrame(columns)


@cache
def code_digest() -> str:
    """Digest of the generators' source: a model is rebuilt only when its code has changed."""
    root = Path(__file__).resolve().parent.parent / "generators"
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
