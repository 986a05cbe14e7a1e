"""`likeness validate` of tables and images that others made: what fits is judged, the rest told."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from generators.base import DataError, LikenessError, ParameterError
from pipelines.assess import Request, validate


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIKENESS_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def tables(home: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(18, 80, 200), "sex": rng.choice(["f", "m"], 200)})
    for name, part in (("train", frame[:80]), ("holdout", frame[80:140]), ("made", frame[140:])):
        part.to_csv(home / f"{name}.csv", index=False)
    return home


def request(folder: Path, synthetic: str, **given: object) -> Request:
    return Request(
        synthetic=folder / synthetic,
        train=folder / "train.csv",
        holdout=folder / "holdout.csv",
        output=folder / "report",
        **given,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made.drop(columns="age"), "synthetic data do not fit train"),
        (lambda made: made.assign(city="x"), r"has \['city'\] besides; drop them"),
        (lambda made: made[:5], "synthetic data needs at least 50 rows"),
    ],
)
def test_tables_that_do_not_fit_are_told_apart(tables, change, said):
    change(pd.read_csv(tables / "made.csv")).to_csv(tables / "other.csv", index=False)
    with pytest.raises(DataError, match=said):
        validate(request(tables, "other.csv"))
    assert not (tables / "report").exists()


def test_options_of_images_are_not_for_tables(tables):
    for given, said in (
        ({"encoder": tables / "net.pt"}, "give both --encoder"),
        ({"encoder": tables / "net.pt", "encoder_sha256": "0" * 64}, "--encoder is for images"),
    ):
        with pytest.raises(ParameterError, match=said):
            validate(request(tables, "made.csv", **given))


def image_folders(root: Path, count: int) -> tuple[Path, Path, Path]:
    digits = load_digits(n_class=3)
    pixels = (digits.images * 15.9).astype(np.uint8)
    order = np.random.default_rng(0).permutation(len(pixels))[: 3 * count]
    folders = []
    for name, rows in zip(("train", "holdout", "made"), np.split(order, 3), strict=True):
        for row in rows:
            file = root / name / f"class {digits.target[row]}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row]).save(file)
        folders.append(root / name)
    return folders[0], folders[1], folders[2]


@pytest.mark.slow
def test_a_folder_of_images_is_judged_in_a_pretrained_network_too(home):
    train, holdout, made = image_folders(home, 120)
    network = home / "pixels.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten())).save(
            str(network)
        )
    given = {"synthetic": made, "train": train, "holdout": holdout, "output": home / "report"}
    with pytest.raises(ParameterError, match="must have the SHA-256"):
        validate(Request(**given, encoder=network, encoder_sha256="0" * 64))
    with pytest.raises(LikenessError, match="for tables"):
        validate(Request(**given, target="label"))
    digest = hashlib.sha256(network.read_bytes()).hexdigest()
    done = validate(Request(**given, encoder=network, encoder_sha256=digest))
    page = done.report.read_text()
    assert f"pixels ({digest[:8]})" in page
    for section in ("Class by class", "Brightness and detail", "Synthetic images"):
        assert section in page
    card = json.loads((home / "report" / "scorecard.json").read_text())["scores"]
    found = {score["metric"] for score in card if score["subject"] == f"pixels ({digest[:8]})"}
    assert {"frechet_ratio", "coverage_ratio"} <= found
    accused = [g.gate for g in done.verdict.gates if g.status == "failed" and g.value is not None]
    assert accused == []
