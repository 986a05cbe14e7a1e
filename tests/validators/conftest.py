"""Small tables with a known law, so that tests can draw as many real rows as they need."""

import numpy as np
import pandas as pd
import pytest

from generators.schema import TableSchema
from validators.comparison import Comparison


def draw_people(n, seed):
    """Rows of one law: mixed kinds, missing cells, a spike, a protected group and a target."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 80, n)
    sex = np.where(rng.random(n) < 0.4, "F", "M")
    region = rng.choice(
        ["north", "south", "east", "west", "isle"], n, p=[0.4, 0.3, 0.2, 0.08, 0.02]
    )
    income = np.round(np.exp(rng.normal(7 + age / 60 + 0.3 * (sex == "M"), 0.5)), 2)
    income[rng.random(n) < 0.05] = np.nan
    gain = np.where(rng.random(n) < 0.9, 0.0, np.round(rng.exponential(500, n)))
    odds = -3 + age / 25 + 0.8 * (sex == "M") + 0.5 * (region == "north")
    bought = np.where(rng.random(n) < 1 / (1 + np.exp(-odds)), "yes", "no")
    joined = pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), unit="D")
    return pd.DataFrame(
        {
            "id": np.arange(n) + 1000 * seed,
            "age": age,
            "sex": sex,
            "region": region,
            "income": income,
            "gain": gain,
            "joined": joined.astype("datetime64[us]"),
            "bought": bought,
        }
    )


@pytest.fixture
def people():
    """Three disjoint samples of one law, and their schema: ``people(n, seed)``."""

    def build(n=2000, seed=0, **schema):
        settings = {"kinds": {"id": "id"}, "target": "bought", "protected": ["sex"], **schema}
        train, holdout, fresh = (draw_people(n, 3 * seed + part) for part in range(3))
        return Comparison(
            synthetic=fresh,
            train=train,
            holdout=holdout,
            schema=TableSchema.infer(pd.concat([train, holdout]), **settings),
            seed=seed,
        )

    return build


@pytest.fixture
def with_synthetic():
    """The same comparison with a changed copy of its synthetic rows."""

    def replace(comparison, **columns):
        changed = comparison.synthetic.copy()
        for name, values in columns.items():
            changed[name] = values
        return Comparison(
            changed, comparison.train, comparison.holdout, comparison.schema, comparison.seed
        )

    return replace


@pytest.fixture
def number():
    """The only score of a metric and subject, with its numbers."""

    def find(scores, metric, subject="all"):
        found = [s for s in scores if s.metric == metric and s.subject == subject]
        assert len(found) == 1, f"{len(found)} scores of {metric}/{subject}"
        assert found[0].skipped is None, found[0].skipped
        return found[0]

    return find
