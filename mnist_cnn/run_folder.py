"""The run folder: made, found, read and written. Its files are all that another process needs.

    job.json        the job and its digest
    run.json        the receipt: who runs it, where it stands, how it ended
    log.txt         everything that the trainer printed
    metrics.jsonl   the history, one row per epoch
    progress.json   while it trains, where it stands within its epoch
    result.json     written last: a folder with it is complete
    checkpoints/    the state at the ends of the newest epochs

Knows the files' places and forms, but starts and ends no run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mnist_cnn.backend import Status
from mnist_cnn.config import did_you_mean
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, storage_error
from mnist_cnn.files import atomic, locks, safe_read
from mnist_cnn.job import Job
from mnist_cnn.result import LARGEST, EpochRow, Progress, Result, check_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

JOB, RECEIPT, LOG, METRICS = "job.json", "run.json", "log.txt", "metrics.jsonl"
PROGRESS, RESULT, CHECKPOINTS = "progress.json", "result.json", "checkpoints"
LATEST, LOCK = "latest", ".lock"
FORCE = "--force"
"""Stands on the command line of a trainer that goes on also where job or machine have changed."""
UNDER_WAY = (Status.preparing, Status.running, Status.finalizing)
RECEIPT_SCHEMA = 1
ENTRY_SECONDS = 10.0
"""How long a trainer may stay unnamed in the receipt: it is started and entered in far less."""

LOG_FORMAT, LOG_TIME = "%(asctime)s mnist_cnn %(message)s", "%H:%M:%S"
"""How the trainer's own lines stand in log.txt, among what the libraries under it print there."""
_TRAINER_LINE = re.compile(r"\d\d:\d\d:\d\d mnist_cnn (.*)")


@dataclasses.dataclass(frozen=True)
class Receipt:
    """run.json. `created` is UTC in ISO 8601; `process_started` is in seconds since the epoch.

    `pid` is the trainer's process, as soon as that is started, on the machine `host`. `error` and `hint` are
    one line each, of a run that failed; `backend_settings` are the values of `backend.*`, `versions` those of
    the packages that it began with. `service` has what a backend must know besides to find its run again.
    """

    backend: str
    id: str
    job_digest: str
    status: Status
    created: str
    url: str | None = None
    pid: int | None = None
    process_started: float | None = None
    host: str | None = None
    exit_code: int | None = None
    error: str | None = None
    hint: str | None = None
    backend_settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    service: dict[str, str] = dataclasses.field(default_factory=dict)

    def to_json(self) -> str:
        """Return run.json's text."""
        return json.dumps({"schema": RECEIPT_SCHEMA, **dataclasses.asdict(self)}, indent=2) + "\n"

    def check_types(self) -> None:
        """Raise TypeError or ValueError where a value is not of its field's type."""
        if datetime.fromisoformat(self.created).tzinfo is None:
            message = f"created has no time zone: {self.created}"
            raise ValueError(message)
        for name, kinds in (
            ("backend", str),
            ("id", str),
            ("job_digest", str),
            ("url", str | None),
            ("pid", int | None),
            ("process_started", float | int | None),
            ("host", str | None),
            ("exit_code", int | None),
            ("error", str | None),
            ("hint", str | None),
            ("backend_settings", dict),
            ("versions", dict),
            ("service", dict),
        ):
            value = getattr(self, name)
            if not isinstance(value, kinds):
                message = f"{name} is {value!r}"
                raise TypeError(message)
            if isinstance(value, int) and abs(value) > LARGEST["int"]:
                message = f"{name} is far too large"
                raise ValueError(message)

    @classmethod
    def from_json(cls, text: str, name: str = RECEIPT) -> Self:
        """Read run.json's text; `name` says in an error which file it is.

        Raises:
            BackendError: not JSON, another schema, or no receipt.
        """
        try:
            mapping: dict[str, Any] = json.loads(text)
            if mapping.pop("schema") != RECEIPT_SCHEMA:
                raise BackendError(f"{name} is not of schema {RECEIPT_SCHEMA}", "another version wrote it")
            receipt = cls(**{**mapping, "status": Status(mapping["status"])})
            receipt.check_types()
            return receipt
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "the folder is no run of this version, or it was changed by hand"
            raise BackendError(f"{name} is no receipt: {error!r}", hint) from error


def now() -> str:
    """Return the time as receipts hold it: UTC, ISO 8601, with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def created_now(folder: Path) -> str:
    """Return when a run that begins now was created, for its receipt.

    Where the clock was set back since the newest run beside it was created, this is just after that one: so
    `latest` is the run that was started last.
    """
    with suppress(
        MnistCnnError, OverflowError
    ):  # a folder that cannot be listed, a run removed, a date of 9999
        others = [read_receipt(other).created for other in all_runs(str(folder.parent))]
        newest = max(map(datetime.fromisoformat, others), default=datetime.min.replace(tzinfo=UTC))
        return max(datetime.now(UTC), newest + timedelta(microseconds=1)).isoformat(timespec="microseconds")
    return now()


def create(run_dir: str | None, runs_dir: str, job: Job) -> Path:
    """Make a new run folder that holds its job: `run_dir`, or a new name under `runs_dir`.

    Raises:
        ConfigurationError: `run_dir` is a run already, or is not an empty folder.
        BackendError: the folder cannot be made.
    """
    folder = Path(run_dir) if run_dir is not None else Path(runs_dir) / _new_name()
    if run_dir is not None:
        check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=run_dir is not None)
        (folder / JOB).touch(exist_ok=False)  # of two that want one folder, this lets one in
    except FileExistsError as error:
        raise _taken(folder) from error
    except OSError as error:
        raise storage_error(error, f"the run folder {folder}") from error
    try:
        write_job(folder, job)
    except BaseException:
        remove_unstarted(folder)
        raise
    return folder


def remove_unstarted(folder: Path) -> None:
    """Remove a run folder that no run has been started in; one with a receipt is left."""
    if not (folder / RECEIPT).exists():
        shutil.rmtree(folder, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Check that nothing stands in the way of a new run in this folder, which need not be there.

    Raises:
        ConfigurationError: it is a run already, a file, or a folder that is not empty.
    """
    try:
        if any(folder.iterdir()):
            raise _taken(folder)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise ConfigurationError(f"run_dir={folder} is a file", "name a new folder") from error
    except OSError as error:
        raise storage_error(error, f"the run folder {folder}") from error


def _taken(folder: Path) -> ConfigurationError:
    if (folder / RECEIPT).exists():
        hint = f"go on with it: resume {folder}; or name another folder"
        return ConfigurationError(f"run_dir={folder} holds a run already", hint)
    return ConfigurationError(f"run_dir={folder} is not empty and holds no run", "name a new folder")


def find(run: str, runs_dir: str) -> Path:
    """Return a run's folder: `latest`, a name under `runs_dir` (or its beginning), or a path.

    Raises:
        ConfigurationError: there is no such run, or more than one.
    """
    if run == LATEST:
        newest = max(all_runs(runs_dir), key=lambda folder: read_receipt(folder).created, default=None)
        if newest is None:
            raise ConfigurationError(f"no runs under {runs_dir}", "start one, or name runs_dir=FOLDER")
        return newest
    for folder in (Path(runs_dir) / run, Path(run)):
        if (folder / RECEIPT).is_file():
            return folder
    names = [folder.name for folder in all_runs(runs_dir)]
    matching = [name for name in names if name.startswith(run)]
    if len(matching) == 1:
        return Path(runs_dir) / matching[0]
    if matching:
        raise ConfigurationError(
            f"{run} is the beginning of {len(matching)} runs", f"of {', '.join(matching)}"
        )
    hint = did_you_mean(run, [*names, LATEST], f"`list` shows the runs under {runs_dir}")
    raise ConfigurationError(f"run {run}: not found under {runs_dir}", hint)


def all_runs(runs_dir: str) -> list[Path]:
    """Return the folders under `runs_dir` that hold a readable receipt, by name."""
    try:
        folders = sorted(Path(runs_dir).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise ConfigurationError(
            f"cannot read runs_dir={runs_dir}: {error.strerror}", "name another"
        ) from error
    return [folder for folder in folders if _holds_receipt(folder)]


def read_job(folder: Path, *, may_be_changed: bool = False) -> Job:
    """Read job.json. Raises ConfigurationError where it is no job, BackendError where it cannot be read."""
    text = _read(folder / JOB, safe_read.SETTINGS_BYTES)
    return Job.from_json(text, str(folder / JOB), may_be_changed=may_be_changed)


def write_job(folder: Path, job: Job) -> None:
    """Write job.json. Raises BackendError where it cannot be written."""
    atomic.write_text(folder / JOB, job.to_json())


def read_receipt(folder: Path) -> Receipt:
    """Read run.json. Raises BackendError where there is none."""
    return Receipt.from_json(_read(folder / RECEIPT, safe_read.SETTINGS_BYTES), str(folder / RECEIPT))


def write_receipt(folder: Path, receipt: Receipt) -> None:
    """Write run.json. Raises BackendError where it cannot be written."""
    atomic.write_text(folder / RECEIPT, receipt.to_json())


def enter(folder: Path, pid: int) -> None:
    """Enter the trainer's process into the receipt; done by whoever started it.

    Raises:
        BackendError: there is no receipt, or it cannot be written.
    """
    import psutil

    try:
        started = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        started = None  # it has ended already, and reads as lost
    write_receipt(folder, dataclasses.replace(read_receipt(folder), pid=pid, process_started=started))


def elsewhere(receipt: Receipt) -> str | None:
    """Return the other machine on which the process is that a receipt names, or None."""
    return receipt.host if receipt.host != socket.gethostname() else None


def age(receipt: Receipt) -> float:
    """Return how long ago a receipt was made, in seconds; a clock that was set back makes it negative."""
    return (datetime.now(UTC) - datetime.fromisoformat(receipt.created)).total_seconds()


def is_fresh(folder: Path) -> bool:
    """Tell whether the receipt was written so shortly ago that the run's trainer may not be entered yet."""
    try:
        return abs(time.time() - (folder / RECEIPT).stat().st_mtime) < ENTRY_SECONDS
    except OSError:
        return False


def held(folder: Path, seconds: float = locks.SECONDS) -> AbstractContextManager[None]:
    """Hold the run folder's lock, for what one process may do at a time. Raises as `locks.hold` does."""
    return locks.hold(folder / LOCK, seconds)


def check_can_go_on(folder: Path, status: Status) -> None:
    """Check that a run which stands there may be started again.

    Raises:
        ConfigurationError: it is under way, or completed.
    """
    if status is Status.completed:
        raise ConfigurationError(f"{folder} is completed", "there is nothing to go on with; start a new run")
    if not status.is_final:
        raise ConfigurationError(f"{folder} is {status.value}", f"watch it: follow {folder}")


def await_entry(folder: Path, pid: int) -> None:
    """Wait until the receipt names the trainer's process; from then on only that process writes it.

    Raises:
        BackendError: nobody entered it, because who started it has died.
    """
    deadline = time.monotonic() + ENTRY_SECONDS
    while read_receipt(folder).pid != pid:
        if time.monotonic() > deadline:
            raise BackendError(f"{folder} does not name this process as its trainer", "start the run again")
        time.sleep(0.01)


def check_names(folder: Path, entry: Receipt) -> None:
    """Check that the receipt still names the process that it named in `entry`.

    Raises:
        BackendError: it names another, which goes on with the run, or there is no receipt any more.
    """
    now = read_receipt(folder)
    if (now.pid, now.host, now.process_started) != (entry.pid, entry.host, entry.process_started):
        raise BackendError(f"{folder} is trained by another process now", f"watch it: follow {folder}")


def ended(folder: Path, status: Status, error: MnistCnnError | None = None) -> None:
    """Enter the run's end into its receipt, and remove what was true only of a running one.

    Raises:
        BackendError: there is no receipt, or it cannot be written.
    """
    with suppress(OSError):  # what is told counts more
        (folder / PROGRESS).unlink(missing_ok=True)  # first, for on a full disk it makes room for the receipt
    end = dataclasses.replace(
        read_receipt(folder),
        status=status,
        exit_code=error.exit_code if error else 0,
        error=error.message if error else None,
        hint=error.hint if error else None,
    )
    write_receipt(folder, end)


def amend(folder: Path, run_id: str, change: Callable[[Receipt], Receipt]) -> bool:
    """Change the receipt of the run with that id, and return True; do nothing where it names another by now.

    Raises:
        BackendError: it cannot be written, or another process holds it.
    """
    with held(folder):
        now = read_receipt(folder)
        is_named = now.id == run_id
        if is_named:
            write_receipt(folder, change(now))
    return is_named


def enter_end(folder: Path, run_id: str, status: Status, error: MnistCnnError) -> None:
    """Enter the end of the run with that id, as `ended` does; of another that is named by now, nothing.

    Raises:
        BackendError: as `amend`.
    """
    with held(folder):
        if read_receipt(folder).id == run_id:
            ended(folder, status, error)


def read_result(folder: Path) -> Result | None:
    """Read result.json; None where the run has not written it. Raises BackendError where it is none."""
    path = folder / RESULT
    return Result.from_json(_read(path, safe_read.HISTORY_BYTES), str(path)) if path.is_file() else None


def write_history(folder: Path, rows: Iterable[EpochRow]) -> None:
    """Write metrics.jsonl whole. Raises BackendError where it cannot be written."""
    lines = (json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    atomic.write_text(folder / METRICS, "".join(lines))


def read_history(folder: Path) -> tuple[EpochRow, ...]:
    """Read metrics.jsonl; no rows where there is no such file yet. Raises BackendError where it is none."""
    path = folder / METRICS
    if not path.is_file():
        return ()
    try:
        lines = _read(path, safe_read.HISTORY_BYTES).splitlines()
        rows = tuple(EpochRow(**json.loads(line)) for line in lines)
        for row in rows:
            check_fields(row)
        return rows
    except (ValueError, TypeError, RecursionError) as error:
        raise BackendError(f"{path} is no history: {error!r}", "the file was changed by hand") from error


def write_progress(folder: Path, progress: Progress) -> None:
    """Write progress.json. Raises BackendError where it cannot be written."""
    atomic.write_text(folder / PROGRESS, json.dumps(dataclasses.asdict(progress)), durable=False)


def read_progress(folder: Path) -> Progress | None:
    """Read progress.json; None where there is none, as after the end, or where it is damaged."""
    try:
        progress = Progress(**json.loads(safe_read.read_text(folder / PROGRESS, safe_read.SETTINGS_BYTES)))
        check_fields(progress)
        is_sound = Status(progress.status) in UNDER_WAY
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return progress if is_sound else None


def trainer_line(line: str) -> str | None:
    """Return what the trainer said in a line of log.txt; None where the line is somebody else's."""
    match = _TRAINER_LINE.fullmatch(line)
    return match.group(1) if match else None


def clear_leftovers(folder: Path) -> None:
    """Remove what an earlier trainer may have left: half-written files, where it stood, and its result.

    That would make the run complete, whatever becomes of the trainer that is started now.
    """
    for leftover in (*folder.rglob(f"{atomic.PREFIX}*"), folder / PROGRESS, folder / RESULT):
        leftover.unlink(missing_ok=True)


def verify(folder: Path, result: Result) -> None:
    """Check every file that the result names, by length and SHA-256.

    Raises:
        BackendError: a file is missing or is not what the training wrote.
    """
    for name, entry in result.files.items():
        path = folder / name
        hint = "the run's files were changed; copy them from where they are whole, or run the job again"
        if not path.is_file():
            raise BackendError(f"{path} is missing", hint)
        length = path.stat().st_size
        if length != entry.bytes or _sha256(path) != entry.sha256:
            raise BackendError(f"{path} is not the file that the training wrote: {length} bytes", hint)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _new_name() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%SZ}-{secrets.token_hex(2)}"


def _holds_receipt(folder: Path) -> bool:
    try:
        read_receipt(folder)
    except BackendError:
        return False
    return True


def _read(path: Path, most: int) -> str:
    try:
        return safe_read.read_text(path, most)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BackendError(f"cannot read {path}: {reason}", "`list` shows the runs that there are") from error
