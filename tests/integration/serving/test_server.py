"""The real server: its answers, and what it does with bad input, many clients, slow ones and signals."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from helpers.processes import end_of, wait_until
from helpers.serving import Server, answer_of, served
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

import mnist_cnn
from mnist_cnn.serving import limits, server

MIB = 1024**2
BLACK = [[0] * 28] * 28


def accepts_connections(running: Server) -> bool:
    try:
        running.connect().close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def one(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the small run, for all tests of this module."""
    with served(small_run, tmp_path_factory.mktemp("serve")) as running:
        yield running


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawing() -> Image.Image:
    image = Image.new("L", (200, 300), 255)
    ImageDraw.Draw(image).line([(60, 60), (140, 60), (90, 250)], fill=30, width=20)
    return image


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_documented_command_sends_a_picture(one: Server, small_run: Path, tmp_path: Path) -> None:
    (expected,) = mnist_cnn.load_predictor(small_run).predict(drawing())
    (tmp_path / "digit.png").write_bytes(png(drawing()))
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    (line,) = (line for line in text.splitlines() if line.startswith("curl "))
    words = shlex.split(line.replace("http://127.0.0.1:8000/", one.url))
    answered = subprocess.run([*words, "--silent"], cwd=tmp_path, capture_output=True, check=True, timeout=60)
    assert json.loads(answered.stdout)["digit"] == expected.label


def test_a_picture_gets_the_answer_of_predict(one: Server, small_run: Path) -> None:
    (expected,) = mnist_cnn.load_predictor(small_run).predict(drawing())
    response = one.predict(png(drawing()), "predict?image")
    answer = response.json()
    assert response.status_code == 200
    assert answer.pop("image") == mnist_cnn.prediction.pictures.prepare(drawing(), 28, 28).image.tolist()
    assert answer["digit"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert answer["probability"] == max(answer["probabilities"])
    assert answer["warnings"] == list(expected.warnings)
    assert one.predict(png(drawing())).json() == answer


def test_an_array_is_used_as_it_is(one: Server, small_run: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    (expected,) = mnist_cnn.load_predictor(small_run).predict(pixels)
    answer = one.predict(json.dumps(pixels.tolist()).encode()).json()
    assert answer["digit"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the body is empty"),
    "empty array": (b"[]", "0 rows"),
    "empty rows": (b"[[]]", "1 rows of 0 pixels"),
    "rows too short": (json.dumps([[0] * 27] * 28).encode(), "28 rows of 27 pixels"),
    "an object": (b"{}", "Expected `array`, got `object`"),
    "NaN": (json.dumps([[float("nan")] * 28] * 28).encode(), "JSON is malformed"),
    "a fraction": (json.dumps([[0.5] * 28] * 28).encode(), "Expected `int`, got `float`"),
    "256": (json.dumps([[256] * 28] * 28).encode(), "Expected `int` <= 255"),
    "-1": (json.dumps([[-1] * 28] * 28).encode(), "Expected `int` >= 0"),
    "strings": (json.dumps([["0"] * 28] * 28).encode(), "Expected `int`, got `str`"),
    "null": (json.dumps([None] * 28).encode(), "Expected `array`, got `null`"),
    "nested": (b"[" * 100_000, "Expected `int`, got `array`"),
    "cut off": (json.dumps(BLACK).encode()[:-1], "Input data was truncated"),
    "text": (b"seven", "the picture is not a picture in a supported format"),
    "half a picture": (png(drawing())[:200], "the picture cannot be read as a picture"),
    "a blank picture": (png(Image.new("L", (50, 50), 255)), "the picture is blank"),
    "too many pixels": (
        png(Image.new("1", (6_000, 6_000))),
        "the picture is too large: it has 6000x6000 pixels; the limit is 20,000,000",
    ),
    "a picture bomb": (png(Image.new("1", (30_000, 30_000))), "the picture is too large: Image size"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_body_is_refused_with_reason_and_hint(one: Server, name: str) -> None:
    body, reason = BAD[name]
    response = one.predict(body)
    assert response.status_code == 422
    assert reason in response.json()["error"]
    assert response.json()["hint"]
    assert one.get("health").json()["status"] == "ok"


@pytest.mark.parametrize(
    ("length", "part", "most"),
    [
        ("Content-Length: 100000000", bytes(65536), 16 * MIB),
        ("Transfer-Encoding: chunked", b"10000\r\n" + bytes(65536) + b"\r\n", 32 * MIB),
    ],
)
def test_a_body_of_100_mb_is_refused_without_being_received(
    one: Server, length: str, part: bytes, most: int
) -> None:
    sent = 0
    with one.connect() as connection:
        connection.sendall(f"POST /predict HTTP/1.1\r\nHost: x\r\n{length}\r\n\r\n".encode())
        try:
            while sent < 100_000_000:
                connection.sendall(part)
                sent += len(part)
        except OSError:  # the server has closed the connection
            pass
        assert sent < most
        status, answer = answer_of(connection)
    assert (status, answer["error"]) == (413, "the body is too large; the limit is 4 MiB")


@pytest.mark.parametrize("kind", ["with its length", "in chunks"])
def test_a_client_that_sends_a_little_too_much_can_read_why(one: Server, kind: str) -> None:
    body = bytes(limits.MAX_BODY_BYTES + 1)
    chunks = (body[start : start + MIB] for start in range(0, len(body), MIB))
    response = one.predict(body if kind == "with its length" else chunks)
    assert response.status_code == 413
    assert "4 MiB" in response.json()["error"]


def test_two_hundred_requests_at_once_are_all_answered(one: Server) -> None:
    barrier = Barrier(200)
    body = png(drawing())

    def ask_once(_: int) -> int:
        barrier.wait(60)
        return one.predict(body).status_code

    with ThreadPoolExecutor(200) as threads:
        assert list(threads.map(ask_once, range(200))) == [200] * 200


def test_slow_clients_are_ended_and_hold_up_nobody(one: Server) -> None:
    with one.connect() as silent, one.connect() as half_a_head, one.connect() as half_a_body:
        half_a_head.sendall(b"GET /health HTTP/1.1\r\nHos")
        half_a_body.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n[[")
        assert one.get("health").status_code == 200
        for connection in (silent, half_a_head, half_a_body):
            connection.settimeout(2 * server.HEAD_SECONDS)
        assert silent.recv(1) == b""
        assert half_a_head.recv(1) == b""
        status, answer = answer_of(half_a_body)
    assert (status, answer["error"]) == (408, "the body did not arrive in 10 seconds")


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("GET", "nowhere", 404, "/nowhere does not exist"),
        ("GET", "../../app.py", 404, "/app.py does not exist"),
        ("GET", "%2e%2e/app.py", 404, "/../app.py does not exist"),
        ("GET", "predict", 405, "/predict does not take GET"),
        ("POST", "health", 405, "/health does not take POST"),
        ("DELETE", "", 405, "/ does not take DELETE"),
    ],
)
def test_a_wrong_path_or_method_is_refused_as_json(
    one: Server, method: str, path: str, status: int, error: str
) -> None:
    with one.connect() as connection:
        connection.sendall(f"{method} /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        code, answer = answer_of(connection)
    assert code == status
    assert answer["hint"]
    if ".." not in path:
        assert answer["error"] == error


def test_every_answer_has_the_security_headers(one: Server) -> None:
    for path in ("", "draw.js", "health", "metrics", "nowhere"):
        headers = one.get(path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "server" not in headers


def test_metrics_count_requests_and_digits(small_run: Path, tmp_path: Path) -> None:
    with served(small_run, tmp_path) as running:
        digit = running.predict(png(drawing())).json()["digit"]
        running.predict(b"[]")
        for number in range(3):
            running.get(f"invented/{number}")
        families = list(text_string_to_metric_families(running.get("metrics").text))
    samples: dict[Any, float] = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples["mnist_cnn_requests_total", "/predict", "200"] == 1
    assert samples["mnist_cnn_requests_total", "/predict", "422"] == 1
    assert samples["mnist_cnn_requests_total", "other", "404"] == 3
    assert samples["mnist_cnn_request_seconds_count", "/predict"] == 2
    assert samples["mnist_cnn_predictions_total", str(digit)] == 1
    assert ("process_resident_memory_bytes",) in samples


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_after_the_requests_that_have_begun(
    small_run: Path, tmp_path: Path, number: int
) -> None:
    body = json.dumps(BLACK).encode()
    with served(small_run, tmp_path) as running, running.connect() as connection:
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:10])
        assert running.get("health").status_code == 200  # so the server has the other request, too
        running.process.send_signal(number)
        wait_until(lambda: not accepts_connections(running))
        connection.sendall(body[10:])
        assert answer_of(connection)[0] == 200
        ended = end_of(running.process)
    assert (ended.code, ended.out, ended.err) == (0, "", "stopped\n")
