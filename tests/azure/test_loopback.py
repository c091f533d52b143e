"""The loopback Azure ML service itself, driven by the real SDK."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="azureml-sdk cannot be installed there")

PRELUDE = """
import json, os, pathlib, sys
from azureml.core import Environment, Experiment, Run, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.conda_dependencies import CondaDependencies
from azureml.train.estimator import Estimator

def tell(**facts):
    print("TOLD " + json.dumps(facts, default=str), flush=True)

def attempt(act):
    try:
        return act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def write(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

def submit(script, pins=("azureml-defaults",), python="3.11", target="small", max_seconds=None, **parameters):
    folder = "code"
    write(f"{folder}/train.py", script)
    environment = Environment("toy")
    dependencies = CondaDependencies.create(python_version=python, pip_packages=list(pins))
    environment.python.conda_dependencies = dependencies
    parameters = {f"--{name}": value for name, value in parameters.items()}
    estimator = Estimator(folder, entry_script="train.py", compute_target=target, script_params=parameters,
                          environment_definition=environment, max_run_duration_seconds=max_seconds)
    return Experiment(ws, "toy").submit(estimator)

ws = Workspace.from_config()
"""

TRAIN = """
import argparse, os, pathlib, pkg
from azureml.core import Run
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--epochs", type=int)
options = parser.parse_args()
assert (options.data / "a.txt").read_text() == "hello", sorted(options.data.iterdir())
assert pathlib.Path(pkg.__file__).is_relative_to(pathlib.Path.cwd())
assert "OF_THE_SUBMITTING_SIDE" not in os.environ
try:
    import mnist_cnn
except ImportError:
    print("no project here")
run = Run.get_context()
for epoch in range(options.epochs):
    run.log("accuracy", epoch / 10)
    print("epoch", epoch, flush=True)
pathlib.Path("outputs/deep").mkdir(parents=True, exist_ok=True)
pathlib.Path("outputs/model.txt").write_text("weights")
pathlib.Path("outputs/deep/x.bin").write_bytes(b"x" * 100_000)
(options.data / "written.txt").write_text("through")
(options.data / "sub/b.txt").unlink()
"""

WALK = f"""
TRAIN = {TRAIN!r}
store = ws.get_default_datastore()
write("data/a.txt", "hello")
write("data/sub/b.txt", "b" * 1000)
store.upload("data", target_path="mnist", show_progress=False)
missing = attempt(lambda: ComputeTarget(ws, "small"))
small = AmlCompute.provisioning_configuration("STANDARD_D2_V2", vm_priority="lowpriority", max_nodes=2)
cluster = ComputeTarget.create(ws, "small", small)
cluster.wait_for_completion()
write("code/pkg/__init__.py", "")
run = submit(TRAIN, data=store.path("mnist").as_mount(), epochs=3)
details = run.wait_for_completion(show_output=True)
run.download_files(prefix="outputs/", output_directory="back")
models = [run.register_model("toy-model", model_path="outputs/model.txt", tags={{"a": "b"}}) for _ in "12"]
store.download("again", prefix="mnist")
again = submit(TRAIN, data=store.path("mnist").as_mount(), epochs=1)
tell(
    missing=missing,
    status=details["status"],
    error=details.get("error"),
    metrics=run.get_metrics(),
    files=run.get_file_names(),
    back=sorted(str(p.relative_to("back")) for p in pathlib.Path("back").rglob("*") if p.is_file()),
    model=pathlib.Path("back/outputs/model.txt").read_text(),
    models=[model.id for model in models],
    mounted=sorted(str(p.relative_to("again")) for p in pathlib.Path("again").rglob("*") if p.is_file()),
    nodes=cluster.get_status().current_node_count,
    again=again.wait_for_completion(raise_on_error=False)["error"],
)
cluster.delete()
cluster.wait_for_completion(is_delete_operation=True)
tell(gone=attempt(lambda: ComputeTarget(ws, "small")))
"""


def sdk(service: AzureService, code: str, **environment: str) -> dict[str, Any]:
    """Run code with the real SDK against the service; return what it told, in a folder of its own."""
    folder = service.home / f"client-{len(list(service.home.iterdir()))}"
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", PRELUDE + code],
        cwd=folder,
        env={**os.environ, **service.environment, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told: dict[str, Any] = {"out": ended.stdout + ended.stderr}
    for line in ended.stdout.splitlines():
        if line.startswith("TOLD "):
            told |= json.loads(line.removeprefix("TOLD "))
    return told


def call(service: AzureService, method: str, url: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    """Send one request as a client of the service would; return status and JSON. `<WS>` is the workspace."""
    host, _, path = url.removeprefix("https://").partition("/")
    proxy = urlsplit(service.proxy.url)
    context = ssl.create_default_context(cafile=str(service.certificate))
    connection = http.client.HTTPSConnection(proxy.hostname or "", proxy.port, timeout=60, context=context)
    connection.set_tunnel(host, 443)
    sent = {"Authorization": f"Bearer {service.handlers.identity.token()}", **headers}
    try:
        target = "/" + path.replace("<WS>", service.tenancy.workspace_path.lstrip("/"))
        content = body if isinstance(body, str) else json.dumps(body) if body is not None else None
        connection.request(method, target, content, sent)
        reply = connection.getresponse()
        text = reply.read()
        return reply.status, json.loads(text) if text else None
    finally:
        connection.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[AzureService]:
    from loopback import AzureService

    with AzureService(tmp_path / "service") as service:
        yield service


class TestWalk:
    """The whole way with the plain SDK: data, cluster, run, files, model, deletion."""

    @pytest.fixture(scope="class")
    @classmethod
    def walked(
        cls, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[tuple[AzureService, dict[str, Any]]]:
        from loopback import AzureService

        with AzureService(tmp_path_factory.mktemp("walk")) as service:
            yield service, sdk(service, WALK, OF_THE_SUBMITTING_SIDE="x")

    def test_the_script_ran_from_its_snapshot_without_the_project(self, walked: Any) -> None:
        _, told = walked
        assert told["status"] == "Completed", told["error"]
        assert "no project here" in told["out"]
        assert "epoch 2" in told["out"]

    def test_metrics_files_and_models_come_back(self, walked: Any) -> None:
        _, told = walked
        assert told["metrics"] == {"accuracy": [0.0, 0.1, 0.2]}
        assert {"outputs/model.txt", "outputs/deep/x.bin", "user_logs/std_log.txt"} <= set(told["files"])
        assert told["back"] == ["outputs/deep/x.bin", "outputs/model.txt"]
        assert told["model"] == "weights"
        assert told["models"] == ["toy-model:1", "toy-model:2"]

    def test_a_mount_is_written_through(self, walked: Any) -> None:
        _, told = walked
        assert told["mounted"] == ["mnist/a.txt", "mnist/written.txt"]

    def test_clusters_come_hold_idle_nodes_and_go(self, walked: Any) -> None:
        _, told = walked
        assert "ComputeTargetNotFound" in told["missing"]
        assert told["nodes"] == 1
        assert "ComputeTargetNotFound" in told["gone"]

    def test_a_second_run_finds_its_image_and_a_failing_script_fails_its_run(self, walked: Any) -> None:
        service, told = walked
        error = told["again"]["error"]  # the first run has deleted what the second would delete
        assert error["code"] == "UserError"
        assert "FileNotFoundError" in error["message"]
        assert len(service.jobs.images) == 1

    def test_every_exchange_is_recorded_and_agrees_with_the_documents(self, walked: Any) -> None:
        service, _ = walked
        service.check()
        lines = [json.loads(line) for line in service.requests.path.read_text().splitlines()]
        assert len({line["number"] for line in lines}) == len(lines)
        calls = {(line["method"], line["template"]) for line in lines}
        assert ("POST", "/execution/v1.0<WS>/experiments/{experiment}/snapshotrun") in calls
        assert ("PUT", "(blob) /azureml-blobstore") in calls
        assert "snapshotrun" in service.requests.table()
        assert not service.requests.refused_hosts


TRAINER = """
import dataclasses, pathlib, sys
import mnist_cnn
from azureml.core import Run
from mnist_cnn.job import Job
from mnist_cnn.train import train

assert pathlib.Path(mnist_cnn.__file__).is_relative_to(pathlib.Path.cwd()), mnist_cnn.__file__
job = Job.from_json(pathlib.Path("job.json").read_text())
job = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=sys.argv[2]))
outputs = pathlib.Path("outputs")
outputs.mkdir(exist_ok=True)
run = Run.get_context()
train(job, outputs, on_epoch=lambda row: run.log("accuracy", row.accuracy))
"""


def test_the_projects_own_trainer_gives_the_same_weights_on_the_node(
    service: AzureService, small_run: Path
) -> None:
    import mnist_cnn

    package = Path(mnist_cnn.__file__).parent
    service.clusters.add("small")
    told = sdk(
        service,
        f"""
import shutil
from importlib.metadata import version
store = ws.get_default_datastore()
store.upload({str(package / "data" / "mnist")!r}, target_path="mnist", show_progress=False)
shutil.copytree({str(package)!r}, "code/mnist_cnn", ignore=shutil.ignore_patterns("*.gz", "__pycache__"))
shutil.copy({str(small_run / "job.json")!r}, "code")
pins = [f"{{name}}=={{version(name)}}" for name in ("tensorflow", "keras", "numpy")]
run = submit({TRAINER!r}, pins=["azureml-defaults", *pins], data=store.path("mnist").as_mount())
details = run.wait_for_completion(raise_on_error=False, show_output=True)
tell(status=details["status"], error=details.get("error"), epochs=len(run.get_metrics()["accuracy"]))
run.download_files(prefix="outputs/", output_directory="back")
tell(result=json.loads(pathlib.Path("back/outputs/result.json").read_text()))
""",
    )
    assert told["status"] == "Completed", told["error"]
    here = json.loads((small_run / "result.json").read_text())
    assert told["result"]["weights_sha256"] == here["weights_sha256"]
    assert told["epochs"] == len(here["history"])
    service.check()


API = "https://westeurope.api.azureml.ms"
MODELS = "https://westeurope.modelmanagement.azureml.net"
COMPUTE = "https://management.azure.com/<WS>/computes/{}?api-version=2020-02-02"
EXPERIMENT = f"{API}/history/v1.0/<WS>/experiments/toy"


def cluster_body(vm_size: str = "Standard_D2_v2", nodes: int = 2, idle: str = "PT120S") -> dict[str, Any]:
    scale = {"minNodeCount": 0, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": idle}
    settings = {"vmSize": vm_size, "vmPriority": "dedicated", "scaleSettings": scale}
    return {"location": "westeurope", "properties": {"computeType": "AmlCompute", "properties": settings}}


def test_an_endpoint_that_nobody_implemented_is_a_501_and_fails_the_check(service: AzureService) -> None:
    assert call(service, "GET", f"{API}/history/v9.0/<WS>/nothing")[0] == 501
    with pytest.raises(AssertionError, match=r"not implemented: GET .*/history/v9\.0/.*/nothing"):
        service.check()
    assert "501" in service.requests.table()


def test_no_other_host_is_reached(service: AzureService) -> None:
    with pytest.raises(OSError, match="403"):
        call(service, "GET", "https://example.com/")
    plain = http.client.HTTPConnection("127.0.0.1", urlsplit(service.proxy.url).port, timeout=60)
    plain.request("GET", "http://example.com/page")
    assert plain.getresponse().status == 403
    plain.close()
    assert set(service.requests.refused_hosts) == {"example.com", "http://example.com/page"}
    assert "refused host: example.com" in service.requests.table()


def test_a_request_against_the_documents_fails_the_check(service: AzureService) -> None:
    assert call(service, "PUT", COMPUTE.format("good"), cluster_body() | {"colour": "red"})[0] == 201
    with pytest.raises(AssertionError, match=r"compute\.put request\.colour: unknown"):
        service.check()


class TestRefusals:
    """What Azure refuses is refused, with Azure's status and shape of error."""

    @pytest.fixture(scope="class")
    @classmethod
    def service(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureService]:
        from loopback import AzureService

        with AzureService(tmp_path_factory.mktemp("refusals")) as service:
            service.clusters.add("small")
            service.clusters.add("machine", compute_type="VirtualMachine")
            service.clusters.add("broken", state="Failed")
            yield service
            service.check()

    @pytest.mark.parametrize(
        ("secret", "client", "word"),
        [("wrong", None, "AADSTS7000215"), (None, "wrong", "AADSTS700016"), (None, None, None)],
    )
    def test_login(
        self, service: AzureService, secret: str | None, client: str | None, word: str | None
    ) -> None:
        have = service.tenancy
        form = f"client_id={client or have.client}&client_secret={secret or have.client_secret}"
        url = f"https://login.microsoftonline.com/{have.tenant}/oauth2/v2.0/token"
        status, told = call(service, "POST", url, form)
        assert (status, told.get("error_description", "").partition(":")[0] or None) == (
            {"AADSTS7000215": 401, "AADSTS700016": 400, None: 200}[word],
            word,
        )

    def test_a_strange_token(self, service: AzureService) -> None:
        status, told = call(service, "GET", EXPERIMENT, Authorization="Bearer a.b.c")
        assert (status, told["error"]["innerError"]["code"]) == (401, "InvalidAuthenticationToken")

    def test_another_workspace(self, service: AzureService) -> None:
        path = service.tenancy.workspace_path.lstrip("/").replace(service.tenancy.workspace, "another")
        url = f"https://management.azure.com/{path}?api-version=2022-05-01"
        status, told = call(service, "GET", url)
        assert (status, told["error"]["code"]) == (404, "ResourceNotFound")

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("9lives", cluster_body()),
            ("x", cluster_body()),
            ("much-too-long-a-name", cluster_body()),
            ("ends-with-1", cluster_body()),
            ("good", cluster_body(nodes=101)),
            ("good", cluster_body(idle="soon")),
            ("broken", cluster_body()),
        ],
    )
    def test_a_cluster_that_cannot_be(self, service: AzureService, name: str, body: Any) -> None:
        status, told = call(service, "PUT", COMPUTE.format(name), body)
        assert (status, told["error"]["code"]) == (400, "BadArgument")

    @pytest.mark.parametrize(
        ("size", "nodes", "code"),
        [("Standard_X99", 1, "InvalidPropertyValue"), ("standard_d2_v2", 9, "ClusterCoreQuotaReached")],
    )
    def test_a_cluster_that_fails_in_provisioning(
        self, service: AzureService, size: str, nodes: int, code: str
    ) -> None:
        service.clusters.behave(quota_cores=16)
        name = f"c{size[-3:].replace('_', 'x')}"
        assert call(service, "PUT", COMPUTE.format(name), cluster_body(size, nodes))[0] == 201
        put = service.requests.exchanges()[-1]
        assert put.answered["properties"]["provisioningState"] == "Creating"
        operation = next(iter(reversed(service.clusters.operations())))
        status, told = call(service, "GET", f"https://management.azure.com{operation}?api-version=2020-02-02")
        assert (status, told["status"], told["error"]["code"]) == (200, "Failed", code)
        status, told = call(service, "GET", COMPUTE.format(name))
        assert told["properties"]["provisioningState"] == "Failed"
        assert told["properties"]["provisioningErrors"][0]["error"]["code"] == code

    @pytest.mark.parametrize(
        ("run_id", "target", "nodes", "word"),
        [
            ("run", "nowhere", 1, "ComputeTargetNotFound"),
            ("run", "broken", 1, "ComputeTargetNotReady"),
            ("run", "machine", 1, "UserError"),
            ("run", "small", 5, "NodeCountExceedsMaximum"),
            ("run", "small", 1, "UserError"),  # there is no such snapshot
            ("-run", "small", 1, "ValidationError"),
        ],
    )
    def test_a_run_that_cannot_be(
        self, service: AzureService, run_id: str, target: str, nodes: int, word: str
    ) -> None:
        configuration = {"script": "train.py", "target": target, "nodeCount": nodes}
        url = f"{API}/execution/v1.0/<WS>/experiments/toy/snapshotrun?runId={run_id}"
        snapshot = "00000000-0000-0000-0000-000000000001"
        if run_id.startswith("-"):
            url = url.replace("runId=-run", f"runId={quote('a' * 300)}")
        status, told = call(service, "POST", url, {"Configuration": configuration, "SnapshotId": snapshot})
        assert (status, told["error"]["innerError"]["code"]) == (400, word)

    def test_tags_and_properties(self, service: AzureService) -> None:
        run = f"{EXPERIMENT}/runs/tagged"
        assert call(service, "PATCH", run, {"properties": {"a": "1"}, "tags": {"t": "1"}})[0] == 200
        assert call(service, "PATCH", run, {"properties": {"a": "1"}, "tags": {"t": "2"}})[0] == 200
        assert call(service, "PATCH", run, {"properties": {"a": "2"}})[0] == 400
        assert call(service, "PATCH", run, {"tags": {"t": "x" * 1001}})[0] == 400
        assert call(service, "PATCH", run, {"tags": {str(n): "" for n in range(51)}})[0] == 400

    def test_a_model_without_an_asset(self, service: AzureService) -> None:
        model = {"name": "m", "url": "aml://asset/none", "mimeType": "application/json"}
        status, told = call(service, "POST", f"{MODELS}/modelmanagement/v1.0/<WS>/models", model)
        assert (status, told["statusCode"], told["code"]) == (400, 400, "BadRequest")

    def test_deleting_what_is_not_there(self, service: AzureService) -> None:
        url = COMPUTE.format("nowhere") + "&underlyingResourceAction=delete"
        assert call(service, "DELETE", url) == (204, None)


class TestFaults:
    """Any one request can be made to fail, in each way."""

    def test_status(self, service: AzureService) -> None:
        from loopback import Fault

        service.faults.add(Fault("GET", "experiments/toy$", occurrence=2, status=503, times=2))
        call(service, "POST", EXPERIMENT)
        assert [call(service, "GET", EXPERIMENT)[0] for _ in range(4)] == [200, 503, 503, 200]

    def test_number_and_headers(self, service: AzureService) -> None:
        from loopback import Fault

        service.faults.add(Fault(number=2, status=429, headers=(("Retry-After", "1"),)))
        assert [call(service, "POST", EXPERIMENT)[0] for _ in range(3)] == [200, 429, 200]

    def test_dropped_before_it_is_done_and_lost_after(self, service: AzureService) -> None:
        from loopback import Fault

        service.faults.add(Fault("POST", "toy$", kind="drop"), Fault("POST", "toy$", 2, "lose-answer"))
        for is_made in (False, True):
            with pytest.raises((OSError, http.client.HTTPException)):
                call(service, "POST", EXPERIMENT)
            assert (call(service, "GET", EXPERIMENT)[0] == 200) is is_made
        assert [exchange.status for exchange in service.requests.exchanges()] == [0, 404, 0, 200]

    def test_late_and_truncated(self, service: AzureService) -> None:
        from loopback import Fault

        service.faults.add(
            Fault("POST", "toy$", kind="delay", seconds=0.5), Fault("GET", "toy$", kind="truncate")
        )
        started = time.monotonic()
        assert call(service, "POST", EXPERIMENT)[0] == 200
        assert time.monotonic() - started >= 0.5
        with pytest.raises(http.client.IncompleteRead):
            call(service, "GET", EXPERIMENT)

    def test_from_text_or_a_file(self, tmp_path: Path) -> None:
        from loopback import Fault
        from loopback.faults import read_faults

        text = '[{"path": "toy$", "status": 429, "headers": [["Retry-After", "1"]]}]'
        (tmp_path / "faults.json").write_text(text)
        expected = [Fault(path="toy$", status=429, headers=(("Retry-After", "1"),))]
        assert read_faults(text) == read_faults(str(tmp_path / "faults.json")) == expected
        with pytest.raises(ValueError, match="kind"):
            Fault(kind="explode")


def start(
    service: AzureService, script: str, run_id: str, *arguments: str, data: str | None = None, **more: Any
) -> tuple[int, Any]:
    """Submit a script as the SDK does, only faster; `data` is the datastore's path to mount."""
    snapshot = str(uuid.uuid4())
    service.blobs.put("snapshots", f"{snapshot}/train.py", script.encode())
    leaf = {"name": "train.py", "type": "File", "hash": "1", "timestamp": "", "children": {}}
    root = {"name": "", "type": "Directory", "hash": "2", "timestamp": "", "children": {"train.py": leaf}}
    url = service.blobs.signed_url("snapshots", f"{snapshot}/train.py")
    nodes = [{"FullName": "train.py", "BlobUri": url, "FileSize": len(script)}]
    body = {"ParentSnapshotId": None, "DirTreeNode": root, "FileRevisionList": {"FileNodes": nodes}}
    assert call(service, "POST", f"{API}/content/v2.0/<WS>/snapshots/{snapshot}", body)[0] == 200
    reference = {"dataStoreName": service.tenancy.datastore, "mode": "mount", "pathOnDataStore": data}
    configuration = {
        "script": "train.py",
        "target": "small",
        "arguments": [*(["$AZUREML_DATAREFERENCE_data"] if data else []), *arguments],
        "dataReferences": {"data": reference} if data else {},
        "environment": {"python": {"userManagedDependencies": True}},
        **more,
    }
    url = f"{API}/execution/v1.0/<WS>/experiments/toy/snapshotrun?runId={run_id}"
    return call(service, "POST", url, {"Configuration": configuration, "SnapshotId": snapshot})


SLEEPER = """
import pathlib, sys, time
kept = pathlib.Path(sys.argv[1])
starts = len(list(kept.glob("start*"))) + 1
(kept / f"start{starts}").touch()
print("start", starts, flush=True)
while starts < 2 or not sys.argv[-1] == "end-at-2":
    time.sleep(0.05)
    if (kept / f"start{starts}").exists():
        print("waiting", flush=True)
"""


class TestJobs:
    """Runs that do not simply end."""

    def test_images_and_mounts_that_cannot_be_had_fail_the_run(self, service: AzureService) -> None:
        service.clusters.add("small")
        told = sdk(
            service,
            """
store = ws.get_default_datastore()
runs = [
    submit("", pins=["azureml-defaults", "numpy==0.0.1"]),
    submit("", pins=["azureml-defaults", "no-such-package-anywhere"]),
    submit("", python="3.8.13"),
    submit("", data=store.path("nowhere").as_mount()),
    submit("raise SystemExit(3)"),
]
ends = [run.wait_for_completion(raise_on_error=False, show_output=False) for run in runs]
tell(statuses=[end["status"] for end in ends], errors=[end["error"]["error"] for end in ends])
""",
        )
        assert told["statuses"] == ["Failed"] * 5
        inner = [error.get("innerError", {}).get("code") for error in told["errors"]]
        assert inner[:4] == [*["ImageBuildFailure"] * 3, "DataReferenceError"]
        messages = [error["message"] for error in told["errors"]]
        assert "numpy==0.0.1" in messages[0]
        assert "python=3.8.13" in messages[2]
        assert "'nowhere'" in messages[3]
        assert "3" in messages[4]
        service.check()

    def test_a_run_waits_for_nodes_and_can_be_cancelled_there_and_later(self, service: AzureService) -> None:
        cluster = service.clusters.add("small", scaleSettings={"minNodeCount": 0, "maxNodeCount": 1})
        service.clusters.behave(full=True, allocation_error="no cores left")
        service.blobs.put(service.tenancy.container, "kept/a", b"")
        for run_id in ("first", "second", "third"):
            assert start(service, SLEEPER, run_id, data="kept") == (200, {"runId": run_id})
            service.runs.wait_for(run_id, "Queued")
        status = call(service, "GET", COMPUTE.format("small"))[1]["properties"]["properties"]
        assert (status["currentNodeCount"], status["allocationState"]) == (0, "Resizing")
        assert status["errors"][0]["error"]["message"] == "no cores left"

        url = service.runs["first"].document["cancelUri"]
        assert call(service, "POST", url) == (200, {"runId": "first"})
        run = service.runs.wait_for("first", "Canceled")
        assert run.statuses[-3:] == ["Queued", "CancelRequested", "Canceled"]

        service.clusters.behave(full=False)
        service.runs.wait_for("second", "Running")
        assert list(cluster.busy) == ["second"]  # the cluster has no more nodes
        assert cluster.waiting == ["third"]
        for run_id in ("second", "third"):
            service.runs.cancel(run_id)
            service.runs.wait_for(run_id, "Canceled")
        assert not cluster.busy
        service.check()

    def test_a_submission_that_is_sent_twice_starts_one_run(self, service: AzureService) -> None:
        service.clusters.add("small")
        service.blobs.put(service.tenancy.container, "kept/a", b"")
        for _ in "12":
            assert start(service, SLEEPER, "once", "end-at-2", data="kept") == (200, {"runId": "once"})
        service.runs.wait_for("once", "Running")
        service.runs.cancel("once")
        assert service.runs.wait_for("once", "Canceled").statuses.count("Running") == 1

    def test_a_run_ends_with_its_time(self, service: AzureService) -> None:
        service.clusters.add("small")
        start(service, "import time; time.sleep(60)", "long", maxRunDurationSeconds=1)
        run = service.runs.wait_for("long", "Canceled")
        assert "exceeded 1 s" in run.document["cancelationReason"]

    def test_a_run_fails_when_its_cluster_is_deleted(self, service: AzureService) -> None:
        service.clusters.add("small")
        start(service, "import time; time.sleep(60)", "orphan")
        service.runs.wait_for("orphan", "Running")
        url = COMPUTE.format("small") + "&underlyingResourceAction=delete"
        assert call(service, "DELETE", url) == (202, None)
        run = service.runs.wait_for("orphan", "Failed")
        assert "was deleted" in run.document["error"]["error"]["message"]

    @pytest.mark.parametrize("restarts", [False, True])
    def test_a_low_priority_node_is_lost_in_mid_training(
        self, service: AzureService, *, restarts: bool
    ) -> None:
        service.clusters.add("small", vmPriority="LowPriority")
        service.clusters.behave(preempt_at="waiting", restarts=restarts)
        service.blobs.put(service.tenancy.container, "kept/a", b"")
        start(service, SLEEPER, "lost", "end-at-2", data="kept")
        run = service.runs.wait_for("lost", "Completed", "Failed")
        assert service.clusters["small"].preempted == 1
        if restarts:
            assert run.statuses[-5:] == ["Running", "Queued", "Running", "Finalizing", "Completed"]
        else:
            assert run.status == "Failed"
            assert "PreemptionError" in run.document["error"]["error"]["message"]
        kept = {blob.name for blob in service.blobs.listing(service.tenancy.container, "kept/start")}
        assert kept == {f"kept/start{n}" for n in range(1, 3 if restarts else 2)}

    def test_a_job_gets_nothing_of_this_machines_environment(
        self, service: AzureService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OF_THIS_MACHINE", "1")
        service.clusters.add("small")
        service.blobs.put(service.tenancy.container, "kept/a", b"")
        script = "import os, sys; print('OF_THIS_MACHINE' in os.environ, os.environ['GIVEN'], *sys.argv[1:])"
        given = {"python": {"userManagedDependencies": True}, "environmentVariables": {"GIVEN": "yes"}}
        longer = "--data=$AZUREML_DATAREFERENCE_data"  # nothing published says that this expands
        start(service, script, "clean", longer, "7", data="kept", environment=given)
        run = service.runs.wait_for("clean", "Completed")
        log = service.handlers.artifacts.read(
            "ExperimentRun", run.container, "user_logs/std_log.txt"
        ).decode()
        said = log.splitlines()[0].split()
        assert said[:2] == ["False", "yes"]
        assert said[2].endswith("/mounts/data")
        assert said[3:] == [longer, "7"]


def test_the_nodes_interpreter_hides_the_project_and_shows_the_rest(tmp_path: Path) -> None:
    from loopback import interpreter

    python = interpreter.make(tmp_path / "node", hidden=["filelock", *interpreter.HIDDEN])
    names = ("filelock", "mnist_cnn", "numpy", "azureml")
    code = f"from importlib.util import find_spec; print([bool(find_spec(name)) for name in {names}])"
    ended = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == "[False, False, True, True]"


def test_a_run_that_is_to_be_cancelled_goes_nowhere_else() -> None:
    from loopback.history import Runs
    from loopback.tenancy import Tenancy

    runs = Runs(Tenancy(), threading.Condition(threading.RLock()))
    run = runs.create("run", "toy")
    runs.cancel("run")
    for status in ("Running", "Finalizing"):
        runs.advance(run, status)
        assert run.status == "CancelRequested"
    runs.advance(run, "Canceled")
    runs.advance(run, "Completed")
    assert run.status == "Canceled"


def test_a_slow_cluster_is_created_after_as_many_polls(service: AzureService) -> None:
    service.clusters.behave(polls_to_create=3)
    assert call(service, "PUT", COMPUTE.format("slow"), cluster_body())[0] == 201
    operation = f"https://management.azure.com{service.clusters.operations()[0]}?api-version=2020-02-02"
    states = [call(service, "GET", operation)[1]["status"] for _ in range(4)]
    assert states == ["InProgress", "InProgress", "Succeeded", "Succeeded"]


def test_a_changed_file_must_be_sent(service: AzureService) -> None:
    service.clusters.add("small")
    start(service, "", "sent")
    _, latest = call(service, "GET", f"{API}/content/v1.0/<WS>/snapshots/latest/metadata")
    body = {"ParentSnapshotId": latest["id"], "DirTreeNode": latest["root"], "FileRevisionList": None}
    url = f"{API}/content/v2.0/<WS>/snapshots/{uuid.uuid4()}"
    assert call(service, "POST", url, body)[0] == 200
    latest["root"]["children"]["train.py"]["hash"] = "3"
    status, told = call(service, "POST", url, body)
    assert (status, "never uploaded" in told["error"]["message"]) == (400, True)


class TestCommand:
    """`python -m tests.azure.loopback -- COMMAND`, as by hand."""

    @staticmethod
    def run(record: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "loopback", "--", *command],
            cwd=Path(__file__).parent,
            env={**os.environ, "AZURE_SERVICE_REQUESTS": str(record), **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def test_the_commands_own_code_and_the_table_of_calls(self, tmp_path: Path) -> None:
        code = (
            "import sys; from azureml.core import Workspace; from pathlib import Path; "
            "workspace = Workspace.from_config(); assert workspace.location == 'westeurope'; sys.exit(3)"
        )
        ended = self.run(tmp_path / "record.jsonl", sys.executable, "-c", code)
        assert ended.returncode == 3, ended.stderr
        assert "POST /{tenant}/oauth2/v2.0/token" in ended.stderr
        lines = [json.loads(line) for line in (tmp_path / "record.jsonl").read_text().splitlines()]
        assert all(line["status"] == 200 and line["bytes_down"] > 0 for line in lines)

    def test_an_unimplemented_call_is_70_and_faults_and_clusters_come_by_environment(
        self, tmp_path: Path
    ) -> None:
        code = f"""
import http.client, os, ssl, urllib.parse, json
proxy = urllib.parse.urlsplit(os.environ["HTTPS_PROXY"])
def get(path):
    context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port, context=context)
    connection.set_tunnel({urlsplit(API).hostname!r}, 443)
    connection.request("GET", path)
    return connection.getresponse().status
assert get("/discovery") == 418
assert get("/discovery") == 200
assert get("/nothing") == 501
"""
        faults = '[{"path": "discovery", "status": 418}]'
        environment = {"AZURE_SERVICE_FAULTS": faults, "AZURE_SERVICE_CLUSTERS": '{"full": true}'}
        ended = self.run(tmp_path / "record.jsonl", sys.executable, "-c", code, **environment)
        assert ended.returncode == 70, ended.stderr
        assert "not implemented: GET westeurope.api.azureml.ms/nothing" in ended.stderr
