"""A data set is found under its accepted names, checked as a whole and loaded as the job asks."""

from __future__ import annotations

import gzip
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnist_cnn.config import DataConfig, Format
from mnist_cnn.data import datasets, download
from mnist_cnn.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from mnist_cnn.data.idx import Array

Read = Callable[[DataConfig], object]

DIGEST = "bea3e11839735ea12a1e2ed33f0af431a175a00cca73e97c652fbd0a3ed97cc4"
OFFICIAL = (
    *("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    *("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
TUTORIAL = ("train-images", "train-labels", "test-images", "test-labels")
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = range(4)

by_inspect_and_load = pytest.mark.parametrize("read", [datasets.inspect, datasets.load])


def idx(array: Array) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_arrays() -> list[Array]:
    numbers = np.random.default_rng(0)
    images = [numbers.integers(0, 256, (count, 5, 4), np.uint8) for count in (7, 3)]
    return [images[0], np.array([2, 0, 1, 3, 0, 3, 2], np.uint8), images[1], np.array([3, 0, 1], np.uint8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small, sound data set, gzipped, under the official names."""
    contents = [gzip.compress(idx(array)) for array in small_arrays()]
    write_set(tmp_path / "set", [f"{stem}.gz" for stem in OFFICIAL], contents)
    return tmp_path / "set"


def write_set(folder: Path, names: list[str], contents: list[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in zip(names, contents, strict=True):
        (folder / name).write_bytes(content)


def at(folder: Path, **values: Any) -> DataConfig:
    return DataConfig(dir=str(folder), **values)


def refused(folder: Path, part: int, content: bytes) -> DataError:
    """Replace one file of the set by `content`; return the error that both functions raise."""
    path = folder / f"{OFFICIAL[part]}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        datasets.load(at(folder))
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert "get the four files again" in caught.value.hint
    with pytest.raises(DataError) as inspected:
        datasets.inspect(at(folder))
    assert vars(inspected.value) == vars(caught.value)
    return caught.value


# The packaged set


def test_the_packaged_set_is_mnist() -> None:
    mnist = datasets.load(DataConfig(digest=DIGEST))
    assert mnist.x_train.shape == (60_000, 28, 28, 1)
    assert mnist.x_test.shape == (10_000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.y_train.dtype == np.uint8
    assert mnist.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert round(float(mnist.x_train.mean()) / 255, 4) == 0.1307  # the mean that everyone normalizes with

    arrays = (mnist.x_train[..., 0], mnist.y_train, mnist.x_test[..., 0], mnist.y_test)
    assert datasets.digest(*arrays) == download.sources()["mnist"].digest == DIGEST
    assert datasets.inspect(DataConfig()) == datasets.DataSetInfo(
        DIGEST, 60_000, 10_000, 28, 28, 10, "packaged"
    )


@by_inspect_and_load
def test_a_damaged_installation_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    copy = shutil.copytree(download.DATASETS_DIR / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(download, "DATASETS_DIR", tmp_path)
    labels = copy / f"{OFFICIAL[TRAIN_LABELS]}.gz"
    content = bytearray(labels.read_bytes())
    content[5] ^= 1  # the gzip header's time: no reader would mind
    labels.write_bytes(content)
    with pytest.raises(DataError, match="SHA-256") as changed:
        read(DataConfig())
    labels.unlink()
    with pytest.raises(DataError, match="missing") as missing:
        read(DataConfig())
    for caught in (changed, missing):
        assert str(labels) in caught.value.message
        assert "install the package again" in caught.value.hint


def test_too_few_classes_for_the_packaged_set_are_refused() -> None:
    said = r"labels 0 to 9, but data.num_classes=8 allows 0 to 7\n.*data.num_classes=10"
    with pytest.raises(DataError, match=said):
        datasets.inspect(DataConfig(num_classes=8))


# Names, and gzipped or raw


@pytest.mark.parametrize("stems", [OFFICIAL, TUTORIAL])
@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_files_are_found_by_any_name_gzipped_or_raw(
    tmp_path: Path, stems: tuple[str, ...], suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    contents = [pack(idx(array)) for array in small_arrays()]
    write_set(tmp_path, [stem + suffix for stem in stems], contents)
    digest = datasets.digest(*small_arrays())
    assert datasets.inspect(at(tmp_path)) == datasets.DataSetInfo(digest, 7, 3, 5, 4, 4, str(tmp_path))


def test_the_official_name_is_preferred(tmp_path: Path) -> None:
    arrays = small_arrays()
    write_set(tmp_path, list(TUTORIAL), [idx(array) for array in arrays])
    order = ["train-labels", "train-labels.gz", "train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"]
    for label, name in enumerate(order):
        (tmp_path / name).write_bytes(idx(np.full(7, label, np.uint8)))
        assert datasets.load(at(tmp_path, num_classes=4)).y_train[0] == label


def test_a_missing_file_is_reported_with_the_accepted_names(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        datasets.load(at(folder))
    for name in (str(folder / "t10k-labels-idx1-ubyte.gz"), "t10k-labels-idx1-ubyte,", "test-labels.gz"):
        assert name in caught.value.message
    assert "data.dir" in caught.value.hint


@pytest.mark.parametrize("name", ["none", "a-file", "x" * 300])
def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match=rf"data.dir={tmp_path / name}: .*\n.*leave out data.dir"):
        datasets.inspect(at(tmp_path / name))


LOAD_UNPRIVILEGED = """
import os
import numpy  # and the configuration: the other user may not read the installation
from mnist_cnn.data import datasets
from mnist_cnn.config import DataConfig
from mnist_cnn.errors import DataError
config = DataConfig(dir="set")
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    datasets.load(config)
except DataError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
@pytest.mark.parametrize(
    ("name", "found"),
    [(".", "data.dir=set: cannot be read"), (f"{OFFICIAL[0]}.gz", f"set/{OFFICIAL[0]}.gz cannot be read")],
    ids=["folder", "file"],
)
def test_a_file_without_read_permission_is_named(folder: Path, name: str, found: str) -> None:
    folder.parent.chmod(0o755)  # so that only `name` is unreadable
    (folder / name).chmod(0)
    try:
        command = [sys.executable, "-P", "-c", LOAD_UNPRIVILEGED]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder.parent)
    finally:
        (folder / name).chmod(0o700)
    assert done.stdout == f"{found}: Permission denied\n"


# Bad files


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b damaged"], ids=["empty", "damaged"])
def test_every_one_of_the_four_files_is_checked(folder: Path, part: int, content: bytes) -> None:
    refused(folder, part, content)


def test_a_label_beyond_the_classes_is_reported(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        datasets.inspect(at(folder, num_classes=3))
    assert "label 4 of 7 is 3, but data.num_classes=3 allows 0 to 2" in caught.value.message
    assert "data.num_classes=4" in caught.value.hint


@pytest.mark.parametrize(
    ("part", "labels", "message", "classes"),
    [
        (TRAIN_LABELS, [0, 1, 5, 2, 8, 9, 9], "0 to 2, 5, 8 to 9; no image has label 3 to 4, 6 to 7", 10),
        (TRAIN_LABELS, [1, 2, 3, 4, 4, 3, 2], "its labels are 1 to 4; no image has label 0", 5),
        (TEST_LABELS, [1, 4, 3], "label 2 of 3 is 4, but the training labels are 0 to 3", 5),
    ],
)
def test_labels_with_holes_are_refused_unless_the_number_of_classes_is_set(
    folder: Path, part: int, labels: list[int], message: str, classes: int
) -> None:
    (folder / f"{OFFICIAL[part]}.gz").write_bytes(idx(np.array(labels, np.uint8)))
    for read in (datasets.inspect, datasets.load):
        with pytest.raises(DataError, match=f"{message}\n.*set data.num_classes={classes}"):
            read(at(folder))
    info = datasets.inspect(at(folder, num_classes=classes))
    assert info is not None
    assert info.classes == classes


def test_images_of_a_single_class_are_refused(folder: Path) -> None:
    (folder / f"{OFFICIAL[TRAIN_LABELS]}.gz").write_bytes(idx(np.full(7, 3, np.uint8)))
    with pytest.raises(DataError, match="every label is 3"):
        datasets.inspect(at(folder))


@pytest.mark.parametrize(
    ("part", "shape", "message"),
    [
        (TRAIN_LABELS, (4,), "it has 4 labels for the "),
        (TEST_LABELS, (4,), "it has 4 labels for the "),
        (TEST_IMAGES, (3, 4, 5), "its images have 4 x 5 pixels.*train-images-idx3-ubyte.gz have 5 x 4"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    folder: Path, part: int, shape: tuple[int, ...], message: str
) -> None:
    error = refused(folder, part, gzip.compress(idx(np.zeros(shape, np.uint8))))
    assert re.search(message, error.message)


def test_data_with_another_digest_are_refused(folder: Path) -> None:
    for read, config in (
        (datasets.load, at(folder, digest="0" * 64)),
        (datasets.inspect, at(folder, digest="0" * 64)),
        (datasets.inspect, DataConfig(digest="0" * 64)),
    ):
        with pytest.raises(DataError, match="data.digest=" + "0" * 64 + r".*\n.*leave out data.digest"):
            read(config)


# Limits, validation, format


def test_the_limits_take_the_first_images(folder: Path) -> None:
    train_images, train_labels, test_images, test_labels = small_arrays()
    limited = datasets.load(at(folder, train_limit=4, test_limit=2))
    assert np.array_equal(limited.x_train[..., 0], train_images[:4])
    assert np.array_equal(limited.y_train, train_labels[:4])
    assert np.array_equal(limited.x_test[..., 0], test_images[:2])
    assert np.array_equal(limited.y_test, test_labels[:2])
    assert limited.x_validation.shape == (0, 5, 4, 1)
    assert limited.y_validation.shape == (0,)


@pytest.mark.parametrize("limit", [None, 6])
def test_validation_takes_the_last_training_images_in_use(folder: Path, limit: int | None) -> None:
    images, labels, *_ = small_arrays()
    used = limit or 7
    split = datasets.load(at(folder, train_limit=limit, validation=2))
    assert np.array_equal(split.x_train[..., 0], images[: used - 2])
    assert np.array_equal(split.y_train, labels[: used - 2])
    assert np.array_equal(split.x_validation[..., 0], images[used - 2 : used])
    assert np.array_equal(split.y_validation, labels[used - 2 : used])
    assert len(split.x_test) == 3


@by_inspect_and_load
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_limit": 8}, "data.train_limit=8: must be a whole number from 1 to 7, or null"),
        ({"test_limit": 4}, "data.test_limit=4: must be a whole number from 1 to 3, or null"),
        ({"validation": 7}, "data.validation=7: must be a whole number from 0 to 6"),
        ({"validation": 3, "train_limit": 3}, "data.validation=3: must be a whole number from 0 to 2"),
    ],
)
def test_limits_beyond_the_data_are_refused(
    folder: Path, read: Read, values: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(at(folder, **values))
    assert caught.value.message == message
    lower = {key: value - 1 for key, value in values.items() if key != "train_limit" or len(values) == 1}
    read(at(folder, **{**values, **lower}))


def test_limits_and_format_do_not_change_the_digest(folder: Path) -> None:
    limited = at(folder, train_limit=2, validation=1, format=Format.channels_first)
    assert datasets.inspect(limited) == datasets.inspect(at(folder))


@pytest.mark.parametrize(
    ("format_", "shape"), [(Format.channels_last, (7, 5, 4, 1)), (Format.channels_first, (7, 1, 5, 4))]
)
def test_the_format_places_the_channel(folder: Path, format_: Format, shape: tuple[int, ...]) -> None:
    loaded = datasets.load(at(folder, format=format_))
    assert loaded.x_train.shape == shape
    assert np.array_equal(loaded.x_train.reshape(7, 5, 4), small_arrays()[TRAIN_IMAGES])


def test_the_arrays_are_read_only_views_and_compared_by_identity(folder: Path) -> None:
    loaded = datasets.load(at(folder, train_limit=5, validation=2, format=Format.channels_first))
    assert loaded != replace(loaded)
    assert np.shares_memory(loaded.x_train.base, loaded.x_validation.base)
    for array in vars(loaded).values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_the_digest_depends_on_shapes_and_order() -> None:
    x_train, y_train, x_test, y_test = small_arrays()
    digests = {
        datasets.digest(x_train, y_train, x_test, y_test),
        datasets.digest(x_train.reshape(7, 4, 5), y_train, x_test, y_test),
        datasets.digest(x_test, y_test, x_train, y_train),
        datasets.digest(x_train, y_train, x_test, np.flip(y_test)),
    }
    assert len(digests) == 4
    assert datasets.digest(np.asfortranarray(x_train), y_train, x_test, y_test) in digests
