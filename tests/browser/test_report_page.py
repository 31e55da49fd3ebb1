"""The report in a browser: complete on its own, on a screen, a phone and paper."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.browser.browsing import PATIENCE_MS, Shot

pytestmark = pytest.mark.browser


def opened(browser: Browser, project: Path, width: int, script: bool = True) -> tuple[Page, list]:
    """Open the report and return it with all addresses that it asked for, and its errors."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, java_script_enabled=script
    )
    page, seen = context.new_page(), []
    page.on("request", lambda request: seen.append(request.url))
    page.on("pageerror", lambda error: seen.append(f"error: {error}"))
    page.on("console", lambda said: seen.append(said.text) if said.type == "error" else None)
    page.goto((project / "artifacts/report/report.html").as_uri())
    return page, seen


@pytest.mark.parametrize(("name", "width"), [("wide", 1280), ("phone", 390)])
def test_charts_draw_and_nothing_is_asked_for(
    browser: Browser, project: Path, shot: Shot, name: str, width: int
) -> None:
    page, seen = opened(browser, project, width)
    for chart in ("size", "tasks", "curves"):
        place = page.locator(f"[data-chart={chart}] svg.marks")
        place.wait_for(state="visible", timeout=PATIENCE_MS)
        box = place.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width
    shot(page, f"report-{name}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    asked = [address for address in seen if not address.startswith(("data:", "blob:"))]
    assert asked == [(project / "artifacts/report/report.html").as_uri()]


def test_pointing_at_a_trial_tells_its_settings(browser: Browser, project: Path) -> None:
    page, _ = opened(browser, project, 1280)
    mark = page.locator("[data-chart=size] svg.marks path[aria-roledescription=point]").last
    mark.wait_for(state="visible", timeout=PATIENCE_MS)
    mark.hover(force=True)
    tip = page.locator("#vg-tooltip-element.visible")
    tip.wait_for(timeout=PATIENCE_MS)
    assert "context token" in tip.inner_text()


def test_a_menu_changes_what_a_chart_shows(browser: Browser, project: Path) -> None:
    page, _ = opened(browser, project, 1280)
    marks = page.locator("[data-chart=tasks] svg.marks")
    marks.wait_for(state="visible", timeout=PATIENCE_MS)
    before = marks.inner_html()
    page.locator("[data-chart=tasks] select").select_option("new classes")
    page.wait_for_function(
        "before => document.querySelector('[data-chart=tasks] svg.marks').innerHTML != before",
        arg=before, timeout=PATIENCE_MS,
    )  # fmt: skip


def test_without_javascript_and_on_paper_every_figure_is_there(
    browser: Browser, project: Path, shot: Shot
) -> None:
    page, _ = opened(browser, project, 1280, script=False)
    stills = page.locator("img.still")
    assert stills.count() >= 6
    assert all(stills.nth(i).is_visible() for i in range(stills.count()))
    page, _ = opened(browser, project, 800)
    page.locator("[data-chart=size] svg.marks").wait_for(timeout=PATIENCE_MS)
    page.emulate_media(media="print")
    stills = page.locator("img.still")
    assert all(stills.nth(i).is_visible() for i in range(stills.count()))
    assert not page.locator("[data-chart=size]").is_visible()
    shot(page, "report-print")


def test_every_picture_loads(browser: Browser, project: Path) -> None:
    page, _ = opened(browser, project, 1280)
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) > 6
    assert all(widths)
