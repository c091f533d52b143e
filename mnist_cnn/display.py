"""A run as a person watches it, in a terminal or a plain log; in a notebook it is notebook.py's.

Knows the contract's Run, but no backend.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from typing import TYPE_CHECKING, TextIO

from mnist_cnn.backend import Status
from mnist_cnn.run_folder import trainer_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from mnist_cnn.backend import Run
    from mnist_cnn.result import Progress

LOOK_SECONDS = 0.2
WITH_BAR = 110
"""Columns of a terminal from which on there is room for a bar."""
PLAIN_SECONDS = 10.0
"""How often a line says where the training stands where there is no terminal."""


def follow(run: Run, stream: TextIO | None = None) -> None:
    """Show what the trainer says and where it stands until the run has ended.

    In a notebook this is shown in its cell, with the history; in a terminal there is one live line under
    what was said; elsewhere, and on a `stream` that is no terminal, there are plain lines.
    """
    from mnist_cnn import notebook

    if stream is None and notebook.is_here():
        notebook.follow(run)
        return

    from rich.console import Console

    stream = stream or sys.stdout
    console = Console(file=stream, highlight=False, soft_wrap=True, markup=False)
    if console.is_terminal:
        _follow_live(run, console)
    else:
        _follow_plainly(run, stream)


def describe_progress(progress: Progress) -> str:
    """Return where a training stands, as one line that a terminal of 80 columns holds."""
    if progress.status != Status.running:
        return progress.status
    return (
        f"epoch {progress.epoch}/{progress.epochs} step {progress.step}/{progress.steps} "
        f"loss {progress.loss:.4f} accuracy {progress.accuracy:.4f} "
        f"{progress.images_per_second:,.0f} images/s {describe_seconds(progress.seconds_left)} left"
    )


def describe_seconds(seconds: float) -> str:
    """Return a length of time as minutes and seconds, "5:07", or with hours, "1:05:07"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _follow_live(run: Run, console: Console) -> None:
    from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TextColumn
    from rich.progress import Progress as Bar
    from rich.table import Column

    columns: list[ProgressColumn] = [
        SpinnerColumn(),
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
    ]
    if console.width >= WITH_BAR:
        columns.insert(1, BarColumn(bar_width=24))
    with Bar(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("starting", total=None)
        for line in _said_until_the_end(run):
            if line is not None:
                console.print(line)
            progress = run.progress()
            if progress is not None:
                done = (progress.epoch - 1) * progress.steps + progress.step
                total = progress.epochs * progress.steps or None
                bar.update(task, description=describe_progress(progress), completed=done, total=total)


def _follow_plainly(run: Run, stream: TextIO) -> None:
    last_said = time.monotonic()
    for line in _said_until_the_end(run):
        progress = run.progress()
        if line is not None:
            stream.write(f"{line}\n")
        elif progress is not None and time.monotonic() - last_said > PLAIN_SECONDS:
            stream.write(f"{describe_progress(progress)}\n")
        else:
            continue
        stream.flush()
        last_said = time.monotonic()


def _said_until_the_end(run: Run) -> Iterator[str | None]:
    """Yield what the trainer says as it says it, and None now and then while it is silent."""
    for line in lines_until_the_end(run):
        yield None if line is None else trainer_line(line)


def lines_until_the_end(run: Run) -> Iterator[str | None]:
    """Yield the lines of a run's log as they come, and None now and then while none does."""
    lines: queue.Queue[str | Exception | None] = queue.Queue()

    def read() -> None:
        try:
            for line in run.logs(follow=True):
                lines.put(line)
            lines.put(None)
        except Exception as error:  # noqa: BLE001 - raised again where it can be heard
            lines.put(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    while True:
        try:
            line = lines.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            yield None
            continue
        if isinstance(line, Exception):
            raise line
        if line is None:
            return
        yield line
