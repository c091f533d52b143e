"""The command line of the benchmarks: each prints tables, and writes JSON where it is asked to."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import __doc__ as what_they_are
from . import azure_cost, checkpoint_cost, epoch, inference, memory, start_up, time_to_accuracy
from .machine import description

BENCHMARKS = {
    "epoch": epoch,
    "time-to-accuracy": time_to_accuracy,
    "start-up": start_up,
    "inference": inference,
    "memory": memory,
    "checkpoint": checkpoint_cost,
    "azure": azure_cost,
}


def main(arguments: list[str]) -> int:
    """Run the named benchmark; print its tables, and write all that was measured where that is asked for."""
    chosen = parser().parse_args(arguments)
    tables = BENCHMARKS[chosen.benchmark].run(chosen)
    for table in tables:
        print(f"\n{table.text()}")
    machine = description()
    print(f"\n{machine['processor']}, {machine['count']} processors ({machine['features']})")
    if chosen.json is not None:
        described = [table.as_mapping() for table in tables]
        measured = {"benchmark": chosen.benchmark, "machine": machine, "tables": described}
        chosen.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    return 0


def parser() -> argparse.ArgumentParser:
    """Make the parser: a command for each benchmark, with what it has to ask."""
    whole = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=what_they_are)
    commands = whole.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        about = str(module.__doc__)
        command = commands.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_argument("--rounds", type=count, default=module.ROUNDS, metavar="N", help=module.ROUND)
        command.add_argument(
            "--json", type=Path, metavar="FILE", help="write every value, with the machine, as JSON"
        )
        module.add_arguments(command)
    return whole


def count(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
