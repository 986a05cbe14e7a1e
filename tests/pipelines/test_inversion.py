"""What an attacker who holds a saved model finds in it: no planted value, and no row's place.

Under the default protection rare categories, extremes, ids, text and personal values never reach a
generator. Values that many rows share are what is learned, and a model may hold them. A family that
guards against copies keeps hashes of rows; they are sealed with a secret of the vault, so who has
the model alone cannot try rows against them. A model is as secret as the data all the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from generators import GENERATORS, load_generator
from generators.base import CheckpointError, Generator, Private
from generators.persistence import seal
from generators.schema import Images, ImageSchema, TableSchema
from generators.tabular.verbatim import SECRET_ARRAYS, row_hashes, snapped
from pipelines.ingest import Split, split_and_protect
from pipelines.sources import RawImages, RawTable
from pipelines.spec import parse_spec

# A number of train rows that no hyper-parameter or layer has.
ROWS, SEED = 883, 7
TINY: dict[str, dict[str, Any]] = {
    "diffusion": {"steps": 5},
    "ctgan": {"epochs": 1},
    "tvae": {"epochs": 1},
    "autoregressive": {"epochs": 1},
    "table-diffusion": {"epochs": 1},
    "table-flow": {"epochs": 1},
    "table-rbm": {"epochs": 1},
    "image-autoencoder": {"epochs": 2},
    "image-flow": {"epochs": 2},
    "image-gan": {"epochs": 2},
    "image-vae": {"epochs": 2},
    "pixel-autoregressive": {"epochs": 2, "window": 5, "features": 16, "depth": 1},
    "rbm": {"epochs": 2, "layers": (16,), "gibbs": 5},
    "rows-then-images": {
        "rows": "independent",
        "images": "image-vae",
        "images_settings": {"epochs": 2},
    },
}
FAMILIES = [name for name in GENERATORS if GENERATORS[name].persistent]
TABLES = [name for name in FAMILIES if GENERATORS[name].modality == "table"]
EXTREMES = (918_273_645.25, -777_123_456.5)
DAY = pd.Timestamp("1873-04-17")
# So long that it stands in no weights by chance.
SECRET_TEXT = "zq7canary"


def planted() -> pd.DataFrame:
    rng = np.random.default_rng(SEED)
    frame = pd.DataFrame(
        {
            "region": rng.choice(["north", "south", "west"], ROWS),
            "pay": rng.lognormal(10, 1, ROWS).round(2),
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, ROWS), "D"),
            "visits": rng.poisson(3, ROWS),
            "member": rng.random(ROWS) < 0.4,
            "account_id": 730_000_000 + rng.choice(10**8, ROWS, replace=False),
            "mail": [f"zq7canarymail{number}@example.org" for number in range(ROWS)],
            "note": [f"zq7canary was here on {number}" for number in range(ROWS)],
        }
    )
    for row in (3, 200, 500, 800):
        frame.loc[row, ["region", "joined"]] = ["zq7canaryrare", DAY]
    frame.loc[[4, 300, 600], "pay"] = EXTREMES[0]
    frame.loc[[9, 310, 610], "pay"] = EXTREMES[1]
    frame.loc[70, "region"] = "zq7canaryonce"
    frame.loc[71, "visits"] = 918_273
    return frame


def new(family: str) -> Generator:
    generator = GENERATORS[family].from_parameters({"seed": 0, **TINY.get(family, {})})
    if isinstance(generator, Private):
        generator.noise_key = b"of these tests"
    return generator


@pytest.fixture(scope="module")
def split() -> Split:
    raw = {"name": "toy", "source": {"kind": "csv", "path": "x"}}
    spec = parse_spec({**raw, "columns": {"note": {"kind": "text"}}})
    return split_and_protect(RawTable(planted()), spec)


def secrets_in(folder: Path, rows: pd.DataFrame) -> list[str]:
    """Which planted values stand in a model's files, as text or as numbers of any tensor."""
    numbers = {
        "extreme": np.array([*EXTREMES, 918_273.0]),
        "extreme date": np.array([DAY.value / 1e3, DAY.value / 1e9, DAY.toordinal()]),
        "id": rows["account_id"].to_numpy(dtype=np.float64),
    }
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    hits = [f"text in {file.name}" for file in files if SECRET_TEXT.encode() in file.read_bytes()]
    for place, values in held(folder):
        for what, wanted in numbers.items():
            near = np.isclose(values[:, None], wanted[None, :], rtol=1e-7, atol=0)
            if near.any():
                hits.append(f"{what} in {place}")
    return hits


def held(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """All numbers of a saved model, as float64, by where they stand."""
    for file in sorted(folder.glob("*.safetensors")):
        for name, array in load_file(file).items():
            distinct = np.unique(np.asarray(array).ravel())
            yield name, distinct[np.isfinite(distinct.astype(np.float64))].astype(np.float64)
    for file in sorted(folder.glob("*.json")):
        yield file.name, np.array(list(_numbers(json.loads(file.read_text()))) or [0.0])


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part)
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


@pytest.mark.parametrize("family", TABLES)
def test_no_planted_value_is_in_a_saved_model(family: str, split: Split, tmp_path: Path) -> None:
    assert isinstance(split.train, pd.DataFrame)
    generator = new(family)
    generator.fit(split.train, split.schema)
    generator.save(tmp_path / "model")
    assert secrets_in(tmp_path / "model", planted()) == []
    assert rows_told(tmp_path / "model", split.train) == []


def rows_told(folder: Path, train: pd.DataFrame) -> list[str]:
    """Tensors that tell which row has which cell: one cell a row, or the numbers of the rows."""
    told = []
    n = len(train)
    # Numbered in the order of their first sight; a column of unique values would equal any other.
    columns = [
        pd.factorize(train[name])[0] for name in train.columns if 1 < train[name].nunique() < n
    ]
    for file in sorted(folder.glob("*.safetensors")):
        for name, array in load_file(file).items():
            flat = np.asarray(array)
            if flat.ndim == 1 and np.array_equal(np.sort(flat), np.arange(n)):
                told.append(f"row numbers in {name}")
            for axis, size in enumerate(flat.shape):
                if size != n:
                    continue
                lines = np.moveaxis(flat, axis, 0).reshape(n, -1).T
                codes = [pd.factorize(line)[0] for line in lines]
                aligned = any(np.array_equal(code, column) for code in codes for column in columns)
                told.extend([f"cells by row in {name}"] if aligned else [])
    return told


def test_the_search_is_not_blind(split: Split, tmp_path: Path) -> None:
    """Without protection the same search finds what the same generator was given."""
    frame = planted()
    generator = GENERATORS["independent"].from_parameters({"seed": 0})
    kinds = {"note": "categorical", "account_id": "numerical"}
    generator.fit(frame, TableSchema.infer(frame, kinds=kinds))
    generator.save(tmp_path / "model")
    hits = " ".join(secrets_in(tmp_path / "model", frame))
    for what in ("text", "extreme", "extreme date"):
        assert what in hits
    from safetensors.numpy import save_file

    assert isinstance(split.train, pd.DataFrame)
    (tmp_path / "told").mkdir()
    order = np.random.default_rng(0).permutation(len(split.train))
    cells = pd.factorize(split.train["region"])[0].astype(np.int64)
    save_file({"order": order, "cells": cells + 4}, tmp_path / "told" / "weights.safetensors")
    assert len(rows_told(tmp_path / "told", split.train)) == 2


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in TABLES])
def test_no_picture_is_in_a_saved_model(family: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 255, (90, 8, 8, 1)).astype(np.uint8)
    labels = np.arange(90, dtype=np.int64) % 2
    labels[:3] = 2
    raw = RawImages(Images(pixels, labels), ImageSchema(8, 8, 1, ("a", "b", "zq7canaryrareclass")))
    split = split_and_protect(raw, parse_spec({"name": "p", "source": {"kind": "images"}}))
    generator = new(family)
    generator.fit(split.train, split.schema)
    generator.save(tmp_path / "model")
    files = [file.read_bytes() for file in (tmp_path / "model").iterdir()]
    assert not any(SECRET_TEXT.encode() in content for content in files)
    assert not any(picture.tobytes() in content for picture in pixels for content in files)
    for _, values in held(tmp_path / "model"):
        assert len(values) < pixels.size or not np.isin(values, np.unique(pixels)).all()


@pytest.mark.parametrize("family", TABLES)
def test_no_row_can_be_confirmed_by_a_saved_model(family: str, tmp_path: Path) -> None:
    """Who guesses a row must not find its hash in the model: the vault's secret is not in there."""
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "x": rng.normal(size=600).round(3),
            "n": rng.integers(0, 50, 600),
            "c": rng.choice(list("abc"), 600),
        }
    )
    schema = TableSchema.infer(frame)
    model = new(family).fit(frame, schema)
    folder = tmp_path / "model"
    model.save(folder)
    kept = set(load_file(folder / "weights.safetensors"))
    plain = (folder / "weights.safetensors").read_bytes()
    seal(folder, SECRET_ARRAYS, bytes(range(64)))
    sealed = (folder / "weights.safetensors").read_bytes()
    codec = getattr(model, "codec_", None)
    if codec is not None:
        hashes = row_hashes(snapped(codec.encode(frame), codec))
        told = sum(value.tobytes() in plain for value in hashes)
        assert (told > 500) == bool(kept & set(SECRET_ARRAYS)), "unsealed they are found"
        assert not any(value.tobytes() in sealed for value in hashes)
    with_key = load_generator(folder, bytes(range(64)))
    pd.testing.assert_frame_equal(with_key.sample(50, seed=1), model.sample(50, seed=1))
    if plain != sealed:
        for key in (None, bytes(64)):
            with pytest.raises(CheckpointError, match="LIKENESS_HOME"):
                load_generator(folder, key)
