"""A run's page in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.browser import browser, console_errors
from helpers.processes import run_successfully

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["browser"]


@pytest.fixture(scope="module")
def page(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the small run."""
    path = tmp_path_factory.mktemp("page") / "run.html"
    ended = run_successfully("report", str(small_run), "--output", str(path), cwd=small_run.parent)
    assert ended.out == f"{path}\n"
    assert ended.err == ""
    return path


def test_a_browser_shows_the_page_without_an_error_or_a_request(browser: Chrome, page: Path) -> None:
    browser.get(page.as_uri())
    headings = [heading.text for heading in browser.find_elements("css selector", "h1, h2")]
    assert headings == [
        "Run run",
        *("Learning curves", "Confusion matrix", "Mistakes", "Settings", "Environment", "Identity"),
        "Repeat it",
    ]
    assert console_errors(browser) == []  # also what the page's policy has refused
    requests = "return performance.getEntriesByType('resource').map(entry => entry.name)"
    assert [name for name in browser.execute_script(requests) if not name.startswith("data:")] == []
    widths = "return [...document.images].map(image => image.complete && image.naturalWidth)"
    assert min(browser.execute_script(widths)) > 500
    assert len(browser.find_elements("css selector", "svg .epoch")) == 4
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_has_the_colours_that_the_reader_prefers(browser: Chrome, page: Path, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        browser.get(page.as_uri())
        styles = "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
        ink, paper = (sum(map(int, colour[4:-1].split(","))) for colour in browser.execute_script(styles))
        assert (ink > paper) == (scheme == "dark")
        drawn = "return getComputedStyle(document.querySelector('svg path.held-out')).stroke"
        assert browser.execute_script(drawn) != "none"
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
