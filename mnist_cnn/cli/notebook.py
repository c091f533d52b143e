"""Show a run in a notebook cell.

The cell is updated in place, and kept when the notebook is saved. Uses IPython's `display`, without widgets.
IPython is imported only when it is already running.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import re
import sys
import tempfile
import time
from collections import deque
from html import escape
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, MnistCnnError
from mnist_cnn.result import percent
from mnist_cnn.terminal.log_stream import LogStream, describe_progress, epochs_and_time
from mnist_cnn.training import plots

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mnist_cnn.backend import Run
    from mnist_cnn.result import EpochRow, Progress

UPDATE_SECONDS = 0.25
LAST_LINES = 8
LONGEST_LINE = 300
EPOCH = re.compile(r"epoch \d+/\d+ ")
"""The beginning of the trainer's line about an epoch."""
PICTURE_WIDTH = 720
"""Pixels of the notebook that the learning curves take."""


def is_notebook() -> bool:
    """Return whether this process is a notebook's kernel."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


def follow(run: Run) -> None:
    """Show the run in the cell until it ends.

    An interrupt does not affect the run.
    """
    cell = _Cell(run)
    try:
        cell.update()
        updated = time.monotonic()
        for line in LogStream(run):
            if line is not None:
                cell.add_line(line)
            if time.monotonic() - updated >= UPDATE_SECONDS:
                cell.update()
                updated = time.monotonic()  # after it, because drawing may take longer than the pause
        cell.end()
    except BaseException:
        cell.detach()
        raise


class _Cell:
    """A run's cell outputs: state, history and learning curves."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._held_out = run_folder.read_job(run.folder).data.held_out
        self._status = Status.queued
        self._log = _LastLines()
        self._rows: tuple[EpochRow, ...] = ()
        self._state, self._history, self._curves = _Output(), _Output(), _Output()

    def add_line(self, line: str) -> None:
        """Add a line of the log."""
        self._log.add(line)

    def update(self) -> None:
        """Show the run's present state."""
        self._refresh()
        progress = self._run.progress()
        is_training = progress is not None and progress.status == Status.running
        self._show(progress=progress if is_training and not self._status.is_final else None)

    def end(self) -> None:
        """Show how the run ended, after downloading its result."""
        self.update()
        if not self._status.is_final:
            self.detach()
            return
        try:
            result = self._run.wait()
            scores = f"test accuracy {percent(result.accuracy)}, test loss {result.loss:.4f}"
            outcome = f"{scores} after {epochs_and_time(result, run_folder.read_receipt(self._run.folder))}"
        except MnistCnnError as error:
            outcome = str(error)
            self._log.trainer = self._log.all  # the cause may be in another program's lines
        self._refresh()  # without a result to download, the run is not completed
        self._show(note=outcome)

    def detach(self) -> None:
        """Show how to watch an unfinished run again."""
        if not self._status.is_final:
            again = f"mnist_cnn.follow(mnist_cnn.attach({str(self._run.folder)!r}))"
            self._show(note=f"detached; watch it again: {again}")

    def _refresh(self) -> None:
        with contextlib.suppress(BackendError):  # a service that does not answer; its backend reports that
            self._status = self._run.status()

    def _show(self, *, progress: Progress | None = None, note: str = "") -> None:
        url = None
        with contextlib.suppress(BackendError):
            url = run_folder.read_receipt(self._run.folder).url
        name = self._run.folder.resolve().name
        state = RunState(name, self._status, url, progress, note, tuple(self._log.trainer))
        self._state.show({"text/html": state.html(), "text/plain": state.text()})
        rows = self._rows
        with contextlib.suppress(BackendError):  # a damaged file; the log's lines are still shown
            rows = run_folder.read_history(self._run.folder)
        if rows != self._rows:
            self._rows = rows
            self._history.show(describe_history(rows, self._held_out))
            with contextlib.suppress(OSError, MnistCnnError):  # the disk is full
                self._curves.show(draw_history(rows, self._held_out), {"image/png": {"width": PICTURE_WIDTH}})


class _LastLines:
    """The last lines of the log.

    `trainer` are the trainer's, `all` those of all programs. Rows of the history table are left out.
    """

    def __init__(self) -> None:
        self.trainer: deque[str] = deque(maxlen=LAST_LINES)
        self.all: deque[str] = deque(maxlen=LAST_LINES)

    def add(self, line: str) -> None:
        text = run_folder.trainer_line(line)
        if text is not None and EPOCH.match(text):
            return
        self.all.append(line[:LONGEST_LINE])
        if text is not None:
            self.trainer.append(text[:LONGEST_LINE])


class _Output:
    """One output of the cell.

    The first `show` creates it, later ones update it in place.
    """

    def __init__(self) -> None:
        self._shown: dict[str, Any] = {}
        self._handle: Any = None

    def show(self, bundle: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        """Show a bundle of MIME types, unless already shown."""
        from IPython.display import display

        if bundle == self._shown:
            return
        if self._handle is None:
            self._handle = display(bundle, raw=True, metadata=metadata, display_id=True)
        else:
            self._handle.update(bundle, raw=True, metadata=metadata)
        self._shown = bundle


@dataclasses.dataclass(frozen=True)
class RunState:
    """A run's state as text and HTML.

    `progress` is set while it trains, `note` when it has ended or is detached; `lines` are the last ones of
    its log.
    """

    name: str
    status: Status
    url: str | None = None
    progress: Progress | None = None
    note: str = ""
    lines: tuple[str, ...] = ()

    def html(self) -> str:
        """Return the state as HTML."""
        head = f"run <b>{escape(self.name)}</b>: <b>{escape(self.status.value)}</b>{_link(self.url)}"
        parts = [f"<div>{head}</div>"]
        if self.progress is not None:
            done = (self.progress.epoch - 1) * self.progress.steps + self.progress.step
            bar = f'<progress value="{done}" max="{self.progress.epochs * self.progress.steps}"></progress>'
            parts.append(f"<div>{bar} {escape(describe_progress(self.progress))}</div>")
        if self.note:
            parts.append(f'<div style="white-space: pre-line">{escape(self.note)}</div>')
        text = "\n".join(self.lines)
        log = f"<pre>{escape(text)}</pre>"
        if self.status.is_final:  # folded, unless it says why the run failed
            is_open = "" if self.status is Status.completed else " open"
            log = f"<details{is_open}><summary>last lines of log.txt</summary>{log}</details>"
        return "".join([*parts, log])

    def text(self) -> str:
        """Return the state as text, for viewers without HTML."""
        progress = describe_progress(self.progress) if self.progress is not None else None
        head = f"run {self.name}: {self.status.value}"
        return "\n".join(filter(None, (head, self.url, progress, self.note, *self.lines)))


def describe_history(rows: Sequence[EpochRow], held_out: str) -> dict[str, str]:
    """Return the history as a table, by MIME type.

    `held_out` names the images of `val_*`: "test" or "validation".
    """
    metrics = tuple(dict.fromkeys(chain(*(row.metrics for row in rows))))
    measured = (f"{held_out} {name}" for name in ("loss", "accuracy", *metrics))
    names = ("epoch", "loss", "accuracy", *measured, "seconds")
    cells = [
        (
            str(row.epoch),
            f"{row.loss:.4f}",
            percent(row.accuracy),
            f"{row.val_loss:.4f}",
            percent(row.val_accuracy),
            *(f"{row.metrics[name]:.4f}" if name in row.metrics else "" for name in metrics),
            f"{row.seconds:.1f}",
        )
        for row in rows
    ]
    lines = ["".join(f"<td>{escape(cell)}</td>" for cell in row) for row in cells]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return {"text/html": html, "text/plain": "\n".join("  ".join(row) for row in (names, *cells))}


def draw_history(rows: Sequence[EpochRow], held_out: str) -> dict[str, Any]:
    """Return the learning curves as PNG.

    Raises as `plots.history` does.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / run_folder.HISTORY_PLOT
        plots.history(rows, path, held_out=held_out)
        png = base64.b64encode(path.read_bytes()).decode()
        return {"image/png": png, "text/plain": "learning curves"}


def _link(url: str | None) -> str:
    """Return a link to a run's service page.

    Returns "" if `url` is not a web page.
    """
    page = re.match(r"https?://([\w.-]+)", url or "")
    if url is None or page is None:
        return ""
    return f', <a href="{escape(url)}" target="_blank" rel="noopener">{escape(page.group(1))}</a>'
