"""Takes the pictures in docs/images: `serve`'s page with a 3 drawn on it, and the top of `report`'s page.

PYTHONPATH=tests python -m helpers.screenshots RUN docs/images
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from helpers import browser
from helpers.processes import run_command
from helpers.serving import served
from helpers.web_page import draw, wait_for
from PIL import Image

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SERVE_SIZE, REPORT_SIZE = (860, 670), (1000, 1150)
COLOURS = 64


def arc(centre: float, radius: float, start: int, end: int) -> list[tuple[int, int]]:
    """Return points of an arc in the middle of the drawing, between two angles in degrees."""
    angles = [math.radians(angle) for angle in range(start, end, 12)]
    return [
        (round(130 + radius * math.cos(each)), round(centre + radius * math.sin(each))) for each in angles
    ]


THREE = [*arc(92, 45, -150, 85), *arc(188, 52, -85, 150)]


def show(driver: Chrome, url: str, size: tuple[int, int]) -> None:
    """Open a page in a window of `size` pixels."""
    width, height = size
    settings = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", settings)
    driver.get(url)


def save(driver: Chrome, target: Path) -> None:
    """Write what the window shows, with few colours."""
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(target, optimize=True)


def main(run: str, folder: str) -> None:
    """Serve a run and draw; then write its report, and open it."""
    run_folder, images = Path(run).resolve(), Path(folder)
    with tempfile.TemporaryDirectory() as home, browser.started() as driver:
        with served(run_folder, Path(home)) as server:
            show(driver, server.url, SERVE_SIZE)
            wait_for(driver, "document.getElementById('model').textContent !== '…'")
            draw(driver, THREE)
            wait_for(driver, "document.querySelector('.bars .first')")
            wait_for(driver, "document.getAnimations().length === 0")
            save(driver, images / "serve.png")
        page = Path(home) / "report.html"
        ended = run_command("report", str(run_folder), "--output", str(page), cwd=Path(home))
        if ended.code:
            raise SystemExit(ended.err)
        show(driver, page.as_uri(), REPORT_SIZE)
        save(driver, images / "report.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
