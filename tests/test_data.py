"""The reader of data sets: what it gives, and every kind of file that it refuses."""

from __future__ import annotations

import gzip
import math
import os
import shutil
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_cnn import data
from mnist_cnn.config import DataConfig, Format
from mnist_cnn.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    Array = npt.NDArray[np.uint8]

DIGEST = "bea3e11839735ea12a1e2ed33f0af431a175a00cca73e97c652fbd0a3ed97cc4"
OFFICIAL = tuple(stems[0] for stems in data.STEMS)
TUTORIAL = ("train-images", "train-labels", "test-images", "test-labels")
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = range(4)


def idx(array: Array, magic: bytes | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """Write an array as IDX, with a header that may lie."""
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *(shape or array.shape)) + array.tobytes()


def small_arrays() -> list[Array]:
    numbers = np.random.default_rng(0)
    shapes = ((7, 5, 4), (7,), (3, 5, 4), (3,))
    return [numbers.integers(0, 10, shape, np.uint8) for shape in shapes]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small, sound data set, gzipped, under the official names."""
    write_set(tmp_path, [f"{stem}.gz" for stem in OFFICIAL], [gzip.compress(idx(a)) for a in small_arrays()])
    return tmp_path


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
        data.load(at(folder))
    assert str(path) in caught.value.message
    assert "expected" in caught.value.message
    assert "\n" not in caught.value.message
    assert "get the four files again" in caught.value.hint
    with pytest.raises(DataError) as inspected:
        data.inspect(at(folder))
    assert inspected.value.message == caught.value.message
    return caught.value


# The packaged set


@pytest.fixture(scope="module")
def mnist() -> data.DataSet:
    return data.load(DataConfig(digest=DIGEST))


def test_the_packaged_set_is_mnist(mnist: data.DataSet) -> None:
    assert mnist.x_train.shape == (60_000, 28, 28, 1)
    assert mnist.x_test.shape == (10_000, 28, 28, 1)
    assert mnist.x_train.dtype == mnist.y_train.dtype == np.uint8
    assert mnist.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # The mean and standard deviation that everyone normalizes MNIST with.
    assert round(float(mnist.x_train.mean()) / 255, 4) == 0.1307
    assert round(float(mnist.x_train.std()) / 255, 4) == 0.3081


def test_the_digest_in_the_table_is_that_of_the_arrays(mnist: data.DataSet) -> None:
    arrays = (mnist.x_train[..., 0], mnist.y_train, mnist.x_test[..., 0], mnist.y_test)
    assert data.digest(*arrays) == data.sources()["mnist"].digest == DIGEST


def test_inspecting_the_packaged_set_tells_all_about_it() -> None:
    assert data.inspect(DataConfig()) == data.DataSetInfo(DIGEST, 60_000, 10_000, 28, 28, "packaged")


def test_inspecting_the_packaged_set_imports_neither_numpy_nor_pooch() -> None:
    program = (
        "import sys; from mnist_cnn.config import DataConfig; from mnist_cnn import data;"
        "data.inspect(DataConfig(train_limit=9));"
        "print({'numpy', 'pooch', 'tensorflow', 'hydra'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "set()\n"


def test_the_licence_states_the_checksums_of_the_files_beside_it() -> None:
    licence = (data.DATASETS_DIR / "mnist" / "LICENSE.md").read_text(encoding="utf-8")
    for file in data.sources()["mnist"].files:
        assert f"{file.sha256}  {file.name}" in licence


@pytest.fixture
def copied_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(data.DATASETS_DIR / "mnist", tmp_path / "mnist")
    monkeypatch.setattr(data, "DATASETS_DIR", tmp_path)
    return tmp_path / "mnist"


@pytest.mark.parametrize("read", [data.inspect, data.load])
def test_a_damaged_installation_is_found_and_says_reinstall(
    copied_package: Path, read: Callable[[DataConfig], object]
) -> None:
    labels = copied_package / "train-labels-idx1-ubyte.gz"
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


@pytest.mark.parametrize("read", [data.inspect, data.load])
def test_too_few_classes_for_the_packaged_set_are_refused(read: Callable[[DataConfig], object]) -> None:
    with pytest.raises(DataError, match=r"0 to 7 were expected, as data.num_classes=8") as caught:
        read(DataConfig(num_classes=8))
    assert "data.num_classes=10" in caught.value.hint


def test_an_unknown_set_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigurationError, match="mnist, fashion_mnist, kmnist") as caught:
        data.inspect(DataConfig(name="fashion_mnst"))
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
    info = data.inspect(at(tmp_path))
    assert info == data.DataSetInfo(data.digest(x_train, y_train, x_test, y_test), 7, 3, 5, 4, str(tmp_path))


def test_the_raw_packaged_files_have_the_packaged_digest(tmp_path: Path) -> None:
    for file in data.sources()["mnist"].files:
        packed = (data.DATASETS_DIR / "mnist" / file.name).read_bytes()
        (tmp_path / file.name.removesuffix(".gz")).write_bytes(gzip.decompress(packed))
    info = data.inspect(at(tmp_path, digest=DIGEST))
    assert info is not None
    assert info.location == str(tmp_path)


def test_of_two_files_for_one_part_the_documented_one_is_read(tmp_path: Path) -> None:
    arrays = small_arrays()
    write_set(tmp_path, list(TUTORIAL), [idx(array) for array in arrays])
    order = ["train-labels", "train-labels.gz", "train-labels-idx1-ubyte", "train-labels-idx1-ubyte.gz"]
    for label, name in enumerate(order):
        (tmp_path / name).write_bytes(idx(np.full(7, label, np.uint8)))
        assert data.load(at(tmp_path)).y_train[0] == label


def test_a_missing_file_is_named_with_the_names_accepted(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        data.load(at(folder))
    for name in (str(folder / "t10k-labels-idx1-ubyte.gz"), "t10k-labels-idx1-ubyte,", "test-labels.gz"):
        assert name in caught.value.message
    assert "data.dir" in caught.value.hint


@pytest.mark.parametrize("name", ["none", "a-file", "x" * 300])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "a-file").write_text("")
    with pytest.raises(DataError, match=f"data.dir={tmp_path / name}: ") as caught:
        data.inspect(at(tmp_path / name))
    assert "leave out data.dir" in caught.value.hint


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [".", "train-images-idx3-ubyte.gz"])
def test_what_may_not_be_read_is_named(folder: Path, name: str) -> None:
    (folder / name).chmod(0)
    try:
        with pytest.raises(DataError, match="cannot be read: Permission denied"):
            data.load(at(folder))
    finally:
        (folder / name).chmod(0o700)


def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        data.read_idx(tmp_path, 3)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        data.read_idx(tmp_path / "none", 3)


# Bad files


def test_an_empty_file_is_refused(folder: Path) -> None:
    assert "ends after 0 bytes" in refused(folder, TRAIN_IMAGES, b"").message
    assert "ends after 0 bytes" in refused(folder, TRAIN_IMAGES, gzip.compress(b"")).message


def test_a_file_that_is_neither_gzip_nor_idx_is_refused(folder: Path) -> None:
    message = refused(folder, TEST_LABELS, b"<!DOCTYPE html><html></html>").message
    assert "3c 21 44 4f" in message
    assert "00 00 08 01" in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("magic", [b"\1\0\x08\3", b"\0\1\x08\3", b"\0\0\x0d\3", b"\0\0\x08\2", b"\3\x08\0\0"])
def test_another_magic_number_is_refused(folder: Path, pack: Callable[[bytes], bytes], magic: bytes) -> None:
    content = pack(idx(small_arrays()[TRAIN_IMAGES], magic))
    assert magic.hex(" ") in refused(folder, TRAIN_IMAGES, content).message


@pytest.mark.parametrize("part", [TRAIN_IMAGES, TEST_LABELS])
def test_swapped_images_and_labels_are_recognised(folder: Path, part: int) -> None:
    other = {TRAIN_IMAGES: TRAIN_LABELS, TEST_LABELS: TEST_IMAGES}[part]
    message = refused(folder, part, (folder / f"{OFFICIAL[other]}.gz").read_bytes()).message
    assert "swapped?" in message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(0, 5, 4), (7, 0, 4), (7, 5, 0)])
def test_an_empty_dimension_is_refused(
    folder: Path, pack: Callable[[bytes], bytes], shape: tuple[int, ...]
) -> None:
    content = pack(idx(np.zeros(shape, np.uint8), b"\0\0\x08\3"))
    assert " x ".join(map(str, shape)) in refused(folder, TRAIN_IMAGES, content).message


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("extra", [-100, -1, 1, 100])
def test_more_or_fewer_bytes_than_the_header_says_are_refused(
    folder: Path, pack: Callable[[bytes], bytes], extra: int
) -> None:
    content = idx(small_arrays()[TRAIN_IMAGES])
    content = content + b"\1" * extra if extra > 0 else content[:extra]
    assert "7 x 5 x 4" in refused(folder, TRAIN_IMAGES, pack(content)).message


def test_a_header_that_is_cut_off_is_refused(folder: Path) -> None:
    content = idx(small_arrays()[TRAIN_IMAGES])
    for length in range(1, 16):
        for pack in (bytes, gzip.compress):
            refused(folder, TRAIN_IMAGES, pack(content[:length]))


def test_a_gzip_file_cut_off_anywhere_is_refused(folder: Path) -> None:
    content = gzip.compress(idx(small_arrays()[TRAIN_LABELS]))
    for length in range(2, len(content)):
        assert "ends early" in refused(folder, TRAIN_LABELS, content[:length]).message


@pytest.mark.parametrize("position", [-8, -4])
def test_a_wrong_checksum_or_length_in_the_gzip_trailer_is_refused(folder: Path, position: int) -> None:
    content = bytearray(gzip.compress(idx(small_arrays()[TRAIN_IMAGES])))
    content[position] ^= 1
    assert "damaged" in refused(folder, TRAIN_IMAGES, bytes(content)).message


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"\0" * 512, gzip.compress(b"x")], ids=["text", "zeros", "member"]
)
def test_anything_after_the_gzipped_data_is_refused(folder: Path, garbage: bytes) -> None:
    content = gzip.compress(idx(small_arrays()[TEST_IMAGES])) + garbage
    refused(folder, TEST_IMAGES, content)


def test_a_gzip_file_of_several_members_is_read_as_one(folder: Path) -> None:
    content = idx(small_arrays()[TRAIN_IMAGES])
    members = [gzip.compress(content[start : start + 9]) for start in range(0, len(content), 9)]
    (folder / "train-images-idx3-ubyte.gz").write_bytes(b"".join([*members, gzip.compress(b"")]))
    images = data.load(at(folder)).x_train[..., 0]
    assert np.array_equal(images, small_arrays()[TRAIN_IMAGES])


def test_a_label_beyond_the_classes_is_named_with_its_place(folder: Path) -> None:
    labels = np.array([1, 2, 3, 10, 5, 10, 7], np.uint8)
    error = refused(folder, TRAIN_LABELS, gzip.compress(idx(labels)))
    assert "label 10 was found (label 4 of 7), but 0 to 9 were expected" in error.message
    assert "data.num_classes=11" in error.hint
    assert data.load(at(folder, num_classes=11)).y_train.max() == 10


@pytest.mark.parametrize("part", [TRAIN_LABELS, TEST_LABELS])
def test_labels_that_are_not_one_for_each_image_are_refused(folder: Path, part: int) -> None:
    error = refused(folder, part, gzip.compress(idx(np.zeros(4, np.uint8))))
    assert "4 labels were found" in error.message


def test_test_images_of_another_size_than_the_training_images_are_refused(folder: Path) -> None:
    error = refused(folder, TEST_IMAGES, gzip.compress(idx(np.zeros((3, 4, 5), np.uint8))))
    assert "4 x 5 pixels were found, but 5 x 4 were expected" in error.message


def test_other_data_than_the_digest_asks_for_are_refused(folder: Path) -> None:
    for config in (at(folder, digest="0" * 64), DataConfig(digest="0" * 64)):
        for read in (data.load, data.inspect):
            with pytest.raises(DataError, match="0" * 64) as caught:
                read(config)
            assert "data.digest" in caught.value.hint


# Memory


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """The most memory held since the test began, in bytes, numpy's arrays included."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_memory_is_counted_at_all(peak: Callable[[], int]) -> None:
    np.empty(64 * 2**20, np.uint8)
    assert peak() > 64 * 2**20


@pytest.mark.parametrize(
    "shape", [(2048, 1024, 1024), (2**21, 1024, 1), (2048, 1024, 1025), (2**32 - 1, 2**32 - 1, 2**32 - 1)]
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_claims_gigabytes_costs_nothing(
    tmp_path: Path, peak: Callable[[], int], shape: tuple[int, ...], pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "claim").write_bytes(pack(idx(np.zeros((2, 2, 2), np.uint8), shape=shape)))
    with pytest.raises(DataError):
        data.read_idx(tmp_path / "claim", 3)
    assert peak() < 2**20


def test_a_file_above_the_upper_bound_is_refused_however_sound(
    tmp_path: Path, peak: Callable[[], int]
) -> None:
    shape = (2048, 1024, 1025)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"\0\0\x08\3" + struct.pack(">3I", *shape))
        file.truncate(16 + math.prod(shape))
    with pytest.raises(DataError, match=f"{2 * 1024**3} at most were expected"):
        data.read_idx(tmp_path / "sparse", 3)
    assert peak() < 2**20


def test_a_gzip_bomb_costs_nothing(tmp_path: Path, peak: Callable[[], int]) -> None:
    bomb = zlib.compressobj(wbits=31)
    header = idx(np.zeros((1, 2, 2), np.uint8))
    with (tmp_path / "bomb").open("wb") as file:
        file.write(bomb.compress(header))
        for _ in range(256):
            file.write(bomb.compress(bytes(2**20)))
        file.write(bomb.flush())
    tracemalloc.reset_peak()
    with pytest.raises(DataError, match="it has more"):
        data.read_idx(tmp_path / "bomb", 3)
    assert peak() < 2**20


def test_reading_takes_little_more_memory_than_the_array(tmp_path: Path, peak: Callable[[], int]) -> None:
    values = np.zeros((16, 1024, 1024), np.uint8)
    (tmp_path / "zeros").write_bytes(gzip.compress(idx(values)))
    del values
    tracemalloc.reset_peak()
    data.read_idx(tmp_path / "zeros", 3)
    assert peak() < 16 * 2**20 + 4 * 2**20


# Limits, validation, format


def test_the_limits_take_the_first_images(mnist: data.DataSet) -> None:
    limited = data.load(DataConfig(train_limit=1000, test_limit=100))
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
    split = data.load(at(folder, train_limit=limit, validation=2))
    assert np.array_equal(split.x_train[..., 0], images[: used - 2])
    assert np.array_equal(split.y_train, labels[: used - 2])
    assert np.array_equal(split.x_validation[..., 0], images[used - 2 : used])
    assert np.array_equal(split.y_validation, labels[used - 2 : used])
    assert len(split.x_test) == 3


@pytest.mark.parametrize("read", [data.inspect, data.load])
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
    folder: Path, read: Callable[[DataConfig], object], values: dict[str, int], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(at(folder, **values))
    assert caught.value.message == message
    lower = {key: value - 1 for key, value in values.items() if key != "train_limit" or len(values) == 1}
    read(at(folder, **{**values, **lower}))


def test_limits_beyond_the_packaged_set_are_refused_without_unpacking_it() -> None:
    with pytest.raises(ConfigurationError, match=r"data.train_limit=60001: .* from 1 to 60000, or null"):
        data.inspect(DataConfig(train_limit=60_001))


def test_limits_and_format_do_not_change_the_digest(folder: Path) -> None:
    plain = data.inspect(at(folder))
    limited = data.inspect(at(folder, train_limit=2, validation=1, format=Format.channels_first))
    assert plain == limited


@pytest.mark.parametrize(
    ("format_", "shape"), [(Format.channels_last, (7, 5, 4, 1)), (Format.channels_first, (7, 1, 5, 4))]
)
def test_the_format_places_the_channel(folder: Path, format_: Format, shape: tuple[int, ...]) -> None:
    loaded = data.load(at(folder, format=format_))
    assert loaded.x_train.shape == shape
    assert np.array_equal(loaded.x_train.reshape(7, 5, 4), small_arrays()[TRAIN_IMAGES])


def test_the_arrays_are_read_only_views_of_what_was_read(folder: Path) -> None:
    loaded = data.load(at(folder, train_limit=5, validation=2, format=Format.channels_first))
    assert np.shares_memory(loaded.x_train.base, loaded.x_validation.base)
    for array in vars(loaded).values():
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_the_digest_tells_shapes_and_order_apart() -> None:
    x_train, y_train, x_test, y_test = small_arrays()
    digests = {
        data.digest(x_train, y_train, x_test, y_test),
        data.digest(x_train.reshape(7, 4, 5), y_train, x_test, y_test),
        data.digest(x_test, y_test, x_train, y_train),
        data.digest(x_train, y_train, x_test, np.flip(y_test)),
    }
    assert len(digests) == 4
    assert data.digest(np.asfortranarray(x_train), y_train, x_test, y_test) in digests


def test_a_data_set_compares_by_identity_and_a_description_by_value(folder: Path) -> None:
    loaded = data.load(at(folder))
    assert loaded != replace(loaded)
    assert data.inspect(at(folder)) == data.inspect(at(folder))


# Against a reader written independently


def expected(content: bytes, rank: int) -> Array | None:
    """Read IDX the naive way: unpack all there is, then compare; None where it is not sound."""
    if content[:2] == b"\x1f\x8b":
        unpacked, rest = b"", content
        while rest:
            member = zlib.decompressobj(wbits=31)
            try:
                unpacked += member.decompress(rest) + member.flush()
            except zlib.error:
                return None
            if not member.eof:
                return None
            rest = member.unused_data
        content = unpacked
    if content[:4] != bytes([0, 0, 8, rank]) or len(content) < 4 + 4 * rank:
        return None
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, 4 + 4 * rank, 4)]
    values = content[4 + 4 * rank :]
    length = 1
    for dimension in shape:
        length *= dimension
    if length == 0 or length != len(values):
        return None
    return np.frombuffer(values, np.uint8).reshape(shape)


def assert_read_as_expected(path: Path, content: bytes, rank: int) -> None:
    path.write_bytes(content)
    wanted = expected(content, rank)
    if wanted is None:
        with pytest.raises(DataError):
            data.read_idx(path, rank)
    else:
        assert np.array_equal(data.read_idx(path, rank), wanted)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("reader") / "file"


@st.composite
def sound_files(draw: st.DrawFn) -> tuple[bytes, int]:
    """Draw an IDX file, raw or in one or two gzip members, and its rank."""
    rank = draw(st.sampled_from((1, 3)))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=rank, max_size=rank)))
    seed, levels = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((1, 2, 256)))
    content = idx(np.random.default_rng(seed).integers(0, levels, shape, np.uint8))
    members = draw(st.integers(0, 2))
    if members:
        middle = draw(st.integers(0, len(content))) if members == 2 else len(content)
        level = draw(st.integers(0, 9))
        parts = (content[:middle], content[middle:])[:members]
        content = b"".join(gzip.compress(part, level, mtime=0) for part in parts)
    return content, rank


EXAMPLES = settings(max_examples=300, deadline=None, database=None)


@EXAMPLES
@given(file=sound_files())
def test_every_sound_file_is_read(scratch: Path, file: tuple[bytes, int]) -> None:
    content, rank = file
    assert expected(content, rank) is not None
    assert_read_as_expected(scratch, content, rank)


@EXAMPLES
@given(file=sound_files(), where=st.data())
def test_a_flipped_bit_is_read_rightly_or_refused(
    scratch: Path, file: tuple[bytes, int], where: st.DataObject
) -> None:
    content, rank = file
    position = where.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[position // 8] ^= 1 << position % 8
    assert_read_as_expected(scratch, bytes(flipped), rank)


@EXAMPLES
@given(file=sound_files(), where=st.data())
def test_a_cut_off_file_is_refused(scratch: Path, file: tuple[bytes, int], where: st.DataObject) -> None:
    content, rank = file
    length = where.draw(st.integers(0, len(content) - 1))
    assert_read_as_expected(scratch, content[:length], rank)


@EXAMPLES
@given(file=sound_files(), garbage=st.binary(min_size=1, max_size=40))
def test_trailing_garbage_is_refused(scratch: Path, file: tuple[bytes, int], garbage: bytes) -> None:
    content, rank = file
    assert_read_as_expected(scratch, content + garbage, rank)


@EXAMPLES
@given(
    shape=st.lists(st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)), min_size=3, max_size=3),
    length=st.integers(0, 250),
    level=st.one_of(st.none(), st.integers(0, 9)),
)
def test_a_lying_header_is_refused(scratch: Path, shape: list[int], length: int, level: int | None) -> None:
    content = b"\0\0\x08\3" + struct.pack(">3I", *shape) + bytes(length)
    content = content if level is None else gzip.compress(content, level, mtime=0)
    assert_read_as_expected(scratch, content, 3)
