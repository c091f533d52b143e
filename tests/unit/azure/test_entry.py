"""The node's script, without a training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

from mnist_cnn import launch
from mnist_cnn.backends.azure import entry, plan
from mnist_cnn.training import train

if TYPE_CHECKING:
    import pytest


def test_the_node_passes_on_what_its_arguments_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = Mock()
    monkeypatch.setattr(train, "train", trained)
    monkeypatch.setenv("AZUREML_RUN_ID", "mnist_1")
    monkeypatch.chdir(tmp_path)
    given = {"job": plan.encode(launch.make_job("seed=3")), "device": "gpu", "force": "true"}
    folders = {"data_folder": tmp_path / "data", "checkpoints": tmp_path / "kept"}
    entry._train(argparse.Namespace(**given, **folders), Mock())  # noqa: SLF001 - main needs the service
    (job, outputs), options = trained.call_args
    assert (job.seed, job.data.dir, outputs) == (3, str(tmp_path / "data"), Path("outputs"))
    assert (options["device"], options["force"], options["run_name"]) == ("gpu", True, "mnist_1")
    assert options["checkpoints"].folder == tmp_path / "kept"
