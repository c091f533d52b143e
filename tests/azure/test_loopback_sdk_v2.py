"""The unmodified SDK v2 on the loopback service: data, cluster, job, files, metrics, model and deletion."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import V2_TESTS

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = V2_TESTS

TRAIN = """
import json, os, pathlib, sys, urllib.request
data, checkpoints = map(pathlib.Path, sys.argv[1:])
assert (data / "a.txt").read_text() == "hello", sorted(data.iterdir())
assert "OF_THE_CLIENT" not in os.environ
try:
    import mnist_cnn
except ImportError:
    print("the project is missing")

def log(name, value, step):
    url = os.environ["MLFLOW_TRACKING_URI"].replace("azureml://", "https://")
    url += "/api/2.0/mlflow/runs/log-metric"
    body = dict(run_id=os.environ["MLFLOW_RUN_ID"], key=name, value=value, step=step, timestamp=1700000000000)
    token = os.environ["MLFLOW_TRACKING_TOKEN"]
    headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)).read()

for epoch in range(3):
    log("accuracy", epoch / 10, epoch)
    print("epoch", epoch, flush=True)
pathlib.Path("outputs/deep").mkdir(parents=True)
pathlib.Path("outputs/model.txt").write_text("weights")
pathlib.Path("outputs/deep/x.bin").write_bytes(b"x" * 100_000)
(checkpoints / "one.txt").write_text("through")
"""

CLIENT = f"""
import json, os, pathlib, time
from azure.ai.ml import Input, MLClient, Output, command
from azure.ai.ml.entities import AmlCompute, Environment, Model
from azure.identity import ClientSecretCredential
from azure.storage.blob import ContainerClient

def error_of(act):
    try:
        return act()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

names = json.loads(pathlib.Path("config.json").read_text())
login = [os.environ["AZUREML_SERVICE_PRINCIPAL_" + word] for word in ("TENANT_ID", "ID", "PASSWORD")]
credential = ClientSecretCredential(*login)
place = names["subscription_id"], names["resource_group"], names["workspace_name"]
client = MLClient(credential, *place, polling_interval=0.1)

def container(store, credential):
    host = f"https://{{store.account_name}}.blob.core.windows.net"
    return ContainerClient(host, store.container_name, credential)

def files(folder):
    return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*") if p.is_file())

def submit(name, words):
    job = command(
        name=name, code="code", command=words, environment="toy:1", compute="walk2", experiment_name="walk",
        inputs={{"data": Input(type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/second")}},
        outputs={{"saved": Output(type="uri_folder", path="azureml://datastores/workspaceblobstore/paths/saved")}})
    return client.jobs.create_or_update(job)

def wait(name):
    while (job := client.jobs.get(name)).status not in ("Completed", "Failed", "Canceled"):
        time.sleep(0.1)
    return job.status

workspace = client.workspaces.get(place[2])
store = client.datastores.get_default(include_secrets=True)
container(store, store.credentials.sas_token).upload_blob("second/a.txt", b"hello")
missing = [error_of(lambda: client.compute.get("walk2")), error_of(lambda: client.jobs.get("walk2-1"))]
settings = AmlCompute(name="walk2", size="STANDARD_D2_V2", max_instances=2, tier="low_priority")
cluster = client.compute.begin_create_or_update(settings).result()
conda = {{"dependencies": ["python=3.11", {{"pip": ["numpy"]}}]}}
client.environments.create_or_update(Environment(name="toy", version="1", image="x/y:1", conda_file=conda))
pathlib.Path("code").mkdir()
pathlib.Path("code/train.py").write_text({TRAIN!r})
words = "python train.py ${{{{inputs.data}}}} ${{{{outputs.saved}}}}"
created = submit("walk2-1", words).status
status = wait("walk2-1")
client.jobs.download("walk2-1", download_path="back", all=True)
address = f"azureml://jobs/walk2-1/outputs/artifacts/paths/outputs/model.txt"
models = [client.models.create_or_update(Model(name="toy2", path=address)).version for _ in "12"]
client.models.archive("toy2", version="1")
submit("walk2-2", "echo begun; sleep 600")
while client.jobs.get("walk2-2").status != "Running":
    time.sleep(0.1)
nodes = map(vars, client.compute.list_nodes("walk2"))  # azure-ai-ml 1.35.2 leaves its own names empty
busy = [(node["nodeState"], node["runId"]) for node in nodes]
client.jobs.begin_cancel("walk2-2").result()
submit("walk2-3", "python -c 'raise SystemExit(3)'")
failed = wait("walk2-3")
facts = dict(
    missing=missing,
    location=workspace.location,
    cluster=cluster.provisioning_state,
    created=created,
    status=status,
    downloaded=files("back/artifacts"),
    log=pathlib.Path("back/artifacts/user_logs/std_log.txt").read_text(),
    saved=container(store, credential).download_blob("saved/one.txt").readall().decode(),
    models=models,
    active=[model.version for model in client.models.list("toy2")],
    busy=busy,
    failed=failed,
    reason=error_of(lambda: client.jobs.stream("walk2-3")),
    jobs=[job.name for job in client.jobs.list()],
    second=client.jobs.get("walk2-2").status,
)
client.compute.begin_delete("walk2").result()
facts["deleted"] = error_of(lambda: client.compute.get("walk2"))
print("FACTS " + json.dumps(facts, default=str))
"""


@pytest.fixture(scope="module")
def walk(azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client found, and what the service recorded."""
    azure, folder = azure_environment, tmp_path_factory.mktemp("walk")
    (folder / "config.json").write_bytes((azure.home / "config.json").read_bytes())
    azure.requests.clear()
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT],
        cwd=folder,
        env={**azure.environment, "OF_THE_CLIENT": "x"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    azure.check()
    facts: dict[str, Any] = json.loads(ended.stdout.rpartition("FACTS ")[2])
    return {**facts, "refused_hosts": set(azure.requests.refused_hosts)}


def test_a_job_runs_with_its_code_and_data_and_without_the_project(walk: dict[str, Any]) -> None:
    assert (walk["created"], walk["status"]) == ("Starting", "Completed"), walk["log"]
    assert "the project is missing" in walk["log"]
    assert "epoch 2" in walk["log"]
    assert walk["saved"] == "through"


def test_outputs_and_logs_are_blobs_of_the_artifact_store(walk: dict[str, Any]) -> None:
    expected = {"outputs/model.txt", "outputs/deep/x.bin", "user_logs/std_log.txt"}
    assert expected <= set(walk["downloaded"])


def test_a_jobs_metrics_are_where_those_of_sdk_v1_are(
    walk: dict[str, Any], azure_environment: AzureService
) -> None:
    rows = azure_environment.handlers.metrics.rows("walk2-1")
    assert walk["status"] == "Completed"
    assert [(row["key"], row["value"], row["step"]) for row in rows] == [
        ("accuracy", 0.0, 0),
        ("accuracy", 0.1, 1),
        ("accuracy", 0.2, 2),
    ]


def test_models_get_versions_and_can_be_archived(walk: dict[str, Any]) -> None:
    assert walk["models"] == ["1", "2"]
    assert walk["active"] == ["2"]


def test_a_cancelled_job_is_listed_and_its_node_was_busy(walk: dict[str, Any]) -> None:
    assert walk["busy"] == [["running", "walk2-2"]]
    assert walk["jobs"][:3] == ["walk2-3", "walk2-2", "walk2-1"]
    assert walk["second"] == "Canceled"


def test_a_failed_command_is_reported_with_its_exit_code(walk: dict[str, Any]) -> None:
    assert walk["failed"] == "Failed"
    assert "User process 'python' exited with status code 3." in walk["reason"]


def test_what_does_not_exist_is_reported_as_such(walk: dict[str, Any]) -> None:
    assert walk["location"] == "westeurope"
    assert walk["cluster"] == "Succeeded"
    assert "ResourceNotFoundError" in walk["missing"][0]
    assert "Job walk2-1 not found." in walk["missing"][1]
    assert "ResourceNotFoundError" in walk["deleted"]
    assert not walk["refused_hosts"]
