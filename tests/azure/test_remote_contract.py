"""`backend=azure` keeps the contract of remote services, with the unmodified SDK on the loopback service."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from helpers.azure_commands import SDK_TESTS, chosen, forget
from helpers.azure_runs import ORIGIN
from helpers.processes import SMALL
from loopback import Behaviour, Fault

from mnist_cnn.testing import RemoteContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

pytestmark = SDK_TESTS
RUN = r"/workspaces/[^/]+/runs/[^/]+$"
"""The request with which a process finds a run; the path of a node's request has an experiment too."""


class LoopbackCluster:
    """Disturbs the loopback service with its injected faults, and its nodes as the real service would."""

    def __init__(self, azure: AzureService) -> None:
        self._azure = azure

    def starts(self) -> list[str]:
        return [
            run.run_id for run in self._azure.runs.all() for status in run.statuses if status == "Starting"
        ]

    def lose_next_answer(self) -> None:
        self._azure.faults.add(Fault("POST", "snapshotrun", kind="lose-answer"))

    def be_absent(self, polls: int) -> None:
        # After most other failures, the SDK itself repeats a request.
        self._azure.faults.add(Fault("GET", RUN, status=403, times=polls))

    def lose_next_node(self, line: str, *, requeues: bool) -> None:
        self._azure.clusters.behave(preempt_at=line, preemptions=1, restarts=requeues)

    @contextlib.contextmanager
    def damaged(self, run_id: str, name: str) -> Iterator[None]:
        artifacts, container = self._azure.handlers.artifacts, self._azure.runs[run_id].container
        path = f"outputs/{name}"
        content = artifacts.read(ORIGIN, container, path)
        artifacts.write(ORIGIN, container, path, content[:-1] + b"?")
        yield
        artifacts.write(ORIGIN, container, path, content)

    def reset(self) -> None:
        self._azure.faults.clear()
        self._azure.clusters.behaviour = Behaviour()


class TestAzureService(RemoteContract):
    @pytest.fixture(scope="class")
    @classmethod
    def cluster(cls, azure_environment: AzureService) -> LoopbackCluster:
        forget()
        return LoopbackCluster(azure_environment)

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls, azure_environment: AzureService) -> tuple[str, ...]:
        # Only a node of low priority is preempted.
        return (*chosen(azure_environment), "backend.cluster=lowcluster", "backend.priority=lowpriority")

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        return SMALL
