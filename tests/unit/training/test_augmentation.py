"""Augmentation: what each setting does to an image, and that the draws depend on the seed alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnist_cnn import launch
from mnist_cnn.config import TrainConfig
from mnist_cnn.data import datasets

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.usefixtures("keras"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]


def distorted(images: Any, seed: int = 0, augment_scale: float = 1.0, **settings: Any) -> NDArray[np.float32]:
    import tensorflow as tf

    from mnist_cnn.training import augmentation

    key = tf.constant([7, seed], tf.int64)
    result: NDArray[np.float32] = augmentation.distort(
        tf.constant(images), TrainConfig(**settings), key, tf.constant(augment_scale)
    ).numpy()
    return result


def spot(count: int = 2000, row: int = 14, column: int = 14) -> NDArray[np.float32]:
    """Return images (count, 29, 29, 1), each with one bright pixel. (14, 14) is the centre."""
    images = np.zeros((count, 29, 29, 1), np.float32)
    images[:, row, column] = 1
    return images


def centres(images: NDArray[np.float32]) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Return each image's centre of mass, in pixels down and right of its centre."""
    plane = images[..., 0]
    mass = plane.sum((1, 2))
    steps = np.arange(29) - 14
    return (plane.sum(2) @ steps) / mass, (plane.sum(1) @ steps) / mass


ALL: dict[str, Any] = {"rotation": 30.0, "zoom": 0.3, "shear": 0.3, "shift": 3.0}


def test_at_scale_zero_the_images_do_not_change() -> None:
    images = np.random.default_rng(0).random((20, 28, 27, 1), np.float32)
    assert np.array_equal(distorted(images, augment_scale=0.0, **ALL), images)


def test_the_draws_depend_on_the_seed_alone() -> None:
    images = np.random.default_rng(0).random((20, 28, 28, 1), np.float32)
    assert np.array_equal(distorted(images, **ALL), distorted(images, **ALL))
    assert not np.array_equal(distorted(images, **ALL), distorted(images, seed=1, **ALL))
    first, second = distorted(images[:1].repeat(2, 0), **ALL)
    assert not np.array_equal(first, second)


def test_images_are_shifted_by_up_to_the_shift_along_each_axis() -> None:
    down, right = centres(distorted(spot(), shift=2.0))
    for moved in (down, right):
        assert np.abs(moved).max() == pytest.approx(2, abs=0.02)
        assert np.abs(moved).mean() == pytest.approx(1, abs=0.05)
    assert abs(np.corrcoef(down, right)[0, 1]) < 0.1


def test_images_are_rotated_about_their_centre() -> None:
    down, right = centres(distorted(spot(row=14, column=24), rotation=30.0))
    angles = np.degrees(np.arctan2(down, right))
    np.testing.assert_allclose(np.hypot(down, right), 10, atol=0.3)
    assert np.abs(angles).max() == pytest.approx(30, abs=1.5)
    assert np.abs(angles.mean()) < 1.5


def test_images_are_enlarged_and_reduced_by_up_to_the_zoom() -> None:
    _, right = centres(distorted(spot(row=14, column=22), zoom=0.25))
    assert right.max() == pytest.approx(8 * 1.25, abs=0.3)
    assert right.min() == pytest.approx(8 * 0.75, abs=0.3)


def test_images_are_sheared_sideways_only() -> None:
    down, right = centres(distorted(spot(row=4, column=14), shear=0.2))
    np.testing.assert_allclose(down, -10, atol=1e-3)
    assert np.abs(right).max() == pytest.approx(2, abs=0.1)


def test_a_digit_stays_bright_and_inside_the_image() -> None:
    images = datasets.load(launch.make_job("data.test_limit=500").data).x_test.astype(np.float32) / 255
    changed = distorted(images, rotation=10, zoom=0.1, shear=0.1, shift=2)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert changed.sum() == pytest.approx(images.sum(), rel=0.03)
