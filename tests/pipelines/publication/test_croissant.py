"""Croissant as its own library reads it: valid, and the records are the published rows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import mlcroissant
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.publication.croissant import CROISSANT
from pipelines.publication.digest import content_digest
from pipelines.publication.parquet import to_arrow, write_parquet
from pipelines.publication.publish import publish

# mlcroissant calls what rdflib has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib")


def records(folder: Path, split: str = "train") -> pd.DataFrame:
    dataset = mlcroissant.Dataset(folder / CROISSANT)
    assert not dataset.metadata.ctx.issues.errors
    frame = pd.DataFrame(list(dataset.records(split)))
    return frame.rename(columns=lambda name: name.removeprefix(f"{split}/"))


def as_texts(values: pd.Series) -> list[str | None]:
    """Text comes back as bytes from mlcroissant."""
    return [None if pd.isna(v) else v.decode() if isinstance(v, bytes) else v for v in values]


def test_a_table_reads_back_row_by_row(make_release, tmp_path):
    folder = publish(tmp_path / "lake", make_release()).path
    found, wanted = records(folder), pd.read_parquet(folder / "data")
    assert list(found.columns) == list(wanted.columns)
    for name in ("sex", "town"):
        assert as_texts(found[name]) == [None if pd.isna(v) else v for v in wanted[name]]
    for name in ("person_id", "amount", "visits", "insured"):
        np.testing.assert_array_equal(found[name].astype(float), wanted[name].astype(float))
    assert pd.to_datetime(found["since"]).tolist() == wanted["since"].tolist()


def test_images_decode_to_the_published_pixels(make_release, images, tmp_path):
    folder = publish(tmp_path / "lake", make_release(*images)).path
    found, (data, _) = records(folder), images
    assert found["label"].tolist() == data.labels.tolist()
    for picture, wanted in zip(found["image"], data.pixels, strict=True):
        np.testing.assert_array_equal(np.asarray(picture), wanted[:, :, 0])


def test_splits_of_several_files_are_one_record_set(make_release, frame, tmp_path):
    release = make_release(frame)
    files = {k: v for k, v in release.files.items() if not k.startswith("data/")}
    for number, part in enumerate((frame[:120], frame[120:])):
        path = tmp_path / f"part{number}.parquet"
        write_parquet(to_arrow(part, release.schema), path, {})
        files[f"data/train-{number:05d}-of-00002.parquet"] = path
    folder = publish(tmp_path / "lake", dataclasses.replace(release, files=files)).path
    assert sorted(records(folder)["person_id"]) == frame["person_id"].tolist()


def test_a_file_that_is_not_the_hashed_one_is_refused_by_the_reader(make_release, tmp_path):
    """The planted defect: the same columns, other rows."""
    folder = publish(tmp_path / "lake", make_release()).path
    (file,) = (folder / "data").iterdir()
    table = pq.read_table(file)
    file.chmod(0o644)
    file.unlink()
    pq.write_table(table.slice(0, 10), file)
    assert content_digest(table.slice(0, 10)) != content_digest(table)
    with pytest.raises(mlcroissant.GenerationError):
        records(folder)


def test_it_says_that_it_is_synthetic_and_conforms(make_release, tmp_path):
    folder = publish(tmp_path / "lake", make_release()).path
    said = json.loads((folder / CROISSANT).read_bytes())
    assert "http://mlcommons.org/croissant/1.1" in said["conformsTo"]
    assert said["rai:hasSyntheticData"] is True
