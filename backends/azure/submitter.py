"""The process that is submitting a run: named in the receipt, for others to see whether it is still there."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from mnist_cnn import process_identity

if TYPE_CHECKING:
    from mnist_cnn import run_folder

SUBMITTER = "submitter"
"""The receipt's entry, under `service`, that names the process, as long as it is submitting the run."""
SUBMISSION_SECONDS = 3600.0
"""After that a run that another machine began to submit, and that the service does not know, is lost."""


def this_process() -> str:
    """Name this process: host, process id, its start and now, both in seconds since 1970."""
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {process_identity.start_time(pid)} {time.time()}"


def is_at_work(receipt: run_folder.Receipt) -> bool:
    """Tell, of a run that the service does not know, whether somebody is submitting it."""
    try:
        host, pid, started, since = receipt.service.get(SUBMITTER, "").split(" ")
        if host != socket.gethostname():
            return time.time() - float(since) < SUBMISSION_SECONDS
        process = process_identity.live_process(int(pid))
        return process is not None and process_identity.started_at(process, float(started))
    except ValueError:
        return False
