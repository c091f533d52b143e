"""A file is written whole or not at all, and synced before it gets its name."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_cnn.errors import BackendError
from mnist_cnn.files import atomic


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    atomic.write_text(tmp_path / "file", "old")
    with pytest.raises(UnicodeEncodeError):
        atomic.write_text(tmp_path / "file", "new \ud800")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_cannot_sync_a_folder_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error is made up, because the file systems here sync their folders. A disk error is reported."""

    def fsync(handle: int, *, really: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fails = pytest.raises(BackendError, match="Input/output error")
    with fails if number == errno.EIO else contextlib.nullcontext():
        atomic.write_text(tmp_path / "file", "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("durable", "order"), [(True, ["file synced", "renamed", "folder synced"]), (False, ["renamed"])]
)
def test_a_file_is_synced_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool, order: list[str]
) -> None:
    done: list[str] = []
    replace = Path.replace

    def fsync(handle: int) -> None:
        done.append("folder synced" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file synced")

    def rename(path: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    atomic.write_text(tmp_path / "file", "whole", durable=durable)
    assert done == order


def test_a_new_folder_is_put_in_place_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "folder"
    with atomic.new_folder(place) as temporary:
        (temporary / "within").mkdir()
        (temporary / "within" / "file").write_text("whole")
        assert not place.exists()
    assert (place / "within" / "file").read_text() == "whole"
    (tmp_path / "usual").mkdir()
    assert place.stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(RuntimeError), atomic.new_folder(tmp_path / "other") as temporary:
        raise RuntimeError
    with pytest.raises(BackendError, match="folder: Directory not empty"), atomic.new_folder(place):
        pass
    with pytest.raises(BackendError, match="No such file"), atomic.new_folder(tmp_path / "no" / "place"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "usual"}
