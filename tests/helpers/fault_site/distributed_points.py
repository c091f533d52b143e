"""Points of what several workers share, at which one of them meets a fault. See `helpers.fault_points`."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_cnn.training.distributed import rendezvous
from mnist_cnn.training.distributed.group import ConnectedGroup

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.training.distributed.rendezvous import Rendezvous

SILENCE_SECONDS = 6.0
"""How long the others wait for a worker that is stopped."""


class DistributedPoint:
    """The chosen point of a process, which may be any of the workers; `wait` is the fault of that name."""

    def __init__(self, chosen: dict[str, Any], wait: Callable[[], None]) -> None:
        self.chosen = chosen
        self.rank = int(chosen["process"].removeprefix("worker "))
        self.faults: dict[str, Callable[[], None]] = {
            "kill": functools.partial(self.signal, signal.SIGKILL),
            "stop": functools.partial(self.signal, signal.SIGSTOP),
            "wait": wait,
        }

    def install(self) -> None:
        """Stand in for the functions by which workers meet and exchange."""
        connect = rendezvous.connect
        all_gather, all_reduce = ConnectedGroup.all_gather, ConnectedGroup.all_reduce

        def faulty_connect(where: Rendezvous, *arguments: Any, **options: Any) -> ConnectedGroup:
            if self.is_reached("connect", where.rank):
                where = dataclasses.replace(where, arrival_seconds=SILENCE_SECONDS)
            return connect(where, *arguments, **options)

        def faulty_all_gather(workers: ConnectedGroup, content: bytes) -> list[bytes]:
            self.visit("all_gather", workers)
            return all_gather(workers, content)

        def faulty_all_reduce(workers: ConnectedGroup, *arguments: Any) -> Any:
            self.visit("all_reduce", workers)
            return all_reduce(workers, *arguments)

        rendezvous.connect = faulty_connect  # type: ignore[assignment]
        ConnectedGroup.all_gather = faulty_all_gather  # type: ignore[assignment, method-assign]
        ConnectedGroup.all_reduce = faulty_all_reduce  # type: ignore[assignment, method-assign]

    def visit(self, point: str, workers: ConnectedGroup) -> None:
        """Meet the fault, if this is the chosen point; the other workers then wait less long."""
        if self.is_reached(point, workers.rank):
            workers.seconds = SILENCE_SECONDS
            for connection in workers._connections.values():  # noqa: SLF001 - there is no public way
                connection.settimeout(SILENCE_SECONDS)

    def is_reached(self, point: str, rank: int) -> bool:
        """Count a visit and meet the fault; return whether it is a stop that another worker meets."""
        if point != self.chosen["point"]:
            return False
        self.chosen["count"] -= 1
        if self.chosen["count"]:
            return False
        if rank == self.rank:
            self.faults[self.chosen["fault"]]()
            return False
        return bool(self.chosen["fault"] == "stop")

    def signal(self, number: signal.Signals) -> None:
        """Tell the test, and send this process a signal."""
        Path(self.chosen["path"]).with_suffix(".reached").touch()
        os.kill(os.getpid(), number)
