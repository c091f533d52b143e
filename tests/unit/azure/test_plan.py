"""The plan of `backend=azure`: what would be sent, without a service and without the SDK."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from mnist_cnn import compose, job_maker, launch
from mnist_cnn.backends.azure import checks, plan
from mnist_cnn.backends.azure.config import AzureConfig, Sdk
from mnist_cnn.backends.remote import node, snapshot
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import network_check

SDK = pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the SDK is for Python 3.11")


def request_of(*overrides: str) -> plan.Request:
    config = compose.load(["backend=azure", *overrides])
    assert isinstance(config.backend, AzureConfig)
    return plan.request(job_maker.job_of(config), config.backend)


def run_python(
    *arguments: str, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *arguments]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_a_plan_needs_no_credentials_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_cnn.cli.main import main; code = main(['plan', 'backend=azure']); "
        "print(code, [name for name in sys.modules if name.partition('.')[0] in ('azureml', 'tensorflow')])"
    )
    ended = run_python("-P", "-c", code, cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "0 []"
    assert list(tmp_path.iterdir()) == []
    assert max(len(line) for line in ended.stdout.splitlines()) < 500
    for said in (
        "traincluster",
        "entry.py",
        "train-images-idx3-ubyte.gz 9,719,438 B",
        "120 minutes",
        "--job (1,",
    ):
        assert said in ended.stdout


def test_the_snapshot_holds_source_and_configuration_alone() -> None:
    names = {file.name for file in snapshot.files(entry=plan.entry(Sdk.v1))}
    needed = {
        "entry.py",
        "mnist_cnn/training/train.py",
        "mnist_cnn/conf/config.yaml",
        "mnist_cnn/data/sources.toml",
        "mnist_cnn/backends/__init__.py",
        "mnist_cnn/backends/azure/plan.py",
    }
    assert needed <= names
    assert {Path(name).suffix for name in names} == {".py", ".yaml", ".toml"}
    assert not [name for name in names if {"__pycache__", "tests"} & set(Path(name).parts)]


def test_two_snapshots_are_equal_down_to_their_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    snapshot.write(tmp_path / "a", snapshot.files())
    snapshot.write(tmp_path / "b", snapshot.files())
    described = [
        {
            str(path.relative_to(root)): (path.stat().st_mtime, path.read_bytes() if path.is_file() else b"")
            for path in root.rglob("*")
        }
        for root in (tmp_path / "a", tmp_path / "b")
    ]
    assert described[0] == described[1]
    assert (tmp_path / "a").stat().st_mtime == (tmp_path / "b").stat().st_mtime


def test_a_snapshot_trains_without_the_installed_package(tmp_path: Path) -> None:
    snapshot.write(tmp_path, snapshot.files())
    code = "import mnist_cnn.training.train as train, mnist_cnn.backends.azure.plan; print(train.__file__)"
    ended = run_python("-c", code, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path)


def test_the_entry_script_refuses_to_train_with_another_copy(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_bytes(plan.entry(Sdk.v1).read_bytes())
    job = node.encode(launch.make_job("train.epochs=3"))
    arguments = ("--job", job, "--data-folder", ".", "--checkpoints", ".")
    ended = run_python("-P", "entry.py", *arguments, cwd=tmp_path)
    assert ended.returncode == 1
    assert "not the snapshot's" in ended.stderr


def test_a_job_travels_as_one_token_and_keeps_its_digest() -> None:
    job = launch.make_job("train.epochs=3")
    token = node.encode(job)
    assert token.replace("-", "").replace("_", "").isalnum()
    decoded = node.decode(token)
    assert decoded.digest == job.digest
    assert decoded.data.dir is None
    with pytest.raises(ConfigurationError, match="--job"):
        node.decode(token[:-20])


def test_a_job_too_long_for_an_argument_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(a, b, c):\n    pass\n" + "# long\n" * 20_000)
    with pytest.raises(ConfigurationError, match="characters as an argument"):
        request_of(f"model.file={tmp_path / 'net.py'}")


def test_each_mount_is_a_token_of_its_own() -> None:
    asked = request_of().arguments
    assert asked[0::2] == ("--job", "--data-folder", "--checkpoints")
    assert asked[3::2] == (plan.DATA_MOUNT, plan.CHECKPOINT_MOUNT)
    gpu = request_of("backend.use_gpu=true", "backend.vm_size=STANDARD_NC4AS_T4_V3")
    assert gpu.arguments[-2:] == ("--device", "gpu")


def test_each_worker_has_a_node() -> None:
    config = compose.load(["backend=azure", "train.shards=4", "backend.workers=2", "backend.max_nodes=3"])
    assert isinstance(config.backend, AzureConfig)
    request = plan.request(job_maker.job_of(config), config.backend)
    assert request.arguments[-2:] == ("--workers", "2")
    assert dict(plan.describe(request, config.backend))["workers"] == "2, each on a node of its own"
    with pytest.raises(ConfigurationError, match=r"workers=2 does not divide train\.shards=1"):
        request_of("backend.workers=2", "backend.max_nodes=2")


def test_the_limit_of_a_run_is_sent_in_seconds() -> None:
    assert request_of("backend.max_duration=90").max_seconds == 90 * 60


def test_the_environment_pins_the_versions_here_and_is_named_by_them() -> None:
    environment = plan.environment(Sdk.v1, use_gpu=False)
    assert f"keras=={importlib.metadata.version('keras')}" in environment.packages
    assert environment.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert [name.partition("==")[0] for name in environment.packages if "azure" in name] == ["azureml-core"]
    assert all("==" in package for package in environment.packages)
    assert plan.environment(Sdk.v1, use_gpu=False).name == environment.name
    changed = dataclasses.replace(environment, packages=(*environment.packages, "x==1"))
    with_gpu = plan.environment(Sdk.v1, use_gpu=True)
    assert len({environment.name, changed.name, with_gpu.name}) == 3
    assert [package for package in with_gpu.packages if package.startswith("tensorflow[and-cuda]==")]


@SDK
@pytest.mark.parametrize("image", [plan.CPU_IMAGE, plan.GPU_IMAGE])
def test_an_image_and_its_tag_are_in_the_sdks_own_list(image: str) -> None:
    """Its default GPU image, of CUDA 11.8, is not in that list: its tag was never published."""
    from azureml import _project

    name, _, tag = image.partition(":")
    listed = json.loads((Path(_project.__file__).parent / "azureml_base_images.json").read_text())
    assert listed[name] == tag


def test_different_data_sets_never_share_a_folder(tmp_path: Path) -> None:
    packaged = launch.make_job().data
    assert snapshot.data_folder(packaged) == "mnist"
    assert snapshot.data_folder(dataclasses.replace(packaged, dir=str(tmp_path))) == "mnist"
    other = dataclasses.replace(packaged, dir=str(tmp_path), digest="0" * 64)
    assert snapshot.data_folder(other) == f"data-{'0' * 12}"
    downloaded = dataclasses.replace(packaged, name="kmnist", digest="1" * 64)
    assert snapshot.data_folder(downloaded) == "kmnist"


def test_an_exact_job_is_not_sent_to_a_gpu() -> None:
    gpu = ("backend.use_gpu=true", "backend.vm_size=STANDARD_NC4AS_T4_V3")
    with pytest.raises(ConfigurationError, match=r"backend\.use_gpu=true requires a GPU") as caught:
        request_of("train.numerics=exact", *gpu)
    assert caught.value.hint == "set backend.use_gpu=false, or train.numerics=native"
    assert "--device" not in request_of("train.numerics=exact").arguments


def test_the_network_of_an_exact_job_is_checked_before_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose.load(["backend=azure", "train.numerics=exact"])
    refusal = Mock(side_effect=ConfigurationError("train.numerics=exact cannot train norm"))
    monkeypatch.setattr(checks, "check_all", Mock())
    monkeypatch.setattr(network_check, "check", refusal)
    with pytest.raises(ConfigurationError, match="cannot train norm"):
        launch.backend_of(config).check(job_maker.job_of(config))
