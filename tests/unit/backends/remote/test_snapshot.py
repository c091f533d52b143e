"""Code and data are sent to a store once, under names that say what they contain."""

from __future__ import annotations

from pathlib import Path

import pytest

from mnist_cnn.backends.remote import snapshot
from mnist_cnn.backends.remote.service import Blob, blob_of
from mnist_cnn.backends.remote.snapshot import SentFile


class DictStore:
    """A store in memory, which remembers what was written."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.written: list[str] = []

    def list(self, folder: str) -> dict[str, Blob]:
        prefix = f"{folder}/"
        return {name: blob_of(text) for name, text in self.contents.items() if name.startswith(prefix)}

    def get(self, name: str, size: int) -> bytes:
        assert size == len(self.contents[name])
        return self.contents[name]

    def put(self, name: str, content: bytes) -> None:
        self.contents[name] = content
        self.written.append(name)

    def remove(self, name: str) -> None:
        self.contents.pop(name, None)


@pytest.fixture
def files(tmp_path: Path) -> tuple[SentFile, ...]:
    return tuple(sent(tmp_path / name, name.encode()) for name in ("a.py", "b.py"))


def sent(path: Path, content: bytes) -> SentFile:
    path.write_bytes(content)
    return SentFile(f"package/{path.name}", path, len(content))


def test_files_are_sent_once(files: tuple[SentFile, ...], capsys: pytest.CaptureFixture[str]) -> None:
    store = DictStore()
    for _ in range(2):
        snapshot.send(store, "code", files)
    assert store.written == ["code/package/a.py", "code/package/b.py"]
    assert store.contents["code/package/b.py"] == b"b.py"
    assert "code: sending 2 of 2 files, 8 bytes\ncode: sending 0 of 2 files" in capsys.readouterr().err


def test_a_file_that_is_damaged_in_the_store_is_sent_again(files: tuple[SentFile, ...]) -> None:
    store = DictStore()
    store.contents["code/package/a.py"] = b"a.pY"
    snapshot.send(store, "code", files)
    assert store.contents["code/package/a.py"] == b"a.py"


def test_different_code_never_shares_a_folder(files: tuple[SentFile, ...], tmp_path: Path) -> None:
    before = snapshot.code_folder(files)
    assert snapshot.code_folder(files) == before
    renamed = (SentFile("package/c.py", files[0].source, files[0].bytes), files[1])
    assert snapshot.code_folder(renamed) != before
    (tmp_path / "a.py").write_bytes(b"a.pY")
    assert snapshot.code_folder(files) != before
