"""Peak memory (largest resident set) of the tutorial's run and its parts.

A run is short by default, because its peak is in its first epoch. If a command starts several processes, the
largest one counts.
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

from .machine import NO_BFLOAT16, command, environment, script
from .options import IMAGES, number
from .report import Measure, Metric, Report, take_turns

OPTIONS = {
    "--rounds": number(1, "how often each process runs"),
    "--epochs": number(1, "epochs of a run"),
    "--images": IMAGES,
}
KERAS = "plain Keras"
SIZE = Metric("peak in MiB", "times that of", digits=0)
READING = (
    "from mnist_cnn import config; from mnist_cnn.data import datasets; datasets.load(config.DataConfig())"
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
            missing["mnist_cnn, bfloat16"] = NO_BFLOAT16
        values = take_turns(contestants, arguments.rounds)
    return [Report("memory of whole commands", SIZE, values, (KERAS,), missing)]


def peak(words: Sequence[str]) -> float:
    """Run a process; return the peak resident set of it or its largest child, in MiB."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)  # process.wait does not return the usage
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes
    return usage.ru_maxrss * unit / 1024**2
