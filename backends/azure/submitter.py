"""The process that is submitting a run: named in the receipt, for others to see whether it is still there."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_cnn import run_folder

SUBMITTER = "submitter"
"""The receipt's entry, under `service`, that names the process, as long as it is submitting the run."""
SUBMISSION_SECONDS = 3600.0
"""After that a run that another machine began to submit, and that the service does not know, is lost."""
SAME_PROCESS_SECONDS = 2.0
"""By how much a process's start may seem to move, as it is told relative to a clock that is set right."""


def this_process() -> str:
    """Name this process: host, process id, its start and now, both in seconds since 1970."""
    import psutil

    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time()} {time.time()}"


def is_at_work(receipt: run_folder.Receipt) -> bool:
    """Tell, of a run that the service does not know, whether somebody is submitting it."""
    import psutil

    try:
        host, pid, started, since = receipt.service.get(SUBMITTER, "").split(" ")
        if host != socket.gethostname():
            return time.time() - float(since) < SUBMISSION_SECONDS
        return abs(psutil.Process(int(pid)).create_time() - float(started)) < SAME_PROCESS_SECONDS
    except (psutil.NoSuchProcess, ValueError):
        return False
