"""A custom network is built once by another process before a cluster is paid for."""

from __future__ import annotations

import dataclasses
import io
import subprocess
from unittest.mock import Mock

import pytest

from mnist_cnn import launch
from mnist_cnn.config import ModelConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import network_check

pytestmark = pytest.mark.usefixtures("keras")


NETWORK = """
import keras
print("building")
def build(config, input_shape, num_classes):
    return keras.Sequential([
        keras.Input(input_shape), keras.layers.Flatten(), keras.layers.{layer},
        keras.layers.Dense(num_classes, activation="softmax"),
    ])
"""


@pytest.mark.parametrize(
    ("network", "code", "said"),
    [
        ("exact ReLU()", 0, "building"),
        ("exact LayerNormalization(name='n')", 2, "cannot train n (LayerN"),
        ("native LayerNormalization(name='n')", 0, "building"),
        ("native No()", 2, "build()"),
    ],
)
def test_a_network_file_is_checked_without_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], network: str, code: int, said: str
) -> None:
    numerics, layer = network.split()
    job = launch.make_job(f"train.numerics={numerics}")
    job = dataclasses.replace(job, model=ModelConfig(file="own.py", source=NETWORK.format(layer=layer)))
    monkeypatch.setattr("sys.stdin", io.StringIO(job.to_json()))
    assert network_check.main() == code
    assert said in capsys.readouterr().out.splitlines()[-1]


def test_only_a_job_with_a_file_needs_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.run", Mock(side_effect=AssertionError))
    job = launch.make_job()
    network_check.check(job)
    crashed = subprocess.CompletedProcess([], -9, stdout="", stderr="Killed")
    monkeypatch.setattr("subprocess.run", Mock(return_value=crashed))
    with pytest.raises(ConfigurationError, match=r"model.file=own.py: building its network failed: Killed"):
        network_check.check(dataclasses.replace(job, model=ModelConfig(file="own.py", source="x")))


def test_a_network_that_is_never_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    job = launch.make_job()
    monkeypatch.setattr(network_check, "SECONDS", 0.1)
    with pytest.raises(ConfigurationError, match=r"own\.py: its network was not built in 0 seconds"):
        network_check.check(
            dataclasses.replace(job, model=ModelConfig(file="own.py", source="while 1: pass"))
        )
