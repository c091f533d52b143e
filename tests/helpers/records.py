"""Receipts and results of runs that never were, for tests that need no training."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mnist_cnn import launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.receipt import Receipt
from mnist_cnn.result import EpochRow, Result, describe_content

ROW = EpochRow(1, loss=0.5, accuracy=0.9, val_loss=0.4, val_accuracy=0.9, learning_rate=1.0, seconds=1.5)


def write_receipt(folder: Path, status: Status, **values: Any) -> Receipt:
    """Write a run's receipt, by default a local one's, into a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    fixed = {"backend": "local", "id": folder.name, "job_digest": "digest", "created": run_folder.now()}
    receipt = Receipt(status=status, **fixed | values)
    run_folder.write_receipt(folder, receipt)
    return receipt


def write_run(folder: Path, *overrides: str, accuracy: float | None = None, **values: Any) -> Result | None:
    """Write a run of the job that overrides describe: completed if it has an accuracy; return its result.

    `values` are the receipt's, and the result's if it has a field of that name.
    """
    result = write_result(folder, accuracy) if accuracy is not None else None
    job = launch.make_job(*overrides)
    status = values.pop("status", Status.completed)
    fields = {field.name for field in dataclasses.fields(Result)} & values.keys()
    own = {name: values.pop(name) for name in fields}
    write_receipt(folder, status, job_digest=job.digest, **values)
    run_folder.write_job(folder, job)
    if result is not None:
        result = dataclasses.replace(result, job_digest=job.digest, **own)
        (folder / run_folder.RESULT).write_text(result.to_json(), encoding="utf-8")
        run_folder.write_history(folder, result.history)
    return result


def write_result(folder: Path, accuracy: float = 0.9) -> Result:
    """Write the result and the files of a completed run."""
    write_receipt(folder, Status.completed, exit_code=0)
    files = {name: describe_content(name.encode()) for name in ("model.keras", "model.onnx")}
    for name in files:
        (folder / name).write_bytes(name.encode())
    result = Result(
        job_digest="digest",
        accuracy=accuracy,
        loss=0.4,
        history=(ROW,),
        seconds_per_epoch=1.5,
        training_seconds=1.5,
        weights_sha256="0" * 64,
        precision="float32",
        device="cpu",
        processor="x86_64",
        threads=2,
        versions={"keras": "3"},
        files=files,
    )
    (folder / run_folder.RESULT).write_text(result.to_json(), encoding="utf-8")
    return result
