"""A run's log as lines, its progress as text."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from mnist_cnn.backend import Status
from mnist_cnn.result import describe_epochs, percent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backend import Run
    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import Progress, Result

POLL_SECONDS = 0.2


class LogStream:
    """The lines of a run's log until it ends.

    A second iteration continues an interrupted one.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._lines: queue.Queue[str | Exception | None] = queue.Queue()
        self._reader: threading.Thread | None = None

    def __iter__(self) -> Iterator[str | None]:
        """Yield each line, and None every POLL_SECONDS without one."""
        if self._reader is None:
            self._reader = threading.Thread(target=self._read, daemon=True)
            self._reader.start()
        while True:
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                yield None
                continue
            if isinstance(line, Exception):
                raise line
            if line is None:
                return
            yield line

    def _read(self) -> None:
        try:
            for line in self._run.logs(follow=True):
                self._lines.put(line)
            self._lines.put(None)
        except Exception as error:  # noqa: BLE001 - __iter__ raises it again in the caller's thread
            self._lines.put(error)


def describe_progress(progress: Progress) -> str:
    """Return the progress as one line of 80 columns."""
    if progress.status != Status.running:
        return progress.status
    rest = f"{progress.images_per_second:,.0f} images/s {describe_seconds(progress.seconds_left)} left"
    if progress.step == progress.steps:  # the last report of an epoch
        rest = "evaluating"
    return (
        f"epoch {progress.epoch}/{progress.epochs} step {progress.step}/{progress.steps} "
        f"loss {progress.loss:.4f} accuracy {percent(progress.accuracy)} {rest}"
    )


def epochs_and_time(result: Result, receipt: Receipt | None) -> str:
    """Return for example "12 epochs in 1:40 (training: 1:30)".

    The first time is all of it, from the last start, submission or resume. The training's is that of the
    last process.
    """
    epochs, training = describe_epochs(len(result.history)), describe_seconds(result.training_seconds)
    if receipt is None or receipt.started is None or result.ended is None:  # of an earlier version
        return f"{epochs} (training: {training})"
    # A node's clock may be late.
    whole = describe_seconds(max(result.ended - receipt.started, result.training_seconds))
    time = f"in {whole}" if whole == training else f"in {whole} (training: {training})"
    return f"{epochs} {time}"


def describe_seconds(seconds: float) -> str:
    """Return a duration as "5:07" or, with hours, "1:05:07"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
