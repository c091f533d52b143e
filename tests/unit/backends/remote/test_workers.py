"""How a node learns from its environment where it meets the other workers."""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from pathlib import Path

import pytest

import mnist_cnn
from mnist_cnn.backends.remote import node, workers
from mnist_cnn.errors import BackendError, DataError
from mnist_cnn.training import train, worker
from mnist_cnn.training.distributed.local_group import identity
from mnist_cnn.training.distributed.rendezvous import connect, listen

VARIABLES = {
    workers.RANK: "1",
    workers.HOST: "127.0.0.1",
    workers.PORTS: "10000 10001",
    workers.TOKEN: "the token",
}


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables of worker 1."""
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("variables")
def test_a_node_keeps_the_token_from_what_it_starts() -> None:
    found = workers.rendezvous(2)
    assert (found.rank, found.count, found.host, found.ports) == (1, 2, "127.0.0.1", (10000, 10001))
    assert found.token == VARIABLES[workers.TOKEN]
    assert workers.TOKEN not in os.environ
    assert "the token" not in repr(found)
    assert found.arrival_seconds == 300


@pytest.mark.usefixtures("variables")
def test_a_service_says_how_long_its_nodes_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.ARRIVAL, "900")
    assert workers.rendezvous(2).arrival_seconds == 900


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize(
    ("name", "value"),
    [*((name, None) for name in VARIABLES), (workers.RANK, "first"), (workers.PORTS, "10000-10007")],
)
def test_a_node_without_the_variables_says_so(
    name: str, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    with pytest.raises(BackendError, match="is missing or not valid"):
        workers.rendezvous(2)


@pytest.mark.usefixtures("variables")
def test_another_worker_that_fails_leaves_the_report_to_worker_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exit code is 0: another one would end worker 0 before it has reported the error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(worker, "print_log", lambda: None)
    monkeypatch.setattr(logging.getLogger("mnist_cnn"), "propagate", True)
    job = mnist_cnn.make_job("train.shards=2", "data.train_limit=100")
    joining = workers.rendezvous(2)
    listener = listen("127.0.0.1", (0,))
    port = listener.getsockname()[1]
    for name, value in {**VARIABLES, workers.PORTS: str(port)}.items():
        monkeypatch.setenv(name, value)
    received: list[BaseException] = []

    def fail(*_: object, **__: object) -> None:
        raise DataError("the data are damaged")

    monkeypatch.setattr(train, "assist", fail)

    def be_worker_0() -> None:
        zero = dataclasses.replace(joining, rank=0, ports=(port,))
        try:
            with connect(zero, identity(job), listener) as group:
                group.all_gather(b"")
        except Exception as error:  # noqa: BLE001 - it is what the test is about
            received.append(error)

    thread = threading.Thread(target=be_worker_0)
    thread.start()
    words = node.arguments(job, "data", "checkpoints", workers=2)
    assert node.main(words) == 0
    thread.join(30)
    assert isinstance(received[0], DataError)
    assert received[0].message == "worker 1: the data are damaged"
    assert "worker 1 of 2 stopped: the data are damaged" in caplog.text
    assert not (tmp_path / "outputs").exists()
