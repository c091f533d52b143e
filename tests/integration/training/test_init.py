"""A training that starts from the weights of another run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import SMALL, result_of, run_command, run_successfully

import mnist_cnn
from mnist_cnn import launch, run_folder
from mnist_cnn.backends.remote import checkpoints, node
from mnist_cnn.backends.slurm.store import FolderStore
from mnist_cnn.errors import DataError
from mnist_cnn.training import worker
from mnist_cnn.training.initial_weights import FILE
from mnist_cnn.training.train import train

# As in test_train.py.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")

NEXT = (*SMALL, "train.epochs=1", "train.shards=2", "seed=1")


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, small_run: Path) -> Path:
    """The folder of a run that started from the weights of the small run."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    run_successfully(*NEXT, f"train.init={small_run}", f"run_dir={folder}", cwd=folder.parent)
    return folder


@pytest.mark.usefixtures("keras")
def test_it_starts_from_these_weights(tmp_path: Path, small_run: Path, tuned: Path) -> None:
    sha256 = result_of(small_run).weights_sha256
    assert f"starting from the weights {sha256}" in (tuned / "log.txt").read_text()
    assert run_folder.read_job(tuned).train.init_sha256 == sha256
    still = ("train.optimizer=sgd", "train.learning_rate=1e-30", "train.shards=1")
    shutil.copytree(tuned / "checkpoints", tmp_path / "checkpoints", ignore=shutil.ignore_patterns("epoch-*"))
    result = train(launch.make_job(*NEXT, *still, f"train.init={small_run}"), tmp_path)
    accuracy = result_of(small_run).accuracy  # which only the moving statistics can change
    assert result.accuracy == pytest.approx(accuracy, abs=0.1)


@pytest.mark.usefixtures("keras")
def test_a_run_that_is_killed_in_its_first_epoch_starts_from_them_again(tmp_path: Path, tuned: Path) -> None:
    folder = interrupted_copy(tuned, tmp_path / "run", after=0)
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [FILE]
    assert train(run_folder.read_job(folder), folder).weights_sha256 == result_of(tuned).weights_sha256
    assert (folder / "checkpoints" / FILE).exists()


def test_a_run_without_its_initial_weights_fails_clearly(tmp_path: Path, tuned: Path) -> None:
    folder = interrupted_copy(tuned, tmp_path / "run", after=0)
    (folder / "checkpoints" / FILE).unlink()
    ended = run_command("resume", "run", cwd=tmp_path)
    assert ended.code == DataError.exit_code
    assert "initial.npz is missing or damaged" in ended.err


@pytest.mark.long
def test_workers_start_from_the_same_weights(tmp_path: Path, small_run: Path, tuned: Path) -> None:
    init = f"train.init={small_run / 'model.keras'}"
    run_successfully(*NEXT, init, "backend.workers=2", "run_dir=shared", cwd=tmp_path)
    assert result_of(tmp_path / "shared").weights_sha256 == result_of(tuned).weights_sha256


@pytest.mark.usefixtures("keras")
def test_a_node_starts_from_the_weights_that_are_sent_with_the_checkpoints(
    tmp_path: Path, tuned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = interrupted_copy(tuned, tmp_path / "run", after=0)
    store = FolderStore(tmp_path / "store")
    checkpoints.send(store, "prefix", folder)
    assert list(store.list("prefix")) == [f"prefix/{FILE}"]
    data = Path(mnist_cnn.__file__).parent / "data" / "mnist"
    words = node.arguments(run_folder.read_job(folder), str(data), str(tmp_path / "store" / "prefix"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "print_log", lambda: None)  # it would change this process's log
    assert node.main(words) == 0
    assert result_of(tmp_path / "outputs").weights_sha256 == result_of(tuned).weights_sha256


def test_a_job_is_submitted_only_with_the_weights_that_it_was_made_with(tmp_path: Path, tuned: Path) -> None:
    model = tmp_path / "model.keras"
    model.write_bytes((tuned / "model.keras").read_bytes())
    job = launch.make_job(*NEXT, f"train.init={model}")
    model.write_bytes((tuned.parent / "run" / "model.keras").read_bytes()[:-9])
    with pytest.raises(DataError):
        mnist_cnn.submit(job, f"runs_dir={tmp_path / 'runs'}")
    assert not list((tmp_path / "runs").glob("*"))
