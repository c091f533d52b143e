"""Read what a run folder holds.

Nothing here raises because of a damaged file.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.job import Job
    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import EpochRow, FileEntry, Result

T = TypeVar("T")

LOG_LINES = 40
LOG_BYTES = 64 * 1024
PICTURE_BYTES = 8 * 1024**2
"""Most bytes of a picture.

The largest, of 256 classes, take less than 1 MB.
"""


@dataclasses.dataclass(frozen=True)
class CheckedFile:
    """A file that the result lists.

    `problem` says why it isn't the one that the training wrote, or is None.
    """

    name: str
    entry: FileEntry
    problem: str | None


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of a run.

    `problems` says what is missing or damaged. `status` is None if the receipt is damaged.
    """

    folder: Path
    status: Status | None
    receipt: Receipt | None
    job: Job | None
    result: Result | None
    history: tuple[EpochRow, ...]
    files: tuple[CheckedFile, ...]
    problems: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.resolve().name

    @property
    def held_out(self) -> str:
        """What the images of `val_*` are called."""
        return self.job.data.held_out if self.job is not None else "test"

    @property
    def saved_epoch(self) -> int:
        """The epoch, from 1, whose weights are saved.

        The last one, unless the result says another.
        """
        count = len(self.history)
        saved = (self.result.saved_epoch if self.result is not None else None) or count
        return saved if 0 < saved < count else count


def read(folder: Path, status: Status | None) -> Facts:
    """Read a run folder as far as possible."""
    problems: list[str] = []

    def attempt(reader: Callable[[Path], T]) -> T | None:
        try:
            return reader(folder)
        except MnistCnnError as error:
            problems.append(error.message)
            return None

    receipt = attempt(run_folder.read_receipt)
    job = attempt(run_folder.read_job)
    is_completed = status is Status.completed
    result = attempt(run_folder.result_of if is_completed else run_folder.read_result)
    history = result.history if result is not None else attempt(run_folder.read_history) or ()
    files = tuple(
        CheckedFile(name, entry, run_folder.file_problem(folder / name, entry))
        for name, entry in (result.files.items() if result is not None else ())
    )
    problems += [f"{folder / file.name} {file.problem}" for file in files if file.problem is not None]
    digests = {record.job_digest for record in (receipt, result) if record is not None}
    if job is not None and not all(map(job.has_digest, digests)):
        problems.append(f"{folder / run_folder.JOB} is not the job that this run was started with")
    return Facts(folder, status, receipt, job, result, history, files, tuple(problems))


def picture(facts: Facts, name: str) -> str | None:
    """Return a run's picture as data URI, or None.

    None if it is missing or isn't the one that was written.
    """
    if any(file.name == name and file.problem is not None for file in facts.files):
        return None
    try:
        content = safe_read.read_bytes(facts.folder / name, PICTURE_BYTES)
    except OSError:
        return None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def end_of_log(facts: Facts) -> str:
    """Return the log's last lines, or ""."""
    try:
        with safe_read.open_file(facts.folder / run_folder.LOG) as file:
            start = max(file.seek(0, os.SEEK_END) - LOG_BYTES, 0)
            file.seek(start)
            content = file.read(LOG_BYTES)
    except OSError:
        return ""
    lines = content.decode("utf-8", "replace").splitlines()
    return "\n".join(lines[1 if start else 0 :][-LOG_LINES:])
