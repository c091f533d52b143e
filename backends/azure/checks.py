"""Checks before the first request to the service.

They search where the SDK searches, but don't import it.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import shutil
import sys
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure.config import SUBNET, Sdk
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read
from mnist_cnn.version import installation_hint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnist_cnn.backends.azure.config import AzureConfig

V2_PYTHONS = ((3, 11), (3, 13))
"""The oldest and newest Python for the extra `azure-v2`."""
PRINCIPAL_VARIABLES = tuple(f"AZUREML_SERVICE_PRINCIPAL_{part}" for part in ("TENANT_ID", "ID", "PASSWORD"))
IDENTITY_VARIABLES = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
"""The same variables, as newer Azure libraries name them."""
PART_OF_A_PRINCIPAL = (PRINCIPAL_VARIABLES[:1], IDENTITY_VARIABLES[:1], IDENTITY_VARIABLES[1:2])
"""Variables that may be set alone.

They are a tenant, or the id of a managed identity.
"""
FEDERATED_VARIABLES = ("AZURE_FEDERATED_TOKEN_FILE", "ACTIONS_ID_TOKEN_REQUEST_URL")
"""Variables of a login without a password.

If one is set, a tenant and an id are enough. Another program uses that login.
"""
TENANT_VARIABLE = PRINCIPAL_VARIABLES[0]
"""Set alone, it names the tenant of another login.

That is the Azure CLI's or the browser's.
"""
CONFIG_FILES = ("config.json", "project.json")
CONFIG_FOLDERS = (".azureml", "aml_config", "")
"""Folders to search, in the SDK's order.

It searches all parents for one folder before the next.
"""

WORKSPACE_HINT = "download it from https://ml.azure.com (click the workspace), or set backend.workspace=FILE"


@dataclasses.dataclass(frozen=True)
class WorkspaceName:
    """The content of a workspace's config.json."""

    subscription_id: str
    resource_group: str
    name: str


class Credentials(StrEnum):
    service_principal = "service principal"
    azure_cli = "Azure CLI"
    interactive = "browser"


def chosen_sdk(config: AzureConfig) -> Sdk:
    """Return the SDK to use.

    That is the configured one, else v1 if installed, else v2.
    """
    return config.sdk or (Sdk.v1 if _is_installed("azureml-train-core") else Sdk.v2)


def check_all(config: AzureConfig) -> None:
    """Check Python, SDK, workspace file and credentials. Raises ConfigurationError."""
    check_sdk(chosen_sdk(config))
    find_workspace(config.workspace)
    credentials()


def check_network(config: AzureConfig) -> None:
    """Check a new cluster's network. Raises ConfigurationError.

    The subnet must be in the workspace's subscription:
    https://learn.microsoft.com/azure/machine-learning/how-to-secure-training-vnet
    """
    subnet = SUBNET.fullmatch(config.subnet or "")
    if subnet:
        subscription = find_workspace(config.workspace).subscription_id
        if subnet["subscription"].lower() != subscription.lower():
            message = f"backend.subnet is in the subscription {subnet['subscription']}"
            hint = f"choose a subnet in the workspace's subscription, {subscription}"
            raise ConfigurationError(message, hint)
    elif not config.public_ip and chosen_sdk(config) is Sdk.v1:
        message = "backend.public_ip=false: without a subnet, SDK v1 does not send it"
        hint = "set backend.sdk=v2 for a workspace with a managed network, or set backend.subnet=RESOURCE_ID"
        raise ConfigurationError(message, hint)


def check_sdk(sdk: Sdk) -> None:
    """Check the SDK and Python's version. Raises ConfigurationError."""
    running = ".".join(map(str, sys.version_info[:2]))
    if sdk is Sdk.v1:
        if sys.version_info[:2] != (3, 11):
            message = f"backend.sdk=v1 needs Python 3.11: azureml-sdk cannot be installed on {running}"
            raise ConfigurationError(message, "set backend.sdk=v2, or use Python 3.11")
        if not _is_installed("azureml-train-core"):
            hint = f"{installation_hint('azure')}, or set backend.sdk=v2"
            raise ConfigurationError("backend.sdk=v1 needs azureml-sdk, which isn't installed", hint)
        return
    if not V2_PYTHONS[0] <= sys.version_info[:2] <= V2_PYTHONS[1]:
        allowed = " to ".join(".".join(map(str, version)) for version in V2_PYTHONS)
        message = f"backend=azure needs Python {allowed}, not {running}"
        raise ConfigurationError(message, "use Python 3.13, for example python3.13 -m venv .venv")
    if not _is_installed("azure-ai-ml"):
        hint = installation_hint("azure-v2")
        raise ConfigurationError("backend=azure needs azure-ai-ml, which isn't installed", hint)


def _is_installed(distribution: str) -> bool:
    """Return whether pip has installed a distribution.

    A search for its modules would import some of them.
    """
    return next(iter(importlib.metadata.distributions(name=distribution)), None) is not None


def workspace_file(setting: str | None) -> Path:
    """Return the path of the workspace's config.json.

    `setting` is the file or a folder; None is the current folder. Parent folders are searched too. Raises
    ConfigurationError if there is none.
    """
    start = Path(setting or ".").expanduser().absolute()
    if not start.exists():
        raise ConfigurationError(f"backend.workspace={setting}: {start} does not exist", WORKSPACE_HINT)
    candidates = (
        parent / folder / name
        for folder in CONFIG_FOLDERS
        for name in CONFIG_FILES
        for parent in (start, *start.parents)
    )
    path = next(filter(Path.is_file, candidates), None) if start.is_dir() else start
    if path is None:
        name = f"backend.workspace={setting}" if setting else "backend=azure"
        raise ConfigurationError(f"{name}: no config.json in {start} or its parent folders", WORKSPACE_HINT)
    return path


def find_workspace(setting: str | None) -> WorkspaceName:
    """Read the workspace's config.json.

    Raises ConfigurationError if it doesn't name a workspace.
    """
    path = workspace_file(setting)
    try:
        mapping: Any = json.loads(safe_read.read_text(path, safe_read.SETTINGS_BYTES, "utf-8-sig"))
        if scope := mapping.get("Scope"):
            found = WorkspaceName(*itemgetter(2, 4, 8)(scope.split("/")))
        else:
            found = WorkspaceName(*itemgetter("subscription_id", "resource_group", "workspace_name")(mapping))
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", WORKSPACE_HINT) from error
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else "it is not JSON of that form"
        message = f"{path} is not a workspace's config.json: {reason}"
        raise ConfigurationError(message, WORKSPACE_HINT) from error
    for name, value in dataclasses.asdict(found).items():
        if not isinstance(value, str) or not value or value.startswith("<"):
            raise ConfigurationError(f"{path}: {name} is not filled in", WORKSPACE_HINT)
    return found


def credentials(
    environment: Mapping[str, str] = os.environ, *, at_terminal: bool | None = None
) -> Credentials:
    """Return how to log in. Raises ConfigurationError.

    Uses a browser only at a terminal.
    """
    if principal(environment):
        return Credentials.service_principal
    has_federated_login = any(environment.get(name) for name in FEDERATED_VARIABLES)
    for names in (PRINCIPAL_VARIABLES, IDENTITY_VARIABLES):
        given = tuple(name for name in names if environment.get(name))
        is_federated = has_federated_login and given == IDENTITY_VARIABLES[:2]
        if given and given not in PART_OF_A_PRINCIPAL and not is_federated:
            missing = ", ".join(name for name in names if name not in given)
            message = f"the service principal is incomplete: {missing} is not set"
            hint = f"set {', '.join(names)}, or unset {', '.join(given)} to log in another way"
            raise ConfigurationError(message, hint)
    if _azure_cli_is_logged_in(environment):
        return Credentials.azure_cli
    if at_terminal if at_terminal is not None else sys.stdin.isatty() and sys.stderr.isatty():
        return Credentials.interactive
    hint = f"set {', '.join(PRINCIPAL_VARIABLES)}, or log in with az login"
    raise ConfigurationError("no credentials for Azure, and no terminal to log in from", hint)


def principal(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return a service principal's tenant, id and password.

    The tuple is empty if they are not all set.
    """
    for names in (PRINCIPAL_VARIABLES, IDENTITY_VARIABLES):
        values = tuple(environment.get(name, "") for name in names)
        if all(values):
            return values
    return ()


def tenant(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the tenant to log in to, or None."""
    return environment.get(TENANT_VARIABLE) or environment.get(IDENTITY_VARIABLES[0]) or None


def _azure_cli_is_logged_in(environment: Mapping[str, str]) -> bool:
    profile = Path(environment.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "azureProfile.json"
    if shutil.which("az", path=environment.get("PATH")) is None:
        return False
    try:
        text = safe_read.read_text(profile, safe_read.SETTINGS_BYTES, "utf-8-sig")
        return bool(json.loads(text).get("subscriptions"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
