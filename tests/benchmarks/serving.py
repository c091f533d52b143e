"""Requests per second of `serve` and their 99th percentile, beside plain ONNX Runtime; the static page.

All use the tutorial's network from one small run, in turns. Plain ONNX Runtime calls the model on one image
at a time, with as many threads as there are CPUs, without a server. `serve` gets the same image as a JSON
array, or the PNG picture of 280 x 280 pixels that the page sends. The client is another process, on the same
CPUs.

The page is opened in Chromium by a new profile, from a plain web server on this machine, without compression.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mnist_cnn import cpu

from .machine import command, environment, script, small_run
from .report import Metric, Report, number, print_progress

OPTIONS = {
    "--rounds": number(3, "how often each way is measured"),
    "--requests": number(2000, "requests in a measurement"),
    "--connections": number(8, "connections of the client, each with one request at a time"),
}
RATE = Metric("requests per second", "times as many as", digits=0)
LATENCY = Metric("milliseconds, 99th percentile", "times as fast as", less_is_better=True, digits=2)
LOAD = Metric("", "", less_is_better=True, digits=0)
PLAIN, ARRAY, PICTURE = "plain ONNX Runtime", "POST /predict, array", "POST /predict, picture"
TESTS = Path(__file__).parent.parent
Measured = dict[str, list[float]]


def run(arguments: argparse.Namespace) -> list[Report]:
    """Train a small run, measure the server, then the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = small_run(Path(name) / "run")
        rates, latencies = _measure(folder, arguments)
        page = _measure_page(folder, Path(name), arguments.rounds)
    title = f"{arguments.connections} connections, {cpu.count()} CPUs"
    return [Report(title, RATE, rates, (PLAIN,)), Report(title, LATENCY, latencies, (PLAIN,)), page]


def _measure(folder: Path, arguments: argparse.Namespace) -> tuple[Measured, Measured]:
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    bodies = {ARRAY: json.dumps(pixels.tolist()).encode(), PICTURE: _drawing()}
    rates: Measured = {name: [] for name in (PLAIN, *bodies)}
    latencies: Measured = {name: [] for name in rates}
    with _server(folder) as port:
        for _ in range(arguments.rounds):
            measured = {PLAIN: _call_directly(folder, pixels, arguments.requests)}
            for name, body in bodies.items():
                size = (str(arguments.connections), str(arguments.requests))
                measured[name] = _load(port, body, *size)
            for name, (total, each) in measured.items():
                rates[name].append(len(each) / total)
                latencies[name].append(1000 * statistics.quantiles(each, n=100)[98])
                print_progress(f"{name}  {rates[name][-1]:.0f} per second")
    return rates, latencies


def _drawing() -> bytes:
    """Return a picture as the page sends it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (280, 280), "black")
    ImageDraw.Draw(image).line([(80, 60), (200, 60), (120, 230)], "white", 22, "curve")
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    """Start `serve` on a free port; yield the port."""
    words = command("serve", str(folder), "--port", "0")
    with subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline() if process.stdout else ""
            yield int(line.rpartition("/ ")[0].rpartition(":")[2])
        finally:
            process.terminate()


def _load(port: int, body: bytes, connections: str, requests: str) -> tuple[float, list[float]]:
    """Return the seconds of all requests of a client together, and of each."""
    words = script("load.py", str(port), "/predict", connections, requests)
    ended = subprocess.run(words, env=environment(), input=body, capture_output=True, check=True)
    answer = json.loads(ended.stdout)
    return answer["total"], answer["each"]


def _call_directly(folder: Path, pixels: Any, calls: int) -> tuple[float, list[float]]:
    """Return the seconds of all calls of ONNX Runtime together, and of each."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options)
    source = session.get_inputs()[0]
    image = (pixels / np.float32(255)).reshape(1, *source.shape[1:])

    def call(_: int) -> float:
        started = time.perf_counter()
        session.run(None, {source.name: image})
        return time.perf_counter() - started

    with ThreadPoolExecutor(cpu.count()) as threads:
        list(threads.map(call, range(100)))  # not counted, because it allocates
        started = time.perf_counter()
        each = list(threads.map(call, range(calls)))
        return time.perf_counter() - started, each


def _measure_page(folder: Path, home: Path, rounds: int) -> Report:
    """Export the static page; measure its size, and how long Chromium takes until it can answer."""
    sys.path.append(str(TESTS))  # for the browser
    from helpers import browser, web_page

    page = web_page.export(folder, home)
    files = {file: file.read_bytes() for file in page.rglob("*") if file.is_file()}
    values: Measured = {
        "kilobytes": [sum(map(len, files.values())) / 1000],
        "kilobytes, if compressed": [sum(len(gzip.compress(each, 6)) for each in files.values()) / 1000],
    }
    missing = {}
    if reason := browser.missing():
        missing["milliseconds until it can answer"] = reason
    else:
        with web_page.behind_http_server(home) as root:
            seconds = [_seconds_to_load(f"{root}sites/digits/") for _ in range(rounds)]
        values["milliseconds until it can answer"] = [1000 * each for each in seconds]
    return Report("the static page", LOAD, values, missing=missing)


def _seconds_to_load(url: str) -> float:
    """Return the seconds from the call until the model is loaded."""
    from helpers import browser, web_page

    with browser.started() as driver:
        started = time.perf_counter()
        driver.get(url)
        web_page.wait_for(driver, "document.getElementById('model').textContent !== '…'")
        return time.perf_counter() - started
