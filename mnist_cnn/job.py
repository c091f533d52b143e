"""The job: a complete, portable description of what to train; job.json is the only form it travels in.

Knows nothing of where it will run: two equal digests train to equal weights on comparable machines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any, Self

from mnist_cnn.config import DataConfig, ModelConfig, RunConfig, TrainConfig, read_section
from mnist_cnn.errors import ConfigurationError

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class Job:
    """What to train. `data.digest` is always set; `model.source` is, where `model.file` is."""

    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    seed: int
    save_h5: bool = False

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of all that decides the trained weights, as canonical JSON.

        Where the data lie, what a model file is called and which files are written do not count.
        """
        decisive = self.as_mapping()
        del decisive["save_h5"], decisive["data"]["dir"], decisive["data"]["name"], decisive["model"]["file"]
        text = json.dumps(decisive, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def as_mapping(self) -> dict[str, Any]:
        """Return the job as JSON holds it, without its digest."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Return job.json's text: the job and its digest."""
        return json.dumps({**self.as_mapping(), "digest": self.digest}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "job.json") -> Self:
        """Read job.json's text; `name` says in an error which file it is.

        Raises:
            ConfigurationError: not JSON, another schema, a bad value, a digest that does not fit.
        """
        hint = "it is no job of this version of mnist_cnn, or it was changed by hand; start a new run"
        try:
            mapping = json.loads(text)
            schema, digest = mapping.pop("schema"), mapping.pop("digest")
            job = cls._from_mapping(mapping) if schema == SCHEMA else None
        except ConfigurationError as error:
            raise ConfigurationError(f"{name}: {error.message}", hint) from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigurationError(f"{name} is not a job: {error!r}", hint) from error
        if job is None:
            raise ConfigurationError(f"{name}: it is not of schema {SCHEMA}", hint)
        if job.digest != digest:
            raise ConfigurationError(f"{name}: its digest does not fit what it says", hint)
        return job

    @classmethod
    def _from_mapping(cls, mapping: dict[str, Any]) -> Self:
        settings = read_section(RunConfig, {"seed": mapping["seed"], "save_h5": mapping["save_h5"]})
        return cls(
            data=read_section(DataConfig, mapping["data"]),
            model=read_section(ModelConfig, mapping["model"]),
            train=read_section(TrainConfig, mapping["train"]),
            seed=settings.seed,
            save_h5=settings.save_h5,
        )
