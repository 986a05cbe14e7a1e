"""A table with an image column: rows first, then an image for each row.

The joint distribution is factored: a table family learns the rows, an image family the images given
the row: the class that its label column names and, where the family can be told more than a class
(``Described``), its other columns.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd

from ..base import (
    Block,
    DataError,
    Described,
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
from .row_code import RowCode

_ROWS, _IMAGES = "rows.", "images."


@dataclass(kw_only=True)
class RowsThenImages(Resumable):
    """Rows by a table family, then images by an image family, given each row.

    ``diffusion`` is told all columns of a row that it shares with others; the other image families
    its label alone. Of images without a table it is the image family alone.

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
        self.code_ = self._row_code(data, schema)
        traits = self.code_.encode(data.rows) if self.code_ and data.rows is not None else None
        plain = Images(data.pixels, data.labels, traits=traits)
        own = replace(schema, table=None, label="")
        report = _named(progress, "fit images")
        if self.checkpoint is not None and isinstance(self.pictures_, Resumable):
            self.pictures_.fit_or_resume(plain, own, checkpoint=self.checkpoint, progress=report)
        else:
            self.pictures_.fit(plain, own, progress=report)
        self.loss_history_ = self.pictures_.loss_history_
        self.training_notes_ = self._notes(schema)

    def _row_code(self, data: Images, schema: ImageSchema) -> RowCode | None:
        """How a row is told to the image family, where there is more to tell than its label."""
        if schema.table is None or data.rows is None or not isinstance(self.pictures_, Described):
            return None
        code = RowCode.fit(data.rows, schema.table, schema.label)
        return code if code.told else None

    def _notes(self, schema: ImageSchema) -> list[str]:
        rows = [f"rows: {note}" for note in getattr(self.table_, "training_notes_", [])]
        return [*rows, *self._link(schema), *self.pictures_.training_notes_]

    def _link(self, schema: ImageSchema) -> list[str]:
        """What of a row its image does not follow."""
        if schema.table is None:
            return []
        if not isinstance(self.pictures_, Described):
            return [
                f"images: made from {schema.label!r} alone, {self.images} cannot be told more; "
                "images=diffusion can"
            ]
        untold = self.code_.untold if self.code_ else ()
        named = ", ".join(map(repr, untold))
        reason = "too many levels for so few rows, their images would be learned by heart"
        return [f"images: made without {named}: {reason}"] if untold else []

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
        if self.code_ is not None and isinstance(self.pictures_, Described):
            traits = self.code_.encode(cast("pd.DataFrame", rows))
            made = self.pictures_.sample_described(labels, traits, seed=seed)
        else:
            made = self.pictures_.sample_labelled(labels, seed=seed)
        return Images(made.pixels, labels, rows)  # type: ignore[arg-type]

    def _state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays: dict[str, np.ndarray] = {}
        states: dict[str, Any] = {}
        for prefix, part in ((_ROWS, self.table_), (_IMAGES, self.pictures_)):
            if getattr(part, "fitted_", False):
                own, states[prefix] = part._state()
                arrays |= {prefix + name: array for name, array in own.items()}
        states["code"] = self.code_.to_json() if self.code_ else None
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
        code = state.get("code")
        self.code_ = RowCode.from_json(code) if code else None
        self.loss_history_ = self.pictures_.loss_history_
        self.training_notes_ = self._notes(schema)


def _named(progress: OnProgress, phase: str) -> OnProgress:
    """``progress`` with the name of a part."""
    return lambda report: progress(
        Progress(phase, report.step, report.total, report.seconds, report.loss, report.first)
    )
