"""A run on Azure that starts from weights, is recorded by trackers, and gets more epochs, with each SDK."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import BOTH_SDKS, LOOPBACK_TESTS, chosen, run_here, succeeded
from helpers.mlflow_server import mlflow_server
from helpers.processes import SMALL, result_of, start_command, wait_until
from helpers.tracked_runs import as_float32, in_mlflow, in_tensorboard

from mnist_cnn import launch
from mnist_cnn.tracking import state

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loopback import AzureService

    from mnist_cnn.result import Result

pytestmark = [*LOOPBACK_TESTS, pytest.mark.long]


@pytest.fixture(scope="module")
def server(azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server, which is reached without the service's proxy."""
    del azure_environment  # it sets that proxy
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1")
        with mlflow_server(tmp_path_factory.mktemp("server")) as url:
            yield url


@pytest.fixture(scope="module")
def job(small_run: Path) -> tuple[str, ...]:
    """Overrides of a job that starts from the weights in a file."""
    return (*SMALL, "seed=1", f"train.init={small_run / 'model.keras'}", "register.name=null")


@pytest.fixture(scope="module")
def scratch(job: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of this job with another epoch, trained here."""
    folder = tmp_path_factory.mktemp("scratch") / "run"
    return launch.submit(*job, "train.epochs=3", f"run_dir={folder}").wait()


@BOTH_SDKS
def test_a_tracked_run_from_weights_gets_more_epochs(  # noqa: PLR0913, PLR0917 - fixtures
    azure: AzureService, server: str, job: tuple[str, ...], scratch: Result, tmp_path: Path, sdk: str
) -> None:
    folder, cluster = tmp_path / "run", (*chosen(azure), sdk)
    track = ("track=[mlflow,tensorboard]", f"track.mlflow.uri={server}")
    command = start_command(*job, *cluster, *track, "run_dir=run", cwd=tmp_path)
    wait_until(lambda: "mlflow" in state.chosen(folder) and state.read(folder, "mlflow").epochs, command)
    command.kill()
    command.communicate()
    succeeded(run_here("follow", "run", cwd=tmp_path))
    rows = result_of(folder).history
    assert in_mlflow(server, folder, "loss") == [(row.epoch, row.loss) for row in rows]
    assert in_tensorboard(folder, "loss") == [(row.epoch, as_float32(row.loss)) for row in rows]
    more = ("train.epochs=3", *cluster, "register.name=null", "run_dir=longer")
    succeeded(run_here("resume", "run", *more, cwd=tmp_path))
    longer = result_of(tmp_path / "longer")
    assert (longer.job_digest, longer.weights_sha256) == (scratch.job_digest, scratch.weights_sha256)
