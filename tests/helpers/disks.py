"""A real, small file system that a test fills, empties and makes read-only.

It is a tmpfs in a mount namespace of its own, which any user may make where the kernel lets him, and which is
gone with the process that holds it, however the tests end. Commands see it at `folder`, the test at `seen`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import Ended, command, hear_interrupts

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 10_000
"""How many files there may be."""
FILLER = "filler"
FILL_AT = """
import logging, os, sys
from mnist_cnn.files import atomic

process, name, count, left = os.environ["FILL_AT"].split(":")
filler = os.environ["FILLER"]


def fill():
    room = os.statvfs(os.path.dirname(filler))
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - int(left)))


def replacing(path, *, really=atomic.replacing, **how):
    global count
    if path.name == name:
        count = int(count) - 1
        if count == 0:
            fill()
    return really(path, **how)


def emit(self, record, really=logging.StreamHandler.emit):
    if not record.getMessage().startswith(name):
        return really(self, record)
    os.write(1, b"\\n" * (-os.fstat(1).st_size % 4096))  # what is begun of the log's last page
    fill()
    really(self, record)
    os.unlink(filler)


if (process == "command") != ("mnist_cnn.training.worker" in sys.orig_argv):
    if process == "line":
        logging.StreamHandler.emit = emit
    else:
        atomic.replacing = replacing
"""
"""Fills the disk at the moment at which a process begins to write a file: that write then really fails.

FILL_AT is PROCESS:FILE:COUNT:LEFT, the COUNT-th write of that FILE by `command` or `trainer`, with LEFT bytes
left; or line:BEGINNING:0:0, a line of the trainer's log, after which there is room again.
"""


class Disk:
    """A small file system, and commands that run where it is."""

    def __init__(self, folder: Path, holder: int, nsenter: str, site: Path) -> None:
        self.folder = folder
        self.seen = Path(f"/proc/{holder}/root{folder}")
        self._enter = [nsenter, "--user", "--mount", "--preserve-credentials", f"--target={holder}"]
        self._site = site

    def start(self, *words: str, fill_at: str | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a command line in the disk's folder; the disk is full from `fill_at` on."""
        if fill_at is not None:
            paths = [str(self._site), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment |= {
                "PYTHONPATH": os.pathsep.join(paths),
                "FILL_AT": fill_at,
                "FILLER": str(self.folder / FILLER),
            }
        line = f"cd {shlex.quote(str(self.folder))} && exec {shlex.join(words)}"
        return subprocess.Popen(
            [*self._enter, "/bin/sh", "-c", line],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,  # noqa: PLW1509 - no threads here
        )

    def run(self, *arguments: str, fill_at: str | None = None, **environment: str) -> Ended:
        """Run `python -m mnist_cnn ARGUMENTS` in the disk's folder, to its end."""
        with self.start(*command(*arguments), fill_at=fill_at, **environment) as process:
            out, err = process.communicate(timeout=180)
        return Ended(process.returncode, out, err)

    def remount(self, options: str) -> None:
        """Change the file system's options: `ro`, `rw`, `nr_inodes=N`."""
        # With its source named, mount leaves the other options alone; a user may not give them all again.
        with self.start("mount", "-o", f"remount,{options}", "small", str(self.folder)) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err

    def fill(self, left: int = 0) -> None:
        """Leave no more room than so many bytes."""
        self.make_room()
        room = os.statvfs(self.seen)
        with (self.seen / FILLER).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))

    def make_room(self) -> None:
        (self.seen / FILLER).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(home: Path, size: str = "8m") -> Iterator[Disk]:
    """Mount a file system of that size; skip the test where this kernel or user may not."""
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if unshare is None or nsenter is None:
        pytest.skip("a file system of its own needs Linux with util-linux's unshare and nsenter")
    folder, site = home / "disk", home / "site"
    folder.mkdir()
    site.mkdir()
    (site / "sitecustomize.py").write_text(FILL_AT, encoding="utf-8")
    options = f"size={size},nr_inodes={FILES}"
    mount = f"mount -t tmpfs -o {options} small {shlex.quote(str(folder))} && echo mounted && exec cat"
    holder = subprocess.Popen(
        [unshare, "--map-root-user", "--mount", "/bin/sh", "-c", mount],
        stdin=subprocess.PIPE,  # whose end ends the holder
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        if holder.stdout.readline() != "mounted\n":
            pytest.skip(f"a file system of its own cannot be mounted here: {holder.stderr.read().strip()}")
        yield Disk(folder, holder.pid, nsenter, site)
        holder.communicate(timeout=60)
