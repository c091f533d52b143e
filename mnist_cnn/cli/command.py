"""A parsed command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from mnist_cnn.errors import ConfigurationError
from mnist_cnn.hints import command_line, see_the_runs

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.config import Config


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
        from mnist_cnn import compose

        return compose.load(self.overrides, self.config_dirs)

    def allow_only(self, *groups: str) -> None:
        """Refuse settings that the command would ignore.

        The command takes only these groups and keys. Raises ConfigurationError.
        """
        from mnist_cnn import compose

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
        from mnist_cnn import launch

        return launch.find(self.run_argument(), self.overrides, self.config_dirs)

    def run(self) -> Run:
        """Return the run of the RUN argument."""
        from mnist_cnn import launch

        return launch.attach_to(self.folder(), self.overrides, self.config_dirs)

    def run_config(self) -> Config:
        """Return the configuration for the RUN argument's run."""
        from mnist_cnn import launch

        return launch.config_of_run(self.folder(), self.overrides, self.config_dirs)

    def refuse_arguments(self) -> None:
        if self.words:
            from mnist_cnn.cli import corrections

            hint = corrections.hint(self.words[0], self.words[1:])
            raise ConfigurationError(f"{self.name} takes no argument {self.words[0]}", hint)
