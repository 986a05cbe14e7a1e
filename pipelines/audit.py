"""Audit a generator with canaries: train once more with planted records, and see who finds them.

The model and its sample live for the length of this call: nothing of them is kept or published. The
numbers are kept in the vault, beside the dataset that they are about, and stand on the reports of
the releases of that model from then on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from generators.base import OnProgress, ParameterError, derive_seed
from generators.schema import Data, Images, ImageSchema
from validators.base import Score, skipped
from validators.privacy.canaries import LIMIT, METRIC, CanaryAudit, audit_canaries, plant
from validators.statistics import Estimate

from .boundary import guarded
from .home import canonical_json, write_text
from .release import Release
from .steps import new_generator

_NOT_MADE = (
    "not tested: no audit was made of this model; `likeness audit`, given what `likeness run` was "
    "given, trains it once more with planted records"
)


@dataclass(frozen=True)
class AuditResult:
    """What an audit found.

    Attributes:
        found: the numbers.
        limit: on the lower bound of ε.
        path: where the result lies in the vault.
    """

    found: CanaryAudit
    limit: float
    path: Path

    @property
    def passed(self) -> bool:
        """Whether no ε beyond the limit is proven."""
        return self.found.epsilon.low <= self.limit


@guarded
def audit(
    release: Release, canaries: int = 1_000, progress: OnProgress | None = None
) -> AuditResult:
    """Train the release's generator on its train rows and half of the canaries, and bound ε.

    An audit that was done before is found again: equal inputs give equal numbers.

    Raises:
        ParameterError: the generator does not suit the data.
        DataError: the holdout is too small to give canaries.
    """
    path = release.audit_file(canaries)
    if not path.is_file():
        found = _measured(release, canaries, progress)
        facts = {
            "generator": release.generator,
            "model_key": release.model_key,
            "limit": LIMIT,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **asdict(found),
            "epsilon": found.epsilon._asdict(),
        }
        write_text(path, canonical_json(facts))
    return _read(path)


def audited(release: Release) -> AuditResult | None:
    """The audit of the release's model that planted most canaries; None where none was made."""
    files = release.audit_files
    return _read(files[-1]) if files else None


def audit_score(release: Release) -> Score:
    """What the scorecard says of it: the bound, or that nobody has tried."""
    result = audited(release)
    return skipped(METRIC, "privacy", _NOT_MADE) if result is None else result.found.score


def _read(path: Path) -> AuditResult:
    raw = json.loads(path.read_text("utf-8"))
    counts = {name: raw[name] for name in ("canaries", "inserted", "guesses", "correct")}
    found = CanaryAudit(**counts, epsilon=Estimate(**raw["epsilon"]))
    return AuditResult(found, raw["limit"], path)


def _measured(release: Release, count: int, progress: OnProgress | None) -> CanaryAudit:
    train, holdout, schema = release.real.train(), release.real.holdout(), release.real.schema
    rng = np.random.default_rng(derive_seed("canaries", release.model_key))
    rows = release.spec.rows or len(train)

    def sampled(data: Data) -> Data:
        generator = new_generator(release).fit(data, schema, progress=progress)
        return generator.sample(rows, seed=release.spec.seed, progress=progress)

    if isinstance(train, Images) and isinstance(holdout, Images):
        return _of_images(train, holdout, count, sampled, rng)
    if isinstance(train, Images) or isinstance(holdout, Images) or isinstance(schema, ImageSchema):
        raise ParameterError("an audit needs data of one kind; ingest them again")
    canaries, unseen = plant(train, holdout, schema, count, rng)
    inserted = rng.random(len(canaries)) < 0.5
    with_canaries = pd.concat([train, canaries[inserted]], ignore_index=True).astype(train.dtypes)
    # The canaries must not lie at the end, where some samplings of rows would treat them alike.
    mixed = with_canaries.iloc[rng.permutation(len(with_canaries))].reset_index(drop=True)
    synthetic = sampled(mixed)
    if not isinstance(synthetic, pd.DataFrame):
        raise ParameterError("an audit needs a generator of tables; choose another")
    return audit_canaries(synthetic, canaries, inserted, unseen, schema)


def _of_images(
    train: Images,
    holdout: Images,
    count: int,
    sampled: Callable[[Data], Data],
    rng: np.random.Generator,
) -> CanaryAudit:
    from validators.privacy.images import audit_image_canaries, plant_images

    canaries, unseen = plant_images(train, holdout, count, rng)
    inserted = rng.random(len(canaries)) < 0.5
    planted = canaries.take(np.flatnonzero(inserted))
    both = Images(
        np.concatenate([train.pixels, planted.pixels]),
        np.concatenate([train.labels, planted.labels]),
    )
    synthetic = sampled(both.take(rng.permutation(len(both))))
    if not isinstance(synthetic, Images):
        raise ParameterError("an audit of images needs a generator of images; choose another")
    return audit_image_canaries(synthetic, canaries, inserted, unseen)
