"""Prepares a run and builds the SDK's request."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.backends.azure import plan, preparation
from mnist_cnn.backends.azure.calls import call_with_retries
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.backends.azure.service import workspace_name
from mnist_cnn.backends.azure.v1 import cluster, store
from mnist_cnn.backends.remote import snapshot
from mnist_cnn.backends.remote.calls import report
from mnist_cnn.backends.remote.parallel import run_parallel, start_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mnist_cnn.backends.azure.config import AzureConfig
    from mnist_cnn.backends.remote.service import Handle
    from mnist_cnn.backends.remote.snapshot import SentFile


@contextmanager
def prepared(
    workspace: Any, handle: Handle, request: plan.Request, config: AzureConfig
) -> Iterator[tuple[Any, Any]]:
    """Prepare the run; yield the SDK's experiment and configuration.

    The code's folder exists until the context ends.
    """
    registry = workspace._workspace_autorest_object.container_registry  # noqa: SLF001 - it has no public name
    name = workspace_name(handle)
    preparation.report_workspace(name, workspace.location, has_registry=bool(registry))
    start_thread(partial(import_module, "azureml.train.estimator"))  # early, because it takes seconds
    prefix = handle.checkpoints
    mounts = {plan.DATA_MOUNT: request.data_folder, plan.CHECKPOINT_MOUNT: prefix}
    # A thread may still write into the folder when Ctrl-C ends its use.
    with tempfile.TemporaryDirectory(prefix="mnist-cnn-", ignore_cleanup_errors=True) as code:
        experiment, datastore = _prepare(workspace, handle, request, config, Path(code))
        yield experiment, configuration(request, config, datastore, mounts, Path(code))


def _prepare(
    workspace: Any, handle: Handle, request: plan.Request, config: AzureConfig, code: Path
) -> tuple[Any, Any]:
    """Make everything ready; return the experiment and datastore.

    Sends data and checkpoint, writes the code, prepares the cluster.
    """
    find = partial(cluster.find, workspace, config.cluster)
    create = partial(cluster.request_creation, workspace, config)
    step = preparation.ClusterStep(workspace_name(handle), config, find, create)
    # Read-only requests first: if one is refused, nothing was sent and no cluster was created.
    experiment, (datastore, absent), *_ = run_parallel(
        partial(_open_experiment, workspace, request.experiment),
        partial(_find_missing_data, workspace, request, config),
        step.find,
        partial(snapshot.write, code, request.snapshot),
    )
    report(f"experiment {experiment.name}: {experiment.get_portal_url()}")
    address = f"account {datastore.account_name}, container {datastore.container_name}"
    report(f"datastore {datastore.name}: {datastore.datastore_type}, {address}")
    run_parallel(*preparation.sending(store.files_of(datastore), handle, request, absent), step.ensure)
    preparation.remember(preparation.data_key(_place(datastore), request, config))
    step.wait()
    return experiment, datastore


def _open_experiment(workspace: Any, name: str) -> Any:
    from azureml.core import Experiment

    return call_with_retries(f"open the experiment {name}", partial(Experiment, workspace, name))


def _find_missing_data(
    workspace: Any, request: plan.Request, config: AzureConfig
) -> tuple[Any, tuple[SentFile, ...]]:
    """Return the datastore and the data files it lacks."""
    datastore = store.default_datastore(workspace)
    files, place = store.files_of(datastore), _place(datastore)
    return datastore, preparation.find_missing_data(files, place, request, config)


def _place(datastore: Any) -> str:
    return f"{datastore.account_name}/{datastore.container_name}"


def configuration(
    request: plan.Request, config: AzureConfig, datastore: Any, mounts: dict[str, str], code: Path
) -> Any:
    """Return the configuration that the SDK submits.

    Only this function knows the SDK's deprecated `Estimator`. It can't be submitted with a run id, but the
    run configuration that it makes can.
    """
    from azureml.core import Environment, ScriptRunConfig
    from azureml.core.conda_dependencies import CondaDependencies
    from azureml.core.runconfig import DockerConfiguration
    from azureml.train.estimator import Estimator

    environment = Environment(request.environment.name)
    environment.docker.base_image = request.environment.image
    environment.python.conda_dependencies = CondaDependencies.create(
        python_version=request.environment.python,
        pip_packages=list(request.environment.packages),
        pin_sdk_version=False,
    )
    paths = {token: datastore.path(folder).as_mount() for token, folder in mounts.items()}
    tokens = [paths.get(token, token) for token in request.arguments]
    estimator = Estimator(
        source_directory=str(code),
        entry_script=plan.entry(Sdk.v1).name,
        script_params=dict(zip(tokens[::2], tokens[1::2], strict=True)),
        compute_target=config.cluster,
        environment_definition=environment,
        max_run_duration_seconds=request.max_seconds,
    )
    # With an environment, the estimator turns Docker off, and the image with it.
    estimator.run_config.docker = DockerConfiguration(use_docker=True)
    if request.workers > 1:
        _distribute(estimator.run_config, request)
    return ScriptRunConfig(source_directory=str(code), run_config=estimator.run_config)


def _distribute(run_config: Any, request: plan.Request) -> None:
    """Ask for one process on each of several nodes.

    That is a distributed job of PyTorch, which no estimator can ask for. It does not use NCCL. Of PyTorch's
    communicators, NCCL is the one that was seen in such runs.
    """
    from azureml.core.runconfig import PyTorchConfiguration

    count = request.workers
    run_config.framework, run_config.communicator, run_config.node_count = "PyTorch", "Nccl", count
    run_config.pytorch = PyTorchConfiguration(process_count=count, node_count=count)
    run_config.environment_variables = preparation.variables(request)
