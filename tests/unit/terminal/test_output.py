"""Streams that cannot be written, and colours."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.terminals import Terminal

from mnist_cnn.backend import Status
from mnist_cnn.cli import display
from mnist_cnn.terminal import output


class Unreadable:
    """A fake of a run whose log cannot be read, because no disk fails here on demand."""

    folder = Path("run")

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        assert follow
        yield "12:00:00 mnist_cnn x_train"
        raise OSError(errno.EIO, os.strerror(errno.EIO), "run/log.txt")

    def progress(self) -> None:
        return None

    def status(self) -> Status:
        return Status.running


def test_an_unreadable_log_is_not_an_unwritable_stream(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as stream:
        with pytest.raises(OSError, match="Input/output error"):
            display.follow(Unreadable(), output.lossy(stream))  # type: ignore[arg-type] # what follow needs
        stream.write("on\n")
    assert (tmp_path / "out").read_text(encoding="utf-8") == "x_train\non\n"


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_dropped_output_leaks_no_open_files(capfd: pytest.CaptureFixture[str]) -> None:
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


def test_only_a_terminal_gets_colours_and_only_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name, coloured in (("", "\x1b[31mfailed\x1b[0m"), ("1", "failed")):
        monkeypatch.setenv("NO_COLOR", name)
        assert output.styled("failed", "red", Terminal()) == coloured
        assert output.styled("failed", "red", output.lossy(Terminal())) == coloured
        assert output.styled("failed", "red", io.StringIO()) == "failed"
    monkeypatch.setenv("NO_COLOR", "")
    monkeypatch.setenv("TERM", "dumb")
    assert output.styled("failed", "red", Terminal()) == "failed"
