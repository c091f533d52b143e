"""The event files in a run folder, read back as TensorBoard reads them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.processes import wait_until
from helpers.scripted_run import ScriptedRun
from helpers.tracked_runs import EPOCHS, complete, running

from mnist_cnn import run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import TrainingError
from mnist_cnn.tracking import state
from mnist_cnn.tracking.recording import recorded

TRACK = "track=tensorboard"


def events(folder: Path) -> Any:
    """Return what TensorBoard has loaded from a run folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sizes = {"images": 0, "tensors": 0, "scalars": 0}  # all of them
    return EventAccumulator(str(folder / "tensorboard"), sizes).Reload()


def scalar(folder: Path, name: str) -> list[tuple[int, Any]]:
    return [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events(folder).Scalars(name)]


def test_each_epoch_is_written_once_with_the_result_the_plots_and_the_settings(tmp_path: Path) -> None:
    run = running(tmp_path, TRACK)
    with recorded(run):
        wait_until(lambda: state.read(tmp_path, "tensorboard").epochs == 1)
        assert scalar(tmp_path, "loss") == [(1, 1.0)]  # while it trains
        complete(tmp_path)
        run.ended = True
    assert scalar(tmp_path, "loss") == [(row.epoch, row.loss) for row in EPOCHS]
    assert scalar(tmp_path, "val_accuracy") == [(row.epoch, row.val_accuracy) for row in EPOCHS]
    assert scalar(tmp_path, "test_accuracy") == [(3, 0.9)]
    (image,) = events(tmp_path).Images("history")
    assert image.encoded_image_string == (tmp_path / "history.png").read_bytes()
    texts = {
        name: events(tmp_path).Tensors(name)[0].tensor_proto.string_val[0] for name in ("status", "backend")
    }
    assert texts == {"status": b"completed", "backend": b"local"}


def hyperparameters(folder: Path) -> tuple[dict[str, Any], int]:
    """Return a run's settings, and how it ended, as the HPARAMS tab has them."""
    from tensorboard.plugins.hparams import metadata

    contents = events(folder).summary_metadata
    started = metadata.parse_session_start_info_plugin_data(
        contents[metadata.SESSION_START_INFO_TAG].plugin_data.content
    )
    ended = metadata.parse_session_end_info_plugin_data(
        contents[metadata.SESSION_END_INFO_TAG].plugin_data.content
    )
    return dict(started.hparams), ended.status


@pytest.mark.parametrize(
    ("status", "code"), [(Status.completed, 1), (Status.failed, 2), (Status.cancelled, 2)]
)
def test_the_hparams_tab_has_the_settings_and_how_the_run_ended(
    tmp_path: Path, status: Status, code: int
) -> None:
    run = running(tmp_path, TRACK)
    with recorded(run):
        complete(tmp_path)
        if status is not Status.completed:
            run_folder.record_end(tmp_path, status, TrainingError("the loss is not finite"))
    settings, ended = hyperparameters(tmp_path)
    assert ended == code
    assert settings["train.epochs"].number_value == 3
    assert settings["train.optimizer"].string_value == "adadelta"
    assert settings["model.batch_norm"].bool_value is False


def test_a_follower_continues_what_another_one_has_begun(tmp_path: Path) -> None:
    with recorded(running(tmp_path, TRACK)):  # the run has not ended
        wait_until(lambda: state.read(tmp_path, "tensorboard").epochs == 1)
    assert state.read(tmp_path, "tensorboard").status is None
    complete(tmp_path)
    for _ in range(2):  # the second time there is nothing left to do
        with recorded(ScriptedRun(tmp_path, Status.completed)):
            pass
        assert scalar(tmp_path, "loss") == [(row.epoch, row.loss) for row in EPOCHS]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_tracking_does_not_import_tensorflow(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from helpers.tracked_runs import complete, running\n"
        "from mnist_cnn.tracking.recording import recorded\n"
        f"folder = Path({str(tmp_path)!r})\n"
        f"with recorded(running(folder, {TRACK!r})):\n    complete(folder)\n"
        "print(sorted({'tensorflow', 'keras', 'matplotlib', 'mlflow'} & set(sys.modules)))\n"
    )
    tests = str(Path(__file__).parents[2])
    command = [sys.executable, "-P", "-c", f"import sys\nsys.path.append({tests!r})\n{program}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")
    assert state.read(tmp_path, "tensorboard").status == "completed"
