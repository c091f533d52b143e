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
    too_wide = r"model\.kernel_size=15: the input of convolution 2 is only 14"
    with pytest.raises(ConfigurationError, match=too_wide):
        check_network(ModelConfig(kernel_size=15), 28, 28)
    check_network(ModelConfig(kernel_size=14), 28, 28)
    with pytest.raises(ConfigurationError, match=r"model\.pool_size=2"):
        check_network(ModelConfig(kernel_size=13), 25, 28)
    with pytest.raises(ConfigurationError, match=r"model\.pool_after=\[3\]: model\.filters has 2"):
        check_network(ModelConfig(pool_after=(3,)), 28, 28)


CONFIGURATIONS = st.builds(
    ModelConfig,
    filters=st.just((1, 1, 1)),
    kernel_size=st.integers(1, 4),
    stem_kernel_size=st.none() | st.integers(1, 6),
    stem_stride=st.integers(1, 3),
    pool_size=st.integers(1, 3),
    pool_after=st.sets(st.integers(1, 3)).map(tuple),
    dense_units=st.just(1),
)


@pytest.mark.usefixtures("keras")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.integers(1, 16), config=CONFIGURATIONS)
def test_exactly_the_networks_that_keras_cannot_build_are_refused(size: int, config: ModelConfig) -> None:
    try:
        build_model(config, (size, size + 1, 1), 2, Format.channels_last, "float32")
    except ValueError:
        with pytest.raises(ConfigurationError):
            check_network(config, size, size + 1)
    else:
        check_network(config, size, size + 1)


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
