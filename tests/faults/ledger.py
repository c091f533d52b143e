"""Records finished cases and their outcomes, one line of JSON each, append-only.

A line also names the code that was tested, so that a case counts only for that code.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import re
import threading
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


@dataclasses.dataclass(frozen=True)
class Entry:
    """A finished case: its outcome and its broken promises."""

    case: str
    outcome: str
    broken: tuple[str, ...] = ()
    seconds: float = 0.0
    code: str = ""
    output: str = ""
    """The end of the command's output, if a promise was broken."""


class Ledger:
    """The finished cases in a file, or of this process alone if there is no file."""

    def __init__(self, path: Path | None, code: str, *, any_code: bool = False) -> None:
        self.code = code
        self.recorded: Any = None
        """A JSON value that all cases need."""
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
        for line in text.splitlines():
            with contextlib.suppress(ValueError):  # its process was killed while it wrote the line
                row = json.loads(line)
                if not any_code and row["code"] != code:
                    continue
                if "recorded" in row:
                    self.recorded = row["recorded"]
                else:
                    self._entries[row["case"]] = msgspec.convert(row, Entry)

    def __contains__(self, case: str) -> bool:
        return case in self._entries

    def add(self, entry: Entry) -> None:
        """Record a finished case."""
        entry = dataclasses.replace(entry, code=self.code)
        self._entries[entry.case] = entry
        self._write(dataclasses.asdict(entry))

    def record(self, value: Any) -> None:
        """Record the JSON value that all cases need."""
        self.recorded = value
        self._write({"recorded": value, "code": self.code})

    def _write(self, row: dict[str, Any]) -> None:
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock, self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def entries(self, cases: Iterable[str]) -> list[Entry]:
        """Return the entries of these cases, in their order."""
        return [self._entries[case] for case in cases if case in self._entries]


def digest(*folders: Path) -> str:
    """Return a hash of all files in some folders."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


@dataclasses.dataclass(frozen=True)
class Shard:
    """One of `count` parts of a matrix; a case's part does not depend on the other cases."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise argparse.ArgumentTypeError(f"{text} is not a shard; the second of four is 2/4")
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, case: str) -> bool:
        return zlib.crc32(case.encode()) % self.count == self.number - 1


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Add the argument that chooses a part of the matrix."""
    whole = Shard()
    parser.add_argument("--shard", type=Shard.parse, default=whole, metavar="I/N", help="run one of N parts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a matrix with a ledger."""
    add_shard(parser)
    parser.add_argument(
        "--ledger", type=Path, metavar="FILE", help="record finished cases here; skip those already in it"
    )
    parser.add_argument(
        "--any-code", action="store_true", help="also skip cases that were run with different code"
    )
    parser.add_argument("--only", type=re.compile, metavar="EXPRESSION", help="run only cases that match")


def is_selected(case: str, chosen: argparse.Namespace) -> bool:
    """Return whether the arguments select a case."""
    return case in chosen.shard and (not chosen.only or chosen.only.search(case) is not None)
