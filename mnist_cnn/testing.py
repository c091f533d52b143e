"""What every backend owes, as one class of tests; each backend's test module subclasses it.

A subclass gives two fixtures: `overrides`, which choose and set up the backend, and `small_job`, the
overrides of a job that it trains in seconds. Everything runs for real.
"""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mnist_cnn import compose, launch, run_folder
from mnist_cnn.backend import Status
from mnist_cnn.backends import backend_class
from mnist_cnn.errors import BackendError, MnistCnnError, RunCancelled, TrainingError
from mnist_cnn.training.checkpoint import Checkpoints

if TYPE_CHECKING:
    from mnist_cnn.backend import ModelRef, Run

LONG = "train.epochs=10000"
"""So many epochs that the run is still under way when it is cancelled."""
FAILING = """
import keras
from keras import layers


def build(config, input_shape, num_classes):
    nan = keras.initializers.Constant(float("nan"))
    out = layers.Dense(num_classes, activation="softmax", kernel_initializer=nan)
    return keras.Sequential([keras.Input(input_shape), layers.Flatten(), out])
"""
"""A network whose loss is no number from the first step on."""


@dataclasses.dataclass(frozen=True)
class Waiter:
    """A run, and what another process saw of it: the status when it came, the result when it had waited."""

    run: Run
    before: Status
    result: str


class BackendContract:
    """The promises of `mnist_cnn.backend`, held against one backend."""

    @pytest.fixture(scope="class")
    @classmethod
    def overrides(cls) -> tuple[str, ...]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def small_job(cls) -> tuple[str, ...]:
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("contract")

    @pytest.fixture(scope="class")
    @classmethod
    def waiter(cls, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]) -> Waiter:
        """Submit a run, and let another process attach to it and wait while it is under way."""
        run = launch.submit(*overrides, *small_job, f"run_dir={home / 'completed'}")
        code = (
            "import sys; from pathlib import Path; from mnist_cnn import launch; "
            "run = launch.attach_to(Path(sys.argv[1]), sys.argv[2:]); before = run.status(); "
            "print(before.value); print(run.wait().to_json())"
        )
        ended = subprocess.run(
            [sys.executable, "-P", "-c", code, str(run.folder), *overrides],
            capture_output=True,
            text=True,
            timeout=600,
            check=True,
        )
        before, result = ended.stdout.split("\n", 1)
        return Waiter(run, Status(before), result)

    @pytest.fixture(scope="class")
    @classmethod
    def completed(cls, waiter: Waiter) -> Run:
        waiter.run.wait()
        return waiter.run

    def test_the_receipt_survives_a_json_round_trip(self, completed: Run) -> None:
        receipt = run_folder.read_receipt(completed.folder)
        assert run_folder.Receipt.from_json(receipt.to_json()) == receipt
        assert receipt.job_digest == run_folder.read_job(completed.folder).digest
        assert receipt.status is Status.completed
        assert receipt.exit_code == 0

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
            assert all(math.isfinite(value) for value in dataclasses.asdict(row).values())
            assert 0 <= row.accuracy <= 1

    def test_every_file_is_what_the_result_says(self, completed: Run) -> None:
        result = completed.wait()
        assert {"model.keras", "model.onnx", "metrics.jsonl"} <= set(result.files)
        run_folder.verify(completed.folder, result)

    def test_the_model_reloads_in_plain_keras_and_reproduces_accuracy_and_hash(self, completed: Run) -> None:
        """In a process of its own, which loads the model without this package's modules."""
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
        ended = subprocess.run(
            [sys.executable, "-P", "-c", code, completed.folder / "model.keras", job.to_json()],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        accuracy, weights = ended.stdout.split()
        assert float(accuracy) == pytest.approx(result.accuracy, abs=1e-9)
        assert weights == result.weights_sha256

    def test_the_log_holds_what_the_trainer_said(self, completed: Run) -> None:
        said = [words for line in completed.logs() if (words := run_folder.trainer_line(line)) is not None]
        assert [words for words in said if words.startswith("epoch 1/")]

    def test_registering_the_same_run_twice_gives_the_same_version_and_says_so(
        self, completed: Run, home: Path
    ) -> None:
        first, second = self._register(completed, home, "twice"), self._register(completed, home, "twice")
        assert (first.version, first.is_new) == (1, True)
        assert second == dataclasses.replace(first, is_new=False)

    def test_registering_a_second_run_gives_the_next_version(
        self, completed: Run, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]
    ) -> None:
        other = launch.submit(*overrides, *small_job, "train.epochs=1", f"run_dir={home / 'second'}")
        followed = list(other.logs(follow=True))  # to the end
        assert other.status() is Status.completed
        other.wait()
        assert followed == list(other.logs())
        versions = [self._register(run, home, "next").version for run in (completed, other, completed)]
        assert versions == [1, 2, 1]

    def test_a_model_below_the_wanted_accuracy_is_not_registered(self, completed: Run, home: Path) -> None:
        with pytest.raises(BackendError, match=r"below register\.min_accuracy=1"):
            self._register(completed, home, "bad", min_accuracy="1")

    def test_a_failing_training_is_a_worded_failure_with_the_runs_log(
        self, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]
    ) -> None:
        (home / "failing.py").write_text(FAILING)
        network = f"model.file={home / 'failing.py'}"
        run = launch.submit(*overrides, *small_job, network, f"run_dir={home / 'failing'}")
        with pytest.raises(TrainingError, match="the loss became") as raised:
            run.wait()
        assert "log.txt" in raised.value.hint
        assert run.status() is Status.failed
        receipt = run_folder.read_receipt(run.folder)
        assert receipt.exit_code == TrainingError.exit_code
        assert receipt.error == raised.value.message
        assert any("the loss became" in line for line in run.logs())
        with pytest.raises(BackendError, match="not completed"):
            self._register(run, home, "failed")

    def test_a_cancelled_run_is_no_success_and_its_checkpoints_can_be_gone_on_from_elsewhere(
        self, home: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]
    ) -> None:
        run = launch.submit(*overrides, *small_job, LONG, f"run_dir={home / 'cancelled'}")
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

    def test_an_unknown_run_is_a_worded_error(self, home: Path, overrides: tuple[str, ...]) -> None:
        with pytest.raises(MnistCnnError, match="nowhere"):
            launch.attach(str(home / "nowhere"), *overrides)
        config = compose.load(overrides)
        backend = backend_class(config.backend.name)(config)
        with pytest.raises(BackendError, match=r"run\.json"):
            backend.attach(home / "nowhere")

    def test_a_plan_can_be_printed_and_leaves_nothing(
        self, tmp_path: Path, overrides: tuple[str, ...], small_job: tuple[str, ...]
    ) -> None:
        plan = launch.plan(*overrides, *small_job, f"run_dir={tmp_path / 'planned'}")
        assert dict(plan.lines)["backend"]
        assert json.dumps(plan.lines)
        assert list(tmp_path.iterdir()) == []

    @staticmethod
    def _register(run: Run, home: Path, name: str, min_accuracy: str = "0") -> ModelRef:
        settings = (f"register.name={name}", f"register.dir={home / 'models'}")
        config = compose.load([*settings, f"register.min_accuracy={min_accuracy}"])
        return run.register(config.register)
