"""The two denoising networks: a residual MLP for tiny images, a U-Net for the others.

Both take images (N, C, H, W), the noise condition ln(sigma)/4 (N,), and what is given of each image
(``Given``); the class number ``classes`` stands for "no class". Both give a tensor of the images'
shape. Dropout draws from a generator that the caller passes, so that the global random state is
never touched; without one there is no dropout.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

UNET_MIN_SIDE = 8
_FREQUENCIES = 16
_HEAD_WIDTH = 32


@dataclass(frozen=True)
class NetworkPlan:
    """What a network is built from.

    Attributes:
        kind: ``mlp`` or ``unet``.
        height, width: size inside the network, in pixels; a multiple of ``multiple``.
        channels: image channels.
        classes: number of classes.
        features: hidden width of the MLP, or of the U-Net's first level.
        depth: residual blocks of the MLP, or per level of the U-Net.
        stem: side of the pixel blocks that the U-Net folds into channels before it starts.
        levels: resolutions of the U-Net.
        dropout: share of features (MLP) or of maps (U-Net) dropped in training.
        half: whether products and convolutions run in bfloat16 (weights stay float32).
        given: channels that are input only, behind the others: of the image to be translated.
        traits: numbers that say what an image shows besides its class.
    """

    kind: str
    height: int
    width: int
    channels: int
    classes: int
    features: int
    depth: int
    stem: int = 1
    levels: int = 1
    dropout: float = 0.0
    half: bool = False
    given: int = 0
    traits: int = 0

    @property
    def multiple(self) -> int:
        """Sides must be a multiple of this."""
        return self.stem << (self.levels - 1)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able dictionary of the fields."""
        return dataclasses.asdict(self)


class Given(NamedTuple):
    """What is given of each image.

    Attributes:
        labels: class numbers, int64 (N,).
        traits: what else it shows, float32 (N, F); None where the plan has none of them or
            nothing is known.
        source: the image to be translated, (N, S, H, W), where the plan has such channels.
    """

    labels: torch.Tensor
    traits: torch.Tensor | None = None
    source: torch.Tensor | None = None


def plan_network(
    shape: tuple[int, int, int],
    classes: int,
    *,
    features: int | None,
    depth: int | None,
    dropout: float,
    accelerated: bool,
    half: bool = False,
) -> NetworkPlan:
    """The network for images of ``shape`` (height, width, channels).

    Convolutions pay down to 8 pixels: on 1,300 digits of that size a U-Net reaches a held-out loss
    of 0.31, an MLP of eight times its parameters 0.37. On a CPU the U-Net folds 2x2 pixels into
    channels from 16 pixels on: a quarter of the positions, and convolutions of few channels are
    bound by memory there. With bfloat16 (``half``) 64 features take what 48 take without.
    """
    height, width, channels = shape
    longest = max(height, width)
    if min(height, width) < UNET_MIN_SIDE:
        return NetworkPlan(
            "mlp",
            height,
            width,
            channels,
            classes,
            features or 256,
            depth or 4,
            dropout=dropout,
            half=half,
        )
    stem = 2 if longest >= (48 if accelerated else 16) else 1
    side = -(-longest // stem)
    levels = 3 if side > 24 else 2
    multiple = stem * 2 ** (levels - 1)
    on_cpu = 32 if longest < 16 else 64 if half else 48
    return NetworkPlan(
        "unet",
        -(-height // multiple) * multiple,
        -(-width // multiple) * multiple,
        channels,
        classes,
        features or (64 if accelerated else on_cpu),
        depth or (2 if accelerated else 1),
        stem,
        levels,
        dropout,
        half,
    )


def make_network(plan: NetworkPlan) -> ResMLP | UNet:
    """The network of ``plan``, with weights of torch's own; see ``training.build``."""
    return ResMLP(plan) if plan.kind == "mlp" else UNet(plan)


def fourier(noise: torch.Tensor) -> torch.Tensor:
    """Sines and cosines of ln(sigma)/4 at fixed frequencies; (N,) -> (N, 32)."""
    powers = torch.arange(_FREQUENCIES, device=noise.device, dtype=noise.dtype)
    phase = noise[:, None] * torch.pi * 2.0 ** (powers / 4.0 - 1.0)
    return torch.cat([phase.sin(), phase.cos()], dim=1)


def dropped(
    x: torch.Tensor, share: float, widths: list[int], generator: torch.Generator | None
) -> list[torch.Tensor | None]:
    """For each of the ``widths`` what its features, or maps, of each image are multiplied by.

    A ``share`` of them with 0, the others with what keeps their mean: (N, width). None without
    dropout. Drawn at once: kernels cannot be compiled across a call that takes a generator.
    """
    if generator is None or share == 0.0:
        return [None] * len(widths)
    drawn = torch.empty((len(x), sum(widths)), device=x.device)
    kept = drawn.bernoulli_(1.0 - share, generator=generator).div_(1.0 - share)
    return [*torch.split(kept, widths, dim=1)]


def drop(x: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """``x`` (N, features, ...) times what ``dropped`` drew for it."""
    if kept is None:
        return x
    return x * kept.reshape(*kept.shape, *(1,) * (x.dim() - 2)).to(x.dtype)


class Condition(nn.Module):
    """Noise level, class and traits as one vector."""

    def __init__(self, plan: NetworkPlan, features: int) -> None:
        super().__init__()
        self.noise = nn.Linear(2 * _FREQUENCIES, features)
        self.classes = nn.Embedding(plan.classes + 1, features)
        self.mix = nn.Linear(features, features)
        # Without a bias: traits of zero say nothing.
        self.traits = nn.Linear(plan.traits, features, bias=False) if plan.traits else None

    def forward(self, noise: torch.Tensor, given: Given) -> torch.Tensor:
        """The vectors (N, features) of noise conditions (N,) and what is given."""
        joint = self.noise(fourier(noise)) + self.classes(given.labels)
        if self.traits is not None and given.traits is not None:
            joint = joint + self.traits(given.traits)
        return F.silu(self.mix(F.silu(joint)))


class Uncertainty(nn.Module):
    """Log variance of the loss at a noise level, learned beside the network (EDM2, eq. 21)."""

    def __init__(self) -> None:
        super().__init__()
        self.last = zero(nn.Linear(2 * _FREQUENCIES, 1))

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Log variances (N,) of the loss at noise conditions (N,)."""
        logarithm: torch.Tensor = self.last(fourier(noise))[:, 0]
        return logarithm


class MLPBlock(nn.Module):
    """Norm, FiLM, two linear layers; residual, the identity at the start."""

    def __init__(self, features: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.film = zero(nn.Linear(condition, 2 * features))
        self.first = nn.Linear(features, features)
        self.second = zero(nn.Linear(features, features))

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, kept: torch.Tensor | None
    ) -> torch.Tensor:
        """``x`` (N, features) plus what the block adds, given the condition."""
        scale, shift = self.film(condition).chunk(2, dim=1)
        hidden = F.silu(self.first(self.norm(x) * (1.0 + scale) + shift))
        out: torch.Tensor = x + self.second(drop(hidden, kept))
        return out


class ResMLP(nn.Module):
    """A residual MLP over all pixels at once, for images narrower than 8 pixels."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.shape = (plan.channels, plan.height, plan.width)
        pixels, given = math.prod(self.shape), plan.given * plan.height * plan.width
        condition = min(plan.features, 256)
        self.condition = Condition(plan, condition)
        self.enter = nn.Linear(pixels + given, plan.features)
        self.blocks = nn.ModuleList(MLPBlock(plan.features, condition) for _ in range(plan.depth))
        self.norm = nn.LayerNorm(plan.features)
        self.leave = zero(nn.Linear(plan.features, pixels))
        self.reduced, self.dropout = plan.half, plan.dropout
        self.drops = [plan.features] * plan.depth

    def forward(
        self,
        x: torch.Tensor,
        noise: torch.Tensor,
        given: Given,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The raw output (N, C, H, W) for noisy images ``x`` (N, C + given, H, W)."""
        drops = dropped(x, self.dropout, self.drops, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.reduced):
            condition = self.condition(noise, given)
            hidden = self.enter(x.flatten(1))
            for block, kept in zip(self.blocks, drops, strict=True):
                hidden = block(hidden, condition, kept)
            out: torch.Tensor = self.leave(F.silu(self.norm(hidden)))
        return out.reshape(len(x), *self.shape)


class ConvBlock(nn.Module):
    """Norm, SiLU, convolution, twice, with FiLM between; residual, the identity at the start."""

    def __init__(self, before: int, after: int, condition: int) -> None:
        super().__init__()
        self.norm_in = norm(before)
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.norm_out = norm(after)
        self.film = zero(nn.Linear(condition, 2 * after))
        self.second = zero(nn.Conv2d(after, after, 3, padding=1))
        self.skip = nn.Identity() if before == after else nn.Conv2d(before, after, 1)

    def forward(
        self, x: torch.Tensor, condition: torch.Tensor, kept: torch.Tensor | None
    ) -> torch.Tensor:
        """``x`` (N, before, H, W) as (N, after, H, W), given the condition."""
        hidden = self.first(F.silu(self.norm_in(x)))
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        hidden = F.silu(self.norm_out(hidden) * (1.0 + scale) + shift)
        out: torch.Tensor = self.skip(x) + self.second(drop(hidden, kept))
        return out


class Attention(nn.Module):
    """Self-attention over all positions; residual, the identity at the start."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = norm(features)
        self.enter = nn.Conv2d(features, 3 * features, 1)
        self.leave = zero(nn.Conv2d(features, features, 1))
        self.heads = max(features // _HEAD_WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (N, features, H, W) plus what its positions say to each other."""
        count, features, height, width = x.shape
        split = (count, 3, self.heads, features // self.heads, height * width)
        query, key, value = self.enter(self.norm(x)).reshape(split).transpose(3, 4).unbind(1)
        if x.device.type == "cpu":
            # In bfloat16 its backward pass takes six times as long there.
            with torch.autocast("cpu", enabled=False):
                mixed = F.scaled_dot_product_attention(query.float(), key.float(), value.float())
        else:
            # The fused kernels of a GPU take features side by side only.
            parts = (part.contiguous() for part in (query, key, value))
            mixed = F.scaled_dot_product_attention(*parts)
        out: torch.Tensor = x + self.leave(mixed.transpose(2, 3).reshape(x.shape))
        return out


class UNet(nn.Module):
    """A convolutional U-Net with attention at its lowest resolution only."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.stem, self.reduced, self.dropout = plan.stem, plan.half, plan.dropout
        folded, given = plan.channels * plan.stem**2, plan.given * plan.stem**2
        widths = [plan.features * (1 if level == 0 else 2) for level in range(plan.levels)]
        condition = 2 * plan.features
        self.condition = Condition(plan, condition)
        self.enter = nn.Conv2d(folded + given, widths[0], 3, padding=1)

        # Of the blocks, in the order in which they are passed.
        self.drops: list[int] = []

        def block(before: int, after: int) -> ConvBlock:
            self.drops.append(after)
            return ConvBlock(before, after, condition)

        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            self.down.append(nn.ModuleList(block(width, width) for _ in range(plan.depth)))
            if level + 1 < plan.levels:
                self.shrink.append(nn.Conv2d(width, widths[level + 1], 3, stride=2, padding=1))
        self.attention = Attention(widths[-1])
        self.middle = block(widths[-1], widths[-1])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(plan.levels)):
            width = widths[level]
            ups = [block(2 * width, width), *(block(width, width) for _ in range(plan.depth - 1))]
            self.up.append(nn.ModuleList(ups))
            if level > 0:
                self.grow.append(nn.Conv2d(width, widths[level - 1], 1))
        self.norm = norm(widths[0])
        self.leave = zero(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(
        self,
        x: torch.Tensor,
        noise: torch.Tensor,
        given: Given,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """The raw output (N, C, H, W) for noisy images ``x`` (N, C + given, H, W)."""
        drops = dropped(x, self.dropout, self.drops, generator)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.reduced):
            return self._forward(x, noise, given, drops)

    def _forward(
        self,
        x: torch.Tensor,
        noise: torch.Tensor,
        given: Given,
        drops: list[torch.Tensor | None],
    ) -> torch.Tensor:
        kept = iter(drops)
        condition = self.condition(noise, given)
        hidden = self.enter(F.pixel_unshuffle(x, self.stem))
        skips = []
        for level, blocks in enumerate(self.down):
            for block in blocks.children():
                hidden = block(hidden, condition, next(kept))
            skips.append(hidden)
            if level < len(self.shrink):
                hidden = self.shrink[level](hidden)
        hidden = self.middle(self.attention(hidden), condition, next(kept))
        for level, blocks in enumerate(self.up):
            hidden = torch.cat([hidden, skips.pop()], dim=1)
            for block in blocks.children():
                hidden = block(hidden, condition, next(kept))
            if level < len(self.grow):
                hidden = F.interpolate(self.grow[level](hidden), scale_factor=2.0, mode="nearest")
        out: torch.Tensor = self.leave(F.silu(self.norm(hidden)))
        return F.pixel_shuffle(out, self.stem)


class Norm(nn.GroupNorm):
    """Group norm in float32: in bfloat16 it takes three times as long on a CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (N, features, H, W) of mean 0 and variance 1 in each group; float32."""
        return super().forward(x.float())


Network = ResMLP | UNet


def norm(features: int) -> Norm:
    """Group norm over groups of at least 8 features."""
    divisors = (groups for groups in (8, 4, 2) if features % (8 * groups) == 0)
    return Norm(next(divisors, 1), features)


def zero(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """``layer``, marked to start at zero by ``training.build``."""
    layer.zero_init = True  # type: ignore[assignment]
    return layer
