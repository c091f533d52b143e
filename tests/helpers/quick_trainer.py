"""A node's Python whose training takes no time: it computes each row from the job, without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

from mnist_cnn import errors, result
from mnist_cnn.backends.remote import node

PROGRAM = '#!/bin/bash\nexec {python} -P {file} {gate} "$@"\n'


def write(folder: Path) -> tuple[Path, Path]:
    """Write the program for `backend.python`, which waits until a file exists; return both."""
    program, gate = folder / "python", folder / "gate"
    program.write_text(PROGRAM.format(python=sys.executable, file=__file__, gate=gate))
    program.chmod(0o755)
    return program, gate


def accuracy(learning_rate: float, epoch: int) -> float:
    """Return the accuracy after an epoch; it is the better the nearer the rate is to 0.1."""
    return 1 - abs(learning_rate - 0.1) / 2 - 0.01 / epoch


def main(gate: Path, words: list[str]) -> None:
    options = dict(zip(words[::2], words[1::2], strict=True))
    job, checkpoints = node.decode(options["--job"]), Path(options["--checkpoints"])
    say(node.PROGRESS, {})
    while not gate.exists():
        time.sleep(0.02)
    rate, last = job.train.rate, int(options["--pause-after"])
    for epoch in range(1 + len(list(checkpoints.iterdir())), last + 1):
        found = accuracy(rate, epoch)
        say(node.EPOCH, dataclasses.asdict(result.EpochRow(epoch, 0.5, found, 0.5, found, rate, 1.0)))
        (checkpoints / f"{epoch}").touch()
    say(node.FAILURE, {"exit_code": errors.RunPaused.exit_code, "error": "paused", "hint": ""})
    Path("outputs").mkdir()
    Path("outputs", node.PAUSED).touch()


def say(mark: str, content: dict[str, Any]) -> None:
    sys.stdout.write(f"{mark}{json.dumps(content)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[sys.argv.index("--job") :])
