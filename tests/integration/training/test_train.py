"""The trainer: what it computes, that it computes it again, and what it leaves.

TensorFlow is imported once, in this process; whole trainings are processes of their own.
"""

from __future__ import annotations

import json
import resource
import signal
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers.processes import SMALL, run_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_cnn import cpu, launch, run_folder
from mnist_cnn.config import DataConfig, Format, ModelConfig, Precision
from mnist_cnn.data import datasets
from mnist_cnn.errors import BackendError, ConfigurationError, TrainingError
from mnist_cnn.prediction.predictor import load_predictor
from mnist_cnn.training import epoch, train
from mnist_cnn.training.model import build_model, check_network, weights_sha256

if TYPE_CHECKING:
    from mnist_cnn.result import Progress, Result

# TensorFlow's and Keras' own, which differ with Python's and numpy's versions; AutoGraph gives up on one that
# is made an error.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


def result_of(folder: Path) -> Result:
    result = run_folder.read_result(folder)
    assert result is not None
    return result


def test_the_default_network_is_the_tutorials(keras: ModuleType) -> None:
    model = build_model(ModelConfig(), (28, 28, 1), 10, Format.channels_last, "float32")
    assert model.count_params() == 1_199_882
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2D", "Conv2D", "MaxPooling2D", "Dropout", "Flatten", "Dense", "Dropout", "Dense"]
    assert [layer.rate for layer in model.layers if hasattr(layer, "rate")] == [0.25, 0.5]
    assert model.layers[-1].activation is keras.activations.softmax


@pytest.mark.usefixtures("keras")
def test_other_sizes_are_built_as_configured() -> None:
    config = ModelConfig(filters=(4,), kernel_size=5, pool_size=3, dense_units=7)
    model = build_model(config, (1, 20, 30), 4, Format.channels_first, "float32")
    shapes = [tuple(weight.shape) for weight in model.weights]
    assert shapes == [(5, 5, 1, 4), (4,), (4 * 5 * 8, 7), (7,), (7, 4), (4,)]


def test_a_network_that_does_not_fit_the_images_is_refused_without_keras() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.kernel_size=15"):
        check_network(ModelConfig(kernel_size=15), 28, 28)
    check_network(ModelConfig(kernel_size=14), 28, 28)
    with pytest.raises(ConfigurationError, match=r"model\.pool_size=2"):
        check_network(ModelConfig(kernel_size=13), 25, 28)
    with pytest.raises(ConfigurationError, match=r"model\.pool_after=\[3\]: model\.filters has 2"):
        check_network(ModelConfig(pool_after=(3,)), 28, 28)


@pytest.mark.usefixtures("keras")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 16),
    kernel=st.integers(1, 4),
    stem=st.none() | st.integers(1, 6),
    stride=st.integers(1, 3),
    pool=st.integers(1, 3),
    pooled=st.sets(st.integers(1, 3)),
)
def test_the_networks_that_are_refused_are_those_that_keras_cannot_build(  # noqa: PLR0913, PLR0917 - all vary
    size: int, kernel: int, stem: int | None, stride: int, pool: int, pooled: set[int]
) -> None:
    config = ModelConfig(
        filters=(1, 1, 1), kernel_size=kernel, stem_kernel_size=stem, stem_stride=stride, pool_size=pool,
        pool_after=tuple(pooled), dense_units=1,
    )  # fmt: skip
    try:
        build_model(config, (size, size + 1, 1), 2, Format.channels_last, "float32")
        is_built = True
    except ValueError:
        is_built = False
    try:
        check_network(config, size, size + 1)
        is_accepted = True
    except ConfigurationError:
        is_accepted = False
    assert is_accepted == is_built


def test_each_epoch_has_an_order_of_its_own_that_depends_on_seed_and_epoch_alone() -> None:
    orders = [epoch.permutation(seed, number, 1000) for seed, number in ((0, 1), (0, 2), (1, 1))]
    assert np.array_equal(epoch.permutation(0, 1, 1000), orders[0])
    assert all(sorted(order) == list(range(1000)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.usefixtures("keras")
def test_how_many_steps_a_call_takes_changes_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    job = launch.make_job("data.train_limit=330", "data.test_limit=100", "train.batch_size=32")
    arrays = datasets.load(job.data)
    rows, hashes, calls = [], [], []
    for seconds in (1e-9, 1e9):
        monkeypatch.setattr(epoch, "PROGRESS_SECONDS", seconds)
        trained = epoch.Trainer(job, arrays)
        seen: list[int] = []

        def see(progress: Progress, seen: list[int] = seen) -> None:
            seen.append(progress.step)

        rows += [trained.run_epoch(1, see), trained.run_epoch(2, see)]
        hashes.append(weights_sha256(trained.model))
        calls.append(len(seen))
    assert calls[0] == 22  # 11 steps of at most 32 images, twice
    assert calls[1] < 22
    assert hashes[0] == hashes[1]
    assert [(row.loss, row.accuracy) for row in rows[:2]] == [(row.loss, row.accuracy) for row in rows[2:]]


def test_an_epoch_computes_what_keras_fit_computes(keras: ModuleType) -> None:
    """One epoch in the order given, without dropout, against `fit` with `shuffle=False`."""
    job = launch.make_job(
        "data.train_limit=330", "data.test_limit=100", "train.batch_size=32", "model.conv_dropout=0",
        "model.dense_dropout=0",
    )  # fmt: skip
    arrays = datasets.load(job.data)
    trained = epoch.Trainer(job, arrays)
    plain = build_model(job.model, (28, 28, 1), 10, Format.channels_last, "float32")
    plain.set_weights(trained.model.get_weights())
    row = trained.run_epoch(1, lambda progress: None)

    order = epoch.permutation(job.seed, 1, 330)
    plain.compile(keras.optimizers.Adadelta(1.0), "categorical_crossentropy", metrics=["accuracy"])
    images = arrays.x_train[order].astype("float32") / 255
    labels = keras.utils.to_categorical(arrays.y_train[order], 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = plain.fit(images, labels, batch_size=32, epochs=1, shuffle=False, verbose=0).history
        test_images = arrays.x_test.astype("float32") / 255
        loss, accuracy = plain.evaluate(test_images, keras.utils.to_categorical(arrays.y_test, 10), verbose=0)
    for ours, theirs in zip(trained.model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)
    assert row.loss == pytest.approx(fitted["loss"][0], rel=1e-3)
    assert row.accuracy == pytest.approx(fitted["accuracy"][0], abs=0.01)
    assert row.val_loss == pytest.approx(loss, rel=1e-2)
    assert row.val_accuracy == pytest.approx(accuracy, abs=0.02)


def weights_after(*settings: str) -> str:
    small = ("data.train_limit=200", "data.test_limit=50", "train.batch_size=32", "model=compact")
    job = launch.make_job(*small, *settings)
    trained = epoch.Trainer(job, datasets.load(job.data))
    for number in range(1, job.train.epochs + 1):
        trained.run_epoch(number, lambda progress: None)
    return weights_sha256(trained.model)


@pytest.mark.usefixtures("keras")
def test_images_are_changed_but_in_the_clean_epochs() -> None:
    plain = weights_after("train.epochs=2")
    changed = {
        f"{clean}": weights_after("train.epochs=2", "train.shift=2", f"train.unaugmented_epochs={clean}")
        for clean in (0, 1, 2)
    }
    assert changed["2"] == plain
    assert len({*changed.values()}) == 3


@pytest.mark.usefixtures("keras")
def test_label_smoothing_is_the_same_for_either_kind_of_labels() -> None:
    losses = [
        f"train.loss={loss}" for loss in ("categorical_crossentropy", "sparse_categorical_crossentropy")
    ]
    one_hot, sparse = (weights_after("train.epochs=1", "train.label_smoothing=0.1", loss) for loss in losses)
    assert one_hot == sparse
    assert one_hot != weights_after("train.epochs=1")


@pytest.mark.usefixtures("keras")
def test_auto_is_bfloat16_where_the_device_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU says of itself is made up: there is none."""
    import tensorflow as tf

    assert epoch.effective_precision(Precision.bfloat16) is Precision.bfloat16
    for flag, expected in ((True, Precision.bfloat16), (False, Precision.float32)):
        monkeypatch.setattr(cpu, "computes_bfloat16", lambda flag=flag: flag)
        assert epoch.effective_precision(Precision.auto) is expected
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [kind])
    for capability, expected in (((7, 5), Precision.float32), ((8, 0), Precision.bfloat16)):
        details = {"compute_capability": capability}
        monkeypatch.setattr(
            tf.config.experimental, "get_device_details", lambda gpu, details=details: details
        )
        assert epoch.effective_precision(Precision.auto) is expected


def test_the_hash_of_weights_sees_every_bit(keras: ModuleType) -> None:
    model = build_model(
        ModelConfig(filters=(2,), dense_units=3), (8, 8, 1), 2, Format.channels_last, "float32"
    )
    before = weights_sha256(model)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    assert weights_sha256(again) == before
    weights = model.get_weights()
    weights[-1][0] = np.nextafter(weights[-1][0], 1)
    model.set_weights(weights)
    assert weights_sha256(model) != before


def test_the_same_job_in_another_process_ends_in_the_same_weights(tmp_path: Path, small_run: Path) -> None:
    ended = run_command(*SMALL, "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    again, before = result_of(tmp_path / "run"), result_of(small_run)
    for name in ("precision", "device", "processor", "threads", "versions"):
        assert getattr(again, name) == getattr(before, name)
    assert again.weights_sha256 == before.weights_sha256
    assert again.job_digest == before.job_digest


def test_another_seed_ends_in_other_weights(tmp_path: Path, small_run: Path) -> None:
    ended = run_command(*SMALL, "train.epochs=1", "seed=1", "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert result_of(tmp_path / "run").history[0].loss != result_of(small_run).history[0].loss


def test_channels_first_sparse_labels_and_validation_train_as_well(tmp_path: Path) -> None:
    overrides = (
        "data.format=channels_first",
        "train.loss=sparse_categorical_crossentropy",
        "data.validation=200",
    )
    ended = run_command(*SMALL, *overrides, "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.out + ended.err
    assert "x_train (800, 1, 28, 28), y_train (800,)" in ended.out
    assert "x_validation (200, 1, 28, 28), y_validation (200,)" in ended.out
    assert "validation accuracy" in ended.out
    result = result_of(tmp_path / "run")
    assert result.accuracy > 0.6
    assert result.accuracy != result.history[-1].val_accuracy
    images = datasets.load(DataConfig(test_limit=500))
    probabilities = load_predictor(tmp_path / "run")(images.x_test[..., 0])
    assert (probabilities.argmax(1) == images.y_test).mean() == pytest.approx(result.accuracy, abs=1e-9)


def test_bfloat16_trains_and_saves_a_plain_float32_model(tmp_path: Path, keras: ModuleType) -> None:
    ended = run_command(*SMALL, "train.precision=bfloat16", "run_dir=run", cwd=tmp_path)
    assert ended.code == 0, ended.out + ended.err
    result = result_of(tmp_path / "run")
    assert result.precision == "bfloat16"
    assert result.accuracy > 0.6
    model = keras.models.load_model(tmp_path / "run" / "model.keras", safe_mode=True)
    assert {layer.dtype_policy.name for layer in model.layers} == {"float32"}
    assert weights_sha256(model) == result.weights_sha256


def test_every_saved_model_predicts_the_same(small_run: Path, keras: ModuleType) -> None:
    """On the whole test set: the Keras model, the tutorial's HDF5 file and ONNX to 1e-5."""
    images = datasets.load(DataConfig()).x_test
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = keras.models.load_model(small_run / "model.keras", safe_mode=True)
        h5 = keras.models.load_model(small_run / "keras-tf-mnist.h5", safe_mode=True)
    expected = model.predict_on_batch(images.astype("float32") / 255)
    assert np.array_equal(h5.predict_on_batch(images.astype("float32") / 255), expected)
    assert np.abs(load_predictor(small_run)(images[..., 0]) - expected).max() < 1e-5


def test_the_run_folder_holds_what_the_design_says(small_run: Path) -> None:
    names = {path.name for path in small_run.iterdir()}
    assert names == {
        "job.json", "run.json", "log.txt", "metrics.jsonl", "result.json", "model.keras", "model.onnx",
        "keras-tf-mnist.h5", "history.png", "confusion.png", "mistakes.png", "checkpoints", ".lock",
    }  # fmt: skip
    saved = sorted(path.name for path in (small_run / "checkpoints").iterdir())
    assert saved == ["epoch-000001.npz", "epoch-000001.sha256", "epoch-000002.npz", "epoch-000002.sha256"]
    result = json.loads((small_run / "result.json").read_text())
    assert set(result) == {
        "schema", "job_digest", "accuracy", "loss", "history", "seconds_per_epoch", "training_seconds",
        "weights_sha256", "precision", "device", "processor", "threads", "versions", "files", "changes",
    }  # fmt: skip
    assert result["job_digest"] == run_folder.read_job(small_run).digest
    assert set(result["versions"]) == {"keras", "mnist_cnn", "numpy", "tensorflow"}


@pytest.mark.usefixtures("keras")
def test_weights_that_are_no_numbers_are_a_failure_even_where_a_relu_hides_them() -> None:
    job = launch.make_job(
        "data.train_limit=64", "data.test_limit=10", "model.filters=[2]", "model.dense_units=4"
    )
    trained = epoch.Trainer(job, datasets.load(job.data))
    kernel = trained.model.layers[0].kernel
    kernel.assign(np.full(kernel.shape, np.nan, np.float32))
    with pytest.raises(TrainingError, match=r"NaN|the loss became nan"):
        trained.run_epoch(1, lambda progress: None)


@pytest.mark.usefixtures("keras")
def test_an_hdf5_file_that_the_disk_does_not_take_is_a_worded_error(tmp_path: Path) -> None:
    model = build_model(ModelConfig(filters=(2,)), (28, 28, 1), 10, Format.channels_last, "float32")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignoring = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(BackendError, match=r"cannot write .*digits\.h5"):
            train.save_h5(model, tmp_path / "digits.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignoring)
    assert list(tmp_path.iterdir()) == []
