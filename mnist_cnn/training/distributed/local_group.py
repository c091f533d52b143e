"""Starts a training's other workers on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING, cast

from mnist_cnn import cpu
from mnist_cnn.errors import start_error
from mnist_cnn.training.distributed.group import ONE_WORKER, Group, WorkerLost
from mnist_cnn.training.distributed.rendezvous import Rendezvous, connect, listen
from mnist_cnn.training.runtime import default_threads, versions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mnist_cnn.job import Job

WORKER = "mnist_cnn.training.worker"
"""The module that trains.

It is a name here, because it imports TensorFlow.
"""
HOST = "127.0.0.1"
ARRIVAL_SECONDS = 60.0
GRACE_SECONDS = 10.0
"""Time limit for all others to end after training."""

log = logging.getLogger("mnist_cnn")


def identity(job: Job) -> dict[str, str]:
    """Return what all workers must share: job and packages."""
    return {"job": job.digest, **versions()}


@contextlib.contextmanager
def started(count: int, job: Job, arguments: Sequence[str]) -> Iterator[Group]:
    """Start the other workers; yield the group.

    They are 1 to `count` - 1; this process is worker 0. `arguments` are those of `WORKER`. Each gets its
    `Rendezvous` on standard input, see `joined`. They end with this process.
    """
    if count == 1:
        yield ONE_WORKER
        return
    threads = job.train.threads or default_threads()
    log.info("%d workers, %d threads each, %d CPUs", count, threads, cpu.count())
    if count * threads > cpu.count():
        fitting = max(1, cpu.count() // count)
        log.warning("more threads than CPUs; train.threads=%d may be faster, but is another job", fitting)
    processes: list[subprocess.Popen[bytes]] = []

    def check_running() -> None:
        for rank, process in enumerate(processes, 1):
            if process.poll() is not None:
                raise WorkerLost(f"worker {rank} of {count} exited before it connected", "read the run's log")

    listener = listen(HOST, (0,))
    ports = (listener.getsockname()[1],)
    rendezvous = Rendezvous(0, count, HOST, ports, secrets.token_hex(32), ARRIVAL_SECONDS)
    try:
        with listener:
            command = [sys.executable, "-P", "-m", WORKER, *arguments]
            processes += (
                _start(command, dataclasses.replace(rendezvous, rank=rank)) for rank in range(1, count)
            )
            group = connect(rendezvous, identity(job), listener, check_running)
        with group:
            yield group
        deadline = time.monotonic() + GRACE_SECONDS
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # the others hold nothing that could be lost
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()


def joined(job: Job) -> Group:
    """Return the group of a started worker.

    Its `Rendezvous` is on standard input. Raises WorkerLost if worker 0 has ended, and as `connect` does.
    """
    parent, values = json.loads(sys.stdin.read())
    rendezvous = Rendezvous(**{**values, "ports": tuple(values["ports"])})

    def check_parent() -> None:
        if os.getppid() != parent:
            raise WorkerLost(f"worker 0 of {rendezvous.count} has ended", "read the run's log")

    return connect(rendezvous, identity(job), on_wait=check_parent)


def _start(command: Sequence[str], rendezvous: Rendezvous) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ)
    except OSError as error:
        raise start_error(command[0], error) from error
    with contextlib.suppress(BrokenPipeError), cast("IO[bytes]", process.stdin) as pipe:
        pipe.write(json.dumps([os.getpid(), dataclasses.asdict(rendezvous)]).encode())
    return process  # it may have ended; `check_running` says so
