"""The command line: each matrix runs its cases and ends in a table, and in 1 where a promise was broken."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from . import __doc__ as what_they_are

MATRICES = {"requests": "every_request", "files": "files", "kills": "kills"}
"""By the name of each: the module beside this one that has its `add_arguments` and `run`."""


def main(arguments: list[str]) -> int:
    """Run the named matrix. Returns the exit code."""
    modules = loaded()
    chosen = parser(modules).parse_args(arguments)
    try:
        code: int = modules[chosen.matrix].run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def loaded() -> dict[str, ModuleType]:
    """Import all matrices, which find the loopback service and the tests' modules by their own names."""
    tests = Path(__file__).parent.parent
    for folder in (str(tests), str(tests / "azure")):
        if folder not in sys.path:
            sys.path.append(folder)
    return {name: importlib.import_module(f".{module}", __package__) for name, module in MATRICES.items()}


def parser(modules: Mapping[str, ModuleType]) -> argparse.ArgumentParser:
    """Make the parser: a command for each matrix, with what it has to ask."""
    whole = argparse.ArgumentParser(prog="python -m tests.faults", description=what_they_are)
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
