"""Several workers on a cluster: each is a node, and they end in the weights of one local process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from helpers.azure_commands import (
    BOTH_SDKS,
    LOOPBACK_TESTS,
    chosen,
    refused,
    run_here,
    submissions,
    succeeded,
)
from helpers.azure_runs import ORIGIN, ServiceRun
from helpers.processes import run_successfully
from loopback import run_errors

from mnist_cnn import run_folder
from mnist_cnn.backends.remote import workers
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loopback import AzureService
    from loopback.messages import Request

    from mnist_cnn.result import Result

pytestmark = [*LOOPBACK_TESTS, BOTH_SDKS]
JOB = (
    "data.train_limit=600", "data.test_limit=250", "train.epochs=2", "train.batch_size=50",
    "model=compact", "train.shards=2", "train.threads=1",
)  # fmt: skip
PAIR = ("backend.workers=2", "backend.max_nodes=2", "backend.cluster=pair", "register.name=null")
FAILING = """
import os
import keras


def build(config, input_shape, num_classes):
    if os.environ.get("RANK") == "1":  # not on this machine, which builds it first
        raise ValueError("no layers are left on node 1")
    out = keras.layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), out])
"""


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The result of the job in one local process."""
    home = tmp_path_factory.mktemp("local")
    run_successfully(*JOB, "run_dir=run", cwd=home)
    return run_folder.result_of(home / "run")


@pytest.fixture
def killing(azure: AzureService) -> Iterator[list[str]]:
    """Kill the last worker when the first epoch is reported through SDK v2; yield the ids of such runs."""
    killed: list[str] = []

    def kill(request: Request) -> None:
        if request.path.endswith("/runs/log-batch") and not killed:
            killed.append(request.json()["run_id"])
            azure.jobs.kill_last_process(killed[0])

    azure.server.listeners.append(kill)
    yield killed
    azure.server.listeners.remove(kill)


def variables(sent: Any) -> dict[str, str]:
    """Return the nodes' own variables in the request that has submitted a run."""
    found: dict[str, str] = (sent.get("Configuration") or sent["properties"])["environmentVariables"]
    return found


def test_two_nodes_end_in_the_weights_of_one_process(
    azure: AzureService, tmp_path: Path, local: Result, killing: list[str], sdk: str
) -> None:
    """Also if one of them is killed: the run is then submitted again."""
    ended = run_here(*chosen(azure), sdk, *JOB, *PAIR, "run_dir=run", cwd=tmp_path)
    folder, is_v2 = tmp_path / "run", sdk.endswith("v2")
    succeeded(ended, "cluster pair has 2 nodes, which are billed")
    assert run_folder.result_of(folder).weights_sha256 == local.weights_sha256
    log = (folder / run_folder.LOG).read_text()
    assert log.count("2 workers, 1 threads each") == submissions(azure) == (2 if is_v2 else 1)
    assert len(killing) == is_v2
    assert ("was killed, or its node has failed" in ended.err) is is_v2
    _check_tokens(azure, folder, ended.out + ended.err)


def test_a_worker_that_dies_without_a_word_is_a_lost_node(
    azure: AzureService, tmp_path: Path, sdk: str
) -> None:
    """The service may end worker 0 before that one notices."""
    made = ServiceRun(azure, tmp_path / "run", sdk, "train.shards=2", *PAIR)
    made.begin()
    azure.runs.advance(made.run, "Failed", run_errors.job_failed())
    shown = made.command("status", "--json")
    assert shown.json()["status"] == "queued"
    assert "a worker was killed, or its node has failed" in shown.err


def test_the_error_of_another_worker_fails_the_run(azure: AzureService, tmp_path: Path, sdk: str) -> None:
    (tmp_path / "network.py").write_text(FAILING)
    ended = run_here(*chosen(azure), sdk, *JOB, *PAIR, "model.file=network.py", "run_dir=run", cwd=tmp_path)
    refused(ended, ConfigurationError.exit_code, "worker 1: ", "no layers are left on node 1")
    assert submissions(azure) == 1


def _check_tokens(azure: AzureService, folder: Path, printed: str) -> None:
    """Check that each submission has a token of its own, which only its nodes' environment contains."""
    sent = [e.sent for e in azure.requests.exchanges() if e.sent and workers.TOKEN in json.dumps(e.sent)]
    tokens = [variables(body)[workers.TOKEN] for body in sent]
    assert len(set(tokens)) == submissions(azure)
    artifacts = azure.handlers.artifacts
    for run in azure.runs.all()[-len(tokens) :]:
        for name in artifacts.paths(ORIGIN, run.container):
            printed += artifacts.read(ORIGIN, run.container, name).decode(errors="replace")
        printed += json.dumps([run.document["tags"], run.document["properties"]])
    for path in folder.rglob("*"):
        printed += path.read_text(errors="replace") if path.is_file() else ""
    for token, body in zip(tokens, sent, strict=True):
        assert token not in printed
        assert json.dumps(body).count(token) == 1
