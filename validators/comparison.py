"""The three datasets that are compared, encoded once for all validators.

The reference notes ask validators for ``(synthetic, train, holdout, schema, seed)``; these five
travel together, and every metric needs the same codes, so they are one object with cached views.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from generators.base import SchemaError, derive_seed
from generators.schema import Data, Images, ImageSchema, Schema, TableSchema

from .binning import BINS, COARSE_BINS, TableEncoding, encode

if TYPE_CHECKING:
    from .image_encoder import Encoder
    from .image_features import ImageFeatures


@dataclass(frozen=True)
class ModelLosses:
    """How badly a fitted model explains real images, by noise level: lower for what it has learned.

    Whoever holds the model computes them; measuring needs no generator.

    Attributes:
        members: of images that it was fitted on, shape (N, levels).
        others: of holdout images, shape (M, levels).
    """

    members: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class Rows:
    """Row numbers of a subsample, sorted: equally many of each of the three datasets."""

    train: np.ndarray
    holdout: np.ndarray
    synthetic: np.ndarray

    def __len__(self) -> int:
        return len(self.synthetic)


@dataclass(frozen=True)
class Comparison:
    """Synthetic data beside the real data it was learned from and a holdout it never saw.

    Attributes:
        synthetic: what is judged.
        train: the rows (images) that the generator was fitted on.
        holdout: rows of the same source that it has not seen.
        schema: describes all three.
        seed: of every random choice that a metric makes.
        entity: columns that together identify a subject, where rows of one belong together;
            train and holdout must not share subjects.
        encoder: a pretrained network for images, where the user has one.
        losses: what the fitted model itself says of real images, where it is at hand.
    """

    synthetic: Data
    train: Data
    holdout: Data
    schema: Schema
    seed: int = 0
    entity: tuple[str, ...] = ()
    encoder: Encoder | None = None
    losses: ModelLosses | None = None

    @cached_property
    def beside(self) -> Comparison | None:
        """The rows that stand beside the images, compared as tables; None without any."""
        schema = self.schema.table if isinstance(self.schema, ImageSchema) else None
        if schema is None:
            return None
        synthetic, train, holdout = (
            part.rows if isinstance(part, Images) else None
            for part in (self.synthetic, self.train, self.holdout)
        )
        if synthetic is None or train is None or holdout is None:
            raise SchemaError("images with a table must have rows, some have none; give them")
        return Comparison(synthetic, train, holdout, schema, self.seed, entity=self.entity)

    def rng(self, metric: str) -> np.random.Generator:
        """A generator that depends on the seed and the metric's name alone."""
        return np.random.default_rng(derive_seed("validate", metric, self.seed))

    def seed_for(self, metric: str) -> int:
        """A 32-bit seed for scikit-learn that depends on the seed and the metric's name alone."""
        return derive_seed("validate", metric, self.seed) % 2**32

    @property
    def equal_size(self) -> int:
        """The number of rows that all three datasets can give."""
        return min(len(self.synthetic), len(self.train), len(self.holdout))

    def equal_rows(self, metric: str, limit: int | None = None) -> Rows:
        """Random row numbers without replacement, equally many of each dataset.

        Statistics that depend on n are compared at equal n only; the statistic is never rescaled.
        """
        size = self.equal_size if limit is None else min(self.equal_size, limit)
        rng = self.rng(f"rows/{metric}")
        train, holdout, synthetic = (
            np.sort(rng.choice(len(data), size=size, replace=False))
            for data in (self.train, self.holdout, self.synthetic)
        )
        return Rows(train, holdout, synthetic)

    def subjects(self, frame: pd.DataFrame) -> np.ndarray:
        """A number for the subject of each row; every row is its own where no entity is known."""
        names = [name for name in self.entity if name in frame.columns]
        if not names:
            return np.arange(len(frame))
        grouped = frame.groupby(names, dropna=False, sort=False, observed=True)
        return grouped.ngroup().to_numpy()

    @cached_property
    def table(self) -> TableEncoding:
        """The three tables in cells (at most about 50 per column) and scaled numbers.

        Raises:
            SchemaError: the data are images, or a table lacks a column.
        """
        return self._encode(BINS)

    @cached_property
    def coarse(self) -> TableEncoding:
        """As ``table`` with about 12 cells per column: for joint cells of two columns and more."""
        return self._encode(COARSE_BINS)

    @cached_property
    def image_features(self) -> ImageFeatures:
        """The networks and features that the image metrics share, each trained when first needed.

        Raises:
            SchemaError: the data are not images of the schema.
        """
        from .image_features import ImageFeatures

        return ImageFeatures(self)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, TableSchema]:
        """Train, holdout and synthetic frames with the schema, for table metrics.

        Raises:
            SchemaError: the data are images.
        """
        train, holdout, synthetic = self.train, self.holdout, self.synthetic
        if (
            not isinstance(self.schema, TableSchema)
            or not isinstance(train, pd.DataFrame)
            or not isinstance(holdout, pd.DataFrame)
            or not isinstance(synthetic, pd.DataFrame)
        ):
            raise SchemaError(
                "a table metric needs three DataFrames and a TableSchema, got "
                f"{type(synthetic).__name__} and {type(self.schema).__name__}; "
                "use the image validators"
            )
        return train, holdout, synthetic, self.schema

    def _encode(self, bins: int) -> TableEncoding:
        train, holdout, synthetic, schema = self.frames()
        return encode(train, holdout, synthetic, schema, bins)


def one_each(subjects: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random row of every subject, in random order; rows of one are one piece of evidence."""
    order = rng.permutation(len(subjects))
    first = np.unique(subjects[order], return_index=True)[1]
    return rng.permutation(order[first])
