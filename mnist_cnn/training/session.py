"""A training's state from its newest checkpoint on.

It is the history, the weights that it keeps, and its checkpoints.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from mnist_cnn.config import Keep
from mnist_cnn.errors import BackendError, ConfigurationError, MnistCnnError, RunPaused
from mnist_cnn.training import checkpoint, initial_weights, stopping
from mnist_cnn.training.checkpoint import Checkpoint, Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from mnist_cnn.result import EpochRow
    from mnist_cnn.training.epoch import Trainer
    from mnist_cnn.training.runtime import Runtime

    Weights = tuple[NDArray[Any], ...]

log = logging.getLogger("mnist_cnn")


class Session:
    """A training's state up to the epoch `last`.

    `changes` are those of job or runtime that `force=true` has allowed. `kept` are the weights of the best
    epoch, if the job saves those.
    """

    def __init__(self, trainer: Trainer, runtime: Runtime, checkpoints: Checkpoints, last: int) -> None:
        self.trainer = trainer
        self.runtime = runtime
        self.checkpoints = checkpoints
        self.last = last
        self.history: list[EpochRow] = []
        self.changes: tuple[str, ...] = ()
        self.kept: Weights = ()
        self.is_saved = True

    def is_done(self) -> bool:
        """Return whether no epoch follows."""
        return len(self.history) >= self.last or stopping.is_done(self.history, self.trainer.job.train)

    @property
    def saved_epoch(self) -> int:
        """The epoch whose weights would be saved now."""
        return stopping.saved_epoch(self.history, self.trainer.job.train.keep)

    def resume(self, run: Path | str, *, force: bool) -> None:
        """Restore the newest undamaged checkpoint, or initial weights.

        Raises ConfigurationError, which names `run`, if job or runtime have changed, unless `force` is set.
        """
        found = self.checkpoints.newest()
        if found is None:
            self._start_from_weights()
            return
        found = found.check(self.trainer.job, self.runtime, force=force, run=run)
        self.trainer.restore(found.arrays)
        checkpoint.set_generators(found.generators)
        log.info("resuming after epoch %d of %d", len(found.history), self.trainer.job.train.epochs)
        self.history, self.changes, self.kept = list(found.history), found.changes, found.kept
        if self.saved_epoch < len(self.history) and not self.kept:  # train.keep was changed by hand
            message = f"the checkpoint lacks the weights of epoch {self.saved_epoch}, the best one"
            raise ConfigurationError(message, "set train.keep=last, as it was, or start a new run")
        self._keep_best()

    def _start_from_weights(self) -> None:
        sha256 = self.trainer.job.train.init_sha256
        if sha256 is None:
            return
        arrays = initial_weights.load(self.checkpoints.folder, sha256)
        initial_weights.check_shapes(arrays, [weight.shape for weight in self.trainer.model.weights])
        self.trainer.model.set_weights(arrays)
        log.info("starting from the weights %s", sha256)

    def add(self, row: EpochRow) -> None:
        """Add the row of the epoch just trained."""
        self.history.append(row)
        self._keep_best()

    def _keep_best(self) -> None:
        """Keep the weights if the newest epoch is best.

        Does nothing if the job saves the last epoch.
        """
        is_best = stopping.best_epoch(self.history) == len(self.history)
        if self.trainer.job.train.keep is Keep.best and is_best:
            self.kept = tuple(self.trainer.model.get_weights())

    def save(self) -> None:
        """Write a checkpoint.

        The weights of the newest epoch are part of the state.
        """
        state, generators = self.trainer.state(), checkpoint.generators()
        kept = self.kept if self.saved_epoch < len(self.history) else ()
        now = (self.trainer.job, self.runtime, tuple(self.history), state, generators, self.changes, kept)
        self.is_saved = self.checkpoints.save(Checkpoint(*now))

    def pause(self) -> MnistCnnError:
        """Return the end of a training that pauses.

        Its checkpoint is all that it leaves.
        """
        epoch, epochs = len(self.history), self.trainer.job.train.epochs
        if self.is_saved:
            return RunPaused(f"paused after epoch {epoch} of {epochs} (pause_after)")
        message = f"not paused: the checkpoint of epoch {epoch} of {epochs} could not be saved"
        return BackendError(message, "resume the run; it trains the epochs since its last checkpoint again")

    def restore_saved(self) -> None:
        """Restore the saved epoch's weights.

        Logs which epoch it is, if it isn't the last planned one.
        """
        trained, epochs = len(self.history), self.trainer.job.train.epochs
        if trained < epochs:
            best = stopping.best_epoch(self.history)
            log.info("stopped after epoch %d of %d: none since epoch %d was better", trained, epochs, best)
        if self.saved_epoch < trained:
            self.trainer.model.set_weights(self.kept)
            log.info("saved: epoch %d, which has the lowest validation loss", self.saved_epoch)
