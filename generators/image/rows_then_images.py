"""A table with an image column: rows first, then an image for each row.

The joint distribution is factored: a table family learns the rows, an image family the images given
the class that the row's label column names. What else a row says is not seen in its image: row and
image belong together through the label alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np

from ..base import (
    Block,
    DataError,
    Generator,
    Labelled,
    Modality,
    OnProgress,
    ParameterError,
    Progress,
    Resumable,
    derive_seed,
)
from ..schema import Images, ImageSchema

_ROWS, _IMAGES = "rows.", "images."


@dataclass(kw_only=True)
class RowsThenImages(Resumable):
    """Rows by a table family, then images by an image family, given the label of each row.

    Of images without a table it is the image family alone.

    Attributes:
        rows: the table family.
        images: the image family.
        rows_settings: hyper-parameters of the table family.
        images_settings: hyper-parameters of the image family.
    """

    rows: str = "autoregressive"
    images: str = "diffusion"
    rows_settings: dict[str, Any] = field(default_factory=dict)
    images_settings: dict[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "rows-then-images"
    suits: ClassVar[str] = "the default for tables with an image column"
    modality: ClassVar[Modality] = "image"
    rows_per_block: ClassVar[int] = 1024

    def __post_init__(self) -> None:
        self.table_ = self._part(self.rows, "table", self.rows_settings)
        pictures = self._part(self.images, "image", self.images_settings)
        if not isinstance(pictures, Labelled):
            raise ParameterError(f"{self.images} cannot be told the classes; choose another")
        self.pictures_: Labelled = pictures
        if not (self.table_.persistent and self.pictures_.persistent):
            raise ParameterError(f"{self.rows} cannot be saved, a part must be; choose another")

    @property
    def evaluations(self) -> int:
        """Those of the image family."""
        return self.pictures_.evaluations

    def row_seeds(self, n: int, seed: int) -> np.ndarray:
        """The seeds of images without a table: those of the image family."""
        seeds = [self.pictures_.row_seeds(block.size, block.seed) for block in self.blocks(n, seed)]
        return np.concatenate([np.zeros(0, np.int64), *seeds])

    def _part(self, family: str, modality: str, settings: dict[str, Any]) -> Generator:
        from .. import GENERATORS

        chosen = GENERATORS[family]
        if chosen.modality != modality or family == self.name:
            raise ParameterError(
                f"the {'rows' if modality == 'table' else 'images'} must be made by a family for "
                f"{modality}s, got {family!r}; see `likeness generators`"
            )
        return chosen.from_parameters({"seed": self.seed, **settings})

    def _fit(self, data: Images, schema: ImageSchema, progress: OnProgress) -> None:
        if schema.table is not None:
            if data.rows is None:
                raise DataError("the schema has a table, the images have no rows; give them")
            self.table_.fit(data.rows, schema.table, progress=_named(progress, "fit rows"))
        plain, own = Images(data.pixels, data.labels), replace(schema, table=None, label="")
        report = _named(progress, "fit images")
        if self.checkpoint is not None and isinstance(self.pictures_, Resumable):
            self.pictures_.fit_or_resume(plain, own, checkpoint=self.checkpoint, progress=report)
        else:
            self.pictures_.fit(plain, own, progress=report)
        self.loss_history_ = self.pictures_.loss_history_
        self.training_notes_ = [*self._row_notes(), *self.pictures_.training_notes_]

    def _row_notes(self) -> list[str]:
        return [f"rows: {note}" for note in getattr(self.table_, "training_notes_", [])]

    def _sample_block(self, block: Block) -> Images:
        schema = cast("ImageSchema", self.schema_)
        if schema.table is None:
            return cast("Images", self.pictures_.sample(block.size, seed=block.seed))
        rows = self.table_.sample_block(
            Block(block.start, block.size, derive_seed(self.name, "rows", block.seed))
        )
        names = {name: number for number, name in enumerate(schema.classes)}
        labels = np.array([names[str(v)] for v in rows[schema.label]], np.int64)  # type: ignore[index]
        seed = derive_seed(self.name, "images", block.seed)
        made = self.pictures_.sample_labelled(labels, seed=seed)
        return Images(made.pixels, labels, rows)  # type: ignore[arg-type]

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays: dict[str, np.ndarray] = {}
        states: dict[str, Any] = {}
        for prefix, part in ((_ROWS, self.table_), (_IMAGES, self.pictures_)):
            if getattr(part, "fitted_", False):
                own, states[prefix] = part._state()
                arrays |= {prefix + name: array for name, array in own.items()}
        return arrays, states

    def _restore(self, arrays: dict[str, np.ndarray], state: dict[str, Any]) -> None:
        schema = cast("ImageSchema", self.schema_)
        plain = replace(schema, table=None, label="")
        for prefix, part, own in (
            (_ROWS, self.table_, schema.table),
            (_IMAGES, self.pictures_, plain),
        ):
            if prefix not in state or own is None:
                continue
            part.schema_ = own
            part.loss_history_, part.training_notes_ = [], []
            found = {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}
            part._restore(found, state[prefix])
            part.fitted_ = True
        self.loss_history_ = self.pictures_.loss_history_
        self.training_notes_ = [*self._row_notes(), *self.pictures_.training_notes_]


def _named(progress: OnProgress, phase: str) -> OnProgress:
    """``progress`` with the name of a part."""
    return lambda report: progress(
        Progress(phase, report.step, report.total, report.seconds, report.loss, report.first)
    )
