"""Where jobs run, and a job's environment variables, in which `Run.get_context()` finds its run."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING

from .identity import TOKEN_SECONDS
from .tenancy import API

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .handlers import Handlers
    from .history import Run
    from .mounts import Mount


@dataclasses.dataclass(frozen=True)
class Launch:
    """How to start a job: the command, all of its variables, and the folders that the datastore backs."""

    command: list[str]
    environment: Mapping[str, str]
    mounts: list[Mount]


@dataclasses.dataclass(frozen=True)
class Node:
    """Where jobs run: `folder` for their folders, `network` for the variables that lead to this service."""

    folder: Path
    python: Path
    network: Mapping[str, str]


def job_environment(node: Node, handlers: Handlers, run: Run, home: Path) -> dict[str, str]:
    """Return all of a job's variables; it inherits none from this process or from the submitter."""
    have = handlers.tenancy
    definition = run.definition or {}
    given = (definition.get("environment") or {}).get("environmentVariables") or {}
    given |= definition.get("environmentVariables") or {}
    watched = (definition.get("history") or {}).get("directoriesToWatch") or ["logs"]
    return {
        "PATH": f"{node.python.parent}:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        **{name: str(value) for name, value in given.items()},
        **node.network,
        "HOME": str(home),
        "AZUREML_RUN_ID": run.run_id,
        "AZUREML_ARM_SUBSCRIPTION": have.subscription,
        "AZUREML_ARM_RESOURCEGROUP": have.group,
        "AZUREML_ARM_WORKSPACE_NAME": have.workspace,
        "AZUREML_ARM_PROJECT_NAME": run.experiment,
        "AZUREML_EXPERIMENT_ID": run.document["experimentId"],
        "AZUREML_WORKSPACE_ID": have.workspace_id,
        "AZUREML_RUN_TOKEN": handlers.identity.token(runid=run.run_id),
        "AZUREML_RUN_TOKEN_EXPIRY": str(int(time.time()) + TOKEN_SECONDS),
        "AZUREML_SERVICE_ENDPOINT": f"https://{API}",
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"https://{API}/discovery",
        "AZURE_SERVICE_WATCHED": json.dumps(watched),
    }
