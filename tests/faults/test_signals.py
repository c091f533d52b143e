"""Signals, closed terminals and output without a reader: a run ends once, or continues, and reports it."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import pexpect
import psutil
import pytest
from helpers.fault_points import Gate
from helpers.processes import (
    REGISTER,
    TINY,
    command,
    end_of,
    result_of,
    resume,
    run_command,
    start_command,
    wait_for_line,
    wait_until,
    worker_of,
)

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import local
from mnist_cnn.errors import BackendError, Interrupted, RunCancelled
from mnist_cnn.testing import LONG

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from mnist_cnn.backend import Run

    Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a completed tiny run."""
    home = tmp_path_factory.mktemp("undisturbed")
    ended = run_command(*TINY, "run_dir=run", cwd=home)
    assert ended.code == 0, ended.err
    return home / "run"


@pytest.fixture
def submit_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Return a function that starts a run and returns when its worker waits at a point."""

    def submit(point: str, *overrides: str) -> Run:
        gate = Gate(tmp_path, "worker", point)
        with monkeypatch.context() as patch:
            for name, value in gate.environment.items():
                patch.setenv(name, value)
            run = launch.submit(*TINY, *overrides, f"run_dir={tmp_path / 'run'}")
        wait_until(lambda: gate.is_reached)
        return run

    return submit


# Signals


def test_repeated_ctrl_c_ends_the_run_once(tmp_path: Path, started: Start) -> None:
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    worker = worker_of(tmp_path / "run")
    while process.poll() is None:  # during the first clean-up and the last message too
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)  # so that they do not count as one signal
    ended = end_of(process)
    assert ended.code == Interrupted.exit_code
    assert ended.err.count("stopping the run") == 1
    assert "interrupted; run is cancelled\n" in ended.err
    assert "resume run" in ended.err
    assert not worker.is_running()
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert list((tmp_path / "run" / "checkpoints").glob("*.sha256"))


SIGNALS = """
import os, signal, sys
from mnist_cnn.terminal import signals
with signals.first_signal_only():
    try:
        with signals.defer_signals():
            os.kill(os.getpid(), int(sys.argv[1]))
            print("begun")
        print("never")
    except KeyboardInterrupt as first:
        for number in signals.STOP_SIGNALS:
            os.kill(os.getpid(), number)
        print(type(first).__name__)
os.kill(os.getpid(), signal.SIGINT)
print("ended")
"""


@pytest.mark.parametrize(
    ("first", "kind"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "Terminated")]
)
def test_only_the_first_signal_counts(started: Start, first: signal.Signals, kind: str) -> None:
    ended = end_of(started(sys.executable, "-P", "-c", SIGNALS, str(int(first))))
    assert (ended.code, ended.out) == (0, f"begun\n{kind}\nended\n")


@pytest.mark.parametrize("point", ["import tensorflow", "metrics.jsonl", "model.keras"])
def test_a_worker_that_is_told_to_end_twice_can_be_resumed(
    undisturbed: Path, submit_to: Callable[..., Run], point: str
) -> None:
    """While TensorFlow is imported, after the network is built, and while the model is saved."""
    run = submit_to(point)
    worker = worker_of(run.folder)
    with contextlib.suppress(psutil.NoSuchProcess):
        while worker.status() != psutil.STATUS_ZOMBIE:
            worker.terminate()
            time.sleep(0.005)  # so that they do not count as one signal
    with pytest.raises(RunCancelled):
        run.wait()
    receipt = run_folder.read_receipt(run.folder)
    assert (receipt.status, receipt.exit_code) == (Status.cancelled, RunCancelled.exit_code)
    assert "Traceback" not in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert not list(run.folder.rglob(".writing-*"))
    if point == "model.keras":
        assert resume(run.folder).wait().weights_sha256 == result_of(undisturbed).weights_sha256


def test_a_stopped_worker_can_be_cancelled(
    submit_to: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is continued so that it handles the signal, and is not killed."""
    run = submit_to("import tensorflow", LONG)
    worker = worker_of(run.folder)
    worker.suspend()
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("the worker was killed, although it could end"))
    monkeypatch.setattr(local, "GRACE_SECONDS", 30.0)
    run.cancel()
    assert run_folder.read_receipt(run.folder).exit_code == RunCancelled.exit_code
    assert not worker.is_running()


def test_a_run_whose_command_is_stopped_can_be_cancelled(tmp_path: Path, started: Start) -> None:
    """As after Ctrl-Z: the stopped command does not collect its child, which stays a zombie."""
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "\n", process)
    process.send_signal(signal.SIGSTOP)
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert (cancelled.code, cancelled.out.splitlines()[0]) == (0, "run is cancelled")
    process.send_signal(signal.SIGCONT)
    assert end_of(process).code == RunCancelled.exit_code


def test_a_worker_that_survives_sigkill_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that does not respond, which cannot be had here: no signal is sent."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    try:
        with monkeypatch.context() as patch:
            patch.setattr(local, "GRACE_SECONDS", 0.2)
            patch.setattr(psutil.Process, "terminate", lambda self: None)
            patch.setattr(os, "killpg", lambda pid, number: None)
            with pytest.raises(BackendError, match="is still alive after SIGKILL") as raised:
                run.cancel()
    finally:
        run.cancel()
    assert f"cancel {run.folder}" in raised.value.hint
    assert run.status() is Status.cancelled


# Terminals and output


def test_a_run_survives_the_closing_of_its_terminal(tmp_path: Path, undisturbed: Path) -> None:
    words = [*TINY, "run_dir=run"]
    terminal: Any = pexpect.spawn(shlex.join(command(*words)), cwd=str(tmp_path), timeout=120)
    terminal.expect_exact("x_test")
    # The system sends SIGHUP, as when a window is closed. pexpect's own close would send SIGINT too.
    terminal.ptyproc.fileobj.close()
    wait_until(lambda: not terminal.isalive())
    followed = run_command("follow", "run", "--json", cwd=tmp_path)
    assert followed.code == 0, followed.err
    assert followed.json()["result"]["weights_sha256"] == result_of(undisturbed).weights_sha256


@pytest.mark.parametrize("redirection", ["> /dev/full", "<&- >&- 2>&-"])
def test_a_run_without_output_is_completed(tmp_path: Path, started: Start, redirection: str) -> None:
    line = f"{shlex.join(command(*TINY, *REGISTER, 'run_dir=run'))} {redirection}"
    ended = end_of(started("/bin/sh", "-c", line))
    assert ended.code == 0
    assert launch.attach_to(tmp_path / "run").status() is Status.completed
    assert (tmp_path / "models" / "m" / "1" / "model.json").is_file()
    if "full" in redirection:
        assert ended.err == "cannot write output: No space left on device; the command continues without it\n"


def test_a_sweep_whose_reader_has_gone_is_completed(tmp_path: Path, started: Start) -> None:
    sweep = shlex.join(command("--multirun", *TINY, "seed=1,2"))
    line = f"{{ {sweep}; echo $? > code; }} | head -n 1"
    ended = end_of(started("/bin/sh", "-c", line))
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0\n"
    assert ended.out == "[1/2] seed=1\n"
    assert ended.err == "cannot write output: its reader has gone; the command continues without it\n"
    listed = run_command("list", "--json", cwd=tmp_path).json()
    assert [row["status"] for row in listed] == ["completed", "completed"]


def test_a_run_whose_folder_vanishes_leaves_no_worker(tmp_path: Path) -> None:
    process = start_command(*TINY, LONG, "run_dir=run", cwd=tmp_path)
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    worker = worker_of(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "removed")  # in one step, as no removal of many files is
    ended = end_of(process)
    assert ended.code == BackendError.exit_code
    assert ended.err.startswith("error: cannot read run/run.json: No such file or directory\n")
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()
