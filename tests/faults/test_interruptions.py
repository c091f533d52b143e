"""Signals, terminals that close, parents that die, folders that two want or that vanish, clocks that jump.

Whatever it is: it is worded, what was computed is kept, and the run can be gone on with.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import pexpect
import psutil
import pytest
from helpers.copies import interrupted_copy
from helpers.processes import TINY, command, hear_interrupts, run_command

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import local
from mnist_cnn.config import RegisterConfig
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, RunCancelled
from mnist_cnn.files import locks
from mnist_cnn.result import Progress
from mnist_cnn.testing import LONG
from mnist_cnn.training import worker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mnist_cnn.job import Job

    Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing was in the way of."""
    home = tmp_path_factory.mktemp("whole")
    ended = run_command(*TINY, "run_dir=run", cwd=home)
    assert ended.code == 0, ended.err
    return home / "run"


def weights_of(run: Path) -> str:
    result = run_folder.read_result(run)
    assert result is not None
    return result.weights_sha256


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Start]:
    """Start commands in the test's folder; whatever a failed test leaves of them is ended."""
    processes: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            words,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=hear_interrupts,  # noqa: PLW1509 - no threads here
        )
        processes.append(process)
        return process

    yield start
    for command_process in processes:
        command_process.kill()
        command_process.communicate()
    for receipt in tmp_path.rglob("run.json"):
        launch.attach_to(receipt.parent).cancel()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def wait_for_line(run: Path, text: str) -> None:
    log = run / "log.txt"
    wait_until(lambda: log.is_file() and text in log.read_text(encoding="utf-8", errors="replace"))


def trainer_of(run: Path) -> psutil.Process:
    return psutil.Process(run_folder.read_receipt(run).pid)


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in out + err
    assert "Exception ignored" not in out + err
    return process.returncode, out, err


def started_run(tmp_path: Path) -> local.LocalRun:
    """A run whose trainer stands still from its start on, so that it costs no time."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    assert isinstance(run, local.LocalRun)
    trainer_of(run.folder).suspend()
    return run


# Signals


def test_ctrl_c_however_often_ends_the_run_once_and_is_told_once(tmp_path: Path, started: Start) -> None:
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "epoch 1/")
    trainer = trainer_of(tmp_path / "run")
    while process.poll() is None:  # as the first is heard, as the run is ended, as that is told
        process.send_signal(signal.SIGINT)
        time.sleep(0.005)  # two that have not been heard yet are one
    code, _, err = end_of(process)
    assert code == Interrupted.exit_code
    assert err.count("stopping the run") == 1
    assert "interrupted; run is cancelled\nresume it: " in err
    assert not trainer.is_running()
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert list((tmp_path / "run" / "checkpoints").glob("*.sha256"))


HEAR_ONCE = """
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
def test_from_the_first_signal_that_is_heard_to_the_end_of_the_process_no_other_is(
    started: Start, first: signal.Signals, kind: str
) -> None:
    code, out, _ = end_of(started(sys.executable, "-P", "-c", HEAR_ONCE, str(int(first))))
    assert (code, out) == (0, f"begun\n{kind}\nended\n")


@pytest.mark.parametrize("moment", ["\n", "x_test", "test loss"], ids=["imports", "builds", "saves"])
def test_a_trainer_that_is_told_to_end_twice_at_any_moment_says_so_and_can_be_gone_on_with(
    tmp_path: Path, whole: Path, moment: str
) -> None:
    """While TensorFlow is imported, while the network is built, and while the model is saved."""
    run = launch.submit(*TINY, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, moment)
    trainer = trainer_of(run.folder)
    with contextlib.suppress(psutil.NoSuchProcess):
        while trainer.status() != psutil.STATUS_ZOMBIE:
            trainer.terminate()
            time.sleep(0.005)
    with pytest.raises(RunCancelled):
        run.wait()
    receipt = run_folder.read_receipt(run.folder)
    assert (receipt.status, receipt.exit_code) == (Status.cancelled, RunCancelled.exit_code)
    assert "Traceback" not in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert not list(run.folder.rglob(".writing-*"))
    if moment == "test loss":
        assert launch.resume(str(run.folder)).wait().weights_sha256 == weights_of(whole)


def test_a_trainer_that_stands_still_can_be_cancelled(tmp_path: Path) -> None:
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    trainer = trainer_of(run.folder)
    wait_until((run.folder / "log.txt").read_bytes)  # it imports TensorFlow, and hears signals
    trainer.suspend()
    began = time.monotonic()
    run.cancel()
    assert time.monotonic() - began < local.GRACE_SECONDS  # it was woken, and not killed
    assert run.status() is Status.cancelled
    assert not trainer.is_running()


def test_a_run_whose_command_stands_still_can_be_cancelled(tmp_path: Path, started: Start) -> None:
    """As after Ctrl-Z: nobody hears that the trainer has ended, so that the system keeps its number."""
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "\n")
    process.send_signal(signal.SIGSTOP)
    cancelled = run_command("cancel", "run", cwd=tmp_path, timeout=60)
    assert (cancelled.code, cancelled.out.splitlines()[0]) == (0, "run is cancelled")
    process.send_signal(signal.SIGCONT)
    assert end_of(process)[0] == RunCancelled.exit_code


def test_a_trainer_that_the_system_does_not_let_end_is_worded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that does not answer, which cannot be had here: the signals are left out."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    with monkeypatch.context() as patch:
        patch.setattr(local, "GRACE_SECONDS", 0.2)
        patch.setattr(psutil.Process, "terminate", lambda self: None)
        patch.setattr(os, "killpg", lambda pid, number: None)
        with pytest.raises(BackendError, match="was killed and does not end") as raised:
            run.cancel()
    assert f"cancel {run.folder}" in raised.value.hint
    run.cancel()
    assert run.status() is Status.cancelled


# Terminals and output


def test_a_run_whose_terminal_is_closed_goes_on_and_is_found_again(tmp_path: Path, whole: Path) -> None:
    words = [*TINY, "run_dir=run"]
    terminal: Any = pexpect.spawn(shlex.join(command(*words)), cwd=str(tmp_path), timeout=120)
    terminal.expect_exact("x_test")
    # As a window is closed: the system sends SIGHUP, and nobody the SIGINT that pexpect's own close does.
    terminal.ptyproc.fileobj.close()
    wait_until(lambda: not terminal.isalive())
    followed = run_command("follow", "run", "--json", cwd=tmp_path)
    assert followed.code == 0, followed.err
    assert followed.json()["result"]["weights_sha256"] == weights_of(whole)


@pytest.mark.parametrize("redirection", ["> /dev/full", "<&- >&- 2>&-"])
def test_a_run_whose_output_goes_nowhere_is_seen_through(
    tmp_path: Path, started: Start, redirection: str
) -> None:
    register = ("register.name=m", "register.min_accuracy=0")
    line = f"{shlex.join(command(*TINY, *register, 'run_dir=run'))} {redirection}"
    code, _, err = end_of(started("/bin/sh", "-c", line))
    assert code == 0
    assert launch.attach_to(tmp_path / "run").status() is Status.completed
    assert (tmp_path / "models" / "m" / "1" / "model.json").is_file()
    if "full" in redirection:
        assert err == "cannot write output: No space left on device; the command continues without it\n"


def test_a_sweep_that_nobody_reads_any_more_is_seen_through(tmp_path: Path, started: Start) -> None:
    sweep = shlex.join(command("--multirun", *TINY, "train.epochs=1", "seed=1,2"))
    line = f"{{ {sweep}; echo $? > code; }} | head -n 1"
    _, out, err = end_of(started("/bin/sh", "-c", line))
    assert (tmp_path / "code").read_text(encoding="utf-8") == "0\n"
    assert out == "[1/2] seed=1\n"
    assert err == "cannot write output: its reader has gone; the command continues without it\n"
    listed = run_command("list", "--json", cwd=tmp_path).json()
    assert [row["status"] for row in listed] == ["completed", "completed"]


# Folders


def test_of_two_that_train_into_one_folder_one_is_refused_and_changes_nothing(
    tmp_path: Path, started: Start
) -> None:
    processes = [started(*command(*TINY, LONG, f"seed={seed}", "run_dir=run")) for seed in (1, 2)]
    wait_until(lambda: any(process.poll() is not None for process in processes))
    refused, trains = sorted(processes, key=lambda process: process.poll() is None)
    code, _, err = end_of(refused)
    assert code == ConfigurationError.exit_code
    assert re.match("error: run_dir=run (holds a run already|is not empty and holds no run)\n", err)
    wait_until((tmp_path / "run" / "log.txt").exists)
    seed = processes.index(trains) + 1
    assert run_folder.read_job(tmp_path / "run").seed == seed
    trains.terminate()
    assert end_of(trains)[0] == Interrupted.exit_code


HOLD = (
    "import sys, time; from pathlib import Path; from mnist_cnn import run_folder\n"
    "with run_folder.held(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(600)\n"
)


def test_a_lock_is_waited_for_while_its_holder_lives_and_is_free_once_it_is_killed(
    tmp_path: Path, started: Start
) -> None:
    holder = started(sys.executable, "-P", "-c", HOLD, str(tmp_path))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(BackendError, match="is held by another process"), run_folder.held(tmp_path, 0.2):
        pass
    holder.kill()
    holder.wait()
    with run_folder.held(tmp_path, 0):
        pass


def test_a_file_system_without_locks_is_worded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is made up: there is no such file system here."""

    def without(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(filelock.FileLock, "_acquire", without)
    with pytest.raises(BackendError, match="has no locks") as raised, locks.hold(tmp_path / "l", 1.0, "x=Y"):
        pass
    assert "x=Y" in raised.value.hint


def test_what_a_resume_writes_is_not_cleared_by_another_that_starts_the_run_just_then(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=1)
    write_job = run_folder.write_job

    def while_another_comes(folder: Path, job: Job) -> None:
        with pytest.raises(BackendError, match="is held by another"), run_folder.held(folder, 0):
            run_folder.clear_leftovers(folder)
        write_job(folder, job)

    monkeypatch.setattr(run_folder, "write_job", while_another_comes)
    launch.prepare_resume(str(folder), ())
    assert run_folder.read_job(folder) == run_folder.read_job(whole)


def test_a_run_that_another_completes_before_it_is_started_again_is_left_alone(
    tmp_path: Path, whole: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=1)
    start = launch.prepare_resume(str(folder), ())
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    with pytest.raises(ConfigurationError, match="run is completed"):
        start()
    assert launch.attach(str(folder)).wait() == run_folder.read_result(whole)


def test_a_cancelled_run_that_another_resumes_just_then_is_not_entered_as_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    trainer_of(run.folder)

    @contextlib.contextmanager
    def after_another(folder: Path) -> Iterator[None]:
        started = dataclasses.replace(run_folder.read_receipt(folder), status=Status.preparing, pid=None)
        run_folder.write_receipt(folder, started)
        yield

    monkeypatch.setattr(psutil.Process, "terminate", psutil.Process.kill)  # so that it cannot say it itself
    monkeypatch.setattr(run_folder, "held", after_another)
    run.cancel()
    assert run_folder.read_receipt(run.folder).status is Status.preparing


def test_a_registry_that_another_holds_is_worded(
    tmp_path: Path, started: Start, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    holder = started(sys.executable, "-P", "-c", HOLD, str(tmp_path / "m"))
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    monkeypatch.setattr(locks, "SECONDS", 0.2)
    register = RegisterConfig(name="m", min_accuracy=0.0, dir=str(tmp_path))
    with pytest.raises(BackendError, match="m is held by another process"):
        launch.attach_to(whole).register(register)
    holder.kill()
    holder.wait()
    assert launch.attach_to(whole).register(register).version == 1


def test_a_run_whose_folder_vanishes_is_worded_and_leaves_no_trainer(tmp_path: Path, started: Start) -> None:
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "epoch 1/")
    trainer = trainer_of(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "elsewhere")  # in one step, and then
    shutil.rmtree(tmp_path / "elsewhere")
    code, _, err = end_of(process)
    assert code == BackendError.exit_code
    assert re.match(r"error: cannot read run/run\.json: No such file or directory\n", err)
    psutil.wait_procs([trainer], timeout=60)
    assert not trainer.is_running()


def test_a_trainer_that_nobody_entered_leaves_the_receipt_to_whom_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent died in the moment between; by the time that it gives up, another may train the run."""
    receipt = run_folder.Receipt("local", "run", "", Status.preparing, run_folder.now(), pid=1)
    run_folder.write_receipt(tmp_path, receipt)
    monkeypatch.setattr(run_folder, "ENTRY_SECONDS", 0.1)
    monkeypatch.setattr(worker, "print_log", lambda: None)
    term = signal.getsignal(signal.SIGTERM)
    try:
        assert worker.main([str(tmp_path)]) == BackendError.exit_code
    finally:
        signal.signal(signal.SIGTERM, term)
    assert run_folder.read_receipt(tmp_path) == receipt


# Machines


def test_a_trainer_whose_run_another_has_taken_over_leaves_it_alone(tmp_path: Path) -> None:
    """As one whose machine stood still for an hour, while the run was resumed on another by force."""
    run = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "x_test")
    trainer = trainer_of(run.folder)
    trainer.suspend()
    taken_over = dataclasses.replace(run_folder.read_receipt(run.folder), host="the-other", pid=1)
    run_folder.write_receipt(run.folder, taken_over)
    trainer.resume()
    wait_until(lambda: not run.status().is_final and not psutil.pid_exists(trainer.pid))
    assert run_folder.read_receipt(run.folder) == taken_over
    assert "is trained by another process now" in (run.folder / "log.txt").read_text(encoding="utf-8")
    assert not run.status().is_final  # for it is the other's


def test_who_cancels_a_trainer_waits_for_none_that_is_started_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = launch.submit(*TINY, LONG, f"run_dir={tmp_path / 'run'}")
    cancelled, this = trainer_of(submitted.folder), psutil.Process()

    def kill_and_resume(trainer: psutil.Process) -> None:
        trainer.kill()
        receipt = run_folder.read_receipt(submitted.folder)
        resumed = dataclasses.replace(receipt, pid=this.pid, process_started=this.create_time())
        run_folder.write_receipt(submitted.folder, resumed)

    monkeypatch.setattr(psutil.Process, "terminate", kill_and_resume)
    began = time.monotonic()
    launch.attach_to(submitted.folder).cancel()
    assert time.monotonic() - began < local.GRACE_SECONDS
    wait_until(lambda: not submitted.status().is_final and not psutil.pid_exists(cancelled.pid))


def test_a_run_that_another_machine_trains_is_as_it_last_told_and_goes_on_here_by_force_alone(
    tmp_path: Path,
) -> None:
    """In a folder that both share. The other machine is made up: it stands in the receipt alone."""
    run = started_run(tmp_path)
    trainer_of(run.folder).kill()
    with pytest.raises(BackendError, match="ended without a word"):
        run.wait()
    receipt = dataclasses.replace(run_folder.read_receipt(run.folder), host="the-other", pid=1)
    run_folder.write_receipt(run.folder, receipt)
    run_folder.write_progress(run.folder, Progress("running", 1, 2))
    status = run_command("status", "run", cwd=tmp_path).out
    assert status.startswith("run is running (local")
    assert "this is the last status that the-other recorded\n" in status
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == BackendError.exit_code
    assert cancelled.err.startswith("error: run is trained on the-other, not on this machine\nend it there: ")
    assert "resume run force=true" in cancelled.err
    with pytest.raises(ConfigurationError, match="run is running on the-other"):
        launch.resume(str(run.folder))
    assert run_folder.read_receipt(run.folder) == receipt
    resumed = launch.resume(str(run.folder), "force=true")
    assert run_folder.read_receipt(run.folder).host == socket.gethostname()
    resumed.cancel()
    assert resumed.status() is Status.cancelled


def test_a_run_of_another_machine_goes_on_at_another_place_by_force_alone(
    tmp_path: Path, whole: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=1)
    run_folder.write_receipt(folder, dataclasses.replace(run_folder.read_receipt(folder), host="the-other"))
    own = tmp_path / "own.py"
    own.write_text("from mnist_cnn.backends.local import LocalBackend as Own", encoding="utf-8")
    place = f"backend={own}:Own"
    with pytest.raises(ConfigurationError, match="run is running on the-other"):
        launch.resume(str(folder), place)
    assert launch.resume(str(folder), place, "force=true").wait().weights_sha256 == weights_of(whole)


def test_a_trainer_is_found_again_although_its_machine_has_another_name_now(tmp_path: Path) -> None:
    run = started_run(tmp_path)
    receipt = dataclasses.replace(run_folder.read_receipt(run.folder), host="as-it-was")
    run_folder.write_receipt(run.folder, receipt)
    launch.attach_to(run.folder).cancel()
    with pytest.raises(RunCancelled):
        run.wait()


# Clocks


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_while_a_run_trains_does_not_make_it_lost(tmp_path: Path, hours: int) -> None:
    """The clock is left alone: what the receipt has of it is moved, as Linux would by what it is set."""
    run = started_run(tmp_path)
    receipt = run_folder.read_receipt(run.folder)
    assert receipt.process_started is not None
    moved = dataclasses.replace(receipt, process_started=receipt.process_started + hours * 3600)
    run_folder.write_receipt(run.folder, moved)
    found = launch.attach_to(run.folder)
    assert not found.status().is_final
    with pytest.raises(ConfigurationError, match="run is preparing"):
        launch.resume(str(run.folder))
    run.cancel()
    assert found.status() is Status.cancelled


def test_latest_is_the_run_that_was_started_last_also_after_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat(timespec="microseconds")
    (tmp_path / "before").mkdir()
    run_folder.write_receipt(
        tmp_path / "before", run_folder.Receipt("local", "before", "", Status.cancelled, ahead)
    )
    run = started_run(tmp_path)
    run.cancel()
    assert launch.attach("latest", f"runs_dir={tmp_path}").folder == run.folder
    listed = run_command("list", "runs_dir=.", cwd=tmp_path).out
    assert listed.index("run  ") < listed.index("before")
    assert listed.count("a moment") == 2
