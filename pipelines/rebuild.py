"""A published version made again from its model and seed, to the same content."""

from __future__ import annotations

import json
from typing import Any

from generators import GENERATORS, load_generator
from generators.base import DataError, Generator, OnProgress
from generators.persistence import model_digest

from .boundary import guarded
from .candidate import origin_of
from .home import Home
from .publication import log
from .publication.digest import content_digest
from .publication.manifest import Manifest
from .publication.parquet import to_arrow
from .publication.verify import Check
from .release import Release, recall_release
from .steps import drawn, versions


@guarded
def rebuild(home: Home, name: str, progress: OnProgress | None = None) -> Check:
    """Sample the model of a published version again and compare the content digest.

    Args:
        home: the one whose vault holds the model and the real data.
        name: ``adult`` or ``adult@3``.
        progress: told of the sampling.

    Raises:
        PublicationError: there is no such version, or its files are removed.
    """
    published = log.resolve(home.lake, name)
    try:
        manifest = published.manifest()
        release, generator = _model(home, manifest, progress)
    except (OSError, DataError) as error:
        told = str(error) if isinstance(error, DataError) else "its manifest cannot be read"
        return Check("rebuild", False, told)
    facts: dict[str, Any] = dict(manifest.reproduce)
    data = drawn(generator, release, progress)
    origin = origin_of(generator, len(data), release.seed, facts["model_digest"])
    made = content_digest(to_arrow(data, release.published, origin))
    if made == published.content_digest:
        return Check("rebuild", True, f"model and seed give the same {facts['rows']:,} rows again")
    then, now = facts["versions"], versions()
    changed = [f"{key} {then[key]} then" for key in then if then[key] != now.get(key)]
    because = f"; other versions made it: {', '.join(changed)}" if changed else ""
    return Check("rebuild", False, f"model and seed give other rows ({made[:19]}…){because}")


def _model(
    home: Home, manifest: Manifest, progress: OnProgress | None
) -> tuple[Release, Generator]:
    """The release and its generator, fitted.

    Raises:
        DataError: the vault does not hold the model, or holds another.
    """
    facts: dict[str, Any] = dict(manifest.reproduce)
    release, folder = recall_release(home, facts["dataset"], facts["release_key"])
    if not (folder / "facts.json").is_file():
        raise DataError("the vault must hold the model, it was removed; publish the release again")
    if not json.loads((folder / "facts.json").read_text("utf-8"))["persistent"]:
        fresh = GENERATORS[release.generator].from_parameters(facts["parameters"])
        return release, fresh.fit(release.real.train(), release.real.schema, progress=progress)
    if model_digest(folder) != facts["model_digest"]:
        raise DataError("the model in the vault is not the one that was published from")
    return release, load_generator(folder, home.secret)
