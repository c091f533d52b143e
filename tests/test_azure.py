"""The Azure backend against the loopback service, with the unmodified SDK."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from contract import LONG, BackendContract
from processes import SMALL, Ended, command, hear_interrupts, run_command

if sys.version_info[:2] != (3, 11):
    pytest.skip("the SDK is for Python 3.11", allow_module_level=True)

from azure_service import AzureService, Behaviour, Fault

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import log, outputs
from mnist_cnn.errors import BackendError, RunCancelled, TrainingError

if TYPE_CHECKING:
    from collections.abc import Iterator

# The SDK's own warnings, when it is used within the tests' process.
pytestmark = pytest.mark.filterwarnings("ignore")
TINY = ("data.train_limit=200", "data.test_limit=100", "train.epochs=1", "register.name=null")
"""Overrides of a job that says nothing of learning and is done when TensorFlow is loaded."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureService]:
    """A service for the whole module, for the SDK in this process too."""
    with (
        AzureService(tmp_path_factory.mktemp("azure") / "service") as service,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in service.environment.items():
            patch.setenv(name, value)
        yield service
        service.check()


@pytest.fixture
def azure(service: AzureService) -> Iterator[AzureService]:
    """The service with a clean slate: no fault, clusters that behave, nothing recorded."""
    service.requests.clear()
    yield service
    service.faults.clear()
    service.clusters.behaviour = Behaviour()


def train(azure: AzureService, cwd: Path, *overrides: str) -> Ended:
    """Run `python -m mnist_cnn backend=azure` in a folder, on a tiny job, to its end."""
    return run_command(*chosen(azure), *TINY, *overrides, cwd=cwd)


def chosen(azure: AzureService) -> tuple[str, str]:
    return ("backend=azure", f"backend.workspace={azure.home}")


def start(azure: AzureService, cwd: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*chosen(azure), *TINY, *overrides),
        cwd=cwd,
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


class TestAzureBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, service: AzureService) -> tuple[str, ...]:
        return chosen(service)

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL


def test_azure_and_local_train_to_the_same_weights(
    azure: AzureService, small_run: Path, tmp_path: Path
) -> None:
    ended = run_command(*SMALL, *chosen(azure), "save_h5=true", "register.name=null", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    local, remote = json.loads((small_run / "result.json").read_text()), ended.json()["result"]
    assert remote["job_digest"] == local["job_digest"]
    assert remote["weights_sha256"] == local["weights_sha256"]
    assert remote["accuracy"] == local["accuracy"]
    metrics = next(line for line in ended.err.splitlines() if line.startswith("metrics: "))
    assert f"accuracy {local['accuracy']}" in metrics
    assert "epoch_loss" in metrics


def test_the_second_run_sends_neither_data_nor_code_again(azure: AzureService, tmp_path: Path) -> None:
    assert train(azure, tmp_path).code == 0
    azure.requests.clear()
    second = train(azure, tmp_path)
    assert second.code == 0, second.err
    assert "4 of 4 files are already in mnist/" in second.err
    assert calls(azure, "POST", "/content/") == calls(azure, "PUT", "/snapshots") == 0
    assert calls(azure, "PUT", "/computes/") == 0
    sent = [e for e in azure.requests.exchanges() if e.method == "PUT" and "blobstore" in e.template]
    assert sum(e.bytes_up for e in sent) < 100_000


def test_a_sweep_submits_all_before_it_waits_and_shares_one_upload_and_one_snapshot(
    azure: AzureService, tmp_path: Path
) -> None:
    ended = train(azure, tmp_path, "--multirun", "train.learning_rate=0.5,1.0", "backend.data.overwrite=true")
    assert ended.code == 0, ended.err
    templates = [(e.method, e.template) for e in azure.requests.exchanges()]
    submitted = [i for i, (_, template) in enumerate(templates) if template.endswith("snapshotrun")]
    asked = [i for i, (_, template) in enumerate(templates) if template.endswith("/details")]
    assert len(submitted) == 2
    assert submitted[-1] < asked[0]
    assert sum(method == "POST" and "/snapshots/{snapshot}" in t for method, t in templates) <= 1
    assert "train.learning_rate=0.5" in ended.out
    assert "completed" in ended.out


def test_a_lost_answer_to_the_submission_makes_one_run_and_not_two(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("POST", "snapshotrun", kind="lose-answer"))
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    sent = [e.query["runId"] for e in azure.requests.exchanges() if "snapshotrun" in e.template]
    assert len(set(sent)) == 1


def test_a_run_that_started_although_its_submission_failed_is_not_lost(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(Fault("PATCH", "/runs/", status=403))
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    assert "but the run has started" in ended.err


def test_a_refused_look_at_the_log_or_the_state_does_not_end_the_following(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.faults.add(
        Fault("GET", "/details$", occurrence=2, status=403),
        Fault("GET", "prefix/contentinfo", occurrence=6, status=403),
        Fault("GET", "user_logs", occurrence=2, status=403),
        Fault("GET", "/details$", occurrence=5, kind="drop", times=3),
    )
    ended = train(azure, tmp_path)
    assert ended.code == 0, ended.err
    assert "test accuracy" in ended.out


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("PUT", r"blob\.core.*t10k-labels", status=403, times=0), "cannot send mnist/t10k-labels"),
        (Fault("GET", "/datastore/", status=403, times=0), "cannot find the default datastore"),
        (Fault("GET", "/computes/", status=403, times=0), "cannot find the cluster traincluster"),
        (Fault("GET", r"workspaces/loopback-workspace$", status=404, times=0), "cannot open the workspace"),
        (Fault("POST", "snapshotrun", status=400, times=0), "cannot submit the run"),
    ],
)
def test_what_the_service_refuses_is_exit_4_with_a_word_and_overwrites_nothing(
    azure: AzureService, tmp_path: Path, fault: Fault, said: str
) -> None:
    azure.faults.add(fault)
    ended = train(azure, tmp_path, "backend.data.overwrite=true", "run_dir=run")
    refused(ended, BackendError.exit_code, said)
    assert calls(azure, "PUT", "/computes/") == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.failed


def test_a_busy_store_loses_no_file(azure: AzureService, tmp_path: Path) -> None:
    """The SDK's own upload prints "Uploaded 0 files" and goes on."""
    azure.faults.add(Fault("PUT", r"blob\.core.*mnist/", status=429))
    assert train(azure, tmp_path, "backend.data.overwrite=true").code == 0


def test_a_cluster_that_differs_is_reported_and_left_as_it_is(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.add("othercluster")
    ended = train(azure, tmp_path, "backend.cluster=othercluster", "backend.vm_size=STANDARD_D3_V2")
    assert ended.code == 0, ended.err
    assert "has vm_size=STANDARD_D2_V2, not backend.vm_size=STANDARD_D3_V2" in ended.err
    assert "has max_nodes=4, not backend.max_nodes=1" in ended.err
    assert calls(azure, "PUT", "/computes/") == 0


@pytest.mark.parametrize("kind", ["ComputeInstance", "DataLakeAnalytics", "SomethingNew"])
def test_a_name_that_belongs_to_something_else_is_refused_and_left_alone(
    azure: AzureService, tmp_path: Path, kind: str
) -> None:
    """For a kind that it has no class for, the SDK's look-up returns None, as if there were nothing."""
    azure.clusters.add("machine", compute_type=kind)
    ended = train(azure, tmp_path, "backend.cluster=machine")
    refused(ended, BackendError.exit_code, "machine")
    assert calls(azure, "PUT", "/computes/") == 0


def test_an_unknown_size_fails_once_and_its_failed_cluster_is_not_used(
    azure: AzureService, tmp_path: Path
) -> None:
    asked = ("backend.cluster=badcluster", "backend.vm_size=STANDARD_X99")
    ended = train(azure, tmp_path, *asked)
    refused(ended, BackendError.exit_code, "badcluster is failed", "STANDARD_X99", "cluster delete")
    ended = train(azure, tmp_path, asked[0])
    refused(ended, BackendError.exit_code, "badcluster is failed")
    deleted = run_command("cluster", "delete", *chosen(azure), asked[0], cwd=tmp_path)
    assert deleted.code == 0, deleted.err
    assert "is deleted" in deleted.out
    again = run_command("cluster", "delete", *chosen(azure), asked[0], cwd=tmp_path)
    assert again.code == 0
    assert "there is no cluster badcluster" in again.out


def test_a_quota_that_does_not_suffice_is_worded(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(quota_cores=1)
    ended = train(azure, tmp_path, "backend.cluster=quotacluster")
    refused(ended, BackendError.exit_code, "quotacluster is failed", "uota")


def test_a_cluster_that_never_gives_a_node_ends_the_wait_and_not_the_run(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(full=True)
    ended = train(azure, tmp_path, "backend.start_seconds=4", "run_dir=run")
    refused(ended, BackendError.exit_code, "no node took it", "follow run", "cancel run")
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == 0, cancelled.err
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


def test_a_datastore_that_is_no_blob_container_is_refused_before_the_upload(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.rooms.workspace.datastore_type = "AzureFile"
    try:
        ended = train(azure, tmp_path)
    finally:
        azure.rooms.workspace.datastore_type = "AzureBlob"
    refused(ended, BackendError.exit_code, "AzureFile")
    assert calls(azure, "PUT", "") == 0


def test_an_expired_secret_is_worded_with_what_to_do(azure: AzureService, tmp_path: Path) -> None:
    before = azure.rooms.identity.refuse_with
    azure.rooms.identity.expire_secret()
    try:
        ended = train(azure, tmp_path)
    finally:
        azure.rooms.identity.refuse_with = before
    refused(ended, BackendError.exit_code, "login was refused", "AADSTS7000222", "expired")


def test_a_killed_command_loses_nothing(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, "run_dir=run")
    azure.requests.wait_for("POST", "/execution/v1.0<WS>/experiments/{experiment}/snapshotrun")
    process.kill()
    process.communicate(timeout=60)
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == 0, followed.err
    assert run_folder.read_result(tmp_path / "run") is not None


def test_an_interrupted_command_detaches_and_the_run_can_be_cancelled(
    azure: AzureService, tmp_path: Path
) -> None:
    process = start(azure, tmp_path, LONG, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in err
    assert "Traceback" not in err
    status = run_command("status", "run", "--json", cwd=tmp_path)
    assert status.json()["status"] == "running"
    cancelled = run_command("cancel", "run", cwd=tmp_path)
    assert cancelled.code == 0, cancelled.err
    assert "cluster traincluster has 1 node" in cancelled.err
    assert "cluster delete" in cancelled.err
    followed = run_command("follow", "run", cwd=tmp_path)
    assert followed.code == RunCancelled.exit_code


def test_a_run_that_is_cancelled_in_the_studio_is_exit_6(azure: AzureService, tmp_path: Path) -> None:
    process = start(azure, tmp_path, LONG, "run_dir=run")
    wait_for_line(tmp_path / "run", "epoch 1/", process)
    azure.runs.cancel(run_folder.read_receipt(tmp_path / "run").id)
    _, err = process.communicate(timeout=120)
    assert process.returncode == RunCancelled.exit_code, err
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_low_priority_node_that_is_lost_and_replaced_costs_no_epoch_and_no_bit(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.add("lowcluster", vmPriority="LowPriority")
    whole = train(azure, tmp_path, "train.epochs=3", "backend.cluster=lowcluster", "--json")
    azure.clusters.behave(preempt_at="epoch 2/", restarts=True)
    job = ("train.epochs=3", "backend.cluster=lowcluster", "run_dir=run", "--json")
    ended = train(azure, tmp_path, *job)
    assert ended.code == whole.code == 0, whole.err + ended.err
    assert ended.json()["result"]["weights_sha256"] == whole.json()["result"]["weights_sha256"]
    assert "going on after epoch" in (tmp_path / "run" / "log.txt").read_text()


def test_a_low_priority_node_that_is_lost_for_good_can_be_gone_on_from(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.add("lostcluster", vmPriority="LowPriority")
    azure.clusters.behave(preempt_at="epoch 2/")
    job = ("train.epochs=3", "backend.cluster=lostcluster", "run_dir=run")
    ended = train(azure, tmp_path, *job)
    refused(ended, BackendError.exit_code, "the node was taken away", "resume run")
    resumed = run_command("resume", "run", "register.name=null", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert "going on after epoch" in (tmp_path / "run" / "log.txt").read_text()


def test_a_failure_on_the_node_is_the_runs_error_in_the_service_too(
    azure: AzureService, tmp_path: Path
) -> None:
    network = tmp_path / "net.py"
    network.write_text(
        "def build(config, input_shape, num_classes):\n    raise ValueError('no network today')\n"
    )
    ended = train(azure, tmp_path, f"model.file={network}", "run_dir=run")
    assert ended.code not in (0, 1), ended.err
    assert "no network today" in ended.err
    run = azure.runs.wait_for(run_folder.read_receipt(tmp_path / "run").id, "Failed")
    assert "no network today" in json.dumps(run.document["error"])


def test_no_secret_is_in_a_run_folder(azure: AzureService, tmp_path: Path) -> None:
    assert train(azure, tmp_path, "run_dir=run").code == 0
    secrets = (azure.tenancy.client_secret, azure.tenancy.account_key)
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path


class FakeRun:
    """A completed run whose files are in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get_file_names(self) -> list[str]:
        return [f"outputs/{path.name}" for path in self.folder.iterdir() if path.is_file()]

    def get_metrics(self) -> dict[str, float]:
        return {}

    def download_file(self, name: str, output_file_path: str) -> None:
        Path(output_file_path).write_bytes((self.folder / Path(name).name).read_bytes())


@pytest.fixture
def brought(tmp_path: Path, small_run: Path) -> tuple[Path, Path]:
    """What the service has of a run, and the run folder that it is to be brought to."""
    there, here = tmp_path / "there", tmp_path / "here"
    for folder in (there, here):
        folder.mkdir()
    for file in small_run.iterdir():
        if file.is_file():
            (there / file.name).write_bytes(file.read_bytes())
    (here / "run.json").write_bytes((small_run / "run.json").read_bytes())
    return there, here


def test_a_sound_result_is_brought_here_with_its_files(brought: tuple[Path, Path]) -> None:
    there, here = brought
    outputs.bring(FakeRun(there), here)
    result = run_folder.read_result(here)
    assert result is not None
    run_folder.verify(here, result)
    assert not list(here.glob(".bringing-*"))


def test_a_completed_run_without_a_result_is_no_success(brought: tuple[Path, Path]) -> None:
    there, here = brought
    (there / "result.json").unlink()
    with pytest.raises(outputs.NoResult, match=r"has no result\.json"):
        outputs.bring(FakeRun(there), here)


def test_a_result_of_another_job_is_refused(brought: tuple[Path, Path]) -> None:
    there, here = brought
    receipt = json.loads((here / "run.json").read_text())
    (here / "run.json").write_text(json.dumps(receipt | {"job_digest": "0" * 64}))
    with pytest.raises(outputs.NoResult, match="belongs to another job"):
        outputs.bring(FakeRun(there), here)


@pytest.mark.parametrize("name", ["../../evil.py", "run.json", "model.onnx"])
def test_a_result_that_names_what_is_not_its_own_brings_nothing(
    brought: tuple[Path, Path], name: str
) -> None:
    there, here = brought
    result = json.loads((there / "result.json").read_text())
    result["files"][name] = result["files"]["model.keras"]
    (there / "result.json").write_text(json.dumps(result))
    with pytest.raises(BackendError):
        outputs.bring(FakeRun(there), here)
    assert [path.name for path in here.iterdir()] == ["run.json"]


def test_a_damaged_file_is_not_brought(brought: tuple[Path, Path]) -> None:
    there, here = brought
    (there / "model.keras").write_bytes((there / "model.keras").read_bytes()[:-1])
    with pytest.raises(BackendError, match=r"model\.keras is not the file"):
        outputs.bring(FakeRun(there), here)
    assert [path.name for path in here.iterdir()] == ["run.json"]


def test_a_log_is_read_whole_lines_at_a_time(tmp_path: Path) -> None:
    reader = log.Reader(tmp_path)
    assert list(reader.new_lines()) == []
    (tmp_path / "log.txt").write_text("one\ntw")
    assert list(reader.new_lines()) == ["one"]
    (tmp_path / "log.txt").write_text("one\ntwo\nthr")
    assert list(reader.new_lines()) == ["two"]
    assert list(reader.new_lines(is_last=True)) == ["thr"]


def test_a_failure_is_read_from_the_log_of_the_last_start_only(tmp_path: Path) -> None:
    told = json.dumps({"exit_code": 5, "error": "the loss became nan", "hint": "lower it"})
    (tmp_path / "log.txt").write_text(f"x\nmnist_cnn failure {told}\n")
    error = log.failure(tmp_path)
    assert isinstance(error, TrainingError)
    assert (error.message, error.hint) == ("the loss became nan", "lower it")
    log.separate(tmp_path)
    assert log.failure(tmp_path) is None
