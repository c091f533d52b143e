"""How a run ended, as far as the service's answers tell it. Answers are as recorded from the real one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helpers.azure_commands import SDK_TESTS, refused, submissions, train

from mnist_cnn.errors import TrainingError

if TYPE_CHECKING:
    from pathlib import Path

    from loopback import AzureService

pytestmark = SDK_TESTS


def test_a_trainer_that_ends_silently_has_failed(azure: AzureService, tmp_path: Path) -> None:
    """The log has no error, and the run's error does not name the service's reason: a warning does."""
    (tmp_path / "net.py").write_text("def build(*_):\n    raise SystemExit(3)\n")
    ended = train(azure, tmp_path, "model.file=net.py", "run_dir=run")
    refused(ended, TrainingError.exit_code, "User program failed with SystemExit: 3", "resume run")
    assert submissions(azure) == 1
