"""Prepares a run and builds the SDK's job."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import plan, preparation
from mnist_cnn.backends.azure.calls import call_with_retries
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.backends.azure.store import missing, send
from mnist_cnn.backends.azure.v2 import cluster
from mnist_cnn.backends.azure.v2.store import Datastore, open_datastore
from mnist_cnn.backends.remote import snapshot
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.parallel import run_parallel
from mnist_cnn.backends.remote.service import ServiceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.azure.v2.sdk import Workspace
    from mnist_cnn.backends.remote.service import Handle

CODE = "mnist-cnn-code"
"""Name of the code asset."""
MOUNTS = {plan.DATA_MOUNT: "${{inputs.data}}", plan.CHECKPOINT_MOUNT: "${{outputs.checkpoints}}"}


@contextmanager
def prepared(
    workspace: Workspace, handle: Handle, request: plan.Request, config: AzureConfig
) -> Iterator[Any]:
    """Make everything ready; yield the SDK's job."""
    preparation.report_workspace(workspace.name, workspace.location, has_registry=workspace.has_registry)
    find = partial(cluster.find, workspace, config.cluster)
    create = partial(cluster.request_creation, workspace, config)
    step = preparation.ClusterStep(workspace.name, config, find, create)
    # Read-only requests first: if one is refused, nothing was sent and no cluster was created.
    (datastore, absent), _ = run_parallel(partial(_find_missing_data, workspace, request, config), step.find)
    report(f"datastore {datastore.name}: {datastore.url}{'' if datastore.has_key else ', without a key'}")
    *_, code, environment, _ = run_parallel(
        *preparation.sending(datastore.files, handle, request, absent),
        partial(_send_code, workspace, datastore, request),
        partial(_create_environment, workspace, request.environment),
        step.ensure,
    )
    preparation.remember(preparation.data_key(datastore.url, request, config))
    step.wait()
    yield _job(handle, request, config, datastore, code=code, environment=environment)


def _find_missing_data(
    workspace: Workspace, request: plan.Request, config: AzureConfig
) -> tuple[Datastore, tuple[snapshot.SentFile, ...]]:
    """Return the datastore and the data files it lacks."""
    datastore = open_datastore(workspace)
    files = datastore.files
    return datastore, preparation.find_missing_data(files, datastore.url, request, config)


def _send_code(workspace: Workspace, datastore: Datastore, request: plan.Request) -> str:
    """Send the code; return the code asset's id.

    A code asset may be any folder of a datastore:
    https://learn.microsoft.com/rest/api/azureml/code-versions/create-or-update
    """
    folder = snapshot.code_folder(request.snapshot)
    absent = missing(datastore.files, folder, request.snapshot)
    size = sum(file.bytes for file in absent)
    report(f"code: sending {len(absent)} of {len(request.snapshot)} files to {folder}/, {size:,} bytes")
    send(datastore.files, folder, absent)
    address = f"{datastore.url}/{folder}"
    # The service refuses another address for a known version, and the default datastore may change.
    path = f"/codes/{CODE}/versions/{hashlib.sha256(address.encode()).hexdigest()[:16]}"
    body = {"properties": {"codeUri": address, "isAnonymous": False}}
    call_with_retries("name the code", partial(workspace.arm, "PUT", path, body))
    return f"{workspace.path}{path}"


def _create_environment(workspace: Workspace, environment: plan.Environment) -> str:
    """Return the environment's name; create it if it's missing.

    An existing version can't be changed.
    """
    from azure.ai.ml.entities import Environment

    name, version, environments = environment.name, "1", workspace.client.environments
    try:
        call_with_retries(f"find the environment {name}", partial(environments.get, name, version))
    except ServiceError as error:
        if not error.is_not_found:
            raise
        packages = [f"python={environment.python}", "pip", {"pip": list(environment.packages)}]
        conda = {"name": name, "channels": ["conda-forge"], "dependencies": packages}
        wanted = Environment(name=name, version=version, image=environment.image, conda_file=conda)
        call_with_retries(f"create the environment {name}", partial(environments.create_or_update, wanted))
    return f"{name}:{version}"


def _job(
    handle: Handle, request: plan.Request, config: AzureConfig, datastore: Datastore, **assets: str
) -> Any:
    """Return the SDK's job.

    If the datastore has no key, its data are read as the user who submits the job.
    https://learn.microsoft.com/azure/machine-learning/how-to-identity-based-service-authentication
    """
    from azure.ai.ml import Input, Output, PyTorchDistribution, command
    from azure.ai.ml.entities import UserIdentityConfiguration

    place = f"azureml://datastores/{datastore.name}/paths"
    words = (MOUNTS.get(word, word) for word in request.arguments)
    job = command(
        name=handle.id,
        display_name=handle.id,
        experiment_name=request.experiment,
        command=" ".join(("python", plan.entry(Sdk.v2).name, *words)),
        **assets,
        compute=config.cluster,
        instance_count=request.workers,
        distribution=PyTorchDistribution(process_count_per_instance=1) if request.workers > 1 else None,
        environment_variables=preparation.variables(request),
        inputs={"data": Input(type="uri_folder", mode="ro_mount", path=f"{place}/{request.data_folder}")},
        outputs={
            "checkpoints": Output(type="uri_folder", mode="rw_mount", path=f"{place}/{handle.checkpoints}")
        },
        identity=None if datastore.has_key else UserIdentityConfiguration(),
        tags=request.tags,
    )
    job.set_limits(timeout=request.max_seconds)
    return job
