"""Writes TensorBoard's event files into the run folder.

`tensorboard --logdir runs` shows them for all runs. TensorBoard's own records are written without its `tf`,
because that imports TensorFlow, which takes seconds.
"""

from __future__ import annotations

import dataclasses
import shlex
import time
from typing import TYPE_CHECKING, Any

from mnist_cnn.backend import Status
from mnist_cnn.settings import written
from mnist_cnn.tracking.state import VIEW
from mnist_cnn.tracking.tracker import end_tags

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tensorboard.compat.proto.summary_pb2 import Summary

    from mnist_cnn.result import Result
    from mnist_cnn.tracking.state import State
    from mnist_cnn.tracking.tracker import Point, TrackedRun

FOLDER = "tensorboard"
FILES = "events.out.tfevents."
"""How the names of event files begin."""
FORMAT = "brain.Event:2"
"""The format's version, a file's first event."""


class TensorBoardTracker:
    """Writes scalars, hyperparameters and plots.

    Its file has nothing but what the run folder has, so it is written anew each time.
    """

    def __init__(self, run: TrackedRun, state: State) -> None:
        self._run = run
        self._state = state
        self._folder = run.folder / FOLDER

    def start(self) -> State:
        """Replace the event file by one without epochs."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(exist_ok=True)
        old = list(self._folder.glob(f"{FILES}*"))
        # TensorBoard reads the files of a folder in the order of their names.
        self._file = (self._folder / f"{FILES}{time.time_ns()}").open("wb")
        for path in old:
            path.unlink()
        self._records = RecordWriter(self._file)
        self._add(self._run.created, file_version=FORMAT)
        settings = {name: _plain(value) for name, value in self._run.settings.items()}
        self._add(self._run.created, summary=hparams_pb(settings, start_time_secs=self._run.created))
        self._add_tags(self._run.tags, self._run.created)
        self._records.flush()
        view = f"python -m tensorboard.main --logdir {shlex.quote(str(self._run.folder.parent))}"
        return dataclasses.replace(self._state, place={VIEW: view}, epochs=0)

    def write(self, points: Sequence[Point]) -> None:
        """Write each number of each epoch as a scalar."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            scalars = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
            self._add(point.time, point.epoch, summary=Summary(value=scalars))
        self._records.flush()

    def end(self, status: Status, result: Result | None) -> None:
        """Write the result and a completed run's plots."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        now = time.time()
        if result is not None:
            epoch = len(result.history)
            measured = {"test_accuracy": result.accuracy, "test_loss": result.loss}
            scalars = [Summary.Value(tag=name, simple_value=value) for name, value in measured.items()]
            self._add(now, epoch, summary=Summary(value=scalars))
            for name in filter(lambda name: name.endswith(".png"), result.files):
                self._add(now, epoch, summary=_image(name.removesuffix(".png"), self._run.folder / name))
        self._add_tags(end_tags(status, result), now)
        self._add(now, summary=_session_end(status, now))
        self._records.flush()

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()

    def _add_tags(self, tags: Mapping[str, str], when: float) -> None:
        from tensorboard.plugins.text.summary_v2 import text_pb

        for name, text in tags.items():
            self._add(when, summary=text_pb(name, text))

    def _add(self, when: float, step: int = 0, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=when, step=step, **content).SerializeToString())


def _plain(value: object) -> bool | float | str:
    """Return a setting as bool, number or text."""
    return value if isinstance(value, bool | int | float) else written(value)


def _image(tag: str, path: Path) -> Summary:
    """Return a picture's file as a summary."""
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary

    with Image.open(path) as picture:
        width, height = picture.size
        colours = len(picture.getbands())
    image = Summary.Image(
        height=height, width=width, colorspace=colours, encoded_image_string=path.read_bytes()
    )
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _session_end(status: Status, when: float) -> Summary:
    """Return the end of the session that `hparams_pb` began.

    TensorBoard's own function needs TensorFlow.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams import api_pb2, metadata
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    code = api_pb2.STATUS_SUCCESS if status is Status.completed else api_pb2.STATUS_FAILURE
    ended = HParamsPluginData(session_end_info=SessionEndInfo(status=code, end_time_secs=when))
    about = metadata.create_summary_metadata(ended)
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    return Summary(value=[value])
