"""Promises of downloads: a set arrives whole or not at all, whatever the server, the disk or the user do.

From a real HTTP server on the loopback interface, of a small set with its own checksums.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import random
import re
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections import defaultdict
from dataclasses import asdict, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pooch.core
import pytest
from helpers.disks import small_disk

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets, download
from mnist_cnn.data.download import Source, SourceFile, fetch
from mnist_cnn.errors import BackendError, ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


def idx(*shape: int) -> bytes:
    values = bytes(random.Random(0).choices(range(10), k=math.prod(shape)))  # noqa: S311 - pictures, not secrets
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


FILES = {
    f"{stems[0]}.gz": gzip.compress(idx(*shape), mtime=0)
    for stems, shape in zip(datasets.STEMS, [(40, 6, 6), (40,), (20, 6, 6), (20,)], strict=True)
}
FIRST = next(iter(FILES))


# What the server can answer


def whole(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def cut(request: BaseHTTPRequestHandler, body: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: len(body) // 2])


def wrong(request: BaseHTTPRequestHandler, body: bytes) -> None:
    whole(request, bytes(len(body)))


def endless(request: BaseHTTPRequestHandler, _: bytes) -> None:
    request.send_response(200)
    request.end_headers()
    try:
        while True:
            request.wfile.write(bytes(64 * 1024))
    except OSError:  # the other side hung up
        pass


def declared_encoded(request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Call the file's own gzip the encoding of the answer, as some servers do to those who accept it."""
    request.send_response(200)
    if "gzip" in request.headers.get("Accept-Encoding", ""):
        request.send_header("Content-Encoding", "gzip")
    request.end_headers()
    request.wfile.write(body)


def status(code: int) -> Answer:
    def answer(request: BaseHTTPRequestHandler, _: bytes) -> None:
        request.send_error(code)

    answer.__name__ = f"status-{code}"  # as pytest calls the test
    return answer


class Server(ThreadingHTTPServer):
    """Serves FILES under /small/; `answers` are used up one by one, then files are served whole.

    `waits` are the seconds that were to pass before each new attempt; in this process they pass at once.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = defaultdict(list)
        self.requests: list[str] = []
        self.waits: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        folder, _, name = self.path.strip("/").partition("/")
        self.server.requests.append(name)
        if folder != "small" or name not in FILES:
            self.send_error(404)
            return
        answers = self.server.answers[name]
        answer = answers.pop(0) if answers else whole
        answer(self, FILES[name])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "MNIST_CNN_MIRROR"):
        monkeypatch.delenv(proxy, raising=False)
    with Server() as server:
        monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=server.waits.append))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def source(server: Server) -> Source:
    files = [
        SourceFile(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    ]
    return Source(
        name="small",
        homepage="",
        licence="",
        url=f"{server.url}/small",
        digest=None,
        train_images=40,
        test_images=20,
        height=6,
        width=6,
        classes=10,
        files=tuple(files),
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_set_is_downloaded_once(source: Source, server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "small"
    paths = fetch(source, folder)
    assert paths == tuple(folder / name for name in FILES)
    assert contents(folder) == FILES
    assert server.requests == list(FILES)
    assert fetch(source, folder) == paths
    assert server.requests == list(FILES)


def test_only_what_is_missing_or_damaged_is_downloaded(
    source: Source, server: Server, tmp_path: Path
) -> None:
    first, second, *_ = fetch(source, tmp_path)
    first.unlink()
    second.write_bytes(bytes(second.stat().st_size))
    server.requests.clear()
    fetch(source, tmp_path)
    assert server.requests == [first.name, second.name]
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize("answer", [status(503), status(429), cut, wrong, endless])
def test_a_failure_that_may_pass_is_tried_again(
    source: Source, server: Server, tmp_path: Path, answer: Answer
) -> None:
    server.answers[FIRST] = [answer]
    fetch(source, tmp_path, retries=1)
    assert server.waits == [1]
    assert server.requests == [FIRST, *FILES]
    assert contents(tmp_path) == FILES


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (status(503), "503 Server Error"),
        (cut, "IncompleteRead"),
        (wrong, "does not match the known hash"),
        (endless, "more than the"),
    ],
)
def test_a_failure_that_stays_is_an_error_and_leaves_no_file(
    source: Source, server: Server, tmp_path: Path, answer: Answer, message: str
) -> None:
    server.answers[FIRST] = [answer] * 5
    with pytest.raises(DataError, match=message) as caught:
        fetch(source, tmp_path)
    assert server.requests == [FIRST, FIRST, FIRST]
    assert server.waits == [1, 2]
    assert contents(tmp_path) == {}
    assert f"{source.url}/{FIRST}" in caught.value.message
    assert "\n" not in caught.value.message
    assert "data.dir=FOLDER" in caught.value.hint
    assert str(source.url) in caught.value.hint


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_final_answer_is_not_asked_for_again(
    source: Source, server: Server, tmp_path: Path, code: int
) -> None:
    server.answers[FIRST] = [status(code)] * 5
    with pytest.raises(DataError, match=f"the server answers {code}") as caught:
        fetch(source, tmp_path)
    assert server.requests == [FIRST]
    assert server.waits == []
    assert contents(tmp_path) == {}
    assert "data.dir=FOLDER" in caught.value.hint


def test_a_server_that_would_have_the_file_unpacked_on_the_way_is_told_not_to(
    source: Source, server: Server, tmp_path: Path
) -> None:
    server.answers[FIRST] = [declared_encoded]
    fetch(source, tmp_path, retries=0)
    assert contents(tmp_path) == FILES


def test_a_server_that_is_not_there_is_an_error(source: Source, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        nowhere = replace(source, url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DataError, match=r"cannot be downloaded: .*refused") as caught:
            fetch(nowhere, tmp_path, retries=1)
    assert "data.dir=FOLDER" in caught.value.hint
    assert contents(tmp_path) == {}


def test_a_server_that_does_not_answer_is_given_up_on(
    source: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def silent(_request: BaseHTTPRequestHandler, _body: bytes) -> None:
        over.wait(60)

    monkeypatch.setattr(download, "TIMEOUTS", (5.0, 0.1))
    server.answers[FIRST] = [silent]
    try:
        with pytest.raises(DataError, match=r"timed out.*0\.1"):
            fetch(source, tmp_path, retries=0)
    finally:
        over.set()


def test_a_mirror_is_asked_in_place_of_the_source(
    source: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_CNN_MIRROR", f"{server.url}/")
    fetch(replace(source, url="http://127.0.0.1:1/nowhere"), tmp_path, retries=0)
    assert contents(tmp_path) == FILES


def test_a_mirror_that_is_no_url_is_an_error(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNIST_CNN_MIRROR", "file:///nowhere")
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(source, tmp_path, retries=0)


# Storage


def test_a_cache_that_cannot_be_made_is_a_storage_error(source: Source, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(BackendError, match=r"cannot write .*cache") as caught:
        fetch(source, tmp_path / "cache" / "small")
    assert "MNIST_CNN_CACHE" in caught.value.hint


def test_a_cache_that_cannot_be_read_is_an_error(source: Source, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{FIRST} cannot be read") as caught:
        fetch(source, tmp_path / ("x" * 300))
    assert "MNIST_CNN_CACHE" in caught.value.hint


@pytest.mark.skipif(os.name != "posix", reason="there are no such permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
def test_a_downloaded_file_has_the_mode_that_the_umask_says(
    source: Source, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        paths = fetch(source, tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [mode] * 4


FETCH = """
import json, sys
from pathlib import Path
from mnist_cnn.data.download import Source, SourceFile, fetch
from mnist_cnn.errors import MnistCnnError
values = json.loads(sys.argv[1])
files = tuple(SourceFile(**file) for file in values.pop("files"))
try:
    fetch(Source(**values, files=files), Path(sys.argv[2]))
except MnistCnnError as error:
    sys.exit(f"{type(error).__name__}: {error.message}; {error.hint}")
"""


def fetching(source: Source, folder: Path, before: str = "") -> subprocess.Popen[str]:
    """Start a process that downloads a set."""
    command = [sys.executable, "-P", "-c", before + FETCH, json.dumps(asdict(source)), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(os.name != "posix", reason="a file size limit stands for a full disk")
def test_a_full_disk_is_a_storage_error_and_leaves_no_file(source: Source, tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    with fetching(source, tmp_path, limit) as process:
        _, errors = process.communicate(timeout=60)
    assert errors.startswith("BackendError: cannot write ")
    assert "MNIST_CNN_CACHE" in errors
    assert FIRST not in contents(tmp_path)


def test_a_cache_on_a_disk_that_is_full_is_filled_when_there_is_room(source: Source, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        fetching = [sys.executable, "-P", "-c", FETCH, json.dumps(asdict(source)), str(disk.folder / "cache")]
        (disk.seen / "cache").mkdir()
        disk.fill()
        with disk.start(*fetching) as process:
            _, errors = process.communicate(timeout=60)
        assert re.match(r"BackendError: cannot write \S+/cache/\S+: No space left on device; ", errors)
        assert "look at " in errors
        assert contents(disk.seen / "cache") == {}
        disk.make_room()
        with disk.start(*fetching) as process:
            assert process.communicate(timeout=60) == ("", "")
        assert contents(disk.seen / "cache") == FILES


def test_two_processes_that_download_at_once_both_end_well(
    source: Source, server: Server, tmp_path: Path
) -> None:
    both_have_begun = threading.Barrier(2, timeout=60)

    def together(request: BaseHTTPRequestHandler, body: bytes) -> None:
        both_have_begun.wait()
        whole(request, body)

    server.answers[FIRST] = [together, together]
    with fetching(source, tmp_path) as one, fetching(source, tmp_path) as other:
        assert one.communicate(timeout=60) == ("", "")
        assert other.communicate(timeout=60) == ("", "")
        assert one.returncode == other.returncode == 0
    assert server.requests.count(FIRST) == 2
    assert contents(tmp_path) == FILES


# The progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_is_shown_on_a_terminal_and_nowhere_else(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        fetch(source, tmp_path / str(shown))
        assert ("100%" in stream.getvalue()) is shown
        assert bool(stream.getvalue()) is shown


# Through inspect and load


@pytest.fixture
def small(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the small set known by its name; the folder that it will be kept in."""
    monkeypatch.setattr(download, "sources", lambda: {"small": source})
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path))
    return tmp_path / "small"


def test_inspect_downloads_checks_and_tells_where(small: Path, server: Server) -> None:
    info = datasets.inspect(DataConfig(name="small"))
    assert info is not None
    assert (info.train_images, info.test_images, info.height, info.width) == (40, 20, 6, 6)
    assert info.location == str(small)
    assert datasets.inspect(DataConfig(name="small", digest=info.digest), download=False) == info
    assert datasets.load(DataConfig(name="small", digest=info.digest)).x_train.shape == (40, 6, 6, 1)
    assert server.requests == list(FILES)


def test_inspect_without_download_asks_nobody(small: Path, server: Server) -> None:
    assert datasets.inspect(DataConfig(name="small"), download=False) is None
    with pytest.raises(ConfigurationError, match=r"data.train_limit=41: .* from 1 to 40"):
        datasets.inspect(DataConfig(name="small", train_limit=41), download=False)
    assert server.requests == []
    assert not small.exists()


def test_load_downloads_what_is_missing(small: Path) -> None:
    assert len(datasets.load(DataConfig(name="small")).y_test) == 20
    assert contents(small) == FILES


def test_a_damaged_cache_is_downloaded_again(small: Path) -> None:
    datasets.load(DataConfig(name="small"))
    (small / FIRST).write_bytes(b"damaged")
    assert datasets.inspect(DataConfig(name="small"), download=False) is None
    datasets.load(DataConfig(name="small"))
    assert contents(small) == FILES


def test_the_cache_is_the_users_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MNIST_CNN_CACHE", raising=False)
    assert download.cache_folder("kmnist").parts[-2:] == ("mnist_cnn", "kmnist")
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path))
    assert download.cache_folder("kmnist") == tmp_path / "kmnist"


def test_the_table_has_all_that_a_download_needs() -> None:
    table = download.sources()
    assert list(table) == ["mnist", "fashion_mnist", "kmnist"]
    for name in ("fashion_mnist", "kmnist"):
        source = table[name]
        assert str(source.url).startswith("http")
        assert [file.name for file in source.files] == list(FILES)
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size > 0 for file in source.files)
        assert (source.train_images, source.test_images, source.height, source.width) == (
            60_000,
            10_000,
            28,
            28,
        )


def test_the_licence_states_the_checksums_of_the_files_beside_it() -> None:
    licence = (download.DATASETS_DIR / "mnist" / "LICENSE.md").read_text(encoding="utf-8")
    for file in download.sources()["mnist"].files:
        assert f"{file.sha256}  {file.name}" in licence
