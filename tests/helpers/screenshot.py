"""Takes the picture of docs/serving.md: the page, with a 3 drawn on it.

PYTHONPATH=tests python -m helpers.screenshot RUN docs/images/serve.png
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from helpers import browser
from helpers.serving import served
from helpers.web_page import draw, wait_for
from PIL import Image

THREE = (
    *((80, 75), (105, 52), (140, 45), (175, 60), (185, 90), (165, 120), (135, 132)),
    *((170, 145), (192, 175), (182, 212), (150, 235), (110, 232), (78, 208)),
)
COLOURS = 64


def main(run: str, target: str) -> None:
    """Serve a run, draw, and write the picture with few colours."""
    with (
        tempfile.TemporaryDirectory() as home,
        served(Path(run).resolve(), Path(home)) as server,
        browser.started() as driver,
    ):
        driver.set_window_size(860, 760)
        driver.get(server.url)
        wait_for(driver, "document.getElementById('model').textContent !== '…'")
        draw(driver, THREE)
        wait_for(driver, "document.querySelector('.bars .first')")
        wait_for(driver, "document.getAnimations().length === 0")
        picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    picture.quantize(COLOURS).save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
