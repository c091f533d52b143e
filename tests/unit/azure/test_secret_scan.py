"""The search for secrets finds them in every encoding and archive."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import numpy as np
import pytest
from helpers.secret_scan import PREFIX, SecretScan

from mnist_cnn.redaction import redact


def _zip(content: bytes) -> bytes:
    with io.BytesIO() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("inside", content)
        return file.getvalue()


def _save(content: bytes) -> bytes:
    with io.BytesIO() as file:
        np.savez_compressed(file, array=np.frombuffer(content, dtype=np.uint8))
        return file.getvalue()


SECRET = 'A "se\\cret"/with+all&signs'  # noqa: S105 - its first characters differ in each encoding
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "as it is": lambda content: content,
    "gzip": gzip.compress,
    "zip": _zip,
    "npz": _save,
    "gzip in zip": lambda content: _zip(gzip.compress(content)),
}
ENCODED: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "first characters": lambda secret: secret[:PREFIX].encode(),
    "URL": lambda secret: quote(secret, safe="").encode(),
    "form": lambda secret: quote_plus(secret).encode(),
    "Python": lambda secret: repr([secret]).encode(),
    "JSON": lambda secret: json.dumps([secret]).encode(),
    "base64": lambda secret: base64.b64encode(secret.encode()),
    "base64 after a name": lambda secret: base64.b64encode(b"user:" + secret.encode()),
    "base64 after another name": lambda secret: base64.b64encode(b"me:x" + secret.encode()),
    "base64url": lambda secret: base64.urlsafe_b64encode(secret.encode()),
    "hexadecimal": lambda secret: secret.encode().hex().encode(),
    "HEXADECIMAL": lambda secret: secret.encode().hex().upper().encode(),
    "UTF-16": lambda secret: secret.encode("utf-16"),
}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
@pytest.mark.parametrize("encode", ENCODED.values(), ids=ENCODED)
def test_a_secret_is_found_in_each_encoding_and_archive(
    encode: Callable[[str], bytes], pack: Callable[[bytes], bytes]
) -> None:
    scan = SecretScan({"one": SECRET})
    assert scan.found_in(pack(b"before " + encode(SECRET) + b" after")) == {"one"}
    assert not scan.found_in(pack(b"before " + encode("something else, not a secret") + b" after"))


@pytest.mark.parametrize(
    "text",
    [
        "https://x.blob.core.windows.net/c/b?se=2026&sig=Abcdefghij0123456789%2BAbcd%3D",
        "Authorization: Bearer eyJ0eXAiOiJKV1QifQ.eyJhdWQiOiJodHRwczovLyJ9.Abcdefghij0123456789",
        "DefaultEndpointsProtocol=https;AccountKey=Abcdefghij0123456789+/Abcdefghij==",
        "SharedKey account:Abcdefghij0123456789Abcdefghij0123456789Abc=",
    ],
)
def test_text_in_the_shape_of_a_secret_is_found_and_redacted(text: str) -> None:
    assert SecretScan({}).found_in(text.encode())
    assert not SecretScan({}).found_in(redact(text).encode())
