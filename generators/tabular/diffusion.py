"""Diffusion for tables: masks over tokens, Gaussian noise over what tokens leave open.

The forward process of a token (a category, an atom, a missing value, a coarse cell of a number)
masks it at a random time (absorbing diffusion in continuous time: Sahoo et al. 2024, "MDLM",
arXiv 2406.07524); a number's place within its cell, as a normal variable, gets Gaussian noise (EDM,
Karras et al. 2022, arXiv 2206.00364). The two together are the mixed diffusion of TabDDPM
(arXiv 2209.15421) and TabDiff (arXiv 2410.20626), the cascade from cells to numbers is that of
TabCascade (arXiv 2601.22816): a number's law may have any shape, for the cells carry it, and
conditions on ranges are as exact as those on categories.

One denoiser sees any set of cells clean and gives the law of the others, so it samples, completes
rows and fulfils conditions without more training. Tokens are unmasked one after the other, which
is the reverse process without an error from steps in time (Zheng et al. 2024, arXiv 2409.02908),
in an order drawn for every batch; then all numbers are denoised at once, by a multistep solver of
the probability-flow ODE.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import ndtr, ndtri
from torch import nn

from generators.base import Block, ParameterError, derive_seed
from generators.conditions import Cells
from generators.encoding import EncodedTable
from generators.image.edm import SIGMA_DATA, ipndm, noise_levels, precondition
from generators.replay import constant
from generators.tabular.descent import HeldOutDescent, RowNetwork
from generators.tabular.resampling import systematic
from generators.tabular.token_model import TokenModel
from generators.tabular.tokens import TwoLevelTokens
from generators.training import torch_generator

_MICRO_BATCH = 256
"""Rows per forward pass of a sample. Part of the format: a change changes all samples."""
# Candidates for each row under several conditions, and at least (sampling importance resampling,
# Rubin 1987).
_POOL, _MIN_POOL = 8, 1024
# Conditions less likely than this have no support.
_NO_SUPPORT = 1e-7
# Of the waves by which a network sees a normal variable: the place in a cell, and the rank of a
# token among those of its column.
_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)
_FEATURES = 3 + 2 * len(_FREQUENCIES)
# Tokens of a column whose order is worth knowing.
_LEAST_ORDERED = 6
# What is left of the embedding of their own with which such tokens start.
_OWN = 0.2
_WAVES = 1 + 2 * len(_FREQUENCIES)
_EDGE = 1e-4
# So much noise leaves nothing: the level of a place that is not known, or that no cell has.
_UNKNOWN = 1e4
# Mean and deviation of ln(sigma) in training (EDM, table 1).
_LEVEL = (-1.2, 1.2)
# The level from which places are denoised: 80 times their deviation.
_TOP = 40.0


@dataclass(frozen=True)
class Places:
    """Where numbers lie in their cells, as normal variables of deviation ``SIGMA_DATA``.

    Attributes:
        x: with noise; float32, (B, R), for the R columns that have cells.
        sigma: its level, 0 where clean and ``_UNKNOWN`` where there is none; (B, R).
    """

    x: torch.Tensor
    sigma: torch.Tensor

    @classmethod
    def seen(cls, clean: torch.Tensor, visible: torch.Tensor) -> Places:
        """These clean places (B, R) where they are ``visible`` (bool), and nothing elsewhere."""
        sigma = torch.where(visible, 0.0, _UNKNOWN)
        return cls(torch.where(visible, clean, 0.0), sigma)

    def noisy(self, x: torch.Tensor, sigma: torch.Tensor, where: torch.Tensor) -> Places:
        """These, and ``x`` of level ``sigma`` at the entries ``where`` (bool, (B, R))."""
        return Places(torch.where(where, x, self.x), torch.where(where, sigma, self.sigma))

    def features(self) -> torch.Tensor:
        """What a network sees of them, (B, R * features).

        Beside the scaled ``x``, what is to be expected of the clean place under its normal law:
        its mean, its deviation, and waves, which fade as the noise hides them.
        """
        share = SIGMA_DATA**2 / (self.sigma**2 + SIGMA_DATA**2)
        mean = (share * self.x / SIGMA_DATA).unsqueeze(-1)
        variance = (1.0 - share).unsqueeze(-1)
        scaled = (share.sqrt() * self.x / SIGMA_DATA).unsqueeze(-1)
        waves = constant(_FREQUENCIES, torch.float32, mean.device)
        faded = torch.exp(-0.5 * waves**2 * variance) / waves
        parts = [mean, scaled, variance.sqrt()]
        parts += [faded * (waves * mean).cos(), faded * (waves * mean).sin()]
        return torch.cat(parts, dim=-1).flatten(1)


class Denoiser(RowNetwork):
    """What all cells of a row tell about each of them.

    Each sub-column has a perceptron of its own: what is seen of the whole row -> ``width`` ->
    ``width`` (residual) -> logits of its tokens, and the denoised place where it has cells. The
    head starts at zero and its bias at the marginal, so the model starts as independent columns.

    Where tokens have an order, a part of what stands for them and of their head is a smooth
    function of their rank, so that a token of few rows learns from its neighbours. After training
    ``fold`` makes it part of the rest.

    Args:
        sizes: number of tokens of each sub-column.
        numbers: the sub-columns that have cells, ascending.
        ordered: the sub-columns whose tokens have an order.
        embedding: numbers that stand for a token.
        width: of the hidden layers.
    """

    def __init__(
        self,
        sizes: list[int],
        numbers: list[int],
        ordered: list[int],
        embedding: int,
        width: int,
    ) -> None:
        super().__init__()
        wide, tokens = len(sizes), sum(sizes)
        self.sizes, self.numbers, self.ordered, self.width = sizes, numbers, ordered, width
        inputs = wide * embedding + len(numbers) * _FEATURES
        self.embedding = nn.Parameter(torch.empty(tokens, embedding))
        self.mask = nn.Parameter(torch.empty(wide, embedding))
        self.first = nn.Parameter(torch.empty(wide * width, inputs))
        self.first_bias = nn.Parameter(torch.empty(wide * width))
        self.second = nn.Parameter(torch.empty(wide, width, width))
        self.second_bias = nn.Parameter(torch.empty(wide, 1, width))
        self.head = nn.Parameter(torch.empty(tokens, width))
        self.head_bias = nn.Parameter(torch.empty(tokens))
        self.place = nn.Parameter(torch.empty(len(numbers), width, 1))
        self.smooth = nn.Parameter(torch.empty(len(ordered), _WAVES, embedding))
        self.smooth_head = nn.Parameter(torch.empty(len(ordered), _WAVES, width))
        self.register_buffer("waves", torch.empty(tokens, _WAVES))
        starts = list(itertools.accumulate(sizes[:-1], initial=0))
        self.register_buffer("starts", torch.tensor(starts))

    def initialise(self, generator: torch.Generator) -> None:
        """Fill the weights from ``generator``."""
        self.embedding.normal_(0.0, 0.5, generator=generator)
        self.mask.normal_(0.0, 0.05, generator=generator)
        # Half of the inputs are known on average.
        self.first.normal_(0.0, math.sqrt(2.0 / self.first.shape[1]), generator=generator)
        self.second.normal_(0.0, 1.0 / math.sqrt(self.width), generator=generator)
        self.smooth.normal_(0.0, 0.5 / math.sqrt(_WAVES), generator=generator)
        for zero in (self.first_bias, self.second_bias, self.head, self.head_bias, self.place):
            zero.zero_()
        self.smooth_head.zero_()
        self.get_buffer("waves").zero_()
        sizes = torch.tensor([0, *self.sizes[:-1]])
        self.get_buffer("starts").copy_(sizes.cumsum(0))

    def order(self, ranks: torch.Tensor) -> None:
        """Take in the normal scores of tokens (tokens,), NaN where a token has none."""
        pitch = constant(_FREQUENCIES, torch.float32, ranks.device)
        waves = pitch * ranks.unsqueeze(1)
        parts = [ranks.unsqueeze(1), waves.cos() / pitch, waves.sin() / pitch]
        self.get_buffer("waves").copy_(torch.cat(parts, dim=1).nan_to_num(0.0))
        with torch.no_grad():
            self.embedding[~ranks.isnan()] *= _OWN

    def start_from(self, rows: torch.Tensor) -> None:
        """Let the bias say the marginal of these training tokens, the first columns of ``rows``."""
        counts = torch.cat(
            [torch.bincount(rows[:, at], minlength=size) for at, size in enumerate(self.sizes)]
        )
        with torch.no_grad():
            self.head_bias.copy_(((counts + 0.5) / len(rows)).log())

    def inputs(self, tokens: torch.Tensor, known: torch.Tensor, places: Places) -> torch.Tensor:
        """What is seen of rows: tokens (int64, (B, S)) where ``known`` (bool), and places."""
        seen = F.embedding(tokens + self.get_buffer("starts"), self._embedding())
        seen = torch.where(known.unsqueeze(-1), seen, self.mask)
        return torch.cat([seen.flatten(1), places.features()], dim=1)

    def show(self, inputs: torch.Tensor, tokens: torch.Tensor, at: int) -> None:
        """Make sub-column ``at`` seen, whose ``tokens`` are (B,), in place, once folded."""
        size = self.embedding.shape[1]
        begin = self.get_buffer("starts")[at]
        inputs[:, at * size : (at + 1) * size] = F.embedding(tokens + begin, self.embedding)

    def losses(self, inputs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Minus the log-probability of every token given what is seen, nats, shape (S, B)."""
        hidden = self._hidden(inputs, slice(None))
        heads = zip(
            self._with_smooth(self.head, self.smooth_head),
            torch.split(self.head_bias, self.sizes),
            strict=True,
        )
        each = [
            F.cross_entropy(F.linear(layer, *head).float(), tokens[:, at], reduction="none")
            for at, (layer, head) in enumerate(zip(hidden.unbind(0), heads, strict=True))
        ]
        return torch.stack(each)

    def logits(self, inputs: torch.Tensor, at: int) -> torch.Tensor:
        """Logits of sub-column ``at``, shape (B, size), once folded."""
        hidden = self._hidden(inputs, slice(at, at + 1))[0]
        begin = int(self.get_buffer("starts")[at])
        span = slice(begin, begin + self.sizes[at])
        return F.linear(hidden, self.head[span], self.head_bias[span])

    @torch.no_grad()
    def fold(self) -> None:
        """Make the smooth parts part of the embedding and the head."""
        self.embedding.copy_(self._embedding())
        self.head.copy_(torch.cat(self._with_smooth(self.head, self.smooth_head)))
        self.get_buffer("waves").zero_()

    def _embedding(self) -> torch.Tensor:
        return torch.cat(self._with_smooth(self.embedding, self.smooth))

    def _with_smooth(self, table: torch.Tensor, smooth: torch.Tensor) -> list[torch.Tensor]:
        """What each sub-column has in ``table`` (tokens, F), with its smooth part."""
        parts = list(torch.split(table, self.sizes))
        waves = torch.split(self.get_buffer("waves"), self.sizes)
        for place, at in enumerate(self.ordered):
            parts[at] = parts[at] + waves[at] @ smooth[place]
        return parts

    def raw(self, inputs: torch.Tensor) -> torch.Tensor:
        """The network's share of the denoised places (EDM's F), shape (B, R)."""
        numbers = constant(tuple(self.numbers), torch.int64, inputs.device)
        hidden = self._hidden(inputs, numbers)
        return torch.bmm(hidden, self.place.to(hidden.dtype))[..., 0].t()

    def _hidden(self, inputs: torch.Tensor, targets: slice | torch.Tensor) -> torch.Tensor:
        """The last hidden layer of these sub-columns, (T, B, width)."""
        wide = len(self.sizes)
        first = self.first.view(wide, self.width, -1)[targets].flatten(0, 1)
        bias = self.first_bias.view(wide, self.width)[targets].flatten()
        hidden = F.silu(F.linear(inputs, first, bias))
        hidden = hidden.view(len(inputs), -1, self.width).transpose(0, 1)
        shift = self.second_bias[targets].expand(-1, len(inputs), -1)
        return hidden + F.silu(torch.baddbmm(shift, hidden, self.second[targets]))


@dataclass(kw_only=True)
class TableDiffusion(TokenModel[Denoiser]):
    """Masked and Gaussian diffusion over all columns, by one denoiser.

    Attributes:
        cells: of a number with more values than atoms can stand for; within a cell numbers are
            drawn by Gaussian diffusion.
        evaluations: of the denoiser, with which a sample's numbers are denoised (NFE), beside one
            for each column that has tokens.
    """

    epochs: int = 30
    max_steps: int = 6000
    lr: float = 3e-3
    cells: int = 32
    evaluations: int = 20

    name: ClassVar[str] = "table-diffusion"
    suits: ClassVar[str] = (
        "tables to be completed or sampled under conditions: it knows every conditional alike"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("cells", 4), ("evaluations", 2)):
            if getattr(self, name) < least:
                raise ParameterError(
                    f"{name} of {self.name} must be at least {least}, got {getattr(self, name)}; "
                    "raise it"
                )

    def _prepare(self, encoded: EncodedTable) -> None:
        self.tokens_ = TwoLevelTokens.fit(self.codec_, encoded, coarse=self.cells, fine=1)

    def _training(self, encoded: EncodedTable, tokens: torch.Tensor) -> Callable[[int], _Training]:
        rng = np.random.default_rng(derive_seed(self.name, self.seed, "places"))
        places = self._places(encoded, rng).to(tokens.device)
        return lambda total: _Training(self, tokens, places, total)

    @property
    def _numbers(self) -> list[int]:
        """The columns that have cells, ascending."""
        return [at for at, cells in enumerate(self.tokens_.cells) if cells is not None]

    def _ranks(self, tokens: np.ndarray) -> np.ndarray:
        """Normal scores of all tokens among the numbers of these rows (N, S), else NaN."""
        scores = [np.full(size, np.nan) for size in self.tokens_.sizes]
        for at, (codec, cells) in enumerate(
            zip(self.codec_.columns, self.tokens_.cells, strict=True)
        ):
            if codec.column.discrete or len(scores[at]) < _LEAST_ORDERED:
                continue
            values = np.full(len(scores[at]), np.nan)
            values[: len(codec.levels)] = np.asarray(codec.levels, dtype=np.float64)
            if cells is not None:
                values[codec.size - 1 :] = cells.knots[:-1][:: cells.per_fine * cells.fine]
            order = np.argsort(values)[: np.isfinite(values).sum()]
            rows = np.bincount(tokens[:, at], minlength=len(values))[order] + 1e-3
            scores[at][order] = ndtri((np.cumsum(rows) - rows / 2) / rows.sum())
        return np.concatenate(scores)

    def _places(self, encoded: EncodedTable, rng: np.random.Generator) -> torch.Tensor:
        """The clean places of the numbers of rows, (N, R), NaN where a cell has none."""
        places = np.full((len(encoded), len(self._numbers)), np.nan, np.float32)
        for at, column in enumerate(self._numbers):
            cells, values = self.tokens_.cells[column], encoded.values[:, column]
            between = np.isfinite(values)
            assert cells is not None
            place = np.clip(cells.place(values[between], rng), _EDGE, 1 - _EDGE)
            places[between, at] = SIGMA_DATA * ndtri(place)
        return torch.from_numpy(places)

    def _draw_rows(self, n: int, seed: int) -> EncodedTable:
        return self._completed(_Rows.nothing(n, self.tokens_, self._numbers), seed)

    def _draw_where(self, n: int, seed: int, cells: Mapping[int, Cells]) -> EncodedTable | None:
        rows, weights = self._conditioned(n, seed, cells)
        if n and not weights.mean() > _NO_SUPPORT:
            return None
        rng = np.random.default_rng(derive_seed("resample", seed))
        kept = rng.permutation(systematic(weights, n, rng))
        chosen = self._settled(rows.take(kept), cells, rng)
        return self._completed(chosen, derive_seed("rest", seed))

    def _conditioned(
        self, n: int, seed: int, cells: Mapping[int, Cells]
    ) -> tuple[_Rows, np.ndarray]:
        """Candidates whose conditioned columns are drawn, and no other; and their weights."""
        pool = max(n * _POOL, _MIN_POOL) if len(cells) > 1 else n
        share = {at: torch.from_numpy(self._share(at, cell)).float() for at, cell in cells.items()}
        parts, weights = [], []
        generator = torch_generator("cpu", self.name, "where", seed)
        for part, count in _Rows.nothing(pool, self.tokens_, self._numbers).batches():
            drawn, likely = self._unmask(part, list(cells), generator, share)
            parts.append(drawn.take(slice(count)))
            weights.append(likely[:count].exp().numpy())
        return _Rows.joined(parts), np.concatenate([np.zeros(0), *weights])

    def _share(self, column: int, cells: Cells) -> np.ndarray:
        """The share of each token of a column that is allowed."""
        return self.tokens_.weights(column, cells)[0]

    def _settled(self, rows: _Rows, cells: Mapping[int, Cells], rng: np.random.Generator) -> _Rows:
        """``rows`` with values where their cells are allowed in part: drawn from that part."""
        drawn = self.tokens_.decode(rows.tokens.numpy(), rng, cells)
        values = rows.values.copy()
        for column, allowed in cells.items():
            if column in self._numbers:
                share = self._share(column, allowed)[rows.tokens[:, column].numpy()]
                cut = (share < 1) & np.isfinite(drawn.values[:, column])
                values[cut, column] = drawn.values[cut, column]
        return self._with_values(rows, values, rng)

    def _with_values(self, rows: _Rows, values: np.ndarray, rng: np.random.Generator) -> _Rows:
        places = self._places(EncodedTable(np.zeros_like(values, np.int32), values), rng)
        return replace(rows, values=values, places=places)

    def _fill_block(
        self, block: Block, encoded: EncodedTable, given: np.ndarray, present: np.ndarray
    ) -> EncodedTable:
        share = {
            column: torch.from_numpy(self.tokens_.not_missing(column)).float()
            for column in np.flatnonzero(present).tolist()
        }
        tokens = torch.from_numpy(np.where(given, self.tokens_.encode(encoded), 0))
        known = torch.from_numpy(given.copy())
        values = np.where(given, encoded.values, np.nan)
        rows = replace(_Rows.nothing(len(given), self.tokens_, self._numbers), known=known)
        rows = self._with_values(replace(rows, tokens=tokens), values, block.rng())
        drawn = self._completed(rows, block.seed, share)
        codes = np.where(given, encoded.codes, drawn.codes)
        return EncodedTable(codes, np.where(given, encoded.values, drawn.values))

    def _completed(
        self, rows: _Rows, seed: int, share: Mapping[int, torch.Tensor] | None = None
    ) -> EncodedTable:
        """Whole rows: tokens unmasked one after the other, then numbers denoised."""
        generator = torch_generator("cpu", self.name, seed)
        parts = []
        for part, count in rows.batches():
            # An error of one order is none of another: drawn orders halve those of the marginals.
            order = torch.randperm(part.tokens.shape[1], generator=generator).tolist()
            drawn, _ = self._unmask(part, order, generator, share or {})
            parts.append(self._denoised(drawn, generator).take(slice(count)))
        whole = _Rows.joined(parts) if parts else rows
        return self._decoded(whole, np.random.default_rng(seed))

    @torch.inference_mode()
    def _unmask(
        self,
        rows: _Rows,
        order: Sequence[int],
        generator: torch.Generator,
        share: Mapping[int, torch.Tensor],
    ) -> tuple[_Rows, torch.Tensor]:
        """Draw the unknown tokens of these columns.

        Args:
            rows: a micro batch.
            order: of the columns.
            generator: decides the draws.
            share: for some columns the share of each token that is allowed, (size,).

        Returns:
            The rows, and the log-probability that all drawn tokens were allowed, float64, (B,).
        """
        tokens, known = rows.tokens.clone(), rows.known.clone()
        inputs = self.network_.inputs(tokens, known, rows.seen())
        logs = torch.zeros(len(tokens), dtype=torch.float64)
        for at in order:
            here = known[:, at]
            if bool(here.all()):
                continue
            chances = self.network_.logits(inputs, at).softmax(1)
            if at in share:
                chances = chances * share[at]
                mass = chances.sum(1)
                logs += torch.where(here, 0.0, mass.double().log())
                chances[mass <= 0] = 1.0
            drawn = torch.multinomial(chances, 1, generator=generator)[:, 0]
            tokens[:, at] = torch.where(here, tokens[:, at], drawn)
            known[:, at] = True
            self.network_.show(inputs, tokens[:, at], at)
        return replace(rows, tokens=tokens, known=known), logs

    @torch.inference_mode()
    def _denoised(self, rows: _Rows, generator: torch.Generator) -> _Rows:
        """Rows of which all tokens are known, with a place for every number."""
        seen = rows.seen()
        open_ = self._between(rows.tokens) & (seen.sigma > 0)
        if not bool(open_.any()):
            return rows
        noise = torch.randn(open_.shape, generator=generator)

        def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
            places = seen.noisy(x, torch.full_like(x, sigma), open_)
            return denoised(self.network_, rows.tokens, rows.known, places)

        levels = noise_levels(self.evaluations + 1, top=_TOP)
        made = ipndm(denoise, _TOP * noise, levels)
        return replace(rows, places=torch.where(open_, made, rows.places))

    def _between(self, tokens: torch.Tensor) -> torch.Tensor:
        """Which of the columns with cells hold one, bool, (B, R)."""
        return tokens[:, self._numbers] >= torch.tensor(self._first_cells(), dtype=torch.int64)

    def _first_cells(self) -> list[int]:
        return [self.codec_.columns[column].size - 1 for column in self._numbers]

    def _decoded(self, rows: _Rows, rng: np.random.Generator) -> EncodedTable:
        tokens = rows.tokens.numpy()
        encoded = self.tokens_.decode(tokens, rng)
        for at, (column, first) in enumerate(zip(self._numbers, self._first_cells(), strict=True)):
            cells = self.tokens_.cells[column]
            assert cells is not None
            between = np.flatnonzero(tokens[:, column] >= first)
            place = ndtr(rows.places[between, at].double().numpy() / SIGMA_DATA)
            made = cells.pieces().at(tokens[between, column] - first, place)
            fixed = rows.values[between, column]
            encoded.values[between, column] = np.where(np.isfinite(fixed), fixed, made)
        return encoded

    def _network(self) -> Denoiser:
        sizes = self.tokens_.sizes
        embedding = self._embedding(len(sizes))
        ordered = [
            at
            for at, codec in enumerate(self.codec_.columns)
            if not codec.column.discrete and sizes[at] >= _LEAST_ORDERED
        ]
        return Denoiser(sizes, self._numbers, ordered, embedding, self.width)


def denoised(
    network: Denoiser, tokens: torch.Tensor, known: torch.Tensor, places: Places
) -> torch.Tensor:
    """The expected clean places D(x; sigma), (B, R)."""
    skip, out, _, _ = precondition(places.sigma)
    raw = network.raw(network.inputs(tokens, known, places))
    clean: torch.Tensor = skip * places.x + out * raw.float()
    return clean


@dataclass(frozen=True)
class _Rows:
    """Rows of which some cells are known.

    Attributes:
        tokens: int64, (N, S); what stands where nothing is known does not matter.
        known: bool, (N, S).
        places: of the numbers, (N, R), NaN where not known.
        values: of the cells whose value is given, float64, (N, S), else NaN.
    """

    tokens: torch.Tensor
    known: torch.Tensor
    places: torch.Tensor
    values: np.ndarray

    @classmethod
    def nothing(cls, n: int, tokens: TwoLevelTokens, numbers: Sequence[int]) -> _Rows:
        """Rows of which nothing is known."""
        shape = (n, len(tokens.sizes))
        return cls(
            torch.zeros(shape, dtype=torch.int64),
            torch.zeros(shape, dtype=torch.bool),
            torch.full((n, len(numbers)), math.nan),
            np.full(shape, np.nan),
        )

    @classmethod
    def joined(cls, parts: Sequence[_Rows]) -> _Rows:
        """The rows of all ``parts``."""
        return cls(
            torch.cat([part.tokens for part in parts]),
            torch.cat([part.known for part in parts]),
            torch.cat([part.places for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def take(self, rows: np.ndarray | slice) -> _Rows:
        """These rows."""
        return _Rows(self.tokens[rows], self.known[rows], self.places[rows], self.values[rows])

    def seen(self) -> Places:
        """The places that are known."""
        return Places.seen(self.places, ~self.places.isnan())

    def batches(self) -> Iterator[tuple[_Rows, int]]:
        """Micro batches of one shape, the last filled up with its last row; and their rows."""
        for start in range(0, len(self.tokens), _MICRO_BATCH):
            rows = np.arange(start, start + _MICRO_BATCH)
            count = min(_MICRO_BATCH, len(self.tokens) - start)
            yield self.take(np.minimum(rows, start + count - 1)), count


class _Training(HeldOutDescent[Denoiser]):
    """Both diffusions of one step: tokens are masked, or all are known and places get noise."""

    # What is learned by a cosine gains most when the rate is low.
    patience = 12
    judged = 1024

    def __init__(
        self,
        settings: TableDiffusion,
        tokens: torch.Tensor,
        places: torch.Tensor,
        total: int = 1000,
    ) -> None:
        device, network = tokens.device, settings._untrained(tokens.device)
        ranks = torch.from_numpy(settings._ranks(tokens.cpu().numpy())).float()
        network.order(ranks.to(device))
        self.places = places
        self.numbers = torch.tensor(settings._numbers, dtype=torch.int64, device=device)
        # The number of a row leads to its places, which are not whole.
        number = torch.arange(len(tokens), dtype=tokens.dtype, device=device)
        rows = torch.cat([tokens, number.unsqueeze(1)], dim=1)
        super().__init__(network, rows, settings, total)

    def losses(
        self, network: Denoiser, batch: torch.Tensor, random: torch.Generator
    ) -> torch.Tensor:
        """The bound of the masked diffusion in nats, and EDM's loss of the places; (S + R, B)."""
        tokens, places = batch[:, :-1], self.places[batch[:, -1]]
        bound = self._masked(network, tokens, places, random)
        if len(self.numbers) == 0:
            return bound
        return torch.cat([bound, self._noised(network, tokens, places, random)])

    def result(self) -> Denoiser:
        """The best average, folded, on the CPU."""
        network = super().result()
        network.fold()
        return network

    def _masked(
        self,
        network: Denoiser,
        tokens: torch.Tensor,
        places: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        """The continuous-time bound on minus the log-likelihood, nats, by tokens: (S, B).

        The number of known tokens is uniform, spread evenly over the batch, and so are their
        positions: the integral over the time of masking is then a sum without weights that blow
        up (Hoogeboom et al. 2021, arXiv 2110.02037, eq. 11).
        """
        rows, wide = tokens.shape
        even = torch.arange(rows, device=tokens.device)
        even = (even + self._uniform(rows, random=random)) / rows
        count = (even * wide).floor().clamp(max=wide - 1)
        rank = self._uniform(rows, wide, random=random).argsort(1).argsort(1)
        known = rank < count.unsqueeze(1)
        visible = self._some(places, random) & known[:, self.numbers]
        inputs = network.inputs(tokens, known, Places.seen(places, visible))
        return network.losses(inputs, tokens) * ~known.t() * wide / (wide - count)

    def _noised(
        self,
        network: Denoiser,
        tokens: torch.Tensor,
        places: torch.Tensor,
        random: torch.Generator,
    ) -> torch.Tensor:
        """EDM's weighted squared error of places that have noise, all tokens known; (R, B)."""
        mean, deviation = _LEVEL
        shape = (len(tokens), 1)
        draw = torch.randn(shape, generator=random, device=tokens.device)
        sigma = (mean + deviation * draw).exp().expand(places.shape)
        noise = torch.randn(places.shape, generator=random, device=tokens.device)
        clean = self._some(places, random)
        learned = ~places.isnan() & ~clean
        x = torch.where(learned, places + sigma * noise, 0.0)
        seen = Places.seen(places, clean).noisy(x, sigma, learned)
        known = torch.ones_like(tokens, dtype=torch.bool)
        skip, out, _, _ = precondition(sigma)
        target = torch.where(learned, (places - skip * x) / out, 0.0)
        raw = network.raw(network.inputs(tokens, known, seen)).float()
        return ((raw - target).square() * learned).t()

    def _some(self, places: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """Which places are given: none of half of the rows, a random share of the others'."""
        share = 2.0 * self._uniform(len(places), 1, random=random) - 1.0
        return (self._uniform(*places.shape, random=random) < share) & ~places.isnan()

    def _uniform(self, *shape: int, random: torch.Generator) -> torch.Tensor:
        return torch.rand(shape, generator=random, device=random.device)
