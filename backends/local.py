"""The local backend: a run is a process on this machine, the registry a folder.

Knows the trainer only as the command that it starts; everything else goes through the run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from mnist_cnn import run_folder
from mnist_cnn.backend import ModelRef, Plan, Status
from mnist_cnn.config import BackendConfig, Config, RegisterConfig, setting
from mnist_cnn.errors import (
    ERRORS_BY_EXIT_CODE,
    BackendError,
    MnistCnnError,
    RunCancelled,
    storage_error,
)
from mnist_cnn.files import atomic, locks, safe_read
from mnist_cnn.result import Progress
from mnist_cnn.training.runtime import versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psutil

    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

POLL_SECONDS = 0.1
GRACE_SECONDS = 10.0
"""How long a cancelled process may take to end by itself before it is killed."""
LONGEST_LINE = 1024**2
"""Characters of the log after which a line is told, ended or not."""
START_SECONDS = 10.0
"""How long another may hold a run's folder to start it; it takes a moment, in which no Ctrl-C is heard."""
SAME_PROCESS_SECONDS = 2.0
"""By how much a process's start may seem to move, as it is told relative to a clock that is set right."""
TRAINER = "mnist_cnn.training.worker"
MODELS = ("model.keras", "model.onnx")
REGISTERED = "model.json"
"""Written last into a version's folder: one without it was never finished."""


class Device(StrEnum):
    """What trains; `auto` is a GPU where TensorFlow finds one."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


@dataclasses.dataclass(frozen=True)
class LocalConfig(BackendConfig):
    """The keys of `backend=local`."""

    device: Device = setting(Device.auto, "what trains: auto is a GPU where there is one; gpu insists on it")


class LocalBackend:
    """Start `python -m mnist_cnn.training.worker FOLDER` in its own session; its output goes to log.txt."""

    CONFIG: ClassVar[type[BackendConfig]] = LocalConfig
    parallel_runs: int | None = 1
    ends_with_its_command = True

    def __init__(self, config: Config) -> None:
        if not isinstance(config.backend, LocalConfig):
            message = f"expected a LocalConfig, not {type(config.backend).__name__}"
            raise TypeError(message)
        self.config = config.backend
        self.force = config.run.force

    def command(self, folder: Path) -> list[str]:
        """Return the command line that trains the job in a run folder."""
        # -P: the trainer is the package that runs here, whatever the current folder holds.
        command = [sys.executable, "-P", "-m", TRAINER, str(folder), self.config.device.value]
        return [*command, run_folder.FORCE] if self.force else command

    def plan(self, job: Job) -> Plan:
        """Say which process would train where."""
        threads = job.train.threads or "TensorFlow's choice"
        return Plan(
            (
                ("where", f"this machine, device {self.config.device.value}, threads {threads}"),
                ("command", shlex.join(self.command(Path("FOLDER")))),
            )
        )

    def check(self, job: Job) -> None:
        """Find nothing: all that this machine cannot do is known when the process starts."""

    def submit(self, job: Job, folder: Path) -> LocalRun:
        """Start the trainer on the folder's job; it goes on where the folder holds checkpoints of it."""
        try:
            with run_folder.lock(folder, START_SECONDS):  # of two that resume, one is the first
                is_new = not (folder / run_folder.RECEIPT).exists()
                receipt = self._receipt(job, folder)
                run_folder.clear_leftovers(folder)
                # Its place is what the receipt of a run takes that ends on a full disk.
                run_folder.write_progress(folder, Progress("preparing"))
                run_folder.write_receipt(folder, receipt)
                try:
                    process = self._start(folder)
                    self._enter(folder, process)
                except BaseException:
                    if is_new and not run_folder.read_receipt(folder).status.is_final:
                        # It never began, and would read as just being started.
                        (folder / run_folder.RECEIPT).unlink()
                    raise
        except OSError as error:
            raise storage_error(error, str(folder)) from error
        return LocalRun(folder, process)

    def _receipt(self, job: Job, folder: Path) -> run_folder.Receipt:
        """Make the receipt of a run that starts now; one that goes on keeps its id and its age."""
        values = dataclasses.asdict(self.config)
        receipt = run_folder.Receipt(
            backend=values.pop("name"),
            id=f"{folder.resolve().name}-{secrets.token_hex(4)}",
            job_digest=job.digest,
            status=Status.preparing,
            created=run_folder.creation_time(folder),
            host=socket.gethostname(),
            backend_settings=values,
            versions=versions(),
        )
        if not (folder / run_folder.RECEIPT).exists():
            return receipt
        before = run_folder.read_receipt(folder)
        is_ours = before.backend == receipt.backend
        run_folder.check_resumable(folder, self.attach(folder).status() if is_ours else before.status)
        # Whoever still watches it at another place must see that this is another.
        return dataclasses.replace(receipt, id=before.id if is_ours else receipt.id, created=before.created)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        root = Path(run_folder.__file__).resolve().parent.parent
        if "site-packages" not in root.parts:  # a checkout, which need not be installed
            paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
            environment["PYTHONPATH"] = os.pathsep.join(paths)
        command = self.command(folder)
        with (folder / run_folder.LOG).open("ab") as log:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                message = f"cannot start {command[0]}: {error.strerror}"
                worded = BackendError(message, "look whether that program is there and may be run")
                run_folder.record_end(folder, Status.failed, worded)
                raise worded from error

    @staticmethod
    def _enter(folder: Path, process: subprocess.Popen[bytes]) -> None:
        """Enter the trainer into the receipt, or leave none behind that nobody knows."""
        try:
            run_folder.record_trainer(folder, process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise

    def attach(self, folder: Path) -> LocalRun:
        """Find a run again from its folder; `force` gives up a trainer on another machine."""
        run_folder.read_receipt(folder)
        return LocalRun(folder, looks_elsewhere=not self.force)


class LocalRun:
    """A trainer's process, known from its run folder; `process` only to the one who started it.

    The folder may be one that several machines share, or several containers. Of a trainer on another all that
    is known is what it last told, which counts as long as this `looks_elsewhere`.
    """

    def __init__(
        self, folder: Path, process: subprocess.Popen[bytes] | None = None, *, looks_elsewhere: bool = True
    ) -> None:
        self.folder = folder
        self._process = process
        self._looks_elsewhere = looks_elsewhere

    def status(self) -> Status:
        """Return what the receipt says, or that the process is gone without having said how it ended."""
        receipt = run_folder.read_receipt(self.folder)
        if receipt.status.is_final:
            return receipt.status
        if receipt.pid is None and run_folder.was_just_started(self.folder):
            return receipt.status  # its trainer is just being started
        if self._trainer() is not None or self._elsewhere() is not None:
            progress = run_folder.read_progress(self.folder)
            return Status(progress.status) if progress else receipt.status
        receipt = run_folder.read_receipt(self.folder)  # it may have ended between the two looks
        if receipt.status.is_final:
            return receipt.status
        return Status.completed if (self.folder / run_folder.RESULT).exists() else Status.lost

    def progress(self) -> Progress | None:
        """Return where the training stands."""
        return run_folder.read_progress(self.folder)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield log.txt line by line; with `follow`, until the run has ended."""
        with self._open_log(follow=follow) as file:
            unfinished = ""
            while True:
                ended = not follow or self.status().is_final
                while text := file.readline(LONGEST_LINE):
                    unfinished += text
                    if unfinished.endswith("\n") or len(unfinished) >= LONGEST_LINE:
                        yield unfinished.removesuffix("\n")
                        unfinished = ""
                if ended:
                    break
                time.sleep(POLL_SECONDS)
            if unfinished:
                yield unfinished

    def _open_log(self, *, follow: bool) -> io.TextIOWrapper:
        path = self.folder / run_folder.LOG
        while follow and not path.exists() and not self.status().is_final:
            time.sleep(POLL_SECONDS)  # it is just being started
        try:
            return io.TextIOWrapper(safe_read.open_file(path), encoding="utf-8", errors="replace")
        except OSError as error:
            raise BackendError(f"cannot read {path}: {error.strerror}", "the run left no log") from error

    def wait(self) -> Result:
        """Wait for the end; return the result or raise what the receipt says."""
        while not (status := self.status()).is_final:
            time.sleep(POLL_SECONDS)
        self._await_own_process()
        if status is Status.completed:
            result = run_folder.read_result(self.folder)
            if result is None:
                raise BackendError(
                    f"{self.folder} is completed but has no result.json", "it was removed since"
                )
            return result
        raise self._failure(status)

    def cancel(self) -> None:
        """Ask the process to end, then kill it; return when it is gone.

        Raises:
            BackendError: it is another user's or on another machine, or does not end though it was killed.
        """
        import psutil

        trainer: psutil.Process | None = None
        while not self.status().is_final and (trainer := self._trainer()) is None:
            if (host := self._elsewhere()) is not None:
                gone = f"if that machine is gone, go on here: resume {self.folder} force=true"
                hint = f"end it there: cancel {self.folder}; {gone}"
                raise BackendError(f"{self.folder} is trained on {host}, not on this machine", hint)
            time.sleep(POLL_SECONDS)  # it is just being started
        if self.status().is_final or trainer is None:
            return
        self._looks_elsewhere = False  # for it is here, whatever this machine was called
        try:
            trainer.terminate()
            trainer.resume()  # one that is stopped hears nothing
            if not self._has_gone_in(GRACE_SECONDS, trainer.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(trainer.pid, signal.SIGKILL)
                if not self._has_gone_in(GRACE_SECONDS, trainer.pid):
                    message = f"process {trainer.pid} was killed and does not end: the system holds it"
                    hint = "look whether its disk answers"
                    raise BackendError(message, f"{hint}; then end it again: cancel {self.folder}")
        except psutil.NoSuchProcess:
            pass  # it ended by itself meanwhile
        except psutil.AccessDenied as error:
            message = f"{self.folder} is another user's: process {trainer.pid} cannot be ended"
            raise BackendError(message, "ask whoever started it") from error
        self._await_own_process()
        if self.status() is Status.lost:  # killed, or ended before it could say so
            self._enter_cancelled()

    def _enter_cancelled(self) -> None:
        with run_folder.lock(self.folder):
            if self.status() is Status.lost:  # still: nobody has resumed it meanwhile
                run_folder.record_end(self.folder, Status.cancelled, RunCancelled("the run was cancelled"))

    def _has_gone_in(self, seconds: float, pid: int) -> bool:
        """Wait for a trainer to end; one that its parent only has to hear of has ended."""
        deadline = time.monotonic() + seconds
        while is_there := (trainer := self._trainer()) is not None and trainer.pid == pid:
            if time.monotonic() > deadline:
                break
            time.sleep(POLL_SECONDS)
        return not is_there

    def download_checkpoints(self) -> None:
        """Do nothing: they are in the run folder."""

    def register(self, register: RegisterConfig) -> ModelRef:
        """Copy the model into the local registry, as the next version of its name."""
        result = run_folder.read_result(self.folder)
        if result is None or self.status() is not Status.completed:
            raise BackendError(
                f"{self.folder} is {self.status().value}, not completed", "finish the run first"
            )
        if result.accuracy < register.min_accuracy:
            message = (
                f"not registered: test accuracy {result.accuracy:.4f} is below "
                f"register.min_accuracy={register.min_accuracy:g}"
            )
            raise BackendError(message, "train better, or lower register.min_accuracy")
        run_folder.verify(self.folder, result)
        return LocalRegistry(Path(register.dir)).add(str(register.name), self.folder, result)

    def cost_report(self) -> Iterator[str]:
        """Yield nothing: this machine costs what it costs."""
        yield from ()

    def _trainer(self) -> psutil.Process | None:
        """Return the live process that trains the run, or None."""
        import psutil

        receipt = run_folder.read_receipt(self.folder)
        own = self._own_process(receipt)
        if own is not None and own.poll() is not None:
            return None
        if receipt.pid is None or receipt.process_started is None:
            return None
        try:
            process = psutil.Process(receipt.pid)
            alive = process.status() != psutil.STATUS_ZOMBIE
            age = abs(receipt.process_started - process.create_time())
        except (psutil.NoSuchProcess, ValueError):
            return None
        is_same = age < SAME_PROCESS_SECONDS and run_folder.other_host(receipt) is None
        return process if alive and (is_same or self._is_named_by(process)) else None

    def _elsewhere(self) -> str | None:
        """Return the other machine that a run which is under way is trained on, or None."""
        receipt = run_folder.read_receipt(self.folder)
        if self._own_process(receipt) is not None or not self._looks_elsewhere:
            return None
        return run_folder.other_host(receipt)

    def _await_own_process(self) -> None:
        own = self._own_process(run_folder.read_receipt(self.folder))
        if own is not None:
            own.wait()

    def _own_process(self, receipt: run_folder.Receipt) -> subprocess.Popen[bytes] | None:
        """Return the trainer that this started, unless the run is another's by now."""
        if self._process is None:
            return None
        self._process.poll()  # so that one that has ended is gone, whoever's the run is
        return self._process if self._process.pid == receipt.pid else None

    def _is_named_by(self, process: psutil.Process) -> bool:
        """Tell by its command line whether a process trains this run: when it started is told by a clock.

        Linux counts a start from boot, and says of boot when it was by the clock as it is set now.
        """
        import psutil

        try:
            words, place = process.cmdline(), Path(process.cwd())
        except psutil.Error:
            return False
        folder = self.folder.resolve()
        return TRAINER in words and any((place / word).resolve() == folder for word in words)

    def _failure(self, status: Status) -> MnistCnnError:
        receipt = run_folder.read_receipt(self.folder)
        log, go_on = f"the log is {self.folder / run_folder.LOG}", f"go on with it: resume {self.folder}"
        if status is Status.cancelled:
            return RunCancelled("the run was cancelled", go_on)
        own = self._own_process(receipt)
        ended_with = own.returncode if own is not None else None
        if status is Status.lost and ended_with in ERRORS_BY_EXIT_CODE:  # the disk did not take its receipt
            said = [words for line in self.logs() if (words := run_folder.trainer_line(line))]
            unwritten = f"cannot write {self.folder}: the disk took neither receipt nor log of the run's end"
            message = said[-1] if said and said[-1].startswith("cannot write") else unwritten
            return ERRORS_BY_EXIT_CODE[ended_with](message, f"free the disk, then {go_on}; {log}")
        if status is Status.lost:
            message = (
                "the training process ended without a word: it was killed, or memory or the disk ran out"
            )
            return BackendError(message, f"{go_on}; {log}")
        known: dict[int, type[MnistCnnError]] = {
            **ERRORS_BY_EXIT_CODE,
            MnistCnnError.exit_code: MnistCnnError,
        }
        error = known.get(receipt.exit_code or 0, BackendError)  # a bug is told again as one
        then = f"then {go_on}" if error is BackendError else None
        return error(receipt.error or "the run failed", "; ".join(filter(None, (receipt.hint, then, log))))


class LocalRegistry:
    """A folder of registered models: NAME/VERSION/, versions from 1, each with its model and metadata."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, name: str, run: Path, result: Result) -> ModelRef:
        """Register a run's model; the same run again gives the version that it has.

        Raises:
            BackendError: the registry cannot be written, or somebody else holds it for a minute.
        """
        home = self.folder / name
        run_id = run_folder.read_receipt(run).id
        try:
            home.mkdir(parents=True, exist_ok=True)
            with locks.hold(home / run_folder.LOCK, locks.TIMEOUT_SECONDS, "register.dir=FOLDER"):
                for version, registered_run in self._versions(home):
                    if registered_run == run_id:
                        return ModelRef(name, version, str(home / str(version)), is_new=False)
                version = self._claim(home)
                try:
                    self._fill(home / str(version), name, version, run, result)
                except BaseException:
                    shutil.rmtree(home / str(version))
                    raise
        except OSError as error:
            raise storage_error(error, f"the registry {home}", "register.dir=FOLDER") from error
        return ModelRef(name, version, str(home / str(version)), is_new=True)

    @staticmethod
    def _versions(home: Path) -> Iterator[tuple[int, str]]:
        """Yield each finished version and the id of the run that it came from."""
        for folder in home.iterdir():
            if folder.name.isdecimal() and (folder / REGISTERED).is_file():
                try:
                    about = json.loads(safe_read.read_text(folder / REGISTERED, safe_read.SETTINGS_BYTES))
                    yield int(folder.name), str(about["run"])
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    hint = "mend or remove that version, or register under another name"
                    raise BackendError(f"{folder / REGISTERED} is damaged: {error!r}", hint) from error

    @staticmethod
    def _claim(home: Path) -> int:
        """Make the next version's folder, which nobody else can, and return its number."""
        taken = [int(folder.name) for folder in home.iterdir() if folder.name.isdecimal()]
        version = max(taken, default=0) + 1
        (home / str(version)).mkdir()
        return version

    @staticmethod
    def _fill(folder: Path, name: str, version: int, run: Path, result: Result) -> None:
        for file in MODELS:
            if file in result.files:
                with atomic.replacing(folder / file) as temporary:
                    shutil.copyfile(run / file, temporary)
        about = {
            "name": name,
            "version": version,
            "run": run_folder.read_receipt(run).id,
            "registered": run_folder.now(),
            "job_digest": result.job_digest,
            "accuracy": result.accuracy,
            "weights_sha256": result.weights_sha256,
            "versions": result.versions,
            "changes": result.changes,
            "files": {
                file: dataclasses.asdict(result.files[file]) for file in MODELS if file in result.files
            },
        }
        atomic.write_text(folder / REGISTERED, json.dumps(about, indent=2) + "\n")
