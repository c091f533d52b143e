"""An IDX reader of its own, against which the product's is held: it unpacks first and asks afterwards.

Written from the format's description (http://yann.lecun.com/exdb/mnist/, "the IDX file format") and from RFC
1952, for files that are small. Shares no code with the product and knows nothing of it.
"""

from __future__ import annotations

import dataclasses
import zlib

MOST = 4 * 1024**2
"""More unpacked bytes than any sound file here has: what unpacks to more is not sound."""


@dataclasses.dataclass(frozen=True)
class Read:
    """What an IDX file holds: its dimensions, and its unsigned bytes in C order."""

    shape: tuple[int, ...]
    values: bytes


def read(content: bytes, rank: int) -> Read | None:
    """Read an IDX file of unsigned bytes of this rank, gzipped or raw; None where it is not sound."""
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
    """Unpack the members of a gzip file; None where one is damaged or cut off, or where there is too much."""
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
