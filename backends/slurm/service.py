"""Slurm as a `Service`.

The run folder lies on a disk that all nodes share.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import Status
from mnist_cnn.backends import local_registry
from mnist_cnn.backends.remote import checkpoints, snapshot
from mnist_cnn.backends.remote.node import OUTPUTS
from mnist_cnn.backends.remote.service import BaseService, Limits, ServiceError
from mnist_cnn.backends.slurm import commands, outcome, script
from mnist_cnn.backends.slurm.queue import USER, queue_at
from mnist_cnn.backends.slurm.store import FolderStore, failure
from mnist_cnn.errors import ConfigurationError, storage_error
from mnist_cnn.files import atomic, safe_read
from mnist_cnn.training import network_check

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mnist_cnn.backend import ModelRef
    from mnist_cnn.backends.remote.service import Handle, Observation, Store
    from mnist_cnn.backends.slurm.config import SlurmConfig
    from mnist_cnn.backends.slurm.queue import SlurmJob
    from mnist_cnn.job import Job
    from mnist_cnn.result import Result

NODE = "node"
"""The nodes' folder in the run folder."""
FILES_SECONDS = 60.0
"""How long an ended run's last files may take.

Linux caches the names on NFS for up to 60 s.
"""
ENDING_SECONDS = 600.0
"""Grace period for Slurm to end a run.

It begins at the run's time limit.
"""
LOG = re.compile(r"log-(\d+)\.txt")


class SlurmService(BaseService):
    """Submits scripts with `sbatch`.

    The run's id is the name by which it finds their jobs.
    """

    pages = "with scancel"
    nodes_setting = "backend.partition=NAME"
    store_is_in_run_folder = True

    def __init__(self, config: SlurmConfig, registry: Path = Path("models")) -> None:
        self.config = config
        self.nodes = nodes_of(config)
        self.limits = Limits(
            config.queue_timeout, config.max_duration * 60 + ENDING_SECONDS, config.preemption_retries
        )
        self._registry = registry
        self._without_files: dict[str, float] = {}

    def check(self, job: Job) -> None:
        """Check the job, and that Slurm answers and allows its time. Leaves nothing behind.

        Raises ConfigurationError, DataError or BackendError.
        """
        request = self.request(job)
        if shutil.which("sbatch") is None:
            message = "backend=slurm needs the program sbatch, which isn't installed here"
            raise ConfigurationError(message, commands.ELSEWHERE)
        _check_time_limit(self.place(), request)
        network_check.check(job)

    def request(self, job: Job, *, force: bool = False, pause_after: int | None = None) -> script.Request:
        """Return the script and the files to copy. Pure."""
        return script.request(job, self.config, force=force, pause_after=pause_after)

    def describe(self, request: script.Request) -> tuple[tuple[str, str], ...]:
        """Return the request as labels and values, for `plan`."""
        return script.describe(request)

    def place(self) -> dict[str, str]:
        """Return the cluster's configuration and the user's id.

        Another user may look for the run.
        """
        conf = os.environ.get("SLURM_CONF", "")
        return {commands.SLURM_CONF: str(Path(conf).absolute()) if conf else "", USER: str(os.geteuid())}

    @contextmanager
    def prepare(self, handle: Handle, request: script.Request) -> Iterator[None]:
        """Copy code, data and the newest checkpoint.

        Skips code and data that are complete; the marker comes last.
        """
        _check_time_limit(handle.place, request)
        start = start_folder(handle)
        try:
            if _text(start / script.MARKER) != handle.id:
                _fill(start, handle, request)
        except OSError as error:
            raise storage_error(error, str(start), "runs_dir=FOLDER") from error
        checkpoints.send(self.store(handle), handle.checkpoints, handle.folder)
        yield

    def start(self, handle: Handle, request: script.Request, prepared: Any = None) -> str:
        """Submit the script, unless the run has a job.

        Slurm has no pages.
        """
        del prepared
        queue = queue_at(handle.place)
        if queue.named(handle.id, fresh=True) or (start_folder(handle) / script.OWNER).exists():
            return ""
        try:
            commands.run(
                script.command(handle.id, str(start_folder(handle))),
                handle.place,
                what=f"submit the run {handle.id}",
                content=request.script.encode(),
                seconds=commands.SUBMIT_SECONDS,
            )
        finally:
            queue.forget()  # even if sbatch fails, Slurm may have the job
        return ""

    def find(self, handle: Handle) -> Observation | None:
        """Return the job's observation.

        Its files decide if Slurm has forgotten it.
        """
        start = start_folder(handle)
        job = self._job(handle)
        seen = outcome.of_forgotten(start) if job is None else outcome.of_job(job, start)
        if seen is None or not outcome.awaits_files(job, seen, start):
            return seen
        # A network file system may show a node's new file only after a while.
        since = self._without_files.setdefault(handle.id, time.monotonic())
        if time.monotonic() - since > FILES_SECONDS:
            return seen
        return dataclasses.replace(seen, status=Status.finalizing, is_lost=False)

    def cancel(self, handle: Handle) -> None:
        """Ask Slurm to end the run's jobs.

        Slurm ignores those that have ended.
        """
        try:
            (start_folder(handle) / outcome.CANCELLED).touch()
        except OSError as error:
            raise failure(f"cancel the run in {handle.folder}", error) from error
        words = ["scancel", f"--name={handle.id}", f"--user={handle.place[USER]}"]
        commands.run(words, handle.place, what=f"cancel the run {handle.id}")
        queue_at(handle.place).forget()

    def read_log(self, handle: Handle, first: int) -> bytes | None:
        """Return the newest start's log from a byte on."""
        start = start_folder(handle)
        try:
            logs = {int(match[1]): path for path in start.iterdir() if (match := LOG.fullmatch(path.name))}
            if not logs:
                return b""
            with safe_read.open_file(logs[max(logs)]) as file:
                file.seek(first)
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise failure(f"read the log in {start}", error) from error

    def files(self, handle: Handle) -> list[str]:
        """Return the names of the training's output files."""
        outputs = start_folder(handle) / OUTPUTS
        try:
            return sorted(path.name for path in outputs.iterdir() if path.is_file())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise failure(f"list {outputs}", error) from error

    def download(self, handle: Handle, name: str, target: Path, seconds: float) -> None:
        """Copy one of these files to `target`."""
        del seconds  # a shared disk needs no time limit
        source = start_folder(handle) / OUTPUTS / name
        try:
            file = safe_read.open_file(source)
        except OSError as error:
            raise failure(f"read {source}", error) from error
        with file, atomic.replacing(target, durable=False) as temporary, temporary.open("wb") as copy:
            shutil.copyfileobj(file, copy)

    def store(self, handle: Handle) -> Store:
        """Return the store of checkpoints, shared by all starts."""
        return FolderStore(handle.folder / NODE)

    def register(self, handle: Handle, name: str, result: Result) -> ModelRef:
        """Copy the model into the local registry."""
        return local_registry.add(self._registry, name, handle.folder, result)

    def _job(self, handle: Handle) -> SlurmJob | None:
        """Return the job that trains the run.

        That is the first one if a lost answer led to two submissions.
        """
        owner = _text(start_folder(handle) / script.OWNER)
        queue = queue_at(handle.place)
        jobs = queue.named(handle.id)
        if not jobs and owner is None:  # the answer may be older than the job
            jobs = queue.named(handle.id, fresh=True)
        jobs = [job for job in jobs if job.id == owner or job.exit_code != script.NOT_OWNER]
        return next((job for job in jobs if job.id == owner), jobs[0] if jobs else None)


def start_folder(handle: Handle) -> Path:
    """Return the absolute folder of a run's start."""
    return handle.folder.absolute() / NODE / handle.id


def nodes_of(config: SlurmConfig) -> str:
    """Return a job's node or workers in words."""
    memory = f", {config.memory} GB" if config.memory else ""
    gpus = f", {config.gpus} GPUs" if config.gpus else ""
    where = f" in partition {config.partition}" if config.partition else ""
    if config.workers > 1:
        return f"{config.workers} workers, each with {config.cpus} CPUs{memory}{where}"
    return f"1 node with {config.cpus} CPUs{memory}{gpus}{where}"


def _fill(start: Path, handle: Handle, request: script.Request) -> None:
    for folder in (start / script.CODE, start / script.DATA):  # of an attempt that was killed
        shutil.rmtree(folder, ignore_errors=True)
    atomic.make_folder(start / script.DATA, exist_ok=True)
    atomic.make_folder(handle.folder / NODE / handle.checkpoints, exist_ok=True)
    snapshot.write(start / script.CODE, request.code)
    for file in request.data_files:
        _link_or_copy(file.source, start / script.DATA / file.name)
    atomic.write_text(start / script.JOB, request.token)
    atomic.write_text(start / script.CHECKPOINTS, handle.checkpoints)
    atomic.write_text(start / script.SCRIPT, request.script)
    atomic.write_text(start / script.MARKER, handle.id)


def _check_time_limit(place: Mapping[str, str], request: script.Request) -> None:
    """Check `max_duration` against the partition. Raises ServiceError.

    A cluster may accept a job that it can never run.
    """
    words = ["scontrol", "--oneliner", "show", "partition"]
    chosen = request.partition.split(",") if request.partition else None
    limits: dict[str, int | None] = {}
    for line in commands.run(words, place, what="ask Slurm for its partitions").splitlines():
        fields = dict(field.partition("=")[::2] for field in line.split())
        is_default = fields.get("Default") == "YES"
        if not (is_default if chosen is None else fields.get("PartitionName") in chosen):
            continue
        limits[fields.get("PartitionName", "")] = minutes(fields.get("MaxTime", ""))
    if any(limit is None or request.max_minutes <= limit for limit in limits.values()):
        return
    if limits:  # else sbatch refuses the partition
        allowed = ", ".join(f"partition {name} allows {limit} minutes" for name, limit in limits.items())
        message = f"backend.max_duration={request.max_minutes}: {allowed}"
        hint = "lower it, or choose another backend.partition"
        raise ServiceError(message, hint, status=commands.REFUSED)


def minutes(text: str) -> int | None:
    """Return a time limit in minutes, None for UNLIMITED.

    `text` is such as 1-02:00:00.
    """
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, whole, _ = (int(part or 0) for part in match.groups())
    return (days * 24 + hours) * 60 + whole


def _link_or_copy(source: Path, target: Path) -> None:
    """Link a file, or copy it to another disk.

    A linked file is never written to.
    """
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _text(path: Path) -> str | None:
    """Return a short file's text, None if it's unreadable."""
    try:
        return safe_read.read_text(path, safe_read.SETTINGS_BYTES).strip()
    except (OSError, ValueError):
        return None
