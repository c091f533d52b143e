"""Runs in a real MLflow server: parameters, epochs, tags, files, model, and the registry."""

from __future__ import annotations

import re
import shlex
import signal
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from helpers.cli import refusal
from helpers.mlflow_server import free_port, mlflow_server, serving
from helpers.processes import TINY, end_of, run_command, run_successfully, start_command, wait_until
from helpers.scripted_run import ScriptedRun
from helpers.tracked_runs import EPOCHS, JOB, complete, copy_files, in_mlflow, running

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.tracking import mlflow, state
from mnist_cnn.tracking.recording import recorded

if TYPE_CHECKING:
    from mlflow.entities import Run

REGISTER = ("register.name=digits", "register.to=mlflow", "register.min_accuracy=0")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real server."""
    with mlflow_server(tmp_path_factory.mktemp("server")) as url:
        yield url


@pytest.fixture(scope="module")
def trained(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of a sweep that was trained, tracked and registered."""
    home = tmp_path_factory.mktemp("home")
    track = ("track=mlflow", f"track.mlflow.uri={server}", "track.mlflow.experiment=trained")
    ended = run_successfully("--multirun", "seed=7", *TINY, *track, *REGISTER, cwd=home)
    assert ended.err == ""
    assert "registered as digits version 1" in ended.out
    (folder,) = (home / "runs").iterdir()
    return folder


def client(server: str) -> Any:
    return mlflow.client(server)


def tracked(server: str, folder: Path) -> Run:
    """Return what the server has of a run."""
    run: Run = client(server).get_run(state.read(folder, "mlflow").place["run_id"])
    return run


def test_a_trained_run_has_settings_epochs_tags_files_and_model(server: str, trained: Path) -> None:
    run, receipt = tracked(server, trained), run_folder.read_receipt(trained)
    result = run_folder.result_of(trained)
    assert (run.info.status, run.info.run_name) == ("FINISHED", trained.name)
    assert run.data.params["train.epochs"] == "1"
    assert run.data.params["model.filters"] == "[4,4]"
    assert run.data.params["train.threads"] == "null"
    tags = {"job_digest": receipt.job_digest, "weights_sha256": result.weights_sha256, "backend": "local"}
    tags |= {"run_folder": str(trained), "status": "completed"}
    assert run.data.tags | tags == run.data.tags
    assert in_mlflow(server, trained, "val_accuracy") == [(1, result.history[0].val_accuracy)]
    assert run.data.metrics["test_accuracy"] == result.accuracy
    paths = {file.path for file in client(server).list_artifacts(run.info.run_id)}
    plots = {"history.png", "confusion.png", "mistakes.png"}
    assert paths == {"job.json", "result.json", "log.txt", "metrics.jsonl", "model", *plots}
    files = {file.path for file in client(server).list_artifacts(run.info.run_id, "model")}
    names = ("MLmodel", "model.keras", "model.onnx", "requirements.txt")
    assert files == {f"model/{name}" for name in names}


def test_registering_a_run_twice_gives_one_version(server: str, trained: Path) -> None:
    ended = run_successfully("register", str(trained), *REGISTER, cwd=trained.parent)
    assert ended.out == "already registered: digits version 1, models:/digits/1\n"
    (version,) = client(server).search_model_versions("name = 'digits'")
    assert version.run_id == tracked(server, trained).info.run_id
    assert version.tags["weights_sha256"] == run_folder.result_of(trained).weights_sha256
    assert not (trained.parent / "models").exists()


def test_mlflow_loads_the_registered_model(
    server: str, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    pictures = np.random.default_rng(0).integers(0, 255, (3, 28, 28), np.uint8)
    inputs = (pictures[..., None] / 255).astype(np.float32)
    with warnings.catch_warnings():  # of MLflow's own parts
        warnings.simplefilter("ignore")
        import mlflow.pyfunc

        (found,) = mlflow.pyfunc.load_model("models:/digits/1").predict(inputs).values()
    np.testing.assert_allclose(found, load_predictor(trained)(pictures), atol=1e-6)


def test_a_run_that_was_not_tracked_is_recorded_when_it_is_registered(
    server: str, trained: Path, tmp_path: Path
) -> None:
    folder = copy_files(trained, tmp_path / "copy")
    words = ("register", str(folder), *REGISTER, f"track.mlflow.uri={server}")
    ended = run_successfully(*words, cwd=tmp_path)
    assert "registered: digits version 2, models:/digits/2" in ended.out
    assert in_mlflow(server, folder, "loss") == in_mlflow(server, trained, "loss")


@pytest.mark.parametrize(
    ("status", "expected"),
    [(Status.failed, "FAILED"), (Status.cancelled, "KILLED"), (Status.lost, "FAILED")],
)
def test_a_run_ends_there_as_it_ended_here(
    server: str, tmp_path: Path, status: Status, expected: str
) -> None:
    run = running(tmp_path, "track=mlflow", f"track.mlflow.uri={server}")
    run.end = status
    with recorded(run):
        wait_until(lambda: state.read(tmp_path, "mlflow").epochs == 1)
        assert tracked(server, tmp_path).info.status == "RUNNING"
        assert in_mlflow(server, tmp_path, "loss") == [(1, 1.0)]
        run.ended = True
    assert tracked(server, tmp_path).info.status == expected
    assert tracked(server, tmp_path).data.tags["status"] == status.value


@pytest.mark.parametrize("forgotten", [False, True], ids=["known", "forgotten"])
def test_a_follower_continues_the_same_run_and_repeats_no_epoch(
    server: str, tmp_path: Path, *, forgotten: bool
) -> None:
    with recorded(running(tmp_path, "track=mlflow", f"track.mlflow.uri={server}")):
        wait_until(lambda: state.read(tmp_path, "mlflow").epochs == 1)
    before = state.read(tmp_path, "mlflow")
    if forgotten:  # the process was killed before it could write down what it had done
        state.save(tmp_path, "mlflow", state.State(before.settings, before.id))
    complete(tmp_path)
    with recorded(ScriptedRun(tmp_path, Status.completed, ended=True)):
        pass
    assert state.read(tmp_path, "mlflow").place == before.place
    assert in_mlflow(server, tmp_path, "loss") == [(row.epoch, row.loss) for row in EPOCHS]
    assert tracked(server, tmp_path).data.params["seed"] == str(JOB.seed)


def test_ctrl_c_ends_the_run_there_too(server: str, tmp_path: Path) -> None:
    track = ("track=mlflow", f"track.mlflow.uri={server}")
    command = start_command(*TINY, "train.epochs=200", *track, "run_dir=run", cwd=tmp_path)
    folder = tmp_path / "run"
    wait_until((folder / "tracking" / "mlflow.json").exists, command)
    wait_until(lambda: state.read(folder, "mlflow").epochs > 0, command)
    command.send_signal(signal.SIGINT)
    assert end_of(command).code == 130
    assert tracked(server, folder).info.status == "KILLED"


def test_a_registry_that_is_away_is_an_error(trained: Path, tmp_path: Path) -> None:
    folder = copy_files(trained, tmp_path / "copy")
    uri = f"http://me:letmein123@127.0.0.1:{free_port()}"
    ended = run_command("register", str(folder), *REGISTER, f"track.mlflow.uri={uri}", cwd=tmp_path)
    message, hint = refusal(ended, 4)
    assert message.startswith("cannot register digits with MLflow at http://127.0.0.1:")
    assert "register.to=mlflow" in hint
    assert "letmein123" not in ended.err


def test_without_a_server_a_completed_run_goes_into_a_database_here(trained: Path, tmp_path: Path) -> None:
    folder = copy_files(trained, tmp_path / "copy")
    ended = run_command("follow", str(folder), "track=mlflow", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    (shown,) = re.findall(r"see it: +(python -m mlflow .*)", ended.out)
    port = str(free_port())
    with serving([*shlex.split(shown), "--port", port], tmp_path, f"http://127.0.0.1:{port}/health"):
        assert tracked(f"http://127.0.0.1:{port}", folder).info.status == "FINISHED"
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        found = database.execute("select status, name from runs").fetchall()
    assert found == [("FINISHED", "copy")]
