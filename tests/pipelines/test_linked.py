"""A table with an image column: learned, judged by both suites, published as one Parquet."""

from __future__ import annotations

import io
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from generators import GENERATORS, Images, ImageSchema, TableSchema, load_generator
from generators.base import ParameterError
from pipelines import steps
from pipelines.declare import Options, to_spec
from pipelines.home import Home
from pipelines.publication.verify import verify
from pipelines.rebuild import rebuild
from validators import Comparison
from validators.linked import association
from validators.verdict import QuarantinedError, Verdict

CONTRACT = """\
name: linked
description: Lets through what is not absurd.
gates:
  - {id: image-distance, metric: frechet_distance, dimension: fidelity, on: low, max: 1000000000.0,
     modality: image, why: Any picture will do here.}
  - {id: rows-marginals, metric: marginal_tvd_mean, dimension: fidelity, on: low, max: 0.3,
     modality: table, why: The shares of values are those of the holdout.}
"""
FAMILIES = {
    "rows": "forest",
    "images": "image-vae",
    "images_settings": {"epochs": 30, "width": 8, "latent": 4, "batch_size": 16},
}


def ward(rows: int = 240, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Patients whose picture is bright on the side of their illness, with age by illness."""
    rng = np.random.default_rng(seed)
    ill = rng.random(rows) < 0.4
    pixels = rng.integers(0, 60, (rows, 8, 8, 1))
    pixels[ill, :, :4] += 180
    pixels[~ill, :, 4:] += 180
    frame = pd.DataFrame(
        {
            "diagnosis": np.where(ill, "flu", "none").astype(object),
            "age": np.where(ill, rng.normal(30, 4, rows), rng.normal(60, 4, rows)).round(1),
            "ward": rng.choice(["A", "B", "C"], rows),
        }
    )
    return frame, pixels.astype(np.uint8)


def write(folder: Path) -> Path:
    frame, pixels = ward()
    cells = []
    for own in pixels:
        buffer = io.BytesIO()
        Image.fromarray(own[..., 0]).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    # A file that cannot be read loses its row, too.
    cells[5] = {"bytes": b"\x89PNG", "path": None}
    table = pa.Table.from_pandas(frame).append_column("image", pa.array(cells))
    pq.write_table(table, folder / "patients.parquet")
    (folder / "linked.yaml").write_text(CONTRACT)
    return folder / "patients.parquet"


def options(folder: Path, **more: object) -> Options:
    settings = [f"{name}={value}" for name, value in FAMILIES.items()]
    given = {"target": "diagnosis", "settings": settings, "contract": str(folder / "linked.yaml")}
    return Options(**{**given, **more})  # type: ignore[arg-type]


def linked() -> tuple[Images, ImageSchema]:
    frame, pixels = ward()
    labels = (frame["diagnosis"] == "none").to_numpy(np.int64)
    schema = TableSchema.infer(frame, target="diagnosis")
    return (
        Images(pixels, labels, frame),
        ImageSchema(8, 8, 1, ("flu", "none"), schema, "diagnosis"),
    )


def side(images: Images) -> np.ndarray:
    """Whether the right half is the brighter one."""
    halves = images.pixels.astype(float).reshape(len(images), 8, 2, 4).mean(axis=(1, 3))
    bright: np.ndarray = halves[:, 1] > halves[:, 0]
    return bright


@pytest.mark.parametrize(
    "images",
    [
        FAMILIES,
        {**FAMILIES, "images": "diffusion", "images_settings": {"steps": 80, "width": 16}},
    ],
)
def test_an_image_belongs_to_its_row(images: dict[str, object], tmp_path: Path) -> None:
    model = GENERATORS["rows-then-images"].from_parameters(images).fit(*linked())
    sample = model.sample(150, seed=1)
    assert isinstance(sample, Images)
    assert sample.rows is not None
    assert list(sample.rows.columns) == ["diagnosis", "age", "ward"]
    names = np.array(["flu", "none"])
    assert (sample.rows["diagnosis"].to_numpy() == names[sample.labels]).all()
    assert (side(sample) == (sample.rows["diagnosis"] == "none")).mean() > 0.85
    model.save(tmp_path)
    again = load_generator(tmp_path).sample(150, seed=1)
    assert isinstance(again, Images)
    np.testing.assert_array_equal(again.pixels, sample.pixels)
    pd.testing.assert_frame_equal(again.rows, sample.rows)


def test_a_broken_link_shows_in_the_association() -> None:
    data, schema = linked()
    train, holdout = data.take(np.arange(0, 120)), data.take(np.arange(120, 240))
    other = Images(*ward(120, seed=5)[1:], np.zeros(120, np.int64))
    frame, pixels = ward(120, seed=5)
    fresh = Images(pixels, (frame["diagnosis"] == "none").to_numpy(np.int64), frame)
    shuffled = frame.sample(frac=1.0, random_state=0).reset_index(drop=True)
    broken = Images(other.pixels, fresh.labels, shuffled)
    for synthetic, wrong in ((fresh, False), (broken, True)):
        scores = association(Comparison(synthetic, train, holdout, schema))
        gaps = {score.subject: score for score in scores}
        assert list(gaps) == ["diagnosis", "age", "ward"]
        for name in ("diagnosis", "age"):
            low = gaps[name].low
            assert low is not None
            assert (low > 0.1) == wrong, name
        assert gaps["ward"].low is not None
        assert gaps["ward"].low < 0.1, "there is nothing to lose"


def dosed(rows: int, seed: int) -> tuple[Images, ImageSchema]:
    """Images on whose bright side is the label, and how bright it is the dose."""
    rng = np.random.default_rng(seed)
    dose, right = rng.lognormal(size=rows), rng.random(rows) < 0.5
    half = np.where(right[:, None], np.arange(8) >= 4, np.arange(8) < 4)
    bright = 60 + 180 * dose / (1 + dose)
    pixels = half[:, None, :] * bright[:, None, None] + rng.integers(0, 15, (rows, 8, 8))
    frame = pd.DataFrame(
        {"side": np.where(right, "right", "left").astype(object), "dose": dose.round(3)}
    )
    schema = TableSchema.infer(frame, target="side")
    images = Images(pixels.astype(np.uint8)[..., None], right.astype(np.int64), frame)
    return images, ImageSchema(8, 8, 1, ("left", "right"), schema, "side")


def test_an_image_follows_the_other_columns_of_its_row_where_its_family_can_be_told() -> None:
    train, schema = dosed(400, 0)
    holdout, _ = dosed(200, 1)
    gaps, notes = {}, {}
    for images, settings in (
        ("diffusion", {"steps": 100, "width": 16}),
        ("image-vae", {**FAMILIES["images_settings"], "epochs": 10}),
    ):
        chosen = {"rows": "independent", "images": images, "images_settings": settings}
        model = GENERATORS["rows-then-images"].from_parameters(chosen).fit(train, schema)
        sample = model.sample(300, seed=1)
        assert isinstance(sample, Images)
        assert sample.rows is not None
        (score,) = [
            score
            for score in association(Comparison(sample, train, holdout, schema))
            if score.subject == "dose"
        ]
        gaps[images], notes[images] = score, model.training_notes_
        assert (side(sample) == (sample.rows["side"] == "right")).mean() > 0.75
        related = sample.rows["dose"].corr(
            pd.Series(sample.pixels.mean(axis=(1, 2, 3))), method="spearman"
        )
        assert (related > 0.8) == (images == "diffusion"), related
    assert gaps["diffusion"].high is not None
    assert gaps["image-vae"].low is not None
    assert gaps["diffusion"].high < 0.25 < gaps["image-vae"].low
    assert any("'side' alone" in note for note in notes["image-vae"])
    assert not any(note.startswith("images:") for note in notes["diffusion"])


@pytest.mark.slow
def test_from_file_to_one_published_parquet(tmp_path: Path) -> None:
    path, home = write(tmp_path), Home(tmp_path / "home")
    with pytest.raises(ParameterError, match="is learned by rows-then-images"):
        steps.prepare(
            spec := to_spec(str(path), options(tmp_path, generator="image-vae", settings=[])),
            home,
            steps.ingest(spec, home),
        )
    spec = to_spec(str(path), options(tmp_path))
    real = steps.ingest(spec, home)
    assert any("left out, they could not be read: number 5" in n for n in real.facts["protection"])
    result = steps.run(spec, home, real=real)
    assert result.verdict.passed
    assert result.rows is not None
    assert result.rows.passed
    published = result.published
    assert published is not None
    manifest = published.manifest()
    assert [c.name for c in manifest.columns] == ["diagnosis", "age", "ward", "image"]
    assert {"reports/rows/verdict.json", "reports/rows/report.html"} <= {
        file.path for file in manifest.files
    }
    report = verify(home.lake, "patients")
    assert report.passed
    assert {"gates", "gates of the rows"} <= {check.name for check in report.checks}
    assert rebuild(home, "patients").passed
    file = published.path / "data" / "train-00000-of-00001.parquet"
    rows = pd.read_parquet(file)
    pictures = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in rows["image"]]
    right = [picture[:, 4:].mean() > picture[:, :4].mean() for picture in pictures]
    assert (np.array(right) == (rows["diagnosis"] == "none")).mean() > 0.9
    assert pl.read_parquet(file)["diagnosis"].to_list() == rows["diagnosis"].tolist()
    assert duckdb.sql(f"select age from '{file}'").fetchnumpy()["age"].tolist() == list(rows["age"])
    card = steps.score(result.release)
    assert {score.subject for score in card.select("association_gap")} == {
        "diagnosis", "age", "ward"
    }  # fmt: skip
    # The lock: neither verdict alone releases anything.
    verdict = result.release.evidence_folder / "rows" / "verdict.json"
    other = (
        Verdict.from_json(verdict.read_text())
        .to_json()
        .replace(manifest.content_digest, "v1:" + "0" * 64)
    )
    verdict.write_text(other)
    with pytest.raises(QuarantinedError):
        steps.publish(result.release)


def test_without_a_label_named_the_columns_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    path, home = write(tmp_path), Home(tmp_path / "home")
    real = steps.ingest(to_spec(str(path), options(tmp_path, target=None)), home)
    assert isinstance(real.schema, ImageSchema)
    assert real.schema.table is None
    note = "columns left out: diagnosis, age, ward; --target NAME"
    assert any(note in told for told in real.facts["protection"])
