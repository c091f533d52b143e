"""Ways to damage a file: as bytes, as JSON, as IDX. All are pure functions of their arguments."""

from __future__ import annotations

import copy
import gzip
import json
import math
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

LIMITS = (0, 1, 0x7F, 0x80, 0xFF)
DIMENSIONS = (0, 1, 2, 5, 28, 255, 256, 65_535, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def damaged(content: bytes, random: Random, others: tuple[bytes, ...] = ()) -> bytes:
    """Damage bytes in a few places, or replace all of them."""
    if random.random() < 0.02:
        return random.choice((b"", *others, random.randbytes(random.randrange(300))))
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        content = _changed(content, random)
    return content


def _changed(content: bytes, random: Random) -> bytes:
    """Flip a bit, or overwrite, cut, remove, insert, repeat or append bytes."""
    place, start, end = random.randrange(len(content) + 1), random.randrange(len(content) + 1), len(content)
    flipped = bytes(byte ^ 1 << random.randrange(8) for byte in content[place : place + 1])
    limits = bytes([random.choice(LIMITS)]) * random.randrange(1, 9)
    first, last, new = random.choice(
        (
            *3 * [(place, place + 1, flipped)],
            (place, place + len(limits), limits),
            (place, place + 4, random.randbytes(4)),
            (place, end, b""),
            (place, place + random.randrange(1, 64), b""),
            (place, place, random.randbytes(random.randrange(1, 16))),
            (place, place, content[start : start + random.randrange(1, 64)]),
            (end, end, random.choice((b"\0" * 512, b"garbage", gzip.compress(b"x"), random.randbytes(3)))),
        )
    )
    return content[:first] + new + content[last:]


# JSON

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 0.5, -0.0, 10**18, 2**63, 2**64, -(2**64), 10**400, -(10**4000)),
    *(float("nan"), float("inf"), float("-inf"), 5e-324, 1.7e308, 1e22),
    *("", "x", "running", "completed", "lost", "0", "1e999", "null", "latest", "local", "azure"),
    *("../../x", "/", "a/b", "\0", "\ud800", "\N{PILE OF POO}", "\x1b[31m", "a\nb", "${seed}", "???"),
    "x" * 10_000,
    *("2026-11-24", "2026-11-24T10:15:00+00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *([], {}, [[]], [1, "x", None], {"": 0}, {"name": "x"}, {"x": {"bytes": 1, "sha256": "0"}}),
)
TEXTS = (
    *(b"", b" ", b"null", b"0", b"[]", b"{}", b'"x"', b"{", b"[1,", b"nan", b"NaN"),
    *(b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"9" * 5000, b'{"schema": ' + b"9" * 5000 + b"}"),
    *(b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900),
    *(b'{"schema": 1, "schema": 1}', b"\0" * 100, b"\n" * 1000, b'"' + b"x" * 100_000),
)


def damaged_json(content: bytes, random: Random) -> bytes:
    """Damage JSON or JSON lines: a value, a key, the text, or all of it."""
    choice = random.random()
    if choice < 0.1:
        return random.choice(TEXTS)
    if choice < 0.25:
        return damaged(content, random, TEXTS)
    if choice < 0.3:
        return _repeat_key(content, random)
    lines = content.splitlines()
    is_one = len(lines) < 2 or lines[0] in (b"{", b"[")
    place = random.randrange(len(lines)) if lines else 0
    value = json.loads(content if is_one else lines[place])
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _other_value(value, random)
    text = json.dumps(value).encode()
    return text if is_one else b"\n".join([*lines[:place], text, *lines[place + 1 :]]) + b"\n"


def _other_value(value: Any, random: Random) -> Any:
    """Change something anywhere in a JSON value."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.05:
        return _odd(value, random)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    at = random.choice(keys)
    if isinstance(value[at], dict | list) and value[at] and random.random() < 0.7:
        value[at] = _other_value(value[at], random)
    elif random.random() < 0.2:
        del value[at]
    elif random.random() < 0.1 and isinstance(value, dict):
        value[random.choice((*keys, "", "x", "schema", "self", "\ud800"))] = _odd(None, random)
    elif random.random() < 0.1:
        value[at] = copy.deepcopy(value[random.choice(keys)])
    else:
        value[at] = _odd(value[at], random)
    return value


def _odd(value: Any, random: Random) -> Any:
    """Return a wrong value: of another type, extreme, or slightly different."""
    if random.random() < 0.2:
        if isinstance(value, int | float) and abs(value) < 1e9:
            return random.choice((-value, value + 1, value * 1e300, str(value), [value], value * 10**300))
        if isinstance(value, str):
            return random.choice((value[:-1], value + "x", value.upper(), [value], value + "\0"))
        deep: Any = value
        for _ in range(random.choice((1, 10, 200))):
            deep = [deep]
        return deep
    return copy.deepcopy(random.choice(ODD_VALUES))  # the copy may be changed later


def _repeat_key(content: bytes, random: Random) -> bytes:
    """Repeat a key with another value."""
    key = random.choice((b"schema", b"status", b"pid", b"accuracy", b"epoch", b"data", b"digest"))
    value = json.dumps(random.choice(ODD_VALUES)).encode()
    return content.rstrip().removesuffix(b"}") + b', "' + key + b'": ' + value + b"}"


# IDX


def sound_idx(random: Random, rank: int, count: int | None = None, size: tuple[int, int] = (5, 4)) -> bytes:
    """Make a sound raw IDX file with `count` labels or images of `size`, values below 10."""
    count = random.randrange(1, 9) if count is None else count
    shape = (count,) if rank == 1 else (count, *size)
    return idx_header((0, 0, 8, rank), shape) + bytes(random.choices(range(10), k=math.prod(shape)))


def idx_header(magic: tuple[int, ...], shape: tuple[int, ...]) -> bytes:
    """Return the header of an IDX file."""
    return bytes(magic) + struct.pack(f">{len(shape)}I", *shape)


def packed(content: bytes, random: Random) -> bytes:
    """Compress bytes with gzip at a random level, in one member or several."""
    cuts = sorted(random.randrange(len(content) + 1) for _ in range(random.choice((0, 0, 0, 1, 2, 5))))
    parts = [content[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    return b"".join(gzip.compress(part, random.randrange(10), mtime=0) for part in parts)


def damaged_idx(random: Random, rank: int) -> bytes:
    """Make an IDX file, gzipped or raw; some are sound."""
    content = sound_idx(random, rank)
    ways: dict[float, Callable[[], bytes]] = {
        0.05: lambda: maybe_packed(content, random),
        0.1: lambda: packed(sound_idx(random, 4 - rank), random),  # images instead of labels
        0.25: lambda: with_wrong_header(random, rank, content),
        0.3: lambda: bomb(random, content),
        0.55: lambda: packed(damaged(content, random), random),
        0.8: lambda: damaged(packed(content, random), random),
        1.0: lambda: damaged(content, random),
    }
    choice = random.random()
    return next(way for limit, way in ways.items() if choice < limit)()


def maybe_packed(content: bytes, random: Random) -> bytes:
    """Compress bytes with gzip in half of the cases."""
    return packed(content, random) if random.random() < 0.5 else content


def with_wrong_header(random: Random, rank: int, content: bytes) -> bytes:
    """Make an IDX file whose header doesn't match its values."""
    magic = random.choice(
        ((0, 0, 8, rank), (0, 0, random.randrange(256), rank), (0, 0, 8, random.randrange(256)))
    )
    true = struct.unpack(f">{rank}I", content[4 : 4 + 4 * rank])
    shape = tuple(random.choice((size, size, size + 1, random.choice(DIMENSIONS))) for size in true)
    damaged_file = idx_header(magic, shape) + content[4 + 4 * rank :]
    return maybe_packed(damaged_file, random)


def bomb(random: Random, content: bytes) -> bytes:
    """Make a small gzip file that unpacks to megabytes of zeros."""
    packer = zlib.compressobj(level=9, wbits=31)
    megabytes = random.choice((8, 32))
    if random.random() < 0.5:
        content = idx_header((0, 0, 8, 3), random.choice(((2**11, 2**10, 2**10), (2**20, 28, 28))))
    pieces = [packer.compress(content), *(packer.compress(bytes(2**20)) for _ in range(megabytes))]
    return b"".join([*pieces, packer.flush()])
