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


class Processes:
    """A job's processes, one on each node. One that fails ends the others, and its exit code is the job's."""

    def __init__(self, processes: list[Process]) -> None:
        self._processes = processes
        self._failed: list[tuple[Process, int]] = []
        self._threads = [threading.Thread(target=self._watch, args=(p,), daemon=True) for p in processes]
        for thread in self._threads:
            thread.start()

    @property
    def has_lost_node(self) -> bool:
        return any(process.has_lost_node for process in self._processes)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code. Raises subprocess.TimeoutExpired."""
        for thread, process in zip(self._threads, self._processes, strict=True):
            process.wait(timeout)
            thread.join()
        return self._failed[0][1] if self._failed else 0

    def terminate(self) -> None:
        for process in self._processes:
            process.terminate()

    def kill(self) -> None:
        for process in self._processes:
            process.kill()

    def kill_last(self) -> None:
        """Kill the process on the last node, as the node's kernel does if memory is short."""
        self._processes[-1].kill()

    def lose_node(self) -> None:
        """Take away the last node."""
        self._processes[-1].lose_node()

    def log(self) -> str:
        """Return the log of the process that failed first, or else of the first one."""
        failed = self._failed[0][0] if self._failed else self._processes[0]
        return failed.log()

    def _watch(self, process: Process) -> None:
        code = process.wait()
        if code:
            self._failed.append((process, code))
            for other in self._processes:
                if other is not process:
                    other.terminate()
