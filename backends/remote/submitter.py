"""Records which process submits a run.

The receipt names it, so that others know whether it is alive.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from mnist_cnn import process_identity

if TYPE_CHECKING:
    from mnist_cnn.receipt import Receipt

SUBMITTER = "submitter"
"""Key of the submitting process in `Receipt.service`."""
SUBMISSION_SECONDS = 3600.0
"""Time limit for a submission on another machine.

After it, a run that the service does not know is lost.
"""


def this_process() -> str:
    """Return host, process id, start time and now.

    Both times are in seconds since 1970.
    """
    pid = os.getpid()
    return f"{socket.gethostname()} {pid} {process_identity.start_time(pid)} {time.time()}"


def is_at_work(receipt: Receipt) -> bool:
    """Return whether a process is submitting this run."""
    try:
        host, pid, started, since = receipt.service.get(SUBMITTER, "").split(" ")
        if host != socket.gethostname():
            return time.time() - float(since) < SUBMISSION_SECONDS
        process = process_identity.live_process(int(pid))
        return process is not None and process_identity.started_at(process, float(started))
    except ValueError:
        return False
