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
from functools import partial

from mnist_cnn import cpu

from .machine import NO_BFLOAT16, command, environment, python, script
from .report import IMAGES, Metric, Report, number, take_turns

OPTIONS = {
    "--rounds": number(1, "how often each process runs"),
    "--epochs": number(1, "epochs of a run"),
    "--images": IMAGES,
}
KERAS, BFLOAT16 = "plain Keras", "mnist_cnn, bfloat16"
SIZE = Metric("peak in MiB", "times that of", digits=0)
READING = (
    "from mnist_cnn import config; from mnist_cnn.data import datasets; datasets.load(config.DataConfig())"
)


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        settings = (f"train.epochs={arguments.epochs}", f"data.train_limit={arguments.images}")
        trained = command("train=tutorial", *settings, f"runs_dir={name}")
        processes = {
            "python -c pass": python("pass"),
            "import numpy": python("import numpy"),
            "reading the data": python(READING),
            "import tensorflow": python("import tensorflow"),
            "mnist_cnn, float32": [*trained, "train.precision=float32"],
            KERAS: script("plain_keras.py", str(arguments.epochs), str(arguments.images)),
            BFLOAT16: [*trained, "train.precision=bfloat16"],
        }
        missing = {} if cpu.computes_bfloat16() else {BFLOAT16: NO_BFLOAT16}
        contestants = {name: partial(peak, processes[name]) for name in processes if name not in missing}
        values = take_turns(contestants, arguments.rounds)
    return [Report("memory of whole commands", SIZE, values, (KERAS,), missing)]


def peak(words: Sequence[str]) -> list[float]:
    """Run a process; return the peak resident set of it or its largest child, in MiB."""
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    _, status, usage = os.wait4(process.pid, 0)  # process.wait does not return the usage
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with exit code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss, in bytes
    return [usage.ru_maxrss * unit / 1024**2]
