"""The weights of small exact jobs on this processor and on QEMU's, compared with tests/golden.json.

`tox` makes the same comparison on the processor that it runs on. The file also names the processors that have
agreed. If the numbers change on purpose, or for another version of TensorFlow, write it again:

    python -m tests.benchmarks golden --write --emulate Haswell Skylake-Server EPYC-Rome
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

from . import processors
from .comparison import Comparison
from .machine import CommandError
from .report import print_progress

FILE = Path(__file__).parent.parent / "golden.json"
WRITE = "python -m tests.benchmarks golden --write"
OPTIONS: dict[str, dict[str, Any]] = {
    "--emulate": {
        "nargs": "+",
        "default": [],
        "metavar": "MODEL",
        "help": "also run on these processors of QEMU's, which takes minutes each",
    },
    "--write": {
        "action": "store_true",
        "help": "replace the weights if this processor's differ, and add the processors that agree",
    },
}

SMALL = (
    "train.numerics=exact data.train_limit=100 data.test_limit=20 train.batch_size=27 train.epochs=2 "
    "train.learning_rate=0.01"
)
ADADELTA = "train.optimizer=adadelta train.learning_rate=1"
AUGMENTED = "train.rotation=10 train.zoom=0.1 train.shear=0.1 train.shift=2 train.unaugmented_epochs=1"
BFLOAT16 = "train.precision=bfloat16"
JOBS = {
    "tutorial": f"{SMALL} {ADADELTA} {BFLOAT16}",
    "tutorial, float32": f"{SMALL} {ADADELTA}",
    "channels first": f"{SMALL} train.optimizer=sgd data.format=channels_first {BFLOAT16}",
    "compact": (
        f"{SMALL} model=compact train.optimizer=adam train.schedule=one_cycle train.label_smoothing=0.05 "
        f"{AUGMENTED} {BFLOAT16}"
    ),
    "compact, channels first": (
        f"{SMALL} model=compact train.optimizer=adamw data.format=channels_first "
        "train.loss=sparse_categorical_crossentropy"
    ),
    "deep": f"{SMALL} model=deep train.optimizer=rmsprop model.conv_dropout=0.1 {BFLOAT16}",
    "deep, augmented": (f"{SMALL} model=deep train.optimizer=adam train.label_smoothing=0.1 {AUGMENTED}"),
}
"""Settings by name: each network and each optimizer. The last of the four batches of an epoch is smaller."""


@dataclasses.dataclass(frozen=True)
class Golden:
    """The expected `weights_sha256` of each job, and the processors that agreed, with their kernels."""

    weights: Mapping[str, str]
    processors: tuple[str, ...] = ()

    @classmethod
    def read(cls, tensorflow: str, file: Path = FILE) -> Self | None:
        """Read the entry of a version of TensorFlow; return None if there is none."""
        entry = _read(file).get(tensorflow)
        return None if entry is None else cls(entry["weights"], tuple(entry["processors"]))

    def write(self, tensorflow: str, file: Path = FILE) -> None:
        """Write the entry of a version of TensorFlow."""
        entries = {**_read(file), tensorflow: dataclasses.asdict(self)}
        file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")

    def joined_by(self, processor: str, weights: Mapping[str, str]) -> Golden:
        """Return the entry with a processor added, if it agrees."""
        if weights != self.weights:
            return self
        return Golden(self.weights, tuple(sorted({*self.processors, processor})))


def _read(file: Path) -> dict[str, Any]:
    entries: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return entries


def run(arguments: argparse.Namespace) -> list[Comparison]:
    """Train the jobs on each processor; after each, write the file if that is asked for."""
    listed = golden = Golden.read(version("tensorflow"))
    found: dict[str, processors.Hashes] = {}
    failed: dict[str, str] = {}
    for model in (None, *arguments.emulate):
        processor = processors.emulated_name(model) if model else processors.name()
        print_progress(processor)
        try:
            found[processor] = processors.hashes(JOBS, model)
        except CommandError as error:
            failed[processor] = str(error)
            if model is None:  # there is nothing to compare the others to
                break
            continue
        golden = agreed(listed, found, may_replace=arguments.write)
        if arguments.write:
            golden.write(version("tensorflow"))
    expected = golden.weights if golden else {}
    return [Comparison(f"weights of {len(JOBS)} small exact jobs", expected, found, failed=failed)]


def agreed(listed: Golden | None, found: Mapping[str, processors.Hashes], *, may_replace: bool) -> Golden:
    """Return the listed entry with the processors that agree; begin a new one if there is none.

    The first of `found` is this processor; if its weights differ, they may replace the listed ones.
    """
    first = next(iter(found.values())).weights
    golden = listed or Golden(first)
    if may_replace and golden.weights != first:
        golden = Golden(first)
    for processor, hashes in found.items():
        golden = golden.joined_by(f"{processor}, {hashes.kernels} kernels", hashes.weights)
    return golden
