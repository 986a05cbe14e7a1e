"""The student of few evaluations, against closed forms and against its teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from generators import Images, ImageSchema
from generators.base import ParameterError, Progress
from generators.checkpoint import Checkpoint
from generators.image.consistency import consistent, lower_level
from generators.image.diffusion import Diffusion
from generators.training import torch_generator

SCHEMA = ImageSchema(4, 4, 1, ("top", "bottom"))
SETTINGS = {"steps": 240, "width": 64, "depth": 2, "batch_size": 48, "precision": "float32"}


def halves(count: int) -> Images:
    """The upper or the lower half is bright, of varied light."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 9, (count, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    for image, label in zip(pixels, labels, strict=True):
        image[2 * label : 2 * label + 2] += rng.integers(120, 200, dtype=np.uint8)
    return Images(pixels, labels)


@pytest.fixture(scope="module")
def model() -> Diffusion:
    fitted: Diffusion = Diffusion(**SETTINGS, student=True).fit(halves(300), SCHEMA)
    return fitted


def with_quality(model: Diffusion, **changed: object) -> Diffusion:
    other = Diffusion.from_parameters({**model.parameters(), **changed})
    other.schema_, other.loss_history_, other.fitted_ = SCHEMA, [], True
    other._restore(*model._state())
    return other


def test_the_lower_level_rises_in_stages_towards_the_higher():
    high = torch.tensor([0.05, 1.0, 50.0])
    levels = torch.stack([lower_level(high, done) for done in np.linspace(0, 0.999, 50)])
    assert bool((levels >= 0).all() and (levels < high).all())
    assert bool((levels.diff(dim=0) >= 0).all())
    assert torch.equal(levels[0], torch.tensor([0.0, 0.0, 25.0]))
    # At the end 1 - n(t) / 2^8 of it, with n(0) = 5 and n(infinity) = 1.
    assert levels[-1] / high == pytest.approx(
        [1 - 4.9 / 256, 1 - 3.15 / 256, 1 - 1 / 256], abs=1e-3
    )


@pytest.mark.parametrize("evaluations", [1, 2])
def test_the_exact_consistency_function_gives_the_data(evaluations):
    # Along the ODE of N(0, s^2), x / sqrt(s^2 + sigma^2) is constant.
    spread, random = 0.4, torch_generator("cpu", 1)
    made = consistent(
        lambda x, sigma: x * spread / (spread**2 + sigma**2) ** 0.5,
        lambda: torch.randn(4000, 1, 1, 1, generator=random, dtype=torch.float64),
        evaluations,
    )
    assert made.std().item() == pytest.approx(spread, rel=0.04)


def test_two_evaluations_of_the_student_beat_two_of_the_teacher(model):
    real = halves(300)

    def apart(other: Diffusion) -> float:
        """Of the sorted mean lights of each class: Wasserstein distance, grey values."""
        sample = other.sample(300, seed=1)
        assert len(sample) == 300
        distance = 0.0
        for label in (0, 1):
            rows = slice(2 * label, 2 * label + 2)
            lights = [
                np.sort(part.pixels[part.labels == label][:, rows].mean(axis=(1, 2, 3)))[:140]
                for part in (sample, real)
            ]
            distance += float(np.abs(lights[0] - lights[1]).mean())
        return distance / 2

    student = apart(with_quality(model, quality="student"))
    assert with_quality(model, quality="student").evaluations == 2
    assert student < 0.9 * apart(with_quality(model, nfe=2))
    assert student < 25


def test_a_student_is_saved_and_is_not_there_unless_asked_for(model, tmp_path):
    model.save(tmp_path / "model")
    again = with_quality(Diffusion.load(tmp_path / "model"), quality="student")
    first = with_quality(model, quality="student").sample(4, seed=3)
    assert np.array_equal(again.sample(4, seed=3).pixels, first.pixels)
    plain = Diffusion(**{**SETTINGS, "steps": 2}, quality="student").fit(halves(40), SCHEMA)
    with pytest.raises(ParameterError, match="student=True"):
        plain.sample(2, seed=0)


@pytest.mark.slow
def test_a_tuning_that_was_stopped_goes_on_to_the_same_bytes(model, tmp_path):
    checkpoint = Checkpoint(tmp_path / "checkpoint", "key", every=0.0)

    def stop(progress: Progress) -> None:
        if progress.phase == "tune" and progress.step < progress.total:
            raise KeyboardInterrupt

    settings = {**SETTINGS, "steps": 300, "student": True}
    whole = Diffusion(**settings).fit(halves(300), SCHEMA)
    interrupted = Diffusion(**settings)
    try:
        interrupted.fit_or_resume(halves(300), SCHEMA, checkpoint=checkpoint, progress=stop)
    except KeyboardInterrupt:
        assert (tmp_path / "checkpoint.student").exists()
        interrupted = Diffusion(**settings)
        interrupted.fit_or_resume(halves(300), SCHEMA, checkpoint=checkpoint)
    assert not (tmp_path / "checkpoint.student").exists()
    samples = [with_quality(m, quality="student").sample(4, seed=0) for m in (whole, interrupted)]
    assert np.array_equal(samples[0].pixels, samples[1].pixels)
