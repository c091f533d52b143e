"""The local backend: the contract, and what only a process on this machine can meet."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from helpers.processes import SMALL, command, hear_interrupts, run_command

from mnist_cnn import backends, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import local
from mnist_cnn.config import RegisterConfig
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled
from mnist_cnn.files import atomic
from mnist_cnn.result import Progress
from mnist_cnn.testing import LONG, BackendContract
from mnist_cnn.training import worker

if TYPE_CHECKING:
    from collections.abc import Callable


class TestLocalBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> tuple[str, ...]:
        return ("backend=local",)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL


def wait_for_line(folder: Path, text: str, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until the run's log holds a text; fail where the command has ended before."""
    deadline = time.monotonic() + 120
    while not (folder / "log.txt").is_file() or text not in (folder / "log.txt").read_text(errors="replace"):
        assert process is None or process.poll() is None, "the command ended before"
        assert time.monotonic() < deadline, f"{text!r} never came"
        time.sleep(0.05)


def start_command(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509 - no threads here
    )


def trainer_of(folder: Path) -> psutil.Process:
    return psutil.Process(run_folder.read_receipt(folder).pid)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_ends_its_run_and_exits_130(tmp_path: Path, ending: signal.Signals) -> None:
    process = start_command(*SMALL, LONG, "run_dir=run", cwd=tmp_path)
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    trainer = trainer_of(tmp_path / "run")
    process.send_signal(ending)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "resume run" in err
    assert "Traceback" not in err
    assert not trainer.is_running()
    assert launch.attach_to(tmp_path / "run").status() is Status.cancelled
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_an_interrupted_run_resumes_to_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
    job = [*SMALL, "train.epochs=4"]
    process = start_command(*job, "run_dir=killed", cwd=tmp_path)
    wait_for_line(tmp_path / "killed", "epoch 1/", process)
    trainer_of(tmp_path / "killed").kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == BackendError.exit_code
    assert "resume" in err
    resumed = run_command("resume", "killed", "--json", cwd=tmp_path)
    whole = run_command(*job, "run_dir=whole", "--json", cwd=tmp_path)
    assert resumed.code == whole.code == 0, resumed.err + whole.err
    assert "going on after epoch" in (tmp_path / "killed" / "log.txt").read_text()
    resumed_result, whole_result = resumed.json()["result"], whole.json()["result"]
    assert resumed_result["weights_sha256"] == whole_result["weights_sha256"]
    assert [row["loss"] for row in resumed_result["history"]] == [
        row["loss"] for row in whole_result["history"]
    ]


def test_a_killed_trainer_reads_as_lost(tmp_path: Path) -> None:
    run = launch.submit(*SMALL, LONG, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "epoch 1/")
    trainer_of(run.folder).kill()
    with pytest.raises(BackendError, match="ended without a word"):
        run.wait()
    assert launch.attach_to(run.folder).status() is Status.lost
    listed = run_command("list", f"runs_dir={tmp_path}", "--json", cwd=tmp_path).json()
    assert [row["status"] for row in listed] == ["lost"]


def test_a_run_goes_on_when_its_command_dies_and_can_be_followed(tmp_path: Path) -> None:
    process = start_command(*SMALL, "run_dir=run", cwd=tmp_path)
    wait_for_line(tmp_path / "run", "x_train", process)
    process.kill()
    process.communicate(timeout=60)
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == 0, followed.err
    assert "completed: test accuracy" in followed.out


def test_a_pid_that_belongs_to_another_process_now_is_not_taken_for_the_trainer(
    tmp_path: Path, small_run: Path
) -> None:
    receipt = json.loads((small_run / "run.json").read_text())
    receipt |= {"status": "running", "pid": os.getpid(), "process_started": 1.0}
    (tmp_path / "run.json").write_text(json.dumps(receipt))
    run = launch.attach_to(tmp_path)
    assert run.status() is Status.lost
    run.cancel()  # and this process lives on


@pytest.mark.parametrize(
    ("largest", "unwritten"), [(4_000_000, "epoch-000001.npz"), (4_825_000, "model.keras")]
)
def test_a_full_disk_is_exit_4_with_nothing_half_written(
    tmp_path: Path, largest: int, unwritten: str
) -> None:
    """A limit on file size stands for the disk: the write itself really fails, in the trainer."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    ended = subprocess.run(
        command(*SMALL, "train.epochs=1", "train.optimizer=sgd", "run_dir=run"),
        cwd=tmp_path,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == BackendError.exit_code, ended.stdout + ended.stderr
    assert re.search(rf"error: cannot write \S+/{unwritten}: ", ended.stderr)
    assert "Traceback" not in ended.stdout + ended.stderr
    assert not list((tmp_path / "run").rglob(unwritten))
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu_run(tmp_path: Path) -> None:
    ended = run_command(*SMALL, "backend.device=gpu", "run_dir=run", cwd=tmp_path, CUDA_VISIBLE_DEVICES="-1")
    assert ended.code == BackendError.exit_code
    assert "error: backend.device=gpu" in ended.err
    assert "mnist-cnn[gpu]" in ended.err


def test_a_local_run_never_loads_azureml(tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_cnn.cli.main import main; code = main(['plan', 'backend=local']); "
        "print([name for name in sys.modules if name.partition('.')[0] == 'azureml'], code)"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.splitlines()[-1] == "[] 0"


def test_tensorflows_chatter_is_in_the_log_and_not_before_the_user(tmp_path: Path) -> None:
    ended = run_command(*SMALL, "train.epochs=1", "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    log = (tmp_path / "run" / "log.txt").read_text().splitlines()
    chatter = [line for line in log if run_folder.trainer_line(line) is None]
    assert chatter
    shown = ended.out + ended.err
    assert not [line for line in chatter if line.strip() and line in shown]
    assert "x_train (1000, 28, 28, 1), y_train (1000, 10)" in shown


def test_two_runs_at_once_register_as_two_versions(tmp_path: Path, small_run: Path) -> None:
    """Two processes at once on one registry, with copies of one run that have ids of their own."""
    for name in ("a", "b"):
        copy_run(small_run, tmp_path / name)
        receipt = json.loads((small_run / "run.json").read_text())
        (tmp_path / name / "run.json").write_text(json.dumps(receipt | {"id": name}))
    settings = ("register.name=m", "register.min_accuracy=0", "--json")
    processes = [start_command("register", name, *settings, cwd=tmp_path) for name in ("a", "b")]
    versions = [json.loads(process.communicate(timeout=60)[0])["version"] for process in processes]
    assert sorted(versions) == [1, 2]


def test_a_damaged_model_is_not_registered(tmp_path: Path, small_run: Path) -> None:
    copy_run(small_run, tmp_path / "run")
    model = bytearray((small_run / "model.keras").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "run" / "model.keras").write_bytes(model)
    ended = run_command("register", "run", "register.name=m", "register.min_accuracy=0", cwd=tmp_path)
    assert ended.code == BackendError.exit_code
    assert "model.keras is not the file that the training wrote" in ended.err


def test_a_cancellation_that_a_library_catches_is_heard_at_the_next_step(
    tmp_path: Path, small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras and TensorFlow have a bare `except` here and there."""
    copy_run(small_run, tmp_path / "run")
    steps: list[int] = []

    def catching(*_: Any, on_progress: Any, **__: Any) -> None:
        with contextlib.suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        for step in range(3):
            on_progress(Progress("running", step=step))
            steps.append(step)

    monkeypatch.setattr(worker, "train", catching)
    monkeypatch.setattr(worker, "print_log", lambda: None)
    monkeypatch.setattr(run_folder, "await_entry", lambda folder, pid: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert worker.main([str(tmp_path / "run")]) == RunCancelled.exit_code
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps == []


def test_a_run_cancelled_while_its_network_is_compiled_is_cancelled_and_no_bug(tmp_path: Path) -> None:
    """TensorFlow and Keras catch exceptions while they trace; this one they must let through."""
    run = launch.submit(*SMALL, LONG, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "x_test")
    started = time.monotonic()
    run.cancel()
    assert time.monotonic() - started < local.GRACE_SECONDS  # it ended by itself, and was not killed
    assert run.status() is Status.cancelled
    assert "Traceback" not in (run.folder / "log.txt").read_text()


def test_runs_whose_folders_have_one_name_are_two_runs(tmp_path: Path) -> None:
    submitted = [
        launch.submit(*SMALL, "train.epochs=1", f"seed={seed}", f"run_dir={tmp_path / str(seed) / 'run'}")
        for seed in (1, 2)
    ]
    register = RegisterConfig(name="m", min_accuracy=0.0, dir=str(tmp_path / "models"))
    versions = []
    for run in submitted:
        run.wait()
        versions.append(run.register(register).version)
    assert versions == [1, 2]


def test_of_two_commands_that_resume_one_run_one_is_refused(tmp_path: Path) -> None:
    run = launch.submit(*SMALL, LONG, f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "x_test")
    run.cancel()
    processes = [start_command("resume", "run", "--json", cwd=tmp_path) for _ in range(2)]
    try:
        refused = None
        while refused is None:
            refused = next((process for process in processes if process.poll() is not None), None)
            time.sleep(0.05)
        _, err = refused.communicate(timeout=60)
        assert refused.returncode == ConfigurationError.exit_code, err
        assert "follow" in err
    finally:
        for process in processes:
            process.terminate()
            process.communicate(timeout=60)
    assert launch.attach_to(tmp_path / "run").status() is Status.cancelled


def test_a_resumed_run_keeps_its_device_and_takes_no_other_settings(tmp_path: Path) -> None:
    run = launch.submit(*SMALL, "backend.device=cpu", f"run_dir={tmp_path / 'run'}")
    wait_for_line(run.folder, "epoch 1/")
    run.cancel()
    refused = run_command("resume", "run", "train.epochs=3", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert "resume does not take train.epochs=3" in refused.err
    before = run_folder.read_receipt(run.folder)
    assert before.backend_settings == {"device": "cpu"}
    resumed = launch.resume(str(run.folder))
    result = resumed.wait()
    after = run_folder.read_receipt(run.folder)
    assert (after.id, after.created, after.backend_settings) == (before.id, before.created, {"device": "cpu"})
    assert run_folder.read_history(run.folder) == result.history


def test_a_run_killed_after_its_last_checkpoint_gets_its_whole_history(
    tmp_path: Path, small_run: Path
) -> None:
    copy_run(small_run, tmp_path / "run")
    shutil.copytree(small_run / "checkpoints", tmp_path / "run" / "checkpoints")
    for name in ("metrics.jsonl", "result.json", "model.keras"):
        (tmp_path / "run" / name).unlink()
    receipt = json.loads((small_run / "run.json").read_text()) | {"status": "running"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(receipt))
    (tmp_path / "run" / ".writing-model.keras").write_text("half")
    result = launch.resume(str(tmp_path / "run")).wait()
    assert run_folder.read_history(tmp_path / "run") == result.history
    before = run_folder.read_result(small_run)
    assert before is not None
    assert result.weights_sha256 == before.weights_sha256
    assert not (tmp_path / "run" / ".writing-model.keras").exists()


def test_a_result_from_before_a_run_went_on_is_not_taken_for_its_own(tmp_path: Path, small_run: Path) -> None:
    """One that was cancelled when its result was written goes on; then its trainer is killed."""
    copy_run(small_run, tmp_path / "run")
    receipt = json.loads((small_run / "run.json").read_text()) | {"status": "cancelled"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(receipt))
    run = launch.resume(str(tmp_path / "run"))
    trainer_of(run.folder).kill()
    with pytest.raises(BackendError, match="ended without a word"):
        run.wait()
    assert launch.attach_to(run.folder).status() is Status.lost


def test_a_trainer_that_cannot_be_started_is_a_worded_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(BackendError, match=r"cannot start .*no-python: No such file"):
        launch.submit(*SMALL, f"run_dir={tmp_path / 'run'}")
    assert launch.attach_to(tmp_path / "run").status() is Status.failed


def test_following_a_run_without_a_log_is_a_worded_error(tmp_path: Path, small_run: Path) -> None:
    copy_run(small_run, tmp_path / "run")
    (tmp_path / "run" / "log.txt").unlink()
    ended = run_command("follow", "run", cwd=tmp_path)
    assert ended.code == BackendError.exit_code
    assert "error: cannot read run/log.txt" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("damage", ["{", "[]", '{"schema": 2}', "created", "pid", "url"])
def test_a_damaged_receipt_is_worded_and_does_not_hide_other_runs(
    tmp_path: Path, small_run: Path, damage: str
) -> None:
    for name in ("good", "bad"):
        copy_run(small_run, tmp_path / name)
    if damage in ("created", "pid", "url"):
        value = 1 if damage == "url" else "yesterday"
        damage = json.dumps(json.loads((small_run / "run.json").read_text()) | {damage: value})
    (tmp_path / "bad" / "run.json").write_text(damage)
    listed = run_command("list", f"runs_dir={tmp_path}", "--json", cwd=tmp_path)
    assert [row["run"] for row in listed.json()] == ["good"]
    status = run_command("status", "bad", cwd=tmp_path)
    assert status.code == BackendError.exit_code
    assert "bad/run.json" in status.err
    assert "Traceback" not in status.err


def test_a_damaged_registry_is_worded(tmp_path: Path, small_run: Path) -> None:
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "1" / "model.json").write_text("{")
    register = RegisterConfig(name="m", min_accuracy=0.0, dir=str(tmp_path / "models"))
    with pytest.raises(BackendError, match=r"m/1/model\.json is damaged"):
        launch.attach_to(small_run).register(register)


def test_a_backend_whose_extra_is_missing_says_which_install_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entry = backends.Entry("mnist_cnn.backends.cloud:CloudBackend", requires="no_such_sdk", extra="cloud")
    monkeypatch.setitem(backends.BACKENDS, "cloud", entry)
    with pytest.raises(ConfigurationError, match="needs no_such_sdk, which is not installed") as raised:
        backends.backend_class("cloud")
    assert "pip install 'mnist-cnn[cloud]'" in raised.value.hint
    with pytest.raises(ConfigurationError, match="there are azure, cloud, local"):
        backends.backend_class("clod")


def test_a_backend_from_a_file_is_one_class_however_often_it_is_asked_for(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.py").write_text(
            "from mnist_cnn.backends.local import LocalBackend\n\n\nclass Own(LocalBackend):\n    pass\n"
        )
    a, again, b = (
        backends.backend_class(f"{tmp_path / folder / 'own.py'}:Own") for folder in ("a", "a", "b")
    )
    assert a is again
    assert a is not b


def copy_run(run: Path, to: Path) -> None:
    """Copy a run's files, without its checkpoints."""
    to.mkdir()
    for file in run.iterdir():
        if file.is_file():
            shutil.copyfile(file, to / file.name)


@pytest.mark.parametrize("written", ["job.json", "run.json", "log.txt"])
def test_an_interrupt_while_a_run_is_started_leaves_no_trainer_behind(tmp_path: Path, written: str) -> None:
    process = start_command(*SMALL, LONG, "run_dir=run", cwd=tmp_path)
    while not (tmp_path / "run" / written).exists():
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "run is cancelled" in err
    receipt = run_folder.read_receipt(tmp_path / "run")
    assert receipt.status is Status.cancelled
    assert not psutil.pid_exists(receipt.pid or 0)


DAMAGED_PROGRESS = (
    '{"status": "bogus"}',
    '{"status": "running", "step": "1"}',
    '{"status": "running", "loss": 1' + 400 * "0" + "}",
    '{"status": "running", "loss": "x"}',
    '{"status": "running", "step": NaN}',
)


def test_a_progress_file_that_cannot_be_removed_does_not_hide_how_the_run_ended(tmp_path: Path) -> None:
    receipt = run_folder.Receipt("local", "run", "", Status.running, run_folder.now())
    run_folder.write_receipt(tmp_path, receipt)
    (tmp_path / "progress.json").mkdir()
    run_folder.ended(tmp_path, Status.failed, BackendError("the disk is full"))
    assert run_folder.read_receipt(tmp_path).error == "the disk is full"


@pytest.mark.parametrize("damage", [*DAMAGED_PROGRESS, "[" * 100_000])
def test_a_damaged_progress_file_is_no_progress(tmp_path: Path, damage: str) -> None:
    (tmp_path / "progress.json").write_text(damage)
    assert run_folder.read_progress(tmp_path) is None


DAMAGED_RESULT = (
    '"accuracy": "x"',
    '"loss": NaN',
    '"loss": 1' + 400 * "0",
    '"versions": []',
    '"files": {"../x": {"bytes": 1, "sha256": ""}}',
    '"files": {"x": {"bytes": "1", "sha256": ""}}',
)


@pytest.mark.parametrize("damage", DAMAGED_RESULT)
def test_a_damaged_result_is_worded(tmp_path: Path, small_run: Path, damage: str) -> None:
    copy_run(small_run, tmp_path / "run")
    result = json.loads((small_run / "result.json").read_text()) | json.loads(f"{{{damage}}}")
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    with pytest.raises(BackendError, match=r"run/result\.json is not a result"):
        launch.attach_to(tmp_path / "run").wait()


ROW = (
    '{"epoch": 1, "loss": 1, "accuracy": 1, "val_loss": 1, "val_accuracy": 1, '
    '"learning_rate": 1, "seconds": %s}'
)


@pytest.mark.parametrize("damage", ["null", '"1"', "[]", "NaN", "1" + 400 * "0"])
def test_a_damaged_history_is_worded(tmp_path: Path, damage: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(ROW % "1.5")
    assert len(run_folder.read_history(tmp_path)) == 1
    (tmp_path / "metrics.jsonl").write_text(ROW % damage)
    with pytest.raises(BackendError, match=r"metrics\.jsonl is no history"):
        run_folder.read_history(tmp_path)


def test_a_receipt_with_a_number_beyond_reason_is_worded(tmp_path: Path, small_run: Path) -> None:
    copy_run(small_run, tmp_path / "run")
    receipt = json.loads((small_run / "run.json").read_text()) | {"status": "running"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(receipt | {"process_started": 10**400}))
    with pytest.raises(BackendError, match=r"run\.json is no receipt: ValueError\('process_started"):
        launch.attach_to(tmp_path / "run").status()


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EIO])
def test_a_file_system_that_syncs_no_folder_costs_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It is made up: those that can be had here sync their folders. A disk that fails is heard."""

    def fsync(handle: int, *, really: Callable[[int], None] = os.fsync) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        really(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    fails = pytest.raises(BackendError, match="Input/output error")
    with fails if number == errno.EIO else contextlib.nullcontext():
        atomic.write_text(tmp_path / "file", "whole")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["whole"]


@pytest.mark.parametrize(
    ("durable", "order"), [(True, ["file synced", "renamed", "folder synced"]), (False, ["renamed"])]
)
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, durable: bool, order: list[str]
) -> None:
    done: list[str] = []
    replace = Path.replace

    def fsync(handle: int) -> None:
        done.append("folder synced" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file synced")

    def rename(path: Path, target: Path) -> Path:
        done.append("renamed")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    atomic.write_text(tmp_path / "file", "whole", durable=durable)
    assert done == order
