"""Resolve the packages of the nodes' images for Linux: python tests/azure/images.py (tox -e images).

The service builds an image when the first run needs it, and takes 20 minutes to find out that its packages
exclude each other. Here uv finds that out in a minute. It installs nothing.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import TYPE_CHECKING

from packaging.requirements import Requirement

from mnist_cnn.backends.azure import plan
from mnist_cnn.backends.azure.config import Sdk

if TYPE_CHECKING:
    from collections.abc import Iterator

PLATFORM = "x86_64-manylinux_2_35"
"""That of the images, which are of Ubuntu 22.04."""
PYTHONS = {Sdk.v1: ("3.11",), Sdk.v2: ("3.11", "3.12", "3.13")}
"""The versions of Python that an image of each SDK may have."""
NEWER_NUMPY = "numpy==2.3.5"
"""A Mac may have it. azureml-dataset-runtime, which older nodes had, refuses it on Linux alone."""
WITHOUT_WHEEL = "antlr4-python3-runtime"
"""What hydra-core requires. It is published as source only."""


def main() -> int:
    """Resolve each list of packages; return 1 if one has no solution."""
    return max([_resolve(name, environment) for name, environment in _environments()])


def _environments() -> Iterator[tuple[str, plan.Environment]]:
    """Yield the environments that a run may need, each with a name."""
    for sdk, pythons in PYTHONS.items():
        for use_gpu in (False, True):
            environment = plan.environment(sdk, use_gpu=use_gpu)
            for python in pythons:
                name = f"SDK {sdk.value}, Python {python}, {environment.image}"
                yield name, dataclasses.replace(environment, python=python)
    environment = plan.environment(Sdk.v1, use_gpu=False)
    packages = [NEWER_NUMPY if Requirement(line).name == "numpy" else line for line in environment.packages]
    yield f"SDK v1, with {NEWER_NUMPY}", dataclasses.replace(environment, packages=tuple(packages))


def _resolve(name: str, environment: plan.Environment) -> int:
    """Resolve a list of packages and print the outcome; return 0 if there is a solution, else 1."""
    command = ["-m", "uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "-"]
    command += ["--python-version", environment.python, "--python-platform", PLATFORM]
    command += ["--only-binary", ":all:", "--no-binary", WITHOUT_WHEEL]
    ended = subprocess.run(
        [sys.executable, *command],
        input="\n".join(environment.packages),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        print(f"{name}: the packages exclude each other", ended.stderr.strip(), sep="\n", flush=True)
        return 1
    print(f"{name}: {len(ended.stdout.splitlines())} packages, no conflict", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
