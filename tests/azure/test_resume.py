"""A cluster's run whose node is taken away goes on, and runs go on at another place, to the same weights."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import command, run_command

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from helpers.azure_commands import ENDLESS, TINY, calls, chosen, refused, start, train, wait_for_line
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import log
from mnist_cnn.backends.azure.entry import EPOCH
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled
from mnist_cnn.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopback import AzureService

    from mnist_cnn.result import Result

pytestmark = pytest.mark.usefixtures("azure_environment")
JOB = ("train.epochs=3",)
LOW = ("backend.cluster=lowcluster", "backend.priority=lowpriority")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbed, trained here."""
    home = tmp_path_factory.mktemp("whole")
    ended = run_command(*TINY, *JOB, "run_dir=run", cwd=home)
    assert ended.code == 0, ended.err
    return home / "run"


@pytest.fixture
def low(azure: AzureService) -> AzureService:
    if "lowcluster" not in azure.clusters:
        azure.clusters.add("lowcluster", vmPriority="LowPriority")
    return azure


def wait_for_receipt(
    folder: Path, is_so: Callable[[run_folder.Receipt], bool], writer: subprocess.Popen[str]
) -> None:
    """Wait until a process, which goes on, has written into a run's receipt what is asked."""
    deadline = time.monotonic() + 60
    while not is_so(run_folder.read_receipt(folder)):
        assert writer.poll() is None, writer.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def result_of(folder: Path) -> Result:
    result = run_folder.read_result(folder)
    assert result is not None
    return result


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_a_node_that_the_service_replaces_costs_no_epoch_and_no_bit(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="epoch 2/", restarts=True)
    ended = train(low, tmp_path, *JOB, *LOW, "run_dir=run")
    assert ended.code == 0, ended.err
    assert result_of(tmp_path / "run").weights_sha256 == result_of(whole).weights_sha256
    assert "resuming after epoch" in log_of(tmp_path / "run")
    assert calls(low, "POST", "snapshotrun") == 1


def test_a_node_that_is_lost_for_good_is_followed_by_another_submission_and_the_log_says_so(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="epoch 2/")
    ended = train(low, tmp_path, *JOB, *LOW, "run_dir=run")
    assert ended.code == 0, ended.err
    said = "the node was preempted: "
    assert said in ended.err
    assert "submitting the run again, 1 of 3" in ended.err
    log = log_of(tmp_path / "run")
    assert log.index("epoch 1/3") < log.index(said) < log.index("resuming after epoch")
    assert calls(low, "POST", "snapshotrun") == 2
    assert result_of(tmp_path / "run").weights_sha256 == result_of(whole).weights_sha256
    assert result_of(tmp_path / "run").changes == ()
    assert [row.epoch for row in run_folder.read_history(tmp_path / "run")] == [1, 2, 3]


def test_no_more_submissions_follow_than_were_asked_for(low: AzureService, tmp_path: Path) -> None:
    low.clusters.behave(preempt_at="x_train", preemptions=2)
    ended = train(low, tmp_path, *JOB, *LOW, "backend.preemption_retries=1", "run_dir=run")
    refused(ended, BackendError.exit_code, "the node was preempted", "resume run")
    assert calls(low, "POST", "snapshotrun") == 2
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed
    resumed = run_command("resume", "run", "register.name=null", cwd=tmp_path)
    assert resumed.code == 0, resumed.err


def test_a_training_that_failed_is_not_submitted_again(low: AzureService, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(config, input_shape, num_classes):\n    return 1 / 0\n")
    ended = train(low, tmp_path, *LOW, "model.file=net.py", "run_dir=run")
    refused(ended, ConfigurationError.exit_code, "division by zero")
    assert calls(low, "POST", "snapshotrun") == 1


def test_a_lost_node_of_a_run_that_nobody_follows_waits_for_who_follows_it(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="epoch 2/")
    process = start(low, tmp_path, *JOB, *LOW, "run_dir=run")
    low.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate(timeout=60)
    low.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    status = run_command("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "queued"
    assert "follow submits the run again" in status.err
    receipt = run_folder.read_receipt(tmp_path / "run")
    elsewhere = dataclasses.replace(receipt, versions={**receipt.versions, "keras": "3.14.9"})
    run_folder.write_receipt(tmp_path / "run", elsewhere)
    ended = run_command("follow", "run", cwd=tmp_path)
    refused(ended, BackendError.exit_code, "this machine has keras", "(was 3.14.9)", "resume run")
    assert run_folder.read_receipt(tmp_path / "run") == elsewhere
    run_folder.write_receipt(tmp_path / "run", receipt)
    both = [
        subprocess.Popen(command("follow", "run"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=180)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert calls(low, "POST", "snapshotrun") == 2
    assert log_of(tmp_path / "run").count("mnist_cnn epoch 3/3") == 1
    assert result_of(tmp_path / "run").weights_sha256 == result_of(whole).weights_sha256


def test_a_lost_node_of_a_run_that_is_then_cancelled_is_followed_by_none(
    low: AzureService, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="x_train")
    process = start(low, tmp_path, *LOW, *ENDLESS, "run_dir=run")
    low.requests.wait_for("POST", "snapshotrun$", timeout=120)
    process.kill()
    process.communicate(timeout=60)
    low.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    assert run_command("cancel", "run", cwd=tmp_path).code == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert run_command("follow", "run", cwd=tmp_path).code == RunCancelled.exit_code
    assert calls(low, "POST", "snapshotrun") == 1


def test_a_run_that_is_cancelled_while_it_is_submitted_does_not_start(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(never_created=True)
    process = start(azure, tmp_path, "backend.cluster=slow", "run_dir=run")
    azure.requests.wait_for("PUT", "computes", timeout=120)
    cancel = subprocess.Popen(command("cancel", "run"), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for_receipt(tmp_path / "run", lambda receipt: "cancelled" in receipt.service, cancel)
    azure.clusters.behave(never_created=False)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == RunCancelled.exit_code, said
    assert "the run was cancelled before it started" in said
    said = cancel.communicate(timeout=60)[1]
    assert cancel.returncode == 0, said
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert calls(azure, "POST", "snapshotrun") == 0


def test_a_submission_that_another_takes_for_dead_starts_nothing(azure: AzureService, tmp_path: Path) -> None:
    """The clock was set while the cluster was made, and with it all that is said of processes' starts."""
    folder = tmp_path / "run"
    azure.clusters.behave(never_created=True)
    first = start(azure, tmp_path, "backend.cluster=slower", "run_dir=run")
    azure.requests.wait_for("PUT", "computes", timeout=120)
    receipt = run_folder.read_receipt(folder)
    host, pid, started, since = receipt.service["submitter"].split(" ")
    moved = receipt.service | {"submitter": f"{host} {pid} {float(started) + 10} {since}"}
    run_folder.write_receipt(folder, dataclasses.replace(receipt, service=moved))
    second = subprocess.Popen(
        command("resume", "run", "register.name=null"), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for_receipt(folder, lambda now: now.id != receipt.id, second)
    azure.clusters.behave(never_created=False)
    said = first.communicate(timeout=120)[1]
    assert first.returncode == BackendError.exit_code, said
    assert "another process has submitted run" in said
    said = second.communicate(timeout=120)[1]
    assert second.returncode == 0, said
    assert calls(azure, "POST", "snapshotrun") == 1


def test_a_run_begun_here_is_finished_on_the_cluster_to_the_same_weights(
    azure: AzureService, whole: Path, tmp_path: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=2)
    azure.faults.add(Fault("PUT", r"epoch-000002[^/]*\.sha256$", status=403))
    lacking = run_command("resume", "run", *chosen(azure), "register.name=null", cwd=tmp_path)
    refused(lacking, BackendError.exit_code, "cannot send", "resume run")
    sent = [e.path for e in azure.requests.exchanges() if e.method == "PUT" and "epoch-000002" in e.path]
    assert list(dict.fromkeys(Path(path).suffix for path in sent)) == [".npz", ".sha256"]
    resumed = run_command("resume", "run", "register.name=null", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "checkpoint: sending" in resumed.err
    assert "resuming after epoch 2 of 3" in log_of(folder)
    assert run_folder.read_receipt(folder).backend == "azure"
    assert result_of(folder).weights_sha256 == result_of(whole).weights_sha256
    assert result_of(folder).changes == ()


def test_a_run_begun_on_the_cluster_is_finished_here_to_the_same_weights(
    azure: AzureService, tmp_path: Path
) -> None:
    job = ("train.epochs=3", "data.train_limit=10000")
    process = start(azure, tmp_path, *job, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/3", process)
    assert run_command("cancel", "run", cwd=tmp_path).code == 0
    process.communicate(timeout=120)
    azure.faults.add(Fault("GET", r"epoch-00000\d[^/]*\.npz$", status=403))
    unreachable = run_command("resume", "run", "backend=local", cwd=tmp_path)
    refused(unreachable, BackendError.exit_code, "cannot read mnist-cnn-checkpoints/")
    before = run_folder.read_receipt(tmp_path / "run")
    resumed = run_command("resume", "run", "backend=local", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    folder = tmp_path / "run"
    assert run_folder.read_receipt(folder).id != before.id  # for whoever still follows it there
    assert "resuming after epoch" in log_of(folder)
    receipt = run_folder.read_receipt(folder)
    assert (receipt.backend, receipt.status) == ("local", Status.completed)
    undisturbed = run_command(*TINY, *job, "run_dir=whole", cwd=tmp_path)
    assert undisturbed.code == 0, undisturbed.err
    assert result_of(folder).weights_sha256 == result_of(tmp_path / "whole").weights_sha256
    found = Checkpoints(folder / "checkpoints").newest()
    assert found is not None
    assert len(found.history) == 3


def test_what_has_changed_is_marked_on_the_cluster_too(
    azure: AzureService, whole: Path, tmp_path: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=2)
    job = json.loads((folder / "job.json").read_text())
    job["train"]["learning_rate"] = 0.5
    (folder / "job.json").write_text(json.dumps(job))
    model = ("register.name=forced", "register.min_accuracy=0")
    ended = run_command("resume", "run", "force=true", *chosen(azure), *model, cwd=tmp_path)
    assert ended.code == 0, ended.err
    change = "since epoch 3: train.learning_rate=0.5 (was 1.0)"
    assert result_of(folder).changes == (change,)
    assert change in ended.out
    assert "resuming with force=true, although this has changed" in log_of(folder)
    assert change in json.dumps(azure.handlers.models.all())


def test_epochs_that_were_trained_at_another_place_stay_in_the_history(whole: Path, tmp_path: Path) -> None:
    rows = run_folder.read_history(whole)
    run_folder.write_history(tmp_path, rows[:2])
    (tmp_path / "log.txt").write_text(f"{EPOCH}{json.dumps(dataclasses.asdict(rows[2]))}\n")
    assert tuple(log.history(tmp_path)) == rows
