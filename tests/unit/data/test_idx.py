"""The IDX reader reads every sound file, refuses every other one and never trusts a header."""

from __future__ import annotations

import gzip
import math
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from faults.readers import oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_cnn.data.idx import MAX_BYTES, read_idx
from mnist_cnn.errors import DataError

if TYPE_CHECKING:
    from mnist_cnn.data.idx import Array

Pack = Callable[[bytes], bytes]

IMAGES = np.random.default_rng(0).integers(0, 10, (7, 5, 4), np.uint8)
LABELS = np.random.default_rng(1).integers(0, 10, 7, np.uint8)

gzipped_or_raw = pytest.mark.parametrize("pack", [bytes, gzip.compress])


def write_idx(array: Array, magic: bytes | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """Return an array as IDX, with a header that may be wrong."""
    magic = bytes((0, 0, 8, array.ndim)) if magic is None else magic
    return magic + struct.pack(f">{array.ndim}I", *(shape or array.shape)) + array.tobytes()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file that each example overwrites."""
    return tmp_path_factory.mktemp("idx") / "file"


def put(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)  # some file systems sync an overwritten file, which is slow
    path.write_bytes(content)


def refused(path: Path, content: bytes, rank: int) -> str:
    """Return the message with which `read_idx` refuses this content."""
    put(path, content)
    with pytest.raises(DataError) as caught:
        read_idx(path, rank)
    assert caught.value.message.startswith(str(path))
    assert "\n" not in caught.value.message
    assert caught.value.hint == ""
    return caught.value.message


def test_a_folder_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_idx(tmp_path, 3)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_idx(tmp_path / "none", 3)


# The header


def test_a_file_that_is_neither_gzip_nor_idx_is_refused(path: Path) -> None:
    message = refused(path, b"<!DOCTYPE html><html></html>", 1)
    assert "is not an IDX file of labels" in message
    assert "starts with 3c 21 44 4f, not 00 00 08 01" in message


@gzipped_or_raw
@pytest.mark.parametrize("magic", [b"\1\0\x08\3", b"\0\1\x08\3", b"\0\0\x0d\3", b"\0\0\x08\2", b"\3\x08\0\0"])
def test_another_magic_number_is_refused(path: Path, pack: Pack, magic: bytes) -> None:
    assert magic.hex(" ") in refused(path, pack(write_idx(IMAGES, magic)), 3)


@pytest.mark.parametrize(("array", "rank"), [(LABELS, 3), (IMAGES, 1)], ids=["labels", "images"])
def test_swapped_images_and_labels_are_reported(path: Path, array: Array, rank: int) -> None:
    assert "swapped?" in refused(path, gzip.compress(write_idx(array)), rank)


@gzipped_or_raw
@pytest.mark.parametrize("shape", [(0, 5, 4), (7, 0, 4), (7, 5, 0)])
def test_an_empty_dimension_is_refused(path: Path, pack: Pack, shape: tuple[int, ...]) -> None:
    content = pack(write_idx(np.zeros(shape, np.uint8), b"\0\0\x08\3"))
    assert " x ".join(map(str, shape)) in refused(path, content, 3)


@gzipped_or_raw
@pytest.mark.parametrize("extra", [-100, -1, 1, 100])
def test_a_length_that_contradicts_the_header_is_refused(path: Path, pack: Pack, extra: int) -> None:
    content = write_idx(IMAGES)
    content = content + b"\1" * extra if extra > 0 else content[:extra]
    assert "7 x 5 x 4" in refused(path, pack(content), 3)


@gzipped_or_raw
def test_a_truncated_header_is_refused(path: Path, pack: Pack) -> None:
    assert "ends after 0 of the header's 16 bytes" in refused(path, pack(b""), 3)
    for length in range(1, 16):
        assert "is truncated" in refused(path, pack(write_idx(IMAGES)[:length]), 3)


# Gzip


def test_a_truncated_gzip_file_is_refused(path: Path) -> None:
    content = gzip.compress(write_idx(LABELS))
    for length in range(2, len(content)):
        assert "ends early" in refused(path, content[:length], 1)


@pytest.mark.parametrize("position", [-8, -4])
def test_a_wrong_gzip_trailer_is_refused(path: Path, position: int) -> None:
    content = bytearray(gzip.compress(write_idx(IMAGES)))
    content[position] ^= 1
    wrong = "data" if position == -8 else "length"
    assert f"is damaged: incorrect {wrong} check" in refused(path, bytes(content), 3)


@pytest.mark.parametrize(
    "garbage", [b"garbage", b"\0" * 512, gzip.compress(b"x")], ids=["text", "zeros", "member"]
)
def test_bytes_after_the_gzipped_data_are_refused(path: Path, garbage: bytes) -> None:
    refused(path, gzip.compress(write_idx(IMAGES)) + garbage, 3)


# Memory


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """Return the peak memory since the test began, in bytes, numpy's arrays included."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_memory_is_measured(peak: Callable[[], int]) -> None:
    np.empty(64 * 2**20, np.uint8)
    assert peak() > 64 * 2**20


@pytest.mark.parametrize(
    "shape", [(2048, 1024, 1024), (2**21, 1024, 1), (2048, 1024, 1025), (2**32 - 1, 2**32 - 1, 2**32 - 1)]
)
@gzipped_or_raw
def test_a_header_that_claims_gigabytes_allocates_nothing(
    path: Path, peak: Callable[[], int], shape: tuple[int, ...], pack: Pack
) -> None:
    refused(path, pack(write_idx(np.zeros((2, 2, 2), np.uint8), shape=shape)), 3)
    assert peak() < 2**20


def test_a_sound_file_above_the_limit_is_refused(tmp_path: Path, peak: Callable[[], int]) -> None:
    shape = (2048, 1024, 1025)
    with (tmp_path / "sparse").open("wb") as file:
        file.write(b"\0\0\x08\3" + struct.pack(">3I", *shape))
        file.truncate(16 + math.prod(shape))
    with pytest.raises(DataError, match=f"the limit is {MAX_BYTES}"):
        read_idx(tmp_path / "sparse", 3)
    assert MAX_BYTES == 2 * 1024**3
    assert peak() < 2**20


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, peak: Callable[[], int]) -> None:
    bomb = zlib.compressobj(level=1, wbits=31)
    with (tmp_path / "bomb").open("wb") as file:
        file.write(bomb.compress(write_idx(np.zeros((1, 2, 2), np.uint8))))
        for _ in range(64):
            file.write(bomb.compress(bytes(2**20)))
        file.write(bomb.flush())
    tracemalloc.reset_peak()
    with pytest.raises(DataError, match="it has more"):
        read_idx(tmp_path / "bomb", 3)
    assert peak() < 2**20


def test_reading_needs_little_more_memory_than_the_array(path: Path, peak: Callable[[], int]) -> None:
    values = np.zeros((8, 1024, 1024), np.uint8)
    path.write_bytes(gzip.compress(write_idx(values)))
    del values
    tracemalloc.reset_peak()
    read_idx(path, 3)
    assert peak() < (8 + 4) * 2**20


# Compared with an independent reader


def assert_read_as_expected(path: Path, content: bytes, rank: int) -> None:
    expected = oracle.read(content, rank)
    if expected is None:
        refused(path, content, rank)
    else:
        put(path, content)
        array = read_idx(path, rank)
        assert oracle.Read(array.shape, array.tobytes()) == expected


@st.composite
def sound_files(draw: st.DrawFn) -> tuple[bytes, int]:
    """Draw an IDX file, raw or in one or two gzip members, and its rank."""
    rank = draw(st.sampled_from((1, 3)))
    shape = tuple(draw(st.lists(st.integers(1, 6), min_size=rank, max_size=rank)))
    seed, levels = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from((1, 2, 256)))
    content = write_idx(np.random.default_rng(seed).integers(0, levels, shape, np.uint8))
    members = draw(st.integers(0, 2))
    if members:
        middle = draw(st.integers(0, len(content))) if members == 2 else len(content)
        level = draw(st.integers(0, 9))
        parts = (content[:middle], content[middle:])[:members]
        content = b"".join(gzip.compress(part, level, mtime=0) for part in parts)
    return content, rank


EXAMPLES = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@EXAMPLES
@given(file=sound_files(), where=st.data(), garbage=st.binary(min_size=1, max_size=40))
def test_sound_files_are_read_and_damaged_ones_refused(
    path: Path, file: tuple[bytes, int], where: st.DataObject, garbage: bytes
) -> None:
    """A flipped bit may leave a file sound, for example in a label or in the gzip header's time."""
    content, rank = file
    assert oracle.read(content, rank) is not None
    position = where.draw(st.integers(0, 8 * len(content) - 1))
    flipped = bytearray(content)
    flipped[position // 8] ^= 1 << position % 8
    truncated = content[: where.draw(st.integers(0, len(content) - 1))]
    for changed in (content, bytes(flipped), truncated, content + garbage):
        assert_read_as_expected(path, changed, rank)


@EXAMPLES
@given(
    shape=st.lists(st.one_of(st.integers(0, 6), st.integers(0, 2**32 - 1)), min_size=3, max_size=3),
    length=st.integers(0, 250),
    level=st.one_of(st.none(), st.integers(0, 9)),
)
def test_a_wrong_header_is_refused(path: Path, shape: list[int], length: int, level: int | None) -> None:
    content = b"\0\0\x08\3" + struct.pack(">3I", *shape) + bytes(length)
    content = content if level is None else gzip.compress(content, level, mtime=0)
    assert_read_as_expected(path, content, 3)
