"""The machine, and the processes that are measured on it."""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mnist_cnn import cpu

PACKAGES = ("mnist-cnn", "tensorflow", "keras", "numpy", "onnxruntime", "hydra-core", "torch")
SMALL = ("data.train_limit=1000", "data.test_limit=500", "train.epochs=1")  # a run that takes seconds
NO_BFLOAT16 = "not applicable: this CPU does not compute bfloat16 natively"


class CommandError(Exception):
    """A measured command failed. The message is its error, which the table shows."""


class NotInstalledError(CommandError):
    """A measured command needs what is not installed. The message says how to install it."""


def description() -> dict[str, Any]:
    """Return the parts of the machine that decide its speed."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    found = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    processor = found.group(1) if found else ""
    versions = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    return {
        "processor": processor or platform.processor() or platform.machine(),
        "features": cpu.description(),
        "count": cpu.count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": versions,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def command(*arguments: str) -> list[str]:
    """Return the command line of `python -m mnist_cnn`, with the installed package."""
    return [sys.executable, "-P", "-m", "mnist_cnn", *arguments]


def python(code: str) -> list[str]:
    """Return the command line that runs Python code."""
    return [sys.executable, "-c", code]


def script(name: str, *arguments: str) -> list[str]:
    """Return the command line of a script in this folder."""
    return [sys.executable, str(Path(__file__).with_name(name)), *arguments]


def environment() -> dict[str, str]:
    """Return this environment, changed so that Python keeps compiled modules."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(words: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run a process to its end, and return what it printed; `settings` are those of `subprocess.run`."""
    settings = {"env": environment(), "stdin": subprocess.DEVNULL, **settings}
    return subprocess.run(words, capture_output=True, text=True, check=False, **settings)


def printed(words: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Run a process, as `run` does, and return the JSON that it prints. Raises CommandError if it fails."""
    ended = run(words, **settings)
    check(ended)
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def check(ended: subprocess.CompletedProcess[str]) -> None:
    """Raise CommandError, with the one line that tells why, if a process failed."""
    if ended.returncode < 0:
        raise CommandError(f"ended by {signal.Signals(-ended.returncode).name}")
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()] or ["no message"]
        raise CommandError(next((line for line in lines if line.startswith("error: ")), lines[-1]))


def seconds_of(words: Sequence[str], folder: Path, codes: Sequence[int] = (0,)) -> float:
    """Return the seconds of a process. Raises CommandError if its exit code is not in `codes`."""
    started = time.perf_counter()
    ended = run(words, cwd=folder)
    seconds = time.perf_counter() - started
    if ended.returncode not in codes:
        raise CommandError(f"{' '.join(words)} ended with exit code {ended.returncode}: {ended.stderr}")
    return seconds


def small_run(folder: Path) -> Path:
    """Train a small run in `folder`; return the folder."""
    printed(command(*SMALL, f"run_dir={folder}", "--json"))
    return folder
