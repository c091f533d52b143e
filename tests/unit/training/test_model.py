"""The network: what is built, what is refused, and the hash of its weights."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnist_cnn.config import Format, ModelConfig
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.training.model import build_model, check_network, weights_sha256

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")


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


def test_a_network_that_does_not_fit_is_refused_without_keras() -> None:
    with pytest.raises(
        ConfigurationError, match=r"model\.kernel_size=15: the input of convolution 2 is only 14"
    ):
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
def test_exactly_the_networks_that_keras_cannot_build_are_refused(  # noqa: PLR0913, PLR0917 - all vary
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


def test_the_hash_of_weights_sees_every_bit(keras: ModuleType) -> None:
    config = ModelConfig(filters=(2,), dense_units=3)
    model = build_model(config, (8, 8, 1), 2, Format.channels_last, "float32")
    before = weights_sha256(model)
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    assert weights_sha256(again) == before
    weights = model.get_weights()
    weights[-1][0] = np.nextafter(weights[-1][0], 1)
    model.set_weights(weights)
    assert weights_sha256(model) != before
