"""A set is downloaded completely or not at all, whatever the server, the disk or the user does.

A real HTTP server on the loopback interface serves a small set with its own checksums.
"""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace

import pooch.core
import pytest
from helpers import data_server
from helpers.data_server import FILES, FIRST, Answer, Server, endless, status, truncated, whole, wrong
from helpers.disks import small_disk

from mnist_cnn.config import DataConfig
from mnist_cnn.data import datasets, download
from mnist_cnn.data.download import Source, SourceFile, fetch
from mnist_cnn.errors import BackendError, ConfigurationError, DataError


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
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
    files = tuple(SourceFile(name, len(content), sums[name]) for name, content in FILES.items())
    return Source("small", 40, 20, 6, 6, 10, files, url=f"{server.url}/small")


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


@pytest.mark.parametrize("answer", [status(503), status(429), truncated, wrong, endless])
def test_a_transient_failure_is_retried(
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
        (truncated, "IncompleteRead"),
        (wrong, "does not match the known hash"),
        (endless, "more than the file's"),
        *((status(code), f"the server answers {code}") for code in (403, 404, 410)),
    ],
)
def test_a_lasting_failure_is_an_error_and_leaves_no_file(
    source: Source, server: Server, tmp_path: Path, answer: Answer, message: str
) -> None:
    server.answers[FIRST] = [answer] * 5
    with pytest.raises(DataError, match=message) as caught:
        fetch(source, tmp_path)
    is_final = message.startswith("the server answers")  # so that no retry would help
    assert server.waits == ([] if is_final else [1, 2])
    assert server.requests == [FIRST] * (1 if is_final else 3)
    assert contents(tmp_path) == {}
    assert f"{source.url}/{FIRST}" in caught.value.message
    assert "\n" not in caught.value.message
    assert "data.dir=FOLDER" in caught.value.hint
    assert source.url in caught.value.hint


def test_a_server_cannot_have_the_file_unpacked(source: Source, server: Server, tmp_path: Path) -> None:
    server.answers[FIRST] = [data_server.declared_encoded]
    fetch(source, tmp_path, retries=0)
    assert contents(tmp_path) == FILES


def test_an_unreachable_server_is_an_error(source: Source, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, but not listening, so connections are refused
        taken.bind(("127.0.0.1", 0))
        nowhere = replace(source, url=f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(DataError, match=r"(?s)cannot be downloaded: .*refused.*data\.dir=FOLDER"):
            fetch(nowhere, tmp_path, retries=1)
    assert contents(tmp_path) == {}


def test_a_silent_server_is_a_timeout(
    source: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = threading.Event()

    def silent(_request: BaseHTTPRequestHandler, _body: bytes) -> None:
        finished.wait(60)

    monkeypatch.setattr(download, "TIMEOUTS", (5.0, 0.1))
    server.answers[FIRST] = [silent]
    try:
        with pytest.raises(DataError, match=r"timed out.*0\.1"):
            fetch(source, tmp_path, retries=0)
    finally:
        finished.set()


def test_a_mirror_replaces_the_source_if_it_is_http(
    source: Source, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = replace(source, url="http://127.0.0.1:1/nowhere")
    monkeypatch.setenv("MNIST_CNN_MIRROR", "file:///nowhere")
    with pytest.raises(DataError, match="cannot be downloaded"):
        fetch(elsewhere, tmp_path, retries=0)
    monkeypatch.setenv("MNIST_CNN_MIRROR", f"{server.url}/")
    fetch(elsewhere, tmp_path, retries=0)
    assert contents(tmp_path) == FILES


# Storage


def test_a_cache_that_cannot_be_made_or_read_is_an_error(source: Source, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file, where a folder should be")
    with pytest.raises(BackendError, match=r"(?s)cannot write .*cache.*MNIST_CNN_CACHE"):
        fetch(source, tmp_path / "cache" / "small")
    with pytest.raises(DataError, match=f"(?s){FIRST} cannot be read.*MNIST_CNN_CACHE"):
        fetch(source, tmp_path / ("x" * 300))


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize(("umask", "mode"), [(0o027, 0o640), (0o002, 0o664)])
def test_a_downloaded_file_has_the_mode_of_the_umask(
    source: Source, tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        paths = fetch(source, tmp_path)
    finally:
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [mode] * 4


def test_a_cache_on_a_full_disk_is_filled_once_there_is_room(source: Source, tmp_path: Path) -> None:
    with small_disk(tmp_path) as disk:
        cache = disk.seen / "cache"
        cache.mkdir()
        disk.fill()
        with pytest.raises(BackendError, match=r"cannot write \S+/cache/\S+: No space left") as caught:
            fetch(source, cache)
        assert "its free space, or choose another folder with MNIST_CNN_CACHE" in caught.value.hint
        assert contents(cache) == {}
        disk.make_room()
        fetch(source, cache)
        assert contents(cache) == FILES


def test_two_processes_can_download_at_once(source: Source, server: Server, tmp_path: Path) -> None:
    both_have_begun = threading.Barrier(2, timeout=60)

    def wait_for_both(request: BaseHTTPRequestHandler, body: bytes) -> None:
        both_have_begun.wait()
        whole(request, body)

    server.answers[FIRST] = [wait_for_both, wait_for_both]
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=fetch, args=(source, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert server.requests.count(FIRST) == 2
    assert contents(tmp_path) == FILES


# The progress bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_only_a_terminal_shows_a_progress_bar(
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
    """Register the small set; return its cache folder."""
    monkeypatch.setattr(download, "sources", lambda: {"small": source})
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path))
    return tmp_path / "small"


def test_inspect_downloads_and_describes_the_set(small: Path, server: Server) -> None:
    info = datasets.inspect(DataConfig(name="small"))
    assert info is not None
    assert info == datasets.DataSetInfo(info.digest, 40, 20, 6, 6, 10, str(small))
    assert datasets.inspect(DataConfig(name="small", digest=info.digest), download=False) == info
    assert datasets.load(DataConfig(name="small", digest=info.digest)).x_train.shape == (40, 6, 6, 1)
    assert server.requests == list(FILES)


def test_inspect_without_download_sends_no_request(small: Path, server: Server) -> None:
    assert datasets.inspect(DataConfig(name="small"), download=False) is None
    with pytest.raises(ConfigurationError, match=r"data.train_limit=41: .* from 1 to 40"):
        datasets.inspect(DataConfig(name="small", train_limit=41), download=False)
    assert server.requests == []
    assert not small.exists()


def test_only_missing_or_damaged_files_are_downloaded(small: Path, server: Server) -> None:
    assert len(datasets.load(DataConfig(name="small")).y_test) == 20
    first, second, *_ = (small / name for name in FILES)
    first.unlink()
    second.write_bytes(bytes(second.stat().st_size))
    assert datasets.inspect(DataConfig(name="small"), download=False) is None
    server.requests.clear()
    datasets.load(DataConfig(name="small"))
    assert server.requests == [first.name, second.name]
    assert contents(small) == FILES


def test_the_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MNIST_CNN_CACHE", raising=False)
    assert download.cache_folder("kmnist").parts[-2:] == ("mnist_cnn", "kmnist")
    monkeypatch.setenv("MNIST_CNN_CACHE", str(tmp_path))
    assert download.cache_folder("kmnist") == tmp_path / "kmnist"


def test_sources_toml_has_what_downloads_and_the_licence_need() -> None:
    table = download.sources()
    assert list(table) == ["mnist", "fashion_mnist", "kmnist"]
    for name in ("fashion_mnist", "kmnist"):
        source = table[name]
        assert source == Source(name, 60_000, 10_000, 28, 28, 10, source.files, source.url, source.digest)
        assert source.url.startswith("http")
        assert [file.name for file in source.files] == list(FILES)
        assert all(len(bytes.fromhex(file.sha256)) == 32 and file.size > 0 for file in source.files)
    licence = (download.DATASETS_DIR / "mnist" / "LICENSE.md").read_text(encoding="utf-8")
    assert all(f"{file.sha256}  {file.name}" in licence for file in table["mnist"].files)
