"""What `train` writes, as far as it needs no training."""

from __future__ import annotations

import resource
import signal
from pathlib import Path
from unittest.mock import Mock

import pytest

from mnist_cnn import cpu, launch
from mnist_cnn.config import Format, ModelConfig
from mnist_cnn.errors import BackendError, ConfigurationError
from mnist_cnn.result import EpochRow
from mnist_cnn.training import saving, train
from mnist_cnn.training.model import build_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.mark.usefixtures("keras")
def test_an_hdf5_file_that_does_not_fit_on_the_disk_is_an_error(tmp_path: Path) -> None:
    model = build_model(ModelConfig(filters=(2,)), (28, 28, 1), 10, Format.channels_last, "float32")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
        with pytest.raises(BackendError, match=r"cannot write .*digits\.h5"):
            saving.save_h5(model, tmp_path / "digits.h5")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("validation", "name"), [(0, "test"), (100, "val")])
def test_the_log_line_of_an_epoch_names_the_held_out_images(validation: int, name: str) -> None:
    job = launch.make_job("train.epochs=100", f"data.validation={validation}")
    row = EpochRow(100, 0.25, 0.9, 0.125, 0.95, 1.0, 102.5)
    line = train.describe_epoch(row, job)
    assert line == f"epoch 100/100  loss 0.2500 ({name} 0.1250)  accuracy 90.00% ({name} 95.00%)  102.5 s"
    assert len(line) <= 80


@pytest.mark.usefixtures("keras")
def test_an_exact_job_leaves_the_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU is made up: the machines that run the tests need not have one."""
    import tensorflow as tf

    hidden = Mock()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config, "set_visible_devices", hidden)
    details = Mock(return_value={"device_name": "NVIDIA H100"})
    monkeypatch.setattr(tf.config.experimental, "get_device_details", details)
    native, exact = launch.make_job(), launch.make_job("train.numerics=exact")
    assert train._prepare_tensorflow(native, "auto") == "NVIDIA H100"  # noqa: SLF001 - training costs seconds
    assert train._prepare_tensorflow(exact, "auto") == "cpu"  # noqa: SLF001 - as above
    hidden.assert_called_once_with([], "GPU")


def test_a_node_that_cannot_train_exactly_says_so_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    exact = launch.make_job("train.numerics=exact")
    with pytest.raises(ConfigurationError, match=r"backend\.device=gpu"):
        train.train(exact, tmp_path, device="gpu")
    monkeypatch.setattr(cpu, "features", lambda: ("avx",))
    with pytest.raises(BackendError, match="a processor without FMA"):
        train.train(exact, tmp_path)
    assert list(tmp_path.iterdir()) == []
