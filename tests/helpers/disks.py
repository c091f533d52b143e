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
from helpers.processes import Ended, command, hear_interrupts

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

    def start(self, *words: str, fill_at: str | None = None, **environment: str) -> subprocess.Popen[str]:
        """Start a command line in the disk's folder.

        `fill_at` is PROCESS:FILE:COUNT:LEFT: the disk is full, but for LEFT bytes, from the COUNT-th time
        that `command` or `worker` writes that FILE. The write itself then really fails.
        """
        if fill_at is not None:
            process, point, count, left = fill_at.split(":")
            filler = self.folder / FILLER
            environment |= fault("fill", process, point, int(count), left=int(left), path=filler)
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
        # With its source named, mount keeps the other options; a user may not give them all again.
        with self.start("mount", "-o", f"remount,{options}", "small", str(self.folder)) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err

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
