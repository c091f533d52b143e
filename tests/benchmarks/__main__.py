"""Benchmarks, as commands: `python -m tests.benchmarks epoch [ROUNDS] [EPOCHS]`.

Contestants take turns in one run, so that a machine whose speed drifts is as kind to one as to the other;
what counts is the ratio of medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mnist_cnn import processor

PLAIN = Path(__file__).parent / "plain_keras.py"


def main(arguments: list[str]) -> int:
    """Run the named benchmark and print its table and its JSON."""
    if not arguments or arguments[0] != "epoch":
        print(__doc__)
        return 2
    rounds, epochs = (int(word) for word in [*arguments[1:], *("3", "3")[len(arguments) - 1 :]][:2])
    seconds: dict[str, list[float]] = {"plain Keras": [], "mnist_cnn": []}
    for _ in range(rounds):
        seconds["plain Keras"] += _printed([sys.executable, str(PLAIN), str(epochs)])["seconds"][1:]
        with tempfile.TemporaryDirectory() as folder:
            settings = (f"train.epochs={epochs}", f"run_dir={folder}/run", "--json")
            result = _printed([sys.executable, "-m", "mnist_cnn", *settings])["result"]
        seconds["mnist_cnn"] += [row["seconds"] for row in result["history"]][1:]
    report(seconds)
    return 0


def report(seconds: dict[str, list[float]]) -> None:
    """Print minimum, median and ratio of the epochs' seconds, as a table and as JSON."""
    reference = statistics.median(seconds["plain Keras"])
    print(f"{'seconds per epoch':<18} {'minimum':>8} {'median':>8} {'times as fast':>14}")
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<18} {min(values):8.1f} {median:8.1f} {reference / median:14.2f}")
    machine = {"processor": processor.description(), "count": processor.count()}
    print(json.dumps({"machine": machine, "seconds_per_epoch": seconds}))


def _printed(command: list[str]) -> dict[str, Any]:
    """Run a contestant and return the JSON that it prints at its end."""
    ended = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    printed: dict[str, Any] = json.loads(ended.stdout)
    return printed


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
