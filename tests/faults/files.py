"""Damages each kind of file that the product reads, in thousands of ways.

The product must read the file correctly or report an error: no traceback, no hang, no crash, no more memory
than its limit, and no wrong array. IDX files are compared with an independent reader. Prints a table and
exits with 1 if a promise was broken; the files that broke it are kept; --kind, --seed and --only repeat
them.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import print_progress, table

from mnist_cnn import run_folder

from . import trial
from .ledger import add_shard
from .readers import KINDS

INPUTS = 100_000
TINY = (
    *("data.train_limit=200", "data.test_limit=100", "train.epochs=2"),
    *("model.filters=[2]", "model.dense_units=4"),
)
"""Settings of a run with small files."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this matrix's arguments."""
    parser.add_argument(
        "--inputs",
        type=int,
        default=INPUTS,
        metavar="N",
        help="IDX files; other kinds get a share of this number (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="decides every input (default: %(default)s)"
    )
    add_shard(parser)
    parser.add_argument(
        "--kind", action="append", choices=list(KINDS), metavar="KIND", help="run only this kind"
    )
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run only this input")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path("bad-files"),
        metavar="FOLDER",
        help="folder for the files that broke a promise (default: %(default)s)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Test every kind; print a table and the faults; return 1 if there are any."""
    outcomes = []
    with tempfile.TemporaryDirectory() as home:
        sound = tiny_run(Path(home) / "run")
        for kind in chosen.kind or KINDS:
            count = max(1, round(chosen.inputs * KINDS[kind].share))
            indices = range(chosen.shard.number - 1, count, chosen.shard.count)
            if chosen.only is not None:
                indices = range(chosen.only, chosen.only + 1)
            outcomes.append(trial.run_trial(kind, indices, chosen.seed, sound, chosen.kept.absolute()))
            print_progress("  ".join(row(outcomes[-1])))
    print(table(HEADS, [row(outcome) for outcome in outcomes]))
    for outcome in outcomes:
        for index, fault in outcome.faults.items():
            print(f"\n{outcome.kind} {index}: {fault}")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def tiny_run(folder: Path) -> Path:
    """Train a small run in `folder`; return it."""
    command = [sys.executable, "-P", "-m", "mnist_cnn", *TINY, f"run_dir={folder}", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    for picture in folder.glob("*.png"):  # a quarter of a megabyte, and never read
        picture.unlink()
    result = run_folder.result_of(folder)
    files = {name: entry for name, entry in result.files.items() if not name.endswith(".png")}
    (folder / "result.json").write_text(dataclasses.replace(result, files=files).to_json())
    return folder


HEADS = ("kind of file", "inputs", "faults", "seconds", "slowest", "MiB", "limit", "ends")


def row(outcome: trial.Outcome) -> list[str]:
    """Return a kind's cells of the table."""
    ends = ", ".join(f"{end} {count}" for end, count in outcome.ends.most_common())
    limit = KINDS[outcome.kind].mebibytes
    figures = (f"{outcome.seconds:.0f}", f"{outcome.slowest:.2f}", outcome.mebibytes, limit)
    return [outcome.kind, *map(str, (outcome.inputs, len(outcome.faults), *figures)), ends]
