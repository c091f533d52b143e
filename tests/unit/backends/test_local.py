"""The local backend without training: statuses from a run's files and processes, and the registry."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from helpers.copies import change_receipt
from helpers.records import write_receipt, write_result

from mnist_cnn import launch, process_identity, run_folder
from mnist_cnn.backend import Run, Status
from mnist_cnn.backends.local import LocalRun
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled
from mnist_cnn.files import atomic
from mnist_cnn.result import Progress
from mnist_cnn.training import worker

THIS = psutil.Process()


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    """Restore the handler that the worker's main function replaces."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_reused_pid_is_not_taken_for_the_worker(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.running, pid=THIS.pid, process_started=1.0, host=socket.gethostname())
    run = launch.attach_to(tmp_path)
    assert run.status() is Status.lost
    run.cancel()  # and this process is still here


def test_a_process_is_recognised_by_its_start(tmp_path: Path) -> None:
    started = process_identity.start_time(THIS.pid)
    assert started is not None
    assert process_identity.started_at(THIS, started + 1)
    assert not process_identity.started_at(THIS, started + 10)
    write_receipt(tmp_path, Status.running, pid=THIS.pid, process_started=started, host=socket.gethostname())
    assert launch.attach_to(tmp_path).status() is Status.running


def test_a_zombie_and_an_impossible_pid_are_no_live_process() -> None:
    for pid in (4_194_305, 2**40, -1):
        assert process_identity.live_process(pid) is None
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays a zombie
        assert process_identity.live_process(process.pid) is None


@pytest.fixture
def sleeping(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that the receipt in `run` names as its worker; it writes nothing."""
    sleep = [sys.executable, "-c", "import signal; signal.pause()"]
    with subprocess.Popen(sleep, start_new_session=True) as process:
        started = process_identity.start_time(process.pid)
        here = {"pid": process.pid, "process_started": started, "host": socket.gethostname()}
        write_receipt(tmp_path / "run", Status.running, **here)
        yield process
        process.kill()


def test_a_killed_worker_reads_as_cancelled_before_the_receipt_does(
    tmp_path: Path, sleeping: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A follower polls between the kill and the receipt; then the process that cancels is killed too."""

    def stop(*_: object) -> None:
        sleeping.kill()
        sleeping.wait()
        raise KeyboardInterrupt

    run = launch.attach_to(tmp_path / "run")
    monkeypatch.setattr(LocalRun, "_stop", stop)
    with pytest.raises(KeyboardInterrupt):
        run.cancel()
    assert run_folder.read_receipt(run.folder).status is Status.running
    assert run.status() is Status.cancelled
    with pytest.raises(RunCancelled) as raised:
        run.wait()
    assert raised.value.hint == f"resume it: python -m mnist_cnn resume {run.folder}"
    run_folder.clear_leftovers(run.folder)  # as a resume does
    assert run.status() is Status.lost


def test_a_cancellation_is_recorded_for_a_worker_that_cannot(
    tmp_path: Path, sleeping: subprocess.Popen[bytes]
) -> None:
    launch.attach_to(tmp_path / "run").cancel()
    assert sleeping.wait() == -signal.SIGTERM
    receipt = run_folder.read_receipt(tmp_path / "run")
    assert (receipt.status, receipt.exit_code) == (Status.cancelled, RunCancelled.exit_code)


def test_a_process_here_is_not_taken_for_a_worker_on_another_machine(
    tmp_path: Path, sleeping: subprocess.Popen[bytes]
) -> None:
    change_receipt(tmp_path / "run", host="the-other")
    with pytest.raises(BackendError, match="is trained on the-other, not on this machine"):
        launch.attach_to(tmp_path / "run").cancel()
    assert sleeping.poll() is None


def test_a_worker_killed_before_the_receipt_leaves_a_completed_run(tmp_path: Path) -> None:
    result = write_result(tmp_path)
    write_receipt(tmp_path, Status.finalizing, pid=THIS.pid, process_started=1.0, host=socket.gethostname())
    (tmp_path / ".writing-ab12.json").write_text("half a receipt")
    run = launch.attach_to(tmp_path)
    assert run.status() is Status.completed
    assert run.wait() == result
    receipt = run_folder.read_receipt(tmp_path)
    assert (receipt.status, receipt.exit_code) == (Status.completed, 0)
    assert not list(tmp_path.glob(".writing-*"))


def test_a_log_is_read_to_the_end_that_was_written_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker prints its last line and ends after the follower has read the log."""
    (tmp_path / "log.txt").write_text("first\n")
    write_receipt(tmp_path, Status.running)
    statuses = iter([Status.running, Status.completed])

    def status(run: LocalRun) -> Status:
        now = next(statuses)
        if now.is_final:
            with (run.folder / "log.txt").open("a") as log:
                log.write("last, without an end")
        return now

    monkeypatch.setattr(LocalRun, "status", status)
    assert list(launch.attach_to(tmp_path).logs(follow=True)) == ["first", "last, without an end"]


def test_a_worker_that_cannot_be_started_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(BackendError, match=r"cannot start .*no-python: No such file"):
        launch.submit(f"run_dir={tmp_path / 'run'}")
    assert launch.attach_to(tmp_path / "run").status() is Status.failed


def test_a_run_without_a_log_is_an_error(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.completed)
    with pytest.raises(BackendError, match=r"cannot read .*log\.txt: No such file") as raised:
        list(launch.attach_to(tmp_path).logs(follow=True))
    assert raised.value.hint == "the run left no log"


def test_a_cancellation_that_a_library_catches_ends_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras and TensorFlow have a bare `except` here and there."""
    steps: list[int] = []

    def catching(*_: Any, on_progress: Any, **__: Any) -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        for step in range(3):
            on_progress(Progress("running", step=step))
            steps.append(step)

    write_receipt(tmp_path, Status.preparing, pid=os.getpid())
    monkeypatch.setattr(run_folder, "read_job", lambda folder: None)
    monkeypatch.setattr(worker, "train", catching)
    monkeypatch.setattr(worker, "print_log", lambda: None)
    assert worker.main([str(tmp_path)]) == RunCancelled.exit_code
    assert steps == []
    assert run_folder.read_receipt(tmp_path).status is Status.cancelled


def test_a_worker_that_no_receipt_names_leaves_the_receipt_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent died before naming it. By the time it gives up, another process may train the run."""
    receipt = write_receipt(tmp_path, Status.preparing, pid=1)
    monkeypatch.setattr(run_folder, "ENTRY_SECONDS", 0.1)
    monkeypatch.setattr(worker, "print_log", lambda: None)
    assert worker.main([str(tmp_path)]) == BackendError.exit_code
    assert run_folder.read_receipt(tmp_path) == receipt


@pytest.fixture
def completed(tmp_path: Path) -> Run:
    """A completed run in the folder `run`, whose registry is `models`."""
    write_result(tmp_path / "run")
    return launch.attach_to(tmp_path / "run", (f"register.dir={tmp_path / 'models'}",))


def test_a_damaged_model_is_not_registered(tmp_path: Path, completed: Run) -> None:
    (tmp_path / "run" / "model.keras").write_bytes(b"model.kerat")
    with pytest.raises(BackendError, match=r"model\.keras"):
        completed.register("m", min_accuracy=0)
    assert not (tmp_path / "models").exists()


def test_a_damaged_version_of_a_registry_is_an_error(tmp_path: Path, completed: Run) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.json").write_text("{")
    with pytest.raises(BackendError, match=r"m/1/model\.json is damaged"):
        completed.register("m", min_accuracy=0)


def test_a_version_exists_only_when_it_is_whole(
    tmp_path: Path, completed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "models" / "m"
    half = home / ".writing-1" / "model.onnx"  # of a process that was killed
    half.parent.mkdir(parents=True)
    half.touch()
    write_text = atomic.write_text

    def check(path: Path, text: str) -> None:
        assert not (home / "1").exists()
        write_text(path, text)

    monkeypatch.setattr(atomic, "write_text", check)
    model = completed.register("m", min_accuracy=0)
    assert (model.version, model.is_new) == (1, True)
    assert (home / "1" / "model.onnx").read_bytes() == b"model.onnx"
    assert sorted(path.name for path in home.iterdir() if path.name != ".lock") == ["1"]
    assert not completed.register("m", min_accuracy=0).is_new


def test_the_number_of_a_removed_version_is_not_used_again(tmp_path: Path, completed: Run) -> None:
    for version in (1, 3):  # 2 was removed
        shutil.copytree(tmp_path / "run", tmp_path / "models" / "m" / str(version))
    assert completed.register("m", min_accuracy=0).version == 4


def test_an_exact_job_is_refused_before_its_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = ("train.numerics=exact", f"runs_dir={tmp_path / 'runs'}")
    for call in (launch.plan, launch.submit):
        with pytest.raises(ConfigurationError, match=r"backend\.device=gpu requires a GPU"):
            call(*exact, "backend.device=gpu")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    for call in (launch.plan, launch.submit):
        with pytest.raises(BackendError, match="this is Linux on aarch64"):
            call(*exact)
    assert launch.plan(f"runs_dir={tmp_path / 'runs'}").lines
    assert not (tmp_path / "runs").exists()
