"""What a node does when its machine asks it to stop."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from helpers.processes import SMALL

import mnist_cnn
from mnist_cnn import launch
from mnist_cnn.backends.remote import node
from mnist_cnn.errors import RunCancelled
from mnist_cnn.training.checkpoint import MountedCheckpoints

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable


def test_sigterm_ends_a_training_at_the_end_of_its_epoch(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    """It writes a checkpoint, although none is due."""
    job = launch.make_job(*SMALL, "train.epochs=500", "train.checkpoint_every=400")
    data = Path(mnist_cnn.__file__).parent / "data" / "mnist"
    words = node.arguments(job, str(data), str(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints").mkdir()
    training = started(sys.executable, "-P", "-m", node.__name__, *words, "--finish-epoch", "true")
    assert training.stdout is not None
    printed: list[str] = []
    for line in training.stdout:
        if line.startswith(node.EPOCH) and not any(before.startswith(node.EPOCH) for before in printed):
            training.send_signal(signal.SIGTERM)
        printed.append(line)
    assert training.wait() == 1
    rows = [line for line in printed if line.startswith(node.EPOCH)]
    (failure,) = (line for line in printed if line.startswith(node.FAILURE))
    ended = json.loads(failure.removeprefix(node.FAILURE))
    assert ended["exit_code"] == RunCancelled.exit_code
    assert f"stopped after epoch {len(rows)} of 500" in ended["error"]
    found = MountedCheckpoints(tmp_path / "checkpoints").newest()
    assert found is not None
    assert len(found.history) == len(rows)
