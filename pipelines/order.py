"""What one release asks of a dataset's model beyond its declaration, and what that publishes.

A release without an order is the dataset itself: all columns, as many rows as its owner declares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Self

import pandas as pd
from pydantic import Field, model_validator

from generators.schema import Column, Schema, TableSchema

from .spec import ColumnName, SampleSpec, _Model

CASE = "_likeness_case"
"""The column that tags edge cases; empty in an ordinary row."""
_MOST_CASES = 0.5
Share = Annotated[float, Field(gt=0.0, lt=1.0)]


class EdgeCases(_Model):
    """Rows that are meant to be hard, beside those asked for; each is tagged.

    Shares are of all published rows.

    Attributes:
        null_rate: by column, the share of rows in which it is missing.
        boundary: columns of which a row holds the least value, the greatest, and one beyond each.
        unseen_category: columns of which a row holds a category that no other row has.
        unicode: rows whose texts and categories hold what breaks programs: other scripts, signs
            of two code units, right-to-left marks, an empty text; True means every such column.
        duplicates: share of rows that repeat another one.
    """

    null_rate: dict[ColumnName, Share] = Field(default_factory=dict, max_length=100)
    boundary: tuple[ColumnName, ...] = Field(default=(), max_length=100)
    unseen_category: tuple[ColumnName, ...] = Field(default=(), max_length=100)
    unicode: bool | tuple[ColumnName, ...] = False
    duplicates: float = Field(default=0.0, ge=0.0, lt=1.0)

    @model_validator(mode="after")
    def _fewer_than_ordinary_rows(self) -> Self:
        if sum(self.null_rate.values()) + self.duplicates > _MOST_CASES:
            raise ValueError("null rates and duplicates may be half of the rows in all; lower them")
        return self

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self != EdgeCases()


class Kin(_Model):
    """That the rows belong to given parents, and are drawn given what these are like.

    Attributes:
        digest: of the file in the dataset's vault that holds, a row a child in their order, the
            parent's key and its attributes as columns of the model.
        key: the column of the parent's keys, in that file and in what is published.
        dtype: of the keys.
        first: rows that are judged: one child of each parent, as the model has learned from one.
    """

    digest: str
    key: ColumnName
    dtype: str
    first: int


class Order(_Model):
    """What is asked of a model.

    Attributes:
        name: of the dataset in the lake.
        description: for readers of the catalogue.
        sample: rows, seed, conditions, shares.
        columns: of the model, in the order in which they are published; all where empty.
        rename: new names by old ones.
        splits: shares of rows by name; one split ``train`` where empty.
        cases: edge cases beside the rows.
        csv: whether CSV files are published too.
        csv_safe: whether formulas in them are made texts.
        renewal: how many equal releases were retired before.
        kin: the parents of the rows, where they have some; ``columns`` are then the rows' own.
        note: a sentence for the report.
        owner, purpose: of who asked.
        labels: for the catalogue.
    """

    name: str
    description: str = ""
    sample: SampleSpec
    columns: tuple[ColumnName, ...] = ()
    rename: dict[ColumnName, ColumnName] = Field(default_factory=dict)
    splits: dict[str, float] = Field(default_factory=dict)
    cases: EdgeCases = EdgeCases()
    csv: bool = False
    csv_safe: bool = True
    renewal: int = 0
    kin: Kin | None = None
    note: str = ""
    owner: str = ""
    purpose: str = ""
    labels: dict[str, str] = Field(default_factory=dict)

    def decides(self) -> dict[str, object]:
        """What makes two orders different releases."""
        return self.model_dump(mode="json", exclude={"owner", "purpose", "labels", "description"})

    def learned(self, schema: TableSchema) -> TableSchema:
        """The part of ``schema`` that is judged: what is published, and the parents' attributes."""
        return schema if self.kin is not None else self._own(schema)

    def _own(self, schema: TableSchema) -> TableSchema:
        """The part of ``schema`` that is published, as it was learned."""
        if not self.columns:
            return schema
        kept = set(self.columns)
        return TableSchema(
            tuple(schema[name] for name in self.columns),
            schema.target if schema.target in kept else None,
            tuple(name for name in schema.protected if name in kept),
        )

    def published(self, schema: Schema) -> Schema:
        """The schema of what is published: columns, names, the tag, and what edge cases need."""
        if not isinstance(schema, TableSchema):
            return schema
        learned = self._own(schema)
        columns = [
            replace(self._loosened(column), name=self.rename.get(column.name, column.name))
            for column in learned.columns
        ]
        if self.kin is not None:
            # Keys of another table occur more than once: no id of this one, and nothing to learn.
            key = Column(self.kin.key, "text", self.kin.dtype, description="Key of the parent.")
            columns.insert(0, key)
        if self.cases.any:
            columns.append(
                Column(
                    CASE,
                    "text",
                    "object",
                    nullable=True,
                    description="Which edge case the row is; empty in an ordinary row.",
                )
            )
        new = self.rename
        return TableSchema(
            tuple(columns),
            new.get(learned.target, learned.target) if learned.target else None,
            tuple(new.get(name, name) for name in learned.protected),
        )

    def ordinary(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of a published ``frame`` that are no edge cases, by their learned names."""
        if CASE in frame.columns:
            frame = frame[frame[CASE].isna()].drop(columns=CASE).reset_index(drop=True)
        return frame.rename(columns={new: old for old, new in self.rename.items()})

    def _loosened(self, column: Column) -> Column:
        """``column`` with room for what edge cases put into it."""
        if column.name not in self.cases.null_rate:
            return column
        return replace(column, nullable=True, dtype=NULLABLE.get(column.dtype, column.dtype))


NULLABLE = {
    "bool": "boolean",
    **{f"int{bits}": f"Int{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UInt{bits}" for bits in (8, 16, 32, 64)},
}


def split_rows(rows: int, splits: Mapping[str, float]) -> dict[str, int]:
    """Rows of each split in the order in which they are published, by the largest remainder."""
    from .sampling import apportion

    names = sorted(splits) or ["train"]
    counts = apportion([splits.get(name, 1.0) for name in names], rows)
    return {name: count for name, count in zip(names, counts, strict=True) if count}
