"""Compare the newest real data with what the published model has learned from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from generators.base import DataError
from generators.schema import TableSchema
from validators import Comparison
from validators.base import Score

from .boundary import guarded
from .home import Home, canonical_json, write_text
from .ingest import protected_like
from .publication import log
from .publication.store import open_lake
from .release import recall_release
from .sources import RawTable, read_source
from .spec import DatasetSpec


@dataclass(frozen=True)
class Revalidation:
    """How the newest real data differ from those that a published model has learned.

    Attributes:
        version: of the published dataset.
        rows: of the newest data that were compared.
        proven: whether drift beyond the tolerance is proven.
        sentence: the answer in words; columns and numbers, no value.
        detection: AUC between old and new rows.
        columns: distance of each column, largest first.
    """

    dataset: str
    version: int
    rows: int
    proven: bool
    sentence: str
    detection: Score
    columns: tuple[Score, ...]


@guarded
def revalidate(spec: DatasetSpec, home: Home) -> Revalidation:
    """Read the source anew and compare it with the train rows of the newest published version.

    The new rows are protected as those were, so that a category that protection has removed then
    counts as the same one now. Rows that are in both, as in a table that only grows, make the
    answer cautious. What was found is noted in the vault, for ``wants_retraining``.

    Raises:
        DataError: nothing is published, columns are gone or hold something else, or too few rows.
    """
    from threadpoolctl import threadpool_limits

    from validators.drift import drift

    entry = log.newest(open_lake(home.lake), spec.name)
    if entry is None:
        raise DataError(
            f"the newest data are compared with those of a published version, {spec.name!r} has "
            f"none that stands; run `likeness run {spec.name}` first"
        )
    base, _ = recall_release(home, spec.name, entry.key)
    raw, old, schema = (
        read_source(base.spec.source, home.vault),
        base.real.train(),
        base.real.schema,
    )
    if (
        not isinstance(raw, RawTable)
        or not isinstance(old, pd.DataFrame)
        or not isinstance(schema, TableSchema)
    ):
        raise DataError("drift is measured of tables, this dataset holds images")
    new = protected_like(raw, base.spec, base.real)
    with threadpool_limits(limits=1, user_api="openmp"):
        found = drift(Comparison(new, old, new, schema, base.spec.seed))
    result = Revalidation(
        dataset=spec.name,
        version=entry.version,
        rows=len(new),
        proven=found.proven,
        sentence=found.sentence if found.detection.skipped is None else found.detection.skipped,
        detection=found.detection,
        columns=found.columns,
    )
    note = {**asdict(result), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_text(_note(home, spec.name), canonical_json(note))
    return result


def wants_retraining(spec: DatasetSpec, home: Home) -> str | None:
    """A key for the retraining that proven drift asks for, or None where nothing does.

    The newest version must still be the one that was compared: a release since then answers it.
    """
    try:
        note: dict[str, Any] = json.loads(_note(home, spec.name).read_text("utf-8"))
    except OSError:
        return None
    entry = log.newest(open_lake(home.lake), spec.name)
    if not note["proven"] or entry is None or entry.version != note["version"]:
        return None
    return f"{spec.name}@{entry.version} {note['at']}"


def _note(home: Home, dataset: str) -> Path:
    return home.dataset_vault(dataset) / "drift.json"
