"""The page in a real Chromium, from `serve` and as static files: draw a stroke, read the digit."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers import browser as chromium
from helpers.browser import browser, console_errors
from helpers.serving import served
from helpers.web_page import behind_http_server, draw, export, wait_for
from PIL import Image

import mnist_cnn
from mnist_cnn.prediction.pictures import prepare

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["browser"]

pytestmark = pytest.mark.skipif(bool(chromium.missing()), reason=chromium.missing())
DIGIT = "document.getElementById('digit').textContent"
ANSWERED = "document.querySelector('.bars .first')"
PICTURE = "document.getElementById('drawing').toDataURL()"
SEEN = "[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data]"
METERS = "[...document.querySelectorAll('[role=meter]')]"
SHARES = f"{METERS}.map((meter) => Number(meter.getAttribute('aria-valuenow')))"

FETCH_ELSEWHERE = """
const [done] = arguments;
document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
fetch("http://127.0.0.1:1/").catch(() => setTimeout(() => done("no policy"), 1000));
"""


@pytest.fixture(scope="module", params=["from serve", "static"])
def url(
    request: pytest.FixtureRequest, small_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The address of the page of each kind; the static one lies two folders below its server's root."""
    home = tmp_path_factory.mktemp("page")
    if request.param == "from serve":
        with served(small_run, home) as server:
            yield server.url
    else:
        export(small_run, home)
        with behind_http_server(home) as root:
            yield f"{root}sites/digits/"


@pytest.fixture
def page(browser: Chrome, url: str) -> Iterator[Chrome]:
    """The loaded page; it may report no error in the browser's console."""
    browser.get(url)
    wait_for(browser, "document.getElementById('model').textContent !== '…'")
    yield browser
    assert console_errors(browser) == []


def drawn(page: Chrome) -> Image.Image:
    """Return the drawing as the page would send it."""
    content = page.execute_script(f"return {PICTURE}").partition(",")[2]
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("pointer", ["mouse", "touch"])
def test_a_stroke_is_read_and_ten_bars_show_what_predict_says(
    page: Chrome, small_run: Path, pointer: str
) -> None:
    draw(page, pointer=pointer)
    (expected,) = mnist_cnn.load_predictor(small_run).predict(drawn(page))
    assert expected.label == 1
    is_near = f"(share, digit) => Math.abs(share - {list(expected.probabilities)}[digit]) < 0.001"
    wait_for(page, f"{SHARES}.every({is_near})")
    assert page.execute_script(f"return {DIGIT}") == "1"
    seen = np.array(page.execute_script(f"return {SEEN}")).reshape(28, 28, 4)
    assert np.array_equal(seen[:, :, 0], prepare(drawn(page), 28, 28).image)


def test_only_a_page_with_a_server_says_how_to_send_it_a_picture(page: Chrome, url: str) -> None:
    shown = page.execute_script("return document.body.innerText")
    is_served = "sites" not in url
    assert (f"Send a picture: curl --data-binary @digit.png {url}predict" in shown) is is_served
    assert ("Send a picture" in shown) is is_served


def test_the_bars_move_while_one_draws(page: Chrome) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    board = page.find_element(By.ID, "drawing")
    ActionChains(page).move_to_element(board).click_and_hold().move_by_offset(0, 60).perform()
    wait_for(page, ANSWERED)
    first = page.execute_script(f"return {SHARES}")
    ActionChains(page).move_by_offset(-60, 0).move_by_offset(0, -60).perform()
    wait_for(page, f"JSON.stringify({SHARES}) !== '{json.dumps(first, separators=(',', ':'))}'")
    ActionChains(page).release().perform()


def test_a_second_finger_does_not_end_the_stroke(page: Chrome) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    board = page.find_element(By.ID, "drawing")
    ActionChains(page).move_to_element(board).click_and_hold().perform()
    before = np.asarray(drawn(page).convert("L")).sum()
    for name in ("pointerup", "pointercancel"):
        lifted = f"new PointerEvent('{name}', {{pointerId: 7, isPrimary: false}})"
        page.execute_script(f"document.getElementById('drawing').dispatchEvent({lifted})")
    ActionChains(page).move_by_offset(0, 60).release().perform()
    assert np.asarray(drawn(page).convert("L")).sum() > 2 * before


@pytest.mark.parametrize("way", ["the button", "the Escape key"])
def test_clear_removes_drawing_and_answer(page: Chrome, way: str) -> None:
    from selenium.webdriver import ActionChains, Keys
    from selenium.webdriver.common.by import By

    draw(page)
    wait_for(page, ANSWERED)
    if way == "the button":
        page.find_element(By.ID, "clear").click()
    else:
        ActionChains(page).send_keys(Keys.ESCAPE).perform()
    assert not page.execute_script(f"return {ANSWERED}")
    assert page.execute_script(f"return {SHARES}") == [0] * 10
    assert not np.asarray(drawn(page).convert("L")).any()


def test_ink_keeps_away_from_the_edge_that_shows_the_background(page: Chrome) -> None:
    draw(page, ((140, 140), (2, 2), (278, 278)))
    wait_for(page, ANSWERED)
    is_ink = np.array(drawn(page).convert("L")) > 0
    assert is_ink[:25, :25].any()
    assert is_ink[-25:, -25:].any()
    is_ink[5:-5, 5:-5] = False
    assert not is_ink.any()


def test_the_page_may_load_nothing_from_elsewhere(page: Chrome) -> None:
    assert page.execute_async_script(FETCH_ELSEWHERE) == "connect-src"
    assert all("Content Security Policy" in message for message in console_errors(page))


def test_every_part_has_a_name_for_a_screen_reader(page: Chrome) -> None:
    names = page.execute_script(f"return {METERS}.map((meter) => meter.getAttribute('aria-label'))")
    assert names == [f"Probability of {digit}" for digit in range(10)]
    parts = "[...document.querySelectorAll('canvas, button, section')]"
    assert all(page.execute_script(f"return {parts}.map((part) => part.ariaLabel || part.innerText)"))
    assert page.execute_script("return document.documentElement.lang") == "en"


@pytest.mark.parametrize("width", [360, 1000])
def test_the_page_fits_a_phone_and_a_desktop_light_and_dark(page: Chrome, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = set()
    try:
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            assert page.execute_script("return document.documentElement.scrollWidth") <= width
            colours.add(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(colours) == 2


def test_without_javascript_the_page_says_what_to_do(url: str) -> None:
    from selenium.webdriver.common.by import By

    with chromium.started(javascript=False) as driver:
        driver.get(url)
        text = driver.find_element(By.TAG_NAME, "body").text
    assert "This page needs JavaScript to draw." in text
    assert "python -m mnist_cnn predict RUN digit.png" in text


def test_a_server_that_has_ended_is_reported(browser: Chrome, small_run: Path, tmp_path: Path) -> None:
    with served(small_run, tmp_path) as server:
        browser.get(server.url)
        wait_for(browser, "document.getElementById('model').textContent !== '…'")
    draw(browser)
    problem = wait_for(browser, "document.getElementById('problem').textContent")
    assert problem == "The server does not answer. Is it still running?"
    console_errors(browser)


def test_a_static_page_whose_model_is_missing_says_so(
    browser: Chrome, small_run: Path, tmp_path: Path
) -> None:
    (export(small_run, tmp_path) / "model.onnx").unlink()
    with behind_http_server(tmp_path) as root:
        browser.get(f"{root}sites/digits/")
        problem = wait_for(browser, "document.getElementById('problem').textContent")
    assert problem == "model.onnx cannot be read from the server"
    console_errors(browser)


STROKES = """
const [drawings, done] = arguments;
import("./prepare.js").then(({ prepare }) => done(drawings.map(([lineCap, lines]) => {
  const canvas = new OffscreenCanvas(280, 280);
  const pen = canvas.getContext("2d", { alpha: false });
  Object.assign(pen, { lineWidth: 22, lineCap, lineJoin: "round", strokeStyle: "white" });
  for (const line of lines) {
    pen.beginPath();
    for (const [x, y] of line) pen.lineTo(x, y);
    pen.stroke();
  }
  const grey = [...pen.getImageData(0, 0, 280, 280).data].filter((_, index) => index % 4 === 0);
  const letters = String.fromCharCode(...grey.map((level) => 256 + level));
  return { letters, ...prepare(grey, 280, 280, 28, 28) };
})));
"""
SYMMETRIC = [("butt", [[(140, 50), (140, 230)]]), ("butt", [[(50, 140), (230, 140)]])]
"""Drawings whose centre of mass lies between two pixels, so that Python and JavaScript round a tie."""


def random_strokes(generator: random.Random) -> list[list[tuple[int, int]]]:
    """Draw one to three lines."""
    step = generator.choice([1, 1, 41])
    return [
        [
            (17 + step * generator.randrange(246 // step), 17 + step * generator.randrange(246 // step))
            for _ in range(generator.choice([2, 3, 6]))
        ]
        for _ in range(generator.choice([1, 1, 2, 3]))
    ]


def test_javascript_prepares_a_drawing_exactly_as_python(browser: Chrome) -> None:
    from mnist_cnn.serving.app import PAGE

    generator = random.Random(0)  # noqa: S311 - drawings, not secrets
    with behind_http_server(PAGE) as root:
        browser.get(root)
        browser.set_script_timeout(120)
        drawings = [*SYMMETRIC, *(("round", random_strokes(generator)) for _ in range(60))]
        answers: list[Any] = browser.execute_async_script(STROKES, drawings)
    console_errors(browser)  # the page misses its classifier.js here
    warned: set[str] = set()
    for answer in answers:
        grey = np.array([ord(letter) - 256 for letter in answer["letters"]], np.uint8).reshape(280, 280)
        prepared = prepare(Image.fromarray(grey), 28, 28)
        assert np.array_equal(prepared.image, answer["image"])
        assert list(prepared.warnings) == answer["warnings"]
        warned.update(prepared.warnings)
    assert warned  # some drawings hold several shapes
