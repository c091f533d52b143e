"""An independent IDX reader to compare the product's with: it unpacks first and checks afterwards.

Written for small files from the format's description (http://yann.lecun.com/exdb/mnist/) and from RFC 1952.
It shares no code with the product.
"""

from __future__ import annotations

import dataclasses
import zlib

MAX_BYTES = 4 * 1024**2
"""Limit of the unpacked bytes of a sound file here."""


@dataclasses.dataclass(frozen=True)
class Read:
    """The contents of an IDX file: its dimensions, and its unsigned bytes in C order."""

    shape: tuple[int, ...]
    values: bytes


def read(content: bytes, rank: int) -> Read | None:
    """Read an IDX file of unsigned bytes of this rank, gzipped or raw; None if it is not sound."""
    plain = unpacked(content) if content[:2] == b"\x1f\x8b" else content
    if plain is None or plain[:4] != bytes([0, 0, 8, rank]) or len(plain) < 4 + 4 * rank:
        return None
    shape = tuple(int.from_bytes(plain[4 * i : 4 * i + 4], "big") for i in range(1, rank + 1))
    values = plain[4 + 4 * rank :]
    promised = 1
    for dimension in shape:
        promised *= dimension
    if promised == 0 or promised != len(values):
        return None
    return Read(shape, values)


def unpacked(content: bytes) -> bytes | None:
    """Unpack the members of a gzip file; None if one is damaged, truncated or too large."""
    plain = b""
    while content:
        member = zlib.decompressobj(wbits=31)
        try:
            plain += member.decompress(content, MAX_BYTES)
        except zlib.error:
            return None
        if not member.eof or len(plain) >= MAX_BYTES:
            return None
        content = member.unused_data
    return plain
