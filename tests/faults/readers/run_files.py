"""Damaged JSON files of the run folder and of a registered model, read by every command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random

from helpers.processes import REGISTER

from mnist_cnn import run_folder
from mnist_cnn.backends.local import LocalBackend
from mnist_cnn.cli.notebook import describe_history
from mnist_cnn.errors import MnistCnnError
from mnist_cnn.terminal.log_stream import describe_progress

from . import mutations
from .given_files import draw_digit
from .reader import Fault, Files, Reader, answer, asked, compose_once, put, refused

REGISTER_RUN = ("register", "run", *REGISTER)


class RunFile(Reader):
    """A JSON file of the folder of a run with a status, read by every command that reads it."""

    COMMANDS: tuple[tuple[str, ...], ...] = (
        ("list", "--json"),
        ("list",),
        ("status", "latest"),
        ("status", "run", "--json"),
        ("report", "run"),
        ("follow", "run"),
        ("resume", "run"),
        REGISTER_RUN,
        ("predict", "run", "digit.png"),
    )

    def __init__(self, run: Path, folder: Path, name: str, status: str | None = None) -> None:
        super().__init__(run, folder)
        # `resume` starts a process that ends at once, instead of a training.
        LocalBackend.command = lambda self, folder: ["true"]  # type: ignore[method-assign]
        compose_once()
        self.name = name
        read = (".json", ".jsonl", ".onnx", ".keras")
        self.sound = {file.name: file.read_bytes() for file in run.iterdir() if file.suffix in read}
        self.sound["progress.json"] = b'{"status": "running", "epoch": 1, "epochs": 2, "step": 1, "steps": 9}'
        if status is not None:
            receipt = json.loads(self.sound["run.json"]) | {"status": status, "exit_code": 5}
            self.sound["run.json"] = json.dumps(receipt).encode()
        draw_digit(folder / "digit.png")
        os.chdir(folder)

    def draw(self, random: Random) -> Files:
        verb = json.dumps(random.choice(self.COMMANDS)).encode()
        return {self.name: mutations.damaged_json(self.sound[self.name], random), "verb": verb}

    def read(self, files: Files) -> str:
        shutil.rmtree(self.folder / "runs", ignore_errors=True)
        shutil.rmtree(self.folder / "models", ignore_errors=True)
        run = self.folder / "runs/run"
        put(run, {**self.sound, "log.txt": b"10:15:00 mnist_cnn x\n", self.name: files[self.name]})
        self._read_directly(run)
        return asked(*json.loads(files["verb"]))

    def _read_directly(self, run: Path) -> None:
        """Read with the functions that a notebook or another program would call."""
        for read in (
            run_folder.read_job,
            run_folder.read_receipt,
            run_folder.read_result,
            lambda folder: describe_history(run_folder.read_history(folder), "test"),
            lambda folder: (found := run_folder.read_progress(folder)) and describe_progress(found),
        ):
            try:
                read(run)
            except MnistCnnError as error:
                refused(error)


class Registered(RunFile):
    """model.json of a registered model, when it predicts or the next version is registered."""

    COMMANDS = (REGISTER_RUN, ("predict", "models/m/1", "digit.png"))

    def __init__(self, run: Path, folder: Path) -> None:
        super().__init__(run, folder, "model.json")
        put(folder / "runs/run", self.sound)
        code, _, said = answer(*REGISTER_RUN)
        if code:
            raise Fault(said)
        self.sound = {file.name: file.read_bytes() for file in (folder / "models/m/1").iterdir()}

    def read(self, files: Files) -> str:
        shutil.rmtree(self.folder / "models")
        put(self.folder / "models/m/1", {**self.sound, "model.json": files["model.json"]})
        return asked(*json.loads(files["verb"]))
