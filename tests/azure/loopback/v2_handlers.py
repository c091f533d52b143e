"""All handlers that only SDK v2 uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .v2_assets import Assets, ModelVersions
from .v2_blob_access import BlobAccess
from .v2_datastores import Datastores
from .v2_jobs import ArmJobs
from .v2_mlflow import MlFlow
from .v2_nodes import Nodes, RunData

if TYPE_CHECKING:
    from .handlers import Handlers
    from .history import Run
    from .routes import Route


class V2Handlers:
    """One handler for each part; they share their stores with the handlers of SDK v1."""

    def __init__(self, shared: Handlers) -> None:
        self.shared = shared
        self.datastores = Datastores(shared.workspace, shared.blobs)
        self.assets = Assets(shared.tenancy, shared.blobs)
        self.models = ModelVersions(shared.tenancy, shared.models)
        self.mlflow = MlFlow(shared.runs, shared.metrics)
        self.nodes, self.run_data = Nodes(shared.clusters), RunData(shared.runs)
        self.blob_access = BlobAccess(shared.blobs, shared.identity, shared.workspace)

    def jobs(self, start: Callable[[Run], None]) -> ArmJobs:
        return ArmJobs(self.shared, self.assets, start)

    def routes(self) -> list[Route]:
        assets = (self.datastores, self.assets, self.models)
        handlers = (*assets, self.mlflow, self.nodes, self.run_data)
        return [route for handler in handlers for route in handler.routes()]
