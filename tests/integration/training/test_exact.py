"""Exact runs as processes: they end in the same weights with other threads and instruction sets."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from helpers.copies import interrupted_copy
from helpers.processes import TINY, result_of, run_command, run_successfully

from mnist_cnn import launch
from mnist_cnn.config import ModelConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training import network_check

EXACT = (*TINY, "train.epochs=2", "train.numerics=exact", "train.precision=auto", "model.batch_norm=true")
NETWORK = """
import keras

def build(config, input_shape, num_classes):
    layers = [keras.layers.Flatten(), keras.layers.LayerNormalization(name="norm")]
    return keras.Sequential([keras.Input(input_shape), *layers, keras.layers.Dense(num_classes, "softmax")])
"""


def test_a_killed_run_resumes_elsewhere_to_the_same_weights(tmp_path: Path) -> None:
    """Resume with other threads and without the instructions beyond AVX2, as on another machine."""
    run_successfully(*EXACT, "run_dir=whole", cwd=tmp_path)
    whole = result_of(tmp_path / "whole")
    folder = interrupted_copy(tmp_path / "whole", tmp_path / "parts", after=1)
    threads = str(whole.threads + 1)
    resumed = run_command(
        "resume", "parts", cwd=tmp_path, TF_NUM_INTRAOP_THREADS=threads, ONEDNN_MAX_CPU_ISA="AVX2"
    )
    assert resumed.code == 0, resumed.err
    parts = result_of(folder)
    assert "resuming after epoch 1 of 2" in (folder / "log.txt").read_text()
    assert parts.weights_sha256 == whole.weights_sha256
    assert (parts.job_digest, parts.fingerprint) == (whole.job_digest, whole.fingerprint)
    assert parts.changes == ()
    assert (parts.precision, parts.threads) == ("bfloat16", whole.threads + 1)
    assert parts.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert [row.loss for row in parts.history] == [row.loss for row in whole.history]


def test_a_network_file_is_built_by_another_process_to_be_checked() -> None:
    job = launch.make_job("train.numerics=exact")
    job = dataclasses.replace(job, model=ModelConfig(file="own.py", source=NETWORK))
    with pytest.raises(ConfigurationError, match=r"cannot train norm \(LayerNormalization\)") as caught:
        network_check.check(job)
    assert "train.numerics=native" in caught.value.hint
