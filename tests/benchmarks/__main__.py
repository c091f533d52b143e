"""The benchmarks' command line. Each benchmark prints tables and can write JSON."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import __doc__ as about_benchmarks
from . import (
    azure_cost,
    checkpoint_cost,
    epoch,
    golden,
    identity,
    inference,
    journeys,
    listing,
    memory,
    serving,
    start_up,
    time_to_accuracy,
    tracking_cost,
    workers,
)
from .comparison import Comparison
from .machine import description

BENCHMARKS = {
    "epoch": epoch,
    "time-to-accuracy": time_to_accuracy,
    "start-up": start_up,
    "inference": inference,
    "memory": memory,
    "checkpoint": checkpoint_cost,
    "azure": azure_cost,
    "identity": identity,
    "journeys": journeys,
    "golden": golden,
    "tracking": tracking_cost,
    "workers": workers,
    "serve": serving,
    "list": listing,
}


def main(arguments: list[str]) -> int:
    """Run the named benchmark, print its tables, and write the JSON file if there is one.

    Return the exit code: 1 if weights that must be equal differ.
    """
    chosen = parser().parse_args(arguments)
    tables = BENCHMARKS[chosen.benchmark].run(chosen)
    for table in tables:
        print(f"\n{table.text()}")
    machine = description()
    print(f"\n{machine['processor']}, {machine['count']} CPUs ({machine['features']})")
    if chosen.json is not None:
        described = [table.as_mapping() for table in tables]
        measured = {"benchmark": chosen.benchmark, "machine": machine, "tables": described}
        chosen.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    is_broken = any(isinstance(table, Comparison) and not table.holds for table in tables)
    return int(is_broken)


def parser() -> argparse.ArgumentParser:
    """Return the parser, with a subcommand for each benchmark."""
    whole = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=about_benchmarks)
    commands = whole.add_subparsers(dest="benchmark", required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        about = str(module.__doc__)
        command = commands.add_parser(name, help=about.splitlines()[0], description=about)
        command.formatter_class = argparse.RawDescriptionHelpFormatter
        for flag, settings in module.OPTIONS.items():
            command.add_argument(flag, **settings)
        saved = "write all measured values, and the machine, as JSON"
        command.add_argument("--json", type=Path, metavar="FILE", help=saved)
    return whole


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
