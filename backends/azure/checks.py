"""Checks before the first request: Python, the SDK, the workspace's config.json and the credentials.

They search where the SDK searches, but don't import it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnist_cnn.backends.azure.config import AzureConfig

PRINCIPAL_VARIABLES = tuple(f"AZUREML_SERVICE_PRINCIPAL_{part}" for part in ("TENANT_ID", "ID", "PASSWORD"))
TENANT_VARIABLE = PRINCIPAL_VARIABLES[0]
"""Set alone, it names the tenant of the Azure CLI's login or of the browser's."""
CONFIG_FILES = ("config.json", "project.json")
CONFIG_FOLDERS = (".azureml", "aml_config", "")
"""In the SDK's order: it searches all parents for one folder before it searches them for the next."""

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


def check_all(config: AzureConfig) -> None:
    """Check Python, SDK, workspace file and credentials. Raises ConfigurationError."""
    check_sdk()
    find_workspace(config.workspace)
    credentials()


def check_sdk() -> None:
    """Check that the SDK is installed, on a Python that it supports. Raises ConfigurationError."""
    running = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info[:2] != (3, 11):
        message = f"backend=azure needs Python 3.11: azureml-sdk cannot be installed on {running}"
        raise ConfigurationError(message, "use Python 3.11, for example python3.11 -m venv .venv")
    if importlib.util.find_spec("azureml") is None or importlib.util.find_spec("azureml.train") is None:
        hint = "install it with python -m pip install 'mnist-cnn[azure]'"
        raise ConfigurationError("backend=azure needs azureml-sdk, which isn't installed", hint)


def workspace_file(setting: str | None) -> Path:
    """Return the path of the workspace's config.json. Raises ConfigurationError if there is none.

    `setting` is the file or a folder; None is the current folder. Parent folders are searched too.
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
    """Read the workspace's config.json. Raises ConfigurationError if it doesn't name a workspace."""
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
    """Return how to log in, by browser only at a terminal. Raises ConfigurationError."""
    given = [name for name in PRINCIPAL_VARIABLES if environment.get(name)]
    if len(given) == len(PRINCIPAL_VARIABLES):
        return Credentials.service_principal
    if given and given != [TENANT_VARIABLE]:
        missing = ", ".join(name for name in PRINCIPAL_VARIABLES if name not in given)
        message = f"the service principal is incomplete: {missing} is not set"
        raise ConfigurationError(message, f"set {', '.join(PRINCIPAL_VARIABLES)}")
    if _azure_cli_is_logged_in(environment):
        return Credentials.azure_cli
    if at_terminal if at_terminal is not None else sys.stdin.isatty() and sys.stderr.isatty():
        return Credentials.interactive
    hint = f"set {', '.join(PRINCIPAL_VARIABLES)}, or log in with az login"
    raise ConfigurationError("no credentials for Azure, and no terminal to log in from", hint)


def tenant(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the tenant to log in to, or None for the login's own."""
    return environment.get(TENANT_VARIABLE) or None


def _azure_cli_is_logged_in(environment: Mapping[str, str]) -> bool:
    profile = Path(environment.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "azureProfile.json"
    if shutil.which("az", path=environment.get("PATH")) is None:
        return False
    try:
        text = safe_read.read_text(profile, safe_read.SETTINGS_BYTES, "utf-8-sig")
        return bool(json.loads(text).get("subscriptions"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
