"""What the node's script passes to the trainer. No training, and the SDK is a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from helpers.sdk_fakes import config_of

import mnist_cnn
from mnist_cnn import launch
from mnist_cnn.backends.azure import metrics, plan
from mnist_cnn.backends.remote import node
from mnist_cnn.result import Progress
from mnist_cnn.training import train, worker

if TYPE_CHECKING:
    from mnist_cnn.job import Job

GPU = ("backend.use_gpu=true", "backend.vm_size=STANDARD_NC4AS_T4_V3")


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list of the job and the options that the trainer gets."""
    calls: list[Any] = []

    def record(job: Job, folder: Path, **options: Any) -> Any:
        calls.append((job, folder, options))
        return SimpleNamespace(accuracy=0.5, loss=1.0)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AZUREML_RUN_ID", "mnist_1")
    for stream in ("stdout", "stderr"):  # which the node's script replaces
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(worker, "print_log", lambda: None)
    monkeypatch.setattr(train, "train", record)
    return calls


@pytest.mark.parametrize(
    ("overrides", "force", "device"), [((), False, "auto"), (GPU, False, "gpu"), ((), True, "auto")]
)
def test_the_trainer_gets_what_the_request_says(
    trained: list[Any], overrides: tuple[str, ...], device: str, *, force: bool
) -> None:
    job = launch.make_job("train.epochs=3")
    mounts = {plan.DATA_MOUNT: "/data", plan.CHECKPOINT_MOUNT: "/checkpoints"}
    sent = plan.request(job, config_of(*overrides), force=force).arguments
    words = [mounts.get(argument, argument) for argument in sent]
    code = Path(mnist_cnn.__file__).resolve().parent.parent
    assert metrics.train(code, metrics.Metrics, words) == 0
    (received, folder, options) = trained[0]
    assert (received.digest, received.data.dir, str(folder)) == (job.digest, "/data", "outputs")
    assert (options["device"], options["force"], options["run_name"]) == (device, force, "mnist_1")
    assert options["checkpoints"].folder == Path("/checkpoints")


def test_a_new_status_is_printed_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Other progress is printed every few seconds."""
    print_progress = node._progress_printer()  # noqa: SLF001
    for status in ("preparing", "running", "running", "finalizing"):
        print_progress(Progress(status))
    printed = [line.removeprefix(node.PROGRESS) for line in capsys.readouterr().out.splitlines()]
    assert [text.partition(",")[0] for text in printed] == [
        f'{{"status": "{status}"' for status in ("preparing", "running", "finalizing")
    ]
