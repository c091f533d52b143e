"""All handlers but the one that submits runs, and the list of their routes."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Self

from .artifacts import Artifacts
from .compute import Clusters
from .history import Runs
from .identity import Identity
from .metrics import Metrics
from .models import Models
from .snapshots import Snapshots
from .workspace import Workspace

if TYPE_CHECKING:
    from .blobs import BlobStore
    from .routes import Route
    from .tenancy import Tenancy


@dataclasses.dataclass(frozen=True)
class Handlers:
    """One handler for each part of Azure ML. `changed` is notified when a run or a cluster changes."""

    tenancy: Tenancy
    blobs: BlobStore
    changed: threading.Condition
    identity: Identity
    workspace: Workspace
    clusters: Clusters
    runs: Runs
    metrics: Metrics
    artifacts: Artifacts
    models: Models
    snapshots: Snapshots

    @classmethod
    def of(cls, tenancy: Tenancy, blobs: BlobStore) -> Self:
        changed = threading.Condition(threading.RLock())
        return cls(
            tenancy=tenancy,
            blobs=blobs,
            changed=changed,
            identity=Identity(tenancy),
            workspace=Workspace(tenancy),
            clusters=Clusters(tenancy, changed),
            runs=Runs(tenancy, changed),
            metrics=Metrics(),
            artifacts=Artifacts(tenancy, blobs),
            models=Models(),
            snapshots=Snapshots(tenancy, blobs),
        )

    def routes(self) -> list[Route]:
        first = (self.identity, self.workspace, self.clusters, self.runs)
        handlers = (*first, self.metrics, self.artifacts, self.models, self.snapshots)
        return [route for handler in handlers for route in handler.routes()]
