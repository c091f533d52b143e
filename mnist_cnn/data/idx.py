"""One IDX file, read into an array: everything that can be wrong with such a file is found here.

Every byte that is relied on is checked before it is, and nothing is allocated or unpacked on the word of a
header alone. Knows numpy, which is imported only when an array is made. Knows nothing of data sets, nor
where a file is from: a DataError raised here has no hint, as what to do depends on that.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from mnist_cnn.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.uint8]

MAX_BYTES = 2 * 1024**3
"""No file may promise more unpacked values than this; all of MNIST's training images are 47 MB."""

LARGEST_RATIO = 1032
"""Deflate packs no better than 1032 to 1: https://zlib.net/zlib_tech.html, "Maximum Compression Factor"."""

UBYTE = 0x08
"""The type byte of unsigned bytes in an IDX file's magic number; the byte after it is the rank."""

CONTENTS = {1: "labels", 3: "images"}
"""What a file of each rank holds."""


def read_idx(path: Path, rank: int) -> Array:
    """Read an IDX file of unsigned bytes, gzipped or raw, as its first two bytes say; read-only.

    The format is described at http://yann.lecun.com/exdb/mnist/: two zero bytes, the type, the rank, each
    dimension as a big-endian 32-bit integer, then the values in C order.

    Raises:
        DataError: the file is missing, damaged, of another type or rank, longer or shorter than its header
            says, or larger than MAX_BYTES. What the header says is not allocated before the file is
            known to be long enough for it, and at most one byte beyond it is ever unpacked.
    """
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"{path} is not a file")
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream: _Stream = _Gunzip(file) if gzipped else file
            shape = _read_header(path, stream, rank)
            _check_length(path, shape, length, gzipped=gzipped)
            return _read_values(path, stream, shape)
    except zlib.error as error:
        raise DataError(f"{path}: a sound gzip file was expected, but it is damaged ({error})") from error
    except EOFError as error:
        raise DataError(
            f"{path}: a whole gzip file was expected, but it ends early (it is cut off)"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_header(path: Path, stream: _Stream, rank: int) -> tuple[int, ...]:
    """Read and check the magic number and the dimensions."""
    header = bytearray(4 + 4 * rank)
    filled = stream.readinto(memoryview(header))
    magic, expected = bytes(header[: min(4, filled)]), bytes((0, 0, UBYTE, rank))
    if magic != expected[: len(magic)]:
        raise DataError(f"{path}: {_wrong_magic(magic, rank)}")
    if filled < len(header):
        raise DataError(
            f"{path}: it ends after {filled} bytes, but an IDX header of {len(header)} was expected"
        )
    shape = struct.unpack(f">{rank}I", header[4:])
    if min(shape) < 1:
        raise DataError(f"{path}: its header says {_product(shape)}, but 1 or more of each was expected")
    if math.prod(shape) > MAX_BYTES:
        raise DataError(
            f"{path}: its header says {_product(shape)} = {math.prod(shape)} bytes, "
            f"but {MAX_BYTES} at most were expected"
        )
    return shape


def _wrong_magic(magic: bytes, rank: int) -> str:
    """Word a magic number that is not the one of unsigned bytes of this rank."""
    what = CONTENTS.get(rank, "values")
    wanted = bytes((0, 0, UBYTE, rank)).hex(" ")
    for other, content in CONTENTS.items():
        if other != rank and magic == bytes((0, 0, UBYTE, other)):
            return f"{content} were found, but {what} were expected; are image and label files swapped?"
    return (
        f"it starts with {magic.hex(' ')}, but an IDX file of {what} ({wanted}), gzipped or raw, was expected"
    )


def _check_length(path: Path, shape: tuple[int, ...], length: int, *, gzipped: bool) -> None:
    """Check that a file of this length can hold, or holds, what its header says."""
    expected = 4 + 4 * len(shape) + math.prod(shape)
    promise = f"its header says {_product(shape)}"
    if gzipped and length * LARGEST_RATIO < expected:
        raise DataError(
            f"{path}: {promise}, {expected} bytes in all were expected, "
            f"but {length} gzipped bytes cannot hold as much"
        )
    if not gzipped and length != expected:
        raise DataError(f"{path}: {promise}, {expected} bytes in all were expected, but it has {length}")


def _read_values(path: Path, stream: _Stream, shape: tuple[int, ...]) -> Array:
    """Read exactly the promised values, and find nothing after them."""
    import numpy as np

    values = np.empty(math.prod(shape), np.uint8)
    filled = stream.readinto(values.data)
    expected = f"its header says {_product(shape)}, so {values.size} bytes of values were expected"
    if filled < values.size:
        raise DataError(f"{path}: {expected}, but it has {filled}")
    if stream.readinto(memoryview(bytearray(1))):
        raise DataError(f"{path}: {expected}, but it has more")
    values.flags.writeable = False
    return values.reshape(shape)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class _Stream(Protocol):
    """What is read from: `readinto` fills the view, or as much of it as there are bytes for."""

    def readinto(self, view: memoryview, /) -> int: ...


class _Gunzip:
    """The unpacked bytes of a gzip file (RFC 1952) of one member or several.

    Unpacks no more than it is asked for, unlike the standard library's, which unpacks ahead. zlib checks
    each member's checksum and length.
    """

    PACKED, UNPACKED = 64 * 1024, 1024 * 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = _gzip_member()
        self._packed = b""

    def readinto(self, view: memoryview, /) -> int:
        done = 0
        while done < len(view):
            self._packed = self._packed or self._file.read(self.PACKED)
            if self._member.eof:
                if not self._packed:
                    break
                self._member = _gzip_member()
            piece = self._member.decompress(self._packed, min(len(view) - done, self.UNPACKED))
            if not (piece or self._packed or self._member.eof):
                raise EOFError
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done


def _gzip_member() -> Any:
    """Unpack one gzip member: 16 asks zlib for its header and trailer, 15 is the largest window."""
    return zlib.decompressobj(wbits=16 + 15)
