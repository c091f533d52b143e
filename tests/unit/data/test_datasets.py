"""Promises of the data sets: which files are one, what makes them fit, and the arrays that they give."""

from __future__ import annotations

import gzip
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from mnist_cnn.config import DataConfig, Format
from mnist_cnn.data import datasets, download
from mnist_cnn.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from mnist_cnn.data.idx import Array

    Read = Callable[[DataConfig], object]

DIGEST = "bea3e11839735ea12a1e2ed33f0af431a175a00cca73e97c652fbd0a3ed97cc4"
OFFICIAL = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
TUTORIAL = ("train-images", "train-labels", "test-images", "test-labels")
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = range(4)

by_inspect_and_load = pytest.mark.parametrize("read", [datasets.inspect, datasets.load])


def idx(array: Array) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def small_arrays() -> list[Array]:
    numbers = np.random.default_rng(0)
    shapes = ((7, 5, 4), (7,), (3, 5, 4), (3,))
    return [numbers.integers(0, 10, shape, np.uint8) for shape in shapes]


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
    """Put `content` in place of one file of the set, and return the error that reading it gives."""
    path = folder / f"{OFFICIAL[part]}.gz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        datasets.load(at(folder))
    assert str(path) in caught.value.message
    assert "expected" in caught.value.message
    assert "\n" not in caught.value.message
    assert "get the four files again" in caught.value.hint
    with pytest.raises(DataError) as inspected:
        datasets.inspect(at(folder))
    assert vars(inspected.value) == vars(caught.value)
    return caught.value


# The packaged set


@pytest.fixture(scope="module")
def mnist() -> datasets.DataSet:
    return datasets.load(DataConfig(digest=DIGEST))


def test_the_packaged_set_is_mnist(mnist: datasets.DataSet) -> None:
    assert mnist.x_train.shape == (60_000, 28, 28, 1)
    assert mnist.x_test.shape == (10_000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.y_train.dtype == np.uint8
    assert mnist.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean and standard deviation that everyone normalizes MNIST with.
    assert round(float(mnist.x_train.mean()) / 255, 4) == 0.1307
    assert round(float(mnist.x_train.std(dtype=np.float32)) / 255, 4) == 0.3081


def test_the_digest_in_the_table_is_that_of_the_arrays(mnist: datasets.DataSet) -> None:
    arrays = (mnist.x_train[..., 0], mnist.y_train, mnist.x_test[..., 0], mnist.y_test)
    assert datasets.digest(*arrays) == download.sources()["mnist"].digest == DIGEST


def test_inspecting_the_packaged_set_tells_all_about_it() -> None:
    assert datasets.inspect(DataConfig()) == datasets.DataSetInfo(DIGEST, 60_000, 10_000, 28, 28, "packaged")


def test_inspecting_the_packaged_set_imports_neither_numpy_nor_pooch() -> None:
    program = (
        "import sys; from mnist_cnn.config import DataConfig; from mnist_cnn.data import datasets;"
        "datasets.inspect(DataConfig(train_limit=9));"
        "print({'numpy', 'pooch', 'tensorflow', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


@by_inspect_and_load
def test_a_damaged_installation_is_found_and_says_reinstall(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Read
) -> None:
    labels = (
        Path(shutil.copytree(download.DATASETS_DIR / "mnist", tmp_path / "mnist"))
        / f"{OFFICIAL[TRAIN_LABELS]}.gz"
    )
    monkeypatch.setattr(download, "DATASETS_DIR", tmp_path)
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
        assert "reinstall" in caught.value.hint


@by_inspect_and_load
def test_too_few_classes_for_the_packaged_set_are_refused(read: Read) -> None:
    with pytest.raises(DataError, match=r"0 to 7 were expected, as data.num_classes=8") as caught:
        read(DataConfig(num_classes=8))
    assert "data.num_classes=10" in caught.value.hint


def test_an_unknown_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="mnist, fashion_mnist, kmnist") as caught:
        datasets.inspect(DataConfig(name="fashion_mnst"))
    assert "fashion_mnist" in caught.value.hint


# Names, and gzipped or raw


@pytest.mark.parametrize("stems", [OFFICIAL, TUTORIAL])
@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_any_accepted_name_gzipped_or_raw_gives_the_same_digest(
    tmp_path: Path, stems: tuple[str, ...], suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    contents = [pack(idx(array)) for array in small_arrays()]
    write_set(tmp_path, [stem + suffix for stem in stems], contents)
    x_train, y_train, x_test, y_test = small_arrays()
    info = datasets.inspect(at(tmp_path))
    assert info == datasets.DataSetInfo(
        datasets.digest(x_train, y_train, x_test, y_test), 7, 3, 5, 4, str(tmp_path)
    )


def test_the_raw_packaged_files_have_the_packaged_digest(tmp_path: Path) -> None:
    for file in download.sources()["mnist"].files:
        packed = (download.DATASETS_DIR / "mnist" / file.name).read_bytes()
        (tmp_path / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed))
    info = datasets.inspect(at(tmp_path, digest=DIGEST))
    assert info is not None
    assert info.location == str(tmp_path)


def test_of_two_files_for_one_part_the_documented_one_is_read(tmp_path: Path) -> None:
    arrays = small_arrays()
    write_set(tmp_path, list(TUTORIAL), [idx(array) for array in arrays])
    order = ["train-labels", "train-labels.gz", "train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"]
    for label, name in enumerate(order):
        (tmp_path / name).write_bytes(idx(np.full(7, label, np.uint8)))
        assert datasets.load(at(tmp_path)).y_train[0] == label


def test_a_missing_file_is_named_with_the_names_accepted(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        datasets.load(at(folder))
    for name in (str(folder / "t10k-labels-idx1-ubyte.gz"), "t10k-labels-idx1-ubyte,", "test-labels.gz"):
        assert name in caught.value.message
    assert "data.dir" in caught.value.hint


@pytest.mark.parametrize("name", ["none", "a-file", "x" * 300])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match=f"data.dir={tmp_path / name}: ") as caught:
        datasets.inspect(at(tmp_path / name))
    assert "leave out data.dir" in caught.value.hint


LOAD_UNPRIVILEGED = """
import os
import numpy  # before privileges are dropped, as nobody need be able to read what is installed
from mnist_cnn.data import datasets
from mnist_cnn.config import DataConfig
from mnist_cnn.errors import DataError
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    datasets.load(DataConfig(dir="set"))
except DataError as error:
    print(error.message)
"""


@pytest.mark.skipif(os.name != "posix", reason="there are no such permissions")
@pytest.mark.parametrize(
    ("name", "found"),
    [(".", "data.dir=set: cannot be read"), (f"{OFFICIAL[0]}.gz", f"set/{OFFICIAL[0]}.gz cannot be read")],
    ids=["folder", "file"],
)
def test_what_may_not_be_read_is_named(folder: Path, name: str, found: str) -> None:
    folder.parent.chmod(0o755)  # else that could not be read either
    (folder / name).chmod(0)
    try:
        command = [sys.executable, "-P", "-c", LOAD_UNPRIVILEGED]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder.parent)
    finally:
        (folder / name).chmod(0o700)
    assert done.stdout == f"{found}: Permission denied\n"


# Bad files


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("content", [b"", b"\x1f\x8b cut off"], ids=["empty", "damaged"])
def test_a_file_that_is_not_sound_is_refused_in_any_place(folder: Path, part: int, content: bytes) -> None:
    refused(folder, part, content)


def test_a_label_beyond_the_classes_is_named_with_its_place(folder: Path) -> None:
    labels = np.array([1, 2, 3, 10, 5, 10, 7], np.uint8)
    error = refused(folder, TRAIN_LABELS, gzip.compress(idx(labels)))
    assert "label 10 was found (label 4 of 7), but 0 to 9 were expected" in error.message
    assert "data.num_classes=11" in error.hint
    assert datasets.load(at(folder, num_classes=11)).y_train.max() == 10


@pytest.mark.parametrize("part", [TRAIN_LABELS, TEST_LABELS])
def test_labels_that_are_not_one_for_each_image_are_refused(folder: Path, part: int) -> None:
    error = refused(folder, part, gzip.compress(idx(np.zeros(4, np.uint8))))
    assert "4 labels were found" in error.message


def test_test_images_of_another_size_than_the_training_images_are_refused(folder: Path) -> None:
    error = refused(folder, TEST_IMAGES, gzip.compress(idx(np.zeros((3, 4, 5), np.uint8))))
    assert "4 x 5 pixels were found, but 5 x 4 were expected" in error.message


def test_other_data_than_the_digest_asks_for_are_refused(folder: Path) -> None:
    for config in (at(folder, digest="0" * 64), DataConfig(digest="0" * 64)):
        for read in (datasets.load, datasets.inspect):
            with pytest.raises(DataError, match="0" * 64) as caught:
                read(config)
            assert "data.digest" in caught.value.hint


# Limits, validation, format


def test_the_limits_take_the_first_images(mnist: datasets.DataSet) -> None:
    limited = datasets.load(DataConfig(train_limit=1000, test_limit=100))
    assert np.array_equal(limited.x_train, mnist.x_train[:1000])
    assert np.array_equal(limited.y_train, mnist.y_train[:1000])
    assert np.array_equal(limited.x_test, mnist.x_test[:100])
    assert np.array_equal(limited.y_test, mnist.y_test[:100])
    assert limited.x_validation.shape == (0, 28, 28, 1)
    assert limited.y_validation.shape == (0,)


@pytest.mark.parametrize("limit", [None, 6])
def test_validation_takes_the_last_of_the_training_images_in_use(folder: Path, limit: int | None) -> None:
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
        ({"train_limit": 8}, "data.train_limit=8: allowed is a whole number from 1 to 7, or null"),
        ({"test_limit": 4}, "data.test_limit=4: allowed is a whole number from 1 to 3, or null"),
        ({"validation": 7}, "data.validation=7: allowed is a whole number from 0 to 6"),
        (
            {"validation": 3, "train_limit": 3},
            "data.validation=3: allowed is a whole number from 0 to 2",
        ),
    ],
)
def test_limits_beyond_what_is_there_are_refused(
    folder: Path, read: Read, values: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(at(folder, **values))
    assert caught.value.message == message
    lower = {key: value - 1 for key, value in values.items() if key != "train_limit" or len(values) == 1}
    read(at(folder, **{**values, **lower}))


def test_limits_beyond_the_packaged_set_are_refused_without_unpacking_it() -> None:
    with pytest.raises(ConfigurationError, match=r"data.train_limit=60001: .* from 1 to 60000, or null"):
        datasets.inspect(DataConfig(train_limit=60_001))


def test_limits_and_format_do_not_change_the_digest(folder: Path) -> None:
    plain = datasets.inspect(at(folder))
    limited = datasets.inspect(at(folder, train_limit=2, validation=1, format=Format.channels_first))
    assert plain == limited


@pytest.mark.parametrize(
    ("format_", "shape"), [(Format.channels_last, (7, 5, 4, 1)), (Format.channels_first, (7, 1, 5, 4))]
)
def test_the_format_places_the_channel(folder: Path, format_: Format, shape: tuple[int, ...]) -> None:
    loaded = datasets.load(at(folder, format=format_))
    assert loaded.x_train.shape == shape
    assert np.array_equal(loaded.x_train.reshape(7, 5, 4), small_arrays()[TRAIN_IMAGES])


def test_the_arrays_are_read_only_views_of_what_was_read(folder: Path) -> None:
    loaded = datasets.load(at(folder, train_limit=5, validation=2, format=Format.channels_first))
    assert np.shares_memory(loaded.x_train.base, loaded.x_validation.base)
    for array in vars(loaded).values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_the_digest_tells_shapes_and_order_apart() -> None:
    x_train, y_train, x_test, y_test = small_arrays()
    digests = {
        datasets.digest(x_train, y_train, x_test, y_test),
        datasets.digest(x_train.reshape(7, 4, 5), y_train, x_test, y_test),
        datasets.digest(x_test, y_test, x_train, y_train),
        datasets.digest(x_train, y_train, x_test, np.flip(y_test)),
    }
    assert len(digests) == 4
    assert datasets.digest(np.asfortranarray(x_train), y_train, x_test, y_test) in digests


def test_a_data_set_compares_by_identity_and_a_description_by_value(folder: Path) -> None:
    loaded = datasets.load(at(folder))
    assert loaded != replace(loaded)
    assert datasets.inspect(at(folder)) == datasets.inspect(at(folder))
