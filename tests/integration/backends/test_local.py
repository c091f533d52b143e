"""The local backend: the contract, and what only a process on this machine can meet."""

from __future__ import annotations

import dataclasses
import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.copies import change_receipt, copy_run, interrupted_copy
from helpers.fault_points import Gate, fault
from helpers.processes import (
    TINY,
    Ended,
    command,
    end_of,
    result_of,
    resume,
    run_command,
    run_successfully,
    start_command,
    wait_for_line,
    wait_for_worker,
    wait_until,
    worker_of,
)

from mnist_cnn import launch, process_identity, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError, Interrupted, RunCancelled
from mnist_cnn.files import locks
from mnist_cnn.testing import LONG, BackendContract

Start = Callable[..., subprocess.Popen[str]]


class TestLocalBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> tuple[str, ...]:
        return ("backend=local",)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return (*TINY, "train.epochs=2")


def test_sigterm_ends_a_command_and_its_run(tmp_path: Path, started: Start) -> None:
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    worker = worker_of(tmp_path / "run")
    process.terminate()
    ended = end_of(process)
    assert ended.code == Interrupted.exit_code
    assert "resume run" in ended.err
    assert not worker.is_running()
    assert launch.attach_to(tmp_path / "run").status() is Status.cancelled
    assert not list((tmp_path / "run").glob(".writing-*"))


def test_a_killed_worker_is_lost(tmp_path: Path, started: Start) -> None:
    process = started(*command(*TINY, LONG, "run_dir=run"))
    wait_for_worker(tmp_path / "run", process).kill()
    ended = end_of(process)
    assert ended.code == BackendError.exit_code
    assert "ended without an error: it was killed" in ended.err
    assert "resume it: python -m mnist_cnn resume run" in ended.err
    listed = run_command("list", "runs_dir=.", "--json", cwd=tmp_path).json()
    assert [row["status"] for row in listed] == ["lost"]


def test_a_command_killed_before_the_receipt_leaves_a_usable_folder(tmp_path: Path) -> None:
    killed = start_command(*TINY, "run_dir=run", cwd=tmp_path, **fault("kill", "command", "run.json"))
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "run" / "run.json").exists()
    run = launch.submit(*TINY, f"run_dir={tmp_path / 'run'}")
    run.cancel()
    assert run.status() is Status.cancelled


def test_a_run_survives_its_command(tmp_path: Path, started: Start) -> None:
    gate = Gate(tmp_path, "worker", "import tensorflow")
    process = started(*command(*TINY, "run_dir=run"), **gate.environment)
    wait_until(lambda: gate.is_reached, process)
    process.kill()
    process.wait()
    assert worker_of(tmp_path / "run").is_running()
    gate.open()
    assert "completed: test accuracy" in run_successfully("follow", "run", cwd=tmp_path).out


@pytest.mark.parametrize("name", ["epoch-000001.npz", "model.keras"])
def test_a_file_that_is_refused_is_not_left_half_written(tmp_path: Path, name: str) -> None:
    """A limit on file sizes stands for the disk: the write itself really fails, in the worker."""
    limit = fault("limit", "worker", name, left=4096)
    ended = end_of(start_command(*TINY, "run_dir=run", cwd=tmp_path, **limit))
    assert ended.code == BackendError.exit_code, ended.out + ended.err
    assert re.search(rf"error: cannot write \S+/{name}: File too large", ended.err)
    assert not list((tmp_path / "run").rglob(name))
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_missing_gpu_is_an_error(tmp_path: Path) -> None:
    ended = run_command(*TINY, "backend.device=gpu", "run_dir=run", cwd=tmp_path, CUDA_VISIBLE_DEVICES="-1")
    assert ended.code == BackendError.exit_code
    assert "error: backend.device=gpu" in ended.err
    assert (ended.out + ended.err).count("finds no GPU") == 1
    assert "mnist-cnn[gpu]" in ended.err
    assert not (tmp_path / "run").exists()


def test_the_user_does_not_see_tensorflows_messages(small_command: tuple[Path, Ended]) -> None:
    run, ended = small_command
    log = (run / "log.txt").read_text().splitlines()
    messages = [line for line in log if run_folder.trainer_line(line) is None]
    assert messages
    shown = ended.out + ended.err
    assert not [line for line in messages if line.strip() and line in shown]
    assert "x_train (1000, 28, 28, 1), y_train (1000, 10)" in shown


def test_two_commands_register_two_versions(tmp_path: Path, small_run: Path, started: Start) -> None:
    """The second command starts while the first is copying its model."""
    for name in ("a", "b"):
        copy_run(small_run, tmp_path / name, id=name)
    gate = Gate(tmp_path, "command", "model.keras")
    settings = ("register.name=m", "register.min_accuracy=0", "--json")
    first = started(*command("register", "a", *settings), **gate.environment)
    wait_until(lambda: gate.is_reached, first)
    with pytest.raises(BackendError, match="by another process"), locks.hold(tmp_path / "models/m/.lock", 0):
        pass
    second = started(*command("register", "b", *settings))
    gate.open()
    versions = [json.loads(end_of(process).out)["version"] for process in (first, second)]
    assert sorted(versions) == [1, 2]


TRACED = """
import os, signal
import keras
from keras import layers

class Interrupts(layers.Layer):
    def call(self, x, training=False):
        if training:
            os.kill(os.getpid(), signal.SIGTERM)
        return x

def build(config, input_shape, num_classes):
    out = layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), Interrupts(), out])
"""
"""A network that gets SIGTERM, as `cancel` sends it, while TensorFlow traces its training step."""


def test_a_run_can_be_cancelled_while_it_is_traced(tmp_path: Path) -> None:
    """TensorFlow and Keras catch exceptions while they trace, but not this one."""
    (tmp_path / "network.py").write_text(TRACED)
    run = launch.submit(*TINY, f"model.file={tmp_path / 'network.py'}", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(RunCancelled):
        run.wait()
    assert run_folder.read_receipt(run.folder).exit_code == RunCancelled.exit_code
    assert "Traceback" not in (run.folder / "log.txt").read_text()


def test_runs_in_folders_of_one_name_have_different_ids(tmp_path: Path) -> None:
    """The registry tells runs apart by their ids."""
    runs = [launch.submit(*TINY, LONG, f"run_dir={tmp_path / parent / 'run'}") for parent in ("one", "two")]
    for run in runs:
        run.cancel()
    assert len({run_folder.read_receipt(run.folder).id for run in runs}) == 2


def test_of_two_that_resume_a_run_the_second_is_refused(
    tmp_path: Path, small_run: Path, started: Start
) -> None:
    """Both have found that it can be resumed when the first one starts it, under the folder's lock."""
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    start_second = launch.prepare_resume(str(folder), ())
    gate = Gate(tmp_path, "command", "run.json")
    process = started(*command("resume", "run"), **gate.environment)
    wait_until(lambda: gate.is_reached, process)
    with pytest.raises(BackendError, match="by another process"), run_folder.lock(folder, 0):
        pass
    gate.open()
    wait_until(lambda: run_folder.read_receipt(folder).status is Status.preparing, process)
    wait_for_worker(folder, process).suspend()
    with pytest.raises(ConfigurationError, match="run is preparing") as raised:
        start_second()
    assert "follow" in raised.value.hint
    launch.attach_to(folder).cancel()
    assert end_of(process).code == RunCancelled.exit_code


def test_a_resumed_run_keeps_its_id_its_age_and_its_device(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=1)
    settings = {"device": "cpu"}  # as an earlier version wrote it
    before = dataclasses.replace(run_folder.read_receipt(folder), backend_settings=settings)
    run_folder.write_receipt(folder, before)
    refused = run_command("resume", "run", "train.epochs=3", cwd=tmp_path)
    assert refused.code == ConfigurationError.exit_code
    assert "train.epochs=3 continues a completed run; run is lost" in refused.err
    resumed = resume(folder)
    after = run_folder.read_receipt(folder)
    assert (after.id, after.created) == (before.id, before.created)
    assert after.backend_settings == {**settings, "workers": 1}
    assert "cpu" in worker_of(folder).cmdline()
    resumed.cancel()


def test_a_damaged_run_is_rebuilt_from_its_last_checkpoint(tmp_path: Path, small_run: Path) -> None:
    folder = interrupted_copy(small_run, tmp_path / "run", after=2)
    change_receipt(folder, status=Status.completed)
    for name in ("metrics.jsonl", "model.keras", "job.json"):
        (folder / name).unlink()
    (folder / "result.json").write_text("{")
    (folder / ".writing-model.keras").write_text("half")
    result = resume(folder).wait()
    assert run_folder.read_history(folder) == result.history
    assert result.weights_sha256 == result_of(small_run).weights_sha256
    assert not (folder / ".writing-model.keras").exists()
    assert (folder / "job.json").read_text() == (small_run / "job.json").read_text()


def test_an_earlier_result_is_not_taken_for_the_resumed_runs(tmp_path: Path, small_run: Path) -> None:
    """A run that was cancelled as its result was written is resumed; then its worker is killed."""
    run = resume(copy_run(small_run, tmp_path / "run", status=Status.cancelled))
    worker_of(run.folder).kill()
    with pytest.raises(BackendError, match="ended without an error"):
        run.wait()
    assert launch.attach_to(run.folder).status() is Status.lost


@pytest.mark.parametrize(("written", "count"), [("job.json", 1), ("run.json", 1), ("run.json", 2)])
def test_an_interrupt_during_the_start_leaves_no_worker(
    tmp_path: Path, started: Start, written: str, count: int
) -> None:
    gate = Gate(tmp_path, "command", written, count)
    process = started(*command(*TINY, LONG, "run_dir=run"), **gate.environment)
    wait_until(lambda: gate.is_reached, process)
    process.send_signal(signal.SIGINT)
    gate.open()
    ended = end_of(process)
    assert ended.code == Interrupted.exit_code, ended.err
    assert "run is cancelled" in ended.err
    receipt = run_folder.read_receipt(tmp_path / "run")
    assert receipt.status is Status.cancelled
    assert receipt.pid is not None
    assert process_identity.live_process(receipt.pid) is None
