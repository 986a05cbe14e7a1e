"""``likeness edit`` and ``likeness fit --paired``, as a user runs them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from generators import GENERATORS, Images, ImageSchema
from pipelines.cli import main

SCHEMA = ImageSchema(4, 4, 1, ("low", "high"))


def pictures(count: int) -> Images:
    rng = np.random.default_rng(1)
    labels = np.arange(count, dtype=np.int64) % 2
    pixels = rng.integers(0, 60, (count, 4, 4, 1)) + 150 * labels[:, None, None, None]
    return Images(pixels.astype(np.uint8), labels)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "model"
    settings = {"steps": 30, "width": 32, "depth": 1, "batch_size": 32}
    GENERATORS["diffusion"].from_parameters(settings).fit(pictures(80), SCHEMA).save(folder)
    return folder


def written(folder: Path, images: Images, names: tuple[str, ...] = SCHEMA.classes) -> Path:
    for number, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = folder / names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(place / f"{number}.png")
    return folder


def likeness(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """In one line: a long path breaks a message where it will."""
    return " ".join(result.output.split())


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIKENESS_HOME", str(tmp_path / "home"))


def test_inpainting_keeps_pixels_and_marks_what_it_writes(model, tmp_path):
    images = pictures(6)
    order = np.argsort(images.labels == 0, kind="stable")  # folders in order: high, low
    mask = np.zeros((4, 4), np.uint8)
    mask[:2] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    source = written(tmp_path / "images", images)
    result = likeness(
        "edit",
        model,
        source,
        "--inpaint",
        tmp_path / "mask.png",
        "--output",
        tmp_path / "out",
        "--json",
    )
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "out" / "edit.json").read_text())
    assert (facts["edit"], facts["images"]) == ("inpaint", 6)
    for number, row in enumerate(order):
        file = tmp_path / "out" / f"{number:08d}.png"
        made = np.asarray(Image.open(file))
        assert np.array_equal(made[2:], images.pixels[row][2:, :, 0])
        assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in file.read_bytes()
    refused = likeness("edit", model, source, "--upscale", "--output", tmp_path / "out")
    assert refused.exit_code == 2
    assert "must be new" in said(refused)


def test_a_variation_goes_to_parquet_with_classes_and_seed_decides(model, tmp_path):
    source = written(tmp_path / "images", pictures(6))
    digests = []
    for number, seed in enumerate((1, 1, 2)):
        output = tmp_path / f"{number}.parquet"
        result = likeness(
            "edit", model, source, "--vary", 0.5, "--seed", seed, "--output", output, "--json"
        )
        assert result.exit_code == 0, result.output
        digests.append(json.loads(result.output)["content_digest"])
    assert digests[0] == digests[1] != digests[2]
    table = pq.read_table(tmp_path / "0.parquet")
    assert table["label_name"].to_pylist() == ["high"] * 3 + ["low"] * 3
    png = table["image"][0].as_py()["bytes"]
    assert b"compositeWithTrainedAlgorithmicMedia" in png
    assert Image.open(io.BytesIO(png)).size == (4, 4)
    footer = pq.read_metadata(tmp_path / "0.parquet").metadata
    assert footer[b"likeness:edit"] == b"vary"


def test_images_of_unknown_classes_are_enlarged_without_one(model, tmp_path):
    small = Images(np.full((3, 2, 2, 1), 100, np.uint8), np.zeros(3, np.int64))
    source = written(tmp_path / "images", small, ("other",))
    output = tmp_path / "large.parquet"
    result = likeness("edit", model, source, "--upscale", "--output", output)
    assert result.exit_code == 0, result.output
    table = pq.read_table(output)
    assert "label" not in table.column_names
    large = [np.asarray(Image.open(io.BytesIO(e["bytes"]))) for e in table["image"].to_pylist()]
    means = np.stack(large).reshape(3, 2, 2, 2, 2).mean(axis=(2, 4))
    assert np.abs(means - 100).max() <= 0.5


def test_pairs_are_learned_by_name_and_translated(tmp_path):
    targets = pictures(40)
    sources = Images(255 - targets.pixels, targets.labels)
    made, given = written(tmp_path / "made", targets), written(tmp_path / "given", sources)
    fitted = likeness(
        "fit",
        made,
        "--paired",
        given,
        "--set",
        "steps=30",
        "--set",
        "width=32",
        "--output",
        tmp_path / "model",
        "--json",
    )
    assert fitted.exit_code == 0, fitted.output
    assert json.loads(fitted.output)["pairs"] == 40
    output = tmp_path / "out.parquet"
    result = likeness("edit", tmp_path / "model", given, "--translate", "--output", output)
    assert result.exit_code == 0, result.output
    assert len(pq.read_table(output)) == 40
    (made / "low" / "0.png").rename(made / "low" / "x.png")
    refused = likeness("fit", made, "--paired", given, "--output", tmp_path / "other")
    assert refused.exit_code == 2
    assert "counterpart" in refused.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "one of --inpaint"),
        (("--vary", "0.5", "--upscale"), "--vary, --upscale"),
        (("--translate",), "--paired"),
        (("--inpaint", "missing.png"), "must be a picture"),
    ],
)
def test_wrong_requests_are_refused(model, tmp_path, arguments, message):
    source = written(tmp_path / "images", pictures(4))
    result = likeness("edit", model, source, *arguments, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "out").exists()
