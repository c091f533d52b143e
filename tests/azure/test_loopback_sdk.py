"""The unmodified SDK on the loopback service: data, cluster, run, files, model and deletion."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from loopback import AzureService

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="azureml-sdk cannot be installed there")

TRAIN = """
import argparse, os, pathlib, pkg
from azureml.core import Run
parser = argparse.ArgumentParser()
parser.add_argument("--data", type=pathlib.Path)
parser.add_argument("--epochs", type=int)
options = parser.parse_args()
assert (options.data / "a.txt").read_text() == "hello", sorted(options.data.iterdir())
assert pathlib.Path(pkg.__file__).is_relative_to(pathlib.Path.cwd())
assert "OF_THE_CLIENT" not in os.environ
try:
    import mnist_cnn
except ImportError:
    print("the project is missing")
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

CLIENT = f"""
import json, pathlib
from azureml.core import Environment, Experiment, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.conda_dependencies import CondaDependencies
from azureml.train.estimator import Estimator

def error_of(act):
    try:
        return act()
    except Exception as error:
        return f"{{type(error).__name__}}: {{error}}"

def write(path, text):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)

def files(folder):
    return sorted(str(p.relative_to(folder)) for p in pathlib.Path(folder).rglob("*") if p.is_file())

def submit(epochs):
    environment = Environment("toy")
    environment.python.conda_dependencies = CondaDependencies.create(
        python_version="3.11", pip_packages=["azureml-core"])
    parameters = {{"--data": store.path("walk").as_mount(), "--epochs": epochs}}
    estimator = Estimator("code", entry_script="train.py", compute_target="walk", script_params=parameters,
                          environment_definition=environment)
    return Experiment(ws, "walk").submit(estimator)

ws = Workspace.from_config()
store = ws.get_default_datastore()
write("data/a.txt", "hello")
write("data/sub/b.txt", "b" * 1000)
store.upload("data", target_path="walk", show_progress=False)
missing = error_of(lambda: ComputeTarget(ws, "walk"))
settings = AmlCompute.provisioning_configuration("STANDARD_D2_V2", vm_priority="lowpriority", max_nodes=2)
cluster = ComputeTarget.create(ws, "walk", settings)
cluster.wait_for_completion()
write("code/pkg/__init__.py", "")
write("code/train.py", {TRAIN!r})
run = submit(epochs=3)
details = run.wait_for_completion(show_output=True)
run.download_files(prefix="outputs/", output_directory="back")
models = [run.register_model("toy-model", model_path="outputs/model.txt", tags={{"a": "b"}}) for _ in "12"]
store.download("mounted", prefix="walk")
facts = dict(
    missing=missing,
    status=details["status"],
    error=details.get("error"),
    metrics=run.get_metrics(),
    files=run.get_file_names(),
    downloaded=files("back"),
    model=pathlib.Path("back/outputs/model.txt").read_text(),
    models=[model.id for model in models],
    mounted=files("mounted"),
    nodes=cluster.get_status().current_node_count,
    second=submit(epochs=1).wait_for_completion(raise_on_error=False)["error"],
)
cluster.delete()
cluster.wait_for_completion(is_delete_operation=True)
facts["deleted"] = error_of(lambda: ComputeTarget(ws, "walk"))
print("FACTS " + json.dumps(facts, default=str))
"""


@pytest.fixture(scope="module")
def walk(azure_environment: AzureService, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client found and printed, and what the service recorded."""
    azure, folder = azure_environment, tmp_path_factory.mktemp("walk")
    (folder / "config.json").write_bytes((azure.home / "config.json").read_bytes())
    azure.requests.clear()
    images = len(azure.jobs.images)
    ended = subprocess.run(
        [sys.executable, "-c", CLIENT],
        cwd=folder,
        env={**os.environ, "OF_THE_CLIENT": "x"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    printed = ended.stdout + ended.stderr
    assert ended.returncode == 0, printed
    azure.check()
    return {
        **json.loads(ended.stdout.rpartition("FACTS ")[2]),
        "printed": printed,
        "exchanges": azure.requests.exchanges(),
        "table": azure.requests.table(),
        "images": len(azure.jobs.images) - images,
        "refused_hosts": set(azure.requests.refused_hosts),
    }


def test_the_script_runs_from_its_snapshot_without_the_project(walk: dict[str, Any]) -> None:
    assert walk["status"] == "Completed", walk["error"]
    assert "the project is missing" in walk["printed"]
    assert "epoch 2" in walk["printed"]


def test_metrics_files_and_models_come_back(walk: dict[str, Any]) -> None:
    assert walk["metrics"] == {"accuracy": [0.0, 0.1, 0.2]}
    expected = {"outputs/model.txt", "outputs/deep/x.bin", "user_logs/std_log.txt"}
    assert expected <= set(walk["files"])
    assert walk["downloaded"] == ["outputs/deep/x.bin", "outputs/model.txt"]
    assert walk["model"] == "weights"
    assert walk["models"] == ["toy-model:1", "toy-model:2"]


def test_a_mounts_changes_are_uploaded(walk: dict[str, Any]) -> None:
    assert walk["mounted"] == ["walk/a.txt", "walk/written.txt"]


def test_a_cluster_is_created_holds_an_idle_node_and_is_deleted(walk: dict[str, Any]) -> None:
    assert "ComputeTargetNotFound" in walk["missing"]
    assert walk["nodes"] == 1
    assert "ComputeTargetNotFound" in walk["deleted"]


def test_the_second_run_uses_the_same_image_and_its_script_fails(walk: dict[str, Any]) -> None:
    error = walk["second"]["error"]  # the first run has deleted the file that the second one deletes
    assert error["code"] == "UserError"
    assert "FileNotFoundError" in error["message"]
    assert walk["images"] == 1


def test_every_exchange_is_recorded(walk: dict[str, Any], azure_environment: AzureService) -> None:
    lines = [json.loads(line) for line in azure_environment.requests.path.read_text().splitlines()]
    assert len({line["number"] for line in lines}) == len(lines)
    assert {exchange.number for exchange in walk["exchanges"]} <= {line["number"] for line in lines}
    calls = {(exchange.method, exchange.template) for exchange in walk["exchanges"]}
    assert ("POST", "/execution/v1.0<WS>/experiments/{experiment}/snapshotrun") in calls
    assert ("PUT", "(blob) /azureml-blobstore") in calls
    assert "snapshotrun" in walk["table"]
    assert not walk["refused_hosts"]
