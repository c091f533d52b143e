"""A backend from another package, which an entry point registers under a name."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from helpers.processes import TINY, Ended, run_command
from helpers.records import write_receipt

from mnist_cnn.backend import Status

SOURCE = '''
import dataclasses
from typing import ClassVar

from mnist_cnn.backends.local import LocalBackend, LocalConfig
from mnist_cnn.config import BackendConfig
from mnist_cnn.settings import setting


@dataclasses.dataclass(frozen=True)
class CloudConfig(LocalConfig):
    """The keys of `backend=cloud`."""

    region: str = setting("here", "where the cloud is")


class CloudBackend(LocalBackend):
    CONFIG: ClassVar[type[BackendConfig]] = CloudConfig

    def command(self, folder):
        return ["/usr/bin/env", f"REGION={self.config.region}", *super().command(folder)]
'''
INSTALLED = {
    "my_cloud.py": SOURCE,
    "my_cloud-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: my-cloud\nVersion: 1.0\n",
    "my_cloud-1.0.dist-info/entry_points.txt": "[mnist_cnn.backends]\ncloud = my_cloud:CloudBackend\n",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an installer leaves of a package with a backend."""
    site = tmp_path_factory.mktemp("site")
    (site / "my_cloud-1.0.dist-info").mkdir()
    for name, text in INSTALLED.items():
        (site / name).write_text(text)
    return site


def run_with(site: Path, *arguments: str, cwd: Path) -> Ended:
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run_command(*arguments, cwd=cwd, PYTHONPATH=paths)


def test_an_installed_backend_works_like_a_built_in_one(tmp_path: Path, site: Path) -> None:
    chosen = ("backend=cloud", "backend.region=there")
    planned = run_with(site, "plan", *chosen, cwd=tmp_path)
    assert planned.code == 0, planned.err
    assert f"/usr/bin/env REGION=there {sys.executable}" in planned.out
    trained = run_with(site, *TINY, *chosen, "run_dir=run", cwd=tmp_path)
    assert trained.code == 0, trained.err
    status = run_with(site, "status", "run", "--json", cwd=tmp_path).json()
    assert (status["status"], status["backend"]) == ("completed", "cloud")
    assert "run is completed" in run_with(site, "resume", "run", cwd=tmp_path).err


def test_help_and_errors_name_the_installed_backend_and_its_keys(tmp_path: Path, site: Path) -> None:
    assert (
        "backend=NAME, one of: azure, local, slurm, cloud"
        in run_with(site, "help", "backend", cwd=tmp_path).out
    )
    assert "\n  backend.region=" in run_with(site, "help", "backend=cloud", cwd=tmp_path).out
    refused = run_with(site, "plan", "backend=clod", cwd=tmp_path)
    assert refused.code == 2
    assert "backend=clod: must be one of azure, local, slurm, cloud\ndid you mean cloud?" in refused.err
    refused = run_with(site, "plan", "backend=cloud", "backend.regoin=there", cwd=tmp_path)
    assert refused.code == 2
    assert "unknown key backend.regoin\ndid you mean backend.region?" in refused.err


def test_a_run_of_a_backend_that_is_not_installed(tmp_path: Path, site: Path) -> None:
    """`list` shows what its receipt says; `status` names the backends that there are."""
    receipt = write_receipt(tmp_path / "run", Status.completed)
    (tmp_path / "run" / "run.json").write_text(receipt.to_json().replace('"local"', '"cloud"'))
    listed = run_command("list", "runs_dir=.", "--json", cwd=tmp_path)
    assert [row["status"] for row in listed.json()] == ["completed"]
    assert run_with(site, "status", "run", cwd=tmp_path).code == 0
    missing = run_command("status", "run", cwd=tmp_path)
    assert missing.code == 2
    assert "backend=cloud: must be one of azure, local, slurm" in missing.err
