"""A real Slurm for the tests of this folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import slurm_cluster
from helpers.slurm_cluster import SlurmCluster
from helpers.slurm_runs import Submitter


@pytest.fixture(scope="session")
def slurm_started() -> Iterator[SlurmCluster]:
    """The cluster of the whole session."""
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        SlurmCluster(Path(folder)) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="class")
def slurm_environment(slurm_started: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster, with the environment variable that leads this process and its children to it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_started.environment.items():
            patch.setenv(name, value)
        yield slurm_started


@pytest.fixture
def slurm(slurm_environment: SlurmCluster) -> Iterator[SlurmCluster]:
    """The cluster without jobs; each node is idle again afterwards."""
    yield slurm_environment
    slurm_environment.cancel_all()


@pytest.fixture
def submitter(slurm: SlurmCluster, tmp_path: Path) -> Submitter:
    """Starts runs whose trainer is a few lines of bash."""
    return Submitter(slurm, tmp_path)
