"""Toy data that all tests share: every kind of column, and images of two classes."""

from __future__ import annotations

import os
import signal
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from generators import Images, ImageSchema, TableSchema

ROWS = 400

# Each run tries the same examples, on however slow a machine; new ones are sought on purpose, with
# --hypothesis-profile=explore.
_PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", _PATIENT)
settings.register_profile("same", _PATIENT, derandomize=True)
settings.load_profile("same")

# Hypothesis also takes values from the code that is imported, and a worker imports in the order of
# its tests, which is another in each run.
_constants_of_imports = providers._get_local_constants
providers._get_local_constants = lambda: (
    providers.Constants() if settings.default.derandomize else _constants_of_imports()
)

# Tests choose their own homes: a developer's must neither be written to nor change a result. Where
# CI is set, pytest tells all of a difference, be it of a million bytes.
for name in [*os.environ]:
    if name.startswith(("LIKENESS_", "DAGSTER_")) or name == "CI":
        del os.environ[name]

# Where the tests run in the background of a shell, SIGINT is ignored, and so it would be by every
# program that they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from all but the tests of it, and let a log tell the reason of each failure.

    What the other tests promise bit for bit holds on a CPU; and a line of 80 signs would end behind
    the name of the test.
    """
    if "gpu" not in config.option.markexpr.replace("not gpu", ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if config.pluginmanager.has_plugin("terminalreporter") and not sys.stdout.isatty():
        config.get_terminal_writer().fullwidth = 200


def make_toy_table(rows: int = ROWS, seed: int = 0) -> pd.DataFrame:
    """Columns of every kind and dtype that matter, with the gaps that real tables have."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows)
    income = np.round(np.exp(rng.normal(9 + age / 100, 0.5, rows)), 2)
    city = rng.choice(np.array(["Bern", "Oslo", "Rome"], dtype=object), rows, p=[0.6, 0.3, 0.1])
    visits = pd.array(rng.poisson(2, rows), dtype="Int64")
    visits[rng.random(rows) < 0.1] = pd.NA
    joined = pd.Timestamp("2020-02-29") + pd.to_timedelta(rng.integers(0, 900, rows), unit="D")
    return pd.DataFrame(
        {
            "customer_id": np.arange(1000, 1000 + rows),
            "comment": [f"said {number} on {number % 7}" for number in rng.permutation(rows)],
            "age": age.astype("int16"),
            "income": income,
            "score": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(0, 1, rows)),
            "debt": np.where(rng.random(rows) < 0.7, 0.0, np.round(rng.gamma(2, 50, rows), 1)),
            "visits": visits,
            "joined": pd.Series(joined).mask(rng.random(rows) < 0.1),
            "seen": pd.Series(joined).dt.tz_localize("UTC") + pd.Timedelta(hours=3),
            "member": rng.random(rows) < 0.3,
            "opted": pd.array(rng.choice([True, False, None], rows), dtype="boolean"),
            "city": pd.Series(city, dtype=object).mask(rng.random(rows) < 0.1),
            "country": np.array(["CH" if name == "Bern" else "other" for name in city], object),
            "grade": pd.Categorical(rng.choice(list("abc"), rows)),
            "constant": np.full(rows, 7),
            "nothing": pd.Series([None] * rows, dtype=object),
            "unknown": np.full(rows, np.nan),
            "bought": np.where(income + rng.normal(0, 3000, rows) > 14_000, "yes", "no"),
        }
    )


@pytest.fixture(scope="session")
def toy_table() -> pd.DataFrame:
    """400 rows; treat as read-only."""
    return make_toy_table()


@pytest.fixture(scope="session")
def toy_schema(toy_table: pd.DataFrame) -> TableSchema:
    """The inferred schema of ``toy_table``, with a target and a protected column."""
    return TableSchema.infer(toy_table, target="bought", protected=["city"])


@pytest.fixture(scope="session")
def toy_images() -> Images:
    """64 grey images of 8 x 8 pixels: bright left halves (label 0), bright right halves (1)."""
    rng = np.random.default_rng(0)
    labels = np.arange(64, dtype=np.int64) % 2
    pixels = rng.integers(0, 60, (64, 8, 8, 1))
    for label, half in ((0, slice(0, 4)), (1, slice(4, 8))):
        pixels[labels == label, :, half] += 180
    return Images(pixels.astype(np.uint8), labels)


@pytest.fixture(scope="session")
def toy_image_schema() -> ImageSchema:
    """The schema of ``toy_images``."""
    return ImageSchema(height=8, width=8, channels=1, classes=("left", "right"))
