"""SDK v2 and `backend.sdk=v2`, given what the real service was recorded to answer."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import V2_TESTS
from loopback.v2_playback import Playback, recorded

from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import cluster as clusters
from mnist_cnn.backends.azure.checks import WorkspaceName
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.azure.v2 import cluster as v2_cluster
from mnist_cnn.backends.azure.v2 import sdk
from mnist_cnn.backends.azure.v2.service import WorkspaceService
from mnist_cnn.backends.remote.service import Handle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

pytestmark = V2_TESTS
Play = Callable[..., Playback]
NAME = "recorded"


@pytest.fixture
def client(azure: AzureService, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK's client, which asks ten times a second instead of every 30 seconds."""
    from azure.ai.ml import MLClient
    from azure.identity import ClientSecretCredential

    logging.getLogger("azure").setLevel(logging.CRITICAL)
    monkeypatch.delenv("AZURE_HTTP_USER_AGENT", raising=False)
    have = azure.tenancy
    credential = ClientSecretCredential(have.tenant, have.client, have.client_secret)
    return MLClient(credential, have.subscription, have.group, have.workspace, polling_interval=0.1)


@pytest.fixture
def play(azure: AzureService) -> Iterator[Play]:
    """Return a function that starts to play a sequence."""

    def start(sequence: str, name: str = NAME) -> Playback:
        azure.server.playback = Playback(sequence, name, azure.tenancy)
        return azure.server.playback

    yield start
    azure.server.playback = None


@pytest.fixture
def handle(azure: AzureService) -> Handle:
    """The handle of a run in the service's workspace."""
    have = azure.tenancy
    place = {"subscription_id": have.subscription, "resource_group": have.group, "name": have.workspace}
    return Handle(Path(), NAME, place)


@pytest.fixture
def workspace(handle: Handle) -> sdk.Workspace:
    """The workspace as `backend.sdk=v2` opens it."""
    return sdk.open_workspace(WorkspaceName(**handle.place))


CONFIG = AzureConfig(name="azure", cluster=NAME, vm_size="Standard_DS2_v2", max_nodes=2)


def cluster(idle: int = 100) -> Any:
    from azure.ai.ml.entities import AmlCompute

    size = "Standard_DS2_v2"
    return AmlCompute(name=NAME, size=size, max_instances=2, idle_time_before_scale_down=idle)


def test_a_cluster_is_ready_when_its_operation_has_ended(client: Any, play: Play) -> None:
    playback = play("cluster created")
    made = client.compute.begin_create_or_update(cluster()).result()
    assert (made.provisioning_state, made.size, made.max_instances) == ("Succeeded", "STANDARD_DS2_V2", 2)
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_an_updated_cluster_has_no_counts_at_first(client: Any, play: Play, azure: AzureService) -> None:
    playback = play("cluster updated")
    made = client.compute.begin_create_or_update(cluster(idle=200)).result()
    assert (made.provisioning_state, made.idle_time_before_scale_down) == ("Succeeded", 200)
    first = azure.requests.wait_for("PUT", f"/computes/{NAME}").answered["properties"]
    assert (first["provisioningState"], first["properties"]["nodeStateCounts"]) == ("Creating", None)
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_a_deletion_ends(client: Any, play: Play) -> None:
    playback = play("cluster deleted")
    assert client.compute.begin_delete(NAME).result() is None
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_a_job_starts_and_has_an_output_of_its_own(client: Any, play: Play) -> None:
    from azure.ai.ml import command

    playback = play("job created")
    job = command(name=NAME, command="echo hello", environment="azureml:toy:1", compute="small")
    made = client.jobs.create_or_update(job)
    seen = client.jobs.get(NAME)
    assert (made.status, seen.status) == ("Starting", "Starting")
    assert seen.outputs["default"].path.endswith(f"/ExperimentRun/dcid.{NAME}")
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_code_that_the_service_knows_is_not_sent_again(
    client: Any, play: Play, azure: AzureService, tmp_path: Path
) -> None:
    from azure.ai.ml import command

    (tmp_path / "train.py").write_text("print('hello')")
    playback = play("job with known code")
    job = command(name=NAME, command="x", code=str(tmp_path), environment="azureml:toy:1", compute="small")
    client.jobs.create_or_update(job)
    sent = azure.requests.wait_for("PUT", f"/jobs/{NAME}").sent["properties"]
    assert sent["codeId"].endswith("/codes/known/versions/1")
    assert not [exchange for exchange in azure.requests.exchanges() if "(blob)" in exchange.template]
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_a_missing_job_is_reported_as_missing(client: Any, play: Play) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    playback = play("job not found")
    with pytest.raises(ResourceNotFoundError, match=f"Job {NAME} not found"):
        client.jobs.get(NAME)
    assert playback.unplayed() == []


def test_a_cancellation_ends_without_a_body(client: Any, play: Play) -> None:
    playback = play("job cancelled")
    assert client.jobs.begin_cancel(NAME).result() is None
    assert (playback.unplayed(), playback.writes) == ([], 1)


# -- the same sequences, played to `backend.sdk=v2` -------------------------------------------------------


def test_our_client_creates_a_cluster_once_and_takes_resizing_for_ready(
    workspace: sdk.Workspace, play: Play
) -> None:
    playback = play("cluster created")
    find = functools.partial(v2_cluster.find, workspace, NAME)
    made = clusters.create(CONFIG, functools.partial(v2_cluster.request_creation, workspace, CONFIG), find)
    clusters.wait_until_ready(made, CONFIG, find)
    assert (made.state, made.nodes, made.status["allocationState"]) == ("Succeeded", 0, "Resizing")
    assert playback.writes == 1


def test_our_client_deletes_a_cluster(workspace: sdk.Workspace, play: Play) -> None:
    playback = play("cluster deleted")
    v2_cluster.request_deletion(workspace, NAME)
    assert playback.writes == 1


def test_our_client_submits_a_job_and_sees_it_start(handle: Handle, play: Play) -> None:
    from azure.ai.ml import command

    playback, service = play("job created"), WorkspaceService(CONFIG)
    job = command(name=NAME, command="echo hello", environment="azureml:toy:1", compute="small")
    page = service.start(handle, None, job)  # type: ignore[arg-type]  # the job has all that was requested
    seen = service.find(handle)
    assert page.startswith(f"https://ml.azure.com/runs/{NAME}?wsid=")
    assert seen is not None
    assert (seen.state, seen.status, seen.has_log) == ("Starting", Status.queued, False)
    assert (playback.unplayed(), playback.writes) == ([], 1)


def test_our_client_takes_a_missing_job_for_missing(handle: Handle, play: Play) -> None:
    playback = play("job not found")
    assert WorkspaceService(CONFIG).find(handle) is None
    assert playback.unplayed() == []


def test_our_client_cancels_a_job_once_and_does_not_wait(handle: Handle, play: Play) -> None:
    playback = play("job cancelled")
    WorkspaceService(CONFIG).cancel(handle)
    assert (playback.unplayed(), playback.writes) == (["GET 202", "GET 200"], 1)


def test_every_sequence_names_its_recording() -> None:
    facts = recorded()
    for sequence in facts["sequences"].values():
        assert all(facts["sources"][source]["commit"] for source in sequence["source"])
