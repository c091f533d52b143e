"""The command line: a matrix runs its cases, prints a table and exits with 1 if a promise was broken."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).parent.parent
sys.path += [str(TESTS), str(TESTS / "azure")]  # for the tests' helpers and the loopback service

from . import __doc__ as description  # noqa: E402
from . import every_request, files, kills, workers  # noqa: E402

MATRICES = {"requests": every_request, "files": files, "kills": kills, "workers": workers}


def main(arguments: list[str]) -> int:
    """Run the named matrix; return the exit code."""
    chosen = parser().parse_args(arguments)
    try:
        code: int = MATRICES[chosen.matrix].run(chosen)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return code


def parser() -> argparse.ArgumentParser:
    """Return a parser with a command for each matrix."""
    whole = argparse.ArgumentParser(prog="python -m tests.faults", description=description)
    commands = whole.add_subparsers(dest="matrix", required=True, metavar="NAME")
    for name, module in MATRICES.items():
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
