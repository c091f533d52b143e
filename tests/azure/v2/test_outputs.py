"""What SDK v2 reads and registers of a run, on the loopback service. No run is started."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import V2_TESTS, calls, forget
from helpers.sdk_fakes import config_of
from loopback.artifacts import CONTAINER

from mnist_cnn.backends.azure.v2.service import WorkspaceService
from mnist_cnn.backends.remote.service import Handle

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = V2_TESTS
RESULT: Any = SimpleNamespace(job_digest="1" * 64, accuracy=0.5, weights_sha256="2" * 64, changes=())


@pytest.fixture
def service(azure: AzureService) -> WorkspaceService:
    forget()
    return WorkspaceService(config_of(f"backend.workspace={azure.home}", "backend.sdk=v2"))


def handle_of(service: WorkspaceService, folder: Path, run_id: str) -> Handle:
    return Handle(folder, run_id, service.place())


def test_the_first_registration_creates_the_model(
    azure: AzureService, service: WorkspaceService, tmp_path: Path
) -> None:
    """The service answers 404 if it is asked for the versions of an unknown model."""
    registered = service.register(handle_of(service, tmp_path, "run-1"), "firstmodel", RESULT)
    assert (registered.version, registered.is_new) == (1, True)
    again = service.register(handle_of(service, tmp_path, "run-1"), "firstmodel", RESULT)
    assert (again.version, again.is_new) == (1, False)
    assert calls(azure, "PUT", "/models/") == 1


def test_a_duplicate_of_a_registered_model_is_archived(
    azure: AzureService, service: WorkspaceService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = azure.handlers.models

    def put_twice(model: dict[str, Any]) -> dict[str, Any]:
        """Register the model as another command does at the same time."""
        monkeypatch.undo()
        models.put({**model, "id": f"{model['name']}:2", "version": 2})
        return models.put(model)

    monkeypatch.setattr(models, "put", put_twice)
    registered = service.register(handle_of(service, tmp_path, "run-2"), "twicemodel", RESULT)
    assert registered.version == 1
    listed = [model for model in models.all() if model["name"] == "twicemodel"]
    assert {model["version"]: model["isArchived"] for model in listed} == {1: False, 2: True}


@pytest.mark.parametrize("log", ["user_logs/std_log.txt", "azureml-logs/70_driver_log.txt"])
def test_the_log_is_found_whichever_runtime_writes_it(
    azure: AzureService, service: WorkspaceService, tmp_path: Path, log: str
) -> None:
    handle = handle_of(service, tmp_path, f"run-{log.partition('/')[0]}")
    folder = f"ExperimentRun/dcid.{handle.id}"
    azure.blobs.put(CONTAINER, f"{folder}/azureml-logs/55_azureml-execution.txt", b"not this one")
    assert service.read_log(handle, 0) == b""
    azure.blobs.put(CONTAINER, f"{folder}/{log}", b"epoch 1")
    assert [service.read_log(handle, first) for first in (0, 6, 7)] == [b"epoch 1", b"1", b""]
    lists = [one for one in azure.requests.exchanges() if one.query.get("prefix") == f"{folder}/"]
    assert len(lists) == 2  # none once the name is known
