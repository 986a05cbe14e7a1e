"""Saved models: the same bytes for the same model, and no damaged file is ever believed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from generators import TableSchema, load_generator, persistence
from generators.base import CheckpointError
from generators.tabular.forest import Forest
from generators.tabular.independent import Independent


@pytest.fixture
def folder(tmp_path: Path, toy_schema: TableSchema) -> Path:
    arrays = {"b": np.arange(6, dtype=np.int32).reshape(2, 3), "a": np.array([0.5, np.nan])}
    where = tmp_path / "model"
    persistence.write(where, "independent", {"seed": 1}, toy_schema, arrays, {"x": [1, "é"]})
    return where


def test_what_is_written_is_read(folder: Path, toy_schema: TableSchema) -> None:
    saved = persistence.read(folder)
    assert (saved.name, saved.parameters, saved.state) == (
        "independent",
        {"seed": 1},
        {"x": [1, "é"]},
    )
    assert saved.schema == toy_schema
    np.testing.assert_array_equal(saved.arrays["a"], [0.5, np.nan])
    assert saved.arrays["b"].dtype == np.int32
    assert saved.arrays["b"].shape == (2, 3)


def test_nothing_but_safetensors_and_json_is_written(folder: Path) -> None:
    assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize("family", [Forest, Independent])
def test_the_same_model_gives_the_same_bytes(
    family: type[Forest] | type[Independent],
    tmp_path: Path,
    toy_table: pd.DataFrame,
    toy_schema: TableSchema,
) -> None:
    digests = set()
    for name in "ab":
        family(seed=4).fit(toy_table, toy_schema).save(tmp_path / name)
        digests.add(persistence.model_digest(tmp_path / name))
    # A loaded model is the same model.
    load_generator(tmp_path / "a").save(tmp_path / "c")
    assert digests == {persistence.model_digest(tmp_path / "c")}


def test_a_changed_byte_is_noticed(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(CheckpointError, match="digest"):
        persistence.read(folder)


@pytest.mark.parametrize("name", ["weights.safetensors", "model.json"])
def test_a_missing_file_is_noticed(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match="fit the model again"):
        persistence.read(folder)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_description_is_noticed(folder: Path, text: str) -> None:
    (folder / "model.json").write_text(text)
    with pytest.raises(CheckpointError):
        persistence.read(folder)


def test_another_format_is_refused(folder: Path) -> None:
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(CheckpointError, match="99"):
        persistence.read(folder)


def test_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="forest"):
        Forest.load(folder)
