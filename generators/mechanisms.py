"""Differentially private mechanisms whose guarantee does not rest on floating point.

Privacy is counted as zero-concentrated differential privacy ρ, which adds up over mechanisms (Bun,
Steinke 2016, arXiv 1605.02065). Noise and choices are drawn by exact rejection over integers
(Canonne, Kamath, Steinke 2020, "The Discrete Gaussian for Differential Privacy", arXiv 2004.00010):
a sampler over floats leaks through the gaps between them (Mironov 2012). Random bits come from
SHAKE-256 over a key that nobody else has; a seed that is published would undo the noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

# Bytes of the stream that are made at once.
_CHUNK = 1 << 16


class RandomBits:
    """Integers that nobody can foretell without the key, always the same with it.

    Args:
        key: secret.
        label: what the bits are for: other labels give independent bits.
    """

    def __init__(self, key: bytes, label: str) -> None:
        self._prefix = hashlib.sha256(key).digest() + label.encode() + b"\x00"
        self._block, self._buffer, self._at = 0, b"", 0

    def below(self, bound: int) -> int:
        """An integer from 0 to ``bound`` - 1, each exactly as likely."""
        width = max((bound - 1).bit_length(), 1)
        while True:
            drawn = int.from_bytes(self._take((width + 7) // 8), "little") >> (-width % 8)
            if drawn < bound:
                return drawn

    def _take(self, size: int) -> bytes:
        if self._at + size > len(self._buffer):
            block = self._block.to_bytes(8, "little")
            rest = self._buffer[self._at :]
            self._buffer = rest + hashlib.shake_256(self._prefix + block).digest(_CHUNK)
            self._block, self._at = self._block + 1, 0
        self._at += size
        return self._buffer[self._at - size : self._at]


def bernoulli_exp(numerator: int, denominator: int, bits: RandomBits) -> bool:
    """True with probability exp(-numerator / denominator), exactly (algorithm 1 of the paper)."""
    while numerator > denominator:
        if not _bernoulli_exp_to_one(1, 1, bits):
            return False
        numerator -= denominator
    return _bernoulli_exp_to_one(numerator, denominator, bits)


def _bernoulli_exp_to_one(numerator: int, denominator: int, bits: RandomBits) -> bool:
    tries = 1
    while bits.below(denominator * tries) < numerator:
        tries += 1
    return tries % 2 == 1


def discrete_laplace(scale: int, bits: RandomBits) -> int:
    """An integer x with probability in proportion to exp(-|x| / scale), exactly (algorithm 2)."""
    while True:
        within = bits.below(scale)
        if not bernoulli_exp(within, scale, bits):
            continue
        whole = 0
        while _bernoulli_exp_to_one(1, 1, bits):
            whole += 1
        size, negative = within + scale * whole, bits.below(2) == 1
        if size or not negative:
            return -size if negative else size


def discrete_gaussian(variance: int, bits: RandomBits) -> int:
    """An integer x with probability in proportion to exp(-x² / 2 variance), exactly (algorithm 3).

    Args:
        variance: σ², at least 1.
        bits: randomness.
    """
    scale = math.isqrt(variance) + 1
    while True:
        drawn = discrete_laplace(scale, bits)
        # (|x| - σ² / t)² / 2σ², as a fraction of integers.
        gap = abs(drawn) * scale - variance
        if bernoulli_exp(gap * gap, 2 * variance * scale * scale, bits):
            return drawn


@dataclass(frozen=True)
class Counted:
    """Counts with noise.

    Attributes:
        counts: float64 integers, which may be negative; the shape of what was counted.
        deviation: the standard deviation of the noise in each.
    """

    counts: np.ndarray
    deviation: float


def noisy_counts(counts: np.ndarray, rho: float, bits: RandomBits) -> Counted:
    """How many rows fall into each bin, ρ-zCDP where a row falls into one bin.

    Another row instead of one changes two bins by one: the squared sensitivity is 2, and noise of
    variance 2 / 2ρ gives ρ (proposition 1.6 of Bun, Steinke; theorem 4 of Canonne et al.). The
    variance is rounded up to an integer.
    """
    variance = max(math.ceil(1 / rho), 1)
    noise = [discrete_gaussian(variance, bits) for _ in range(counts.size)]
    noisy = counts.astype(np.float64) + np.array(noise, dtype=np.float64).reshape(counts.shape)
    return Counted(noisy, math.sqrt(variance))


def choose(scores: Sequence[int], sensitivity: int, rho: float, bits: RandomBits) -> int:
    """The place of a high score by the exponential mechanism, ρ-zCDP.

    McSherry, Talwar 2007; ε of it costs ε² / 8 (Cesar, Rogers 2021, arXiv 2004.07223). Drawn
    exactly: an even guess is kept with the probability that its distance from the best asks for.

    Args:
        scores: integers, of which each changes by at most ``sensitivity`` with one row.
        sensitivity: see there.
        rho: the price.
        bits: randomness.
    """
    epsilon = Fraction(math.floor(math.sqrt(8 * rho) * 2**40), 2**40)
    best = max(scores)
    while True:
        guess = bits.below(len(scores))
        gap = (best - scores[guess]) * epsilon / (2 * sensitivity)
        if bernoulli_exp(gap.numerator, gap.denominator, bits):
            return guess


def rho_of(epsilon: float, delta: float) -> float:
    """The greatest ρ that implies (ε, δ)-differential privacy.

    By the conversion of Canonne, Kamath, Steinke (2020), corollary 13; found by halving.
    """
    low, high = 0.0, epsilon + 1.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if delta_of(middle, epsilon) <= delta else (low, middle)
    return low


def delta_of(rho: float, epsilon: float) -> float:
    """The δ with which ρ-zCDP is (ε, δ)-differentially private."""
    if rho <= 0:
        return 0.0
    # The exponent is convex in alpha: its least is between these, and halving finds it.
    low, high = 1.01, (epsilon + 1) / (2 * rho) + 2

    def slope(alpha: float) -> float:
        return (2 * alpha - 1) * rho - epsilon + math.log1p(-1 / alpha)

    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    alpha = high
    power = (alpha - 1) * (alpha * rho - epsilon) + alpha * math.log1p(-1 / alpha)
    # Beyond this it is above one in any case, and soon more than a float holds.
    return min(math.exp(min(power, 100.0)) / (alpha - 1), 1.0)
