"""The model of a release tells its losses on real images; measuring makes them an attack."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from generators.schema import Images, ImageSchema
from pipelines import steps
from pipelines.home import Home
from pipelines.losses import model_losses
from pipelines.spec import DatasetSpec
from validators.comparison import Comparison
from validators.image_features import ImageFeatures
from validators.privacy.images import ImageCopies


def test_the_model_of_a_release_is_attacked(tmp_path: Path) -> None:
    spec = DatasetSpec.model_validate(
        {
            "name": "digits",
            "source": {"kind": "builtin", "name": "digits"},
            "generator": {"name": "diffusion", "parameters": {"steps": 10, "width": 16}},
        }
    )
    home = Home(tmp_path)
    release = steps.prepare(spec, home, steps.ingest(spec, home))
    steps.fit(release)
    losses = model_losses(release)
    assert losses is not None
    train, holdout = release.real.train(), release.real.holdout()
    assert isinstance(train, Images)
    assert isinstance(holdout, Images)
    assert losses.members.shape == (1_000, 3)
    assert losses.others.shape == (len(holdout), 3)
    assert np.isfinite(losses.members).all()
    schema = release.real.schema
    assert isinstance(schema, ImageSchema)
    data = Comparison(holdout, train, holdout, schema)
    data = dataclasses.replace(data, losses=losses)
    vars(data)["image_features"] = ImageFeatures(data, networks=1, steps=5)
    found = {score.metric: score for score in ImageCopies()(data)}
    # Ten steps learn nobody by heart.
    score = found["membership_loss_auc"]
    assert score.low <= 0.5 <= score.high
