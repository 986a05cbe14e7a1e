"""Edge cases: each is a tagged copy of an ordinary row with one thing changed."""

import numpy as np
import pandas as pd
import pytest

from generators.schema import TableSchema
from pipelines.cases import UNICODE, check_cases, count, plant
from pipelines.order import CASE, EdgeCases, Order
from pipelines.publication.parquet import to_arrow
from pipelines.spec import SampleSpec

ROWS = 1_000
CASES = EdgeCases(
    null_rate={"visits": 0.02, "member": 0.01},
    boundary=("visits",),
    unseen_category=("region",),
    unicode=True,
    duplicates=0.01,
)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "visits": rng.integers(0, 9, ROWS),
            "region": rng.choice(["north", "south"], ROWS),
            "member": rng.random(ROWS) < 0.5,
        }
    )


def test_cases_come_beside_the_rows_and_are_tagged_by_published_names(frame: pd.DataFrame) -> None:
    schema = TableSchema.infer(frame)
    order = Order(
        name="x", sample=SampleSpec(rows=ROWS, seed=1), rename={"region": "place"}, cases=CASES
    )
    whole = plant(frame, schema, order)
    assert len(whole) == ROWS + count(ROWS, schema, CASES)
    made = whole[CASE].value_counts()
    assert made["null:visits"] / len(whole) == pytest.approx(0.02, abs=1 / len(whole))
    assert made["duplicate"] / len(whole) == pytest.approx(0.01, abs=1 / len(whole))
    assert made["unicode:place"] == len(UNICODE)
    ends = whole[whole[CASE].fillna("").str.startswith("boundary")].groupby(CASE)["visits"].first()
    assert ends.tolist() == [9, -1, 8, 0]  # above, below, greatest, least
    table = to_arrow(whole.rename(columns=order.rename), order.published(schema))
    assert table.column("visits").null_count == made["null:visits"]
    ordinary = order.ordinary(table.to_pandas())
    pd.testing.assert_frame_equal(
        ordinary.astype({name: frame[name].dtype for name in frame}), frame
    )


def test_what_a_table_cannot_have_is_told(frame: pd.DataFrame) -> None:
    schema = TableSchema.infer(frame[["visits", "member"]])
    asked = EdgeCases(
        null_rate={"nope": 0.1}, boundary=("member",), unseen_category=("visits",), unicode=True
    )
    fields = {field for field, _ in check_cases(schema, asked)}
    assert fields == {"null_rate", "boundary", "unseen_category", "unicode"}
