"""Reports to the user, and retries requests.

Both end quietly in a step whose group was cancelled.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TypeVar

from mnist_cnn.backends.remote.parallel import stop_if_cancelled
from mnist_cnn.backends.remote.service import ServiceError
from mnist_cnn.terminal.output import lossy

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

ATTEMPTS = 3


def report(line: str) -> None:
    """Print a line on stderr.

    Stdout may have to be JSON.
    """
    stop_if_cancelled()
    print(line, file=lossy(sys.stderr), flush=True)


def with_retries(request: Callable[[], T]) -> T:
    """Return what a request returns; retry transient failures.

    The request must be safe to repeat. Raises ServiceError, as the last attempt does.
    """
    for attempt in range(1, ATTEMPTS):
        try:
            return request()
        except ServiceError as error:
            if not error.is_transient:
                raise
            report(f"{error.message}; retrying in {2**attempt} seconds")
            time.sleep(2**attempt)
    return request()
