"""`backend=slurm` on a real Slurm, with real trainings."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from helpers.processes import SMALL, run_successfully

from mnist_cnn.testing import BackendContract

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.slurm_cluster import SlurmCluster

CHOSEN = ("backend=slurm", "backend.cpus=2", "register.name=null")


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


@pytest.mark.usefixtures("slurm")
def test_slurm_and_local_train_to_the_same_weights(small_run: Path, tmp_path: Path) -> None:
    ended = run_successfully(*SMALL, *CHOSEN, "run_dir=run", "--json", cwd=tmp_path)
    local, remote = json.loads((small_run / "result.json").read_text()), ended.json()["result"]
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert remote[name] == local[name]
