"""Downloads the node's log into log.txt, and parses it.

The service offers what a node prints as a growing log. If the run is started again, the next node starts a
new one. log.txt then contains both logs, one after the other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from typing import TYPE_CHECKING

from mnist_cnn import records, run_folder
from mnist_cnn.backends import common
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.node import EPOCH, FAILURE, PROGRESS
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.errors import BackendError, MnistCnnError, storage_error
from mnist_cnn.files import locks
from mnist_cnn.hints import command_line
from mnist_cnn.result import EpochRow, Progress
from mnist_cnn.training.distributed.group import WorkerLost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.backends.remote.service import Handle, Service

NEXT_LOG = b"==== the run was started again ====\n"
OVERLAP = 512
"""Bytes fetched again, to detect a different log."""
LOCK = ".log.lock"


def fetch(service: Service, handle: Handle) -> bool | None:
    """Append new log output; return whether there was any.

    None means that the log can't be read now, or that the receipt names another run. Updates log.txt,
    metrics.jsonl and progress.json. Raises BackendError if the local disk refuses it.
    """
    folder = handle.folder
    try:
        with locks.hold(folder / LOCK):
            if run_folder.read_receipt(folder).id != handle.id:
                return None
            piece = _piece(folder, lambda first: service.read_log(handle, first))
            if piece:
                with (folder / run_folder.LOG).open("ab") as file:
                    file.write(piece)
                _update_history(folder)
    except ServiceError as error:
        report(f"{error.message}; the run is still running")
        return None
    except locks.LockTimeout:
        return None
    except (BackendError, OSError) as error:
        cause = storage_error(error, str(folder / run_folder.LOG)) if isinstance(error, OSError) else error
        hint = f"{cause.hint}; the run is still running: {command_line('follow', folder)}"
        raise BackendError(cause.message, hint) from error
    return None if piece is None else bool(piece)


def mark_restart(folder: Path, reason: str | None = None) -> None:
    """Separate two starts in log.txt. Raises BackendError.

    Call it after the receipt names the new run, so that no process appends the previous run's log later.
    """
    path = folder / run_folder.LOG
    try:
        with locks.hold(folder / LOCK):
            if path.is_file() and path.stat().st_size:
                with path.open("ab") as file:
                    file.write(f"==== {reason} ====\n".encode() if reason else b"")
                    file.write(NEXT_LOG)
    except OSError as error:
        raise storage_error(error, str(path)) from error


def history(folder: Path) -> list[EpochRow]:
    """Return the epochs' rows in metrics.jsonl and the log.

    Of an epoch trained twice, the later row counts. Epochs that another backend trained are only in
    metrics.jsonl.
    """
    rows = {row.epoch: row for row in _recorded(folder)}
    for text in _marked(_read(folder), EPOCH):
        with contextlib.suppress(ValueError):
            row = records.read(EpochRow, text)
            rows[row.epoch] = row
    return [rows[epoch] for epoch in sorted(rows)]


def _recorded(folder: Path) -> tuple[EpochRow, ...]:
    """Return metrics.jsonl's rows, or none if damaged.

    The log has those of this run.
    """
    try:
        return run_folder.read_history(folder)
    except BackendError:
        return ()


def failure(folder: Path) -> MnistCnnError | None:
    """Return the error logged since the last start.

    That is the trainer's error, or None.
    """
    text = _last(folder, FAILURE)
    if text is None:
        return None
    try:
        error = json.loads(text)
        kind = WorkerLost if error.get("is_lost") else common.error_class(error["exit_code"])
        return kind(error["error"], error["hint"])
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def has_training_started(folder: Path) -> bool:
    """Return whether the trainer has logged progress.

    A failure before that is the node's.
    """
    return _last(folder, PROGRESS) is not None


def _piece(folder: Path, read: Callable[[int], bytes | None]) -> bytes | None:
    """Return the log's part that log.txt lacks, or None.

    `read` returns the node's log from a byte on.
    """
    path = folder / run_folder.LOG
    known = path.read_bytes() if path.is_file() else b""
    known = known.rpartition(NEXT_LOG)[2]
    start = max(0, len(known) - OVERLAP)
    for first in dict.fromkeys((start, 0)):
        content = read(first)
        if content is None:
            return None
        if content.startswith(known[first:]):
            return content[len(known) - first :]
    # It is another log, because it does not start with what is known. If it is empty, it has just started.
    return NEXT_LOG + content if content else b""


def _update_history(folder: Path) -> None:
    """Write metrics.jsonl and progress.json from the log."""
    rows = history(folder)
    if tuple(rows) != _recorded(folder):
        run_folder.write_history(folder, rows)
    progress = _progress(folder)
    if progress is not None:
        run_folder.write_progress(folder, progress)


def _progress(folder: Path) -> Progress | None:
    """Return the progress since the last start.

    After a row of the history the next epoch begins.
    """
    progress = None
    for line in _last_start(folder).splitlines():
        with contextlib.suppress(ValueError):
            if line.startswith(PROGRESS):
                progress = records.read(Progress, line.removeprefix(PROGRESS))
            elif line.startswith(EPOCH) and progress is not None and progress.epochs:
                row = records.read(EpochRow, line.removeprefix(EPOCH))
                is_last = row.epoch == progress.epochs
                progress = dataclasses.replace(
                    progress,
                    epoch=row.epoch if is_last else row.epoch + 1,
                    step=progress.steps if is_last else 0,
                    loss=row.loss,
                    accuracy=row.accuracy,
                    seconds_left=(progress.epochs - row.epoch) * row.seconds,
                )
    return progress


def _last(folder: Path, mark: str) -> str | None:
    """Return the last marked line's content, or None.

    Searches the log since the last start.
    """
    found = list(_marked(_last_start(folder), mark))
    return found[-1] if found else None


def _last_start(folder: Path) -> str:
    """Return the log since the run was last started."""
    return _read(folder).rpartition(NEXT_LOG.decode())[2]


def _read(folder: Path) -> str:
    try:
        return (folder / run_folder.LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _marked(text: str, mark: str) -> Iterator[str]:
    """Yield the rest of each line with a prefix."""
    yield from (line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark))
