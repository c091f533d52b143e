"""Seconds of commands that train nothing, of the trainer's first step, and of bare imports.

Each command is one process, timed from start to end, in a folder with one small run. The trainer is started
by a normal run and cancelled after the first step in progress.json. Each runs once before, uncounted, so that
modules are compiled and files are cached.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from functools import partial
from pathlib import Path

from PIL import Image, ImageDraw

from .machine import command, python, seconds_of, small_run
from .report import Measure, Metric, Report, number, take_turns

OPTIONS = {
    "--rounds": number(7, "how often each command runs"),
    "--no-trainer": {"action": "store_true", "help": "leave out TensorFlow and the trainer, the slowest two"},
}
TENSORFLOW = "import tensorflow"
TRAINER = "trainer, to the end of its first step"
SECONDS = Metric("seconds", "times as fast as", less_is_better=True, digits=3)
POLL_SECONDS = 0.005


def run(arguments: argparse.Namespace) -> list[Report]:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small_run(folder / "runs" / "small")
        digit = Image.new("L", (200, 200), "white")
        ImageDraw.Draw(digit).line([(95, 40), (105, 160)], "black", 14)  # a handwritten 1
        digit.save(folder / "digit.png")

        def measured(words: list[str], *codes: int) -> Measure:
            return lambda: [seconds_of(words, folder, codes or (0,))]

        has_azure = importlib.util.find_spec("azureml") is not None
        azure = ("azureml.core", "azureml.train.estimator") if has_azure else ()
        contestants: dict[str, Measure] = {
            "python -c pass": measured(python("pass")),
            "import hydra": measured(python("import hydra")),
            "import onnxruntime": measured(python("import onnxruntime")),
            **{f"import {name}": measured(python(f"import {name}")) for name in azure},
            "--help": measured(command("--help")),
            "a refused configuration": measured(command("train.epochs=0"), 2),
            "plan": measured(command("plan")),
            "plan train.epochs=3": measured(command("plan", "train.epochs=3")),
            "status latest": measured(command("status", "latest")),
            "list": measured(command("list")),
            "predict latest digit.png": measured(command("predict", "latest", "digit.png")),
        }
        if not arguments.no_trainer:
            contestants[TENSORFLOW] = measured(python("import tensorflow"))
            contestants[TRAINER] = partial(first_step, folder)
        for measure in contestants.values():
            measure()
        values = take_turns(contestants, arguments.rounds)
    return [Report("whole processes", SECONDS, values, (TENSORFLOW,))]


def first_step(folder: Path) -> list[float]:
    """Start the tutorial's run and cancel it after its first step; return the seconds."""
    import mnist_cnn

    with tempfile.TemporaryDirectory(dir=folder) as home:
        job = mnist_cnn.make_job("train=tutorial")
        started = time.perf_counter()
        run = mnist_cnn.submit(job, f"run_dir={home}/run")
        while not run.status().is_final:
            progress = run.progress()
            if progress is not None and progress.step:
                break
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - started
        run.cancel()
    return [seconds]
