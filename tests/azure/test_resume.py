"""Preempted runs continue, and runs continue at another place, to the same weights."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import (
    SDK_TESTS,
    TINY,
    chosen,
    refused,
    run_here,
    start,
    submissions,
    succeeded,
    train,
)
from helpers.azure_runs import preempted_run
from helpers.copies import interrupted_copy
from helpers.processes import end_of, result_of, run_command, start_command, wait_until
from loopback import Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError, ConfigurationError, RunCancelled
from mnist_cnn.launch import attach_to
from mnist_cnn.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = SDK_TESTS
JOB = ("train.epochs=3",)
LOW = ("backend.cluster=lowcluster", "backend.priority=lowpriority")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run of three epochs, trained here."""
    home = tmp_path_factory.mktemp("whole")
    succeeded(run_command(*TINY, *JOB, "run_dir=run", cwd=home))
    return home / "run"


@pytest.fixture
def low(azure: AzureService) -> AzureService:
    if "lowcluster" not in azure.clusters:
        azure.clusters.add("lowcluster", vmPriority="LowPriority")
    return azure


def log_of(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def check_continued(folder: Path, whole: Path) -> None:
    """Check that a run continued from a checkpoint, to the weights of an uninterrupted run."""
    assert "after epoch" in log_of(folder)
    assert result_of(folder).weights_sha256 == result_of(whole).weights_sha256
    assert result_of(folder).changes == ()
    assert [row.epoch for row in run_folder.read_history(folder)] == [1, 2, 3]


@pytest.mark.long
def test_a_node_that_the_service_replaces_costs_no_epoch(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="epoch 2/", restarts=True)
    succeeded(train(low, tmp_path, *JOB, *LOW, "run_dir=run"))
    check_continued(tmp_path / "run", whole)
    assert submissions(low) == 1


def test_a_run_that_lost_its_node_for_good_is_submitted_again(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    low.clusters.behave(preempt_at="epoch 2/")
    ended = succeeded(train(low, tmp_path, *JOB, *LOW, "run_dir=run"))
    check_continued(tmp_path / "run", whole)
    assert submissions(low) == 2
    said = "again, 1 of 3"
    assert said in ended.err
    log = log_of(tmp_path / "run")
    assert log.index("epoch 1/3") < log.index(said) < log.rindex("after epoch")


@pytest.mark.long
def test_of_two_that_follow_a_preempted_run_one_submits_it(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    preempted_run(low, tmp_path / "run", *JOB, *LOW)
    status = run_here("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "queued"
    assert "again" in status.err
    both = [start_command("follow", "run", cwd=tmp_path) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert submissions(low) == 1
    assert log_of(tmp_path / "run").count("mnist_cnn epoch 3/3") == 1
    assert result_of(tmp_path / "run").weights_sha256 == result_of(whole).weights_sha256


@pytest.mark.long
def test_of_two_that_resume_a_run_one_does(azure: AzureService, tmp_path: Path) -> None:
    made = preempted_run(azure, tmp_path / "run", "backend.preemption_retries=0")
    assert run_here("follow", "run", cwd=tmp_path).code == BackendError.exit_code
    assert made.receipt().status is Status.failed
    both = [start_command("resume", "run", "register.name=null", cwd=tmp_path) for _ in range(2)]
    said = [process.communicate() for process in both]
    assert sorted(process.returncode for process in both) == [0, ConfigurationError.exit_code], said
    assert submissions(azure) == 1


def test_a_run_that_is_cancelled_while_it_is_submitted_does_not_start(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(never_created=True)
    process = start(azure, tmp_path, "backend.cluster=slow", "run_dir=run")
    azure.requests.wait_for("PUT", "computes", timeout=120)
    cancel = start_command("cancel", "run", cwd=tmp_path)
    wait_until(lambda: "cancelled" in run_folder.read_receipt(tmp_path / "run").service, cancel)
    azure.clusters.behave(never_created=False)
    refused(end_of(process), RunCancelled.exit_code)
    succeeded(end_of(cancel))
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled
    assert submissions(azure) == 0


def test_a_submission_that_another_process_takes_for_dead_starts_nothing(
    azure: AzureService, tmp_path: Path
) -> None:
    """The clock was set while the cluster was created, and with it the times at which processes started."""
    folder = tmp_path / "run"
    azure.clusters.behave(never_created=True)
    first = start(azure, tmp_path, "backend.cluster=slower", "run_dir=run")
    azure.requests.wait_for("PUT", "computes", timeout=120)
    receipt = run_folder.read_receipt(folder)
    host, pid, started, since = receipt.service["submitter"].split(" ")
    moved = receipt.service | {"submitter": f"{host} {pid} {float(started) + 10} {since}"}
    run_folder.write_receipt(folder, dataclasses.replace(receipt, service=moved))
    resume = ("resume", "run", "register.name=null", "backend.queue_timeout=1")
    second = start_command(*resume, cwd=tmp_path)
    wait_until(lambda: run_folder.read_receipt(folder).id != receipt.id, second)
    azure.clusters.behave(never_created=False, full=True)
    refused(end_of(first), BackendError.exit_code, "another process")
    refused(end_of(second), BackendError.exit_code)  # it waits for a node
    assert run_folder.read_receipt(folder).status is Status.queued
    assert submissions(azure) == 1


def test_a_local_run_continues_on_the_cluster_to_the_same_weights(
    azure: AzureService, whole: Path, tmp_path: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=2)
    azure.faults.add(Fault("PUT", r"epoch-000002[^/]*\.sha256$", status=403))
    lacking = run_here("resume", "run", *chosen(azure), "register.name=null", cwd=tmp_path)
    refused(lacking, BackendError.exit_code, "cannot send", "resume run")
    sent = [e.path for e in azure.requests.exchanges() if e.method == "PUT" and "epoch-000002" in e.path]
    assert list(dict.fromkeys(Path(path).suffix for path in sent)) == [".npz", ".sha256"]
    succeeded(run_here("resume", "run", "register.name=null", cwd=tmp_path), "checkpoint: sending")
    assert "after epoch 2 of 3" in log_of(folder)
    assert run_folder.read_receipt(folder).backend == "azure"
    check_continued(folder, whole)


def test_a_run_of_the_cluster_continues_here_to_the_same_weights(
    low: AzureService, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    low.clusters.behave(preempt_at="epoch 2/")
    lost = train(low, tmp_path, *JOB, *LOW, "backend.preemption_retries=0", "run_dir=run")
    refused(lost, BackendError.exit_code, "resume run")
    low.faults.add(Fault("GET", r"epoch-00000\d[^/]*\.npz$", status=403))
    unreachable = run_command("resume", "run", "backend=local", cwd=tmp_path)
    refused(unreachable, BackendError.exit_code, "cannot read mnist-cnn-checkpoints/")
    before = run_folder.read_receipt(folder)
    succeeded(run_command("resume", "run", "backend=local", cwd=tmp_path))
    receipt = run_folder.read_receipt(folder)
    assert receipt.id != before.id  # for another process that still follows it there
    assert (receipt.backend, receipt.status) == ("local", Status.completed)
    check_continued(folder, whole)
    found = Checkpoints(folder / "checkpoints").newest()
    assert found is not None
    assert len(found.history) == 3


def test_a_node_that_computes_other_numbers_ends_the_run_at_once(
    azure: AzureService, whole: Path, tmp_path: Path
) -> None:
    """As after a preemption. The user decides whether the run continues there."""
    folder = interrupted_copy(whole, tmp_path / "run", after=2)
    kept = Checkpoints(folder / "checkpoints")
    found = kept.newest()
    assert found is not None
    kept.save(dataclasses.replace(found, runtime=dataclasses.replace(found.runtime, fingerprint="0" * 64)))
    ended = run_here("resume", "run", *chosen(azure), "register.name=null", cwd=tmp_path)
    refused(ended, ConfigurationError.exit_code, "was 00000000", "resume RUN force=true")
    assert log_of(folder).count("epoch 3/3") == 1  # of the run that was copied
    receipt = run_folder.read_receipt(folder)
    assert receipt.status is Status.failed
    assert "retries" not in receipt.service
    assert submissions(azure) == 1
    shutil.rmtree(folder / "checkpoints")
    attach_to(folder).download_checkpoints()
    downloaded = kept.newest()
    assert downloaded is not None
    assert len(downloaded.history) == 2


def test_a_forced_change_is_marked_on_the_cluster_too(
    azure: AzureService, whole: Path, tmp_path: Path
) -> None:
    folder = interrupted_copy(whole, tmp_path / "run", after=2)
    job = json.loads((folder / "job.json").read_text())
    job["train"]["learning_rate"] = 0.5
    (folder / "job.json").write_text(json.dumps(job))
    model = ("register.name=forced", "register.min_accuracy=0")
    ended = succeeded(run_here("resume", "run", "force=true", *chosen(azure), *model, cwd=tmp_path))
    (change,) = result_of(folder).changes
    assert "train.learning_rate=0.5" in change
    assert change in ended.out
    assert "force=true" in log_of(folder)
    assert change in json.dumps(azure.handlers.models.all())
