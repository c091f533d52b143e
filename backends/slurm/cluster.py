"""Shows a Slurm cluster's partitions, nodes and jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mnist_cnn.backends.slurm import commands
from mnist_cnn.backends.slurm.queue import USER
from mnist_cnn.errors import BackendError
from mnist_cnn.hints import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def show(place: Mapping[str, str], partition: str | None) -> Iterator[str]:
    """Yield lines on partitions' nodes and the user's jobs."""
    chosen = [f"--partition={partition}"] if partition else []
    columns = "--format=partition %P: %D nodes %T (%N), at most %l, %c CPUs and %m MB each"
    lines = _lines(["sinfo", "--noheader", *chosen, columns], place, "ask Slurm for its nodes")
    if not lines:
        what = f"no partition {partition}" if partition else "no partitions"
        raise BackendError(f"the cluster has {what}", commands.OTHER_PARTITION)
    yield from lines
    words = ["squeue", "--noheader", f"--user={place[USER]}", *chosen, "--format=job %A %j: %T, %M, %R"]
    yield from _lines(words, place, "ask Slurm for the jobs") or ["no jobs of yours"]


def refuse_deletion() -> None:
    """Raise BackendError: the cluster isn't this package's."""
    message = "a Slurm cluster is not deleted from here: its administrators manage its nodes"
    raise BackendError(message, f"cancel your runs instead: {command_line('cancel', 'RUN')}")


def _lines(words: list[str], place: Mapping[str, str], what: str) -> list[str]:
    lines = commands.run(words, place, what=what).splitlines()
    # In another job's name or reason a terminal might find commands.
    return ["".join(c if c.isprintable() else "?" for c in line).strip() for line in lines if line.strip()]
