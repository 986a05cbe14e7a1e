"""Pixel by pixel: an autoregressive model with an exact likelihood.

van den Oord, Kalchbrenner & Kavukcuoglu 2016, Pixel Recurrent Neural Networks, arXiv 1601.06759
(masked convolutions, order of pixels and channels); Salimans, Karpathy, Chen & Kingma 2017,
PixelCNN++, arXiv 1701.05517 (mixture of discretised logistics).

One masked convolution sees a wide window above and to the left of a pixel; all layers after it
work on that pixel alone. So a sample needs the network at one pixel per step, not on the whole
image: an image costs one pass, whatever its size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..base import ParameterError
from ..replay import constant
from ..schema import Images
from ..training import torch_generator
from .neural import NeuralImage, scaled

_PALETTE = 32
"""Sets of this few grey values get a probability for each, others a mixture of logistics."""
_MIXTURE = 6
_STEP = 2.0 / 255.0  # between two grey values
_INPUTS = 2  # of each channel: the value and its square


class CausalWindow(nn.Module):
    """A convolution that sees the pixels before the centre of its window, in reading order.

    Mask A of arXiv 1601.06759, section 3.4.
    """

    def __init__(self, before: int, after: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.seen = window * (window // 2) + window // 2
        self.weigh = nn.Linear(before * self.seen, after)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, before, H, W) -> (N, H, W, after)."""
        before, radius = x.shape[1], self.window // 2
        whole = torch.zeros(
            self.weigh.out_features, before, self.window * self.window, device=x.device
        )
        causal = self.weigh.weight.reshape(-1, before, self.seen)
        kernel = torch.cat([causal, whole[:, :, self.seen :]], dim=2)
        kernel = kernel.reshape(-1, before, self.window, self.window)[:, :, : radius + 1]
        # No row below the centre is needed.
        padded = F.pad(x, (radius, radius, radius, 0))
        out = F.conv2d(padded, kernel, self.weigh.bias)
        return out.permute(0, 2, 3, 1)

    def at(self, padded: torch.Tensor, row: int, column: int) -> torch.Tensor:
        """The same at one pixel: (N, before, H + r, W + 2 r), padded, -> (N, after)."""
        radius = self.window // 2
        patch = padded[:, :, row : row + radius + 1, column : column + self.window]
        out: torch.Tensor = self.weigh(patch.flatten(2)[:, :, : self.seen].flatten(1))
        return out


class PixelNetwork(nn.Module):
    """The distribution of each pixel's channels, given the pixels before and the class."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        window: int,
        features: int,
        depth: int,
        outputs: int,
    ) -> None:
        super().__init__()
        channels, height, width = shape
        self.enter = CausalWindow(_INPUTS * channels + 1, features, window)
        self.classes = nn.Embedding(classes, features)
        self.place = Places(height, width, features)
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(depth))
        self.first = nn.ModuleList(nn.Linear(features, 2 * features) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(2 * features, features) for _ in range(depth))
        # Green sees red, blue sees both.
        self.earlier = nn.ModuleList(
            nn.Linear(max(_INPUTS * channel, 1), features) for channel in range(channels)
        )
        self.heads = nn.ModuleList(nn.Linear(features, outputs) for _ in range(channels))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Values (N, C, H, W) in [-1, 1] and classes -> (N, C, H, W, outputs)."""
        seen = self.enter(self.inputs(x))
        hidden = self._body(seen + self.place() + self.classes(labels)[:, None, None, :])
        values = x.permute(0, 2, 3, 1)
        heads = [self.head(hidden, values, channel) for channel in range(x.shape[1])]
        return torch.stack(heads, dim=1)

    def pixel(
        self, padded: torch.Tensor, labels: torch.Tensor, row: int, column: int
    ) -> torch.Tensor:
        """What ``head`` needs at one pixel: (N, features)."""
        seen = self.enter.at(padded, row, column)
        return self._body(seen + self.place()[row, column] + self.classes(labels))

    def head(self, hidden: torch.Tensor, values: torch.Tensor, channel: int) -> torch.Tensor:
        """Outputs of one channel, given the values of the channels before: (..., outputs)."""
        if channel:
            before = values[..., :channel]
            before = torch.cat([before, before.square()], dim=-1)
            hidden = hidden + self.earlier[channel](before)
        out: torch.Tensor = self.heads[channel](F.silu(hidden))
        return out

    @staticmethod
    def inputs(x: torch.Tensor) -> torch.Tensor:
        """Values, their squares, and ones that tell the image from what lies outside."""
        return torch.cat([x, x.square(), torch.ones_like(x[:, :1])], dim=1)

    def _body(self, hidden: torch.Tensor) -> torch.Tensor:
        for norm, first, second in zip(self.norms, self.first, self.second, strict=True):
            hidden = hidden + second(F.silu(first(norm(hidden))))
        return hidden


class Places(nn.Module):
    """A vector for each pixel of the image, (H, W, features)."""

    def __init__(self, height: int, width: int, features: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(height, width, features))

    def initialise(self, _: torch.Generator) -> None:
        """All places alike."""
        self.vectors.zero_()

    def forward(self) -> torch.Tensor:
        """All vectors."""
        return self.vectors


@dataclass(kw_only=True)
class PixelAutoregressive(NeuralImage):
    """Pixels in reading order, each given those before it (PixelCNN, arXiv 1601.06759).

    Sets of at most 32 grey values get a probability for each value, others a mixture of discretised
    logistics (arXiv 1701.05517). Both are exact: see ``bits_per_dimension``.

    Attributes:
        window: side of the window that a pixel sees, odd; 0 for one that fits the images.
        features: width of the network; 0 for one that fits the images.
        depth: residual layers after the convolution.
    """

    epochs: int = 60
    learning_rate: float = 3e-3
    window: int = 0
    features: int = 0
    depth: int = 2

    name: ClassVar[str] = "pixel-autoregressive"
    suits: ClassVar[str] = "small images of few grey values; tells likelihoods"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_one("depth")
        if self.window < 0 or (self.window and self.window % 2 == 0):
            raise ParameterError(f"window must be odd, or 0 to fit, got {self.window}; add 1")
        if self.features < 0:
            raise ParameterError(f"features must be at least 0, got {self.features}; 0 fits")

    @property
    def evaluations(self) -> int:
        """One for each pixel and channel, of the part of the network that one pixel needs."""
        return math.prod(self.shape_)

    def bits_per_dimension(self, images: Images, *, batch: int = 128) -> np.ndarray:
        """How many bits the model needs for a channel of a pixel of each image: float64, (N,).

        Exact: minus the log2 of the probability of the whole image, by pixels and channels.

        Args:
            images: of the schema; grey values that the data did not have have no probability
                where there are few, and give infinity.
            batch: images at a time; of no effect on the result but for rounding.
        """
        self._require_fitted()
        device = next(self.network_.parameters()).device
        random = torch_generator(device, self.name)
        parts = []
        for start in range(0, len(images), batch):
            pixels = self._padded(images.pixels[start : start + batch])
            labels = torch.from_numpy(images.labels[start : start + batch]).to(device)
            with torch.inference_mode():
                given = torch.from_numpy(pixels).to(device)
                loss = self._loss(self.network_, given, labels, random)
            unknown = self._palette(device)[given.long()].flatten(1).amin(dim=1) < 0
            loss = loss.masked_fill(unknown & self.discrete_, math.inf)
            parts.append(loss.cpu().double().numpy())
        bits: np.ndarray = np.concatenate(parts) / (math.prod(self.shape_) * math.log(2.0))
        return bits

    @property
    def discrete_(self) -> bool:
        """Whether each grey value has a probability of its own."""
        return 0 < len(self.values_) <= _PALETTE

    def _network(self) -> nn.Module:
        side = max(self.size_)
        window = self.window or min(2 * side - 1, 13)
        features = self.features or (96 if side <= 12 else 64)
        outputs = len(self.values_) if self.discrete_ else 3 * _MIXTURE
        shape = (self.shape_[0], *self.size_)
        return PixelNetwork(shape, self.classes_, window, features, self.depth, outputs)

    def _palette(self, device: torch.device) -> torch.Tensor:
        """The number of each grey value among those of the data; -1 for others."""
        numbers = [-1] * 256
        for number, value in enumerate(self.values_):
            numbers[value] = number
        return constant(tuple(numbers), torch.int64, device)

    def _loss(
        self,
        network: Any,  # noqa: ANN401
        pixels: torch.Tensor,
        labels: torch.Tensor,
        _: torch.Generator,
    ) -> torch.Tensor:
        outputs = network(scaled(pixels), labels)
        if self.discrete_:
            numbers = self._palette(pixels.device)[pixels.long()].clamp_min(0)
            log = outputs.log_softmax(dim=-1).gather(-1, numbers[..., None])[..., 0]
        else:
            log = logistic_mixture(outputs, scaled(pixels))
        loss: torch.Tensor = -log.flatten(1).sum(dim=1)
        return loss

    def _draws(self, random: torch.Generator) -> torch.Tensor:
        return torch.rand(2, self.shape_[0], *self.size_, generator=random)

    def _decode(self, draws: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        network: Any = self.network_
        radius = network.enter.window // 2
        height, width = self.size_
        channels = self.shape_[0]
        values = torch.zeros(len(draws), channels, height, width, device=draws.device)
        ones = torch.ones_like(values[:, :1])
        inputs = F.pad(torch.cat([values, values, ones], dim=1), (radius, radius, radius, 0))
        levels = torch.tensor(self.values_, device=draws.device) / 127.5 - 1.0
        for row in range(height):
            for column in range(width):
                hidden = network.pixel(inputs, labels, row, column)
                for channel in range(channels):
                    outputs = network.head(hidden, values[:, :, row, column], channel)
                    uniform = draws[:, :, channel, row, column]
                    if self.discrete_:
                        drawn = levels[pick(outputs.softmax(dim=-1), uniform[:, 0])]
                    else:
                        drawn = draw_logistic(outputs, uniform)
                    values[:, channel, row, column] = drawn
                pixel = values[:, :, row, column]
                inputs[:, :channels, row + radius, column + radius] = pixel
                inputs[:, channels : 2 * channels, row + radius, column + radius] = pixel.square()
        return values


def pick(shares: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """The number drawn from each row of ``shares`` (N, K) by a uniform number (N,)."""
    edges = shares.cumsum(dim=1)
    at = torch.searchsorted(edges.contiguous(), uniform[:, None] * edges[:, -1:])[:, 0]
    return at.clamp_max(shares.shape[1] - 1)


def logistic_mixture(outputs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Log probability of grey values ``x`` (...) in [-1, 1] under ``outputs`` (..., 3 K).

    arXiv 1701.05517, section 2.1: the mass of the mixture within half a step of the value; the
    first and the last grey value have all that lies beyond.
    """
    logits, means, logs = outputs.chunk(3, dim=-1)
    narrow = (-logs.clamp_min(-7.0)).exp()
    centred = x[..., None] - means
    upper, lower = narrow * (centred + _STEP / 2), narrow * (centred - _STEP / 2)
    # The difference of two sigmoids, also where both are near 0 or 1.
    within = (upper.sigmoid() - lower.sigmoid()).clamp_min(1e-12).log()
    log = torch.where(
        x[..., None] < -0.999,
        F.logsigmoid(upper),
        torch.where(x[..., None] > 0.999, F.logsigmoid(-lower), within),
    )
    mixed: torch.Tensor = torch.logsumexp(logits.log_softmax(dim=-1) + log, dim=-1)
    return mixed


def draw_logistic(outputs: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """A grey value in [-1, 1] for each row of ``outputs`` (N, 3 K) by two uniform numbers."""
    logits, means, logs = outputs.chunk(3, dim=-1)
    chosen = pick(logits.softmax(dim=-1), uniform[:, 0])[:, None]
    mean, log = means.gather(1, chosen)[:, 0], logs.gather(1, chosen)[:, 0].clamp_min(-7.0)
    part = uniform[:, 1].clamp(1e-6, 1.0 - 1e-6)
    value = (mean + log.exp() * torch.logit(part)).clamp(-1.0, 1.0)
    return torch.round((value + 1.0) * 127.5) / 127.5 - 1.0
