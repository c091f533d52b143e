"""The table of commands and flags. A command's code is imported when it is called."""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command


@dataclasses.dataclass(frozen=True)
class Entry:
    """A command as `--help` shows it, and its function.

    `function` is `module:function` within `mnist_cnn.cli`. `examples` follow the command's name. `flags` are
    those that only some commands take: the name of the value, or "" if it has none, and the flag's meaning. A
    command that `only_reads` has nothing left to do when the reader of its output has gone.
    """

    meaning: str
    function: str
    words: str = ""
    examples: Sequence[str] = ("",)
    flags: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    only_reads: bool = False

    def __call__(self, command: Command) -> int:
        """Do the command; return its exit code."""
        code: int = pkgutil.resolve_name(f"mnist_cnn.cli.{self.function}")(command)
        return code


COMMANDS: dict[str, Entry] = {
    "train": Entry(
        "train here or on backend=NAME; the default",
        "commands:train",
        examples=("train=quick", "backend=azure train.epochs=3 seed=1"),
    ),
    "plan": Entry(
        "print what would be trained and where; starts nothing",
        "commands:plan",
        examples=("train=quick", "--multirun seed=1,2 model=cnn,deep"),
        only_reads=True,
    ),
    "list": Entry(
        "list the runs; KEY=VALUE shows only those that match",
        "listing:list_runs",
        examples=("status=completed --sort accuracy --limit 5", "train.optimizer=adam,adamw"),
        flags={
            "--sort": ("KEY", "order by accuracy, loss, seconds, created or a setting"),
            "--reverse": ("", "reverse the order"),
            "--limit": ("N", "only the first N"),
        },
        only_reads=True,
    ),
    "status": Entry("print a run's status", "commands:status", "RUN", ("latest",), only_reads=True),
    "follow": Entry("watch a run until it ends", "commands:follow", "RUN", ("latest",), only_reads=True),
    "cancel": Entry("stop a run", "commands:cancel", "RUN", ("latest",)),
    "resume": Entry(
        "resume a run, or add epochs to a completed one",
        "commands:resume",
        "RUN",
        ("latest", "latest train.epochs=20"),
    ),
    "compare": Entry(
        "show what differs between runs, and draw their curves",
        "comparison:compare",
        "RUN RUN...",
        ("3f9c 7a21",),
        {"--picture": ("FILE", "where to draw the curves (default: comparison.png)")},
        only_reads=True,
    ),
    "logs": Entry(
        "print a run's whole log",
        "viewing:logs",
        "RUN",
        ("latest --follow",),
        {"--follow": ("", "keep printing until the run has ended")},
        only_reads=True,
    ),
    "open": Entry(
        "open a run's page or its pictures in the browser",
        "viewing:open_run",
        "RUN",
        ("latest",),
        only_reads=True,
    ),
    "delete": Entry(
        "delete runs that have ended; asks first",
        "deletion:delete",
        "RUN...",
        ("3f9c 7a21 --yes",),
        {
            "--yes": ("", "don't ask"),
            "--keep-checkpoints": ("", "keep their checkpoints in the cluster's store"),
        },
    ),
    "search": Entry(
        "find the best settings in ranges such as KEY=A,B",
        "search:search",
        examples=(
            "train=balanced data.validation=5000 'train.learning_rate=interval(0.001,0.1)'",
            "data.validation=5000 train.optimizer=adam,sgd search.trials=10",
        ),
    ),
    "register": Entry(
        "register a run's model under register.name",
        "commands:register",
        "RUN",
        ("latest register.name=mnist-cnn",),
    ),
    "report": Entry(
        "write a run's page: one HTML file to read and to share",
        "run_page:report",
        "RUN",
        ("latest --output page.html",),
        {"--output": ("FILE", "where to write it (default: RUN/report.html)")},
    ),
    "predict": Entry(
        "recognise digits in pictures, folders, or stdin (-)",
        "predict:predict",
        "RUN IMAGE...",
        ("latest digit.png", "latest scans --csv"),
        {"--csv": ("", "print a row for each picture, as CSV")},
        only_reads=True,
    ),
    "export": Entry(
        "write a run's model in another format",
        "export:export",
        "RUN",
        ("latest --litert model.tflite", "latest --web page"),
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
        ("latest --port 8080",),
        {
            "--host": ("ADDRESS", "where to listen; default 127.0.0.1, this machine only"),
            "--port": ("PORT", "default 8000; 0 takes any free one"),
        },
    ),
    "cluster": Entry(
        "show a cluster and its costs, or delete it",
        "commands:cluster",
        "show|delete",
        ("show backend=azure",),
    ),
    "help": Entry(
        "explain a command, a group of settings or a setting",
        "help:show",
        "[TOPIC]",
        ("settings", "train", "train.epochs"),
        only_reads=True,
    ),
}
FLAGS = {
    "--multirun": "run every combination of the values in KEY=A,B",
    "--config-dir FOLDER": "add options for the groups from a folder like conf/",
    "--json": "print the result as JSON, and progress on stderr",
    "--cfg job": "print the whole configuration as YAML",
    "--shell-completion": "install=bash prints what the Tab key needs in bash",
    "--version": "print the version",
    "--help": "explain the command, or list all",
}
"""The flags that every command line may have."""
TAKE_RUN = tuple(name for name, entry in COMMANDS.items() if entry.words.startswith("RUN"))
