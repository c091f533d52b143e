"""What `backend=azure` refuses before the first request: settings, workspace, credentials, Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.processes import run_command
from helpers.records import write_receipt
from helpers.sdk_fakes import config_in, config_of

from mnist_cnn import compose
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import AzureBackend, checks
from mnist_cnn.backends.azure.config import GPU_VM_SIZE, AzureConfig, Sdk
from mnist_cnn.backends.azure.service import AzureService
from mnist_cnn.errors import BackendError, ConfigurationError

NAMES = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}
PRINCIPAL = dict.fromkeys(checks.PRINCIPAL_VARIABLES, "x")


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
        "backend.workers=0",
        "backend.workers=2",
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


def test_several_workers_train_on_cpus() -> None:
    config_of("backend.workers=4", "backend.max_nodes=4")
    with pytest.raises(ConfigurationError, match="train on CPUs, but backend"):
        config_of(
            "backend.workers=2",
            "backend.max_nodes=2",
            "backend.use_gpu=true",
            f"backend.vm_size={GPU_VM_SIZE}",
        )


def test_the_defaults_of_the_class_and_of_conf_are_the_same() -> None:
    assert config_of() == AzureConfig(name="azure")


def test_a_run_on_low_priority_nodes_has_a_shorter_limit() -> None:
    config_of("backend.max_duration=20000")
    with pytest.raises(ConfigurationError, match="Spot nodes"):
        config_of("backend.max_duration=20000", "backend.priority=lowpriority")


NETWORKS = "resourceGroups/g/providers/Microsoft.Network/virtualNetworks"


@pytest.mark.parametrize("subnet", ["training", f"/subscriptions/s/{NETWORKS}/office"])
def test_a_subnet_is_a_resource_id(subnet: str) -> None:
    with pytest.raises(ConfigurationError, match="not the resource id of a subnet") as raised:
        config_of(f"backend.subnet={subnet}")
    assert "/virtualNetworks/NETWORK/subnets/NAME" in raised.value.hint


def test_a_subnet_is_in_the_subscription_of_the_workspace(tmp_path: Path) -> None:
    for subscription in ("s", "S"):
        subnet = f"/subscriptions/{subscription}/{NETWORKS}/office/subnets/training"
        checks.check_network(config_in(tmp_path, f"backend.subnet={subnet}"))
    other = f"/subscriptions/other/{NETWORKS}/office/subnets/training"
    with pytest.raises(ConfigurationError, match=r"backend\.subnet is in the subscription other"):
        checks.check_network(config_in(tmp_path, f"backend.subnet={other}"))


def test_sdk_v1_removes_public_addresses_only_in_a_subnet(tmp_path: Path) -> None:
    """A workspace with a managed network needs no subnet, but SDK v1 sends the setting only beside one."""
    without = ("backend.public_ip=false", "backend.sdk=v1")
    checks.check_network(config_in(tmp_path, without[0], "backend.sdk=v2"))
    subnet = f"/subscriptions/s/{NETWORKS}/office/subnets/training"
    checks.check_network(config_in(tmp_path, *without, f"backend.subnet={subnet}"))
    with pytest.raises(ConfigurationError, match=r"backend\.public_ip=false") as raised:
        checks.check_network(config_in(tmp_path, *without))
    assert "backend.sdk=v2" in raised.value.hint


@pytest.mark.parametrize("name", ["scikit-learn-mnist", "mnist-cnn"])
def test_the_names_of_the_tutorial_are_accepted(name: str) -> None:
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
def test_a_config_json_without_a_workspace_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=said) as raised:
        checks.find_workspace(str(tmp_path))
    assert "ml.azure.com" in raised.value.hint


def test_a_missing_config_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no config\.json"):
        checks.find_workspace(str(tmp_path))


def test_credentials_are_a_principal_the_azure_cli_or_a_person(tmp_path: Path) -> None:
    home = {"AZURE_CONFIG_DIR": str(tmp_path), "PATH": str(tmp_path)}
    assert checks.credentials(PRINCIPAL, at_terminal=False) is checks.Credentials.service_principal
    assert checks.credentials(home, at_terminal=True) is checks.Credentials.interactive
    with pytest.raises(ConfigurationError, match="no terminal to log in from"):
        checks.credentials(home, at_terminal=False)
    (tmp_path / "az").write_text("#!/bin/sh\n")
    (tmp_path / "az").chmod(0o755)
    (tmp_path / "azureProfile.json").write_text('{"subscriptions": [{"id": "s"}]}')
    assert checks.credentials(home, at_terminal=False) is checks.Credentials.azure_cli


@pytest.mark.parametrize("name", [checks.TENANT_VARIABLE, "AZURE_TENANT_ID"])
def test_a_tenant_alone_is_for_another_login(name: str) -> None:
    alone = {name: "x", "PATH": ""}
    assert checks.credentials(alone, at_terminal=True) is checks.Credentials.interactive
    assert checks.tenant(alone) == "x"
    assert checks.tenant({}) is None


def test_the_id_of_a_managed_identity_is_not_a_principal() -> None:
    alone = {"AZURE_CLIENT_ID": "x", "PATH": ""}
    assert checks.credentials(alone, at_terminal=True) is checks.Credentials.interactive


@pytest.mark.parametrize("name", ["AZURE_FEDERATED_TOKEN_FILE", "ACTIONS_ID_TOKEN_REQUEST_URL"])
def test_a_federated_login_of_another_program_is_not_half_a_principal(name: str) -> None:
    given = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "PATH": ""}
    assert checks.credentials({**given, name: "x"}, at_terminal=True) is checks.Credentials.interactive
    with pytest.raises(ConfigurationError, match="incomplete"):
        checks.credentials(given, at_terminal=True)


@pytest.mark.parametrize("names", [checks.PRINCIPAL_VARIABLES, checks.IDENTITY_VARIABLES])
@pytest.mark.parametrize("missing", [(2,), (1,), (0,), (0, 1)])
def test_an_incomplete_principal_names_what_is_missing(
    names: tuple[str, ...], missing: tuple[int, ...]
) -> None:
    """Another login must not be used in its place."""
    given = {name: "x" for place, name in enumerate(names) if place not in missing} | {"PATH": ""}
    absent = ", ".join(names[place] for place in missing)
    with pytest.raises(ConfigurationError, match=f"incomplete: {absent} is not set") as raised:
        checks.credentials(given, at_terminal=True)
    assert f"set {', '.join(names)}, or unset" in raised.value.hint


def test_another_python_is_refused_with_the_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 12, 1))
    with pytest.raises(ConfigurationError, match=r"needs Python 3\.11: .* on 3\.12"):
        checks.check_sdk(Sdk.v1)


def test_v2_is_chosen_unless_v1_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed: list[str] = ["azureml-train-core", "azure-ai-ml"]
    monkeypatch.setattr(checks, "_is_installed", lambda name: name in installed)
    assert checks.chosen_sdk(config_of()) is Sdk.v1
    assert checks.chosen_sdk(config_of("backend.sdk=v2")) is Sdk.v2
    installed.remove("azureml-train-core")
    assert checks.chosen_sdk(config_of()) is Sdk.v2
    checks.check_sdk(Sdk.v2)
    installed.clear()
    for sdk, extra in ((Sdk.v1, "azure"), (Sdk.v2, "azure-v2")):
        with pytest.raises(ConfigurationError, match=r"installed") as raised:
            checks.check_sdk(sdk)
        if sdk is Sdk.v2 or sys.version_info[:2] == (3, 11):
            assert f"[{extra}]" in raised.value.hint


def test_a_receipt_with_an_unknown_sdk_is_damaged(tmp_path: Path) -> None:
    write_receipt(tmp_path, Status.failed, backend="azure", backend_settings={"sdk": "v3"})
    backend = AzureBackend(compose.load(["backend=azure", "backend.sdk=v2"]))
    with pytest.raises(BackendError, match=r"run\.json is damaged: backend_settings\.sdk is 'v3'") as raised:
        backend.attach(tmp_path)
    assert "set it to v1 or v2" in raised.value.hint


@pytest.mark.parametrize("installed", list(Sdk))
def test_the_receipt_records_which_sdk_was_chosen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, installed: Sdk
) -> None:
    """A later command, in another environment perhaps, uses the same one."""
    names = {Sdk.v1: "azureml-train-core", Sdk.v2: "azure-ai-ml"}
    monkeypatch.setattr(checks, "_is_installed", lambda name: name == names[installed])
    (tmp_path / "config.json").write_text(json.dumps(NAMES))
    config = config_of(f"backend.workspace={tmp_path}")
    assert config.sdk is None
    assert AzureService(config).settings()["sdk"] == installed


@pytest.mark.parametrize(("python", "is_refused"), [((3, 11), False), ((3, 13), False), ((3, 14), True)])
def test_v2_is_for_python_3_11_to_3_13(
    monkeypatch: pytest.MonkeyPatch, python: tuple[int, int], *, is_refused: bool
) -> None:
    monkeypatch.setattr(sys, "version_info", python)
    monkeypatch.setattr(checks, "_is_installed", lambda _: True)
    if not is_refused:
        checks.check_sdk(Sdk.v2)
        return
    with pytest.raises(ConfigurationError, match=r"needs Python 3\.11 to 3\.13, not 3\.14"):
        checks.check_sdk(Sdk.v2)


def test_a_principal_may_have_the_names_of_newer_libraries() -> None:
    newer = dict.fromkeys(checks.IDENTITY_VARIABLES, "y")
    assert checks.principal(newer) == ("y", "y", "y")
    assert checks.principal({**newer, **PRINCIPAL}) == ("x", "x", "x")
    assert checks.credentials(newer, at_terminal=False) is checks.Credentials.service_principal


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
