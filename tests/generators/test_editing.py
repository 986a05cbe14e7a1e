"""Images that are changed: what is kept, what is made, against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import Images, ImageSchema
from generators.base import DataError, ParameterError, SchemaError
from generators.image.diffusion import Diffusion
from generators.image.editing import keep_outside, keep_pooled, restore
from generators.image.edm import SIGMA_MIN, Denoiser, ipndm, level_of, noise_levels
from generators.training import torch_generator

SCHEMA = ImageSchema(8, 8, 1, ("light", "dark"))
SPREAD, CORRELATION = 0.5, 0.8


def stripes(count: int) -> Images:
    """Vertical stripes of one phase an image; the class says how bright."""
    rng = np.random.default_rng(2)
    labels = np.arange(count, dtype=np.int64) % 2
    phase = rng.integers(0, 2, count)
    columns = (np.arange(8)[None] + phase[:, None]) % 2
    height = np.where(labels == 0, 200, 90)[:, None]
    rows = (columns * height + rng.integers(0, 8, (count, 1))).astype(np.uint8)
    return Images(np.repeat(rows[:, None, :, None], 8, axis=1), labels)


@pytest.fixture(scope="module")
def model() -> Diffusion:
    fitted: Diffusion = Diffusion(steps=150, width=16, batch_size=48, precision="float32").fit(
        stripes(240), SCHEMA
    )
    return fitted


def correlated(size: int) -> Denoiser:
    """The optimal denoiser of pixels that are N(0, SPREAD^2), any two with CORRELATION."""
    eye = torch.eye(size, dtype=torch.float64)
    covariance = SPREAD**2 * ((1 - CORRELATION) * eye + CORRELATION)

    def denoiser(x: torch.Tensor, sigma: float) -> torch.Tensor:
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * eye)
        return (x.flatten(1) @ gain.T).view_as(x)

    return denoiser


@pytest.mark.parametrize(("levels", "rounds", "error"), [(25, 6, 0.12), (35, 10, 0.1)])
def test_completion_follows_the_conditional_distribution(levels, rounds, error):
    random = torch_generator("cpu", 3)
    shape = (4000, 1, 1, 2)
    known = torch.full(shape, 0.6, dtype=torch.float64)
    made = restore(
        correlated(2),
        keep_outside(known, torch.tensor([False, True])),
        lambda: torch.randn(shape, generator=random, dtype=torch.float64),
        levels,
        rounds,
    )
    assert torch.equal(made[..., 0], known[..., 0])
    # Of a Gaussian pair: mean rho y, deviation s sqrt(1 - rho^2).
    assert made[..., 1].mean().item() == pytest.approx(CORRELATION * 0.6, rel=error)
    left = SPREAD * math.sqrt(1 - CORRELATION**2)
    assert made[..., 1].std().item() == pytest.approx(left, rel=0.14)


def test_enlarging_follows_the_conditional_distribution():
    random = torch_generator("cpu", 4)
    shape = (4000, 1, 2, 2)
    wide = torch.full((1, 1, 1, 1), 100.0, dtype=torch.float64)
    low = torch.full((4000, 1, 1, 1), 0.3, dtype=torch.float64)
    made = restore(
        correlated(4),
        keep_pooled(low, 2, (-wide, wide)),
        lambda: torch.randn(shape, generator=random, dtype=torch.float64),
        25,
        6,
    )
    assert torch.allclose(made.mean(dim=(1, 2, 3)), low.flatten())
    # Around their mean, exchangeable pixels have variance s^2 (1 - rho) (1 - 1/4).
    left = SPREAD * math.sqrt((1 - CORRELATION) * 0.75)
    assert (made - 0.3).square().mean().sqrt().item() == pytest.approx(left, rel=0.18)


@pytest.mark.parametrize("strength", [0.2, 0.5, 1.0])
def test_a_variation_keeps_what_the_noise_leaves(strength):
    sigma, spread = level_of(strength), 0.4
    noise = torch.randn(3000, 1, 1, 1, generator=torch_generator("cpu", 5), dtype=torch.float64)
    end = ipndm(
        lambda x, level: x * (spread**2 / (spread**2 + level**2)),
        0.7 + sigma * noise,
        noise_levels(36, sigma),
    )
    # x / sqrt(s^2 + sigma^2) is constant along the ODE: from N(0.7, sigma^2) onwards.
    ratio = math.sqrt((spread**2 + SIGMA_MIN**2) / (spread**2 + sigma**2))
    assert end.mean().item() == pytest.approx(0.7 * ratio, abs=0.02)
    assert end.std().item() == pytest.approx(sigma * ratio, rel=0.05)


def test_inpainting_keeps_the_other_pixels_and_goes_on_with_their_pattern(model):
    images = stripes(40)
    mask = np.zeros((8, 8), bool)
    mask[4:] = True
    made = model.inpaint(images, mask, seed=1)
    assert np.array_equal(made.pixels[:, :4], images.pixels[:, :4])
    assert np.array_equal(made.labels, images.labels)
    error = np.abs(made.pixels[:, 4:].astype(float) - images.pixels[:, 4:]).mean()
    blank = images.pixels.copy()
    blank[:, 4:] = images.pixels.mean()
    assert error < 0.5 * np.abs(blank[:, 4:].astype(float) - images.pixels[:, 4:]).mean()
    each = np.broadcast_to(mask, (40, 8, 8)).copy()
    each[1:] = False
    alone = model.inpaint(images, each, seed=1)
    assert np.array_equal(alone.pixels[0], made.pixels[0])
    assert np.array_equal(alone.pixels[1:], images.pixels[1:])


def test_strength_moves_a_variation_away(model):
    images = stripes(40)
    apart = [
        np.abs(model.vary(images, strength, seed=1).pixels.astype(float) - images.pixels).mean()
        for strength in (0.1, 0.4, 1.0)
    ]
    assert apart[0] < apart[1] < apart[2]
    assert apart[0] < 10


def test_an_enlarged_image_shrinks_to_what_was_given(model):
    images = stripes(12)
    low = Images(np.full((12, 4, 4, 1), 60, np.uint8), images.labels)
    low.pixels[:, :2] = 90
    made = model.upscale(low, seed=2)
    assert made.pixels.shape == (12, 8, 8, 1)
    back = made.pixels.reshape(12, 4, 2, 4, 2, 1).mean(axis=(2, 4))
    assert np.abs(back - low.pixels).max() <= 0.5


@pytest.mark.parametrize("edit", ["inpaint", "vary"])
def test_an_edit_depends_on_seed_and_index_and_not_on_the_number(model, edit):
    images = stripes(70)
    argument = 0.5 if edit == "vary" else np.arange(64).reshape(8, 8) % 3 == 0
    images.labels[2] = -1
    work = getattr(model, edit)
    many = work(images, argument, seed=3)
    few = work(images.take(np.arange(3)), argument, seed=3)
    other = work(images.take(np.arange(3)), argument, seed=4)
    assert np.array_equal(many.pixels[:3], few.pixels)
    assert not np.array_equal(few.pixels, other.pixels)
    assert few.labels[2] == -1
    assert len(work(images.take(np.arange(0)), argument, seed=3)) == 0


def test_translation_learns_the_pair_and_keeps_its_model(tmp_path: Path):
    rng = np.random.default_rng(0)
    source = rng.integers(0, 2, (200, 4, 4, 1), dtype=np.uint8) * 200
    pairs = Images(np.concatenate([255 - source, source], axis=3), np.zeros(200, np.int64))
    model = Diffusion(steps=400, width=128, depth=2, batch_size=64, source_channels=1, dropout=0.0)
    model.fit(pairs, ImageSchema(4, 4, 2))
    fresh = rng.integers(0, 2, (60, 4, 4, 1), dtype=np.uint8) * 200
    made = model.translate(Images(fresh, np.full(60, -1)), seed=1)
    assert made.pixels.shape == (60, 4, 4, 1)
    agree = np.mean((made.pixels > 155) == (fresh < 100))
    assert agree > 0.9
    model.save(tmp_path / "model")
    again = Diffusion.load(tmp_path / "model")
    other = again.translate(Images(fresh[:5], np.full(5, -1)), seed=1)
    assert np.array_equal(other.pixels, made.pixels[:5])
    for wrong in (
        lambda: again.sample(3, seed=0),
        lambda: again.vary(made, 0.5, seed=0),
        lambda: again.upscale(made, seed=0),
    ):
        with pytest.raises(ParameterError, match="pairs"):
            wrong()


def test_wrong_images_and_masks_are_refused(model):
    images = stripes(4)
    small = Images(images.pixels[:, :5], images.labels)
    for wrong in (
        lambda: model.inpaint(images, np.zeros((8, 8)), seed=0),
        lambda: model.inpaint(images, np.zeros((4, 8), bool), seed=0),
        lambda: model.inpaint(small, np.zeros((8, 8), bool), seed=0),
        lambda: model.vary(small, 0.5, seed=0),
        lambda: model.upscale(small, seed=0),
    ):
        with pytest.raises(SchemaError, match="8"):
            wrong()
    with pytest.raises(ParameterError, match="strength"):
        model.vary(images, 0.0, seed=0)
    with pytest.raises(ParameterError, match="--paired"):
        model.translate(images, seed=0)
    images.labels[1] = 2
    with pytest.raises(DataError, match="below 2"):
        model.vary(images, 0.5, seed=0)
    with pytest.raises(ParameterError, match="source_channels"):
        Diffusion(steps=1, source_channels=1).fit(stripes(10), SCHEMA)
