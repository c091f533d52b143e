"""What `backend=azure` does before the first request: the plan, and the refusals. No service, no SDK."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import run_command

from mnist_cnn import compose, launch
from mnist_cnn.backends.azure import checks, plan, service, snapshot
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from mnist_cnn.job import Job

NAMES = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
PRINCIPAL = dict.fromkeys(checks.PRINCIPAL_VARIABLES, "x")


def config_of(*overrides: str) -> AzureConfig:
    backend = compose.load(["backend=azure", *overrides]).backend
    assert isinstance(backend, AzureConfig)
    return backend


def request_of(*overrides: str) -> plan.Request:
    config = compose.load(["backend=azure", *overrides])
    assert isinstance(config.backend, AzureConfig)
    return plan.request(launch.job_of(config), config.backend)


def job() -> Job:
    return launch.make_job("train.epochs=3")


def test_a_plan_needs_no_credentials_imports_no_azureml_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; from mnist_cnn.cli.main import main; code = main(['plan', 'backend=azure']); "
        "print(code, [name for name in sys.modules if name.partition('.')[0] in ('azureml', 'tensorflow')])"
    )
    ended = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout.splitlines()[-1] == "0 []"
    assert list(tmp_path.iterdir()) == []
    for said in (
        "traincluster",
        "entry.py",
        "train-images-idx3-ubyte.gz 9,719,438 B",
        "120 minutes",
        "--job ",
    ):
        assert said in ended.stdout


def test_the_snapshot_is_source_and_configuration_and_nothing_else() -> None:
    names = {file.name for file in snapshot.files()}
    needed = {
        "entry.py",
        "mnist_cnn/train.py",
        "mnist_cnn/conf/config.yaml",
        "mnist_cnn/data/sources.toml",
        "mnist_cnn/backends/__init__.py",
        "mnist_cnn/backends/azure/plan.py",
    }
    assert needed <= names
    assert {Path(name).suffix for name in names} == {".py", ".yaml", ".toml"}
    assert not [name for name in names if "__pycache__" in name or "test" in name]


def test_two_snapshots_are_the_same_to_the_client_down_to_their_times(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    snapshot.write(tmp_path / "a")
    snapshot.write(tmp_path / "b")
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
    snapshot.write(tmp_path)
    code = "import mnist_cnn.training.train as train, mnist_cnn.backends.azure.plan; print(train.__file__)"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert Path(ended.stdout.strip()).is_relative_to(tmp_path)


def test_the_entry_script_refuses_to_train_with_another_copy(tmp_path: Path) -> None:
    (tmp_path / "entry.py").write_bytes((Path(plan.__file__).parent / "entry.py").read_bytes())
    arguments = ("--job", plan.encode(job()), "--data-folder", ".", "--checkpoints", ".")
    ended = subprocess.run(
        [sys.executable, "-P", "entry.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "not the snapshot's" in ended.stderr


def test_a_job_travels_as_one_token_and_keeps_its_digest() -> None:
    token = plan.encode(job())
    assert token.replace("-", "").replace("_", "").isalnum()
    decoded = plan.decode(token)
    assert decoded.digest == job().digest
    assert decoded.data.dir is None
    with pytest.raises(ConfigurationError, match="--job"):
        plan.decode(token[:-20])


def test_a_job_that_no_node_takes_as_an_argument_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def build(a, b, c):\n    pass\n" + "# long\n" * 20_000)
    with pytest.raises(ConfigurationError, match="characters as an argument"):
        request_of(f"model.file={tmp_path / 'net.py'}")


def test_each_mount_is_a_token_of_its_own() -> None:
    asked = request_of().arguments
    assert asked[0::2] == ("--job", "--data-folder", "--checkpoints")
    assert asked[3::2] == (plan.DATA_MOUNT, plan.CHECKPOINT_MOUNT)
    gpu = request_of("backend.use_gpu=true", "backend.vm_size=STANDARD_NC6S_V3")
    assert gpu.arguments[-2:] == ("--device", "gpu")


def test_the_environment_pins_this_side_and_is_named_by_what_it_pins() -> None:
    import keras

    environment = plan.environment(use_gpu=False)
    assert f"keras=={keras.__version__}" in environment.packages
    assert environment.python == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert [name for name in environment.packages if name.startswith("azureml-defaults==")]
    assert all("==" in package for package in environment.packages)
    assert plan.environment(use_gpu=False).name == environment.name
    changed = dataclasses.replace(environment, packages=(*environment.packages, "x==1"))
    with_gpu = plan.environment(use_gpu=True)
    assert len({environment.name, changed.name, with_gpu.name}) == 3
    assert [package for package in with_gpu.packages if package.startswith("tensorflow[and-cuda]==")]


def test_data_sets_that_differ_never_share_a_folder_of_the_datastore(tmp_path: Path) -> None:
    packaged = launch.make_job().data
    assert plan.data_folder(packaged) == "mnist"
    assert plan.data_folder(dataclasses.replace(packaged, dir=str(tmp_path))) == "mnist"
    other = dataclasses.replace(packaged, dir=str(tmp_path), digest="0" * 64)
    assert plan.data_folder(other) == f"data-{'0' * 12}"
    downloaded = dataclasses.replace(packaged, name="kmnist", digest="1" * 64)
    assert plan.data_folder(downloaded) == "kmnist"


@pytest.mark.parametrize(
    "override",
    [
        "backend.cluster=ab",
        "backend.cluster=1cluster",
        "backend.cluster=cluster-",
        "backend.cluster=cluster-1",
        "backend.cluster=a23456789012345678",
        "backend.cluster=amlcompute",
        "backend.experiment=ab",
        "backend.experiment='a b'",
        "backend.vm_size='D2 V2'",
        "backend.min_nodes=2",
        "backend.max_nodes=101",
        "backend.use_gpu=true",
        "backend.priority=spot",
        "backend.max_duration=0",
        "backend.data.overwrite=perhaps",
        "backend.data.overwriet=true",
        "backend.clustre=x",
    ],
)
def test_what_the_service_would_refuse_is_refused_here(override: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        config_of(override)
    assert override.partition("=")[0] in raised.value.message
    assert raised.value.hint


def test_a_run_on_low_priority_nodes_may_not_take_longer_than_the_service_allows() -> None:
    config_of("backend.max_duration=20000")
    with pytest.raises(ConfigurationError, match="low-priority"):
        config_of("backend.max_duration=20000", "backend.priority=lowpriority")


@pytest.mark.parametrize("name", ["scikit-learn-mnist", "mnist-cnn"])
def test_the_tutorials_names_are_taken(name: str) -> None:
    assert config_of(f"backend.experiment={name}", "backend.cluster=traincluster").experiment == name


@pytest.mark.parametrize("place", [".azureml/config.json", "aml_config/config.json", "config.json"])
def test_a_workspace_is_found_where_the_sdk_finds_it(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text(json.dumps(NAMES))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert checks.find_workspace(None) == checks.WorkspaceName("s", "g", "w")
    assert checks.find_workspace(str(tmp_path / place)) == checks.WorkspaceName("s", "g", "w")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "not JSON of that form"),
        ('{"subscription_id": "s", "resource_group": "g"}', "'workspace_name' is missing"),
        (json.dumps(NAMES | {"workspace_name": "<my-workspace>"}), "name is not filled in"),
    ],
)
def test_a_config_json_that_says_no_workspace_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=said) as raised:
        checks.find_workspace(str(tmp_path))
    assert "ml.azure.com" in raised.value.hint


def test_a_missing_config_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        checks.find_workspace(str(tmp_path))


def test_credentials_are_a_principal_a_login_of_the_azure_cli_or_a_person(tmp_path: Path) -> None:
    home = {"AZURE_CONFIG_DIR": str(tmp_path), "PATH": str(tmp_path)}
    assert checks.credentials(PRINCIPAL, at_terminal=False) is checks.Credentials.service_principal
    assert checks.credentials(home, at_terminal=True) is checks.Credentials.interactive
    with pytest.raises(ConfigurationError, match="no terminal"):
        checks.credentials(home, at_terminal=False)
    (tmp_path / "az").write_text("#!/bin/sh\n")
    (tmp_path / "az").chmod(0o755)
    (tmp_path / "azureProfile.json").write_text('{"subscriptions": [{"id": "s"}]}')
    assert checks.credentials(home, at_terminal=False) is checks.Credentials.azure_cli


def test_an_incomplete_principal_names_what_is_missing() -> None:
    incomplete = {name: value for name, value in PRINCIPAL.items() if not name.endswith("PASSWORD")}
    with pytest.raises(ConfigurationError, match="AZUREML_SERVICE_PRINCIPAL_PASSWORD is not set"):
        checks.credentials(incomplete, at_terminal=False)


def test_another_python_is_refused_naming_the_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(ConfigurationError, match=r"Python 3\.11.*on 3\.12"):
        checks.check_sdk()


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="another Python is refused before that")
def test_a_refusal_comes_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    ended = run_command("backend=azure", cwd=tmp_path, timeout=60, HOME=str(tmp_path))
    assert ended.code == 2
    assert "config.json" in ended.err
    (tmp_path / "config.json").write_text(json.dumps(NAMES))
    unset = dict.fromkeys(checks.PRINCIPAL_VARIABLES, "")
    ended = run_command("backend=azure", cwd=tmp_path, timeout=60, HOME=str(tmp_path), PATH="", **unset)
    assert ended.code == 2
    assert "no credentials" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_no_secret_is_in_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZUREML_SERVICE_PRINCIPAL_PASSWORD", "geheimer geht nicht")
    text = "GET https://a/b?sv=1&sig=abc%2F&x=1 Authorization: Bearer eyJ.x.y client_secret=q "
    text += "{'accountKey': 'k+y', \"access_token\": \"tok.en\"} geheimer geht nicht"
    told = service.translate("do it", RuntimeError(text))
    assert isinstance(told, service.ServiceError)
    for said in (told.message, told.hint, told.detail):
        assert not [
            secret for secret in ("abc%2F", "eyJ", "geheimer", "=q ", "k+y", "tok.en") if secret in said
        ]


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        ("Received bad response:\nResponse Code: 403\nContent: b''", 403, "role"),
        ("AADSTS7000222: The provided client secret keys are expired", 401, "expired"),
        ("Response Code: 409 ... exceeds the quota of 0 cores", 409, "cores"),
        ("something else", None, "studio"),
    ],
)
def test_what_the_sdk_says_becomes_one_line_of_what_and_one_of_what_to_do(
    text: str, status: int | None, said: str
) -> None:
    told = service.translate("find the cluster", RuntimeError(text))
    assert isinstance(told, service.ServiceError)
    assert told.status == status
    assert said in told.hint
    assert "\n" not in told.message + told.hint


def test_a_call_that_never_ends_is_given_up() -> None:
    import threading

    with pytest.raises(service.ServiceError, match="no answer from the service in 0 seconds"):
        service.call("wait", threading.Event().wait, seconds=0.05)
