"""One training that several workers share, with the time and the bytes of their exchange.

    python tests/benchmarks/shared.py WORKERS EPOCHS IMAGES [KEY=VALUE...]

Prints JSON: milliseconds per step of each epoch but the first, and of its exchange; bytes that worker 0 sends
per step; the weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mnist_cnn
from mnist_cnn.training.distributed.local_group import started
from mnist_cnn.training.train import train

if TYPE_CHECKING:
    from mnist_cnn.result import EpochRow


class Meter:
    """Counts what `all_reduce` of a group costs, in seconds and bytes; not what the evaluation sends."""

    def __init__(self, group: Any) -> None:
        self.seconds, self.bytes, self.is_adding = 0.0, 0, False
        self._all_reduce, group.all_reduce = group.all_reduce, self.all_reduce
        if group.count > 1:
            self._send, group._send = group._send, self.send  # noqa: SLF001 - there is no public way

    def all_reduce(self, *arguments: Any) -> Any:
        """Time `ConnectedGroup.all_reduce`."""
        begun, self.is_adding = time.perf_counter(), True
        arrays = self._all_reduce(*arguments)
        self.seconds, self.is_adding = self.seconds + time.perf_counter() - begun, False
        return arrays

    def send(self, rank: int, buffers: Any) -> None:
        """Count the bytes of a message."""
        if self.is_adding:
            self.bytes += sum(memoryview(buffer).nbytes for buffer in buffers)
        self._send(rank, buffers)


def main(words: list[str]) -> None:
    """Train, and print the JSON."""
    workers, epochs, images = map(int, words[:3])
    size = (f"train.epochs={epochs}", f"data.train_limit={images}")
    job = mnist_cnn.make_job("train=tutorial", "train.threads=1", *size, *words[3:])
    marks = []

    def mark(row: EpochRow) -> None:
        marks.append((row.seconds, meter.seconds, meter.bytes))

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "job.json").write_text(job.to_json(), encoding="utf-8")
        with started(workers, job, [folder, "--device", "cpu", "--assist"]) as group:
            meter = Meter(group)
            result = train(job, Path(folder), device="cpu", group=group, on_epoch=mark)
    steps = -(-images // job.train.batch_size)
    pairs = list(pairwise(marks))
    print(
        json.dumps(
            {
                "step": [1000 * after[0] / steps for _, after in pairs],
                "exchange": [1000 * (after[1] - before[1]) / steps for before, after in pairs],
                "bytes": [(after[2] - before[2]) / steps for before, after in pairs],
                "weights": result.weights_sha256,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1:])
