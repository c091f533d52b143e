"""Disturbs the loopback service as the contract of remote services requires."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from helpers.azure_runs import ORIGIN
from loopback import Behaviour, Fault

from mnist_cnn.backends.azure.config import Sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loopback import AzureService

START = {Sdk.v1: ("POST", "snapshotrun"), Sdk.v2: ("PUT", "/jobs/[^/]+$")}
"""The request that starts a run."""
FIND = {Sdk.v1: ("GET", r"/workspaces/[^/]+/runs/[^/]+$"), Sdk.v2: ("GET", "/jobs/[^/]+$")}
"""The request with which a process finds a run; the path of a node's request has an experiment too."""


class LoopbackFaults:
    """Injects faults into the loopback service, and takes its nodes as the real service would."""

    def __init__(self, azure: AzureService, sdk: Sdk = Sdk.v1) -> None:
        self._azure = azure
        self._sdk = sdk

    def starts(self) -> list[str]:
        return [
            run.run_id for run in self._azure.runs.all() for status in run.statuses if status == "Starting"
        ]

    def lose_next_response(self) -> None:
        self._azure.faults.add(Fault(*START[self._sdk], kind="lose-answer"))

    def fail_next_polls(self, polls: int) -> None:
        # After most other failures, the SDK itself repeats a request.
        self._azure.faults.add(Fault(*FIND[self._sdk], status=403, times=polls))

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
