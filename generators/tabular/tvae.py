"""TVAE: a variational autoencoder for tables, written from the paper.

Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019), Modeling Tabular Data using Conditional
GAN, arXiv 1907.00503, section 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..checkpoint import Parts
from ..replay import Replayed, replayable
from ..training import build, torch_generator
from .latent import Outputs
from .neural import (
    Columns,
    Latents,
    NeuralTable,
    ResidentTable,
    TableTraining,
    check_positive,
    check_widths,
)
from .perceptron import Perceptron

_STD_RANGE = (0.01, 1.0)


class Reparametrised(torch.autograd.Function):
    """A draw of z from N(mean, variance), and the divergence of that from N(0, 1).

    Kingma, Welling (2014), arXiv 1312.6114, appendix B. Both gradients are written out: autograd
    would pass over the batch three times as often. A column is a row of the table.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        posterior: torch.Tensor,
        noise: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(2 * latent, B), means first, and (latent, B) -> z (latent, B) and a scalar."""
        mean, log_variance = posterior.chunk(2)
        std = (0.5 * log_variance).exp_()
        ctx.save_for_backward(mean, std, noise)
        squares = sum(torch.dot(part.reshape(-1), part.reshape(-1)) for part in (mean, std))
        divergence = 0.5 * (squares - log_variance.sum() - mean.numel())
        return torch.addcmul(mean, std, noise), divergence

    @staticmethod
    def backward(
        ctx: Any,  # noqa: ANN401 - torch's own signature
        by_z: torch.Tensor,
        by_divergence: torch.Tensor,
    ) -> tuple[torch.Tensor, None]:
        """The gradient by the posterior."""
        mean, std, noise = ctx.saved_tensors
        by_posterior = mean.new_empty(2 * len(mean), mean.shape[1])
        by_mean, by_log_variance = by_posterior.chunk(2)
        torch.addcmul(by_z, by_divergence, mean, out=by_mean)
        by_std = torch.addcmul(by_divergence * std, by_z, noise)
        torch.addcmul(-0.5 * by_divergence, by_std, std, value=0.5, out=by_log_variance)
        return by_posterior, None


class Decoder(nn.Module):
    """z -> alphas' means and tokens' logits; the alphas' deviations are parameters of their own."""

    def __init__(self, latent: int, widths: tuple[int, ...], scalars: int, tokens: int) -> None:
        super().__init__()
        self.scalars = scalars
        self.stack = Perceptron(latent, widths, scalars + tokens)
        self.std = AlphaStd(scalars)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, latent) -> means (B, A) and logits (B, K)."""
        out = self.stack(z)
        return out[:, : self.scalars].tanh(), out[:, self.scalars :]

    def across(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of columns in the precision of ``z``: (latent, B) -> (A, B) and (K, B)."""
        out = self.stack.across(z)
        means, logits = torch.split(out, [self.scalars, len(out) - self.scalars])
        return means.float().tanh(), logits


class AlphaStd(nn.Module):
    """The standard deviation of each alpha, shape (A,)."""

    def __init__(self, scalars: int) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.empty(scalars))

    def initialise(self, _: torch.Generator) -> None:
        """A tenth of alpha's range to begin with."""
        self.log.fill_(-2.3)

    def forward(self) -> torch.Tensor:
        """Within the range that keeps the likelihood bounded."""
        return self.log.exp().clamp(*_STD_RANGE)


@dataclass(kw_only=True)
class TVAE(NeuralTable):
    """Tabular variational autoencoder (arXiv 1907.00503).

    Attributes:
        embedding_dim: length of the latent vector.
        compress_dims: widths of the encoder's hidden layers.
        decompress_dims: widths of the decoder's hidden layers.
        lr: learning rate (Adam) for 500 rows per step; it grows with the root of the batch
            (Malladi et al. 2022, arXiv 2205.10287).
        l2scale: weight decay.
        loss_factor: weight of the reconstruction against the divergence.
    """

    embedding_dim: int = 128
    compress_dims: tuple[int, ...] = (128, 128)
    decompress_dims: tuple[int, ...] = (128, 128)
    lr: float = 1e-3
    l2scale: float = 1e-5
    loss_factor: float = 2.0

    name: ClassVar[str] = "tvae"
    suits: ClassVar[str] = "to compare with the literature, in less time than `ctgan`"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.compress_dims = tuple(self.compress_dims)
        self.decompress_dims = tuple(self.decompress_dims)
        check_positive(
            self.name, embedding_dim=self.embedding_dim, lr=self.lr, loss_factor=self.loss_factor
        )
        check_widths(
            self.name, compress_dims=self.compress_dims, decompress_dims=self.decompress_dims
        )

    def _network(self) -> Decoder:
        scalars, tokens = len(self.layout_.continuous), sum(self.layout_.sizes)
        return Decoder(self.embedding_dim, self.decompress_dims, scalars, tokens)

    def _training(self, table: ResidentTable) -> TableTraining:
        return _Training(self, table)

    def _latents(self, n: int, generator: torch.Generator) -> Latents:
        return (torch.randn(n, self.embedding_dim, generator=generator),)

    def _outputs(self, *latents: torch.Tensor) -> Outputs:
        means, logits = self.network_(*latents)
        return Outputs(logits, means, self.network_.std())


class _Training:
    """Encoder, decoder, their optimiser and one step."""

    def __init__(self, settings: TVAE, table: ResidentTable) -> None:
        self.settings, self.table = settings, table
        self.dtype = settings.product_dtype(table.device)
        self.batch = min(settings.rows_per_step(len(table)), len(table))
        self.steps = len(table) // self.batch
        self.random = torch_generator(table.device, settings.name, settings.seed, "steps")
        self.decoder: Decoder = settings.network_.train()
        weights = torch_generator("cpu", settings.name, settings.seed, "encoder")
        self.encoder = build(
            lambda: Perceptron(table.width, settings.compress_dims, 2 * settings.embedding_dim),
            table.device,
            weights,
        )
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        rate = settings.rate(settings.lr, self.batch)
        usable = replayable(table.device)
        self.adam = torch.optim.Adam(parameters, lr=rate, weight_decay=settings.l2scale, **usable)
        self.descent = Replayed(self._descend, self.random)
        self.optimisers: list[torch.optim.Optimizer] = [self.adam]
        # A buffer of a module, so that a checkpoint holds the epoch's order.
        self.epoch = nn.Module()
        order = torch.zeros(len(table), dtype=torch.int64, device=table.device)
        self.epoch.register_buffer("order", order)

    def step(self, index: int) -> torch.Tensor:
        """One update; gives the loss per row."""
        at = index % self.steps
        if at == 0:
            device = self.table.device
            order = torch.randperm(len(self.table), generator=self.random, device=device)
            self.order.copy_(order)
        return self.descent(self.order[at * self.batch : (at + 1) * self.batch])

    @property
    def order(self) -> torch.Tensor:
        """The rows of the table in this epoch's order."""
        order: torch.Tensor = self.epoch.get_buffer("order")
        return order

    def parts(self) -> Parts:
        """All that ``step`` changes."""
        return {
            "decoder": self.decoder,
            "encoder": self.encoder,
            "adam": self.adam,
            "descent": self.descent,
            "epoch": self.epoch,
            "random": self.random,
        }

    @torch.no_grad()
    def tokens(self, n: int) -> torch.Tensor:
        """The tokens of ``n`` rows of the decoder as it is, int64, shape (n, D)."""
        settings, device = self.settings, self.table.device
        random = torch_generator(device, settings.name, settings.seed, "judged")
        z = torch.randn(n, settings.embedding_dim, generator=random, device=device)
        return self.table.spans.draw(self.decoder(z)[1], random)

    def finish(self) -> None:
        """The decoder is ready as it is."""

    def _descend(self, rows: torch.Tensor) -> torch.Tensor:
        loss = self.loss(rows)
        self.adam.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        self.adam.step()
        return loss.detach()

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        """The negative evidence lower bound per row, its reconstruction ``loss_factor`` times."""
        shape, device = (self.settings.embedding_dim, len(rows)), self.table.device
        noise = torch.randn(shape, generator=self.random, device=device)
        columns = self.table.columns(rows)
        posterior = self.encoder.across(columns.dense(self.dtype)).float()
        z, divergence = Reparametrised.apply(posterior, noise)  # type: ignore[no-untyped-call]
        means, logits = self.decoder.across(z.to(self.dtype))
        tokens = self.table.spans.cross_entropy(logits, columns.places)
        reconstruction = tokens + self.alpha_loss(means, columns)
        loss: torch.Tensor = self.settings.loss_factor * reconstruction + divergence
        return loss / len(rows)

    def alpha_loss(self, means: torch.Tensor, columns: Columns) -> torch.Tensor:
        """Gaussian log loss of the alphas, where the token is a mode and alpha means something."""
        std = self.decoder.std()[:, None]
        z = (columns.alphas - means) / std
        loss: torch.Tensor = ((0.5 * z**2 + std.log()) * columns.has_alpha).sum()
        return loss
