"""The report in a real browser: nothing sticks out on a phone, nothing is loaded from elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from validators.base import Score, Scorecard
from validators.contract import load_contract
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
