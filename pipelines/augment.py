"""Fresh rows for a day, from the newest published model: the same day gives the same rows.

What a day was made from (the version of the model, what was asked) is noted in the vault when it
is made, so that it is made again from that, though newer versions have come since.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from generators import load_generator
from generators.base import DataError, OnProgress, ParameterError, derive_seed
from generators.schema import Column, TableSchema
from validators import Comparison
from validators.base import Score

from . import steps
from .boundary import guarded
from .candidate import write_candidate
from .home import Home, canonical_json, whole_folder, write_text
from .order import Order
from .publication import log
from .publication.log import Published
from .publication.store import open_lake
from .release import Release, recall_release
from .spec import AugmentSpec, DatasetSpec, SampleSpec

SOURCE = "_likeness_source"
"""The column that tells real from synthetic rows where both are together."""


@dataclass(frozen=True)
class Day:
    """What was made for a day.

    Attributes:
        version: of the model's dataset.
        rows: synthetic rows.
        content_digest: of what was made; the same whenever the day is made again.
        uplift: what the rows add to the real ones.
        published: the version in the lake, of synthetic rows alone.
        folder: where real and synthetic rows lie together, in the vault.
    """

    dataset: str
    day: date
    version: int
    rows: int
    content_digest: str
    uplift: Score
    published: Published | None = None
    folder: Path | None = None


@guarded
def augment(spec: DatasetSpec, home: Home, day: date, progress: OnProgress | None = None) -> Day:
    """Make the rows of ``day``.

    Raises:
        ParameterError: the dataset declares no augmentation, or is no table.
        DataError: no version is published, its model is gone, or the day came out otherwise.
        QuarantinedError: a gate stopped the rows.
    """
    asked = spec.augment
    if asked is None:
        raise ParameterError(f"dataset {spec.name!r} declares no augment; add it to its YAML")
    note = _note(spec, home, day)
    before = _before(note, asked)
    version = int(before["version"]) if before else _newest(spec, home)
    release = _release(spec, home, asked, version, day)
    steps.fit(release, progress)
    if asked.mode == "synthetic":
        made = _published(release, version, day, progress)
    else:
        made = _together(release, version, day, progress)
    if before and before["content_digest"] != made.content_digest:
        raise DataError(
            f"{spec.name} of {day} must come out as before, {before['content_digest'][:19]}…, it "
            f"is {made.content_digest[:19]}…; other versions of the libraries may be the cause"
        )
    facts = {"version": version, "content_digest": made.content_digest, "asked": _asked(asked)}
    write_text(note, canonical_json({**facts, "uplift": asdict(made.uplift)}))
    return made


def _asked(asked: AugmentSpec) -> dict[str, Any]:
    """What decides the rows of a day."""
    return asked.model_dump(mode="json", exclude={"start", "cron", "catch_up"})


def _note(spec: DatasetSpec, home: Home, day: date) -> Path:
    return home.dataset_vault(spec.name) / "augmented" / f"{day.isoformat()}.json"


def _before(note: Path, asked: AugmentSpec) -> dict[str, Any] | None:
    """What the day was made from before, where the same was asked."""
    if not note.is_file():
        return None
    facts: dict[str, Any] = json.loads(note.read_text("utf-8"))
    return facts if facts["asked"] == _asked(asked) else None


def _newest(spec: DatasetSpec, home: Home) -> int:
    entry = log.newest(open_lake(home.lake), spec.name)
    if entry is None:
        raise DataError(
            f"rows are sampled from a published model, {spec.name!r} has no version that stands; "
            f"run `likeness run {spec.name}` first"
        )
    return entry.version


def _release(spec: DatasetSpec, home: Home, asked: AugmentSpec, version: int, day: date) -> Release:
    entry = log.read(open_lake(home.lake), spec.name)[version - 1]
    base, model = recall_release(home, spec.name, entry.key)
    order = Order(
        name=f"{spec.name}.augmented",
        description=f"Fresh rows of {day.isoformat()} from the model of {spec.name}@{version}.",
        sample=SampleSpec(
            rows=asked.rows or int(base.real.facts["rows"]["train"]),
            seed=derive_seed("augment", spec.name, version, day.isoformat()),
            where=asked.where,
            quotas=asked.quotas,
            parity=asked.parity,
        ),
        labels={"day": day.isoformat(), "model": f"{spec.name}@{version}"},
    )
    release = steps.prepare(base.spec, home, base.real, order)
    if release.model_folder.name != model.name:
        raise DataError(
            f"rows are sampled from the model of {spec.name}@{version}, which other code has made; "
            f"run `likeness run {spec.name}` for a version of this one"
        )
    return release


def _published(release: Release, version: int, day: date, progress: OnProgress | None) -> Day:
    sampled = steps.sample(release, progress)
    steps.score(release, progress)
    steps.decide(release)
    published = steps.publish(release)
    return Day(
        dataset=release.spec.name,
        day=day,
        version=version,
        rows=sampled.rows,
        content_digest=sampled.content_digest,
        uplift=_uplift(steps.comparison(release)),
        published=published,
    )


def _together(release: Release, version: int, day: date, progress: OnProgress | None) -> Day:
    """Real and synthetic rows as one table in the vault; nothing of it is published."""
    real, schema = release.real, release.real.schema
    train, holdout = real.train(), real.holdout()
    synthetic = steps.drawn(
        load_generator(release.model_folder, release.home.secret), release, progress
    )
    frames = (train, holdout, synthetic)
    if not isinstance(schema, TableSchema) or not all(isinstance(f, pd.DataFrame) for f in frames):
        raise ParameterError("augmentation is for tables, this dataset holds images")
    parts = [
        frame.assign(**{SOURCE: name})
        for name, frame in (("real", train), ("synthetic", synthetic))
        if isinstance(frame, pd.DataFrame)
    ]
    whole = pd.concat(parts, ignore_index=True)
    order = np.random.default_rng(release.seed).permutation(len(whole))
    tag = Column(SOURCE, "categorical", "object", levels=("real", "synthetic"))
    tagged = TableSchema((*schema.columns, tag), schema.target, schema.protected)
    folder = real.folder.parent.parent / "augmented" / f"{day.isoformat()}-{release.key[:16]}"
    mixed = whole.iloc[order].reset_index(drop=True)
    if not folder.is_dir():
        with whole_folder(folder) as stage:
            digest = write_candidate(stage, mixed, tagged, release.spec.name)
            (stage / "digest").write_text(digest, encoding="utf-8")
    return Day(
        dataset=release.spec.name,
        day=day,
        version=version,
        rows=len(synthetic),
        content_digest=(folder / "digest").read_text("utf-8"),
        uplift=_uplift(Comparison(synthetic, train, holdout, schema, release.spec.seed)),
        folder=folder,
    )


def _uplift(data: Comparison) -> Score:
    from threadpoolctl import threadpool_limits

    from validators.utility import uplift

    with threadpool_limits(limits=1, user_api="openmp"):
        return uplift(data)
