"""Secrets that a test plants, and the search for them in whatever was written, sent or printed.

A secret is found in plain text, as URLs, JSON, Python, base64 and hexadecimal digits hold it, in UTF-16, as
its first characters alone, and inside gzip and zip files, which are also Keras models and numpy archives.
"""

from __future__ import annotations

import base64
import gzip
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
"""So many characters of a secret in a row are a leak too."""
LIKENESSES = {
    "the signature of a URL": rb"(?i)\bsig(?:=|%3D)[\w%+/-]{20}",
    "an access token": rb"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20}",
    "an account's key": rb"(?i)account_?key[\"']?\s*[=:]\s*[\"']?[\w+/]{20}",
    "the signature of a request": rb"(?i)sharedkey(?:%20|\s)+\w+:[\w+/]{20}",
}
"""What a secret that nobody planted looks like: made on the way, as each address of a blob is."""
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
"""The file of a network that fails in training, with an error that quotes the whole environment."""


class Planted:
    """The secrets, by a name for each; those that come to be on the way are added."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._needles: dict[bytes, str] = {}
        self.add(secrets)

    def add(self, secrets: Mapping[str, str]) -> None:
        for name, secret in secrets.items():
            self._needles |= dict.fromkeys(_forms(secret), name)

    def found_in(self, content: bytes) -> set[str]:
        """Name the secrets that a file or a text holds."""
        found: set[str] = set()
        for layer in _layers(content):
            found |= {name for needle, name in self._needles.items() if needle in layer}
            found |= {name for name, likeness in LIKENESSES.items() if re.search(likeness, layer)}
        return found

    def leaks(self, named: Iterable[tuple[str, bytes]]) -> list[str]:
        """Say where of many texts which secret is; a name may hold one as well as its text."""
        return [
            f"{secret} is in {name}"
            for name, content in named
            for secret in sorted(self.found_in(content) | self.found_in(name.encode()))
        ]


def files_under(*roots: Path) -> Iterator[tuple[str, bytes]]:
    """Yield each file of some folders with its path and content."""
    for root in roots:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                yield str(path), path.read_bytes()


def _forms(secret: str) -> set[bytes]:
    """Return how the beginning of a secret can be written."""
    plain = secret.encode()
    texts = {secret, quote(secret, safe=""), quote_plus(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    forms = {text[:PREFIX].encode() for text in texts}
    forms |= {secret[:PREFIX].encode("utf-16-le"), plain.hex()[: 2 * PREFIX].encode()}
    forms.add(plain.hex().upper()[: 2 * PREFIX].encode())
    for before in range(3):  # where a secret begins within three bytes decides how base64 writes it
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            begins = (0, 2, 3)[before]
            forms.add(encode(bytes(before) + plain)[begins:][:PREFIX])
    return forms


def _layers(content: bytes) -> Iterator[bytes]:
    """Yield a content, and what is packed in it."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        try:
            yield from _layers(gzip.decompress(content))
        except (OSError, EOFError, zlib.error):
            return
    if content.startswith(b"PK"):
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                for name in archive.namelist():
                    yield name.encode()
                    yield from _layers(archive.read(name))
        except (zipfile.BadZipFile, zlib.error):
            return
