"""Takes the picture of docs/serving.md: the page, with a 3 drawn on it.

PYTHONPATH=tests python -m helpers.screenshot RUN docs/images/serve.png
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
from pathlib import Path

from helpers import browser
from helpers.serving import served
from helpers.web_page import draw, wait_for
from PIL import Image

WIDTH, HEIGHT = 860, 670
COLOURS = 64


def arc(centre: float, radius: float, start: int, end: int) -> list[tuple[int, int]]:
    """Return points of an arc in the middle of the drawing, between two angles in degrees."""
    angles = [math.radians(angle) for angle in range(start, end, 12)]
    return [
        (round(130 + radius * math.cos(each)), round(centre + radius * math.sin(each))) for each in angles
    ]


THREE = [*arc(92, 45, -150, 85), *arc(188, 52, -85, 150)]


def main(run: str, target: str) -> None:
    """Serve a run, draw, and write the picture with few colours."""
    with (
        tempfile.TemporaryDirectory() as home,
        served(Path(run).resolve(), Path(home)) as server,
        browser.started() as driver,
    ):
        size = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        driver.get(server.url)
        wait_for(driver, "document.getElementById('model').textContent !== '…'")
        draw(driver, THREE)
        wait_for(driver, "document.querySelector('.bars .first')")
        wait_for(driver, "document.getAnimations().length === 0")
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
