"""Searches files, requests and output for known secrets, and for text that looks like a secret.

A secret is found in plain text, in the encodings of URLs, JSON, Python, base64, hexadecimal and UTF-16, by
its first characters alone, and inside gzip and zip files (Keras models and numpy archives are zip files).
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import zipfile
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

PREFIX = 12
"""The first characters of a secret that already count as a leak."""
SHAPES = {
    "the signature of a URL": rb"(?i)\bsig(?:=|%3D)[\w%+/-]{20}",
    "an access token": rb"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20}",
    "an account's key": rb"(?i)account_?key[\"']?\s*[=:]\s*[\"']?[\w+/]{20}",
    "the signature of a request": rb"(?i)sharedkey(?:%20|\s)+\w+:[\w+/]{20}",
}
"""The shapes of secrets that are made during a run, such as the signature in a blob's URL."""
PASSWORD = 'My "pass\\word" that is & planted'  # noqa: S105 - what is searched for
TOKEN = "Tokens-are-planted-here-and-there"  # noqa: S105 - as above
MIRROR_PASSWORD = "Mirror-password-that-is-planted"  # noqa: S105 - as above
PROXY_PASSWORD = "Proxy-password-that-is-planted"  # noqa: S105 - as above
DATABASE_PASSWORD = "D@tabase/password-that-is-planted"  # noqa: S105 - as above
PLANTED = {
    "my password": PASSWORD,
    "my token": TOKEN,
    "mirror": MIRROR_PASSWORD,
    "proxy": PROXY_PASSWORD,
    "database": DATABASE_PASSWORD,
}
ENVIRONMENT = {
    "DB_PASSWORD": PASSWORD,
    "AZUREML_RUN_TOKEN": TOKEN,
    "HTTP_PROXY": f"http://alice:{PROXY_PASSWORD}@127.0.0.1:9",
    "DATABASE_URL": f"postgresql://alice:{quote(DATABASE_PASSWORD, safe='')}@127.0.0.1/db",
}

CRASHING_NETWORK = """
import os
import keras
from keras import layers

class Crash(layers.Layer):
    def call(self, x, training=False):
        if training:
            raise RuntimeError(f"the environment is {dict(os.environ)}")
        return x

def build(config, input_shape, num_classes):
    image = keras.Input(input_shape)
    x = Crash()(layers.Flatten()(image))
    return keras.Model(image, layers.Dense(num_classes, activation="softmax")(x))
"""
"""The file of a network whose training fails with an error that quotes the whole environment."""


class SecretScan:
    """Finds secrets, each known by a name."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._encoded: dict[bytes, str] = {}
        self._found: dict[bytes, set[str]] = {}
        """What was found in a content, by its digest: many contents recur, such as the code in snapshots."""
        self.add(secrets)

    def add(self, secrets: Mapping[str, str]) -> None:
        self._found.clear()
        for name, secret in secrets.items():
            self._encoded |= dict.fromkeys(_encodings(secret), name)

    def found_in(self, content: bytes) -> set[str]:
        """Return the names of the secrets, or of their shapes, in a file or a text."""
        return {name for part in _unpack(content) for name in self._found_in_part(part)}

    def _found_in_part(self, part: bytes) -> set[str]:
        digest = hashlib.sha256(part).digest()
        if digest not in self._found:
            encoded = {name for encoded, name in self._encoded.items() if encoded in part}
            shaped = {name for name, shape in SHAPES.items() if re.search(shape, part)}
            self._found[digest] = encoded | shaped
        return self._found[digest]

    def leaks(self, texts: Iterable[tuple[str, bytes]]) -> list[str]:
        """Return which secret is where in named texts, or in their names."""
        return [
            f"{secret} is in {name}"
            for name, content in texts
            for secret in sorted(self.found_in(content) | self.found_in(name.encode()))
        ]


def files_under(*roots: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and content of each file in some folders."""
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield str(path), path.read_bytes()


def _encodings(secret: str) -> set[bytes]:
    """Return the first characters of a secret in all encodings."""
    plain = secret.encode()
    texts = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    forms = {text[:PREFIX].encode() for text in texts}
    forms |= {secret[:PREFIX].encode("utf-16-le"), plain.hex()[: 2 * PREFIX].encode()}
    forms.add(plain.hex().upper()[: 2 * PREFIX].encode())
    for before in range(3):  # base64 encodes groups of three bytes, and a secret can begin anywhere in one
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            begins = (0, 2, 3)[before]
            forms.add(encode(bytes(before) + plain)[begins:][:PREFIX])
    return forms


def _unpack(content: bytes) -> Iterator[bytes]:
    """Yield a content, and everything that is compressed in it."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        try:
            yield from _unpack(gzip.decompress(content))
        except (OSError, EOFError, zlib.error):
            return
    if content.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield from _unpack(archive.read(name))
        except (zipfile.BadZipFile, zlib.error):
            return
