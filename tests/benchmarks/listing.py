"""Seconds of `list` and of `status latest` over thousands of runs, as whole processes.

The runs are real folders: copies of one small trained run, whose job, receipt and result differ in each. They
vary in seed and learning rate, so that hardly two jobs are equal. One in ten failed or was cancelled.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status

from .machine import command, python, seconds_of, small_run
from .report import Measure, Metric, Report, number, take_turns

if TYPE_CHECKING:
    from mnist_cnn.job import Job
    from mnist_cnn.receipt import Receipt
    from mnist_cnn.result import Result

OPTIONS = {
    "--runs": number(10_000, "how many runs there are"),
    "--rounds": number(5, "how often each command runs"),
}
SECONDS = Metric("seconds", "times as fast as", less_is_better=True, digits=2)
EPOCHS, PARTS = 12, 3
"""Of the tutorial's training: epochs, and points of its curves in each."""
LINKED = (run_folder.LOG, "model.keras", "model.onnx", "history.png", "confusion.png", "mistakes.png")
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DIFFERENT_ENDS = (Status.failed, Status.cancelled)


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = small_run(folder / "original")
        make_runs(original, folder / "runs", arguments.runs)

        def measured(words: list[str]) -> Measure:
            return lambda: [seconds_of(words, folder)]

        contestants: dict[str, Measure] = {
            "python -c pass": measured(python("pass")),
            "list": measured(command("list")),
            "list status=completed --sort accuracy --limit 10": measured(
                command("list", "status=completed", "--sort", "accuracy", "--limit", "10")
            ),
            "list train.epochs=12 seed=1,2": measured(command("list", "train.epochs=12", "seed=1,2")),
            "list --json": measured(command("list", "--json")),
            "status latest": measured(command("status", "latest")),
        }
        for measure in contestants.values():
            measure()
        values = take_turns(contestants, arguments.rounds)
    return [Report(f"whole processes, {arguments.runs:,} runs", SECONDS, values)]


def make_runs(original: Path, runs_dir: Path, count: int) -> None:
    """Make folders of runs like the original one; what `list` does not read is linked, not copied."""
    job, receipt = run_folder.read_job(original), run_folder.read_receipt(original)
    result = run_folder.result_of(original)
    first = result.history[0]
    parts = {name: getattr(first, name)[:PARTS] for name in ("loss_parts", "accuracy_parts")}
    rows = tuple(dataclasses.replace(first, epoch=epoch + 1, **parts) for epoch in range(EPOCHS))
    for index in range(count):
        created = START + dt.timedelta(minutes=index)
        folder = runs_dir / f"{created:%Y-%m-%dT%H-%M-%SZ}-{index % 65536:04x}"
        (folder / run_folder.CHECKPOINTS).mkdir(parents=True)
        rate = 0.0001 * (1 + index % 9973)
        train = dataclasses.replace(job.train, epochs=EPOCHS, learning_rate=rate)
        own = dataclasses.replace(job, train=train, seed=index % 5)
        ended = Status.completed if index % 10 else DIFFERENT_ENDS[index // 10 % 2]
        _write(
            folder,
            own,
            dataclasses.replace(
                receipt, job_digest=own.digest, created=created.isoformat("T", "microseconds"), status=ended
            ),
            dataclasses.replace(result, job_digest=own.digest, history=rows),
        )
        for name in LINKED:
            if (original / name).exists():
                os.link(original / name, folder / name)


def _write(folder: Path, job: Job, receipt: Receipt, result: Result) -> None:
    texts = {run_folder.JOB: job.to_json(), run_folder.RECEIPT: receipt.to_json()}
    if receipt.status is Status.completed:
        texts[run_folder.RESULT] = result.to_json()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
