"""`backend=azure` on a tiny job: as a real process, or as the same command within the tests' process."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers.processes import TINY as TINY_JOB
from helpers.processes import Ended, start_command

from mnist_cnn import backends, config, run_folder
from mnist_cnn.backends.azure import checks
from mnist_cnn.backends.azure.config import Sdk
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from loopback import AzureService

FAILS_ON_A_NODE = """
import os
import keras
def build(config, input_shape, num_classes):
    if "AZUREML_RUN_ID" in os.environ:
        raise {error}
    dense = keras.layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), dense])
"""
"""The file of a network that this machine can build."""


def has_sdk(sdk: Sdk) -> bool:
    try:
        checks.check_sdk(sdk)
    except ConfigurationError:
        return False
    return True


SDK_TESTS = [
    pytest.mark.skipif(not has_sdk(Sdk.v1), reason="azureml-sdk is not installed"),
    pytest.mark.usefixtures("azure_environment", "unmeasured"),
    pytest.mark.filterwarnings("ignore"),  # the SDK's own, in this process
]
"""The marks of tests that run the SDK on the loopback service."""
V2_TESTS = [
    pytest.mark.skipif(not has_sdk(Sdk.v2), reason="azure-ai-ml is not installed"),
    *SDK_TESTS[1:],
]
"""The marks of tests that run SDK v2 on the loopback service."""
LOOPBACK_TESTS = SDK_TESTS[1:]
"""The marks of tests that run either SDK on it."""
V1_ONLY = SDK_TESTS[0]
BOTH_SDKS = pytest.mark.parametrize(
    "sdk",
    [
        pytest.param(
            f"backend.sdk={sdk}",
            marks=pytest.mark.skipif(not has_sdk(sdk), reason=f"SDK {sdk} is not installed"),
        )
        for sdk in Sdk
    ],
)
"""Runs a test with each SDK, which `sdk` chooses."""
TINY = (*TINY_JOB, "register.name=null")
"""Overrides of a job that learns next to nothing and is done when TensorFlow is loaded."""
ENDLESS = ("data.train_limit=10000", "train.epochs=10000")
"""Further ones, of a job that is ended before it ends; each of its epochs leaves a checkpoint."""


def chosen(azure: AzureService) -> tuple[str, str]:
    return ("backend=azure", f"backend.workspace={azure.home}")


def chosen_v2(azure: AzureService) -> tuple[str, str, str]:
    return (*chosen(azure), "backend.sdk=v2")


def run_here(*arguments: str, cwd: Path) -> Ended:
    """Run `python -m mnist_cnn ARGUMENTS` in a folder, within this process.

    This process has loaded the SDK already, which takes five seconds. Each command starts without the logins
    and caches of the one before.
    """
    from mnist_cnn.cli.main import main

    forget()
    out, err = io.StringIO(), io.StringIO()
    terminate, report_unraisable = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
    finally:
        signal.signal(signal.SIGTERM, terminate)
        sys.unraisablehook = report_unraisable
    return Ended(code, out.getvalue(), err.getvalue())


def forget() -> None:
    """Forget the logins, workspaces, clusters and uploads of earlier commands in this process."""
    from mnist_cnn.backends.azure import preparation
    from mnist_cnn.backends.azure.v1 import sdk
    from mnist_cnn.backends.azure.v2 import sdk as sdk_v2
    from mnist_cnn.backends.azure.v2 import store as store_v2

    sdk.open_workspace.cache_clear()
    sdk_v2.open_workspace.cache_clear()
    preparation.forget()
    store_v2.forget()


def train(
    azure: AzureService, cwd: Path, *overrides: str, chosen: Callable[..., tuple[str, ...]] = chosen
) -> Ended:
    """Train a tiny job on the cluster, to its end, through the SDK that is chosen."""
    return run_here(*chosen(azure), *TINY, *overrides, cwd=cwd)


def submit(
    azure: AzureService, cwd: Path, *overrides: str, chosen: Callable[..., tuple[str, ...]] = chosen
) -> Ended:
    """Submit a tiny job to a cluster that has no node to give, and stop following it after a second."""
    azure.clusters.behave(full=True)
    return train(azure, cwd, "backend.queue_timeout=1", *overrides, chosen=chosen)


def start(azure: AzureService, cwd: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """Start a real process that trains a tiny job on the cluster."""
    return start_command(*chosen(azure), *TINY, *overrides, cwd=cwd, **environment)


def read_until(text: str, process: subprocess.Popen[str]) -> str:
    """Read a process's stderr up to the line that contains a text; return all of it."""
    assert process.stderr is not None
    read = ""
    while text not in read:
        line = process.stderr.readline()
        assert line, f"{text!r} never came: {read}"
        read += line
    return read


def copy_package(site: Path) -> Path:
    """Copy the installed package into a folder for PYTHONPATH, so that a test can change it."""
    package, ignored = Path(run_folder.__file__).parent, shutil.ignore_patterns("__pycache__")
    copy = site / "mnist_cnn"
    shutil.copytree(package, copy, ignore=ignored)
    for name, folder in (("backends", Path(backends.__file__).parent), ("conf", config.CONF_DIR)):
        shutil.copytree(folder, copy / name, ignore=ignored, dirs_exist_ok=True)
    project = package.parent / "pyproject.toml"
    if project.exists():  # in a checkout, whose requirements are not in an installed package's metadata
        shutil.copy(project, site)
    return copy


def calls(azure: AzureService, method: str, template: str) -> int:
    return len([e for e in azure.requests.exchanges() if e.method == method and template in e.template])


def submissions(azure: AzureService) -> int:
    """Return how many runs were submitted, through either SDK."""
    return calls(azure, "POST", "snapshotrun") + calls(azure, "PUT", "/jobs/")


def succeeded(ended: Ended, *said: str) -> Ended:
    """Check that a command succeeded and reported some texts; return how it ended."""
    assert ended.code == 0, ended.out + ended.err
    for text in said:
        assert text in ended.err, ended.err[-2000:]
    return ended


def refused(ended: Ended, code: int, *said: str) -> None:
    """Check the exit code and parts of the message; no traceback, no secret."""
    assert ended.code == code, ended.out + ended.err
    assert "Traceback" not in ended.out + ended.err
    assert os.environ["AZUREML_SERVICE_PRINCIPAL_PASSWORD"] not in ended.out + ended.err
    for text in said:
        assert text in ended.err, ended.err[-2000:]
