"""Small stand-ins for the Azure SDK's objects, for promises of this package's own code on every Python."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from helpers.records import write_receipt

from mnist_cnn import compose
from mnist_cnn.backend import Status
from mnist_cnn.backends.azure.config import AzureConfig
from mnist_cnn.backends.azure.v1 import service as azure_service
from mnist_cnn.backends.azure.v1.service import WorkspaceService
from mnist_cnn.backends.remote.run import RemoteRun

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

WORKSPACE = {"subscription_id": "s", "resource_group": "g", "workspace_name": "w"}


def config_of(*overrides: str) -> AzureConfig:
    backend = compose.load(["backend=azure", *overrides]).backend
    assert isinstance(backend, AzureConfig)
    return backend


def config_in(folder: Path, *overrides: str) -> AzureConfig:
    """Return the configuration of a workspace whose config.json is in a folder."""
    (folder / "config.json").write_text(json.dumps(WORKSPACE))
    return config_of(f"backend.workspace={folder}", *overrides)


def provide(patch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """Let `from NAME import MEMBER` find stand-ins."""
    module = ModuleType(name)
    vars(module).update(members)
    patch.setitem(sys.modules, name, module)


class FakeRun:
    """The SDK's run: a test sets its state, and what happens when its details are read."""

    id = "run-1"

    def __init__(self, state: str = "Running", *, cancel_uri: str | None = "https://cancel") -> None:
        self.state = state
        self._run_dto = {"cancel_uri": cancel_uri}
        self.cancellations = 0
        self.on_cancel: Callable[[], object] = lambda: None
        self.on_details: Callable[[], object] = lambda: None

    def get_status(self) -> str:
        return self.state

    def get_details(self) -> dict[str, Any]:
        self.on_details()
        return {"status": self.state, "logFiles": {"user_logs/std_log.txt": "https://log"}}

    def get_portal_url(self) -> str:
        return "https://ml.azure.com/runs/run-1"

    def cancel(self) -> None:
        self.cancellations += 1
        self.on_cancel()

    def set_tags(self, tags: dict[str, str]) -> None:
        assert tags


def attach(patch: pytest.MonkeyPatch, folder: Path, *found: FakeRun | Exception, **service: str) -> RemoteRun:
    """Return a run whose SDK's runs are `found`, one at each search and the last one from then on."""
    write_receipt(folder, Status.queued, backend="azure", id=FakeRun.id, service=service)
    remaining = list(found)

    def find_run(_workspace: object, _run_id: str) -> FakeRun:
        run = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(run, Exception):
            raise run
        return run

    patch.setattr(azure_service, "find_run", find_run)
    patch.setattr(azure_service, "workspace_of", lambda _handle: None)
    return RemoteRun(folder, WorkspaceService(config_of()))


class NotFoundByService(Exception):  # noqa: N818 - only its status matters
    status_code = 404


class FakeContainer:
    """A container of blobs, with what is asked of it."""

    def __init__(self, **blobs: bytes) -> None:
        self.blobs = dict(blobs)
        self.read: list[str] = []

    def list_blobs(self, name_starts_with: str) -> Iterator[Any]:
        for name, content in self.blobs.items():
            if name.startswith(name_starts_with):
                md5 = bytearray(hashlib.md5(content, usedforsecurity=False).digest())
                settings = SimpleNamespace(content_md5=md5)
                yield SimpleNamespace(name=name, size=len(content), content_settings=settings)

    def upload_blob(
        self, name: str, content: bytes, *, progress_hook: Callable[[int, int], None], **_options: Any
    ) -> None:
        self.blobs[name] = content
        progress_hook(len(content), len(content))

    def download_blob(self, blob: str) -> Any:
        self.read.append(blob)
        return SimpleNamespace(readall=lambda: self.blobs[blob])
