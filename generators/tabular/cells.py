"""Columns as few cells each: what families need whose parameters grow with the cells.

A cell is a group of tokens. The levels of a category stand alone or, where they are rare, in one
cell together; the numbers of a column, atoms and stretches between quantiles alike, are grouped in
their order to cells of about equal mass, but a frequent atom stands alone. Within a cell a token
is as frequent as in the training table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from generators.conditions import Cells
from generators.encoding import ColumnCodec, EncodedTable, TableCodec
from generators.tabular.tokens import QuantileCells, TwoLevelTokens

# Added to the training rows of every token, so that each is possible.
_PRIOR_ROWS = 0.1


@dataclass(frozen=True)
class Groups:
    """The cells of one column.

    Attributes:
        of_token: the cell of each token; shape (T,).
        share: how likely a token is within its cell; shape (T,).
    """

    of_token: np.ndarray
    share: np.ndarray

    @property
    def size(self) -> int:
        """The number of cells."""
        return int(self.of_token.max()) + 1

    @classmethod
    def of(cls, of_token: np.ndarray, rows: np.ndarray) -> Self:
        """These cells, of tokens that so many training ``rows`` have."""
        weight = rows + _PRIOR_ROWS
        return cls(of_token, weight / np.bincount(of_token, weight)[of_token])

    def evidence(self, allowed: np.ndarray) -> np.ndarray:
        """The share of each cell that these shares of tokens (T,) leave; shape (size,)."""
        left: np.ndarray = np.bincount(self.of_token, self.share * allowed, minlength=self.size)
        return left

    def draw(self, cell: np.ndarray, allowed: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A token of each cell, of which only these shares (T,) are allowed."""
        order = np.argsort(self.of_token, kind="stable")
        table = np.zeros((self.size, len(order)))
        table[self.of_token[order], np.arange(len(order))] = (self.share * allowed)[order]
        token: np.ndarray = order[draw_rows(table, cell, rng)]
        return token


def draw_rows(table: np.ndarray, row: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each entry of ``row`` a column of ``table`` (R, C), as likely as that row says.

    Rows are not negative and need not sum to one; one of zeros counts as even.
    """
    total = table.sum(axis=1, keepdims=True)
    shares = np.where(total > 0, table, 1.0) / np.where(total > 0, total, table.shape[1])
    ends = np.cumsum(shares, axis=1)
    # A column behind the last possible one must never be hit, whatever the rounding.
    ends /= ends[:, -1:]
    flat = (ends + np.arange(len(table))[:, None]).ravel()
    point = row + rng.random(len(row))
    at = np.searchsorted(flat, point, side="right") - row * table.shape[1]
    last = table.shape[1] - 1 - np.argmax((shares > 0)[:, ::-1], axis=1)
    drawn: np.ndarray = np.minimum(at, last[row])
    return drawn


def draw_each(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row of ``table`` (N, C) a column, as likely as the row says."""
    return draw_rows(table, np.arange(len(table)), rng)


@dataclass(frozen=True)
class CellTable:
    """The cells of all columns, and the way there and back.

    Attributes:
        tokens: of the table, one sub-column a column.
        groups: of each column.
    """

    tokens: TwoLevelTokens
    groups: tuple[Groups, ...]

    @classmethod
    def fit(cls, codec: TableCodec, encoded: EncodedTable, most: int) -> Self:
        """About ``most`` cells, at most twice as many, for each column of this training table."""
        tokens = TwoLevelTokens.fit(codec, encoded, coarse=most, fine=1)
        coded = tokens.encode(encoded)
        groups = [
            _groups(column, quantiles, np.bincount(coded[:, at], minlength=tokens.sizes[at]), most)
            for at, (column, quantiles) in enumerate(zip(codec.columns, tokens.cells, strict=True))
        ]
        return cls(tokens, tuple(groups))

    @property
    def sizes(self) -> list[int]:
        """The number of cells of each column."""
        return [group.size for group in self.groups]

    def encode(self, encoded: EncodedTable) -> np.ndarray:
        """Cells, int64, shape (N, D); -1 where a category is unknown."""
        coded = self.tokens.encode(encoded)
        for at, group in enumerate(self.groups):
            known = coded[:, at] >= 0
            coded[known, at] = group.of_token[coded[known, at]]
        return coded

    def evidence(self, column: int, allowed: Cells | None) -> np.ndarray:
        """The share of each cell of a column that is allowed; shape (size,)."""
        return self.groups[column].evidence(self._allowed(column, allowed))

    def not_missing(self, column: int) -> np.ndarray:
        """The evidence that a column is not missing, unless it is never anything else."""
        return self.groups[column].evidence(self.tokens.not_missing(column))

    def decode(
        self,
        cells: np.ndarray,
        rng: np.random.Generator,
        restricted: Mapping[int, Cells] | None = None,
        present: np.ndarray | None = None,
    ) -> EncodedTable:
        """Codes and values of cells, tokens and values being drawn within them.

        Args:
            cells: int64, (N, D).
            rng: for the tokens and values.
            restricted: what some columns may hold; the cells must be possible under it.
            present: bool, (D,): columns that must not be missing.
        """
        only, coded = restricted or {}, np.empty_like(cells)
        for at, group in enumerate(self.groups):
            allowed = self._allowed(at, only.get(at))
            codec = self.tokens.codec.columns[at]
            if present is not None and present[at] and codec.missing and codec.size > 1:
                allowed[codec.missing_code] = 0.0
            coded[:, at] = group.draw(cells[:, at], allowed, rng)
        return self.tokens.decode(coded, rng, only)

    def log_density(self, encoded: EncodedTable) -> np.ndarray:
        """What tokens and values add to the log-likelihood of the cells; nats, shape (N,).

        Minus infinity where a category is unknown.
        """
        coded = self.tokens.encode(encoded)
        total = self.tokens.log_density(encoded)
        for at, group in enumerate(self.groups):
            known = coded[:, at] >= 0
            total[known] += np.log(group.share[coded[known, at]])
            total[~known] = -np.inf
        return total

    def arrays(self) -> dict[str, np.ndarray]:
        """For saving."""
        made = self.tokens.arrays()
        for at, group in enumerate(self.groups):
            made[f"{at}.of_token"], made[f"{at}.share"] = group.of_token, group.share
        return made

    def to_json(self) -> list[Any]:
        """The rest, for saving; ``restore`` is the inverse."""
        return self.tokens.to_json()

    @classmethod
    def restore(cls, codec: TableCodec, arrays: dict[str, np.ndarray], raw: list[Any]) -> Self:
        """The cells that ``arrays`` and ``to_json`` wrote."""
        tokens = TwoLevelTokens.restore(codec, arrays, raw)
        groups = [
            Groups(arrays[f"{at}.of_token"], arrays[f"{at}.share"])
            for at in range(len(codec.columns))
        ]
        return cls(tokens, tuple(groups))

    def _allowed(self, column: int, allowed: Cells | None) -> np.ndarray:
        """The share of each token that is allowed."""
        if allowed is None:
            return np.ones(self.tokens.sizes[column])
        return self.tokens.weights(column, allowed)[0]


def _groups(
    column: ColumnCodec, quantiles: QuantileCells | None, rows: np.ndarray, most: int
) -> Groups:
    if column.column.discrete:
        return Groups.of(_frequent(rows, most), rows)
    codes = column.size - (quantiles is not None)
    places = np.full(len(rows), np.nan)
    places[: len(column.levels)] = column.levels
    if quantiles is not None:
        places[codes:] = quantiles.knots[: -1 : quantiles.per_fine]
    return Groups.of(neighbours(places, rows, most), rows)


def _frequent(rows: np.ndarray, most: int) -> np.ndarray:
    """Each of the most frequent tokens in a cell of its own, the others in the last one."""
    of_token = np.full(len(rows), most - 1)
    order = np.argsort(-rows, kind="stable")
    alone = order if len(rows) <= most else order[: most - 1]
    of_token[alone] = np.arange(len(alone))
    return of_token


def neighbours(places: np.ndarray, rows: np.ndarray, most: int) -> np.ndarray:
    """Tokens grouped in the order of their ``places`` (NaN stands alone) to about equal mass."""
    share, of_token = rows.sum() / most, np.empty(len(rows), np.int64)
    cell, mass = -1, np.inf
    for token in np.argsort(places, kind="stable"):
        alone = bool(np.isnan(places[token])) or rows[token] >= share
        if alone or mass >= share or mass + rows[token] / 2 > share:
            cell, mass = cell + 1, 0.0
        of_token[token] = cell
        mass += np.inf if alone else rows[token]
    return of_token
