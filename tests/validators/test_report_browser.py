"""The report in a real browser: nothing sticks out on a phone, nothing is loaded from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from generators.schema import Images, ImageSchema
from validators import Comparison
from validators.base import Score, Scorecard
from validators.contract import Adjustment, load_contract
from validators.report import ReportContext, render_report
from validators.verdict import Verdict, scorecard_digest

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
GROUPS = ["sex=Female", "sex=Male", "race=Amer-Indian-Eskimo", "race=Asian-Pac-Islander"]
OF_GROUPS = (
    ("representation_ratio", "bias", "ratio"),
    ("label_drift", "bias", "share"),
    ("equalised_odds_drift", "bias", "share"),
    ("subgroup_tvd", "bias", "share"),
    ("subgroup_auc_loss", "bias", "share"),
    ("membership_auc_group", "privacy", "share"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    contract = load_contract("standard").for_modality("table")
    gated = {
        gate.metric: Score(gate.metric, gate.dimension, value=0.5, low=0.4, high=0.6)
        for gate in contract.gates
    }
    matrix = [
        Score(metric, dimension, group, value=0.9, low=0.8, high=1.1, unit=unit)  # type: ignore[arg-type]
        for metric, dimension, unit in OF_GROUPS
        for group in GROUPS
    ]
    card = Scorecard((*gated.values(), *matrix))
    verdict = Verdict(
        contract="standard",
        contract_digest=contract.digest,
        candidate_digest="c" * 64,
        scorecard_digest=scorecard_digest(card),
        modality="table",
        generated="2026-01-01T00:00:00+00:00",
        gates=tuple(gate.answer(card) for gate in contract.gates),
    )
    context = ReportContext(dataset="adult", verdict=verdict, scorecard=card)
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_report(context), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def image_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image release with a waived, a tightened, an open and a skipped gate."""
    rng = np.random.default_rng(0)
    schema = ImageSchema(8, 8, 1, tuple(f"class {number}" for number in range(10)))
    parts = [
        Images(rng.integers(0, 256, (80, 8, 8, 1), dtype=np.uint8), np.arange(80) % 10)
        for _ in range(3)
    ]
    contract = load_contract("standard").for_modality("image")
    changes = {
        "image-frechet": Adjustment(waive="The partner has seen the images and accepts them."),
        "image-coverage": Adjustment(min=0.9),
    }
    contract = contract.adjusted(changes)
    gated = {}
    for gate in contract.gates:
        ends = {"value": 9.0, "low": 8.0, "high": 10.0}
        if gate.metric == "copy_excess":
            ends = {"value": 0.01, "low": 0.0, "high": 0.03}
        gated[gate.metric, gate.subject] = Score(
            gate.metric, gate.dimension, gate.subject, **ends, n=80, minimum_detectable=0.5
        )
    gated["tstr_gap", "all"] = Score("tstr_gap", "utility", skipped="too few images")
    of_classes = [
        Score(metric, "fidelity", name, value=0.9, low=0.8, high=1.0)
        for metric in ("label_fidelity", "class_coverage", "tstr_gap")
        for name in schema.classes
    ]
    networks = [
        Score("frechet_ratio", "fidelity", f"trained network {n}", value=2.0, low=1.0, high=3.0)
        for n in range(1, 5)
    ]
    card = Scorecard((*gated.values(), *of_classes, *networks))
    verdict = Verdict(
        contract="standard",
        contract_digest=contract.digest,
        candidate_digest="c" * 64,
        scorecard_digest=scorecard_digest(card),
        modality="image",
        generated="2026-01-01T00:00:00+00:00",
        gates=tuple(gate.answer(card) for gate in contract.gates),
    )
    context = ReportContext(
        dataset="digits",
        verdict=verdict,
        scorecard=card,
        comparison=Comparison(*parts, schema=schema),
        reproduce={"parameters": {"steps": 100, "seed": 3}},
    )
    path = tmp_path_factory.mktemp("images") / "report.html"
    path.write_text(render_report(context), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_sticks_out_and_nothing_is_loaded(
    browser: Any, page: Path, width: int, scheme: str
) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(page.as_uri())
    assert view.locator(".matrix td").count() >= len(GROUPS)
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert asked == [page.as_uri()]
    view.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_of_images_fits_and_says_what_was_changed(
    browser: Any, image_page: Path, width: int
) -> None:
    view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
    asked: list[str] = []
    view.on("request", lambda request: asked.append(request.url))
    view.goto(image_page.as_uri())
    assert view.evaluate("document.documentElement.scrollWidth") == width
    assert asked == [image_page.as_uri()]
    text = view.inner_text("main")
    for said in (
        "Waived by the owner: The partner has seen",
        "contract: high end ≥ 0.7",
        "What the owner changed of the contract",
        "The interval reaches across the bound",
        "Not proven",
        "Class by class",
        "trained network 4",
        "Brightness and detail",
        "sees ≥ 0.500",
        "steps 100 · seed 3",
    ):
        assert said in text, said
    assert view.locator("text=class 9").count() >= 1
    view.close()


@pytest.mark.parametrize("which", ["page", "image_page"])
def test_a_printed_page_has_white_paper_and_loses_nothing(
    browser: Any, request: pytest.FixtureRequest, which: str
) -> None:
    view = browser.new_page(viewport={"width": 688, "height": 971}, color_scheme="dark")
    view.goto(request.getfixturevalue(which).as_uri())
    view.emulate_media(media="print")
    colour = "getComputedStyle(document.body).backgroundColor"
    assert view.evaluate(colour) == "rgb(255, 255, 255)"
    # The gates are a table on paper, whose width is that of a small screen.
    assert view.evaluate("getComputedStyle(document.querySelector('.gates td')).display") == (
        "table-cell"
    )
    assert view.evaluate("document.documentElement.scrollWidth") <= 688
    assert view.pdf(format="A4")[:5] == b"%PDF-"
    view.close()
