"""Records in the receipt which process submits a run, so that others know whether it is alive."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_cnn import run_folder

SUBMITTER = "submitter"
"""Key of the receipt's `service` that names the process while it submits the run."""
SUBMISSION_SECONDS = 3600.0
"""A run that another machine submits, and that the service does not know after this time, is lost."""
SAME_PROCESS_SECONDS = 2.0
"""By how much a process's start may seem to move, as it is told relative to a clock that is set right."""


def this_process() -> str:
    """Return host, process id, its start and now; both times in seconds since 1970."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()} {time.time()}"


def is_at_work(receipt: run_folder.Receipt) -> bool:
    """Return whether a process is submitting this run, which the service does not know."""
    import psutil

    try:
        host, pid, started, since = receipt.service.get(SUBMITTER, "").split(" ")
        if host != socket.gethostname():
            return time.time() - float(since) < SUBMISSION_SECONDS
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < SAME_PROCESS_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False
