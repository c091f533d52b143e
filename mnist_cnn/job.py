"""The job: a complete, portable description of a training.

It travels as job.json and doesn't say where it runs. Equal digests train to equal weights if the runtimes are
equal; those of exact jobs are, on every machine that can train them.
"""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, Self

from mnist_cnn import migrations, records
from mnist_cnn.config import DataConfig, Keep, ModelConfig, Numerics, RunConfig, TrainConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.settings import read_section, written

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


_ABSENT = {"shards": 1, "stop_patience": None, "keep": Keep.last, "init_sha256": None, "class_weights": None}
"""Values of `train` settings that the digest leaves out."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What to train.

    `data.digest` is always set, `model.source` if `model.file` is, `train.init_sha256` if `train.init` is.
    """

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    seed: int
    save_h5: bool = False

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of what decides the trained weights.

        Hashed as canonical JSON. Not in it: where data and initial weights lie, the name of the model file,
        which files are written when, what is measured, what classes are called, and how pictures became
        arrays. The number of threads is only in it if sums may round.
        """
        return records.digest(self._decisive())

    def has_digest(self, digest: str) -> bool:
        """Return whether a recorded digest is this job's.

        Also accepts the previous schema's digest.
        """
        return digest in (self.digest, records.digest(migrations.downgrade_job(self._decisive())))

    def changes_to(self, now: Job) -> tuple[str, ...]:
        """Describe the changes that affect the weights.

        For example: "train.epochs=20 (was 12)".
        """
        then, values = dict(leaves(self.as_mapping())), dict(leaves(now.as_mapping()))
        before, after = dict(leaves(self._decisive())), dict(leaves(now._decisive()))
        changed = [
            name
            for name, value in values.items()
            if value != then[name] and before.get(name) != after.get(name)
        ]
        return tuple(
            "the text of model.file"
            if name == "model.source"
            else f"{name}={written(values[name])} (was {written(then[name])})"
            for name in changed
        )

    def _decisive(self) -> dict[str, Any]:
        decisive = self.as_mapping()
        del decisive["save_h5"], decisive["model"]["file"]
        for name in ("dir", "name", "class_names", "pictures", "size", "test_fraction"):
            del decisive["data"][name]
        train = decisive["train"]
        del train["checkpoint_every"], train["metrics"], train["init"]
        for name, absent in _ABSENT.items():  # as in jobs of versions without these settings
            if train[name] == absent:
                del train[name]
        if self.train.numerics is Numerics.native:
            del train["numerics"], train["exact_bits"]
        else:
            del train["threads"]
            train["precision"] = train["precision"].for_exact
        return decisive

    def as_mapping(self) -> dict[str, Any]:
        """Return job.json's content without the digest."""
        return {"schema": migrations.SCHEMA, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Return job.json's text."""
        return json.dumps({**self.as_mapping(), "digest": self.digest}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "job.json", *, may_be_changed: bool = False) -> Self:
        """Read job.json's text.

        Raises ConfigurationError, which names the file `name`, if it isn't a job. A wrong digest is an error
        too, unless the job `may_be_changed`.
        """
        hint = "another version wrote it, or it was changed by hand; start a new run"
        try:
            file = records.convert(_JobFile, migrations.upgrade_job(records.decode(text)))
            run = read_section(RunConfig, {"seed": file.seed, "save_h5": file.save_h5})
            data, model = read_section(DataConfig, file.data), read_section(ModelConfig, file.model)
            train = read_section(TrainConfig, file.train)
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error.message}", hint) from error
        except ValueError as error:
            raise ConfigurationError(f"{name} is not a job: {error}", hint) from error
        job = cls(data, model, train, run.seed, run.save_h5)
        if not may_be_changed and not job.has_digest(file.digest):
            raise ConfigurationError(f"{name}: its digest does not match its content", hint)
        return job


@dataclasses.dataclass(frozen=True)
class _JobFile:
    """job.json; its values are checked like the configuration's."""

    data: Any
    model: Any
    train: Any
    seed: Any
    save_h5: Any
    digest: str


def leaves(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested mappings' values with their full keys."""
    for name, value in mapping.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
