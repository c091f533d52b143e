"""The command and its runs as real processes, on small jobs with real images."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mnist_cnn import cpu, launch, run_folder

if TYPE_CHECKING:
    from mnist_cnn.backend import Run
    from mnist_cnn.result import Result

SMALL = (
    "data.train_limit=1000",
    "data.test_limit=500",
    "train.epochs=2",
    "train.batch_size=25",
    "model=compact",
)
"""Overrides of a job on real images that takes seconds and still learns; it has two epochs."""
TINY = (
    "data.train_limit=200",
    "data.test_limit=100",
    "train.epochs=1",
    "train.batch_size=25",
    "train.optimizer=sgd",
    "model.filters=[4,4]",
    "model.dense_units=8",
)
"""Overrides of a job that learns next to nothing and leaves small files."""
REGISTER = ("register.name=m", "register.min_accuracy=0")
"""Overrides that register a run's model as m, even if it learned next to nothing."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: str) -> list[str]:
    """The command line of `python -m mnist_cnn`, with the package that is installed, not a checkout."""
    return [sys.executable, "-P", "-m", "mnist_cnn", *arguments]


def _inherited() -> dict[str, str]:
    """Return this environment without the variable that this process's conftest and each trainer set."""
    return {name: value for name, value in os.environ.items() if name != cpu.ONEDNN}


def run_command(*arguments: str, cwd: Path, timeout: float = 180, **environment: str) -> Ended:
    """Run `python -m mnist_cnn ARGUMENTS` in a folder, to its end."""
    ended = subprocess.run(
        command(*arguments),
        cwd=cwd,
        env={**_inherited(), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def run_successfully(*arguments: str, cwd: Path) -> Ended:
    """Run `python -m mnist_cnn ARGUMENTS` in a folder; it must exit with 0."""
    ended = run_command(*arguments, cwd=cwd)
    assert ended.code == 0, ended.out + ended.err
    return ended


def start_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m mnist_cnn ARGUMENTS` in a folder."""
    return start(*command(*arguments), cwd=cwd, **environment)


def start(*words: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a command line in a folder."""
    return subprocess.Popen(
        words,
        cwd=cwd,
        env={**_inherited(), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - no threads here
    )


def end_of(process: subprocess.Popen[str], timeout: float = 120) -> Ended:
    """Wait for a command's end; it may print no traceback."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in out + err
    assert "Exception ignored" not in out + err
    return Ended(process.returncode, out, err)


def hear_interrupts() -> None:
    """Restore SIGINT, which a process inherits as ignored if the tests run in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(happened: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    """Wait for an event; fail if the process that should cause it has ended, or after two minutes."""
    deadline = time.monotonic() + 120
    while not happened():
        assert process is None or process.poll() is None, "the command ended before"
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def wait_for_line(run: Path, text: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a run's log holds a text."""
    log = run / run_folder.LOG
    wait_until(lambda: log.is_file() and text in log.read_text("utf-8", "replace"), process)


def worker_of(run: Path) -> psutil.Process:
    """Return the process that trains a run."""
    return psutil.Process(run_folder.read_receipt(run).pid)


def wait_for_worker(run: Path, process: subprocess.Popen[str]) -> psutil.Process:
    """Return the process that trains a run, as soon as the receipt names it."""
    wait_until((run / run_folder.LOG).exists, process)
    wait_until(lambda: run_folder.read_receipt(run).pid, process)
    return worker_of(run)


def resume(run: Path, *overrides: str) -> Run:
    """Resume a run in its folder."""
    return launch.prepare_resume(str(run), overrides)()


def result_of(run: Path) -> Result:
    """Return the result in a completed run's folder."""
    result = run_folder.read_result(run)
    assert result is not None
    return result
