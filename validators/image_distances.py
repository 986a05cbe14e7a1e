"""Distances between two samples of points, such as images as a network sees them.

Pure functions of float arrays of shape (N, F); none draws at random but ``detection_auc`` and
``sliced_wasserstein``, which are given their generator. Every one of them depends on N, so that
its value means something beside that of two real samples of the same size only.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier

from .statistics import Estimate, auc_with_interval

NEIGHBOURS = 5


def frechet_distance(first: np.ndarray, other: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two samples, shape (N, F) each.

    Source: Dowson & Landau 1982, J. Multivariate Analysis 12, 450; Heusel et al. 2017.
    """
    shift = first.mean(axis=0) - other.mean(axis=0)
    one, two = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (first, other))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    between = np.linalg.eigvalsh(root @ two @ root)
    overlap = np.sqrt(np.maximum(between, 0)).sum()
    distance = shift @ shift + np.trace(one) + np.trace(two) - 2 * overlap
    return max(0.0, float(distance))


def kernel_distance(first: np.ndarray, other: np.ndarray) -> float:
    """Unbiased squared maximum mean discrepancy with the cubic kernel (x·y / F + 1)³.

    Source: Bińkowski et al. 2018, Demystifying MMD GANs, arXiv:1801.01401.
    """
    width = first.shape[1]
    within = []
    for sample in (first, other):
        kernel = (sample @ sample.T / width + 1) ** 3
        size = len(sample)
        within.append((kernel.sum() - np.trace(kernel)) / (size * (size - 1)))
    between = ((first @ other.T / width + 1) ** 3).mean()
    return float(sum(within) - 2 * between)


def sliced_wasserstein(
    first: np.ndarray, other: np.ndarray, rng: np.random.Generator, directions: int = 64
) -> float:
    """Mean squared Wasserstein-2 distance of two equally large samples along random directions.

    Sees shapes that mean and covariance do not. Source: Bonneel et al. 2015, J. Math. Imaging and
    Vision 51, 22.
    """
    along = rng.standard_normal((first.shape[1], directions))
    along /= np.linalg.norm(along, axis=0)
    one, two = (np.sort(sample @ along, axis=0) for sample in (first, other))
    return float(((one - two) ** 2).mean())


def coverage(candidate: np.ndarray, holdout: np.ndarray) -> float:
    """Share of holdout points with a candidate within the distance of their k-th neighbour.

    Source: Naeem et al. 2020, arXiv:2002.09797, equation 10, k = 5.
    """
    radius = _radius(holdout)
    return float((squared_distances(holdout, candidate).min(axis=1) <= radius).mean())


def clipped_coverage(candidate: np.ndarray, holdout: np.ndarray) -> float:
    """The share of candidate points that, were the rest far off, would reach as much as these do.

    Of every holdout point's ball (to its k-th neighbour) the candidates in it are counted, up to
    k; then the expectation of that count is inverted, so that the value falls in proportion to
    the useless candidates, and an outlier cannot make up for them. It is 1 on average, and may be
    more by chance, where both samples have one law.

    Source: clipped coverage of arXiv:2507.01761. The expectation: a ball that holds the k nearest
    of N - 1 points has a mass of law Beta(k, N - k).
    """
    k = _neighbours(len(holdout))
    within = squared_distances(holdout, candidate) <= _radius(holdout)[:, None]
    reached = float(np.minimum(within.sum(axis=1) / k, 1).mean())
    expected = _expected_reach(2 * len(candidate), k, len(holdout))
    return float(np.interp(reached, expected, np.arange(len(expected)))) / len(candidate)


def clipped_density(candidate: np.ndarray, holdout: np.ndarray) -> float:
    """How much candidates lie where holdout points are, from 0 to 1: do images look real?

    Of every candidate the balls of holdout points around it are counted, up to k; no ball is
    larger than the median one, so that an outlier's does not call everything real.

    Source: clipped density of arXiv:2507.01761.
    """
    k = _neighbours(len(holdout))
    radius = _radius(holdout)
    within = squared_distances(holdout, candidate) <= np.minimum(radius, np.median(radius))[:, None]
    return float(np.minimum(within.sum(axis=0) / k, 1).mean())


def detection_auc(synthetic: np.ndarray, holdout: np.ndarray, rng: np.random.Generator) -> Estimate:
    """AUC of boosted trees that tell two samples apart, two-fold out of fold."""
    data = np.vstack([synthetic, holdout])
    labels = np.repeat([1, 0], [len(synthetic), len(holdout)])
    fold = rng.permutation(len(data)) % 2
    scores = np.empty(len(data))
    for part in (0, 1):
        model = HistGradientBoostingClassifier(
            max_iter=40, max_leaf_nodes=15, early_stopping=False, random_state=0
        )
        model.fit(data[fold != part], labels[fold != part])
        scores[fold == part] = model.decision_function(data[fold == part])
    return auc_with_interval(scores[labels == 1], scores[labels == 0])


def squared_distances(first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances, shape (N, M)."""
    squares = first @ other.T
    squares *= -2
    squares += np.einsum("ij,ij->i", first, first)[:, None]
    squares += np.einsum("ij,ij->i", other, other)
    found: np.ndarray = np.maximum(squares, 0, out=squares)
    return found


def spread(points: np.ndarray) -> float:
    """Root mean variance over the features; a dead feature does not blow up the others."""
    return float(np.sqrt(points.var(axis=0).mean())) or 1.0


def _neighbours(n: int) -> int:
    return min(NEIGHBOURS, n - 1)


def _radius(points: np.ndarray) -> np.ndarray:
    """Squared distance of every point to its k-th neighbour."""
    k = _neighbours(len(points))
    within = squared_distances(points, points)
    np.fill_diagonal(within, -1)
    nearest: np.ndarray = np.partition(within, k, axis=1)[:, k]
    return nearest


@lru_cache(maxsize=64)
def _expected_reach(most: int, k: int, holdout: int) -> np.ndarray:
    """Mean of min(count, k) / k where 0 to ``most`` candidates have the law of the holdout."""
    counts = np.arange(k)[:, None]
    chance = stats.betabinom.pmf(counts, np.arange(most + 1)[None, :], k, holdout - k)
    missing: np.ndarray = ((k - counts) * chance).sum(axis=0)
    return 1 - missing / k
