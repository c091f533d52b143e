"""A job's process on the node: its environment, its log, its end. Knows no runs and no requests."""

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
"""The time between two uploads of a growing log."""
TERMINATE_SECONDS = 5


class Process:
    """Runs a command in a new process group; passes its growing output to `on_log`."""

    def __init__(
        self,
        command: list[str],
        folder: Path,
        environment: Mapping[str, str],
        on_log: Callable[[bytes], None],
        kill_at: str | None = None,
    ) -> None:
        """Start it. The first line that matches the regular expression `kill_at` kills the process."""
        self.has_lost_node = False
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
        targets = (self._read, self._publish)
        self._threads = [threading.Thread(target=target, daemon=True) for target in targets]
        for thread in self._threads:
            thread.start()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, after the whole log has been passed on.

        Raises:
            subprocess.TimeoutExpired: the process has not ended in time.
        """
        code = self._process.wait(timeout)
        for thread in self._threads:
            thread.join(60)
        return code

    def terminate(self) -> None:
        """End the whole group: SIGTERM first, then SIGKILL."""
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_SECONDS)
        self.kill()

    def lose_node(self) -> None:
        """Kill it as if its node were taken away."""
        self.has_lost_node = True
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
                self._add(line)
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _add(self, line: bytes) -> None:
        with self._news:
            self._log += line
            self._news.notify_all()
        if self._kill_at and re.search(self._kill_at, line.decode(errors="replace")):
            self._kill_at = None
            self.lose_node()

    def _publish(self) -> None:
        published, ended = 0, False
        while not ended:
            with self._news:
                while not self._ended and len(self._log) == published:
                    self._news.wait()
                content, ended = bytes(self._log), self._ended
            if len(content) > published or not published:
                self._on_log(content)
                published = len(content)
            with self._news:
                self._news.wait_for(lambda: self._ended, LOG_SECONDS)
