"""The processes of a job on several nodes. All nodes are this machine.

Azure sets these variables for a distributed job of PyTorch:
https://learn.microsoft.com/azure/machine-learning/how-to-train-distributed-gpu
"""

from __future__ import annotations

import shutil
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

ADDRESS = "127.0.0.1"


def node_environments(
    folder: Path, environment: Mapping[str, str], count: int
) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the code's folder and the variables of each node; `folder` is that of the first one."""
    if count == 1:
        yield folder / "code", dict(environment)
        return
    with socket.create_server((ADDRESS, 0)) as free:
        port = str(free.getsockname()[1])
    shared = {"MASTER_ADDR": ADDRESS, "MASTER_PORT": port, "WORLD_SIZE": str(count), "LOCAL_RANK": "0"}
    nodes = [folder, *(folder / f"node-{rank}" for rank in range(1, count))]
    for other in nodes[1:]:
        shutil.copytree(folder / "code", other / "code")
        (other / "home").mkdir()
    for rank, node in enumerate(nodes):
        own = {"HOME": str(node / "home"), "RANK": str(rank), "NODE_RANK": str(rank)}
        yield node / "code", {**environment, **shared, **own}
