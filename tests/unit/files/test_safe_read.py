"""Only regular files within a size limit are read, and opening a pipe never blocks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mnist_cnn.files import safe_read


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("four")
    assert safe_read.read_text(path, 4) == "four"
    with pytest.raises(OSError, match="it has 4 bytes; the limit is 3"):
        safe_read.read_text(path, 3)


def test_a_folder_a_pipe_and_a_device_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(IsADirectoryError):
        safe_read.open_file(tmp_path)
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(OSError, match="it is not a file"):
            safe_read.open_file(path)
