"""The catalogue's pages in a real browser, from a folder and from a web server."""

from __future__ import annotations

import dataclasses
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from generators.schema import Images, ImageSchema
from pipelines.publication.catalogue import write_catalogue
from pipelines.publication.publish import publish
from pipelines.publication.retire import collect, retire

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
LONG = "an_unbroken_name_of_a_column_that_goes_on_and_on_and_on_for_more_than_a_phone_is_wide"


@pytest.fixture
def lake(
    make_release, frame: pd.DataFrame, images: tuple[Images, ImageSchema], tmp_path: Path
) -> Path:
    """Three datasets: a table with three versions, images, and one that is retired and gone."""
    place = tmp_path / "a lake"
    facts = {
        "description": "Visits of people",
        "license": "mit",
        "owners": ["team:data"],
        "source": {"kind": "csv", "rows": {"train": 900, "holdout": 300}},
        "protection": ["ages above 90 joined"],
        "reproduce": {"generator": "forest", "parameters": {"trees": 12}, "model_digest": "a" * 64},
    }
    frame = frame.assign(**{LONG: np.arange(200) / 7})
    for key in ("one", "two", "three"):
        publish(place, make_release(frame, key=key, facts=facts, folder=key))
    retire(place, "people@2", "The source was wrong")
    publish(place, make_release(*images, dataset="pets", folder="pets"))
    publish(place, make_release(dataset="gone", folder="gone"))
    retire(place, "gone@1", "Not ours to give")
    collect(place)
    write_catalogue(place)
    return place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def server(lake: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(lake))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_nothing_sticks_out_and_nothing_is_loaded(browser: Any, lake: Path) -> None:
    for width in (320, 390, 768, 1280):
        for scheme in ("light", "dark"):
            view = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
            asked: list[str] = []
            view.on("request", lambda request, to=asked: to.append(request.url))
            view.on("pageerror", lambda error: pytest.fail(str(error)))
            for name in ("", "people/", "pets/", "gone/"):
                asked.clear()
                url = (lake / f"{name}index.html").as_uri()
                view.goto(url)
                wide = view.evaluate("document.documentElement.scrollWidth")
                assert wide == width, (name, width)
                assert [one for one in asked if not one.startswith("data:")] == [url]
            view.close()


def test_a_reader_finds_a_dataset_and_how_to_read_it(browser: Any, lake: Path) -> None:
    view = browser.new_page()
    view.goto((lake / "index.html").as_uri())
    shown = view.locator("article:visible")
    assert shown.count() == 3
    view.keyboard.press("/")
    view.keyboard.type("insured forest")
    assert shown.count() == 1
    assert view.locator("#totals").inner_text() == "1 of 3 shown"
    view.fill("#find", "")
    view.get_by_role("button", name="Images").click()
    assert shown.locator("h2").all_inner_texts() == ["pets"]
    view.get_by_role("button", name="All").click()
    view.get_by_role("link", name="people").click()
    view.wait_for_url("**/people/index.html")
    assert view.locator("h1").inner_text() == "people"
    assert "people@3 is cleared for release" in view.locator(".banner").inner_text()
    assert view.locator(".rows tbody tr").count() == 12
    assert view.locator(".rows thead svg").count() >= 5, "each column shows its shape"
    flow = view.locator(".flow li").all_inner_texts()
    for part, text in zip(("csv", "ages above 90", "forest", "people@3"), flow, strict=True):
        assert part in text
    versions = view.locator(".versions tbody tr").all_inner_texts()
    assert [text.split()[0] for text in versions] == ["people@3", "people@2", "Retired", "people@1"]
    assert "The source was wrong" in versions[2]
    assert view.locator(".code:visible").count() == 1
    view.get_by_role("tab", name="polars").click()
    assert "import polars" in view.locator(".code:visible pre").inner_text()
    view.keyboard.press("ArrowRight")
    assert "import duckdb" in view.locator(".code:visible pre").inner_text()
    view.goto((lake / "gone/index.html").as_uri())
    assert "All versions are retired" in view.locator(".banner").inner_text()
    assert "Not ours to give" in view.locator(".versions").inner_text()
    view.close()


def code_of(view: Any, tool: str) -> str:
    view.get_by_role("tab", name=tool, exact=True).click()
    text: str = view.locator(".code:visible pre").inner_text()
    return text


@pytest.mark.parametrize("tool", ["pandas", "polars", "DuckDB"])
def test_the_lines_on_the_page_read_the_rows_from_a_folder(
    browser: Any, lake: Path, tool: str
) -> None:
    view = browser.new_page()
    view.goto((lake / "people/index.html").as_uri())
    found: dict[str, Any] = {}
    exec(code_of(view, tool), found)  # what a reader pastes
    assert found["df"]["person_id"].to_list() == list(range(1, 201))
    view.close()


def test_the_lines_on_a_served_page_read_over_the_web(
    browser: Any, server: str, frame: pd.DataFrame
) -> None:
    view = browser.new_page()
    view.goto(f"{server}/people/")
    lines = code_of(view, "pandas")
    assert f'"{server}/people/snapshots/' in lines
    found: dict[str, Any] = {}
    exec(lines, found)
    pd.testing.assert_series_equal(found["df"]["person_id"], frame["person_id"])
    assert "read_parquet(['http" in code_of(view, "DuckDB")
    view.close()


def test_pictures_of_a_set_without_a_contact_sheet_are_its_first_images(
    browser: Any, lake: Path, make_release, images: tuple[Images, ImageSchema]
) -> None:
    release = make_release(*images, dataset="pets", key="again", folder="again")
    again = dataclasses.replace(release, created_at="2026-02-01T12:00:00+00:00")
    publish(lake, again)
    write_catalogue(lake)
    view = browser.new_page()
    view.goto((lake / "pets/index.html").as_uri())
    drawn = view.evaluate(
        "[...document.querySelectorAll('.sheets img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert drawn == [[5, 6]] * 24
    view.close()
