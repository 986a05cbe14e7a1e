"""The classic image families against closed forms, enumeration, autograd and planted collapses."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from generators import GENERATORS, Images, ImageSchema
from generators.base import Block, Generator, Labelled, ParameterError, Progress, Resumable
from generators.boltzmann import Boltzmann
from generators.checkpoint import Checkpoint
from generators.image.autoencoder import Gaussians
from generators.image.autoregressive import (
    PixelAutoregressive,
    PixelNetwork,
    draw_logistic,
    logistic_mixture,
    pick,
)
from generators.image.flow import FlowNetwork, ImageFlow, to_logit
from generators.image.gan import Adversarial, ImageGAN, ProjectionDistance
from generators.image.neural import ImageTraining, ResidentImages
from generators.image.rbm import RBM, Persistent
from generators.image.vae import gaussian_loss
from generators.training import build, torch_generator

CPU = torch.device("cpu")
SMALL: dict[str, dict[str, Any]] = {
    "image-autoencoder": {"epochs": 40, "width": 8, "latent": 4, "batch_size": 16},
    "image-flow": {"epochs": 40, "features": 16, "depth": 3, "batch_size": 16},
    "image-gan": {"epochs": 48, "width": 8, "latent": 8, "batch_size": 16},
    "image-vae": {"epochs": 40, "width": 8, "latent": 4, "batch_size": 16},
    "pixel-autoregressive": {"epochs": 40, "window": 7, "features": 32, "batch_size": 16},
    "rbm": {"epochs": 60, "layers": (32,), "gibbs": 30, "batch_size": 16, "learning_rate": 0.02},
}


def made(factory: Any) -> Any:
    return build(factory, CPU, torch_generator("cpu", "test"))


def halves(count: int = 160) -> tuple[Images, ImageSchema]:
    """Bright left halves (label 0), bright right halves (1); three of four are label 1."""
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 4 > 0).astype(np.int64)
    pixels = rng.integers(0, 60, (count, 8, 8, 1))
    for label, half in ((0, slice(0, 4)), (1, slice(4, 8))):
        pixels[labels == label, :, half] += 180
    return Images(pixels.astype(np.uint8), labels), ImageSchema(8, 8, 1, ("left", "right"))


@pytest.fixture(scope="module", params=SMALL)
def learned(request: pytest.FixtureRequest) -> Generator:
    return GENERATORS[request.param].from_parameters(SMALL[request.param]).fit(*halves())


def test_images_show_their_class_and_classes_have_their_shares(learned: Generator) -> None:
    assert not any("collapsed" in note for note in learned.training_notes_)
    sample = learned.sample(200, seed=3)
    assert isinstance(sample, Images)
    assert abs(sample.labels.mean() - 0.75) < 0.01
    grey = sample.pixels[..., 0].astype(float)
    left, right = grey[:, :, :4].mean(axis=(1, 2)), grey[:, :, 4:].mean(axis=(1, 2))
    assert ((right > left) == (sample.labels == 1)).mean() > 0.97
    assert np.abs(left - right).mean() > 100
    assert grey.std(axis=0).mean() > 3, "they must not all be one image"


def test_an_image_is_its_seed_and_its_class(learned: Generator) -> None:
    assert isinstance(learned, Labelled)
    labels = np.array([0, 1, 1, 0, 1])
    five = learned.sample_labelled(labels, seed=7)
    assert five.labels.tolist() == labels.tolist()
    first = learned.sample_labelled(labels[:1], seed=7)
    np.testing.assert_array_equal(first.pixels[0], five.pixels[0])
    other = learned.sample_labelled(np.array([1, 1, 1, 1, 1]), seed=7)
    np.testing.assert_array_equal(other.pixels[[1, 2, 4]], five.pixels[[1, 2, 4]])
    assert not np.array_equal(other.pixels[0], five.pixels[0])
    assert len(set(learned.row_seeds(3000, 7).tolist())) == 3000
    with pytest.raises(ParameterError, match="from 0 to 1"):
        learned.sample_labelled(np.array([2]), seed=7)


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_training_goes_on_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    settings = {**SMALL[name], "epochs": 6}
    if name == "rbm":
        settings["layers"] = (8, 6)
    data = halves(60)

    def stop(report: Progress) -> None:
        raise KeyboardInterrupt

    kept = Checkpoint(tmp_path / "c", "key", every=0.0)
    family = GENERATORS[name]
    first, again = family.from_parameters(settings), family.from_parameters(settings)
    assert isinstance(first, Resumable)
    assert isinstance(again, Resumable)
    # Progress comes twice a second and at the end: the last step is taken again.
    with pytest.raises(KeyboardInterrupt):
        first.fit_or_resume(*data, checkpoint=_Early(tmp_path / "c", "key"), progress=stop)
    facts = kept.facts()
    assert facts is not None
    assert facts["done"] == 7 < facts["total"]
    again.fit_or_resume(*data, checkpoint=kept)
    whole = family.from_parameters(settings).fit(*data)
    drawn, wanted = again.sample(40, seed=1), whole.sample(40, seed=1)
    assert isinstance(drawn, Images)
    assert isinstance(wanted, Images)
    np.testing.assert_array_equal(drawn.pixels, wanted.pixels)
    assert again.loss_history_ == whole.loss_history_


class _Early(Checkpoint):
    """Keeps the state after the seventh step and no later one, as a death there would."""

    @property
    def due(self) -> bool:
        self.steps = getattr(self, "steps", 0) + 1
        return self.steps == 7


def test_colours_sizes_and_two_images_work() -> None:
    rng = np.random.default_rng(0)
    for channels, height, width in ((3, 5, 7), (4, 6, 9)):
        pixels = rng.integers(0, 256, (12, height, width, channels), dtype=np.uint8)
        data = Images(pixels, np.zeros(12, np.int64)), ImageSchema(height, width, channels)
        for name, settings in SMALL.items():
            model = GENERATORS[name].from_parameters({**settings, "epochs": 1}).fit(*data)
            sample = model.sample(3, seed=0)
            assert isinstance(sample, Images)
            assert sample.pixels.shape == (3, height, width, channels), name


# VAE and autoencoder


def test_the_gaussian_loss_is_that_of_the_best_variance() -> None:
    x, again = torch.randn(50, 1, 4, 4), torch.randn(50, 1, 4, 4)
    best = min(
        float(-torch.distributions.Normal(again, deviation).log_prob(x).sum())
        for deviation in np.linspace(0.5, 3.0, 500)
    )
    constant = 0.5 * x.numel() * math.log(2 * math.pi)
    assert float(gaussian_loss(x, again).sum()) + constant == pytest.approx(best, rel=1e-4)


def test_a_gaussian_of_each_class_has_its_moments() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 4000)
    mixing = rng.normal(size=(2, 3, 3))
    latents = np.einsum("nij,nj->ni", mixing[labels], rng.normal(size=(8000, 3)))
    latents[labels == 1] += 5
    module = made(lambda: Gaussians(2, 3))
    module.fit(latents, labels)
    normal = torch.from_numpy(rng.normal(size=(8000, 3))).float()
    drawn = module(normal, torch.from_numpy(labels)).numpy()
    for label in (0, 1):
        own, wanted = drawn[labels == label], latents[labels == label]
        np.testing.assert_allclose(own.mean(axis=0), wanted.mean(axis=0), atol=0.2)
        np.testing.assert_allclose(np.cov(own.T), np.cov(wanted.T), atol=0.4)


# Pixel by pixel


def tiny_pixels(values: tuple[int, ...] = (0, 100, 255)) -> tuple[PixelAutoregressive, Images]:
    """A model of 2 x 2 images of a few grey values in two channel-less classes, and its data."""
    rng = np.random.default_rng(1)
    first = rng.choice(values, (300, 1, 1, 1), p=np.full(len(values), 1 / len(values)))
    pixels = np.repeat(np.repeat(first, 2, axis=1), 2, axis=2)
    pixels[:, 1, 1] = rng.choice(values, (300, 1))
    data = Images(pixels.astype(np.uint8), rng.integers(0, 2, 300))
    model = PixelAutoregressive(epochs=20, features=16, depth=1, window=3)
    return model.fit(data, ImageSchema(2, 2, 1, ("a", "b"))), data


def test_probabilities_of_all_images_sum_to_one_and_are_those_of_samples() -> None:
    model, _ = tiny_pixels()
    every = np.array(list(itertools.product((0, 100, 255), repeat=4)), np.uint8)
    images = Images(every.reshape(-1, 2, 2, 1), np.zeros(len(every), np.int64))
    shares = 2.0 ** (-4 * model.bits_per_dimension(images))
    assert shares.sum() == pytest.approx(1.0, abs=1e-4)
    assert shares.max() > 0.05, "it must have learned something"
    drawn = model.sample_labelled(np.zeros(6000, np.int64), seed=2).pixels.reshape(-1, 4)
    codes = np.searchsorted((0, 100, 255), drawn) @ (27, 9, 3, 1)
    found = np.bincount(codes, minlength=81) / 6000
    assert np.abs(found - shares).sum() / 2 < 0.06
    unknown = Images(np.full((1, 2, 2, 1), 7, np.uint8), np.zeros(1, np.int64))
    assert np.isinf(model.bits_per_dimension(unknown)).all()


def test_a_pixel_depends_on_those_before_it_alone() -> None:
    network = made(lambda: PixelNetwork((2, 4, 5), 3, 5, 16, 2, 4))
    x = torch.rand(1, 2, 4, 5) * 2 - 1
    labels = torch.tensor([1])
    before = network(x, labels)
    for row, column, channel in itertools.product(range(4), range(5), range(2)):
        changed = x.clone()
        changed[0, channel, row, column] += 0.5
        moved = (network(changed, labels) - before).abs().sum(dim=-1)[0] > 0
        order = moved.permute(1, 2, 0).flatten()
        place = (row * 5 + column) * 2 + channel
        assert not order[: place + 1].any()
        if place < 39:
            assert order[place + 1 :].any()


def test_one_pixel_gives_what_the_whole_image_gives() -> None:
    network = made(lambda: PixelNetwork((1, 4, 4), 2, 5, 16, 2, 3))
    x, labels = torch.rand(6, 1, 4, 4) * 2 - 1, torch.tensor([0, 1] * 3)
    whole = network(x, labels)
    padded = torch.nn.functional.pad(network.inputs(x), (2, 2, 2, 0))
    for row, column in itertools.product(range(4), range(4)):
        hidden = network.pixel(padded, labels, row, column)
        one = network.head(hidden, x[:, :, row, column], 0)
        torch.testing.assert_close(one, whole[:, 0, row, column], rtol=1e-4, atol=1e-5)


def test_a_mixture_of_logistics_sums_to_one_and_is_what_is_drawn() -> None:
    outputs = torch.tensor([[0.3, -0.5, 0.1, 0.4, -0.9, 0.98, -2.0, -4.0, -1.0]])
    grey = torch.arange(256.0) / 127.5 - 1.0
    shares = logistic_mixture(outputs.expand(256, -1), grey).exp()
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-4)
    uniform = torch.rand(200_000, 2, generator=torch_generator("cpu", "mixture"))
    drawn = draw_logistic(outputs.expand(200_000, -1), uniform)
    found = torch.bincount(((drawn + 1) * 127.5).round().long(), minlength=256) / 200_000
    assert float((found - shares).abs().sum() / 2) < 0.02


def test_pick_follows_the_shares() -> None:
    shares = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).expand(4000, -1)
    drawn = pick(shares, torch.linspace(0.0, 1.0, 4000))
    np.testing.assert_allclose(torch.bincount(drawn) / 4000, shares[0], atol=0.002)


# Flow


def test_the_flow_is_invertible_and_its_determinant_is_that_of_autograd() -> None:
    network = made(lambda: FlowNetwork(1, 2, 8, 2)).double()
    random = torch_generator("cpu", "jacobian")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64, generator=random)
    labels = torch.tensor([0, 1, 1])
    z, log = network(x, labels)
    # The rotations are stored in single precision.
    torch.testing.assert_close(network.inverse(z, labels, (1, 4, 4)), x, rtol=1e-4, atol=1e-5)
    assert log.abs().min() > 0.1
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda part, row=row: network(part[None], labels[row : row + 1])[0][0], x[row]
        )
        _, wanted = torch.linalg.slogdet(jacobian.reshape(16, 16))
        torch.testing.assert_close(log[row], wanted, rtol=1e-5, atol=1e-6)


def test_the_logit_has_the_determinant_of_autograd() -> None:
    share = torch.rand(1, 6, dtype=torch.float64, generator=torch_generator("cpu", "logit"))
    log = to_logit(share)[1]
    jacobian = torch.autograd.functional.jacobian(lambda part: to_logit(part)[0][0], share)
    torch.testing.assert_close(log[0], torch.linalg.slogdet(jacobian[:, 0])[1])


def test_bits_of_a_flow_and_of_pixels_know_noise_from_structure() -> None:
    """Noise of 256 grey values needs 8 bits, whatever is learned; structure needs fewer."""
    small = {ImageFlow: {"features": 16, "depth": 2}, PixelAutoregressive: {"features": 16}}
    rng = np.random.default_rng(0)
    noise = Images(rng.integers(0, 256, (200, 4, 4, 1), dtype=np.uint8), np.zeros(200, np.int64))
    smooth = Images(np.tile(noise.pixels[:, :1, :1], (1, 4, 4, 1)), noise.labels)
    for family, settings in small.items():
        bits = [
            family(epochs=20, batch_size=16, **settings)
            .fit(data.take(np.arange(150)), ImageSchema(4, 4, 1))
            .bits_per_dimension(data.take(np.arange(150, 200)))
            .mean()
            for data in (noise, smooth)
        ]
        assert 7.9 < bits[0] < 8.6
        assert bits[1] < bits[0] - 1.0


# Boltzmann machines


def tiny_machine(classes: int = 2) -> Boltzmann:
    machine: Boltzmann = made(lambda: Boltzmann(3, [classes] if classes else [], 4)).double()
    random = torch_generator("cpu", "machine")
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return machine


def all_visible(classes: int) -> torch.Tensor:
    units = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=torch.float64)
    labels = torch.eye(classes, dtype=torch.float64)
    if not classes:
        return units
    return torch.cat([units.repeat_interleave(classes, dim=0), labels.repeat(8, 1)], dim=1)


def test_the_free_energy_sums_the_hidden_units_out() -> None:
    machine, every = tiny_machine(), all_visible(2)
    hidden = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    joint = (
        torch.einsum("vi,ji,hj->vh", every, machine.weight, hidden)
        + (every @ machine.visible)[:, None]
        + (hidden @ machine.hidden)[None]
    )
    torch.testing.assert_close(-machine.free_energy(every), torch.logsumexp(joint, dim=1))


def test_the_update_follows_the_gradient_of_the_likelihood() -> None:
    """Free energy of data less that of the model's own states: the gradient of -log p(data)."""
    machine, every = tiny_machine(), all_visible(2)
    data = every[[1, 4, 4, 9]]
    exact = machine.free_energy(data).mean() + torch.logsumexp(-machine.free_energy(every), dim=0)
    wanted = torch.autograd.grad(exact, list(machine.parameters()))
    shares = (-machine.free_energy(every)).softmax(dim=0).detach()
    ours = machine.free_energy(data).mean() - (shares * machine.free_energy(every)).sum()
    found = torch.autograd.grad(ours, list(machine.parameters()))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("classes", [0, 2])
def test_gibbs_steps_keep_the_distribution(classes: int) -> None:
    machine, every = tiny_machine(classes), all_visible(classes)
    shares = (-machine.free_energy(every)).softmax(dim=0).detach()
    random = torch_generator("cpu", "gibbs")
    states = every[pick(shares.float().expand(40_000, -1), torch.linspace(0, 1, 40_000))]
    machine, states, every = machine.float(), states.float(), every.float()
    for _ in range(3):
        states = machine.gibbs(states, torch.rand(40_000, machine.draws, generator=random))
    weights = torch.tensor([2.0**power for power in range(every.shape[1])])
    codes = {float(row @ weights): at for at, row in enumerate(every)}
    numbers = torch.tensor([codes[float(code)] for code in states @ weights])
    found = torch.bincount(numbers, minlength=len(every)) / 40_000
    assert float((found - shares).abs().sum() / 2) < 0.02


def test_persistent_chains_raise_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    first = rng.random((400, 1)) < 0.5
    pixels = np.where(np.concatenate([first, first, ~first, first], axis=1), 255, 0)
    data = Images(pixels.reshape(-1, 2, 2, 1).astype(np.uint8), np.zeros(400, np.int64))
    model = RBM(epochs=40, layers=(6,), learning_rate=0.05, batch_size=32)
    model.fit(data, ImageSchema(2, 2, 1))
    machine: Any = model.network_[0]  # type: ignore[index]
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    every = torch.cat([every, torch.ones(16, 1)], dim=1)
    shares = (-machine.free_energy(every)).softmax(dim=0)
    # 1101 and 0010 are the two images there are; at the start each had a sixteenth.
    assert float(shares[13] + shares[2]) > 0.85


def test_a_deep_net_is_trained_layer_by_layer() -> None:
    data, schema = halves(60)
    model = RBM(epochs=2, layers=(8, 6), batch_size=20, gibbs=3)
    model._prepare(data, schema)
    model.trained_ = 60
    train = ResidentImages(model._padded(data.pixels), data.labels, CPU)
    training = Persistent(model, train, 12)
    start = [machine.weight.clone() for machine in (training.stack[0], training.stack[1])]
    for index in range(6):
        training.step(index)
    lower = training.stack[0].weight.clone()
    assert not torch.equal(lower, start[0])
    assert torch.equal(training.stack[1].weight, start[1])
    for index in range(6, 12):
        training.step(index)
    assert torch.equal(training.stack[0].weight, lower)
    assert not torch.equal(training.stack[1].weight, start[1])


# GAN


def test_the_distance_of_projections_sees_a_collapse() -> None:
    pixels = load_digits().images[..., None]
    bytes_ = torch.from_numpy((pixels * 15.9).astype(np.uint8).transpose(0, 3, 1, 2))
    distance = ProjectionDistance(bytes_[:900])
    as_made = bytes_.float() / 127.5 - 1.0
    assert distance(as_made[:900]) == 0.0
    assert distance(as_made[900:]) < 0.12
    assert distance(as_made[:1].expand(900, -1, -1, -1)) > 0.5
    assert math.isnan(distance(as_made[:9] * math.nan))


class Collapsing(ImageGAN):
    """A GAN whose generator forgets all but one image in the middle of its training."""

    def _training(self, train: ResidentImages, held: ResidentImages, total: int) -> ImageTraining:
        training: Adversarial = super()._training(train, held, total)  # type: ignore[assignment]
        step, broken = training.step, []

        def breaking(index: int) -> torch.Tensor:
            if index == 250 and not broken:
                broken.append(index)
                for network in (training.generator, training.average.module):
                    with torch.no_grad():
                        network.leave.weight.zero_()  # type: ignore[union-attr]
            return step(index)

        training.step = breaking  # type: ignore[method-assign]
        return training


def test_a_generator_that_forgets_is_brought_back() -> None:
    model = Collapsing(epochs=48, width=8, latent=8, batch_size=16).fit(*halves())
    assert len(model.training_notes_) == 1
    assert "samples collapsed" in model.training_notes_[0]
    assert model.sample_block(Block(0, 100, 1)).pixels.std(axis=0).mean() > 3


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("image-vae", {"latent": 0}, "latent must be at least 1"),
        ("image-gan", {"penalty": -1.0}, "penalty must be at least 0"),
        ("image-flow", {"learning_rate": 0.0}, "learning_rate must be above 0"),
        ("pixel-autoregressive", {"window": 4}, "window must be odd"),
        ("rbm", {"layers": (8, 0)}, "layers must be at least 1"),
        ("image-autoencoder", {"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_parameters_have_bounds(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        GENERATORS[name].from_parameters(parameters)
