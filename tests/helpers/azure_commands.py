"""The command with `backend=azure`, as a real process, on a tiny job; and what tests ask of how it ended."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import Ended, command, hear_interrupts, run_command

from mnist_cnn import run_folder

if TYPE_CHECKING:
    from loopback import AzureService

TINY = ("data.train_limit=200", "data.test_limit=100", "train.epochs=1", "register.name=null")
"""Overrides of a job that says nothing of learning and is done when TensorFlow is loaded."""
ENDLESS = ("data.train_limit=10000", "train.epochs=1000")
"""Further ones, of a job that is ended before it ends. Its epochs last seconds: each leaves a checkpoint."""


def train(azure: AzureService, cwd: Path, *overrides: str) -> Ended:
    """Run `python -m mnist_cnn backend=azure` in a folder, on a tiny job, to its end."""
    return run_command(*chosen(azure), *TINY, *overrides, cwd=cwd)


def chosen(azure: AzureService) -> tuple[str, str]:
    return ("backend=azure", f"backend.workspace={azure.home}")


def start(azure: AzureService, cwd: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Start what `train` runs, and return while it goes on."""
    return subprocess.Popen(
        command(*chosen(azure), *TINY, *overrides),
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - it makes one system call
    )


def wait_for_line(folder: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Wait until the run's log, as it is here, holds a text."""
    deadline = time.monotonic() + 120
    path = folder / run_folder.LOG
    while not path.is_file() or text not in path.read_text(errors="replace"):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.1)


def calls(azure: AzureService, method: str, template: str) -> int:
    return len([e for e in azure.requests.exchanges() if e.method == method and template in e.template])


def refused(ended: Ended, code: int, *said: str) -> None:
    """Check an exit code, that there is no traceback, and what was said."""
    assert ended.code == code, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    assert os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] not in ended.out + ended.err
    for text in said:
        assert text in ended.err, ended.err[-2000:]
