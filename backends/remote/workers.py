"""Connects the nodes that share a run.

Each is one worker. What starts the nodes sets the variables below for each.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from mnist_cnn.errors import BackendError
from mnist_cnn.training.distributed.group import ONE_WORKER, Group
from mnist_cnn.training.distributed.local_group import identity
from mnist_cnn.training.distributed.rendezvous import Rendezvous, connect
from mnist_cnn.training.runtime import default_threads

if TYPE_CHECKING:
    from mnist_cnn.job import Job

RANK, HOST, PORTS, TOKEN = "MNIST_CNN_RANK", "MNIST_CNN_HOST", "MNIST_CNN_PORTS", "MNIST_CNN_TOKEN"
"""Environment variables of a worker.

They are its number; where worker 0 listens, with ports between spaces; a secret of the run.
"""
ARRIVAL = "MNIST_CNN_ARRIVAL_SECONDS"
"""Optional variable: how long workers wait for each other."""

log = logging.getLogger("mnist_cnn")


def rendezvous(count: int) -> Rendezvous:
    """Return where this worker meets the others.

    Removes the token from the environment. Raises BackendError if a variable is missing or is not valid.
    """
    try:
        token = os.environ.pop(TOKEN)
        ports = tuple(int(port) for port in os.environ[PORTS].split())
        seconds = float(os.environ.get(ARRIVAL, Rendezvous.arrival_seconds))
        return Rendezvous(int(os.environ[RANK]), count, os.environ[HOST], ports, token, seconds)
    except (KeyError, ValueError) as error:
        message = f"one of the variables {RANK}, {HOST}, {PORTS} and {TOKEN} is missing or not valid: {error}"
        raise BackendError(message, "start the run with python -m mnist_cnn") from error


def join(job: Job, rendezvous: Rendezvous | None) -> Group:
    """Return the group that meets at `rendezvous`.

    Use it as a context. Raises as `connect` does.
    """
    if rendezvous is None:
        return ONE_WORKER
    log.info("%d workers, %d threads each", rendezvous.count, job.train.threads or default_threads())
    return connect(rendezvous, identity(job))
