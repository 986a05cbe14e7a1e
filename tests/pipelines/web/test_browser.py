"""The pages in a real browser, as people use them: keyboard, phone, dark, without a script."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.home import Home
from pipelines.publication.log import resolve
from pipelines.requests.inbox import Inbox

from .conftest import PATIENCE, TOKEN, Site

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Debian's chromium is not installed")
PAGES = [
    "/datasets",
    "/datasets/people",
    "/requests",
    "/requests/new?dataset=people",
    "/requests/new?dataset=-",
    "/lake/people/index.html",
]


@pytest.fixture(scope="module")
def desk(
    make_site: Callable[..., Any], lake_home: Home, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site over a copy of the lake, with an inbox of its own."""
    root = tmp_path_factory.mktemp("browser") / "home"
    shutil.copytree(lake_home.root, root)
    with make_site(home=Home(root)) as site:
        yield site


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def view(chromium: Any, desk: Site) -> Iterator[Any]:
    """A page that is signed in, and lets nothing pass that the pages must not do."""
    context = chromium.new_context(base_url=desk.url, viewport={"width": 1280, "height": 900})
    yield from _watched(context, desk)


def _watched(context: Any, desk: Site) -> Iterator[Any]:
    context.set_default_timeout(1000 * PATIENCE)
    view = context.new_page()
    foreign: list[str] = []
    wrong: list[str] = []
    view.on("request", lambda r: r.url.startswith((desk.url, "data:")) or foreign.append(r.url))
    view.on("pageerror", lambda error: wrong.append(str(error)))
    view.on("console", lambda said: said.type == "error" and wrong.append(said.text))
    view.on("response", lambda told: told.status >= 500 and wrong.append(told.url))
    view.goto("/login")
    view.get_by_label("Token").fill(TOKEN)
    view.keyboard.press("Enter")
    view.wait_for_url("**/datasets")
    yield view
    context.close()
    assert foreign == [], "nothing is loaded from another host"
    refused = "the server responded with a status of 422"
    assert [said for said in wrong if refused not in said] == []


def test_browse_search_and_download(view: Any, desk: Site, tmp_path: Path) -> None:
    assert view.get_by_role("heading", level=1).inner_text() == "Datasets"
    assert view.get_by_role("status").inner_text() == "2 datasets"
    view.keyboard.press("/")
    view.keyboard.type("towns")
    until(view, "document.querySelectorAll('.dataset').length === 1")
    view.wait_for_url("**/datasets?search=towns")
    view.reload()
    assert view.get_by_role("searchbox").input_value() == "towns"
    assert view.locator(".dataset").count() == 1
    view.get_by_role("searchbox").fill("")
    view.get_by_role("link", name="People", exact=True).click()
    view.wait_for_url("**/datasets/people")
    assert view.get_by_role("heading", level=1).inner_text() == "People"
    assert view.get_by_text("Visits of people <b>to</b> a physician").count() == 1, "escaped"
    assert view.locator("[aria-labelledby=look] tbody tr").count() == 8
    with view.expect_download() as saved:
        view.get_by_role("link", name="train-00000-of-00001.parquet").click()
    saved.value.save_as(tmp_path / "saved.parquet")
    published = resolve(desk.home.lake, "people@3")
    entry = published.manifest().data_files[0]
    digest = hashlib.sha256((tmp_path / "saved.parquet").read_bytes()).hexdigest()
    assert digest == entry.sha256
    view.get_by_role("link", name="people@2").click()
    assert "a test retires it" in view.get_by_role("note").inner_text()


def until(view: Any, condition: str) -> None:
    """Wait for a condition; the page's policy forbids Playwright to do it inside the page."""
    end = time.monotonic() + PATIENCE
    while not view.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.02)


def press(view: Any, *keys: str) -> None:
    for key in keys:
        view.keyboard.press(key)


def tab_to(view: Any, name: str, most: int = 60) -> None:
    """Press Tab until the control with this name has the focus."""
    for _ in range(most):
        view.keyboard.press("Tab")
        focused = view.evaluate(
            "() => { const e = document.activeElement;"
            " return e.getAttribute('aria-label') || e.labels?.[0]?.innerText || e.innerText }"
        )
        if (focused or "").strip().startswith(name):
            outline = view.evaluate(
                "getComputedStyle(document.activeElement).outlineStyle + "
                "getComputedStyle(document.activeElement, '::after').outlineStyle"
            )
            assert "solid" in outline, f"{name} does not show its focus"
            return
    raise AssertionError(f"Tab does not reach {name}")


def test_columns_are_described_where_there_is_no_data(view: Any, desk: Site) -> None:
    view.goto("/requests/new?dataset=people")
    assert view.locator("#where").count() == 1
    view.get_by_label("Like which dataset").select_option("-")
    view.wait_for_selector("#described-0")
    assert view.locator("#where").count() == 0, "conditions are for what was learned"
    view.get_by_label("Name of the answer").fill("described")
    view.locator("[name=described_name]").fill("state")
    view.locator("[name=described_kind]").select_option("category")
    until(view, "document.querySelector('[name=described_values]').placeholder.includes('paid')")
    view.locator("[name=described_values]").fill("paid: 70, open")
    view.locator("[name=described_missing]").focus()
    fault = view.locator("#described-0-fault")
    fault.wait_for()
    assert "its weight" in fault.inner_text()
    view.locator("[name=described_values]").fill("paid: 70, open: 30")
    fault.wait_for(state="hidden")
    until(view, "document.querySelector('[data-said]').innerText.startsWith('Ready')")
    assert view.locator("[data-said]").inner_text() == "Ready: 1000 rows of your columns"
    view.get_by_role("button", name="Ask for it").click()
    view.wait_for_url(re.compile(r"/requests/key-"))
    asked = Inbox(desk.home).request(view.url.rpartition("/")[2]).spec.source.declared
    assert asked is not None
    assert asked.columns["state"].categories == {"paid": 70, "open": 30}


def test_a_request_is_made_by_keyboard_alone_and_followed_to_its_answer(
    view: Any, desk: Site
) -> None:
    view.goto("/requests/new?dataset=people")
    tab_to(view, "Name of the answer")
    view.keyboard.type("Not A Name")
    tab_to(view, "Rows")
    fault = view.locator("#name-fault")
    fault.wait_for()
    assert "a dataset's name must be" in fault.inner_text()
    assert view.locator("#name").get_attribute("aria-invalid") == "true"
    assert view.locator("#rows-fault").is_hidden(), "what was not touched is not scolded"
    press(view, "Shift+Tab", "Control+A")
    view.keyboard.type("by-keyboard")
    fault.wait_for(state="hidden")
    tab_to(view, "Rows")
    view.keyboard.type("70")
    tab_to(view, "Column")
    view.keyboard.type("sex")
    view.wait_for_selector("select[name=where_value]")
    assert view.evaluate("document.activeElement.name") == "where_column", "the focus stays"
    options = view.locator("select[name=where_value] option").all_inner_texts()
    assert options == ["value", "f", "m"], "what was published, and nothing else"
    tab_to(view, "Value")
    view.keyboard.type("f")
    tab_to(view, "Add a condition")
    press(view, "Enter")
    until(view, "document.querySelectorAll('.row[id^=where]').length === 2")
    assert view.evaluate("document.activeElement.closest('.row').id") == "where-1"
    view.keyboard.type("visits")
    until(view, "document.querySelectorAll('[name=where_value]')[1].placeholder !== 'value'")
    tab_to(view, "Comparison")
    view.keyboard.type("at least")
    tab_to(view, "Value")
    view.keyboard.type("2")
    tab_to(view, "As in the data")
    press(view, "ArrowDown")
    view.wait_for_selector("select[name=balance_column]")
    tab_to(view, "Column to balance")
    said = view.locator("[data-said]")
    until(view, "document.querySelector('[data-said]').innerText === '1 thing to mend'")
    assert "to balance" in view.locator("#shares-fault").inner_text()
    view.keyboard.type("sex")
    view.wait_for_selector("[name=balance_1]")
    tab_to(view, "Share of m")
    view.keyboard.type("40")
    until(view, "document.querySelector('[data-said]').innerText.startsWith('Ready')")
    assert said.inner_text() == "Ready: 70 rows like people"
    assert "probabilities" in view.locator("[data-yaml]").text_content()
    tab_to(view, "Ask for it")
    press(view, "Enter")
    view.wait_for_url(re.compile(r"/requests/key-"))
    identity, inbox = view.url.rpartition("/")[2], Inbox(desk.home)
    asked = inbox.request(identity)
    assert asked.metadata.name == "by-keyboard"
    assert asked.spec.rows == 70
    assert asked.spec.conditions == ("`sex` = 'f'", "`visits` >= 2")
    assert asked.spec.balance is not None
    assert asked.spec.balance.probabilities == {"m": 0.4}
    # What a worker tells of a request, without the work.
    inbox.append(identity, 1, "VALIDATED")
    inbox.append(identity, 2, "QUEUED")
    inbox.append(identity, 3, "RUNNING", attempt=1)
    for step in (2, 9):
        inbox.tell(identity, {"phase": "fit", "step": step, "total": 10, "remaining": 1.5})
        view.wait_for_selector(f"progress[value='{step / 10:.3f}']")
    inbox.append(identity, 4, "PUBLISHED", versions=["people@3"], existing=True)
    view.wait_for_selector("text=See and download people@3")
    until(view, "document.title.includes('published')")
    view.get_by_role("link", name="See and download people@3").click()
    view.wait_for_url("**/datasets/people?version=3")


def test_a_request_can_be_canceled_and_approved_on_its_page(view: Any, desk: Site) -> None:
    inbox = Inbox(desk.home)
    asked = {
        "apiVersion": "likeness/v1",
        "kind": "DataRequest",
        "metadata": {"name": "people-test"},
        "spec": {"source": {"dataset": "people"}, "rows": 9},
    }
    first, second = inbox.submit(asked).id, inbox.submit(asked).id
    view.goto(f"/requests/{first}")
    view.get_by_role("button", name="Cancel the request").click()
    view.wait_for_selector("text=Canceled")
    assert inbox.status(first).state == "CANCELED"
    inbox.append(second, 1, "VALIDATED")
    inbox.append(second, 2, "NEEDS_APPROVAL", message="the privacy level is low")
    view.goto(f"/requests/{second}")
    assert "The privacy level is low" in view.get_by_role("note").inner_text()
    view.get_by_role("button", name="Approve").click()
    view.wait_for_selector("text=Waiting for a worker")
    assert inbox.status(second).state == "QUEUED"
    view.goto("/requests")
    states = view.locator("tbody .badge").all_inner_texts()
    assert {"canceled", "queued"} <= set(states)


def test_the_reason_of_a_refusal_is_told_field_by_field(view: Any, desk: Site) -> None:
    inbox = Inbox(desk.home)
    asked = {
        "apiVersion": "likeness/v1",
        "kind": "DataRequest",
        "metadata": {"name": "people-test"},
        "spec": {"source": {"dataset": "people"}, "rows": 9, "where": ["sx = f"]},
    }
    identity = inbox.submit(asked).id
    problem = {"field": "spec.where.0", "message": "there is no column <sx>"}
    inbox.append(identity, 1, "REJECTED", problems=[problem], message="wrong")
    view.goto(f"/requests/{identity}")
    told = view.get_by_role("alert").inner_text()
    assert "spec.where.0" in told
    assert "there is no column <sx>" in told


def test_the_essentials_work_without_a_script(chromium: Any, desk: Site) -> None:
    context = chromium.new_context(base_url=desk.url, java_script_enabled=False)
    for view in _watched(context, desk):
        view.get_by_role("searchbox").fill("towns")
        view.keyboard.press("Enter")
        view.wait_for_url("**/datasets?search=towns")
        assert view.locator(".dataset").count() == 1
        view.goto("/requests/new?dataset=people")
        view.fill("#name", "without-script")
        view.select_option("[name=where_column]", "visits")
        view.fill("[name=where_value]", "many")
        view.get_by_role("button", name="Ask for it").click()
        assert "visits is a number" in view.locator("#where-0-fault").inner_text()
        assert "1 thing to mend" in view.get_by_role("alert").inner_text()
        view.fill("[name=where_value]", "3")
        view.get_by_role("button", name="Add a condition").click()
        view.locator("#where-1").wait_for()
        assert view.locator(".row[id^=where]").count() == 2
        assert view.locator("[name=where_value]").first.input_value() == "3"
        view.get_by_role("button", name="Ask for it").click()
        view.wait_for_url(re.compile(r"/requests/key-"))
        asked = Inbox(desk.home).request(view.url.rpartition("/")[2])
        assert asked.spec.conditions == ("`visits` = 3",)


@pytest.mark.parametrize(("width", "scheme"), [(320, "dark"), (390, "light"), (1280, "dark")])
def test_nothing_sticks_out_and_everything_has_a_name(
    chromium: Any, desk: Site, width: int, scheme: str
) -> None:
    context = chromium.new_context(
        base_url=desk.url,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    for view in _watched(context, desk):
        for path in PAGES:
            view.goto(path)
            assert view.evaluate("document.documentElement.scrollWidth") == width, path
            nameless = view.evaluate(_NAMELESS)
            assert nameless == [], path
            if not path.startswith("/lake"):
                assert view.locator("h1").count() == 1
                assert view.get_by_role("main").count() == 1
                faint = view.evaluate(_FAINT)
                assert faint == [], path
        view.goto("/requests/new?dataset=people")
        view.check("[name=shares][value=quotas]")
        view.wait_for_selector("[name=quota_share]")
        view.locator("summary", has_text="Choose").click()
        assert view.evaluate("document.documentElement.scrollWidth") == width
        assert view.evaluate(_NAMELESS) == []


_NAMELESS = """() => [...document.querySelectorAll(
    'a, button, input, select, textarea, summary, img')]
  .filter(e => e.type !== 'hidden' && !e.closest('[aria-hidden=true]'))
  .filter(e => !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby')
    || e.textContent.trim() || e.labels?.length || e.hasAttribute('alt')))
  .map(e => e.outerHTML.slice(0, 120))"""
# Contrast of text as WCAG 2 computes it: 4.5 to 1, or 3 to 1 where it is large.
_FAINT = """() => {
  const channel = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const parts = s => s.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
  const back = e => {
    for (; e; e = e.parentElement) {
      const p = parts(getComputedStyle(e).backgroundColor);
      if (p.length < 4 || p[3] === 1) return p;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const e of document.querySelectorAll('main *, header *, footer')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.closest('.hidden, .skip')) continue;
    const style = getComputedStyle(e), a = light(parts(style.color)), b = light(back(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5))
      found.push([e.textContent.trim().slice(0, 30), ratio.toFixed(2)]);
  }
  return found;
}"""
