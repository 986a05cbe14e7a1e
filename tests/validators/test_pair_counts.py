"""Joint counts by block: equal to counting one by one, whatever the sizes and the order."""

from itertools import combinations

import numpy as np
import pytest

from validators import pair_counts as ours


@pytest.mark.parametrize("sizes", [(3, 14, 5, 2), (300, 4, 7)], ids=["16 bits", "64 bits"])
@pytest.mark.parametrize("at_once", [40_000, 70], ids=["all rows", "few rows"])
def test_counts_are_those_of_each_row(monkeypatch, sizes, at_once):
    monkeypatch.setattr(ours, "_ROWS_AT_ONCE", at_once)
    rng = np.random.default_rng(0)
    n, blocks, sizes = 900, 13, np.array(sizes)
    codes = rng.integers(0, sizes, (1_000, len(sizes))).astype(np.int32)
    tables = [(codes, np.sort(rng.permutation(1_000)[:n])), (codes[::-1], np.arange(n))]
    block = rng.permutation(np.arange(n) % blocks)
    pairs = list(combinations(range(len(sizes)), 2))
    found = list(ours.pair_counts(tables, sizes, pairs, block))
    assert len(found) == len(pairs)
    for (first, second), counted in zip(pairs, found, strict=True):
        for (table, rows), counts in zip(tables, counted, strict=True):
            expected = np.zeros((sizes[first], sizes[second], blocks))
            np.add.at(expected, (table[rows, first], table[rows, second], block), 1)
            assert (counts == expected.reshape(-1, blocks)).all()
