"""The command line: a matrix runs its cases, prints a table and exits with 1 if a promise was broken."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from . import __doc__ as description

MATRICES = {"requests": "every_request", "files": "files", "kills": "kills"}
"""The module of each matrix, with its `add_arguments` and `run`."""


def main(arguments: list[str]) -> int:
    """Run the named matrix; return the exit code."""
    modules = load_matrices()
    chosen = parser(modules).parse_args(arguments)
    try:
        code: int = modules[chosen.matrix].run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def load_matrices() -> dict[str, ModuleType]:
    """Import all matrices; the loopback service and the tests' helpers are put on sys.path first."""
    tests = Path(__file__).parent.parent
    for folder in (str(tests), str(tests / "azure")):
        if folder not in sys.path:
            sys.path.append(folder)
    return {name: importlib.import_module(f".{module}", __package__) for name, module in MATRICES.items()}


def parser(modules: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """Return a parser with a command for each matrix."""
    whole = argparse.ArgumentParser(prog="python -m tests.faults", description=description)
    commands = whole.add_subparsers(dest="matrix", required=True, metavar="NAME")
    for name, module in modules.items():
        about = str(module.__doc__)
        command = commands.add_parser(
            name,
            help=about.splitlines()[0],
            description=about,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
    return whole


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
