"""What every backend must do."""

from __future__ import annotations

import dataclasses
import json
import math
import secrets
from typing import TYPE_CHECKING

import pytest

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.errors import (
    BackendError,
    ConfigurationError,
    MnistCnnError,
    RunCancelled,
    RunPaused,
    TrainingError,
)
from mnist_cnn.receipt import Receipt
from mnist_cnn.testing.fixtures import LONG, Contract, printed_by
from mnist_cnn.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from pathlib import Path

    from mnist_cnn.backend import Run
    from mnist_cnn.testing.fixtures import Submit

FAILING_NETWORK = """
import keras
from keras import layers


def build(config, input_shape, num_classes):
    nan = keras.initializers.Constant(float("nan"))
    out = layers.Dense(num_classes, activation="softmax", kernel_initializer=nan)
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), out])
"""
"""A network whose loss is NaN at once."""


def new_name(name: str) -> str:
    """Return a model name new to the service.

    Others may use that service too.
    """
    return f"{name}-{secrets.token_hex(4)}"


@dataclasses.dataclass(frozen=True)
class Waiter:
    """A run, and what another process saw of it.

    `before` is the status when it attached, `result` is JSON.
    """

    run: Run
    before: Status
    result: str


class BackendContract(Contract):
    """The promises of `mnist_cnn.backend`, tested with one backend."""

    @pytest.fixture(scope="class")
    @classmethod
    def waiter(cls, submit: Submit, overrides: tuple[str, ...]) -> Waiter:
        """Submit a run that another process waits for.

        That process attaches while the run is under way.
        """
        run = submit("completed")
        code = (
            "import sys; from pathlib import Path; from mnist_cnn import launch; "
            "run = launch.attach_to(Path(sys.argv[1]), sys.argv[2:]); before = run.status(); "
            "print(before.value); print(run.wait().to_json())"
        )
        before, result = printed_by(code, str(run.folder), *overrides).split("\n", 1)
        return Waiter(run, Status(before), result)

    @pytest.fixture(scope="class")
    @classmethod
    def completed(cls, waiter: Waiter) -> Run:
        waiter.run.wait()
        return waiter.run

    def test_the_receipt_survives_a_json_round_trip(self, completed: Run) -> None:
        receipt = run_folder.read_receipt(completed.folder)
        assert Receipt.from_json(receipt.to_json()) == receipt
        assert receipt.job_digest == run_folder.read_job(completed.folder).digest
        assert receipt.status is Status.completed
        assert receipt.exit_code == 0

    def test_repr_shows_the_folder_and_the_last_status(self, completed: Run) -> None:
        assert str(completed.folder) in repr(completed)
        assert "completed" in repr(completed)

    def test_another_process_can_attach_and_wait(self, waiter: Waiter) -> None:
        assert not waiter.before.is_final
        assert waiter.result.strip() == waiter.run.wait().to_json().strip()

    def test_waiting_twice_gives_the_same_result(self, completed: Run) -> None:
        assert completed.wait() == completed.wait()

    def test_metrics_are_finite_and_complete(self, completed: Run) -> None:
        result = completed.wait()
        rows = run_folder.read_history(completed.folder)
        assert rows == result.history
        assert [row.epoch for row in rows] == list(range(1, len(rows) + 1))
        for row in rows:
            values = (row.loss, row.accuracy, row.val_loss, row.val_accuracy, row.learning_rate, row.seconds)
            assert all(map(math.isfinite, (*values, *row.loss_parts, *row.accuracy_parts)))
            assert 0 <= row.accuracy <= 1

    def test_every_file_matches_the_result(self, completed: Run) -> None:
        result = completed.wait()
        assert {"model.keras", "model.onnx", "metrics.jsonl"} <= set(result.files)
        run_folder.verify(completed.folder, result)

    def test_plain_keras_loads_the_model_and_agrees(self, completed: Run) -> None:
        """Compare accuracy and weights in another process.

        It loads the model without this package.
        """
        result = completed.wait()
        job = run_folder.read_job(completed.folder)
        code = (
            "import sys, keras; from mnist_cnn.data import datasets; from mnist_cnn.job import Job; "
            "from mnist_cnn.training.model import weights_sha256; "
            "arrays = datasets.load(Job.from_json(sys.argv[2]).data); "
            "model = keras.models.load_model(sys.argv[1], safe_mode=True); "
            "images = arrays.x_test.astype('float32') / 255; "
            "right = model.predict(images, verbose=0).argmax(1) == arrays.y_test; "
            "print(right.mean(), weights_sha256(model))"
        )
        printed = printed_by(code, str(completed.folder / "model.keras"), job.to_json())
        accuracy, weights = printed.split()
        assert float(accuracy) == pytest.approx(result.accuracy, abs=1e-9)
        assert weights == result.weights_sha256

    def test_the_log_holds_the_trainers_lines(self, completed: Run) -> None:
        logged = [words for line in completed.logs() if (words := run_folder.trainer_line(line)) is not None]
        assert [words for words in logged if words.startswith("epoch 1/")]

    def test_registering_a_run_twice_gives_one_version(self, completed: Run) -> None:
        name = new_name("twice")
        first, second = (completed.register(name, min_accuracy=0) for _ in range(2))
        assert (first.version, first.is_new) == (1, True)
        assert second == dataclasses.replace(first, is_new=False)

    def test_registering_a_second_run_gives_the_next_version(self, completed: Run, submit: Submit) -> None:
        other = submit("second", "train.epochs=1")
        followed = list(other.logs(follow=True))  # to the end
        assert other.status() is Status.completed
        other.wait()
        assert followed == list(other.logs())
        name = new_name("next")
        models = [run.register(name, min_accuracy=0) for run in (completed, other, completed)]
        assert [model.version for model in models] == [1, 2, 1]

    def test_a_model_below_min_accuracy_is_not_registered(self, completed: Run) -> None:
        with pytest.raises(BackendError, match=r"below register\.min_accuracy=1"):
            completed.register("bad", min_accuracy=1)

    def test_a_model_name_that_is_a_path_is_refused(self, completed: Run) -> None:
        with pytest.raises(ConfigurationError, match=r"register\.name=\.\./up"):
            completed.register("../up", min_accuracy=0)

    def test_a_failing_training_raises_its_error(self, home: Path, submit: Submit) -> None:
        (home / "failing.py").write_text(FAILING_NETWORK)
        run = submit("failing", f"model.file={home / 'failing.py'}")
        with pytest.raises(TrainingError, match="the loss became") as raised:
            run.wait()
        assert "log.txt" in raised.value.hint
        assert run.status() is Status.failed
        receipt = run_folder.read_receipt(run.folder)
        assert receipt.exit_code == TrainingError.exit_code
        assert receipt.error == raised.value.message
        assert any("the loss became" in line for line in run.logs())
        with pytest.raises(BackendError, match="not completed"):
            run.register("failed", min_accuracy=0)

    def test_a_cancelled_run_leaves_its_checkpoints(self, submit: Submit, overrides: tuple[str, ...]) -> None:
        run = submit("cancelled", LONG)
        for line in run.logs(follow=True):
            if "epoch 1/" in line:
                break
        launch.attach_to(run.folder, overrides).cancel()
        assert run.status() is Status.cancelled
        with pytest.raises(RunCancelled):
            run.wait()
        run.cancel()  # again, which changes nothing
        assert run.status() is Status.cancelled
        assert run_folder.read_result(run.folder) is None
        run.download_checkpoints()
        found = Checkpoints(run.folder / run_folder.CHECKPOINTS).newest()
        assert found is not None
        assert found.job.digest == run_folder.read_job(run.folder).digest
        assert found.history[0].epoch == 1

    def test_a_paused_run_continues_to_the_same_weights(
        self, completed: Run, submit: Submit, overrides: tuple[str, ...]
    ) -> None:
        run = submit("paused", "pause_after=1")
        with pytest.raises(RunPaused, match="paused after epoch 1 of") as raised:
            run.wait()
        assert str(run.folder) in raised.value.hint
        assert run.status() is Status.paused
        assert run_folder.read_result(run.folder) is None
        assert [row.epoch for row in run_folder.read_history(run.folder)] == [1]
        result = launch.resume(str(run.folder), *overrides).wait()
        assert result.weights_sha256 == completed.wait().weights_sha256
        assert "resuming after epoch 1" in (run.folder / run_folder.LOG).read_text()

    def test_attaching_to_an_unknown_run_is_an_error(self, home: Path, overrides: tuple[str, ...]) -> None:
        with pytest.raises(MnistCnnError, match="nowhere"):
            launch.attach(str(home / "nowhere"), *overrides)
        backend = launch.backend_of(compose.load(overrides))
        with pytest.raises(BackendError, match=r"run\.json"):
            backend.attach(home / "nowhere")

    def test_a_plan_leaves_no_files(
        self, tmp_path: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]
    ) -> None:
        plan = launch.plan(*overrides, *small_job, f"run_dir={tmp_path / 'planned'}")
        labels = [label for label, _ in plan.lines]
        assert "backend" in labels
        assert sorted(set(labels)) == sorted(labels)
        assert json.dumps(plan.lines)
        assert list(tmp_path.iterdir()) == []
