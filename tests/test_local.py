"""The local backend: the contract, and what only a process on this machine can meet."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from contract import LONG, BackendContract
from processes import SMALL, command, run_command

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError


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


def hear_interrupts() -> None:
    """Undo that whoever runs the tests in the background has SIGINT ignored, which a process inherits."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


def test_a_full_disk_while_saving_is_exit_4_with_nothing_half_written(tmp_path: Path) -> None:
    """A limit on file size stands for the disk: the write itself really fails, in the trainer."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))

    ended = subprocess.run(
        command(*SMALL, "run_dir=run"),
        cwd=tmp_path,
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == BackendError.exit_code, ended.stdout + ended.stderr
    assert "error: cannot write" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    left = [path.name for path in (tmp_path / "run").rglob("*") if path.stat().st_size > 1_000_000]
    assert left == []
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_gpu_that_is_not_there_is_an_error_and_not_a_cpu_run(tmp_path: Path) -> None:
    ended = run_command(*SMALL, "backend.device=gpu", "run_dir=run", cwd=tmp_path, CUDA_VISIBLE_DEVICES="-1")
    assert ended.code == BackendError.exit_code
    assert "error: backend.device=gpu" in ended.err
    assert "mnist-cnn[gpu]" in ended.err


def test_a_local_run_never_loads_azureml(tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_cnn import cli; code = cli.main(['plan', 'backend=local']); "
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
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "oneDNN" in log
    shown = ended.out + ended.err
    assert not [word for word in ("oneDNN", "absl", "cuda", "WARNING", "tensorflow/") if word in shown]
    assert "x_train (1000, 28, 28, 1), y_train (1000, 10)" in shown


def test_two_runs_at_once_register_as_two_versions(tmp_path: Path, small_run: Path) -> None:
    """Two processes at once on one registry, with copies of one run that have ids of their own."""
    for name in ("a", "b"):
        copy = tmp_path / name
        copy.mkdir()
        for file in small_run.iterdir():
            if file.is_file():
                (copy / file.name).write_bytes(file.read_bytes())
        receipt = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(receipt | {"id": name}))
    settings = ("register.name=m", "register.min_accuracy=0", "--json")
    processes = [start_command("register", name, *settings, cwd=tmp_path) for name in ("a", "b")]
    versions = [json.loads(process.communicate(timeout=60)[0])["version"] for process in processes]
    assert sorted(versions) == [1, 2]


def test_a_damaged_model_is_not_registered(tmp_path: Path, small_run: Path) -> None:
    for file in small_run.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    model = bytearray((tmp_path / "model.keras").read_bytes())
    model[len(model) // 2] ^= 1
    (tmp_path / "model.keras").write_bytes(model)
    ended = run_command("register", ".", "register.name=m", "register.min_accuracy=0", cwd=tmp_path)
    assert ended.code == BackendError.exit_code
    assert "model.keras is not the file that the training wrote" in ended.err
