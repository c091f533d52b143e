"""Output that cannot be written is given up by itself: nothing else that fails is taken for it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnist_cnn.cli import display
from mnist_cnn.terminal import output

if TYPE_CHECKING:
    from collections.abc import Iterator


class Unreadable:
    """A run whose log cannot be read any more: its disk fails, which none here does."""

    folder = Path("run")

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        assert follow
        yield "12:00:00 mnist_cnn x_train"
        raise OSError(errno.EIO, os.strerror(errno.EIO), "run/log.txt")

    def progress(self) -> None:
        return None


def test_a_log_that_cannot_be_read_is_heard_and_not_taken_for_a_stream_that_cannot_be_written(
    tmp_path: Path,
) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        with pytest.raises(OSError, match="Input/output error"):
            display.follow(Unreadable(), output.lossy(stream))  # type: ignore[arg-type] # as much of a run as is followed
        stream.write("on\n")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "x_train\non\n"


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_output_is_given_up_at_no_cost_of_open_files(capfd: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as stream:
        before = open_files()
        print("lost", file=output.lossy(stream), flush=True)
        print("lost too", file=output.lossy(stream), flush=True)
        assert open_files() == before
    assert (
        capfd.readouterr().err
        == "cannot write output: its reader has gone; the command continues without it\n"
    )
