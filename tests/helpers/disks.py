"""A real, small file system that a test fills, empties and makes read-only.

It is a tmpfs in a mount namespace of its own. Any user may make one if the kernel allows it. It is gone with
the process that holds it, however the tests end. Commands see it at `folder`, the test at `seen`.
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
from helpers.fault_points import fault
from helpers.processes import Ended, command, end_of, start

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 10_000
"""How many files there may be."""
FILLER = "filler"


class Disk:
    """A small file system, and commands that run where it is."""

    def __init__(self, folder: Path, holder: int, nsenter: str) -> None:
        self.folder = folder
        self.seen = Path(f"/proc/{holder}/root{folder}")
        self._enter = [nsenter, "--user", "--mount", "--preserve-credentials", f"--target={holder}"]

    def full_at(self, process: str, name: str, count: int = 1, left: int = 0) -> dict[str, str]:
        """Return the environment in which the disk is full, but for `left` bytes, from a write on.

        It is the `count`-th time that `process`, `command` or `worker`, writes the file `name`. The write
        itself then really fails.
        """
        return fault("fill", process, name, count, left=left, path=self.folder / FILLER)

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command line in the disk's folder."""
        line = f"cd {shlex.quote(str(self.folder))} && exec {shlex.join(words)}"
        return start(*self._enter, "/bin/sh", "-c", line, cwd=self.folder.parent, **environment)

    def run(self, *arguments: str, **environment: str) -> Ended:
        """Run `python -m mnist_cnn ARGUMENTS` in the disk's folder, to its end."""
        return end_of(self.start(*command(*arguments), **environment), timeout=180)

    def remount(self, options: str) -> None:
        """Change the file system's options: `ro`, `rw`, `nr_inodes=N`."""
        # With its source named, mount keeps the other options; a user may not give them all again.
        ended = end_of(self.start("mount", "-o", f"remount,{options}", "small", str(self.folder)))
        assert ended.code == 0, ended.err

    def fill(self, left: int = 0) -> None:
        """Fill the disk but for `left` bytes."""
        self.make_room()
        room = os.statvfs(self.seen)
        with (self.seen / FILLER).open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))

    def make_room(self) -> None:
        (self.seen / FILLER).unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(home: Path, size: str = "8m") -> Iterator[Disk]:
    """Mount a file system of that size; skip the test if the kernel does not allow it."""
    unshare, nsenter = shutil.which("unshare"), shutil.which("nsenter")
    if unshare is None or nsenter is None:
        pytest.skip("a file system of its own needs Linux with util-linux's unshare and nsenter")
    folder = home / "disk"
    folder.mkdir()
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
        yield Disk(folder, holder.pid, nsenter)
        holder.communicate(timeout=60)
