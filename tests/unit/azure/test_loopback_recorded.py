"""The loopback service answers as the real one was seen to, and its check notices when it doesn't."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import pytest
from helpers.loopback_calls import API, SNAPSHOTS, SUBMIT, request, tree
from loopback import node_logs, recorded_check, recorded_shapes, run_errors
from loopback.messages import answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from helpers.loopback_server import Service

SNAPSHOT = "00000000-0000-0000-0000-000000000002"
RUN = f"{API}/history/v1.0/<WS>/experiments/toy/runs/run"
METADATA = f"{API}/artifact/v2.0/<WS>/artifacts/batch/metadata/ExperimentRun/dcid.run"
JOB_LOG = "user_logs/std_log.txt"


def submit(service: Service, **configuration: Any) -> dict[str, Any]:
    """Submit a run that nothing executes; return its details."""
    snapshot = {"ParentSnapshotId": None, "DirTreeNode": tree(), "FileRevisionList": None}
    assert service("POST", f"{SNAPSHOTS}/{SNAPSHOT}", snapshot)[0] == 200
    definition = {"script": "train.py", "target": "small", **configuration}
    body = {"Configuration": definition, "SnapshotId": SNAPSHOT}
    assert service("POST", SUBMIT.format("run"), body) == (200, {"runId": "run"})
    details: dict[str, Any] = service("GET", f"{RUN}/details")[1]
    return details


# -- answers -----------------------------------------------------------------------------------------------


def test_an_unknown_run_is_refused_in_the_recorded_words(service: Service) -> None:
    status, answered = service("GET", RUN.replace("runs/run", "runs/nobody"))
    error = answered["error"]
    assert (status, answered["statusCode"], answered["componentName"]) == (404, 404, "run-history")
    assert (error["message"], error["innerError"]["code"]) == (
        "Run runId=nobody was not found",
        "NotFoundError",
    )
    assert (error["messageFormat"], error["messageParameters"]) == (
        "Run {runId} was not found",
        {"runId": "nobody"},
    )


def test_a_second_upload_to_a_path_is_refused_inside_a_200(service: Service) -> None:
    paths = {"paths": [{"path": "outputs/a"}]}
    assert service("POST", METADATA, paths)[1]["errors"] == {}
    status, answered = service("POST", METADATA, {"paths": [{"path": "./outputs/a"}, {"path": "outputs/b"}]})
    assert status == 200
    assert list(answered["artifacts"]) == ["outputs/b"]
    error = answered["errors"]["./outputs/a"]["error"]
    expected = "Resource Conflict: ArtifactId ExperimentRun/dcid.run/outputs/a already exists."
    assert (error["code"], error["message"]) == ("UserError", expected)


def test_a_definition_comes_back_normalised(service: Service) -> None:
    definition = submit(service, environment={"name": "e"})["runDefinition"]
    assert (definition["framework"], definition["communicator"]) == ("Python", "None")
    assert definition["maxRunDurationSeconds"] == 30 * 24 * 3600
    assert definition["commandReturnCodeConfig"]["returnCode"] == "Zero"
    assert re.fullmatch(r"Autosave_[\d:TZ-]+_[0-9a-f]{8}", definition["environment"]["version"])


def test_a_definition_keeps_what_was_sent(service: Service) -> None:
    definition = submit(service, maxRunDurationSeconds=60, environment={"version": "1"})["runDefinition"]
    assert (definition["maxRunDurationSeconds"], definition["environment"]["version"]) == (60, "1")


@pytest.mark.parametrize("old_runtime", [False, True])
def test_a_run_has_the_properties_of_its_runtime(service: Service, *, old_runtime: bool) -> None:
    service.handlers.clusters.behave(old_runtime=old_runtime)
    properties = submit(service)["properties"]
    assert properties["ContentSnapshotId"] == SNAPSHOT
    assert properties["_azureml.ComputeTargetType"] == "amlcompute"
    assert properties["_azureml.ClusterName"] == "small"
    assert ("ProcessInfoFile" in properties) == old_runtime


def test_a_missing_cluster_is_refused_with_the_placeholder_that_was_recorded(service: Service) -> None:
    body = {"Configuration": {"script": "train.py", "target": "nowhere"}, "SnapshotId": SNAPSHOT}
    status, answered = service("POST", SUBMIT.format("run"), body)
    assert (status, answered["error"]["message"]) == (400, "{argumentName} is invalid")


def test_a_run_on_a_failed_cluster_exists(service: Service) -> None:
    submit(service, target="broken")
    assert [run.run_id for run in service.started] == ["run"]


# -- the check ---------------------------------------------------------------------------------------------


def change(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a function that sets a member of a document."""

    def set_it(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return set_it


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change("statusCode", value="404"), r"statusCode: '404' is not 404"),
        (change("error", "severity", value=3), "severity: 3 is not null"),
        (change("error", "colour", value="red"), "error.colour: was not recorded"),
        (change("error", "innerError", value=None), "innerError: None is not an object"),
        (lambda document: document["error"].pop("messageFormat"), "messageFormat: missing"),
        (change("time", value="yesterday"), "'yesterday' is not time"),
        (change("correlation", "operation", value="not hex"), "is not 32 hex"),
    ],
)
def test_a_wrong_refusal_fails_the_check(
    service: Service, wrong: Callable[[dict[str, Any]], object], said: str
) -> None:
    asked = request(service.handlers, "GET", RUN)
    good = service("GET", RUN)[1]
    assert not recorded_check.violations(asked, answer(good, 404))
    wrong(good)
    (violation,) = recorded_check.violations(asked, answer(good, 404))
    assert said in violation


RAISED = run_errors.user_program(
    {"error": {"message": "User program failed with E: x", "detailsUri": "https://u"}}
)
WARNED = [run_errors.secondary_warning()]
DAY = "https://a.blob.core.windows.net/b?st=2026-01-01T00:00:00Z&se=2026-01-02T00:00:00Z&sp=r"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (change("error", "error", "innerError", value={"code": "JobFailed"}), "innerError: .* must be null"),
        (change("error", "componentName", value="execution-worker"), "componentName: .* must be null"),
        (change("error", "time", value="2026-01-01T00:00:00Z"), "error.time"),
        (change("error", value={"error": {"message": "\nJobFailed: exit code 3"}}), "error.error.message"),
        (change("warnings", value=[{"source": "SecondaryError", "message": "JobFailed"}]), "not the JSON"),
        (change("properties", value={}), "properties: _azureml.ComputeTargetType is missing"),
        (change("runDefinition", "Script", value="x"), "Script: not in camel case"),
        (change("runDefinition", "maxRunDurationSeconds", value=None), "the service fills it in"),
        (change("runDefinition", "framework", value="python"), "'python' is not a word with a capital"),
        (change("logFiles", value={"user_logs/other.txt": DAY}), "not a recorded name"),
        (change("logFiles", value={JOB_LOG: DAY}), "can be read for 1 day"),
    ],
)
def test_wrong_details_of_a_run_fail_the_check(
    service: Service, wrong: Callable[[dict[str, Any]], object], said: str
) -> None:
    submit(service)
    service.handlers.runs["run"].document["warnings"] = WARNED
    service.handlers.runs.advance(service.started[0], "Failed", RAISED)
    url = service.handlers.blobs.signed_url("azureml", "ExperimentRun/dcid.run/x")
    details = copy.deepcopy(service("GET", f"{RUN}/details")[1]) | {"logFiles": {JOB_LOG: url}}
    asked = request(service.handlers, "GET", f"{RUN}/details")
    assert not recorded_check.violations(asked, answer(details))
    wrong(details)
    assert any(re.search(said, text) for text in recorded_check.violations(asked, answer(details)))


def test_a_conflict_in_other_words_fails_the_check(service: Service) -> None:
    asked = request(service.handlers, "POST", METADATA)
    refusal = {"error": {"code": "UserError", "message": "there is one"}}
    (violation,) = recorded_check.violations(asked, answer({"errors": {"a": refusal}}))
    assert "'there is one'" in violation


def test_an_answer_that_was_not_recorded_fails_the_services_check(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.server.router, "find", lambda _: None)  # answers with another error
    service("GET", RUN)
    with pytest.raises(AssertionError, match="not as recorded: GET run error"):
        service.server.recording.check()
    service.server.recording.clear()


@pytest.mark.parametrize("is_low_priority", [False, True])
def test_every_log_has_a_name_that_was_seen(service: Service, *, is_low_priority: bool) -> None:
    asked = request(service.handlers, "GET", f"{RUN}/details")
    old = node_logs.old_runtime(2, is_low_priority=is_low_priority)
    for logs in (old, node_logs.common_runtime(2), node_logs.common_runtime()):
        for name in (*logs.scripts, *logs.before, *logs.after):
            details = {"status": "Running", "logFiles": {name: DAY.replace("02T00:00", "01T08:10")}}
            assert not recorded_check.violations(asked, answer(details)), name


COMPUTE = recorded_shapes.facts()["endpoints"][0]["responses"][0]["body"]


def example(kind: object) -> object:
    """Return a value of the first type that a kind names."""
    values: dict[str, object] = {
        "null": None,
        "int": 1,
        "bool": True,
        "obj": {},
        "time": "2026-01-01T00:00:00.000Z",
    }
    return values.get(recorded_shapes.types(str(kind))[0], "A")


def compute(state: str) -> dict[str, Any]:
    """Return a cluster with every member that was recorded."""
    body: dict[str, Any] = {}
    for path, kind in COMPUTE.items():
        *parents, name = path.split(".")
        inner = body
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = example(kind)
    body["properties"]["provisioningState"] = state
    return body


def test_counts_are_null_while_a_cluster_is_created_and_numbers_afterwards() -> None:
    created = compute("Creating")
    problems = list(recorded_shapes.flat_mismatches(COMPUTE, created, is_put=True))
    for name in ("currentNodeCount", "nodeStateCounts"):
        assert f"properties.properties.{name}: must be null in the reply to a PUT" in problems
    assert "properties.properties.userAccountCredentials: must be absent in the reply to a PUT" in problems
    ready = compute("Succeeded")
    assert not list(recorded_shapes.flat_mismatches(COMPUTE, ready, is_put=False))
    change("properties", "properties", "currentNodeCount", value=None)(ready)
    change("properties", "properties", "vmSize", value="Standard_D2")(ready)
    change("properties", "colour", value="red")(ready)
    change("properties", "properties", "subnet", value={"id": "a", "name": "b"})(ready)
    del ready["properties"]["properties"]["osType"]
    problems = list(recorded_shapes.flat_mismatches(COMPUTE, ready, is_put=False))
    assert len(problems) == 5, problems
