"""Folders that two processes or two machines share, and clocks that are set: one run, one worker."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import filelock
import psutil
import pytest
from helpers.copies import change_receipt, interrupted_copy
from helpers.fault_points import Gate
from helpers.processes import (
    TINY,
    command,
    end_of,
    result_of,
    resume,
    run_command,
    wait_for_line,
    wait_until,
    worker_of,
)
from helpers.records import write_receipt, write_result

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import local
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, RunCancelled
from mnist_cnn.files import locks
from mnist_cnn.result import Progress
from mnist_cnn.testing import LONG

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.job import Job

    Start = Callable[..., subprocess.Popen[str]]


def stopped_run(tmp_path: Path) -> local.LocalRun:
    """A run whose worker is stopped at its start, so that it costs no time."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    assert isinstance(run, local.LocalRun)
    worker_of(run.folder).suspend()
    return run


# Folders


def test_of_two_that_train_into_one_folder_one_is_refused(tmp_path: Path, started: Start) -> None:
    """The second command starts while the first is writing its job."""
    gate = Gate(tmp_path, "command", "job.json")
    first = started(*command(*TINY, LONG, "seed=1", "run_dir=run"), **gate.environment)
    wait_until(lambda: gate.is_reached, first)
    refused = run_command(*TINY, LONG, "seed=2", "run_dir=run", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert refused.err.startswith("error: run_dir=run: another process is just starting a run there\n")
    gate.open()
    wait_until((tmp_path / "run" / "log.txt").exists, first)
    assert run_folder.read_job(tmp_path / "run").seed == 1
    first.terminate()
    assert end_of(first).code == Interrupted.exit_code


HOLD = (
    "import sys; from pathlib import Path; from mnist_cnn.files import locks\n"
    "with locks.hold(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextlib.contextmanager
def held_by_another(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold a lock; kill that process at the end."""
    words = [sys.executable, "-P", "-c", HOLD, str(lock)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_lock_is_free_once_its_holder_is_killed(tmp_path: Path) -> None:
    with held_by_another(tmp_path / ".lock") as holder:
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(BackendError, match="by another process"), run_folder.lock(tmp_path, 0.2):
            pass
    with run_folder.lock(tmp_path, 0):
        pass


def test_a_file_system_without_locks_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure is simulated, because such a file system is hard to get."""

    def unsupported(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "_acquire", unsupported)
    with pytest.raises(BackendError, match=r"file system.* locks") as raised:  # noqa: SIM117
        with locks.hold(tmp_path / "l", 1.0, "x=Y"):
            pass
    assert "x=Y" in raised.value.hint


def test_resume_writes_the_job_under_the_folders_lock(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So no other process that starts the run clears the half-written file."""
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    write_job = run_folder.write_job

    def check_lock(folder: Path, job: Job) -> None:
        with pytest.raises(BackendError, match="by another process"), run_folder.lock(folder, 0):
            pass
        write_job(folder, job)

    monkeypatch.setattr(run_folder, "write_job", check_lock)
    launch.prepare_resume(str(folder), ())
    assert run_folder.read_job(folder) == run_folder.read_job(small_run)


def test_a_run_that_another_completes_first_is_not_resumed(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    start = launch.prepare_resume(str(folder), ())
    shutil.copytree(small_run, folder, dirs_exist_ok=True)
    with pytest.raises(ConfigurationError, match="run is completed"):
        start()
    assert launch.attach(str(folder)).wait() == result_of(small_run)


def test_a_run_that_is_resumed_as_it_is_cancelled_is_not_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")

    @contextlib.contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        change_receipt(folder, status=Status.preparing, pid=None)
        yield

    monkeypatch.setattr(psutil.Process, "terminate", psutil.Process.kill)  # it cannot write its receipt
    monkeypatch.setattr(run_folder, "lock", after_another)
    run.cancel()
    assert run_folder.read_receipt(run.folder).status is Status.preparing


def test_a_registry_that_another_process_holds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_result(tmp_path / "run")
    (tmp_path / "m").mkdir()
    run = launch.attach_to(tmp_path / "run", [f"register.dir={tmp_path}"])
    with held_by_another(tmp_path / "m" / ".lock"):
        monkeypatch.setattr(locks, "TIMEOUT_SECONDS", 0.2)
        with pytest.raises(BackendError, match=r"m is .* by another process"):
            run.register("m", min_accuracy=0)
    assert run.register("m", min_accuracy=0).version == 1


# Machines


def test_a_worker_whose_run_another_has_taken_over_stops(tmp_path: Path) -> None:
    """Its machine was suspended for an hour, while the run was resumed on another by force."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "x_test")
    worker = worker_of(run.folder)
    worker.suspend()
    taken_over = change_receipt(run.folder, host="the-other", pid=1)
    worker.resume()
    wait_until(lambda: not run.status().is_final and not psutil.pid_exists(worker.pid))
    assert run_folder.read_receipt(run.folder) == taken_over
    assert "is trained by another process now" in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert not run.status().is_final  # it is the other machine's


def test_cancel_does_not_wait_for_a_later_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is resumed just after its worker was cancelled: this process stands for the new worker."""
    submitted, this = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}"), psutil.Process()
    cancelled = worker_of(submitted.folder)

    def kill_and_resume(worker: psutil.Process) -> None:
        worker.kill()
        change_receipt(submitted.folder, pid=this.pid, process_started=this.create_time())

    monkeypatch.setattr(psutil.Process, "terminate", kill_and_resume)
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("it waited for the other worker"))
    launch.attach_to(submitted.folder).cancel()
    wait_until(lambda: not submitted.status().is_final and not psutil.pid_exists(cancelled.pid))


def test_only_force_resumes_a_run_of_another_machine(tmp_path: Path) -> None:
    """In a folder that both share. The other machine is made up: only the receipt names it."""
    run = stopped_run(tmp_path)
    worker_of(run.folder).kill()
    with pytest.raises(BackendError, match="ended without an error"):
        run.wait()
    receipt = change_receipt(run.folder, host="the-other", pid=1)
    run_folder.write_progress(run.folder, Progress("running", 1, 2))
    status = run_command("status", "run", cwd=tmp_path).out
    assert status.startswith("run is running (local")
    assert "the last status that the-other recorded\n" in status
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == BackendError.exit_code
    assert cancelled.err.startswith("error: run is trained on the-other, not on this machine\n")
    assert "cancel it there: python -m mnist_cnn cancel run" in cancelled.err
    assert "resume run force=true" in cancelled.err
    with pytest.raises(ConfigurationError, match="run is running on the-other"):
        resume(run.folder)
    assert run_folder.read_receipt(run.folder) == receipt
    resumed = resume(run.folder, "force=true")
    assert run_folder.read_receipt(run.folder).host == socket.gethostname()
    resumed.cancel()
    assert resumed.status() is Status.cancelled


def test_only_force_moves_a_run_of_another_machine(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=2)
    change_receipt(folder, host="the-other")
    own = tmp_path / "own.py"
    own.write_text("from mnist_cnn.backends.local import LocalBackend as Own", encoding="utf-8")
    place = f"backend={own}:Own"
    with pytest.raises(ConfigurationError, match="run is running on the-other"):
        resume(folder, place)
    result = resume(folder, place, "force=true").wait()
    assert result.weights_sha256 == result_of(small_run).weights_sha256


def test_a_worker_is_found_after_its_machine_was_renamed(tmp_path: Path) -> None:
    run = stopped_run(tmp_path)
    change_receipt(run.folder, host="its-old-name")
    launch.attach_to(run.folder).cancel()
    with pytest.raises(RunCancelled):
        run.wait()


# Clocks


@pytest.mark.parametrize("hours", [-1, 1])
def test_setting_the_clock_does_not_lose_a_run(tmp_path: Path, hours: int) -> None:
    """The clock is left alone: the start in the receipt is moved, as Linux moves the one it reports."""
    run = stopped_run(tmp_path)
    started = run_folder.read_receipt(run.folder).process_started
    assert started is not None
    change_receipt(run.folder, process_started=started + hours * 3600)
    found = launch.attach_to(run.folder)
    assert not found.status().is_final
    with pytest.raises(ConfigurationError, match="run is preparing"):
        resume(run.folder)
    run.cancel()
    assert found.status() is Status.cancelled


def test_latest_is_the_last_run_after_the_clock_was_set_back(tmp_path: Path) -> None:
    before = write_receipt(tmp_path / "before", Status.cancelled)
    ahead = datetime.fromisoformat(before.created) + timedelta(hours=1)
    change_receipt(tmp_path / "before", created=ahead.isoformat(timespec="microseconds"))
    run = stopped_run(tmp_path)
    run.cancel()
    assert launch.attach("latest", f"runs_dir={tmp_path}").folder == run.folder
    listed = run_command("list", "runs_dir=.", cwd=tmp_path).out
    assert listed.index("run  ") < listed.index("before")
    assert listed.count(" 0s ") == 2  # the ages
