"""A job's process on the node: its environment, its log, its end.

Knows the operating system, and nothing of runs or requests.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

LOG_SECONDS = 0.3
"""How often, at most, the log goes to the store while lines come in."""
TERMINATE_SECONDS = 5


class Process:
    """Runs a command in a process group of its own; hands its output on as it grows."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environment: Mapping[str, str],
        on_log: Callable[[bytes], None],
        kill_at: str | None = None,
    ) -> None:
        """`kill_at`: at the first line that this expression is found in, the process is killed."""
        self.killed_at_line = False
        self._on_log = on_log
        self._kill_at = kill_at
        self._log = bytearray()
        self._news = threading.Condition()
        self._ended = False
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._threads = [
            threading.Thread(target=target, daemon=True) for target in (self._read, self._publish)
        ]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, once all of the log is handed on.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        code = self._process.wait(timeout)
        for thread in self._threads:
            thread.join(60)
        return code

    def terminate(self) -> None:
        """End the whole group: first asked, then made to."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_SECONDS)
        self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def log(self) -> str:
        with self._news:
            return self._log.decode(errors="replace")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> None:
        with self._process.stdout or contextlib.nullcontext() as stream:
            for line in stream or ():
                self._hear(line)
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _hear(self, line: bytes) -> None:
        with self._news:
            self._log += line
            self._news.notify_all()
        if self._kill_at and re.search(self._kill_at, line.decode(errors="replace")):
            self._kill_at = None
            self.killed_at_line = True
            self.kill()

    def _publish(self) -> None:
        published, pause = 0, threading.Event()
        while True:
            with self._news:
                while not self._ended and len(self._log) == published:
                    self._news.wait()
                content, ended = bytes(self._log), self._ended
            if len(content) > published or not published:
                self._on_log(content)
                published = len(content)
            if ended:
                return
            pause.wait(LOG_SECONDS)
