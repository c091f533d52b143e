"""Processors: this one, and QEMU's, which run the same program as another model would."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_cnn.training import runtime

from .machine import NotInstalledError, environment, printed, run, script

QEMU = "qemu-x86_64"
INSTALL_QEMU = f"{QEMU} is not installed; on Debian and Ubuntu: apt-get install qemu-user"
MODELS = ("Haswell", "Skylake-Server", "EPYC-Rome")
FLAGS = "avx avx2 f16c fma"
"""The instruction sets of these models that QEMU emulates. It has no AVX-512."""


@dataclasses.dataclass(frozen=True)
class Hashes:
    """The `weights_sha256` of each job by its name, and the kernels that computed them."""

    kernels: str
    weights: Mapping[str, str]


def hashes(
    jobs: Mapping[str, str],
    model: str | None = None,
    variables: Mapping[str, str] | None = None,
    options: Sequence[str] = (),
) -> Hashes:
    """Train jobs in one process and return their hashes. Raises CommandError if the process fails.

    `jobs` are settings by name. `model` is a processor of QEMU's, None is this one. `variables` are those of
    the environment that choose kernels; others that do are unset. `options` are those of weights.py.
    """
    words = script("weights.py", *options, *jobs.values())
    changed = {**neutral_environment(), **(variables or {})}
    answer = _printed_by(model, words, changed) if model else printed(words, env=changed)
    return Hashes(answer["kernels"], {name: answer["weights"][settings] for name, settings in jobs.items()})


def neutral_environment() -> dict[str, str]:
    """Return this environment without the variables that choose kernels."""
    return {name: value for name, value in environment().items() if name not in runtime.VARIABLES}


def _printed_by(model: str, words: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
    if shutil.which(QEMU) is None:
        raise NotInstalledError(INSTALL_QEMU)
    with tempfile.TemporaryDirectory() as folder:
        # QEMU looks for each file in this folder first, which hides the real processor's description.
        cpuinfo = Path(folder) / "proc" / "cpuinfo"
        cpuinfo.parent.mkdir()
        cpuinfo.write_text(f"model name\t: {model}\nflags\t\t: {FLAGS}\n", encoding="utf-8")
        return printed([QEMU, "-L", folder, "-cpu", model, *words], env=variables)


def name() -> str:
    """Return this processor's name, with family and model: many models are called AMD EPYC."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(encoding="utf-8") if cpuinfo.exists() else ""
    values = dict(re.findall(r"^(cpu family|model|model name)\s*: (.*)$", text, re.MULTILINE))
    if "model name" not in values:
        return f"unknown processor ({sys.platform})"
    return f"{values['model name']} (family {values['cpu family']}, model {values['model']})"


def emulated_name(model: str) -> str:
    """Return the name of one of QEMU's processors, with QEMU's version if it is installed."""
    words = run([QEMU, "--version"]).stdout.split() if shutil.which(QEMU) else []
    return f"{model} (emulated by QEMU{f' {words[2]}' if words else ''})"
