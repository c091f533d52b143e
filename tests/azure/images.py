"""Resolve the packages of the node's images for Linux: python tests/azure/images.py (tox -e images).

The service builds an image when the first run needs it, and takes 20 minutes to find out that its packages
exclude each other. Here pip finds that out in a minute. It installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement

from mnist_cnn.backends.azure import plan

GLIBC = 35
"""The minor version of glibc 2 in the images, which are of Ubuntu 22.04."""
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(5, GLIBC + 1)]
PLATFORMS += [f"manylinux{year}_x86_64" for year in (1, 2010, 2014)]
NEWER_NUMPY = "numpy==2.3.5"
"""A Mac may have it. azureml-dataset-runtime, which older nodes had, refuses it on Linux alone."""
WITHOUT_WHEEL = "antlr4-python3-runtime==4.9.3"
"""What hydra-core requires. It is published as source only, which pip refuses for another platform."""


def main() -> int:
    """Resolve each list of packages; return 1 if one has no solution."""
    if (sys.platform, sys.version_info[:2]) != ("linux", (3, 11)):
        print("pip reads conditions such as sys_platform for this machine: use Python 3.11 on Linux")
        return 1
    cpu, gpu = (plan.environment(use_gpu=use_gpu) for use_gpu in (False, True))
    newer = tuple(NEWER_NUMPY if Requirement(line).name == "numpy" else line for line in cpu.packages)
    wanted = {cpu.image: cpu.packages, f"{cpu.image}, with {NEWER_NUMPY}": newer, gpu.image: gpu.packages}
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder)
        _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), WITHOUT_WHEEL)
        return max(_resolve(name, packages, wheels) for name, packages in wanted.items())


def _resolve(name: str, packages: tuple[str, ...], wheels: Path) -> int:
    """Resolve a list of packages and print the outcome; return 0 if there is a solution, else 1."""
    report = wheels / "report.json"
    target = [word for platform in PLATFORMS for word in ("--platform", platform)]
    target += ["--python-version", "3.11", "--implementation", "cp", "--only-binary", ":all:"]
    ended = _pip(
        *("install", "--dry-run", "--ignore-installed", "--target", str(wheels / "nothing")),
        *("--find-links", str(wheels), "--report", str(report), *target, *packages),
    )
    if ended.returncode:
        print(f"{name}: pip finds no solution", ended.stderr.strip(), sep="\n")
        return 1
    print(f"{name}: {len(json.loads(report.read_text())['install'])} packages, no conflict", flush=True)
    return 0


def _pip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *words], capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    raise SystemExit(main())
