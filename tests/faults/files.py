"""Every file may be bad: each kind of file that is read, damaged in thousands of ways.

What must hold: a worded error or the truth. Never a traceback, a hang, a crash, more memory than is stated,
or a wrong array taken for right. IDX files are held against a reader of the test's own. Ends in a table, and
in 1 where a promise was broken; the files that broke it are kept; --kind, --seed and --only try them again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from . import trial
from .ledger import Shard
from .readers import KINDS

if TYPE_CHECKING:
    from .trial import Outcome

INPUTS = 100_000
TINY = (
    *("data.train_limit=200", "data.test_limit=100", "train.epochs=2"),
    *("model.filters=[2]", "model.dense_units=4"),
)
"""Settings of a run whose files are small, and so quickly written and read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what this matrix asks."""
    parser.add_argument(
        "--inputs",
        type=int,
        default=INPUTS,
        metavar="N",
        help="IDX files; of others a share (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="decides every input (default: %(default)s)"
    )
    shard = Shard()
    parser.add_argument(
        "--shard", type=Shard.parse, default=shard, metavar="I/N", help="every Nth input, from the Ith on"
    )
    parser.add_argument(
        "--kind", action="append", choices=list(KINDS), metavar="KIND", help="this kind alone"
    )
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this input alone, with what became of it")
    parser.add_argument(
        "--kept",
        type=Path,
        default=Path("bad-files"),
        metavar="FOLDER",
        help="where faults are kept (default: %(default)s)",
    )


def run(chosen: argparse.Namespace) -> int:
    """Try every kind; print a table and the faults. Returns 1 where there are some."""
    outcomes = []
    with tempfile.TemporaryDirectory() as home:
        sound = tiny_run(Path(home) / "run")
        for kind in chosen.kind or KINDS:
            count = max(1, round(chosen.inputs * KINDS[kind].share))
            indices = (
                [chosen.only]
                if chosen.only is not None
                else list(range(chosen.shard.number - 1, count, chosen.shard.count))
            )
            outcomes.append(trial.try_out(kind, indices, chosen.seed, sound, chosen.kept.absolute()))
            print(row(outcomes[-1]), file=sys.stderr, flush=True)
    print(table(outcomes))
    for outcome in outcomes:
        for index, fault in outcome.faults.items():
            print(f"\n{outcome.kind} {index}: {fault}")
    return 1 if any(outcome.faults for outcome in outcomes) else 0


def tiny_run(folder: Path) -> Path:
    """Train for a moment, into `folder`; return it."""
    command = [sys.executable, "-P", "-m", "mnist_cnn", *TINY, f"run_dir={folder}", "--json"]
    subprocess.run(command, check=True, capture_output=True)
    result = json.loads((folder / "result.json").read_text())
    for picture in folder.glob("*.png"):  # a quarter of a megabyte, and read by nothing
        picture.unlink()
        del result["files"][picture.name]
    (folder / "result.json").write_text(json.dumps(result, indent=2))
    return folder


HEADS = ("kind of file", "inputs", "faults", "seconds", "slowest", "MiB", "of", "ends")


def row(outcome: Outcome) -> str:
    """Return what came of a kind, as a line."""
    ends = ", ".join(f"{end} {count}" for end, count in outcome.ends.most_common())
    figures = (outcome.inputs, len(outcome.faults), f"{outcome.seconds:.0f}", f"{outcome.slowest:.2f}")
    return line((outcome.kind, *figures, outcome.mebibytes, KINDS[outcome.kind].mebibytes, ends))


def line(cells: tuple[object, ...]) -> str:
    """Lay cells out in columns."""
    widths = (14, 8, 7, 8, 8, 6, 6)
    first, *figures = map(str, cells[:-1])
    aligned = (text.rjust(width) for text, width in zip(figures, widths[1:], strict=True))
    return "  ".join((first.ljust(widths[0]), *aligned, str(cells[-1])))


def table(outcomes: list[Outcome]) -> str:
    """Return all that came of it."""
    return "\n".join((line(HEADS), *map(row, outcomes)))
