"""What of a row an image family is told, as numbers."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from generators.image.row_code import RowCode
from generators.schema import TableSchema


def rows(count: int = 400) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    spread = rng.lognormal(sigma=2.0, size=count)
    spread[::7] = np.nan
    return pd.DataFrame(
        {
            "label": rng.choice(["a", "b"], count).astype(object),
            "spread": spread,
            "group": rng.choice(["x", "y", "z"], count).astype(object),
            "town": rng.choice([f"town {n}" for n in range(40)], count).astype(object),
        }
    )


def test_numbers_become_ranks_levels_ones_and_rare_levels_nothing() -> None:
    frame = rows()
    code = RowCode.fit(frame, TableSchema.infer(frame, target="label"), "label")
    told = code.encode(frame)
    assert code.untold == ("town",)
    assert told.dtype == np.float32
    assert told.shape == (400, 3 + 2 + 1)
    np.testing.assert_array_equal(told[:, :3].sum(axis=1), 1.0)
    group, present = told[:, :3].argmax(axis=1), frame["spread"].notna().to_numpy()
    np.testing.assert_array_equal(np.array(["x", "y", "z"])[group], frame["group"])
    np.testing.assert_array_equal(told[:, 4], ~present)
    np.testing.assert_array_equal(told[:, 5], 1.0)
    ranks = rankdata(frame["spread"][present]) / present.sum()
    np.testing.assert_allclose(told[present, 3], (2 * ranks - 1) * 3**0.5, atol=0.06)
    np.testing.assert_array_equal(told[~present, 3], 0.0)


def test_it_is_the_same_when_read_again_and_for_rows_beyond_those_learned() -> None:
    frame = rows()
    code = RowCode.fit(frame, TableSchema.infer(frame, target="label"), "label")
    again = RowCode.from_json(json.loads(json.dumps(code.to_json())))
    assert again == code
    beyond = frame.head(2).assign(spread=[-1e9, 1e9])
    np.testing.assert_allclose(again.encode(beyond)[:, 3], [-(3**0.5), 3**0.5], rtol=1e-6)


def test_a_label_alone_leaves_nothing_to_tell() -> None:
    frame = rows()[["label"]]
    assert not RowCode.fit(frame, TableSchema.infer(frame, target="label"), "label").told
