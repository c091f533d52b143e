"""What the service's answers about a failed run mean: a table of answers that were seen."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from loopback import run_errors

from mnist_cnn.backends.azure.outcome import (
    Nodes,
    cancellation,
    failure,
    has_node_log,
    image_log,
    image_problem,
)

RAISED = {"error": {"code": "UserError", "message": "User program failed with E: evicted, JobFailed"}}
PREEMPTED = "AzureMLCompute job failed. PreemptionError: Nodes of this job got pre-empted. Reason: ..."
EVICTED = "The node was evicted."


def ended_with(code: int) -> dict[str, Any]:
    return {"error": run_errors.user_process("python x.py", code, "")}


def of_service(message: str) -> dict[str, Any]:
    return {"error": run_errors.of_service(message)}


@pytest.mark.parametrize(
    ("details", "is_lost", "has_trainer_failed"),
    [
        ({"error": RAISED}, False, False),
        ({"error": RAISED, "warnings": [run_errors.secondary_warning()]}, False, True),
        ({"error": RAISED, "warnings": [{"source": "SecondaryError", "message": PREEMPTED}]}, True, False),
        ({"error": run_errors.job_failed()}, False, True),
        ({"error": run_errors.user_process("python x.py", 3, "it was evicted")}, False, True),
        (of_service(PREEMPTED), True, False),
        (of_service(EVICTED), True, False),
        ({"error": run_errors.image_build()}, False, False),
        ({"error": None, "warnings": None}, False, False),
        ({}, False, False),
    ],
    ids=[
        "raised", "raised-and-warned", "raised-as-the-node-was-taken", "silent", "v2-ended",
        "preempted", "evicted", "image", "null", "absent",
    ],
)  # fmt: skip
def test_why_a_run_failed(details: dict[str, Any], *, is_lost: bool, has_trainer_failed: bool) -> None:
    found = failure(details)
    assert found.get("is_lost", False) is is_lost
    assert found.get("has_trainer_failed", False) is has_trainer_failed
    assert "None" not in found["error"]


@pytest.mark.parametrize(
    ("details", "is_lost"),
    [
        (ended_with(-9), True),
        (ended_with(137), True),
        (ended_with(1), False),
        ({"error": run_errors.job_failed()}, True),
        ({"error": RAISED, "warnings": [run_errors.secondary_warning()]}, False),
        ({"error": run_errors.image_build()}, False),
    ],
    ids=["signal", "signal-in-a-shell", "error", "silent", "raised", "image"],
)
def test_one_of_several_workers_that_was_killed_is_a_lost_node(
    details: dict[str, Any], *, is_lost: bool
) -> None:
    assert failure(details, workers=2).get("is_lost", False) is is_lost
    assert not failure(details).get("is_lost", False)


def test_the_log_that_is_shown_is_that_of_worker_0() -> None:
    user, old = "user_logs/std_log", "azureml-logs/70_driver_log"
    others = [f"{user}_process_01", f"{user}_process_10", f"{user}_process_1", f"{old}_1", f"{old}_10"]
    assert not has_node_log({f"{name}.txt": "https://log" for name in others})
    for name in (user, f"{user}_process_0", f"{user}_process_00", old, f"{old}_0"):
        assert has_node_log({f"{name}.txt": "https://log"}), name


@pytest.mark.parametrize("message", ["", "AzureMLCompute job failed on evict-1, run evict_1_ab.", EVICTED])
@pytest.mark.parametrize(
    "named",
    [{"target": "evict-1"}, {"properties": {"_azureml.ClusterName": "evict-1", "other": "x"}}],
    ids=["target", "property"],
)
def test_the_names_of_cluster_and_run_do_not_mean_a_preemption(named: dict[str, Any], message: str) -> None:
    details = {**of_service(message), **named, "runId": "evict_1_ab"}
    details["error"]["error"]["messageParameters"] = {"ClusterName": "evict-1"}
    assert failure(details).get("is_lost", False) == (message == EVICTED)
    spot = Nodes(are_spot=True, max_nodes=4)
    assert not cancellation(details, spot, 60, resubmit=False)["is_lost"]


def test_a_property_and_an_inner_error_can_say_that_the_node_was_lost() -> None:
    assert failure({"properties": {"reason": "SpotEviction"}})["is_lost"]
    inner = {"code": "UserError", "innerError": {"code": "JobError", "details": [{"code": "Preempted"}]}}
    assert failure({"error": {"error": inner}})["is_lost"]


def test_a_message_never_shows_a_placeholder() -> None:
    message = "The {argumentName} of {kind} is invalid"
    error = {"message": message, "messageParameters": {"kind": "run"}}
    assert "The argumentName (not given) of run is invalid" in failure({"error": {"error": error}})["error"]


def test_a_file_that_was_uploaded_before_means_a_lost_node() -> None:
    conflict = "Resource Conflict: ArtifactId ExperimentRun/dcid.x/outputs/a already exists."
    details = {"error": {"error": {"message": conflict}}, "warnings": [run_errors.secondary_warning()]}
    found = failure(details)
    assert found["error"].startswith("a node was lost while it uploaded the result")
    assert not found.get("has_trainer_failed")


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("Collecting a\n ERROR: no a\nERROR: later\nfailed: 1\n", "ERROR: no a"),
        ("ResolvePackageNotFound:\n  - python=3.8\n", "ResolvePackageNotFound:"),
        ("building\nran out of\t disk\n\n", "ran out of disk"),
        ("no error so far\nthe last line\n", "the last line"),
        ("", "nothing"),
    ],
)
def test_the_log_of_an_image_says_what_went_wrong(log: str, problem: str) -> None:
    assert image_problem(log) == problem


def test_only_an_image_that_was_not_built_has_a_log_to_read() -> None:
    assert image_log({"error": run_errors.image_build()}) == "azureml-logs/20_image_build_log.txt"
    assert image_log({"error": run_errors.job_failed()}) is None
    assert image_log({}) is None


ONE_SPOT = Nodes(are_spot=True, max_nodes=1)
EVICTED_NODE = dataclasses.replace(ONE_SPOT, evicted=1)
DEDICATED = Nodes(are_spot=False, max_nodes=1, evicted=1)
NAMED = {"runId": "run-1"}
HOUR = {**NAMED, "startTimeUtc": "2026-01-01T10:00:00.12345Z", "endTimeUtc": "2026-01-01T11:00:00.5Z"}
NOTED = {**NAMED, "warnings": [{"message": "Spot node evicted"}]}


@pytest.mark.parametrize(
    ("details", "nodes", "resubmit", "is_lost", "said"),
    [
        (NAMED, ONE_SPOT, False, False, "eviction"),
        (NAMED, ONE_SPOT, True, True, "eviction"),
        (NAMED, EVICTED_NODE, False, True, "the node was preempted"),
        (NAMED, dataclasses.replace(EVICTED_NODE, working=1), False, False, "eviction"),
        (NAMED, dataclasses.replace(EVICTED_NODE, max_nodes=4), False, False, "eviction"),
        (NOTED, dataclasses.replace(ONE_SPOT, max_nodes=4), False, True, "the node was preempted"),
        (NAMED, DEDICATED, False, False, "outside of this program"),
        (NAMED, DEDICATED, True, True, "outside of this program"),
        (HOUR, ONE_SPOT, True, False, "backend.max_duration=60 minutes is over"),
        ({**HOUR, "endTimeUtc": None}, ONE_SPOT, False, False, "eviction"),
        ({}, ONE_SPOT, True, False, "does not say why; backend.max_duration=60 minutes may be over"),
        ({}, EVICTED_NODE, True, True, "the node was preempted"),
    ],
)
def test_why_the_service_cancelled_a_run(
    details: dict[str, Any], nodes: Nodes, *, resubmit: bool, is_lost: bool, said: str
) -> None:
    found = cancellation(details, nodes, 60, resubmit=resubmit)
    assert found.get("is_lost", False) is is_lost
    assert said in found["error"]
    names_setting = "backend.resubmit_cancelled=true" in found["error"]
    assert names_setting == (nodes.are_spot and not is_lost and "over" not in found["error"])
