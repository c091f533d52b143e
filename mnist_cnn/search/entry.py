"""A trial as the searcher knows it: its settings, its run and its outcome."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import backend_class
from mnist_cnn.errors import BackendError, MnistCnnError, TrainingError

if TYPE_CHECKING:
    import threading
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.result import EpochRow
    from mnist_cnn.search.halving import Trial
    from mnist_cnn.search.study import Drawn


@dataclasses.dataclass
class Entry:
    """A trial: its settings, its run and its outcome.

    `unfollowed` is why the wait for its run has ended although the run has not.
    """

    drawn: Drawn
    folder: Path
    trial: Trial
    run: Run | None = None
    waiter: threading.Thread | None = None
    error: MnistCnnError | None = None
    unfollowed: MnistCnnError | None = None
    history: tuple[EpochRow, ...] = ()

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Return the validation accuracy after each epoch so far."""
        return tuple(row.val_accuracy for row in self.history)

    @property
    def settings(self) -> str:
        return " ".join(self.drawn.overrides)

    def has_run(self) -> bool:
        return (self.folder / run_folder.RECEIPT).exists()

    def damage(self) -> MnistCnnError | None:
        """Return why the files cannot be read, or None."""
        try:
            run_folder.read_history(self.folder)
            if self.has_run():
                run_folder.read_receipt(self.folder)
        except MnistCnnError as error:
            return BackendError(f"{error.message}; delete {self.folder} to train this trial again")
        return None

    def has_diverged(self) -> bool:
        """Return whether training again would fail too."""
        receipt = run_folder.read_receipt(self.folder)
        return receipt.status is Status.failed and receipt.exit_code == TrainingError.exit_code

    def is_under_way(self) -> bool:
        """Return whether the run has not ended.

        Returns True if its backend does not answer.
        """
        with contextlib.suppress(MnistCnnError):  # of a service that does not answer
            return self.run is not None and not self.run.status().is_final
        return True

    def ends_with_command(self) -> bool:
        """Return whether the run ends with its command."""
        return backend_class(run_folder.read_receipt(self.folder).backend).ends_with_its_command
