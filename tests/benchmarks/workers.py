"""Milliseconds per step of 1, 2 and 4 workers on this machine, and what their exchange costs.

The tutorial's training with four shards and one thread per worker; all end in the same weights, or the exit
code is 1. A step includes its share of the evaluation. Then what 16 and 64 workers would do on nodes with 10
Gbit/s between them: computed, not measured, as docs/workers.md explains.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_cnn.training.distributed.local_group import HOST
from mnist_cnn.training.distributed.pairwise import PairwiseSum, Subtree
from mnist_cnn.training.distributed.rendezvous import Rendezvous, connect, listen

from .comparison import Comparison
from .machine import printed, script
from .processors import Hashes
from .report import Metric, Report, number, table, take_turns, timed

if TYPE_CHECKING:
    from mnist_cnn.training.distributed.group import ConnectedGroup

OPTIONS = {
    "--rounds": number(2, "how often each number of workers trains"),
    "--epochs": number(3, "epochs of a training, at least 2"),
    "--images": number(12_800, "number of training images"),
}
SHARDS = 4
WORKERS = (1, 2, 4)
STEP = Metric("milliseconds per step", "times as fast as", less_is_better=True)
EXCHANGE = Metric("milliseconds of exchange per step", "times", less_is_better=True)
SENT = Metric("bytes sent per step and worker", "times", less_is_better=True, digits=0)
NETWORKS = {"the tutorial's, 1.2 million": 1_199_882, "25 million": 25_000_000}
"""Parameters of 4 bytes each."""
FORECAST_WORKERS = (2, 16, 64)
BYTES_PER_SECOND = 10e9 / 8
LATENCY_SECONDS = 50e-6
"""Of a message between two nodes; measured ones in a data centre are 20 to 100 microseconds."""


def run(arguments: argparse.Namespace) -> list[Any]:
    """Measure in turns, then compute."""
    if arguments.epochs < 2:
        raise SystemExit("--epochs: at least 2, because the first is not counted")
    answers: dict[str, list[dict[str, Any]]] = {}

    def train(workers: int) -> list[float]:
        size = (str(workers), str(arguments.epochs), str(arguments.images))
        answer = printed(script("shared.py", *size, f"train.shards={SHARDS}"))
        answers.setdefault(name_of(workers), []).append(answer)
        steps: list[float] = answer["step"]
        return steps

    contestants = {name_of(workers): partial(train, workers) for workers in WORKERS}
    steps = take_turns(contestants, arguments.rounds)
    title = f"the tutorial's training, {SHARDS} shards, {arguments.images} images, one thread per worker"
    alone = (name_of(1),)
    parts = {
        key: {name: [value for answer in found for value in answer[key]] for name, found in answers.items()}
        for key in ("exchange", "bytes")
    }
    hashes = {name: Hashes("", {"the job": found[-1]["weights"]}) for name, found in answers.items()}
    expected = hashes[name_of(1)].weights
    return [
        Report(title, STEP, steps, alone),
        Report("the exchange", EXCHANGE, parts["exchange"]),
        Report("what each worker sends", SENT, parts["bytes"]),
        Comparison("weights", expected, hashes),
        Forecast(min(steps[name_of(1)]) / SHARDS / 1000, *overheads()),
    ]


def name_of(workers: int) -> str:
    """Return a contestant's name."""
    return "1 worker" if workers == 1 else f"{workers} workers"


def overheads() -> tuple[float, float]:
    """Return what an exchange costs the processors here: seconds per message, and per byte of the sum.

    Measured between two threads of this process, on loopback.
    """
    large = 1_200_000
    with listen(HOST, (0,)) as listener, ThreadPoolExecutor(2) as pool:
        ports = (listener.getsockname()[1],)
        first = Rendezvous(0, 2, HOST, ports, secrets.token_hex())
        other = pool.submit(connect, dataclasses.replace(first, rank=1), {})
        with connect(first, {}, listener) as group, other.result() as second:
            groups = (group, second)

            def exchange(length: int) -> None:
                list(pool.map(lambda group: group.all_reduce(held_by(group, length), 2), groups))

            seconds = {length: min(timed(partial(exchange, length), 50)) for length in (2, large)}
    return seconds[2] / 2, (seconds[large] - seconds[2]) / (4 * large)


def held_by(group: ConnectedGroup, length: int) -> PairwiseSum:
    """Return one of two shards, float32 (length,)."""
    held = PairwiseSum()
    held.add(Subtree(group.rank, 1, (np.ones(length, np.float32),)))
    return held


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Seconds of a step of many workers, computed from what one shard and an exchange cost here."""

    shard_seconds: float
    message_seconds: float
    byte_seconds: float

    def exchange_seconds(self, workers: int, parameters: int) -> float:
        """Return the seconds of an exchange.

        Each worker sends (workers - 1) messages twice, of all its numbers but its own part, while it receives
        as many. The processor's share is measured, the network's computed.
        """
        messages = 2 * (workers - 1) * self.message_seconds + 2 * LATENCY_SECONDS
        sent = 2 * 4 * parameters * (workers - 1) / workers
        return messages + sent / BYTES_PER_SECOND + 4 * parameters * self.byte_seconds

    def text(self) -> str:
        """Return a row for each network and number of workers."""
        heads = ["computed, not measured", "workers", "exchange ms", "step ms", "share of the exchange"]
        rows = [[row[0], *(str(cell) for cell in row[1:])] for row in self._rows()]
        title = (
            f"forecast for 10 Gbit/s: one shard of 32 images takes {1000 * self.shard_seconds:.1f} ms, "
            f"a message {1e6 * self.message_seconds:.0f} us and {1e6 * LATENCY_SECONDS:.0f} us of latency, "
            f"a megabyte {1e9 * self.byte_seconds:.2f} ms"
        )
        return f"{title}\n{table(heads, rows)}"

    def _rows(self) -> list[tuple[str, int, str, str, str]]:
        rows = []
        for name, parameters in NETWORKS.items():
            computing = self.shard_seconds * parameters / NETWORKS["the tutorial's, 1.2 million"]
            for workers in FORECAST_WORKERS:
                exchange = self.exchange_seconds(workers, parameters)
                step = computing + exchange
                rows.append(
                    (name, workers, f"{1000 * exchange:.1f}", f"{1000 * step:.1f}", f"{exchange / step:.0%}")
                )
        return rows

    def as_mapping(self) -> dict[str, Any]:
        """Return the figures and the rows, ready for JSON."""
        return {**dataclasses.asdict(self), "title": "forecast, computed", "rows": self._rows()}
