"""The nodes of a cluster, and the data of a run that `jobs.download` asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import v2_arm as arm
from .messages import Request, Response, answer
from .routes import Route
from .tenancy import API

if TYPE_CHECKING:
    from .compute import Clusters
    from .history import Runs


class Nodes:
    """A cluster's nodes: those with a job, then those that are idle."""

    def __init__(self, clusters: Clusters) -> None:
        self.clusters = clusters

    def routes(self) -> list[Route]:
        return [arm.route("POST", "<WS>/computes/{compute}/listNodes", self.list)]

    def list(self, request: Request) -> Response:
        name = request.names["compute"]
        with self.clusters.changed:
            if name not in self.clusters:
                raise arm.Inner(404, f"Compute {name} not found.", "NotFoundError")
            cluster = self.clusters[name]
            jobs: list[str | None] = [*cluster.busy, *([None] * cluster.idle_nodes())]
        nodes = [
            {
                "nodeId": f"tvmps_{number:064x}_{'p' if cluster.is_low_priority else 'd'}",
                "privateIpAddress": f"10.0.0.{4 + number}",
                "publicIpAddress": "203.0.113.1",
                "port": 50000 + number,
                "nodeState": "running" if job else "idle",
                "runId": job,
            }
            for number, job in enumerate(jobs)
        ]
        return answer({"nodes": nodes})


class RunData:
    """The call with which the SDK looks for named outputs before it downloads."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def routes(self) -> list[Route]:
        return [Route("POST", API, "/history/v1.0<WS>/rundata", self.get)]

    def get(self, request: Request) -> Response:
        run = self.runs[request.json()["runId"]]
        return answer({"runMetadata": {**run.document, "inputs": {}, "outputs": {}}})
