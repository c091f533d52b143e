"""A parsed command line, and the table of commands.

Each command's code is imported when it is called.
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mnist_cnn import compose, launch
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line, did_you_mean, see_the_runs

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.config import Config


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command as `--help` shows it, and its function.

    `function` is `module:function` within `mnist_cnn.cli`. `flags` are those that only some commands take:
    the name of the value, or "" if it has none, and the flag's meaning. A command that `only_reads` has
    nothing left to do when the reader of its output has gone.
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
    "train": Entry("train here or on backend=NAME; the default", "commands:train"),
    "plan": Entry("print what would be trained and where; starts nothing", "commands:plan", only_reads=True),
    "list": Entry(
        "list the runs; KEY=VALUE shows only those that match",
        "listing:list_runs",
        flags={
            "--sort": ("KEY", "order by accuracy, loss, seconds, created or a setting"),
            "--reverse": ("", "reverse the order"),
            "--limit": ("N", "only the first N"),
        },
        only_reads=True,
    ),
    "status": Entry("print a run's status", "commands:status", "RUN", only_reads=True),
    "follow": Entry("watch a run until it ends", "commands:follow", "RUN", only_reads=True),
    "cancel": Entry("stop a run", "commands:cancel", "RUN"),
    "resume": Entry("resume a run, or add epochs to a completed one", "commands:resume", "RUN"),
    "compare": Entry(
        "show what differs between runs, and draw their curves",
        "comparison:compare",
        "RUN RUN...",
        {"--picture": ("FILE", "where to draw the curves (default: comparison.png)")},
        only_reads=True,
    ),
    "logs": Entry(
        "print a run's whole log",
        "viewing:logs",
        "RUN",
        {"--follow": ("", "keep printing until the run has ended")},
        only_reads=True,
    ),
    "open": Entry(
        "open a run's page or its pictures in the browser", "viewing:open_run", "RUN", only_reads=True
    ),
    "delete": Entry(
        "delete runs that have ended; asks first",
        "deletion:delete",
        "RUN...",
        {
            "--yes": ("", "don't ask"),
            "--keep-checkpoints": ("", "keep their checkpoints in the cluster's store"),
        },
    ),
    "search": Entry("find the best settings in ranges such as KEY=A,B", "search:search"),
    "register": Entry("register a run's model under register.name", "commands:register", "RUN"),
    "report": Entry(
        "write a run's page: one HTML file to read and to share",
        "run_page:report",
        "RUN",
        {"--output": ("FILE", "where to write it (default: RUN/report.html)")},
    ),
    "predict": Entry(
        "recognise digits in pictures, folders, or stdin (-)",
        "predict:predict",
        "RUN IMAGE...",
        {"--csv": ("", "print a row for each picture, as CSV")},
        only_reads=True,
    ),
    "export": Entry(
        "write a run's model in another format",
        "export:export",
        "RUN",
        {
            "--saved-model": ("FOLDER", "as TensorFlow's SavedModel, for TensorFlow Serving"),
            "--litert": ("FILE", "as LiteRT (TensorFlow Lite), for small devices"),
            "--web": ("FOLDER", "as a page to draw on, for any web server"),
            "--runtime": ("FOLDER", "onnxruntime-web for --web (default: from npm)"),
        },
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
    "cluster": Entry("show a cluster and its costs, or delete it", "commands:cluster", "show|delete"),
}
FLAGS = ("--multirun", "--config-dir", "--json", "--cfg", "--info", "--help", "--version")
"""The flags that every command line may have."""
TAKE_RUN = tuple(name for name, entry in COMMANDS.items() if entry.words.startswith("RUN"))


def config_dir_words(folders: Iterable[str]) -> list[str]:
    """Return the arguments that add these folders of configuration."""
    return [word for folder in folders for word in ("--config-dir", folder)]


@dataclasses.dataclass(frozen=True)
class Command:
    """A parsed command line.

    `words` are neither flags nor KEY=VALUE. `flags` are those that only this command takes, each with its
    value, or "" if it has none.
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
        """Refuse settings that the command would ignore.

        The command takes only these groups and keys. Raises ConfigurationError.
        """
        for override in self.overrides:
            name = override.lstrip("+~").partition("=")[0]
            if name not in groups and name.partition(".")[0] not in groups:
                keys = [f"{group}.*" if group in (*compose.GROUPS, "register") else group for group in groups]
                raise ConfigurationError(
                    f"{self.name} does not take {override}", f"it takes {', '.join(keys)}"
                )

    def run_argument(self) -> str:
        """Return the command's RUN argument."""
        if len(self.words) != 1 or not self.words[0]:
            wanted = "one RUN" if not any(self.words) else f"one RUN, not {' '.join(self.words)}"
            hint = f"for example {command_line(self.name, 'latest')}; {see_the_runs()}"
            raise ConfigurationError(f"{self.name} needs {wanted}", hint)
        return self.words[0]

    def folder(self) -> Path:
        """Return the folder of the RUN argument."""
        return launch.find(self.run_argument(), self.overrides, self.config_dirs)

    def run(self) -> Run:
        """Return the run of the RUN argument."""
        return launch.attach_to(self.folder(), self.overrides, self.config_dirs)

    def run_config(self) -> Config:
        """Return the configuration for the RUN argument's run."""
        return launch.config_of_run(self.folder(), self.overrides, self.config_dirs)

    def refuse_arguments(self) -> None:
        if self.words:
            hint = did_you_mean(self.words[0], list(COMMANDS), "settings are written KEY=VALUE; see --help")
            raise ConfigurationError(f"{self.name} takes no argument {self.words[0]}", hint)
