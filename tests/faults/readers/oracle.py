"""An independent IDX reader for small files, with which the product's is compared.

Written from the format's description (http://yann.lecun.com/exdb/mnist/, "the IDX file format") and from RFC
1952. It shares no code with the product.
"""

from __future__ import annotations

import dataclasses
import math
import zlib

MOST = 4 * 1024**2
"""Bytes; no sound file here unpacks to more."""


@dataclasses.dataclass(frozen=True)
class Read:
    """The dimensions of an IDX file, and its unsigned bytes in C order."""

    shape: tuple[int, ...]
    values: bytes


def read(content: bytes, rank: int) -> Read | None:
    """Read an IDX file of unsigned bytes of this rank, gzipped or raw; None if it is damaged."""
    plain = unpacked(content) if content[:2] == b"\x1f\x8b" else content
    if plain is None or plain[:4] != bytes([0, 0, 8, rank]) or len(plain) < 4 + 4 * rank:
        return None
    shape = tuple(int.from_bytes(plain[4 * i : 4 * i + 4], "big") for i in range(1, rank + 1))
    values = plain[4 + 4 * rank :]
    return Read(shape, values) if 0 < math.prod(shape) == len(values) else None


def unpacked(content: bytes) -> bytes | None:
    """Unpack a gzip file; None if a member is damaged or cut off, or if it is too large."""
    plain = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            plain += member.decompress(content, MOST)
        except zlib.error:
            return None
        if not member.eof or len(plain) >= MOST:
            return None
        content = member.unused_data
    return plain
