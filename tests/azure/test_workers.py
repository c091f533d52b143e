"""Several workers on a cluster: each is a node, and they end in the weights of one local process."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import BOTH_SDKS, LOOPBACK_TESTS, chosen, run_here, succeeded
from helpers.processes import run_successfully

from mnist_cnn import run_folder
from mnist_cnn.result import Result

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = [*LOOPBACK_TESTS, BOTH_SDKS]
JOB = (
    "data.train_limit=600", "data.test_limit=250", "train.epochs=2", "train.batch_size=50",
    "model=compact", "train.shards=2", "train.threads=1",
)  # fmt: skip
PAIR = ("backend.workers=2", "backend.max_nodes=2", "backend.cluster=pair", "register.name=null")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of the job in one local process."""
    home = tmp_path_factory.mktemp("local")
    run_successfully(*JOB, "run_dir=run", cwd=home)
    return run_folder.result_of(home / "run")


def test_two_nodes_end_in_the_weights_of_one_process(
    azure: AzureService, tmp_path: Path, local: Result, sdk: str
) -> None:
    ended = run_here(*chosen(azure), sdk, *JOB, *PAIR, "run_dir=run", cwd=tmp_path)
    folder = tmp_path / "run"
    log = (folder / "log.txt").read_text() if (folder / "log.txt").exists() else ""
    succeeded(ended, "cluster pair has 2 nodes")
    assert run_folder.result_of(folder).weights_sha256 == local.weights_sha256
    assert "2 workers, 1 threads each" in log
