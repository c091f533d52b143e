"""Finds, reads and writes run folders.

The files are all that another process needs to know of a run:

    job.json        the job and its digest
    run.json        the receipt: the backend, the process and the status of the run
    log.txt         everything that the trainer printed
    report.html     the run's page, if the user has asked for it
    metrics.jsonl   the history, one row per epoch
    progress.json   the position within the epoch, during training
    result.json     the result; written last, so a folder that has it is complete
    checkpoints/    the state at the end of the newest epochs, and the weights that a training starts from
    tracking/       what each tracker has of the run, if it is tracked

This module starts and stops no run.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import process_identity, records
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError
from mnist_cnn.files import atomic, locks, safe_read
from mnist_cnn.hints import command_line, did_you_mean, see_the_runs
from mnist_cnn.job import Job
from mnist_cnn.receipt import Receipt
from mnist_cnn.result import EpochRow, FileEntry, Progress, Result, describe_content

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from contextlib import AbstractContextManager

JOB, RECEIPT, LOG, METRICS = "job.json", "run.json", "log.txt", "metrics.jsonl"
PROGRESS, RESULT, CHECKPOINTS = "progress.json", "result.json", "checkpoints"
REPORT = "report.html"
MODEL, ONNX = "model.keras", "model.onnx"
PLOTS = HISTORY_PLOT, CONFUSION_PLOT, MISTAKES_PLOT = "history.png", "confusion.png", "mistakes.png"
LATEST, LOCK, START, TRACKING = "latest", ".lock", ".start", "tracking"
CANCEL = ".cancel"
"""Marks a run as cancelled, not lost.

The file is empty. It counts if the trainer is gone without a final receipt.
"""
FORCE = "--force"
"""Trainer flag: resume despite a changed job or machine."""
PAUSE_AFTER = "--pause-after"
"""Trainer flag: end with a checkpoint after an epoch."""
UNDER_WAY = (Status.preparing, Status.running, Status.finalizing)
ENTRY_SECONDS = 10.0
"""Most seconds until the receipt names a new trainer.

Usually that takes milliseconds.
"""

GENERATED = re.compile(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ-[0-9a-f]{4}")
"""What a run is called, unless the user has named its folder."""
SHORT_GENERATED, SHORT = 4, 20
"""Letters of a short name."""

LOG_FORMAT, LOG_TIME = "%(asctime)s mnist_cnn %(message)s", "%H:%M:%S"
"""The form of the trainer's own lines in log.txt."""
STOPPED = "stopped: "
"""How a failed or cancelled trainer's last line begins."""
_TRAINER_LINE = re.compile(r"\d\d:\d\d:\d\d mnist_cnn (.*)")


def now() -> str:
    """Return the time in UTC, ISO 8601, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def creation_time(folder: Path) -> str:
    """Return a new run's creation time.

    It is later than that of every run beside it, even if the clock was set back, so that `latest` is the run
    that was started last.
    """
    with suppress(MnistCnnError, OverflowError):  # an unreadable folder, a removed run, the year 9999
        others = [receipt.created for receipt in receipts(str(folder.parent)).values()]
        newest = max(map(datetime.fromisoformat, others), default=datetime.min.replace(tzinfo=UTC))
        return max(datetime.now(UTC), newest + timedelta(microseconds=1)).isoformat(timespec="microseconds")
    return now()


def find(run: str, runs_dir: str) -> Path:
    """Return a run's folder.

    `run` is `latest`, a name under `runs_dir` (or its beginning or end), or a path. Raises ConfigurationError
    if no run matches, or several do.
    """
    if run == LATEST:
        found = receipts(runs_dir)
        newest = max(found, key=lambda folder: found[folder].created, default=None)
        if newest is None:
            raise ConfigurationError(f"no runs under {runs_dir}", "start one, or choose runs_dir=FOLDER")
        return newest
    for folder in (Path(runs_dir) / run, Path(run)):
        if (folder / RECEIPT).is_file():
            return folder
    names = [folder.name for folder in all_runs(runs_dir)]
    matching = [name for name in names if name.startswith(run) or name.endswith(run)]
    if len(matching) == 1:
        return Path(runs_dir) / matching[0]
    if matching:
        hint = f"choose one of {', '.join(matching)}"
        raise ConfigurationError(f"{run} matches {len(matching)} runs", hint)
    hint = did_you_mean(run, [*names, LATEST], see_the_runs(f"runs_dir={runs_dir}"))
    if Path(run).is_dir():
        raise ConfigurationError(f"{run} is not a run: it has no {RECEIPT}", hint)
    where = f" under {runs_dir}" if Path(run).name == run else ""
    raise ConfigurationError(f"run {run}: not found{where}", hint)


def short_names(names: Collection[str]) -> dict[str, str]:
    """Return an end of each name by which `find` finds it among these, or the whole name.

    It has four letters if the name was generated, else 20, and more if other names begin or end so too.
    """
    short: dict[str, str] = {}
    length = SHORT_GENERATED
    while len(short) < len(names):
        parts = Counter(part for name in names for part in {name[:length], name[-length:]})
        for name in names:
            end = name[-length:]
            is_long = length >= SHORT or GENERATED.fullmatch(name) is not None
            if end == name or (is_long and parts[end] == 1 and end[0].isalnum()):
                short.setdefault(name, end)
        length += 1
    return short


def all_runs(runs_dir: str) -> list[Path]:
    """Return the folders with readable receipts, sorted by name."""
    return list(receipts(runs_dir))


def receipts(runs_dir: str) -> dict[Path, Receipt]:
    """Return the readable receipts in `runs_dir`, sorted by name."""
    return scan(runs_dir)[0]


def scan(runs_dir: str) -> tuple[dict[Path, Receipt], list[Path]]:
    """Return `runs_dir`'s readable receipts, and its other entries."""
    found, others = {}, []
    for path in _folders(runs_dir):
        try:
            found[path] = read_receipt(path)
        except BackendError:
            others.append(path)
    return found, others


def _folders(runs_dir: str) -> list[Path]:
    try:
        names = sorted(os.listdir(runs_dir))  # noqa: PTH208 - sorting thousands of paths takes long
        return [Path(runs_dir) / name for name in names]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        message = f"cannot read runs_dir={runs_dir}: {error.strerror}"
        raise ConfigurationError(message, "choose another") from error


def read_job(folder: Path, *, may_be_changed: bool = False) -> Job:
    """Read job.json.

    Raises ConfigurationError if it isn't a job, BackendError if it cannot be read.
    """
    text = _read(folder / JOB, safe_read.SETTINGS_BYTES)
    return Job.from_json(text, str(folder / JOB), may_be_changed=may_be_changed)


def write_job(folder: Path, job: Job) -> None:
    """Write job.json. Raises BackendError if that fails."""
    atomic.write_text(folder / JOB, job.to_json())


def read_receipt(folder: Path) -> Receipt:
    """Read run.json.

    Raises BackendError if it isn't a receipt or cannot be read.
    """
    path = f"{folder}/{RECEIPT}"  # `list` reads thousands, and joining paths takes as long as reading
    return Receipt.from_json(_read(path, safe_read.SETTINGS_BYTES), path)


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write run.json. Raises BackendError if that fails."""
    atomic.write_text(folder / RECEIPT, receipt.to_json())


def record_trainer(folder: Path, pid: int) -> None:
    """Record the trainer's process in the receipt.

    The process that started it calls this. Raises BackendError if the receipt cannot be read or written.
    """
    started = process_identity.start_time(pid)  # None reads as lost
    write_receipt(folder, dataclasses.replace(read_receipt(folder), pid=pid, process_started=started))


def other_host(receipt: Receipt) -> str | None:
    """Return a receipt's machine unless it is this one."""
    return receipt.host if receipt.host != socket.gethostname() else None


def age(receipt: Receipt) -> float:
    """Return a receipt's age in seconds.

    It is negative if the clock was set back.
    """
    return (datetime.now(UTC) - datetime.fromisoformat(receipt.created)).total_seconds()


def was_just_started(folder: Path) -> bool:
    """Return whether the receipt was written just now.

    It may not name the trainer's process yet.
    """
    try:
        return abs(time.time() - (folder / RECEIPT).stat().st_mtime) < ENTRY_SECONDS
    except OSError:
        return False


def lock(folder: Path, seconds: float = locks.TIMEOUT_SECONDS) -> AbstractContextManager[None]:
    """Hold the run folder's lock in a `with` block.

    Raises as `locks.hold` does.
    """
    return locks.hold(folder / LOCK, seconds)


def check_resumable(folder: Path, status: Status) -> None:
    """Check that a run can be resumed.

    Raises ConfigurationError if it is still running, or completed and undamaged.
    """
    if status is Status.completed and damage(folder, status) is None:
        more = command_line("resume", folder, "train.epochs=N")
        raise ConfigurationError(
            f"{folder} is completed", f"start a new run, or one with more epochs: {more}"
        )
    if not status.is_final:
        raise ConfigurationError(f"{folder} is {status.value}", f"watch it: {command_line('follow', folder)}")


def damage(folder: Path, status: Status) -> str | None:
    """Return what is missing or damaged, or None.

    The run has ended; `resume` rebuilds it.
    """
    try:
        read_job(folder)
        if status is Status.completed:
            verify(folder, result_of(folder))
    except MnistCnnError as error:
        return error.message
    return None


def await_registration(folder: Path, pid: int) -> None:
    """Wait until the receipt names this trainer's process.

    Then only this process writes it. Raises BackendError if it doesn't, because the process that started the
    trainer has died.
    """
    deadline = time.monotonic() + ENTRY_SECONDS
    while read_receipt(folder).pid != pid:
        if time.monotonic() > deadline:
            message = f"run.json in {folder} was not updated: the command that started the run has died"
            raise BackendError(message, "resume the run")
        time.sleep(0.01)


def check_still_ours(folder: Path, receipt: Receipt) -> None:
    """Check that this receipt's run is still ours.

    Raises BackendError if another process has resumed or removed it since.
    """
    now = read_receipt(folder)
    if (now.pid, now.host, now.process_started) != (receipt.pid, receipt.host, receipt.process_started):
        hint = f"watch it: {command_line('follow', folder)}"
        raise BackendError(f"{folder} is trained by another process now", hint)


def record_end(folder: Path, status: Status, error: MnistCnnError | None = None) -> None:
    """Record the run's final status, and remove progress.json.

    Raises BackendError if the receipt cannot be read or written.
    """
    with suppress(OSError):  # the receipt matters more
        (folder / PROGRESS).unlink(missing_ok=True)  # first, because it makes room on a full disk
    end = dataclasses.replace(
        read_receipt(folder),
        status=status,
        exit_code=error.exit_code if error else 0,
        error=error.message if error else None,
        hint=error.hint if error else None,
    )
    write_receipt(folder, end)


def update_receipt(folder: Path, run_id: str, change: Callable[[Receipt], Receipt]) -> bool:
    """Change the receipt if it still names this run.

    Returns whether it does. Raises BackendError if it cannot be written, or another process holds the lock.
    """
    with lock(folder):
        now = read_receipt(folder)
        is_named = now.id == run_id
        if is_named:
            write_receipt(folder, change(now))
    return is_named


def record_end_of(folder: Path, run_id: str, status: Status, error: MnistCnnError) -> None:
    """Record a run's end if the receipt names it.

    Raises as `update_receipt` does.
    """
    with lock(folder):
        if read_receipt(folder).id == run_id:
            record_end(folder, status, error)


def read_result(folder: Path, name: Path | None = None) -> Result | None:
    """Read result.json; None if it doesn't exist yet.

    Raises BackendError if it isn't a result. The error calls the file `name`, by default its path.
    """
    path = folder / RESULT
    name = name or path
    if not path.is_file():
        return None
    try:
        return Result.from_json(_read(path, safe_read.HISTORY_BYTES, name), str(name))
    except BackendError as error:
        raise BackendError(error.message, f"rebuild it: {command_line('resume', folder)}") from error


def result_of(folder: Path) -> Result:
    """Return a completed run's result.

    Raises BackendError if result.json is missing or damaged.
    """
    result = read_result(folder)
    if result is None:
        raise BackendError(
            f"{folder} is completed but has no {RESULT}", f"rebuild it: {command_line('resume', folder)}"
        )
    return result


def write_history(folder: Path, rows: Iterable[EpochRow]) -> None:
    """Write all of metrics.jsonl. Raises BackendError if that fails."""
    lines = (json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    atomic.write_text(folder / METRICS, "".join(lines))


def read_history(folder: Path) -> tuple[EpochRow, ...]:
    """Read metrics.jsonl; no rows if it doesn't exist yet.

    Raises BackendError if it isn't a history.
    """
    path = folder / METRICS
    if not path.is_file():
        return ()
    try:
        lines = _read(path, safe_read.HISTORY_BYTES).splitlines()
        return tuple(records.read(EpochRow, line) for line in lines)
    except ValueError as error:
        raise BackendError(f"{path} isn't a history: {error}", "the file was changed by hand") from error


def write_progress(folder: Path, progress: Progress) -> None:
    """Write progress.json. Raises BackendError if that fails."""
    atomic.write_text(folder / PROGRESS, json.dumps(dataclasses.asdict(progress)), durable=False)


def read_progress(folder: Path) -> Progress | None:
    """Read progress.json; None if it is missing or damaged."""
    try:
        text = safe_read.read_text(folder / PROGRESS, safe_read.SETTINGS_BYTES)
        progress = records.read(Progress, text)
        is_sound = Status(progress.status) in UNDER_WAY
    except (OSError, ValueError):
        return None
    return progress if is_sound else None


def trainer_line(line: str) -> str | None:
    """Return the trainer's message in a line of log.txt.

    Returns None if a library printed the line.
    """
    match = _TRAINER_LINE.fullmatch(line)
    return match.group(1) if match else None


def clear_leftovers(folder: Path) -> None:
    """Remove what an earlier trainer may have left.

    That is half-written files, progress, result, page and cancellation. An old result or page would make the
    run look complete.
    """
    clear_half_written(folder)
    for name in (PROGRESS, RESULT, REPORT, CANCEL):
        (folder / name).unlink(missing_ok=True)


def clear_half_written(folder: Path) -> None:
    """Remove files that a killed trainer had not finished."""
    for leftover in folder.rglob(f"{atomic.PREFIX}*"):
        leftover.unlink(missing_ok=True)


def verify(folder: Path, result: Result) -> None:
    """Check the result's files against their checksums.

    Raises BackendError if one is missing or differs.
    """
    for name, entry in result.files.items():
        if (problem := file_problem(folder / name, entry)) is not None:
            raise BackendError(f"{folder / name} {problem}", f"rebuild it: {command_line('resume', folder)}")


def file_problem(path: Path, entry: FileEntry) -> str | None:
    """Return why a file isn't what the training wrote.

    The text follows the file's name. Returns None if the file is as written.
    """
    if not path.is_file():
        return "is missing"
    try:
        length = path.stat().st_size
        is_same = length == entry.bytes and describe_content(path.read_bytes()) == entry
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None if is_same else f"is not the file that the training wrote: {length} bytes"


def _read(path: Path | str, most: int, name: Path | str = "") -> str:
    try:
        return safe_read.read_text(path, most)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BackendError(f"cannot read {name or path}: {reason}", see_the_runs()) from error
