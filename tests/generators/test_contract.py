"""What every generator promises; a new family is tested here by its name alone."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pandas as pd
import pytest

from generators import GENERATORS, Generator, Images, ImageSchema, TableSchema, load_generator
from generators.base import (
    CheckpointError,
    DataError,
    NotFittedError,
    ParameterError,
    Private,
    Progress,
    SchemaError,
)
from generators.schema import Data, Schema, to_numbers

# As little training as possible: the promises do not depend on quality.
TINY: dict[str, dict[str, Any]] = {
    "autoregressive": {"epochs": 1},
    "ctgan": {"epochs": 1},
    "diffusion": {"steps": 20},
    "image-autoencoder": {"epochs": 2, "width": 8},
    "image-flow": {"epochs": 2, "features": 8, "depth": 2},
    "image-gan": {"epochs": 2, "width": 8},
    "image-vae": {"epochs": 2, "width": 8},
    "mst": {"epsilon": 100.0},
    "pixel-autoregressive": {"epochs": 2, "window": 5, "features": 16, "depth": 1},
    "rbm": {"epochs": 2, "layers": (16,), "gibbs": 5},
    "rows-then-images": {
        "images": "image-vae",
        "images_settings": {"epochs": 2, "width": 8},
        "rows_settings": {"epochs": 1},
    },
    "sdv-copulagan": {"epochs": 1},
    "sdv-ctgan": {"epochs": 1},
    "sdv-tvae": {"epochs": 1},
    "table-diffusion": {"epochs": 1},
    "table-flow": {"epochs": 1},
    "table-rbm": {"epochs": 1, "layers": (16,), "gibbs": 3},
    "tvae": {"epochs": 1},
}
# SDV's families warn about their own habits.
_QUIET = pytest.mark.filterwarnings("ignore")
FAMILIES = [
    pytest.param(name, marks=[_QUIET] if name.startswith("sdv-") else []) for name in GENERATORS
]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def real(
    family: str,
    toy_table: pd.DataFrame,
    toy_schema: TableSchema,
    toy_images: Images,
    toy_image_schema: ImageSchema,
) -> tuple[Data, Schema]:
    if GENERATORS[family].modality == "table":
        return toy_table, toy_schema
    return toy_images, toy_image_schema


@pytest.fixture(scope="module")
def fitted(family: str, real: tuple[Data, Schema]) -> Generator:
    return fresh(family).fit(*real)


def fresh(family: str, **parameters: Any) -> Generator:
    generator = GENERATORS[family].from_parameters({**TINY.get(family, {}), **parameters})
    if isinstance(generator, Private):
        generator.noise_key = b"known to these tests"
    return generator


def take(data: Data, rows: slice) -> Data:
    if isinstance(data, Images):
        return Images(data.pixels[rows], data.labels[rows])
    return data.iloc[rows].reset_index(drop=True)


def same(left: Data, right: Data) -> bool:
    if isinstance(left, Images) and isinstance(right, Images):
        return np.array_equal(left.pixels, right.pixels) and np.array_equal(
            left.labels, right.labels
        )
    return isinstance(left, pd.DataFrame) and isinstance(right, pd.DataFrame) and left.equals(right)


def joined(parts: list[Data]) -> Data:
    if isinstance(parts[0], Images):
        return Images(
            np.concatenate([part.pixels for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )
    return pd.concat(parts, ignore_index=True)


def global_random_state() -> list[object]:
    import torch

    keys = np.random.get_state()  # noqa: NPY002
    return [keys[1].tolist(), keys[2:], random.getstate(), torch.get_rng_state().tolist()]


def test_sample_has_exactly_the_rows_asked_for(fitted: Generator) -> None:
    assert len(fitted.sample(137, seed=1)) == 137


def test_sample_matches_the_schema(fitted: Generator) -> None:
    sample, schema = fitted.sample(150, seed=1), fitted.schema_
    if isinstance(schema, ImageSchema):
        assert sample.pixels.shape == (150, schema.height, schema.width, schema.channels)
        assert sample.pixels.dtype == np.uint8
        assert sample.labels.dtype == np.int64
        assert set(np.unique(sample.labels)) <= set(range(len(schema.classes)))
        return
    assert list(sample.columns) == list(schema.names)
    assert {c.name: str(sample[c.name].dtype) for c in schema.columns} == {
        c.name: c.dtype for c in schema.columns
    }
    assert sample.index.equals(pd.RangeIndex(150))


def test_cells_stay_in_the_domain(fitted: Generator) -> None:
    if fitted.modality != "table":
        pytest.skip("images have no domain but their dtype")
    sample = fitted.sample(300, seed=2)
    for column in fitted.schema_.columns:
        present = sample[column.name].dropna()
        assert column.nullable or len(present) == 300, column.name
        if column.discrete:
            assert set(present) <= set(column.levels), column.name
        elif column.low is not None:
            numbers = to_numbers(present)
            assert numbers.min() >= column.low, column.name
            assert numbers.max() <= column.high, column.name


def test_values_stay_on_the_grid(fitted: Generator) -> None:
    if fitted.modality != "table":
        pytest.skip("images have no grid")
    sample = fitted.sample(300, seed=2)
    for column in fitted.schema_.columns:
        if column.kind in ("numerical", "datetime") and column.step is not None:
            steps = to_numbers(sample[column.name].dropna()) / column.step
            assert np.allclose(steps, np.round(steps), rtol=0, atol=1e-6), column.name


def test_odd_columns_survive(fitted: Generator) -> None:
    if fitted.modality != "table":
        pytest.skip("a table's matter")
    sample = fitted.sample(100, seed=3)
    assert (sample["constant"] == 7).all()
    assert sample["nothing"].isna().all()
    assert sample["unknown"].isna().all()


def test_ids_are_new_and_unique(fitted: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    if fitted.modality != "table":
        pytest.skip("a table's matter")
    monkeypatch.setattr(type(fitted), "rows_per_block", 40)
    assert fitted.sample(100, seed=3)["customer_id"].is_unique


def test_real_text_is_never_repeated(fitted: Generator, toy_table: pd.DataFrame) -> None:
    if fitted.modality != "table":
        pytest.skip("a table's matter")
    assert not set(fitted.sample(300, seed=3)["comment"]) & set(toy_table["comment"])


def test_the_seed_decides(fitted: Generator) -> None:
    first = fitted.sample(60, seed=5)
    assert same(first, fitted.sample(60, seed=5))
    assert not same(first, fitted.sample(60, seed=6))


def test_a_fit_is_reproducible_and_a_refit_forgets(
    family: str, real: tuple[Data, Schema], fitted: Generator
) -> None:
    data, schema = real
    again = fresh(family).fit(take(data, slice(0, len(data) // 2)), schema).fit(data, schema)
    assert same(again.sample(60, seed=5), fitted.sample(60, seed=5))


def test_blocks_are_the_sample(fitted: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(fitted), "rows_per_block", 30)
    backwards = [fitted.sample_block(block) for block in reversed(list(fitted.blocks(70, 4)))]
    assert same(joined(backwards[::-1]), fitted.sample(70, seed=4))


def test_a_saved_model_samples_the_same(fitted: Generator, tmp_path: Any) -> None:
    if not fitted.persistent:
        with pytest.raises(CheckpointError, match="pickle"):
            fitted.save(tmp_path)
        return
    fitted.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert loaded.parameters() == fitted.parameters()
    assert same(loaded.sample(60, seed=5), fitted.sample(60, seed=5))


def test_the_input_is_not_modified(family: str, real: tuple[Data, Schema]) -> None:
    data, schema = real
    before = (
        Images(data.pixels.copy(), data.labels.copy())
        if isinstance(data, Images)
        else data.copy(deep=True)
    )
    fresh(family).fit(data, schema)
    assert same(before, data)


def test_the_global_random_state_is_untouched(family: str, real: tuple[Data, Schema]) -> None:
    before = global_random_state()
    fresh(family).fit(*real).sample(20, seed=1)
    assert global_random_state() == before


def test_progress_is_reported(family: str, real: tuple[Data, Schema]) -> None:
    reports: list[Progress] = []
    fresh(family).fit(*real, progress=reports.append)
    assert reports
    assert all(0 <= report.step <= report.total for report in reports)


def test_nothing_works_before_fit(family: str, tmp_path: Any) -> None:
    with pytest.raises(NotFittedError, match="fit"):
        fresh(family).sample(1, seed=0)
    with pytest.raises(NotFittedError, match="fit"):
        fresh(family).save(tmp_path)


def test_no_rows_can_be_asked_for(fitted: Generator) -> None:
    nothing = fitted.sample(0, seed=0)
    assert len(nothing) == 0
    if isinstance(nothing, pd.DataFrame):
        assert [str(dtype) for dtype in nothing.dtypes] == [
            column.dtype for column in fitted.schema_.columns
        ]


def test_a_negative_size_is_refused(fitted: Generator) -> None:
    with pytest.raises(ParameterError, match="-1"):
        fitted.sample(-1, seed=0)


def test_one_row_is_too_few(family: str, real: tuple[Data, Schema]) -> None:
    data, schema = real
    with pytest.raises(DataError, match="at least 2"):
        fresh(family).fit(take(data, slice(0, 1)), schema)


def test_data_must_fit_the_schema(family: str, real: tuple[Data, Schema]) -> None:
    data, schema = real
    wrong = (
        Images(data.pixels[:, :4], data.labels)
        if isinstance(data, Images)
        else data.drop(columns="age")
    )
    with pytest.raises(SchemaError):
        fresh(family).fit(wrong, schema)


def test_an_unknown_parameter_names_the_nearest(family: str) -> None:
    with pytest.raises(ParameterError, match="did you mean 'seed'"):
        GENERATORS[family].from_parameters({"sead": 1})


def test_parameters_are_json_and_rebuild_the_generator(family: str) -> None:
    generator = fresh(family, seed=3)
    again = GENERATORS[family].from_parameters(json.loads(json.dumps(generator.parameters())))
    assert again == generator
