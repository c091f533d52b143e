"""The loopback service without a network, a blob store or a node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from helpers.loopback_server import Service
from loopback.blobs import BlobStore
from loopback.faults import Faults
from loopback.handlers import Handlers
from loopback.recording import Recording
from loopback.server import Server
from loopback.tenancy import Tenancy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loopback.history import Run


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    tenancy = Tenancy()
    handlers = Handlers(tenancy, BlobStore(tenancy, port=0))
    started: list[Run] = []
    server = Server(handlers, started.append, Faults(), Recording(tmp_path / "requests.jsonl"))
    handlers.clusters.add("small")
    handlers.clusters.add("machine", compute_type="VirtualMachine")
    handlers.clusters.add("broken", state="Failed")
    handlers.clusters.add("leaving", state="Deleting")
    yield Service(handlers, server, started)
    server.recording.check()
