"""A parsed command line, and the table of commands. Each command's code is imported when it is called."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnist_cnn import compose, launch
from mnist_cnn.cli import report
from mnist_cnn.config import did_you_mean
from mnist_cnn.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.config import Config


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command as `--help` shows it, and the `module:function` that does it.

    `flags` are those that only some commands take: the name of the value, or "" if it has none, and the
    flag's meaning. A command that `only_reads` has nothing left to do when the reader of its output has gone.
    """

    meaning: str
    function: str
    words: str = ""
    flags: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    only_reads: bool = False

    def __call__(self, command: Command) -> int:
        """Do the command; return its exit code."""
        code: int = pkgutil.resolve_name(f"mnist_cnn.cli.{self.function}")(command)
        return code


COMMANDS: dict[str, Entry] = {
    "train": Entry("train, here or where backend= says; the default", "commands:train"),
    "plan": Entry("print what would be trained and where; writes nothing", "commands:plan", only_reads=True),
    "list": Entry("list the runs: status, accuracy, backend, age", "commands:list_runs", only_reads=True),
    "status": Entry("print a run's status", "commands:status", "RUN", only_reads=True),
    "follow": Entry("watch a run until it ends", "commands:follow", "RUN", only_reads=True),
    "cancel": Entry("stop a run", "commands:cancel", "RUN"),
    "resume": Entry("resume an interrupted run from its last checkpoint", "commands:resume", "RUN"),
    "register": Entry("put a run's model into the registry, as register.name", "commands:register", "RUN"),
    "predict": Entry(
        "recognise the digits in PNG or JPEG pictures", "commands:predict", "RUN IMAGE...", only_reads=True
    ),
    "serve": Entry(
        "serve a run's model over HTTP, with a page to draw on",
        "serve:serve",
        "RUN",
        flags={
            "--host": ("ADDRESS", "where to listen; default 127.0.0.1, this machine only"),
            "--port": ("PORT", "default 8000; 0 takes any free one"),
        },
    ),
    "export": Entry(
        "write the page for a run's model as static files",
        "export:export",
        "RUN",
        flags={
            "--web": ("FOLDER", "a new folder for them; they run the model in the browser"),
            "--runtime": ("FOLDER", "holds onnxruntime-web; without it, npm downloads that"),
        },
    ),
    "cluster": Entry("show a cluster and its costs, or delete it", "commands:cluster", "show|delete"),
}
TAKE_RUN = tuple(name for name, entry in COMMANDS.items() if entry.words.startswith("RUN"))


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line; `words` are neither flags nor KEY=VALUE.

    `flags` are those that only this command takes, each with its value, or "" if it has none.
    """

    name: str
    words: tuple[str, ...]
    overrides: tuple[str, ...]
    config_dirs: tuple[str, ...]
    as_json: bool
    is_multirun: bool
    flags: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def config(self) -> Config:
        """Compose and check the configuration."""
        return compose.load(self.overrides, self.config_dirs)

    def allow_only(self, *groups: str) -> None:
        """Refuse settings that the command would ignore."""
        for override in self.overrides:
            name = override.lstrip("+~").partition("=")[0]
            if name.partition(".")[0] not in groups:
                keys = [group if group in ("runs_dir", "force") else f"{group}.*" for group in groups]
                raise ConfigurationError(
                    f"{self.name} does not take {override}", f"it takes {', '.join(keys)}"
                )

    def run_word(self) -> str:
        """Return the command's RUN argument."""
        if len(self.words) != 1 or not self.words[0]:
            wanted = "one RUN" if not any(self.words) else f"one RUN, not {' '.join(self.words)}"
            hint = f"for example {report.program()} {self.name} latest; `list` shows the runs"
            raise ConfigurationError(f"{self.name} needs {wanted}", hint)
        return self.words[0]

    def folder(self) -> Path:
        """Return the folder of the RUN argument."""
        return launch.find(self.run_word(), self.overrides, self.config_dirs)

    def run(self) -> Run:
        """Return the run of the RUN argument."""
        return launch.attach_to(self.folder(), self.overrides, self.config_dirs)

    def run_config(self) -> Config:
        """Return the configuration for the run of the RUN argument."""
        return launch.config_of_run(self.folder(), self.overrides, self.config_dirs)

    def refuse_words(self) -> None:
        if self.words:
            hint = did_you_mean(self.words[0], list(COMMANDS), "settings are written KEY=VALUE; see --help")
            raise ConfigurationError(f"{self.name} does not take the word {self.words[0]}", hint)
