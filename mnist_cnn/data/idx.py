"""Reads and checks an IDX file.

Nothing is allocated or unpacked because a header alone says so. A DataError raised here has no hint, because
what to do depends on where the file came from.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from typing import TYPE_CHECKING, BinaryIO

from mnist_cnn.errors import DataError
from mnist_cnn.files import safe_read

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.uint8]

MAX_BYTES = 2 * 1024**3  # of a file's unpacked values; all of MNIST's training images are 47 MB
MAX_RATIO = 1032  # Deflate's best: https://zlib.net/zlib_tech.html, "Maximum Compression Factor"
UBYTE = 0x08  # the type of unsigned bytes in an IDX file's magic number; the byte after it is the rank
CONTENTS = {1: "labels", 3: "images"}  # of a file of each rank
GZIP_WINDOW = 16 + 15  # for zlib: 16 adds header and trailer, 15 is the largest window


def read_idx(path: Path, rank: int) -> Array:
    """Read an IDX file as a read-only uint8 array.

    The file may be gzipped or raw. The format is described at http://yann.lecun.com/exdb/mnist/: two zero
    bytes, the type, the rank, each dimension as a big-endian 32-bit integer, then the values in C order.

    Raises:
        DataError: the file is missing, damaged, of another type or rank, longer or shorter than its header
            says, or larger than MAX_BYTES. Memory is allocated only if the file is long enough for its
            header, and at most one byte beyond the promised values is unpacked.
    """
    try:
        with safe_read.open_file(path) as file:
            length = os.fstat(file.fileno()).st_size
            gzipped = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = _Gunzip(file) if gzipped else file
            shape = _read_header(path, stream, rank)
            _check_length(path, shape, length, gzipped=gzipped)
            return _read_values(path, stream, shape)
    except zlib.error as error:
        raise DataError(f"{path} is damaged: {str(error).rpartition(': ')[2]}") from error
    except EOFError as error:
        raise DataError(f"{path} is truncated: the gzip file ends early") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read_header(path: Path, stream: BufferedReader | _Gunzip, rank: int) -> tuple[int, ...]:
    header = bytearray(4 + 4 * rank)
    filled = stream.readinto(memoryview(header))
    magic, expected = bytes(header[: min(4, filled)]), bytes((0, 0, UBYTE, rank))
    if magic != expected[: len(magic)]:
        raise DataError(f"{path} {_describe_magic(magic, rank)}")
    if filled < len(header):
        raise DataError(f"{path} is truncated: it ends after {filled} of the header's {len(header)} bytes")
    shape = struct.unpack(f">{rank}I", header[4:])
    if min(shape) < 1:
        raise DataError(f"{path} is empty: its header says {_product(shape)}")
    if math.prod(shape) > MAX_BYTES:
        promise = f"its header says {_product(shape)} = {math.prod(shape)} bytes"
        raise DataError(f"{path} is too large: {promise}; the limit is {MAX_BYTES}")
    return shape


def _describe_magic(magic: bytes, rank: int) -> str:
    """Describe a wrong magic number."""
    expected = CONTENTS.get(rank, "values")
    for other, contents in CONTENTS.items():
        if other != rank and magic == bytes((0, 0, UBYTE, other)):
            return f"contains {contents}, not {expected}; are the image and label files swapped?"
    start = bytes((0, 0, UBYTE, rank)).hex(" ")
    return f"is not an IDX file of {expected}, gzipped or raw: it starts with {magic.hex(' ')}, not {start}"


def _check_length(path: Path, shape: tuple[int, ...], length: int, *, gzipped: bool) -> None:
    """Check that `length` bytes can hold the promised values."""
    expected = 4 + 4 * len(shape) + math.prod(shape)
    promise = f"{path}: its header says {_product(shape)}, {expected} bytes in all"
    if gzipped and length * MAX_RATIO < expected:
        raise DataError(f"{promise}; {length} gzipped bytes cannot contain that much")
    if not gzipped and length != expected:
        raise DataError(f"{promise}; it has {length}")


def _read_values(path: Path, stream: BufferedReader | _Gunzip, shape: tuple[int, ...]) -> Array:
    """Read the promised values; check that nothing follows."""
    import numpy as np

    values = np.empty(math.prod(shape), np.uint8)
    filled = stream.readinto(values.data)
    promise = f"its header says {_product(shape)}, {values.size} bytes of values"
    if filled < values.size:
        raise DataError(f"{path}: {promise}; it has {filled}")
    if stream.readinto(memoryview(bytearray(1))):
        raise DataError(f"{path}: {promise}; it has more")
    values.flags.writeable = False
    return values.reshape(shape)


def _product(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class _Gunzip:
    """The unpacked bytes of a gzip file (RFC 1952).

    It has one or more members. Unlike the standard library's, this class unpacks only as much as it is asked
    for. zlib checks each member's checksum and length.
    """

    PACKED, UNPACKED = 64 * 1024, 1024 * 1024

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._member = zlib.decompressobj(GZIP_WINDOW)
        self._packed = b""

    def readinto(self, view: memoryview, /) -> int:
        """Fill the view with available bytes; return their number."""
        done = 0
        while done < len(view):
            self._packed = self._packed or self._file.read(self.PACKED)
            if self._member.eof:
                if not self._packed:
                    break
                self._member = zlib.decompressobj(GZIP_WINDOW)
            piece = self._member.decompress(self._packed, min(len(view) - done, self.UNPACKED))
            if not (piece or self._packed or self._member.eof):
                raise EOFError
            self._packed = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done
