"""Run folders of schema 1, which previews of version 0.1.0 wrote, can still be read and resumed."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest
from faults.readers.given_files import draw_digit
from helpers.processes import TINY, result_of, run_command, run_successfully

from mnist_cnn import launch, run_folder
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training.checkpoint import Checkpoints
from mnist_cnn.training.runtime import Runtime
from mnist_cnn.training.train import train

OLD = Path(__file__).parents[1] / "data" / "runs-of-schema-1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with copies of the two runs under `runs`."""
    shutil.copytree(OLD, tmp_path / "runs", ignore=shutil.ignore_patterns("README.md"))
    return tmp_path


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_list_and_status_show_old_runs(home: Path) -> None:
    listed = run_command("list", "--json", cwd=home).json()
    assert {row["run"]: row["status"] for row in listed} == {"azure": "completed", "completed": "completed"}
    for run, backend in (("completed", "local"), ("azure", "azure")):
        status = run_successfully("status", run, "--json", cwd=home).json()
        assert (status["status"], status["backend"]) == ("completed", backend)


def test_an_old_run_predicts_and_is_registered(home: Path) -> None:
    draw_digit(home / "digit.png")
    assert "digit.png" in run_successfully("predict", "completed", "digit.png", cwd=home).out
    run_successfully("register", "completed", "register.name=m", "register.min_accuracy=0", cwd=home)
    assert (home / "models" / "m" / "1" / "model.onnx").is_file()


@pytest.mark.usefixtures("keras")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")
def test_an_old_run_resumes_to_the_weights_that_it_had(home: Path) -> None:
    folder = home / "runs" / "completed"
    recorded = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    change(folder / "run.json", status="running", host=socket.gethostname())  # as if it had been killed
    found = Checkpoints(folder / "checkpoints").newest()
    assert found is not None
    assert len(found.history) == 2
    changes = found.runtime.changes_to(Runtime.here(found.runtime.precision, "cpu", found.job.train.threads))
    force = ("force=true",) if changes else ()
    run_successfully("resume", "completed", *force, cwd=home)
    result = result_of(folder)
    assert [row.epoch for row in result.history] == [1, 2, 3]
    assert bool(result.changes) == bool(changes)
    # Equal flags do not make processors equal: compare only where the whole job gives the recorded weights.
    fresh = train(launch.make_job(*TINY, "train.epochs=3"), home)
    is_comparable = fresh.weights_sha256 == recorded["weights_sha256"]
    assert not is_comparable or result.weights_sha256 == recorded["weights_sha256"]


def test_an_old_job_changed_by_hand_is_refused(home: Path) -> None:
    folder = home / "runs" / "completed"
    job = run_folder.read_job(folder)
    assert job.train.unaugmented_epochs == 0
    assert job.has_digest(run_folder.read_receipt(folder).job_digest)
    train = json.loads((folder / "job.json").read_text())["train"]
    change(folder / "job.json", train=train | {"clean_epochs": 1})
    with pytest.raises(ConfigurationError, match="its digest does not match its content"):
        run_folder.read_job(folder)


def test_the_settings_of_an_old_azure_run_get_their_new_names(home: Path) -> None:
    folder = home / "runs" / "azure"
    settings = json.loads((folder / "run.json").read_text())["backend_settings"]
    change(folder / "run.json", backend_settings=settings | {"retries": 1, "start_seconds": 60})
    config = launch.config_of_run(folder, (), ()).backend
    assert isinstance(config, AzureConfig)
    assert (config.preemption_retries, config.queue_timeout) == (1, 60)
    change(folder / "run.json", backend="own.py:Own", backend_settings={"retries": 1})
    assert run_folder.read_receipt(folder).backend_settings == {"retries": 1}  # another backend's own name


def test_a_receipt_of_an_unknown_schema_is_refused(home: Path) -> None:
    change(home / "runs" / "completed" / "run.json", schema=9)
    status = run_command("status", str(home / "runs" / "completed"), cwd=home)
    assert status.code == 4
    assert "it is of schema 9; this version reads schemas 1 and 2" in status.err
