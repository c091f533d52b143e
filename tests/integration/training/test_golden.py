"""Exact jobs end in the weights of tests/golden.json, whatever processor these tests run on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from benchmarks import golden
from benchmarks.weights import weights_after

TOX = Path(__file__).parent.parent.parent.parent / "tox.ini"
OF_EACH_OPTIMIZER = ("tutorial", "channels first", "compact", "compact, channels first", "deep")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


@pytest.fixture
def without_grappler() -> Iterator[None]:
    """Let TensorFlow compute graphs as they are written."""
    import tensorflow as tf

    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def check(name: str) -> None:
    """Train a job; compare its weights with those that are listed for this version of TensorFlow."""
    tensorflow = version("tensorflow")
    listed = golden.Golden.read(tensorflow)
    if listed is None:
        pytest.skip(f"tests/golden.json lists no weights of tensorflow {tensorflow}; add: {golden.WRITE}")
    assert weights_after(golden.JOBS[name]) == listed.weights[name]


@pytest.mark.usefixtures("keras")
@pytest.mark.parametrize("name", golden.JOBS)
def test_an_exact_job_ends_in_the_same_weights_on_every_processor(name: str) -> None:
    check(name)


@pytest.mark.usefixtures("keras", "without_grappler")
@pytest.mark.parametrize("name", OF_EACH_OPTIMIZER)
def test_grappler_does_not_change_what_an_exact_job_computes(name: str) -> None:
    check(name)


def test_tox_installs_a_version_of_tensorflow_that_is_listed() -> None:
    (pinned,) = re.findall(r"^ +tensorflow==(\S+)$", TOX.read_text(encoding="utf-8"), re.MULTILINE)
    assert golden.Golden.read(pinned) is not None
