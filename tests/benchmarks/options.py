"""Options of the benchmarks' command line, as keyword arguments of `ArgumentParser.add_argument`."""

from __future__ import annotations

import argparse
from typing import Any


def number(default: int, about: str) -> dict[str, Any]:
    """Return an option that takes a whole number above 0."""
    return {"type": count, "default": default, "metavar": "N", "help": f"{about} (default: %(default)s)"}


def count(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")
    return int(text)


IMAGES = number(60_000, "number of training images")
