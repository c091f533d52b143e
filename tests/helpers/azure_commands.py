"""`backend=azure` on a tiny job: as a real process, or as the same command within the tests' process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import TINY as TINY_JOB
from helpers.processes import Ended, command, hear_interrupts

from mnist_cnn import run_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopback import AzureService

TINY = (*TINY_JOB, "register.name=null")
"""Overrides of a job that learns next to nothing and is done when TensorFlow is loaded."""
ENDLESS = ("data.train_limit=10000", "train.epochs=10000")
"""Further ones, of a job that is ended before it ends; each of its epochs leaves a checkpoint."""


def chosen(azure: AzureService) -> tuple[str, str]:
    return ("backend=azure", f"backend.workspace={azure.home}")


def run_here(*arguments: str, cwd: Path) -> Ended:
    """Run `python -m mnist_cnn ARGUMENTS` in a folder, within this process.

    This process has loaded the SDK already, which takes five seconds. Each command starts without the logins
    and caches of the one before.
    """
    from mnist_cnn.cli.main import main

    forget()
    out, err = io.StringIO(), io.StringIO()
    terminate, report_unraisable = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        signal.signal(signal.SIGTERM, terminate)
        sys.unraisablehook = report_unraisable
    return Ended(code, out.getvalue(), err.getvalue())


def forget() -> None:
    """Forget the logins, workspaces, clusters and uploads of earlier commands in this process."""
    from mnist_cnn.backends.azure import service, submit

    service.open_workspace.cache_clear()
    service._tokens.clear()  # noqa: SLF001 - a new process starts without them
    submit._done_at.clear()  # noqa: SLF001


def train(azure: AzureService, cwd: Path, *overrides: str) -> Ended:
    """Train a tiny job on the cluster, to its end."""
    return run_here(*chosen(azure), *TINY, *overrides, cwd=cwd)


def submit(azure: AzureService, cwd: Path, *overrides: str) -> Ended:
    """Submit a tiny job to a cluster that has no node to give, and stop following it after a second."""
    azure.clusters.behave(full=True)
    return train(azure, cwd, "backend.queue_timeout=1", *overrides)


def start(azure: AzureService, cwd: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Start a real process that trains a tiny job on the cluster."""
    return start_command(*chosen(azure), *TINY, *overrides, cwd=cwd, **environment)


def start_command(*arguments: str, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `python -m mnist_cnn ARGUMENTS` in a folder, and return while it runs."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - it makes one system call
    )


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running process does; the test's time limit ends the waiting."""
    while not is_so():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def wait_for_line(folder: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Wait until the run folder's log contains a text."""
    path = folder / run_folder.LOG
    wait_until(lambda: path.is_file() and text in path.read_text(errors="replace"), process)


def read_until(text: str, process: subprocess.Popen[str]) -> str:
    """Read a process's stderr up to the line that contains a text; return all of it."""
    assert process.stderr is not None
    read = ""
    while text not in read:
        line = process.stderr.readline()
        assert line, f"{text!r} never came: {read}"
        read += line
    return read


def calls(azure: AzureService, method: str, template: str) -> int:
    return len([e for e in azure.requests.exchanges() if e.method == method and template in e.template])


def submissions(azure: AzureService) -> int:
    return calls(azure, "POST", "snapshotrun")


def refused(ended: Ended, code: int, *said: str) -> None:
    """Check the exit code and parts of the message; no traceback, no secret."""
    assert ended.code == code, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    assert os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] not in ended.out + ended.err
    for text in said:
        assert text in ended.err, ended.err[-2000:]
