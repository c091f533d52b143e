"""The most memory that a process holds at any time (its peak resident set): the tutorial's run and its parts.

A run is short by default, since its peak comes with its first epoch; the largest process of a command counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mnist_cnn import cpu

from .machine import command, environment, script
from .report import Kind, Measure, Report, take_turns

ROUNDS = 1
ROUND = "how often each process runs (default: %(default)s)"
KERAS = "plain Keras"
SIZE = Kind("peak in MiB", "times that of", digits=0)
READING = (
    "from mnist_cnn import config; from mnist_cnn.data import datasets; datasets.load(config.DataConfig())"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this benchmark asks besides."""
    parser.add_argument("--epochs", type=int, default=1, metavar="N", help="epochs of a run (default: 1)")
    parser.add_argument(
        "--images", type=int, default=60_000, metavar="N", help="training images (default: all, 60,000)"
    )


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def trained(precision: str) -> Measure:
            def measure() -> list[float]:
                with tempfile.TemporaryDirectory(dir=folder) as home:
                    settings = (
                        "train=tutorial",
                        f"train.precision={precision}",
                        f"train.epochs={arguments.epochs}",
                        f"data.train_limit={arguments.images}",
                        f"run_dir={home}/run",
                    )
                    return [peak(command(*settings))]

            return measure

        def process(words: Sequence[str]) -> Measure:
            return lambda: [peak(words)]

        contestants: dict[str, Measure] = {
            "python -c pass": process([sys.executable, "-c", "pass"]),
            "import numpy": process([sys.executable, "-c", "import numpy"]),
            "reading the data": process([sys.executable, "-c", READING]),
            "import tensorflow": process([sys.executable, "-c", "import tensorflow"]),
            "mnist_cnn, float32": trained("float32"),
            KERAS: process(script("plain_keras.py", str(arguments.epochs), str(arguments.images))),
        }
        missing = {}
        if cpu.computes_bfloat16():
            contestants["mnist_cnn, bfloat16"] = trained("bfloat16")
        else:
            missing["mnist_cnn, bfloat16"] = "not applicable: this processor does not compute it"
        values = take_turns(contestants, arguments.rounds)
    return [Report("memory of whole commands", SIZE, values, (KERAS,), missing)]


def peak(words: Sequence[str]) -> float:
    """Run a process to its end; return the peak resident set of it, or of its largest child, in MiB."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)  # in place of process.wait, which does not tell
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of what ru_maxrss counts in
    return usage.ru_maxrss * unit / 1024**2
