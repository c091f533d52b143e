"""Trains the trials of a search.

Each is a run that pauses at a rung, and is resumed if promoted. It lies in the search's folder, which with
the study says all that is needed to continue an interrupted search. No trial is trained to its end, not even
the best: after its last epoch it is paused, so that the test set is never evaluated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
from typing import TYPE_CHECKING

from mnist_cnn import job_maker, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    MnistCnnError,
    NeedsForceError,
    RunPaused,
    TrainingError,
    unexpected_error,
)
from mnist_cnn.result import percent
from mnist_cnn.search import halving, study
from mnist_cnn.search.entry import Entry
from mnist_cnn.search.halving import Promote, Trial
from mnist_cnn.search.request import group
from mnist_cnn.terminal import signals
from mnist_cnn.tracking import state as tracking_state
from mnist_cnn.tracking.recording import END_SECONDS, recorded
from mnist_cnn.training import stopping

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.search.request import Search
    from mnist_cnn.search.study import Drawn, Study


class Searcher:
    """Trains the trials of a search."""

    def __init__(self, search: Search, known: Study, report: Callable[[str], None]) -> None:
        self.search = search
        self._study = known
        self._report = report
        self._ended: queue.Queue[tuple[int, MnistCnnError | None]] = queue.Queue()
        base = search.load()
        limits = (launch.backend_of(base).parallel_runs, search.config.parallel)
        self._places = min((limit for limit in limits if limit is not None), default=search.plan.trials)
        self._backend, self._track = base.backend.name, base.track
        self._ends_with_us = launch.ends_with_its_command(base)
        self.entries: dict[int, Entry] = {}

    def run(self) -> None:
        """Train until the search has ended.

        Raises:
            KeyboardInterrupt: after the runs here are cancelled.
            BackendError, DataError: a trial cannot be started, or no run can be waited for any longer;
                the same search continues later.
            ConfigurationError: a trial cannot be resumed, because what it needs has changed.
            NeedsForceError: the same, or its machine may be gone; it can be resumed with `force=true`.
        """
        with signals.first_signal_only() if self._ends_with_us else contextlib.nullcontext():
            try:
                waiting = self._load()
                while True:
                    while len(self._running()) < self._places and (entry := self._next(waiting)) is not None:
                        self._begin(entry)
                    if not self._running():
                        return
                    self._take_end(*self._ended.get())
            except BaseException:
                with signals.ignore_signals():
                    self._cancel()
                raise

    def _cancel(self) -> None:
        """Cancel the runs that must not outlive this command."""
        for entry in self._running():
            if entry.run is not None and entry.ends_with_command():
                entry.run.cancel()
                if entry.waiter is not None:
                    entry.waiter.join(END_SECONDS)  # it records the end in the run's trackers

    def trials(self) -> list[Trial]:
        return [entry.trial for entry in self.entries.values()]

    def trained(self, number: int) -> Trial:
        """Return a trial with the epochs that it trained.

        Leaves out those that only count as trained.
        """
        entry = self.entries[number]
        return dataclasses.replace(entry.trial, accuracies=entry.accuracies)

    def left_running(self) -> list[Path]:
        """Return the folders of possibly running runs.

        These runs outlive the search's command.
        """
        return [entry.folder for entry in self.entries.values() if self._may_outlive_us(entry)]

    def _may_outlive_us(self, entry: Entry) -> bool:
        with contextlib.suppress(BackendError):  # a damaged receipt
            is_running = entry.has_run() and not run_folder.read_receipt(entry.folder).status.is_final
            return is_running and not entry.ends_with_command()
        return not self._ends_with_us

    def _running(self) -> list[Entry]:
        return [entry for entry in self.entries.values() if entry.run is not None and entry.trial.is_running]

    def _load(self) -> list[Entry]:
        """Return earlier trials that haven't reached their rung.

        Reads all trials that earlier commands have begun, and follows the runs whose ends those did not see.
        A trial with a damaged file has failed.
        """
        waiting = []
        for drawn in self._study.trials():
            entry = self._add(drawn)
            if (damage := entry.damage()) is not None:
                self._fail(entry, damage)
                continue
            run = self._run_to_follow(entry)  # this also reads the newest epochs of a run on a cluster
            entry.history = run_folder.read_history(entry.folder)
            reached = self._reached(entry)
            epochs = len(reached)
            entry.trial = Trial(drawn.number, reached, epochs)
            target = halving.rung_after(epochs, self.search.plan.rungs)
            running = dataclasses.replace(entry.trial, target=target, is_running=True)
            if drawn.error is not None:
                entry.error = TrainingError(drawn.error)
                entry.trial = dataclasses.replace(entry.trial, has_failed=True)
            elif run is not None:
                entry.trial, entry.run = running, run
                self._follow(entry)
            elif (epochs < len(entry.history) or not epochs) and not self._has_stopped(entry):
                entry.trial = running
                waiting.append(entry)
            if epochs and not drawn.is_recorded:
                self._study.tell(drawn.number, reached[self.search.plan.rungs[0] - 1])
        return waiting

    def _add(self, drawn: Drawn) -> Entry:
        folder = self.search.folder / f"{drawn.number:03}"
        entry = Entry(drawn, folder, Trial(drawn.number, target=self.search.plan.rungs[0], is_running=True))
        self.entries[drawn.number] = entry
        return entry

    def _run_to_follow(self, entry: Entry) -> Run | None:
        """Return the run of an earlier command that did not see its end, unless it must be resumed."""
        if entry.drawn.error is not None or not entry.has_run():
            return None
        if run_folder.read_receipt(entry.folder).status is Status.paused:
            return None
        run, status = self._attach(entry)
        return run if status is Status.paused or not status.is_final or entry.has_diverged() else None

    def _attach(self, entry: Entry) -> tuple[Run, Status]:
        """Return an earlier command's run, and its status.

        Raises NeedsForceError if only another machine can say whether it still trains.
        """
        receipt = run_folder.read_receipt(entry.folder)
        overrides = self.search.resumed
        if receipt.backend != self._backend:  # these settings are another backend's
            overrides = tuple(text for text in overrides if group(text) != "backend")
        tracking_state.choose(entry.folder, self._track)  # it also remembers a login
        run = launch.attach_to(entry.folder, overrides, self.search.config_dirs)
        status, host = run.status(), run_folder.other_host(receipt)
        if host is not None and not status.is_final:
            message = f"{entry.folder} is {status.value} on {host}, not on this machine"
            raise NeedsForceError(message, "if that machine is gone")
        return run, status

    def _next(self, waiting: list[Entry]) -> Entry | None:
        """Return the trial that trains next, or None."""
        if waiting:
            return waiting.pop(0)
        step = halving.next_step(self.trials(), self.search.plan)
        if step is None:
            return None
        if not isinstance(step, Promote):
            return self._add(self._study.draw())
        entry = self.entries[step.number]
        target = halving.rung_after(entry.trial.epochs, self.search.plan.rungs)
        entry.trial = dataclasses.replace(entry.trial, target=target, is_running=True)
        return entry

    def _begin(self, entry: Entry) -> None:
        """Start or resume a trial's run.

        A thread waits for its end.
        """
        if self._has_stopped(entry):
            self._settle(entry.drawn.number, None)
            return
        if not entry.has_run():
            self.search.check_network()
        with signals.defer_signals() if self._ends_with_us else contextlib.nullcontext():
            try:
                entry.run = self._start(entry)
            except ConfigurationError as error:
                if entry.has_run():  # it was valid, but what it needs has changed since
                    raise
                self._fail(entry, error)
                return
        self._follow(entry)

    def _start(self, entry: Entry) -> Run:
        """Start or resume a trial's run.

        Attaches to it if it is still running.
        """
        pause = f"pause_after={entry.trial.target}"
        if not entry.has_run():
            config = self.search.load(*entry.drawn.overrides, pause)
            config = dataclasses.replace(
                config, run=dataclasses.replace(config.run, run_dir=str(entry.folder))
            )
            return launch.start(config, job_maker.job_of(config))
        run, status = self._attach(entry)
        if not status.is_final:
            return run
        overrides = [*self.search.resumed, pause]
        try:
            return launch.prepare_resume(str(entry.folder), overrides, self.search.config_dirs)()
        except NeedsForceError as error:
            error.hint = "undo that, or resume anyway"
            raise

    def _follow(self, entry: Entry) -> None:
        """Wait for the end of a trial's run in a thread."""
        entry.unfollowed = None
        entry.waiter = threading.Thread(target=self._wait, args=(entry.drawn.number, entry.run), daemon=True)
        entry.waiter.start()

    def _wait(self, number: int, run: Run) -> None:
        try:
            with recorded(run):
                run.wait()
            self._ended.put((number, None))
        except MnistCnnError as error:
            self._ended.put((number, error))
        except Exception as error:  # noqa: BLE001 - nothing above a thread would catch it
            self._ended.put((number, unexpected_error(error)))

    def _take_end(self, number: int, error: MnistCnnError | None) -> None:
        """Settle a trial whose run has ended.

        If only the wait has ended, for example because no node was free for too long, wait again as soon as
        another run has ended. Raises the error if there is none.
        """
        entry = self.entries[number]
        if error is not None and entry.is_under_way():
            entry.unfollowed = error
            if all(other.unfollowed for other in self._running()):
                raise error
            return
        self._settle(number, error)
        for other in self._running():
            if other.unfollowed is not None:
                self._follow(other)

    def _settle(self, number: int, error: MnistCnnError | None) -> None:
        """Record a trial's progress or failure."""
        entry = self.entries[number]
        entry.history = run_folder.read_history(entry.folder)
        reached = self._reached(entry, entry.trial.target)
        if error is not None and not isinstance(error, RunPaused):
            self._fail(entry, error)
            return
        if not reached:
            message = f"{entry.folder} ended before epoch {self.search.plan.rungs[0]}"
            self._fail(entry, BackendError(message, "search again to resume it"))
            return
        is_first = not entry.trial.epochs
        entry.trial = Trial(number, reached, len(reached))
        if is_first:
            self._study.tell(number, reached[self.search.plan.rungs[0] - 1])
        epochs = f"epoch {len(entry.history)}/{self.search.plan.rungs[-1]}"
        self._report(f"trial {number}: {percent(reached[-1])} after {epochs}  {entry.settings}")

    def _reached(self, entry: Entry, target: int = 0) -> tuple[float, ...]:
        """Return the accuracies up to a trial's last rung.

        A trial that `train.stop_patience` has ended keeps its last accuracy, up to `target` or the next rung.
        """
        rungs, epochs = self.search.plan.rungs, len(entry.history)
        if self._has_stopped(entry):
            rung = max(target, next((rung for rung in rungs if rung >= epochs), rungs[-1]))
            return (*entry.accuracies, *entry.accuracies[-1:] * (rung - epochs))
        return entry.accuracies[: max((rung for rung in rungs if rung <= epochs), default=0)]

    def _has_stopped(self, entry: Entry) -> bool:
        if not entry.history:
            return False
        patience = self.search.load(*entry.drawn.overrides).train.stop_patience
        return stopping.has_stopped(entry.history, patience)

    def _fail(self, entry: Entry, error: MnistCnnError) -> None:
        """Record a failure.

        One that training again would not change is kept for later commands too.
        """
        entry.error = error
        entry.trial = dataclasses.replace(entry.trial, has_failed=True, is_running=False)
        is_unbuildable = isinstance(error, ConfigurationError) and not entry.has_run()
        if isinstance(error, TrainingError) or is_unbuildable:
            self._study.fail(entry.drawn.number, error.message)
        self._report(f"trial {entry.drawn.number}: failed: {error.message}  {entry.settings}")


@contextlib.contextmanager
def opened(search: Search, report: Callable[[str], None]) -> Iterator[Searcher]:
    """Open the search's study. Raises as `study.opened` does."""
    config = search.config
    with study.opened(search.folder, search.searched, search.ranges, config.sampler, config.seed) as known:
        yield Searcher(search, known, report)
