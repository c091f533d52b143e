"""`backend=slurm` on a real Slurm, with real trainings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.processes import SMALL, run_successfully, wait_until
from helpers.slurm_cluster import NODES

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import BackendError
from mnist_cnn.testing import BackendContract

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.slurm_cluster import SlurmCluster

    from mnist_cnn.backend import Run
    from mnist_cnn.result import Result

CHOSEN = ("backend=slurm", "backend.cpus=2", "register.name=null")
LONGER = (*SMALL, "train.epochs=9")
"""A job that is still running when it is disturbed."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Return the result of the longer job, trained here."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return launch.submit("backend=local", *LONGER, f"run_dir={folder}").wait()


class TestSlurmBackend(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, slurm_environment: SlurmCluster) -> tuple[str, ...]:
        del slurm_environment  # it leads this process to the cluster
        return CHOSEN

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL

    def test_slurm_and_local_train_to_the_same_weights(self, completed: Run, small_run: Path) -> None:
        local, remote = run_folder.result_of(small_run), completed.wait()
        for name in ("job_digest", "weights_sha256", "accuracy"):
            assert getattr(remote, name) == getattr(local, name)


@pytest.mark.long
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("order", ["there-and-back", "here-and-there"])
def test_a_run_moves_between_slurm_and_this_machine(undisturbed: Result, tmp_path: Path, order: str) -> None:
    places = (CHOSEN, ("backend=local",)) if order == "there-and-back" else (("backend=local",), CHOSEN)
    run = launch.submit(*places[0], *LONGER, f"run_dir={tmp_path / 'run'}")
    wait_until(lambda: run.status().is_final or run_folder.read_history(run.folder))
    run.cancel()
    assert run.status() is Status.cancelled
    result = launch.resume(str(run.folder), *places[1]).wait()
    assert result.weights_sha256 == undisturbed.weights_sha256
    assert [row.epoch for row in result.history] == [row.epoch for row in undisturbed.history]
    assert "resuming after epoch" in (run.folder / run_folder.LOG).read_text()


@pytest.mark.long
@pytest.mark.usefixtures("slurm")
def test_a_sweep_submits_all_its_runs_at_once(small_run: Path, tmp_path: Path) -> None:
    ended = run_successfully("--multirun", "seed=0,1", *SMALL, *CHOSEN, "backend.cpus=1", cwd=tmp_path)
    receipts = [path.parent for path in (tmp_path / "runs").glob("*/run.json")]
    results = {run_folder.result_of(folder).weights_sha256 for folder in receipts}
    assert len(results) == 2
    assert run_folder.result_of(small_run).weights_sha256 in results
    assert ended.out.index("[2/2] seed=1") < ended.out.index("seed=0: ")  # which says how it ended


@pytest.mark.long
def test_following_outlives_a_controller_that_stops(
    slurm: SlurmCluster, undisturbed: Result, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = launch.submit(*CHOSEN, *LONGER, f"run_dir={tmp_path / 'run'}")
    wait_until(lambda: run.status() is Status.running)
    slurm.stop_controller()
    wait_until(lambda: run.status() and "retrying" in capsys.readouterr().err)
    slurm.start_controller()
    assert run.wait().weights_sha256 == undisturbed.weights_sha256


def test_a_run_waits_for_drained_nodes(slurm: SlurmCluster, tmp_path: Path) -> None:
    nodes = f"NodeName={','.join(NODES)}"
    slurm.run("scontrol", "update", nodes, "State=DRAIN", "Reason=maintenance")
    run = launch.submit(*CHOSEN, *SMALL, "backend.queue_timeout=1", f"run_dir={tmp_path / 'run'}")
    with pytest.raises(BackendError, match="no node is free; it stays in the queue"):
        run.wait()
    assert run.status() is Status.queued
    slurm.run("scontrol", "update", nodes, "State=RESUME")
    wait_until(lambda: run.status() is Status.running)
    run.cancel()
