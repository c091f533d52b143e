"""The local backend: runs are processes on this machine.

The registry is a folder. All that this backend knows of the training is the command that starts the worker
and the files of the run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mnist_cnn import cpu, process_identity, run_folder
from mnist_cnn.backend import ModelRef, Plan, Status
from mnist_cnn.backends import common, local_registry
from mnist_cnn.config import BackendConfig, Config, Numerics
from mnist_cnn.errors import (
    ERRORS_BY_EXIT_CODE,
    BackendError,
    ConfigurationError,
    MnistCnnError,
    RunCancelled,
    start_error,
    storage_error,
)
from mnist_cnn.hints import command_line
from mnist_cnn.receipt import Receipt
from mnist_cnn.result import Progress
from mnist_cnn.settings import setting
from mnist_cnn.training.distributed.local_group import WORKER
from mnist_cnn.training.runtime import versions
from mnist_cnn.training.tensorflow_import import check_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0  # for a cancelled worker to exit before it is killed
START_SECONDS = 10.0  # for another process that holds the run folder to start the run


class Device(StrEnum):
    """What trains. `auto` is a GPU if possible."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


@dataclasses.dataclass(frozen=True)
class LocalConfig(BackendConfig):
    """The keys of `backend=local`."""

    device: Device = setting(Device.auto, "auto trains on a GPU if TensorFlow finds one; gpu requires it")
    workers: int = setting(
        1, "processes that share the shards of a batch, on the CPU", unit="processes", ge=1, le=64
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers > 1 and self.device is Device.gpu:
            message = f"backend.workers={self.workers} train on the CPU, but backend.device=gpu"
            raise ConfigurationError(message, "set backend.workers=1, or backend.device=cpu")


class LocalBackend:
    """Starts a worker in its own session.

    The worker is `python -m mnist_cnn.training.worker FOLDER`; its output goes to log.txt.
    """

    CONFIG: ClassVar[type[BackendConfig]] = LocalConfig
    parallel_runs: int | None = 1
    ends_with_its_command = True

    def __init__(self, config: Config) -> None:
        if not isinstance(config.backend, LocalConfig):
            raise TypeError(f"expected a LocalConfig, not {type(config.backend).__name__}")
        self.config = config.backend
        self.force = config.run.force
        self.pause_after = config.run.pause_after
        self.registry = Path(config.register.dir)

    def command(self, folder: Path) -> list[str]:
        """Return the command that trains a run folder's job."""
        # With -P the current folder cannot hide the package that runs here.
        workers = self.config.workers
        device = self.config.device.value if workers == 1 else Device.cpu.value
        command = [sys.executable, "-P", "-m", WORKER, str(folder), "--device", device]
        command += ["--workers", str(workers)] if workers > 1 else []
        command += [run_folder.PAUSE_AFTER, str(self.pause_after)] if self.pause_after is not None else []
        return [*command, run_folder.FORCE] if self.force else command

    def plan(self, job: Job) -> Plan:
        """Return the device, threads and command of a run."""
        self.check(job)
        threads = job.train.threads or "TensorFlow's choice"
        where = f"this machine, device {self.config.device.value}, threads {threads}"
        if self.config.workers > 1:
            where = f"{self.config.workers} workers on this machine's CPU, threads {threads} each"
        return Plan((("where", where), ("command", shlex.join(self.command(Path("FOLDER"))))))

    def check(self, job: Job) -> None:
        """Check workers, the GPU, and whether exact jobs can train here.

        Only the worker can tell what else is missing.
        """
        common.check_workers(job, self.config.workers)
        if job.train.numerics is Numerics.exact:
            cpu.check_exact(self.config.device.value)
        if self.config.device is Device.gpu:
            check_gpu()

    def submit(self, job: Job, folder: Path) -> LocalRun:
        """Start the worker. It resumes from the newest checkpoint."""
        try:
            with run_folder.lock(folder, START_SECONDS):
                is_new = not (folder / run_folder.RECEIPT).exists()
                receipt = self._receipt(job, folder)
                run_folder.clear_leftovers(folder)
                # If the disk fills up, removing this file makes room for the final receipt.
                run_folder.write_progress(folder, Progress("preparing"))
                run_folder.write_receipt(folder, receipt)
                try:
                    process = self._start(folder)
                except BaseException:
                    if is_new and not run_folder.read_receipt(folder).status.is_final:
                        # The run never started; with this receipt it would count as starting.
                        (folder / run_folder.RECEIPT).unlink()
                    raise
        except OSError as error:
            raise storage_error(error, str(folder)) from error
        return LocalRun(folder, self.registry, process)

    def _receipt(self, job: Job, folder: Path) -> Receipt:
        """Return a new receipt.

        A resumed run keeps its id and its age.
        """
        values = dataclasses.asdict(self.config)
        receipt = Receipt(
            backend=values.pop("name"),
            id=f"{folder.resolve().name}-{secrets.token_hex(4)}",
            job_digest=job.digest,
            status=Status.preparing,
            created=run_folder.creation_time(folder),
            host=socket.gethostname(),
            backend_settings=values,
            versions=versions(),
            started=time.time(),
        )
        if not (folder / run_folder.RECEIPT).exists():
            return receipt
        before = run_folder.read_receipt(folder)
        is_ours = before.backend == receipt.backend
        run_folder.check_resumable(folder, self.attach(folder).status() if is_ours else before.status)
        # A run that moves here from another backend gets a new id, so that its followers there notice.
        return dataclasses.replace(receipt, id=before.id if is_ours else receipt.id, created=before.created)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Start the worker and name it in the receipt."""
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        root = Path(run_folder.__file__).resolve().parent.parent
        if "site-packages" not in root.parts:  # a checkout that may not be installed
            paths = (str(root), os.environ.get("PYTHONPATH"))
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        command = self.command(folder)
        with (folder / run_folder.LOG).open("ab") as log:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                translated = start_error(command[0], error)
                run_folder.record_end(folder, Status.failed, translated)
                raise translated from error
        try:
            run_folder.record_trainer(folder, process.pid)
        except BaseException:
            process.kill()  # no receipt names it
            process.wait()
            raise
        return process

    def attach(self, folder: Path) -> LocalRun:
        """Return the run in a folder.

        With `force`, a worker on another machine counts as gone.
        """
        run_folder.read_receipt(folder)
        return LocalRun(folder, self.registry, trusts_other_host=not self.force)


@dataclasses.dataclass(eq=False, repr=False)
class LocalRun:
    """A worker process, known from its run folder.

    Only the process that started it passes `process`. Several machines or containers may share the folder. Of
    a worker on another machine only the last progress.json is known. It counts as running while this run
    `trusts_other_host`.
    """

    folder: Path
    registry: Path
    process: subprocess.Popen[bytes] | None = None
    trusts_other_host: bool = dataclasses.field(default=True, kw_only=True)

    def __repr__(self) -> str:
        return common.describe_run(self)

    def status(self) -> Status:
        """Return the run's status.

        If the worker is gone without a final status, it is `completed` if there is a result, else `cancelled`
        or `lost`.
        """
        receipt = run_folder.read_receipt(self.folder)
        if receipt.status.is_final:
            return receipt.status
        if receipt.pid is None and run_folder.was_just_started(self.folder):
            return receipt.status  # the worker is just being started
        if self._worker() is not None or self._other_host() is not None:
            progress = run_folder.read_progress(self.folder)
            return Status(progress.status) if progress else receipt.status
        receipt = run_folder.read_receipt(self.folder)  # the worker may have ended since the first read
        if receipt.status.is_final:
            return receipt.status
        if (self.folder / run_folder.RESULT).exists():
            return Status.completed
        return Status.cancelled if (self.folder / run_folder.CANCEL).exists() else Status.lost

    def progress(self) -> Progress | None:
        """Return the position within the training."""
        return run_folder.read_progress(self.folder)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield log.txt's lines; follow until the run ends."""
        reader = common.LogReader(self.folder)
        while follow and not self.status().is_final:
            yield from reader.new_lines()
            time.sleep(POLL_SECONDS)
        yield from reader.new_lines(is_last=True)
        path = self.folder / run_folder.LOG
        if not path.exists():
            raise BackendError(f"cannot read {path}: No such file or directory", "the run left no log")

    def wait(self) -> Result:
        """Return the result, or raise the recorded error.

        Waits until the run has ended.
        """
        while not (status := self.status()).is_final:
            time.sleep(POLL_SECONDS)
        self._await_own_process()
        if status is Status.completed:
            result = run_folder.result_of(self.folder)
            with contextlib.suppress(BackendError):  # this user may only read the folder
                self._record_end_for_worker(Status.completed)
            return result
        if status is Status.lost:
            raise self._lost_error()
        if status is Status.cancelled:
            raise common.cancelled_error(self.folder)
        raise common.recorded_error(self.folder, f"then resume it: {command_line('resume', self.folder)}")

    def cancel(self) -> None:
        """Terminate the worker and wait until it is gone.

        Kills it if it doesn't exit.
        """
        worker: psutil.Process | None = None
        while not self.status().is_final and (worker := self._worker()) is None:
            if (host := self._other_host()) is not None:
                here = command_line("resume", self.folder, "force=true")
                there = f"cancel it there: {command_line('cancel', self.folder)}"
                hint = f"{there}; if that machine is gone, resume it here: {here}"
                raise BackendError(f"{self.folder} is trained on {host}, not on this machine", hint)
            time.sleep(POLL_SECONDS)  # the worker is just being started
        if self.status().is_final or worker is None:
            return
        self.trusts_other_host = False  # the worker is here, so this machine was renamed
        with contextlib.suppress(OSError):  # the disk is full
            (self.folder / run_folder.CANCEL).touch()  # first: a follower may see the end before this process
        self._stop(worker)
        self._await_own_process()
        self._record_end_for_worker(Status.cancelled, Status.lost)  # lost: there was no room for CANCEL

    def _record_end_for_worker(self, end: Status, *same: Status) -> None:
        """Record an end that a killed worker did not.

        Does nothing if the run was resumed since.
        """
        if run_folder.read_receipt(self.folder).status.is_final:
            return
        error = RunCancelled("the run was cancelled") if end is Status.cancelled else None
        with run_folder.lock(self.folder):
            is_unrecorded = not run_folder.read_receipt(self.folder).status.is_final
            if is_unrecorded and self.status() in (end, *same):
                with contextlib.suppress(OSError):
                    run_folder.clear_half_written(self.folder)
                run_folder.record_end(self.folder, end, error)

    def _stop(self, worker: psutil.Process) -> None:
        import psutil

        try:
            worker.terminate()
            worker.resume()  # a stopped process only handles signals once it continues
            if self._is_gone_within(GRACE_SECONDS, worker.pid):
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            if not self._is_gone_within(GRACE_SECONDS, worker.pid):
                message = f"process {worker.pid} is still alive after SIGKILL; it may be blocked on the disk"
                again = command_line("cancel", self.folder)
                hint = f"check that its disk responds; then cancel it again: {again}"
                raise BackendError(message, hint)
        except psutil.NoSuchProcess:
            pass  # it has already ended
        except psutil.AccessDenied as error:
            (self.folder / run_folder.CANCEL).unlink(missing_ok=True)
            message = f"cannot cancel {self.folder}: process {worker.pid} belongs to another user"
            raise BackendError(message, "ask the user who started it") from error

    def _is_gone_within(self, seconds: float, pid: int) -> bool:
        deadline = time.monotonic() + seconds
        while is_there := (worker := self._worker()) is not None and worker.pid == pid:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return not is_there

    def download_checkpoints(self) -> None:
        """Do nothing: the checkpoints are in the run folder."""

    def register(self, name: str, *, min_accuracy: float = 0.95) -> ModelRef:
        """Copy the model into the registry as a version."""
        result = common.check_can_register(self.folder, self.status(), name, min_accuracy)
        return local_registry.add(self.registry, name, self.folder, result)

    def cost_report(self) -> Iterator[str]:
        """Yield nothing: a local run costs nothing."""
        yield from ()

    def _worker(self) -> psutil.Process | None:
        """Return the run's live worker process, or None."""
        receipt = run_folder.read_receipt(self.folder)
        own = self._own_process(receipt)
        if own is not None and own.poll() is not None:
            return None
        if receipt.pid is None or receipt.process_started is None:
            return None
        process = process_identity.live_process(receipt.pid)
        if process is None:
            return None
        is_same = process_identity.started_at(process, receipt.process_started)
        is_here = run_folder.other_host(receipt) is None
        return process if (is_same and is_here) or self._is_named_by(process) else None

    def _is_named_by(self, process: psutil.Process) -> bool:
        """Return whether a process's command line trains this run.

        Needed if the host was renamed or the clock was set: Linux counts a start time from boot, and
        recomputes the time of boot from the clock.
        """
        import psutil

        try:
            words, place = process.cmdline(), Path(process.cwd())
        except psutil.Error:
            return False
        folder = self.folder.resolve()
        return WORKER in words and any((place / word).resolve() == folder for word in words)

    def _other_host(self) -> str | None:
        """Return another machine that trains the run, or None."""
        receipt = run_folder.read_receipt(self.folder)
        if self._own_process(receipt) is not None or not self.trusts_other_host:
            return None
        return run_folder.other_host(receipt)

    def _await_own_process(self) -> None:
        own = self._own_process(run_folder.read_receipt(self.folder))
        if own is not None:
            own.wait()

    def _own_process(self, receipt: Receipt) -> subprocess.Popen[bytes] | None:
        """Return the worker that this object started.

        None if the receipt now names another.
        """
        if self.process is None:
            return None
        self.process.poll()  # so that an ended worker is no zombie, even if the receipt names another
        return self.process if self.process.pid == receipt.pid else None

    def _lost_error(self) -> MnistCnnError:
        """Return why the worker ended without a final receipt."""
        log = f"the log is {self.folder / run_folder.LOG}"
        resume = f"resume it: {command_line('resume', self.folder)}"
        own = self._own_process(run_folder.read_receipt(self.folder))
        exit_code = own.returncode if own is not None else None
        if exit_code not in ERRORS_BY_EXIT_CODE:
            message = "the training process ended without an error: it was killed, or memory or disk ran out"
            return BackendError(message, f"{resume}; {log}")
        # It did exit by itself, so the disk was too full for its receipt, and perhaps for its log.
        logged = [words for line in self.logs() if (words := run_folder.trainer_line(line))]
        unwritten = f"cannot write {self.folder}: the disk is too full for the run's receipt and log"
        last = logged[-1].removeprefix(run_folder.STOPPED) if logged else ""
        message = last if last.startswith("cannot write") else unwritten
        return ERRORS_BY_EXIT_CODE[exit_code](message, f"free some disk space, then {resume}; {log}")
