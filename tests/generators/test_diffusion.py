from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Images, ImageSchema
from generators.base import (
    Block,
    DataError,
    NotFittedError,
    ParameterError,
    Progress,
    TrainingError,
)
from generators.checkpoint import Checkpoint
from generators.image import edm
from generators.image.diffusion import Diffusion, spread_labels
from generators.image.edm import (
    SIGMA_DATA,
    Denoiser,
    denoise,
    denoising_loss,
    ipndm,
    noise_levels,
    precondition,
)
from generators.image.networks import Given, make_network, plan_network
from generators.image.pixels import PixelScale
from generators.image.trainer import Examples, Trainer, inner_split
from generators.training import build, torch_generator


def squares(count: int, side: int = 8, channels: int = 1) -> Images:
    """Two classes: a bright square at the top left or at the bottom right, of varied light."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 9, (count, side, side, channels), dtype=np.uint8)
    labels = np.arange(count, dtype=np.int64) % 2
    half = side // 2
    for image, label in zip(pixels, labels, strict=True):
        part = slice(0, half) if label == 0 else slice(half, side)
        image[part, part] += rng.integers(120, 200, dtype=np.uint8)
    return Images(pixels, labels)


def gaussian(spread: float) -> Denoiser:
    """The optimal denoiser where the data are N(0, spread^2)."""
    return lambda x, sigma: x * (spread**2 / (spread**2 + sigma**2))


def exact(noise: torch.Tensor, spread: float, last: float) -> torch.Tensor:
    """The exact end of the probability-flow ODE from there: x / sqrt(s^2 + sigma^2) is constant."""
    ratio = (spread**2 + last**2) / (spread**2 + edm.SIGMA_MAX**2)
    return noise * edm.SIGMA_MAX * math.sqrt(ratio)


def test_preconditioning_keeps_unit_variance_and_the_ends():
    sigma = torch.tensor([1e-4, 0.02, 0.5, 3.0, 80.0], dtype=torch.float64)
    skip, out, scale, _ = precondition(sigma)
    # Input variance 1; target variance 1: (1 - c_skip)^2 var + c_skip^2 sigma^2 = c_out^2.
    assert torch.allclose(scale**2 * (sigma**2 + SIGMA_DATA**2), torch.ones(5).double())
    variance = (1 - skip) ** 2 * SIGMA_DATA**2 + skip**2 * sigma**2
    assert torch.allclose(variance, out**2)
    assert skip[0] == pytest.approx(1.0, abs=1e-6)
    assert out[-1] == pytest.approx(SIGMA_DATA, rel=1e-4)


def test_the_untrained_network_has_loss_one_at_every_level():
    plan = plan_network((8, 8, 1), 1, features=8, depth=1, dropout=0.0, accelerated=False)
    network = build(lambda: make_network(plan), "cpu", torch_generator("cpu", 0))
    random = torch_generator("cpu", 1)
    clean = torch.randn(1000, 1, 8, 8, generator=random) * SIGMA_DATA
    noise = torch.randn(1000, 1, 8, 8, generator=random)
    labels = torch.zeros(1000, dtype=torch.long)
    for level in (0.01, 0.5, 20.0):
        loss = denoising_loss(network, clean, noise, torch.full((1000,), level), Given(labels))
        assert loss.mean().item() == pytest.approx(1.0, abs=0.03)
    # With no output of its own the network is the best linear denoiser of N(0, SIGMA_DATA^2).
    x = clean + 0.5 * noise
    optimal = x * (SIGMA_DATA**2 / (SIGMA_DATA**2 + 0.5**2))
    assert torch.allclose(denoise(network, x, torch.full((1000,), 0.5), Given(labels)), optimal)


def test_levels_run_from_the_highest_to_the_lowest():
    levels = noise_levels(11)
    assert levels[0] == pytest.approx(80.0)
    assert levels[-1] == pytest.approx(0.002)
    assert all(a > b for a, b in itertools.pairwise(levels))


def test_the_solver_converges_to_the_exact_solution():
    noise = torch.randn(50, 1, 2, 2, generator=torch_generator("cpu", 0), dtype=torch.float64)
    errors = []
    for count in (40, 80, 160):
        levels = noise_levels(count + 1)
        end = ipndm(gaussian(0.3), noise * levels[0], levels)
        errors.append(float((end - exact(noise, 0.3, levels[-1])).norm() / end.norm()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 1.8, (errors, orders)


@pytest.mark.parametrize(("evaluations", "error"), [(10, 0.02), (35, 0.01)])
def test_few_evaluations_give_the_deviation_of_the_data(evaluations, error):
    noise = torch.randn(50, 1, 2, 2, generator=torch_generator("cpu", 0), dtype=torch.float64)
    for spread in (0.02, 0.1, 0.5, 2.0):
        levels = noise_levels(evaluations + 1)
        end = ipndm(gaussian(spread), noise * levels[0], levels)
        ratio = float(end.norm() / exact(noise, spread, 0.002).norm())
        assert ratio == pytest.approx(1.0, abs=error)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any),
    st.integers(1, 400),
    st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None, max_examples=60)
def test_labels_keep_their_share_and_their_place(counts, count, offset):
    frequencies = np.array(counts) / sum(counts)
    labels = spread_labels(count, frequencies, offset)
    share = np.bincount(labels, minlength=len(counts))
    assert np.all(share[frequencies == 0] == 0)
    assert np.all(np.abs(share - count * frequencies) <= 2 + math.log2(count + 1))
    assert np.array_equal(labels[: count // 2], spread_labels(count // 2, frequencies, offset))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=300))
@settings(deadline=None, max_examples=30)
def test_inner_split_is_a_partition_and_spares_small_classes(values):
    labels = np.array(values)
    train, held = inner_split(labels, 3)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(len(labels)))
    assert set(labels) == set(labels[train])
    assert len(held) <= 0.1 * len(labels)


@pytest.mark.parametrize("side", [5, 8])
def test_pixel_scale_normalises_and_is_inverted(side):
    images = squares(64, side, channels=4)
    pixels = images.pixels.copy()
    pixels[..., 3] = 255
    scale = PixelScale.fit(pixels)
    plan = plan_network((side, side, 4), 1, features=None, depth=None, dropout=0, accelerated=False)
    x = scale.encode(torch.from_numpy(scale.pad(pixels, plan)))
    assert x.double().square().mean().sqrt().item() == pytest.approx(SIGMA_DATA, rel=1e-4)
    assert np.array_equal(scale.decode(x, side, side), pixels)


def test_few_grey_values_stay_few():
    pixels = np.array([0, 100, 200], np.uint8)[np.arange(48) % 3].reshape(3, 4, 4, 1)
    scale = PixelScale.fit(pixels)
    x = scale.encode(torch.from_numpy(pixels.transpose(0, 3, 1, 2)))
    noisy = x + 0.1 * torch.randn(x.shape, generator=torch_generator("cpu", 0))
    assert set(np.unique(scale.decode(noisy, 4, 4))) <= {0, 100, 200}


SCHEMA = ImageSchema(8, 8, 1, ("top", "bottom"))


@pytest.fixture(scope="module")
def learned() -> Diffusion:
    model = Diffusion(steps=200, width=16, batch_size=48)
    fitted: Diffusion = model.fit(squares(400), SCHEMA)
    return fitted


def test_it_learns_which_class_looks_how(learned):
    sample = learned.sample(200, seed=1)
    top = sample.pixels[:, :4, :4].mean(axis=(1, 2, 3)).astype(float)
    bottom = sample.pixels[:, 4:, 4:].mean(axis=(1, 2, 3)).astype(float)
    assert np.mean((top > bottom) == (sample.labels == 0)) > 0.93
    real = squares(400).pixels
    assert sample.pixels.mean() == pytest.approx(real.mean(), rel=0.1)
    assert sample.pixels.std() == pytest.approx(real.std(), rel=0.1)
    # The light varies between images as it does in the data.
    lit = np.where(sample.labels == 0, top, bottom)
    assert lit.std() > 12


def test_the_loss_falls_and_the_best_average_is_kept(learned):
    assert learned.loss_history_[-1][1] < 0.6 * learned.loss_history_[0][1]
    losses = dict(learned.validation_history_)
    assert losses[learned.chosen_[0]] == min(losses.values())
    assert learned.gap_ < 0.2


def test_an_image_depends_on_its_index_and_not_on_the_number(learned):
    many, few = learned.sample(300, seed=9), learned.sample(7, seed=9)
    assert np.array_equal(many.pixels[:7], few.pixels)
    assert np.array_equal(many.labels[:7], few.labels)
    block = Block(0, 300, 123)
    assert len(np.unique(learned.sample_block(block).pixels, axis=0)) == 300


def test_the_number_of_threads_changes_no_image(learned):
    alone, threads = learned.sample(300, seed=5), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        shared = learned.sample(300, seed=5)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(shared.pixels, alone.pixels)


@pytest.mark.parametrize("settings_", [{"quality": "best"}, {"guidance": 2.0}, {"nfe": 4}])
def test_other_ways_to_sample_keep_the_classes(learned, settings_):
    other = Diffusion.from_parameters({**learned.parameters(), **settings_})
    other.schema_, other.loss_history_ = SCHEMA, []
    other._restore(*learned._state())
    other.fitted_ = True
    sample = other.sample(40, seed=1)
    top = sample.pixels[:, :4, :4].mean(axis=(1, 2, 3)).astype(float)
    bottom = sample.pixels[:, 4:, 4:].mean(axis=(1, 2, 3)).astype(float)
    assert np.mean((top > bottom) == (sample.labels == 0)) > 0.9
    assert not np.array_equal(sample.pixels, learned.sample(40, seed=1).pixels)


def test_losses_are_lower_for_images_that_the_model_knows(learned):
    known = squares(40)
    found = learned.example_losses(known, seed=3)
    assert found.shape == (40, 3)
    assert np.array_equal(found, learned.example_losses(known, seed=3))
    assert not np.array_equal(found, learned.example_losses(known, seed=4))
    # An image that shows the other class is explained worse at every noise level.
    swapped = learned.example_losses(Images(known.pixels, 1 - known.labels), seed=3)
    assert (swapped.mean(axis=0) > found.mean(axis=0)).all()
    with pytest.raises(NotFittedError):
        Diffusion().example_losses(known, seed=3)


def test_memorising_stops_the_run():
    rng = np.random.default_rng(0)
    # Pure noise: nothing general can be learned, so each step only learns single images.
    noise = Images(rng.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8), np.zeros(60, np.int64))
    model = Diffusion(steps=1500, width=64, depth=1, learning_rate=5e-3, dropout=0.0)
    model.fit(noise, ImageSchema(4, 4, 1))
    assert model.validation_history_[-1][0] < 1500
    assert model.chosen_[0] < 750


def trainer_of(steps: int, **changed: object) -> Trainer:
    images = squares(40)
    model = Diffusion(steps=1, width=8, batch_size=8).fit(images, SCHEMA)
    assert isinstance(model, Diffusion)
    pixels = torch.from_numpy(model.scale_.pad(images.pixels, model.plan_))
    examples = Examples(pixels, torch.from_numpy(images.labels), model.scale_)
    course = dataclasses.replace(model._course(40, torch.device("cpu")), total=steps, **changed)
    return Trainer(course, examples, examples.take(torch.arange(0)))


def test_a_rollback_gives_the_last_finite_network_and_half_the_rate():
    trainer = trainer_of(100)
    for index in range(20):
        trainer.step(index)
    before = [parameter.detach().clone() for parameter in trainer.parameters]
    for index in range(20, 25):
        trainer.step(index)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.fill_(math.nan)
    losses = [float(trainer.step(index)) for index in range(25, 40)]
    assert not math.isfinite(losses[0])
    # The loss is read at step 40: the network is that of step 20 again.
    assert math.isfinite(losses[-1])
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.parameters, strict=True))
    assert math.isfinite(float(trainer.step(40)))
    assert trainer.optimiser.param_groups[0]["lr"] < 0.51 * trainer.course.learning_rate


def test_mirroring_is_done_only_where_it_is_declared():
    plain, mirrored = trainer_of(100), trainer_of(100, flips=True)
    assert plain._flipped(8) is None
    flipped = mirrored._flipped(1000)
    assert flipped is not None
    assert 400 < int(flipped.sum()) < 600
    images = mirrored.train.take(torch.arange(4))
    which = torch.tensor([True, False, True, False])
    turned = images.mirrored(which).pixels
    assert torch.equal(turned[1::2], images.pixels[1::2])
    assert torch.equal(turned[::2], images.pixels[::2].flip(3))


def test_half_precision_is_close_to_whole_and_is_a_choice():
    whole = Diffusion(steps=60, width=16, batch_size=32, precision="float32")
    half = Diffusion(steps=60, width=16, batch_size=32, precision="bfloat16")
    for model in (whole, half):
        model.fit(squares(200), SCHEMA)
    assert (whole.plan_.half, half.plan_.half) == (False, True)
    losses = [model.validation_history_[-1][1] for model in (whole, half)]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_divergence_is_named():
    model = Diffusion(steps=20, width=8, batch_size=8, learning_rate=1e30)
    with pytest.raises(TrainingError, match="learning rate"):
        model.fit(squares(40), SCHEMA)


@pytest.mark.parametrize(
    ("shape", "count"), [((14, 13, 4), 12), ((16, 16, 3), 2), ((1, 1, 1), 5), ((12, 3, 1), 30)]
)
def test_any_shape_and_few_images(shape, count):
    rng = np.random.default_rng(1)
    images = Images(
        rng.integers(0, 256, (count, *shape), dtype=np.uint8), np.zeros(count, np.int64)
    )
    images.labels[0] = 2
    schema = ImageSchema(*shape, ("many", "none", "one"))
    model = Diffusion(steps=2, batch_size=8, width=16, depth=1).fit(images, schema)
    sample = model.sample(3, seed=0)
    assert sample.pixels.shape == (3, *shape)
    assert sample.pixels.dtype == np.uint8
    assert not np.any(model.sample(40, seed=0).labels == 1)


def test_minutes_become_a_recorded_number_of_steps():
    model = Diffusion(max_minutes=0.015, batch_size=8, width=16, depth=1)
    model.fit(squares(40), SCHEMA)
    assert model.steps is None
    assert model.steps_ > 1
    again = Diffusion(steps=model.steps_, batch_size=8, width=16, depth=1)
    again.fit(squares(40), SCHEMA)
    assert np.array_equal(again.sample(5, seed=0).pixels, model.sample(5, seed=0).pixels)


def test_labels_outside_the_schema_are_refused():
    images = squares(10)
    images.labels[3] = 2
    with pytest.raises(DataError, match="0 to 1"):
        Diffusion(steps=1).fit(images, SCHEMA)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"max_minutes": 0.0},
        {"label_drop": 1.0},
        {"guidance": -1.0},
        {"quality": "good"},
        {"width": 20},
        {"augment": "vflip"},
        {"precision": "half"},
        {"processes": 0},
        {"source_channels": -1},
    ],
)
def test_parameters_are_checked(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Diffusion(**wrong)


@pytest.mark.slow
def test_an_interrupted_run_keeps_the_steps_that_were_timed(tmp_path):
    def stop(progress: Progress) -> None:
        if progress.step < progress.total:
            raise KeyboardInterrupt

    def model() -> Diffusion:
        return Diffusion(max_minutes=0.05, batch_size=16, width=16, depth=1)

    checkpoint = Checkpoint(tmp_path / "checkpoint", "key", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        model().fit_or_resume(squares(60), SCHEMA, checkpoint=checkpoint, progress=stop)
    found = checkpoint.facts()
    assert found is not None
    assert found["done"] < found["total"]
    resumed = model()
    resumed.fit_or_resume(squares(60), SCHEMA, checkpoint=checkpoint)
    assert resumed.steps_ == found["total"]
    whole = Diffusion(steps=found["total"], batch_size=16, width=16, depth=1)
    whole.fit(squares(60), SCHEMA)
    samples = [one.sample(5, seed=0).pixels for one in (resumed, whole)]
    assert np.array_equal(*samples)
