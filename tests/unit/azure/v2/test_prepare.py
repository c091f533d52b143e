"""How code is named to the service. The SDK's clients are stand-ins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from helpers.sdk_fakes import FakeContainer

from mnist_cnn.backends.azure.store import BlobFiles
from mnist_cnn.backends.azure.v2 import prepare
from mnist_cnn.backends.remote.snapshot import SentFile

if TYPE_CHECKING:
    from pathlib import Path


def test_the_same_code_in_another_container_is_another_version(tmp_path: Path) -> None:
    """The service refuses another address for a version that it knows."""
    file = tmp_path / "entry.py"
    file.write_text("print()\n")
    request: Any = SimpleNamespace(snapshot=(SentFile(file.name, file, file.stat().st_size),))
    named: dict[str, str] = {}

    def arm(_method: str, path: str, body: dict[str, Any]) -> None:
        assert named.setdefault(path, body["properties"]["codeUri"]) == body["properties"]["codeUri"]

    workspace: Any = SimpleNamespace(arm=arm, path="/workspaces/w")
    for url in ("https://one.example/c", "https://two.example/c", "https://one.example/c"):
        datastore: Any = SimpleNamespace(url=url, files=BlobFiles(FakeContainer(), SimpleNamespace))
        prepare._send_code(workspace, datastore, request)  # noqa: SLF001
    assert len(named) == 2
