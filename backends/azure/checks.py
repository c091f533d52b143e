"""What is checked here before the first request: Python, the SDK, the workspace's config.json, credentials.

Knows where the SDK looks for these things, but does not import it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mnist_cnn.backends.azure.config import AzureConfig

PRINCIPAL = "AZUREML_SERVICE_PRINCIPAL_"
PRINCIPAL_VARIABLES = tuple(f"{PRINCIPAL}{part}" for part in ("TENANT_ID", "ID", "PASSWORD"))
CONFIG_FILES = ("config.json", "project.json")
CONFIG_FOLDERS = (".azureml", "aml_config", "")
"""In the order in which the SDK looks: each folder all the way up before the next."""

WORKSPACE_HINT = (
    "download it from https://ml.azure.com (click the workspace), or name it: backend.workspace=FILE"
)


@dataclasses.dataclass(frozen=True)
class WorkspaceName:
    """Which workspace: what its config.json holds."""

    subscription_id: str
    resource_group: str
    name: str


class Credentials(StrEnum):
    """Who logs in."""

    service_principal = "service principal"
    azure_cli = "Azure CLI"
    interactive = "browser"


def all_of(config: AzureConfig) -> None:
    """Check Python, SDK, workspace file and credentials. Raises ConfigurationError."""
    sdk()
    find_workspace(config.workspace)
    credentials()


def sdk() -> None:
    """Check that the SDK is here, on a Python that it works on. Raises ConfigurationError."""
    running = ".".join(map(str, sys.version_info[:2]))
    if sys.version_info[:2] != (3, 11):
        message = (
            f"backend=azure works on Python 3.11, not on {running}: azureml-sdk cannot be installed on others"
        )
        raise ConfigurationError(message, "use a Python 3.11, for example python3.11 -m venv .venv")
    if importlib.util.find_spec("azureml") is None or importlib.util.find_spec("azureml.train") is None:
        hint = "install it with python -m pip install 'mnist-cnn[azure]'"
        raise ConfigurationError("backend=azure needs azureml-sdk, which is not installed", hint)


def workspace_file(place: str | None) -> Path:
    """Find the workspace's config.json: `place` is the file or a folder; None looks from here upwards.

    Raises:
        ConfigurationError: there is none.
    """
    start = Path(place or ".").expanduser().absolute()
    if not start.exists():
        raise ConfigurationError(f"backend.workspace={place}: there is no {start}", WORKSPACE_HINT)
    path = _look_upwards(start) if start.is_dir() else start
    if path is None:
        said = f"backend.workspace={place}" if place else "backend=azure"
        raise ConfigurationError(f"{said}: no config.json in {start} or above it", WORKSPACE_HINT)
    return path


def find_workspace(place: str | None) -> WorkspaceName:
    """Read the workspace's config.json.

    Raises:
        ConfigurationError: there is none, or it does not say which workspace.
    """
    path, hint = workspace_file(place), WORKSPACE_HINT
    try:
        mapping: Any = json.loads(safe_read.read_text(path, safe_read.SETTINGS_BYTES, "utf-8-sig"))
        scope = mapping.get("Scope")
        pieces = scope.split("/") if scope else []
        found = WorkspaceName(
            subscription_id=pieces[2] if scope else mapping["subscription_id"],
            resource_group=pieces[4] if scope else mapping["resource_group"],
            name=pieces[8] if scope else mapping["workspace_name"],
        )
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", hint) from error
    except (ValueError, AttributeError, IndexError, TypeError, RecursionError) as error:
        raise ConfigurationError(
            f"{path} is no workspace's config.json: it is not JSON of that form", hint
        ) from error
    except KeyError as error:
        raise ConfigurationError(f"{path} is no workspace's config.json: {error} is missing", hint) from error
    for name, value in dataclasses.asdict(found).items():
        if not isinstance(value, str) or not value or value.startswith("<"):
            raise ConfigurationError(f"{path}: {name} is not filled in", hint)
    return found


def credentials(
    environment: Mapping[str, str] = os.environ, *, at_terminal: bool | None = None
) -> Credentials:
    """Tell who would log in; on a machine without anybody to ask, somebody must be known beforehand.

    Raises:
        ConfigurationError: nobody could.
    """
    given = [name for name in PRINCIPAL_VARIABLES if environment.get(name)]
    if len(given) == len(PRINCIPAL_VARIABLES):
        return Credentials.service_principal
    if given:
        missing = ", ".join(name for name in PRINCIPAL_VARIABLES if name not in given)
        raise ConfigurationError(
            f"the service principal is incomplete: {missing} is not set", "set all three"
        )
    if _azure_cli_is_logged_in(environment):
        return Credentials.azure_cli
    if at_terminal if at_terminal is not None else sys.stdin.isatty() and sys.stderr.isatty():
        return Credentials.interactive
    hint = f"set {', '.join(PRINCIPAL_VARIABLES)}, or log in with az login"
    raise ConfigurationError("no credentials for Azure, and nobody at a terminal to log in", hint)


def _look_upwards(start: Path) -> Path | None:
    for folder in CONFIG_FOLDERS:
        for name in CONFIG_FILES:
            for above in (start, *start.parents):
                if (above / folder / name).is_file():
                    return above / folder / name
    return None


def _azure_cli_is_logged_in(environment: Mapping[str, str]) -> bool:
    profile = Path(environment.get("AZURE_CONFIG_DIR") or Path.home() / ".azure") / "azureProfile.json"
    if shutil.which("az", path=environment.get("PATH")) is None:
        return False
    try:
        text = safe_read.read_text(profile, safe_read.SETTINGS_BYTES, "utf-8-sig")
        return bool(json.loads(text).get("subscriptions"))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False
