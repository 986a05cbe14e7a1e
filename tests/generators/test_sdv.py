"""The SDV adapter: seeds, isolation, kinds from our schema, no trace of the data on disk."""

from __future__ import annotations

import builtins
import random
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from generators import GENERATORS, TableSchema
from generators.base import CheckpointError, DataError, LikenessError, ParameterError, SchemaError
from generators.tabular.sdv import SdvCTGAN, SdvGaussianCopula, SdvTVAE


def table(n: int = 240) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    x = rng.normal(size=n)
    return pd.DataFrame(
        {
            "id": np.arange(n),
            "x": x,
            "y": np.where(rng.random(n) < 0.3, np.nan, np.round(x * 2 + rng.normal(size=n) / 5, 2)),
            "k": rng.integers(0, 50, n),
            "when": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, n), "D"),
            "colour": pd.Series(rng.choice(["red", "green", None], n), dtype=object),
            "phone": pd.Series(rng.choice(["030 1", "040 2", "089 3"], n), dtype=object),
            "yes": rng.random(n) < 0.2,
            "empty": np.full(n, np.nan),
        }
    )


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.fixture(scope="module")
def copula(frame: pd.DataFrame) -> SdvGaussianCopula:
    return SdvGaussianCopula().fit(frame, TableSchema.infer(frame))


def test_a_seed_decides_the_rows(copula: SdvGaussianCopula):
    first, second = copula.sample(100, seed=1), copula.sample(100, seed=2)
    pd.testing.assert_frame_equal(first, copula.sample(100, seed=1))
    assert not first["x"].equals(second["x"])
    # RDT draws missing values from a stream that knows no seed: the same rows would be empty.
    assert not first["y"].isna().equals(second["y"].isna())


def test_two_fits_differ_only_by_their_seed(frame: pd.DataFrame):
    schema = TableSchema.infer(frame)
    rows = [SdvTVAE(epochs=2, seed=s).fit(frame, schema).sample(20, seed=0) for s in (0, 0, 1)]
    pd.testing.assert_frame_equal(rows[0], rows[1])
    assert not rows[0].equals(rows[2])


def test_rows_have_the_schemas_order_types_and_grid(copula: SdvGaussianCopula, frame: pd.DataFrame):
    sample = copula.sample(333, seed=3)
    assert len(sample) == 333
    assert list(sample.columns) == list(frame.columns)
    assert list(sample.dtypes) == list(frame.dtypes)
    assert sample["id"].is_unique
    assert sample["empty"].isna().all()
    assert set(sample["phone"]) <= set(frame["phone"])
    assert sample["when"].between(frame["when"].min(), frame["when"].max()).all()
    assert (sample["when"].dt.normalize() == sample["when"]).all()
    np.testing.assert_array_equal(sample["y"].round(2), sample["y"])
    assert 0.15 < sample["y"].isna().mean() < 0.45


def test_the_dependence_is_learned(copula: SdvGaussianCopula):
    sample = copula.sample(1000, seed=4).dropna(subset=["y"])
    assert sample["x"].corr(sample["y"]) > 0.8


def test_global_random_states_are_put_back(frame: pd.DataFrame):
    def states() -> list[object]:
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002 (to see that it has not moved)
        return [random.getstate(), numpy, torch.get_rng_state().tolist()]

    before = states()
    SdvCTGAN(epochs=1).fit(frame, TableSchema.infer(frame)).sample(10, seed=0)
    assert states() == before


def test_nothing_is_written_and_no_category_enters_the_metadata(
    copula: SdvGaussianCopula, frame: pd.DataFrame, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    written = []
    opened = builtins.open

    def watched(file, mode="r", *rest, **named):
        if set(mode) & set("wax+"):
            written.append(file)
        return opened(file, mode, *rest, **named)

    monkeypatch.setattr(builtins, "open", watched)
    SdvGaussianCopula().fit(frame, TableSchema.infer(frame)).sample(5, seed=0)
    assert written == []
    assert list(tmp_path.iterdir()) == []
    described = str(copula.synthesizer_.metadata.to_dict())
    assert "colour" not in described
    assert "phone" not in described


def test_it_cannot_be_saved(copula: SdvGaussianCopula, tmp_path: Path):
    with pytest.raises(CheckpointError, match="pickle"):
        copula.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_sdv_the_message_names_the_remedy(frame: pd.DataFrame, monkeypatch):
    monkeypatch.setitem(sys.modules, "sdv.single_table", None)
    with pytest.raises(LikenessError, match="pip install"):
        SdvGaussianCopula().fit(frame, TableSchema.infer(frame))


def test_requirements_are_named(frame: pd.DataFrame):
    with pytest.raises(ParameterError, match="epochs"):
        GENERATORS["sdv-copulagan"].from_parameters({"epochs": 0})
    with pytest.raises(DataError, match="column to learn"):
        SdvGaussianCopula().fit(frame[["empty"]], TableSchema.infer(frame[["empty"]]))
    schema = TableSchema.infer(frame)
    with pytest.raises(SchemaError, match="'phone'") as error:
        SdvGaussianCopula().fit(frame.assign(phone="SECRET"), schema)
    assert "SECRET" not in str(error.value)
