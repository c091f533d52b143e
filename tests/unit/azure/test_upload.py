"""Which files are sent to the datastore, and which checkpoints are downloaded from it.

The datastore is a stand-in.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
from helpers.sdk_fakes import FakeContainer

from mnist_cnn import launch
from mnist_cnn.backends.azure import store
from mnist_cnn.backends.azure.store import BlobFiles, missing
from mnist_cnn.backends.remote import checkpoints
from mnist_cnn.backends.remote.snapshot import SentFile
from mnist_cnn.result import EpochRow
from mnist_cnn.training import checkpoint
from mnist_cnn.training.runtime import Runtime

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_a_file_whose_content_has_changed_is_sent_again(tmp_path: Path) -> None:
    """Its length may be the same: raw IDX files of one shape have one length."""
    contents = {"same": b"1234", "changed": b"1234", "longer": b"12345", "new": b"1234"}
    files = []
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        files.append(SentFile(name, tmp_path / name, len(content)))
    container = FakeContainer(**{"mnist/same": b"1234", "mnist/changed": b"4321", "mnist/longer": b"1234"})
    absent = missing(BlobFiles(container, SimpleNamespace), "mnist", files)
    assert [file.name for file in absent] == ["changed", "longer", "new"]


def test_the_progress_of_a_file_says_which(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "REPORT_SECONDS", 0.0)
    BlobFiles(FakeContainer(), SimpleNamespace).put("mnist-cnn-code/1/train.py", b"1234")
    assert capsys.readouterr().err == "sent 100% of mnist-cnn-code/1/train.py\n"


def test_a_damaged_checkpoint_on_the_store_does_not_count(tmp_path: Path) -> None:
    job = launch.make_job("train.epochs=9")
    runtime = Runtime("float32", "cpu", "x86_64", 2, {})
    stored = FakeContainer()
    for epoch in (1, 2, 3, 4):
        rows = tuple(EpochRow(number, 1.0, 0.5, 1.0, 0.5, 1.0, 2.0) for number in range(1, epoch + 1))
        arrays = (np.full((2, 3), epoch, np.float32),)
        path = tmp_path / f"epoch-00000{epoch}.npz"
        checkpoint.write(path, checkpoint.Checkpoint(job, runtime, rows, arrays, checkpoint.generators()))
        stored.blobs[f"c/{path.stem}-0.npz"] = content = path.read_bytes()
        stored.blobs[f"c/{path.stem}-0.sha256"] = hashlib.sha256(content).hexdigest().encode()
    stored.blobs["c/epoch-000004-0.npz"] = content[:-1]
    (tmp_path / "run").mkdir()
    checkpoints.download(BlobFiles(stored, SimpleNamespace), "c", tmp_path / "run")
    downloaded = [name for name in stored.read if name.endswith(".npz")]
    assert downloaded == [f"c/epoch-00000{epoch}-0.npz" for epoch in (4, 3, 2)]
    newest = checkpoint.Checkpoints(tmp_path / "run" / "checkpoints").newest()
    assert newest is not None
    assert len(newest.history) == 3
