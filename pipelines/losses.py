"""What a fitted model itself says of real images, for the audit of its release."""

from __future__ import annotations

import numpy as np

from generators import load_generator
from generators.base import ExampleLoss, derive_seed
from generators.schema import Images
from validators.comparison import ModelLosses

from .release import Release

_IMAGES = 1_000


def model_losses(release: Release) -> ModelLosses | None:
    """Losses of train and holdout images under the release's model, a thousand of each at most.

    None where its family tells none. What training held
    back for itself counts as train: the attacker does not know it either.
    """
    generator = load_generator(release.model_folder, release.home.secret)
    if not isinstance(generator, ExampleLoss):
        return None
    rng = np.random.default_rng(derive_seed("model-losses", release.spec.seed))
    found = []
    for data in (release.real.train(), release.real.holdout()):
        if not isinstance(data, Images):
            return None
        chosen = rng.permutation(len(data))[:_IMAGES]
        found.append(generator.example_losses(data.take(chosen), seed=release.spec.seed))
    return ModelLosses(*found)
