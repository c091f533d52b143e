"""A job of SDK v2 on its node: code, mounted folders, command, variables, and its outputs afterwards."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .mounts import Mount, MountError
from .node import Launch, job_environment
from .tenancy import API

if TYPE_CHECKING:
    from pathlib import Path

    from .handlers import Handlers
    from .history import Run
    from .messages import Json
    from .node import Node
    from .v2_assets import Assets

SHELL = "/bin/bash"
DATASTORE = re.compile(r"azureml:/?/?.*?datastores/([^/]+)/(?:paths/)?(.*)")
UPLOADED = ("outputs", "logs")
"""The folders of a job that the service copies to its artifacts."""


def launch(handlers: Handlers, assets: Assets, node: Node, run: Run, folder: Path) -> Launch:
    """Return how to start a job whose code, mounts and home are in `folder`.

    Raises:
        MountError: an input or output isn't a folder of the datastore.
    """
    properties = (run.definition or {})["arm"]
    if properties.get("codeId"):
        assets.unpack(properties["codeId"], folder / "code")
    mounts = _mounts(handlers, properties, folder / "mounts")
    places = {f"{kind}s.{name}": str(mount.path) for (kind, name), mount in mounts.items()}
    literals = {
        f"inputs.{name}": str(value["value"])
        for name, value in properties["inputs"].items()
        if value.get("jobInputType") == "literal"
    }
    command = _fill_in(properties["command"], {**literals, **places})
    environment = job_environment(node, handlers, run, folder / "home")
    environment |= {name: str(value) for name, value in properties["environmentVariables"].items()}
    environment |= _mlflow(handlers, run, environment["AZUREML_RUN_TOKEN"])
    environment |= {f"AZURE_ML_{k.upper()}_{n}": str(mount.path) for (k, n), mount in mounts.items()}
    return Launch([SHELL, "-c", command], environment, list(mounts.values()))


def outputs(code: Path) -> dict[str, bytes]:
    """Return the files that a job has left for its artifacts, by path."""
    files = (path for name in UPLOADED for path in (code / name).rglob("*") if path.is_file())
    return {str(path.relative_to(code)): path.read_bytes() for path in files}


def _mounts(handlers: Handlers, properties: Json, folder: Path) -> dict[tuple[str, str], Mount]:
    mounts = {}
    for kind in ("input", "output"):
        for name, value in properties[f"{kind}s"].items():
            found = DATASTORE.fullmatch(value.get("uri") or "")
            if name == "default" or value.get("jobInputType") == "literal":
                continue
            if found is None:
                raise MountError(f"The loopback service does not mount {value.get('uri')!r}.")
            reference = {"dataStoreName": found[1], "pathOnDataStore": found[2]}
            mount = Mount(handlers.blobs, name, {**reference, "pathOnCompute": f"{kind}/{name}"}, folder)
            mount.is_created = kind == "output"
            mount.download()
            mounts[kind, name] = mount
    return mounts


def _fill_in(command: str, values: dict[str, str]) -> str:
    return re.sub(r"\$\{\{\s*([\w.]+)\s*\}\}", lambda found: values[found[1]], command)


def _mlflow(handlers: Handlers, run: Run, token: str) -> dict[str, str]:
    return {
        "MLFLOW_TRACKING_URI": f"azureml://{API}/mlflow/v1.0{handlers.tenancy.workspace_path}",
        "MLFLOW_TRACKING_TOKEN": token,
        "MLFLOW_EXPERIMENT_ID": str(run.document["experimentId"]),
        "MLFLOW_EXPERIMENT_NAME": run.experiment,
        "MLFLOW_RUN_ID": run.run_id,
    }
