"""The cluster: found, created, shown and deleted; and what makes it unusable."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import (
    BOTH_SDKS,
    LOOPBACK_TESTS,
    V1_ONLY,
    calls,
    chosen,
    refused,
    run_here,
    submissions,
    submit,
    succeeded,
)
from loopback import Fault
from loopback.rules import seconds as duration

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure import plan
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = LOOPBACK_TESTS


@BOTH_SDKS
def test_a_cluster_is_created_shown_and_deleted(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    azure.clusters.behave(polls_to_create=3)
    new = (*chosen(azure), sdk, "backend.cluster=newcluster")
    ended = submit(azure, tmp_path, *new, "backend.min_nodes=1", "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued, ended.err
    resizing = '"allocationState": "Resizing"'  # which does not matter: runs wait for their node
    for text in ("newcluster: creating", "newcluster: ready", '"currentNodeCount": 0', resizing, "min_nodes"):
        assert text in ended.err
    scale = azure.clusters["newcluster"].settings["scaleSettings"]
    assert duration(scale["nodeIdleTimeBeforeScaleDown"]) == 120  # which the SDKs write in different ways
    shown = succeeded(run_here("cluster", "show", *new, cwd=tmp_path))
    for text in ("newcluster: AmlCompute, Succeeded", "1 to 1 nodes", "120 s", '"currentNodeCount"'):
        assert text in shown.out
    command = next(line for line in shown.out.splitlines() if "cluster delete" in line).partition(": ")[2]
    deleted = succeeded(run_here(*shlex.split(command)[3:], cwd=tmp_path))  # after `python -m mnist_cnn`
    assert "newcluster: deleted" in deleted.out
    assert "newcluster" not in azure.clusters
    gone = succeeded(run_here("cluster", "show", *new, cwd=tmp_path))
    assert "newcluster: not found" in gone.out


@BOTH_SDKS
def test_a_cluster_is_created_in_a_private_network(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    name = f"private{sdk[-2:]}"
    chosen_cluster = (*chosen(azure), sdk, f"backend.cluster={name}")
    networks = "resourceGroups/nets/providers/Microsoft.Network/virtualNetworks"
    subscription = azure.handlers.workspace.tenancy.subscription
    subnet = f"/subscriptions/{subscription}/{networks}/office/subnets/training"
    private = (f"backend.subnet={subnet}", "backend.public_ip=false")
    ended = submit(azure, tmp_path, *chosen_cluster, *private)
    said = "in subnet training of network office, without public addresses"
    assert f"{name}: creating it with 0 to 1 dedicated nodes of STANDARD_D2DS_V4, {said}" in ended.err
    settings = azure.clusters[name].settings
    assert (settings["subnet"], settings["enableNodePublicIp"]) == ({"id": subnet}, False)
    shown = succeeded(run_here("cluster", "show", *chosen_cluster, cwd=tmp_path))
    assert f"nodes: STANDARD_D2DS_V4, dedicated, {said}" in shown.out
    public = submit(azure, tmp_path, *chosen_cluster)
    assert f"has subnet={subnet.lower()}, not backend.subnet=null; it is not changed" in public.err
    assert "has public_ip=false, not backend.public_ip=true; it is not changed" in public.err


@BOTH_SDKS
def test_what_is_billed_later_is_said_when_it_is_made(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    """A cluster with min_nodes keeps a node; the first image build creates a registry."""
    workspace = azure.handlers.workspace
    said = "first image build creates one, which is billed"
    for has_registry in (False, True):
        workspace.has_registry = has_registry
        name = f"backend.cluster=keeps{has_registry}{sdk[-2:]}"
        ended = submit(azure, tmp_path, sdk, name, "backend.min_nodes=1")
        assert "1 to 1 dedicated nodes of STANDARD_D2DS_V4; 1 always billed (min_nodes)" in ended.err
        assert (said in ended.err) is not has_registry, ended.err


@V1_ONLY
def test_the_node_is_sent_in_an_image_with_the_planned_packages(azure: AzureService, tmp_path: Path) -> None:
    """An estimator with an environment turns Docker off, and with it the image."""
    submit(azure, tmp_path, "backend.cluster=imaged")
    sent = next(e.sent for e in azure.requests.exchanges() if e.template.endswith("snapshotrun"))
    configuration = sent["Configuration"]
    environment = configuration["environment"]
    assert configuration["docker"]["useDocker"] is True
    assert environment["docker"]["baseImage"] == plan.CPU_IMAGE
    packages = environment["python"]["condaDependencies"]["dependencies"][-1]["pip"]
    named = [line for line in packages if not line.startswith("--")]  # the SDK adds where to look for them
    assert named == list(plan.environment(Sdk.v1, use_gpu=False).packages)


@V1_ONLY
def test_a_cluster_that_differs_is_reported_and_left_alone(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.add("othercluster")
    ended = submit(azure, tmp_path, "backend.cluster=othercluster", "backend.vm_size=STANDARD_D3_V2")
    assert "has vm_size=STANDARD_D2_V2, not backend.vm_size=STANDARD_D3_V2" in ended.err
    assert "has max_nodes=4, not backend.max_nodes=1" in ended.err
    assert "the service says of cluster othercluster: ClusterHasWarnings" in ended.err
    assert submissions(azure) == 1
    assert calls(azure, "PUT", "/computes/") == 0


@BOTH_SDKS
@pytest.mark.parametrize("kind", ["ComputeInstance", "SomethingNew"])
def test_a_name_of_another_kind_of_compute_is_refused(
    azure: AzureService, tmp_path: Path, kind: str, sdk: str
) -> None:
    azure.clusters.add("machine", compute_type=kind)
    ended = submit(azure, tmp_path, sdk, "backend.cluster=machine")
    refused(ended, BackendError.exit_code, f"machine is a {kind}, not a cluster")
    assert calls(azure, "PUT", "/computes/") == submissions(azure) == 0
    if kind == "SomethingNew":
        azure.requests.clear()  # no document knows of this kind


@V1_ONLY
def test_a_cluster_of_an_unknown_size_fails_and_is_not_used(azure: AzureService, tmp_path: Path) -> None:
    asked = ("backend.cluster=badcluster", "backend.vm_size=STANDARD_X99")
    for overrides in ((*asked, "run_dir=run"), asked[:1]):
        ended = submit(azure, tmp_path, *overrides)
        refused(ended, BackendError.exit_code, "badcluster is failed", "STANDARD_X99", "cluster delete")
    refused(run_here("resume", "run", cwd=tmp_path), ConfigurationError.exit_code, "backend.vm_size=SIZE")
    for _ in range(2):  # the second time it is gone
        succeeded(run_here("cluster", "delete", *chosen(azure), asked[0], cwd=tmp_path))
        assert "badcluster" not in azure.clusters
    assert submissions(azure) == 0
    resumed = run_here("resume", "run", "backend.vm_size=STANDARD_D2_V2", cwd=tmp_path)
    refused(resumed, BackendError.exit_code, "after 1 second", "it stays in the queue")
    assert submissions(azure) == 1


@V1_ONLY
def test_a_quota_below_one_node_fails_the_creation(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(quota_cores=0)
    ended = submit(azure, tmp_path, "backend.cluster=quotacluster")
    refused(
        ended, BackendError.exit_code, "quotacluster is failed: BadRequest", "vCPU quota of 0", "ask for more"
    )


@V1_ONLY
def test_a_quota_below_the_clusters_maximum_does_not_matter_until_it_is_used(
    azure: AzureService, tmp_path: Path
) -> None:
    azure.clusters.behave(quota_cores=2)
    submit(azure, tmp_path, "backend.cluster=fourcluster", "backend.max_nodes=4", "run_dir=run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    azure.clusters.behave(quota_cores=1)
    ended = submit(azure, tmp_path, "backend.cluster=fourcluster", "backend.max_nodes=4")
    refused(ended, BackendError.exit_code, "JobNodeCountExceedsCoreQuota", "ask for more cores")


@V1_ONLY
def test_a_cluster_that_vanishes_while_it_is_deleted_is_deleted(azure: AzureService, tmp_path: Path) -> None:
    """The SDK's delete ends in a KeyError if the service says, as published, that it is gone."""
    azure.clusters.add("goingcluster")
    azure.faults.add(Fault("DELETE", "/computes/", kind="lose-answer"))
    azure.clusters.behave(polls_to_delete=0)
    succeeded(run_here("cluster", "delete", *chosen(azure), "backend.cluster=goingcluster", cwd=tmp_path))
    assert "goingcluster" not in azure.clusters


@V1_ONLY
def test_a_creation_that_lost_its_answer_is_used(azure: AzureService, tmp_path: Path) -> None:
    azure.faults.add(Fault("PUT", "/computes/", kind="lose-answer", times=0))
    submit(azure, tmp_path, "backend.cluster=answerless", "run_dir=run")
    assert calls(azure, "PUT", "/computes/") == 1  # a second one would overwrite it
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert azure.clusters["answerless"].state == "Succeeded"


@V1_ONLY
def test_a_gpu_is_refused_if_the_cluster_has_none(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.add("cpucluster")
    asked = ("backend.cluster=cpucluster", "backend.use_gpu=true", "backend.vm_size=STANDARD_NC4AS_T4_V3")
    refused(submit(azure, tmp_path, *asked), BackendError.exit_code, "cpucluster", "GPU")
    assert submissions(azure) == 0


@V1_ONLY
def test_a_cluster_without_a_free_node_ends_the_wait_and_not_the_run(
    azure: AzureService, tmp_path: Path
) -> None:
    ended = submit(azure, tmp_path, "run_dir=run")
    refused(ended, BackendError.exit_code, "1 second", "follow run", "cancel run")
    assert run_folder.read_receipt(tmp_path / "run").status is Status.queued
    assert run_here("cancel", "run", cwd=tmp_path).code == 0
    assert run_folder.read_receipt(tmp_path / "run").status is Status.cancelled


@V1_ONLY
def test_a_sweep_submits_all_before_it_waits_and_ends_in_its_time(
    azure: AzureService, tmp_path: Path
) -> None:
    """Its runs share one upload and one snapshot."""
    ended = submit(azure, tmp_path, "--multirun", "seed=1,2", "backend.data.overwrite=true")
    refused(ended, BackendError.exit_code)
    templates = [(e.method, e.template) for e in azure.requests.exchanges()]
    submitted = [i for i, (_, template) in enumerate(templates) if template.endswith("snapshotrun")]
    polled = [i for i, (_, template) in enumerate(templates) if template.endswith("/details")]
    assert len(submitted) == 2
    assert submitted[-1] < polled[0]
    assert len([e for e in azure.requests.exchanges() if e.method == "PUT" and "/mnist/" in e.path]) == 4
    assert calls(azure, "POST", "/snapshots/{snapshot}") <= 1
    assert "seed=1" in ended.out
    assert "seed=2" in ended.out
    folders = list((tmp_path / "runs").glob("*/run.json"))
    assert [run_folder.read_receipt(path.parent).status for path in folders] == [Status.queued] * 2
