"""The node's log in log.txt: brought here piece by piece, and what is read from it.

The service shows a node's output as a blob that grows. A node that was lost leaves its blob, and the next
one begins a new log; log.txt then has both, one after the other.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING

from mnist_cnn import records, run_folder
from mnist_cnn.backends import common
from mnist_cnn.backends.azure.entry import EPOCH, FAILURE, PROGRESS
from mnist_cnn.backends.azure.service import ServiceError, call, say
from mnist_cnn.errors import BackendError, MnistCnnError, storage_error
from mnist_cnn.files import locks
from mnist_cnn.result import EpochRow, Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

STREAMED = re.compile(r"user_logs/std_log[^/]*\.txt|azureml-logs/70_driver_log[^/]*\.txt")
NEXT_LOG = b"==== the run was started again ====\n"
OVERLAP = 512
"""Bytes that are fetched again, to see that the log is still the same one."""
TIMEOUT_SECONDS = 30.0
LOCK = ".log.lock"


def fetch(folder: Path, run_id: str, files: Mapping[str, str]) -> bool | None:
    """Append to log.txt what the node has printed since; tell whether there was anything.

    `files` maps a log's name to its URL, of the run with that id: nothing is appended where the receipt names
    another by now. None tells that the log cannot be had now, but at the next look. The rows of the history
    that the log holds go into metrics.jsonl, where the training stands into progress.json.

    Raises:
        BackendError: the disk here does not take it.
    """
    if not is_among(files):
        return False
    name = min(name for name in files if STREAMED.fullmatch(name))
    try:
        with locks.hold(folder / LOCK):
            if run_folder.read_receipt(folder).id != run_id:
                return None
            piece = call("read the node's log", lambda: _piece(folder, files[name]), 2 * TIMEOUT_SECONDS)
            if piece:
                with (folder / run_folder.LOG).open("ab") as file:
                    file.write(piece)
                _take_down(folder, piece)
    except ServiceError as error:
        say(f"{error.message}; the run goes on")
        return None
    except locks.LockTimeout:
        return None
    except (BackendError, OSError) as error:
        worded = storage_error(error, str(folder / run_folder.LOG)) if isinstance(error, OSError) else error
        raise BackendError(worded.message, f"{worded.hint}; the run goes on: follow {folder}") from error
    return bool(piece)


def is_among(files: Mapping[str, str]) -> bool:
    """Tell whether the node's log is among a run's logs; it is as soon as the node has printed something."""
    return any(STREAMED.fullmatch(name) for name in files)


def separate(folder: Path, why: str | None = None) -> None:
    """Mark in log.txt that what follows is another start of the run; nothing where there is no log yet.

    The receipt names the new run already, so that nobody appends the log of the one before.

    Raises:
        BackendError: the disk does not take it.
    """
    path = folder / run_folder.LOG
    try:
        with locks.hold(folder / LOCK):
            if path.is_file() and path.stat().st_size:
                with path.open("ab") as file:
                    file.write(f"==== {why} ====\n".encode() if why else b"")
                    file.write(NEXT_LOG)
    except OSError as error:
        raise storage_error(error, str(path)) from error


def history(folder: Path) -> list[EpochRow]:
    """Return the rows of metrics.jsonl and of the log; of an epoch that was trained twice the later one.

    Those of epochs that were trained at another place are in no log of a node.
    """
    rows = {row.epoch: row for row in run_folder.read_history(folder)}
    for told in _all(folder, EPOCH):
        with contextlib.suppress(ValueError):
            row = records.read(EpochRow, told)
            rows[row.epoch] = row
    return [rows[epoch] for epoch in sorted(rows)]


def failure(folder: Path) -> MnistCnnError | None:
    """Return the error that the trainer ended with, as it told it; None where it told none."""
    told = _last(folder, FAILURE)
    if told is None:
        return None
    try:
        error = json.loads(told)
        return common.error_class(error["exit_code"])(error["error"], error["hint"])
    except (ValueError, TypeError, KeyError):
        return None


def has_begun(folder: Path) -> bool:
    """Tell whether the trainer has said where it stands; what fails before is the node, not the training."""
    return _last(folder, PROGRESS) is not None


def _piece(folder: Path, url: str) -> bytes:
    """Return what is to be appended to log.txt."""
    import requests

    path = folder / run_folder.LOG
    known = path.read_bytes() if path.is_file() else b""
    known = known.rpartition(NEXT_LOG)[2]
    start = max(0, len(known) - OVERLAP)
    for first in (start, 0):
        answer = requests.get(url, headers={"Range": f"bytes={first}-"}, timeout=TIMEOUT_SECONDS)
        if answer.status_code == 416:  # noqa: PLR2004 - shorter than what is known, or empty
            content = b""
        else:
            answer.raise_for_status()
            content = answer.content if answer.status_code == 206 else answer.content[first:]  # noqa: PLR2004
        if content.startswith(known[first:]):
            return content[len(known) - first :]
        if first == 0:
            break
    # What is known is not the beginning of this log: it is another one. An empty one may just be beginning.
    return NEXT_LOG + content if content else b""


def _take_down(folder: Path, piece: bytes) -> None:
    """Write what a piece of the log tells of the training into the files that a local run has too."""
    text = piece.decode("utf-8", errors="replace")
    if EPOCH in text:
        run_folder.write_history(folder, history(folder))
    found = list(_marked(text, PROGRESS))
    if found:
        with contextlib.suppress(ValueError):
            run_folder.write_progress(folder, records.read(Progress, found[-1]))


def _last(folder: Path, mark: str) -> str | None:
    """Return what the last line with a mark says, of the last start's."""
    found = list(_all(folder, mark, of_last_start=True))
    return found[-1] if found else None


def _all(folder: Path, mark: str, *, of_last_start: bool = False) -> Iterator[str]:
    """Yield what the lines with a mark say."""
    try:
        text = (folder / run_folder.LOG).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if of_last_start:
        text = text.rpartition(NEXT_LOG.decode())[2]
    yield from _marked(text, mark)


def _marked(text: str, mark: str) -> Iterator[str]:
    yield from (line.removeprefix(mark) for line in text.splitlines() if line.startswith(mark))
