"""A real Chromium without a window, for tests of pages. It reaches this machine only.

A test module imports `browser` from here, and may then use the fixture of that name:

    from helpers.browser import browser, console_errors

    __all__ = ["browser"]

    def test_the_page_has_a_heading(browser: Chrome, page: Path) -> None:
        browser.get(page.as_uri())
        assert browser.find_element(By.TAG_NAME, "h1").text == "Report"
        assert console_errors(browser) == []
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

PROGRAMS = ("chromium", "chromedriver")
INSTALL = "apt-get install -y --no-install-recommends chromium chromium-driver fonts-dejavu-core"
WINDOW = (1000, 900)
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # root has none
    "--disable-dev-shm-usage",  # a container's /dev/shm is small
    "--disable-background-networking",
    "--no-first-run",
    "--force-device-scale-factor=1",
    "--hide-scrollbars",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no page may need another machine
)


def missing() -> str:
    """Return why no browser can be started here, or an empty string."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    return f"{', '.join(absent)} not found; install Chromium: {INSTALL}" if absent else ""


@contextmanager
def started(*, javascript: bool = True) -> Iterator[Chrome]:
    """Start a Chromium, and end it after the body."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        for argument in (*ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            driver.set_window_size(*WINDOW)
            driver.set_page_load_timeout(60)
            driver.set_script_timeout(60)
            yield driver
        finally:
            driver.quit()


@pytest.fixture(scope="session")
def browser() -> Iterator[Chrome]:
    """The Chromium of the whole session; its tests are skipped if there is none."""
    if reason := missing():
        pytest.skip(reason)
    with started() as driver:
        yield driver


def console_errors(driver: Chrome) -> list[str]:
    """Return what pages have reported as errors since the last call."""
    log: list[dict[str, Any]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return [entry["message"] for entry in log if entry["level"] == "SEVERE"]
