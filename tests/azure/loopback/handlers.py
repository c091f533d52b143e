"""All handlers but the one that submits runs, and the list of their routes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from .artifacts import Artifacts
from .compute import Clusters
from .history import Runs
from .identity import Identity
from .metrics import Metrics
from .models import Models
from .snapshots import Snapshots
from .v2_handlers import V2Handlers
from .workspace import Workspace

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .routes import Route
    from .tenancy import Tenancy


class Handlers:
    """One handler for each part of Azure ML. `changed` is notified when a run or a cluster changes."""

    def __init__(self, tenancy: Tenancy, blobs: BlobStore) -> None:
        self.tenancy = tenancy
        self.blobs = blobs
        self.changed = threading.Condition(threading.RLock())
        self.identity = Identity(tenancy)
        self.workspace = Workspace(tenancy)
        self.clusters = Clusters(tenancy, self.changed)
        self.runs = Runs(tenancy, self.changed)
        self.metrics = Metrics()
        self.artifacts = Artifacts(tenancy, blobs)
        self.models = Models()
        self.snapshots = Snapshots(tenancy, blobs)
        self.v2 = V2Handlers(self)

    def routes(self) -> list[Route]:
        first = (self.identity, self.workspace, self.clusters, self.runs)
        handlers = (*first, self.metrics, self.artifacts, self.models, self.snapshots, self.v2)
        return [route for handler in handlers for route in handler.routes()]
