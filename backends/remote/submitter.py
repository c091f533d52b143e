"""Records in the receipt which process submits a run, so that others know whether it is alive."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from mnist_cnn import process_identity

if TYPE_CHECKING:
    from mnist_cnn.receipt import Receipt

SUBMITTER = "submitter"
"""Key of the receipt's `service` that names the process while it submits the run."""
SUBMISSION_SECONDS = 3600.0
"""A run that another machine submits, and that the service does not know after this time, is lost."""


def this_process() -> str:
    """Return host, process id, its start and now; both times in seconds since 1970."""
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {process_identity.start_time(pid)} {time.time()}"


def is_at_work(receipt: Receipt) -> bool:
    """Return whether a process is submitting this run, which the service does not know."""
    try:
        host, pid, started, since = receipt.service.get(SUBMITTER, "").split(" ")
        if host != socket.gethostname():
            return time.time() - float(since) < SUBMISSION_SECONDS
        process = process_identity.live_process(int(pid))
        return process is not None and process_identity.started_at(process, float(started))
    except ValueError:
        return False
