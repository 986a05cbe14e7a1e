"""Exact nearest neighbours among mixed rows and among images, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import cdist

from validators.binning import TableView

_CHUNK_CELLS = 4_000_000
"""Distances held at once: 32 MB."""


@dataclass(frozen=True)
class MixedPoints:
    """Rows as points of a Gower-like space; each column weighs about the same.

    Attributes:
        numbers: float64 (N, D_num), scaled by the real range; a missing number sits at the median.
        marks: float64 (N, D_mark), categories and missing flags; unequal ones are 1 apart.
    """

    numbers: np.ndarray
    marks: np.ndarray

    @classmethod
    def of(cls, view: TableView) -> MixedPoints:
        """The points of an encoded table."""
        marks = np.hstack([view.categories, view.missing]).astype(np.float64)
        return cls(view.numbers.astype(np.float64), marks)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: np.ndarray) -> MixedPoints:
        """The points of these row numbers."""
        return MixedPoints(self.numbers[rows], self.marks[rows])

    def distances(self, other: MixedPoints) -> np.ndarray:
        """L1 distance of the numbers plus the number of unequal marks, shape (N, other's N)."""
        total = np.zeros((len(self), len(other)))
        if self.numbers.shape[1]:
            cdist(self.numbers, other.numbers, "cityblock", out=total)
        if self.marks.shape[1]:
            unequal = cdist(self.marks, other.marks, "hamming")
            unequal *= self.marks.shape[1]
            total += unequal
        return total


@dataclass(frozen=True)
class PixelPoints:
    """Images as points.

    Attributes:
        pixels: float64 (N, D); whole numbers keep distances exact.
    """

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> PixelPoints:
        """The points of these row numbers."""
        return PixelPoints(self.pixels[rows])

    def distances(self, other: PixelPoints) -> np.ndarray:
        """Euclidean distances, shape (N, other's N)."""
        squares = self.pixels @ other.pixels.T
        squares *= -2
        squares += np.einsum("ij,ij->i", self.pixels, self.pixels)[:, None]
        squares += np.einsum("ij,ij->i", other.pixels, other.pixels)
        np.maximum(squares, 0, out=squares)
        np.sqrt(squares, out=squares)
        distances: np.ndarray = squares
        return distances


@dataclass(frozen=True)
class ShiftedPoints:
    """Images that are compared at every shift by a pixel, as they are and mirrored.

    The middle of a query, without its border, is laid upon the other image in nine places and in
    both orientations; the smallest distance counts. A copy that was moved by a pixel, or
    mirrored, is at distance 0.

    Attributes:
        pixels: float32 (N, H, W, C).
    """

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: np.ndarray) -> ShiftedPoints:
        """The images at these row numbers."""
        return ShiftedPoints(self.pixels[rows])

    def distances(self, other: ShiftedPoints) -> np.ndarray:
        """Smallest Euclidean distances, shape (N, other's N)."""
        margin = 1 if min(self.pixels.shape[1:3]) > 4 else 0
        height, width = (side - 2 * margin for side in self.pixels.shape[1:3])
        middle = self.pixels[:, margin : margin + height, margin : margin + width]
        faces = [_flat(middle), _flat(middle[:, :, ::-1])]
        # Of |a - b|² = |a|² - 2ab + |b|² the first part is the same in all places.
        least = np.full((len(self), len(other)), np.inf, dtype=np.float32)
        for top in range(2 * margin + 1):
            for left in range(2 * margin + 1):
                window = _flat(other.pixels[:, top : top + height, left : left + width])
                length = np.einsum("ij,ij->i", window, window)
                for face in faces:
                    np.minimum(least, length - 2 * (face @ window.T), out=least)
        least += np.einsum("ij,ij->i", faces[0], faces[0])[:, None]
        distances: np.ndarray = np.sqrt(np.maximum(least, 0))
        return distances


Points = MixedPoints | PixelPoints | ShiftedPoints
ImagePoints = PixelPoints | ShiftedPoints


def _flat(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.reshape(len(images), -1))


def nearest(queries: Points, reference: Points, k: int = 1) -> np.ndarray:
    """Distances to the ``k`` nearest points of ``reference``, ascending, shape (N, k).

    Exact: the reference is never subsampled here. Where it has fewer than ``k`` points, the last
    distance is repeated.
    """
    k_found = min(k, len(reference))
    found = np.empty((len(queries), k_found))
    step = max(1, _CHUNK_CELLS // max(len(reference), 1))
    for start in range(0, len(queries), step):
        rows = np.arange(start, min(start + step, len(queries)))
        found[rows] = _smallest(_between(queries, rows, reference), k_found)
    repeats = np.minimum(np.arange(k), k_found - 1)
    return found[:, repeats]


def nearest_rows(queries: Points, reference: Points, k: int = 1) -> np.ndarray:
    """Row numbers of the ``k`` nearest points of ``reference``, (N,) or, for k > 1, (N, k).

    Not ordered by distance; of equally near points the first is taken where k is 1.
    """
    found = np.empty((len(queries), k), dtype=np.int64)
    step = max(1, _CHUNK_CELLS // max(len(reference), 1))
    for start in range(0, len(queries), step):
        rows = np.arange(start, min(start + step, len(queries)))
        between = _between(queries, rows, reference)
        if k == 1:
            found[rows, 0] = between.argmin(axis=1)
        else:
            found[rows] = np.argpartition(between, k - 1, axis=1)[:, :k]
    return found[:, 0] if k == 1 else found


def _between(queries: Points, rows: np.ndarray, reference: Points) -> np.ndarray:
    between: Callable[[Points], np.ndarray] = queries.take(rows).distances  # type: ignore[assignment]
    return between(reference)


def _smallest(distances: np.ndarray, k: int) -> np.ndarray:
    if k == 1:
        smallest: np.ndarray = distances.min(axis=1, keepdims=True)
        return smallest
    if k < distances.shape[1]:
        distances.partition(k - 1, axis=1)
    return np.sort(distances[:, :k], axis=1)
