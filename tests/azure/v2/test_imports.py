"""Which packages commands import, because the large ones take seconds. Each command runs in a process."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from helpers.azure_commands import TINY, V2_TESTS, chosen_v2
from helpers.records import write_receipt

from mnist_cnn.backend import Status

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = V2_TESTS
CODE = """
import sys
from mnist_cnn.cli.main import main
code = main(sys.argv[1:])
large = ("azure.ai.ml", "azureml", "mlflow", "pandas", "tensorflow")
print(code, *(name for name in large if name in sys.modules))
"""


def imported(folder: Path, *arguments: str) -> str:
    """Run a command; return its exit code, and which of the large packages it has imported."""
    line = [sys.executable, "-P", "-c", CODE, *arguments]
    ended = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=200)
    assert ended.stdout, ended.stderr
    return ended.stdout.splitlines()[-1]


def test_what_sends_nothing_imports_no_large_package(azure: AzureService, tmp_path: Path) -> None:
    write_receipt(tmp_path / "runs" / "old", Status.failed, backend="azure", backend_settings={"sdk": "v2"})
    for arguments in (("plan", *chosen_v2(azure)), ("status", "old"), ("list",)):
        assert imported(tmp_path, *arguments) == "0", arguments


def test_a_submission_imports_its_own_sdk_alone(azure: AzureService, tmp_path: Path) -> None:
    azure.clusters.behave(full=True)
    submit = (*chosen_v2(azure), *TINY, "backend.queue_timeout=1", "run_dir=run")
    assert imported(tmp_path, *submit) == "4 azure.ai.ml"
