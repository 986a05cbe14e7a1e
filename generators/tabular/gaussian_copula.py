"""A Gaussian copula over the cells of the columns, in closed form.

Sklar (1959); for mixed columns each cell is an interval of a normal variable, and the correlation
behind two columns is the one at which their normal scores vary together as in the table, solved
from the Hermite expansion (Xiao 2014, "Evaluating correlation coefficient for Nataf
transformation"). Under conditions the given columns are drawn first, one after the other, and
candidates are weighted (Genz 1992, "Numerical computation of multivariate normal probabilities").
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy.special import ndtr, ndtri

from generators.base import OnProgress, Progress
from generators.encoding import EncodedTable
from generators.tabular.cell_model import CellModel, chunks
from generators.tabular.cells import draw_each
from generators.tabular.ordering import mutual_information, scales
from generators.tabular.resampling import systematic

_TERMS = 24
_HALVINGS = 40
# Normal variables stay within this many standard deviations.
_REACH = 8.0
# Rows drawn for each that is kept, under conditions.
_CANDIDATES = 8
# The least eigenvalue of the correlation.
_LEAST = 1e-6
# Numbers of the factors of all rows that are in memory at once, about at most.
_MOST_NUMBERS = 2**24
# Keeps what is all but impossible possible, where it is given.
_TINY = 1e-300
# Conditions that no candidate makes likelier than this have no support.
_NO_SUPPORT = 1e-12


@dataclass(kw_only=True)
class GaussianCopula(CellModel):
    """A Gaussian copula: the columns' own marginals, joined by one matrix of correlations.

    Attributes:
        cells: of each column, about, fewer in tables of few rows; a category has one for each
            level but the rarest.
    """

    cells: int = 128

    name: ClassVar[str] = "gaussian-copula"
    rows_per_cell: ClassVar[int] = 16
    suits: ClassVar[str] = "the floor that keeps correlations, in a second; nothing to tune"

    def _learn(self, encoded: EncodedTable, states: np.ndarray, progress: OnProgress) -> None:
        begin = time.perf_counter()
        self.places_ = self._ordered(encoded, states)
        placed = [place[states[:, at]] for at, place in enumerate(self.places_)]
        shares = [
            np.bincount(p, minlength=len(q)) for p, q in zip(placed, self.places_, strict=True)
        ]
        edges = [_edges(share / len(states)) for share in shares]
        columns = zip(edges, placed, strict=True)
        scores = np.column_stack([_scores(edge)[place] for edge, place in columns])
        progress(Progress("fit", 1, 2, time.perf_counter() - begin))
        wanted = np.cov(scores, rowvar=False, bias=True).reshape(scores.shape[1], -1)
        expansion = np.stack([_expansion(edge) for edge in edges])
        self.correlation_ = definite(latent_correlation(expansion, wanted))
        self.edges_ = np.full((len(edges), max(map(len, edges))), np.inf)
        for at, edge in enumerate(edges):
            self.edges_[at, : len(edge)] = edge
        progress(Progress("fit", 2, 2, time.perf_counter() - begin))

    def _ordered(self, encoded: EncodedTable, states: np.ndarray) -> list[np.ndarray]:
        """The place of each cell of each column: numbers in order, categories in a telling one."""
        information = mutual_information(encoded, self.codec_, self.seed)
        places = []
        for at, scale in enumerate(scales(self.codec_, encoded, information)):
            size = self.cells_.sizes[at]
            place = np.arange(size)
            if self.codec_.columns[at].column.discrete:
                scores = scale(encoded.codes[:, at], encoded.values[:, at])
                counts = np.bincount(states[:, at], minlength=size)
                mean = np.bincount(states[:, at], scores, minlength=size) / np.maximum(counts, 1)
                place[np.argsort(mean, kind="stable")] = np.arange(size)
            places.append(place)
        return places

    def _draw(
        self, evidence: list[np.ndarray] | None, n: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        wide = len(self.places_)
        if evidence is None:
            factor = np.linalg.cholesky(self.correlation_)
            return self._cells(self._places(rng.standard_normal((n, wide)) @ factor.T))
        shared = all(len(each) == 1 for each in evidence)
        rows = 1 if shared else n
        weights = np.zeros((rows, wide, self.edges_.shape[1] - 1))
        asked = np.zeros((rows, wide), dtype=bool)
        for at, (each, place) in enumerate(zip(evidence, self.places_, strict=True)):
            weights[:, at, place] = each
            asked[:, at] = (each != 1).any(axis=1)
        made = np.zeros((n, wide), np.int64)
        # Every row may have a factor of its own.
        for part in chunks(n, min(1024, max(16, _MOST_NUMBERS // wide**2))):
            mine = slice(None) if shared else part
            drawn = self._given(weights[mine], asked[mine], len(made[part]), rng)
            if drawn is None:
                return None
            made[part] = drawn
        return self._cells(made)

    def _given(
        self, weights: np.ndarray, asked: np.ndarray, n: int, rng: np.random.Generator
    ) -> np.ndarray | None:
        """Places of the cells of ``n`` rows.

        Args:
            weights: of the places, shape (n or 1, D, places).
            asked: which columns they say something of, shape (n or 1, D).
            n: number of rows.
            rng: decides all draws.
        """
        shared = len(weights) == 1
        order = np.argsort(~asked, axis=1, kind="stable")
        factors = np.linalg.cholesky(self.correlation_[order[:, :, None], order[:, None, :]])
        mine = np.repeat(np.arange(n), _CANDIDATES) * (not shared)
        steps = int(asked.sum(axis=1).max())
        normals, logs = np.zeros((len(mine), order.shape[1])), np.zeros(len(mine))
        places = np.zeros((len(mine), steps), np.int64)
        for step in range(steps):
            column, factor = order[mine, step], factors[mine, step]
            mean = (factor[:, :step] * normals[:, :step]).sum(axis=1)
            edges = (self.edges_[column] - mean[:, None]) / factor[:, step, None]
            below = ndtr(edges)
            chances = (np.diff(below, axis=1) + _TINY) * weights[mine, column]
            logs += np.log(np.maximum(chances.sum(axis=1), _TINY))
            places[:, step] = draw_each(chances, rng)
            low, high = (
                np.take_along_axis(below, places[:, step, None] + side, axis=1)[:, 0]
                for side in (0, 1)
            )
            uniform = low + rng.random(len(mine)) * (high - low)
            normals[:, step] = ndtri(uniform).clip(-_REACH, _REACH)
        if shared and not np.exp(logs.max(initial=-np.inf)) > _NO_SUPPORT:
            return None
        kept = _kept(logs, n, rng, shared=shared)
        normals, mine = normals[kept], mine[kept]
        normals[:, steps:] = rng.standard_normal((n, order.shape[1] - steps))
        latent = np.empty((n, order.shape[1]))
        drawn = np.einsum("nde,ne->nd", factors[mine], normals)
        np.put_along_axis(latent, order[mine], drawn, axis=1)
        made = self._places(latent)
        # What was drawn within its cell must stay there, whatever the rounding.
        np.put_along_axis(made, order[mine, :steps], places[kept], axis=1)
        return made

    def _places(self, latent: np.ndarray) -> np.ndarray:
        """The places of the cells that normal variables (N, D) fall into."""
        made = np.empty(latent.shape, np.int64)
        for at, place in enumerate(self.places_):
            inner = self.edges_[at, 1 : len(place)]
            made[:, at] = np.searchsorted(inner, latent[:, at], side="right")
        return made

    def _cells(self, places: np.ndarray) -> np.ndarray:
        """Cells (N, D) of places."""
        columns = [np.argsort(place)[places[:, at]] for at, place in enumerate(self.places_)]
        return np.column_stack(columns)

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, state = super()._state()
        places = {f"place.{at}": place for at, place in enumerate(self.places_)}
        own = {"correlation": self.correlation_, "edges": self.edges_}
        return {**arrays, **places, **own}, state

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        super()._restore(arrays, state)
        self.places_ = [arrays[f"place.{at}"] for at in range(len(self.codec_.columns))]
        self.correlation_, self.edges_ = arrays["correlation"], arrays["edges"]


def latent_correlation(expansion: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The correlation of normal variables whose scores have the covariance ``wanted`` (D, D).

    Two scores with the coefficients a and b have the covariance sum of rho^k a_k b_k.

    Args:
        expansion: of each score in normalised Hermite polynomials of degree 1, 2, ...; (D, terms).
        wanted: covariances; those out of reach give the nearest, of constants 0.
    """
    terms = expansion[:, None] * expansion[None]
    power = np.arange(1, expansion.shape[1] + 1)
    low, high = np.full(wanted.shape, -1.0), np.full(wanted.shape, 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = (terms * middle[..., None] ** power).sum(axis=2) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    found = np.where(np.abs(terms[..., 0]) > 1e-9, (low + high) / 2, 0.0)
    np.fill_diagonal(found, 1.0)
    return found


def definite(correlation: np.ndarray) -> np.ndarray:
    """The matrix with its eigenvalues raised to be positive and its diagonal scaled to one."""
    values, vectors = np.linalg.eigh((correlation + correlation.T) / 2)
    raised = (vectors * np.maximum(values, _LEAST)) @ vectors.T
    scale = np.sqrt(np.diag(raised))
    made: np.ndarray = raised / np.outer(scale, scale)
    return made


def _edges(shares: np.ndarray) -> np.ndarray:
    """Between which normal quantiles each place lies, from -inf to inf; (places + 1,)."""
    inner = ndtri(np.minimum(np.cumsum(shares[:-1]), 1.0))
    return np.concatenate([[-np.inf], inner, [np.inf]])


def _densities(edges: np.ndarray) -> np.ndarray:
    density: np.ndarray = np.exp(-0.5 * edges**2) / np.sqrt(2 * np.pi)
    return density


def _scores(edges: np.ndarray) -> np.ndarray:
    """The mean of the normal variable within each place."""
    mass, density = np.diff(ndtr(edges)), _densities(edges)
    scores: np.ndarray = np.divide(
        density[:-1] - density[1:], mass, out=np.zeros_like(mass), where=mass > 0
    )
    return scores


def _expansion(edges: np.ndarray) -> np.ndarray:
    """Coefficients of the scores in normalised Hermite polynomials, shape (_TERMS,)."""
    scores, density = _scores(edges), _densities(edges)
    finite = np.where(np.isfinite(edges), edges, 0.0)
    before, now = np.zeros_like(finite), np.ones_like(finite)
    made = np.empty(_TERMS)
    for degree in range(1, _TERMS + 1):
        # The integral of He_k times the density is minus He_(k - 1) times the density.
        flow = now * density
        made[degree - 1] = (scores * (flow[:-1] - flow[1:])).sum() / np.sqrt(degree)
        # Normalised: He_(k + 1) = x He_k - k He_(k - 1), each over the root of its factorial.
        before, now = now, (finite * now - np.sqrt(degree - 1) * before) / np.sqrt(degree)
    return made


def _kept(logs: np.ndarray, n: int, rng: np.random.Generator, *, shared: bool) -> np.ndarray:
    """The candidates that become rows, by the logs of their weights."""
    if shared:
        return rng.permutation(systematic(np.exp(logs - logs.max()), n, rng))
    each = logs.reshape(n, _CANDIDATES)
    # The greatest of the logs with Gumbel noise is a draw by the weights.
    best = np.argmax(each + rng.gumbel(size=each.shape), axis=1)
    kept: np.ndarray = np.arange(n) * _CANDIDATES + best
    return kept
