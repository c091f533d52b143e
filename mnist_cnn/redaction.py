"""Removes passwords, keys and tokens from texts and exceptions before they are shown or saved."""

from __future__ import annotations

import base64
import json
import os
import re
from urllib.parse import quote, quote_plus

_KEYS = r"(?:access|account|api|private|secret|shared|storage)[_-]?key"
# Here and below a match starts at the start of a word: the search would take quadratic time otherwise.
_NAMES = rf"(?<![\w-])[\w-]*(?:pass(?:word|wd|phrase)|secret|token|credential|{_KEYS})"
_VALUE = r"[^\s&\"',;}]+"
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_PATTERNS = (
    re.compile(rf"(?i)\b(sig(?:=|%3D)|bearer\s+|sharedkey(?:lite)?\s+[^:\s]+:){_VALUE}"),
    re.compile(rf"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:\w+\s+)?{_VALUE}"),
    re.compile(rf"(?i)({_NAMES}[\"']?\s*[:=]\s*)(?:{_QUOTED}|{_VALUE})"),
    re.compile(r"(://)[^\s/@\"']+(?=@)"),  # the user and password of a URL
    # An access token (RFC 7519), whatever precedes it in its word.
    re.compile(r"(?<![\w-])(?=[\w-]+\.[\w-]+\.[\w-])((?:[\w-]*?-)??)eyJ[\w-]+\.[\w-]+\.[\w-]+"),
    re.compile(r"()(?<![\w+/])[\w+/]{86}=="),  # the 64 bytes of a storage account's key
)
_SECRET_VARIABLE = re.compile(rf"(?i){_NAMES}$")
_SHORTEST = 8
"""Characters: a shorter value of a variable isn't redacted, because ordinary words contain it."""


class Redacted(Exception):  # noqa: N818 - it stands for any exception
    """A foreign exception without secrets: its type and message."""


def redact(text: str) -> str:
    """Replace signatures, tokens, keys and passwords by ***.

    Also the values of environment variables whose names say that they are secret.
    """
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name):
            for written in sorted(_ways_to_write(value), key=len, reverse=True):
                text = text.replace(written, "***")
    for pattern in _PATTERNS:
        text = pattern.sub(r"\1***", text)
    return text


def without_secrets(error: BaseException) -> Redacted:
    """Return an exception and its causes without secrets, for `raise ... from`."""
    shown = Redacted(redact(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__)
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if inner is not None:
        shown.__cause__ = without_secrets(inner)
    return shown


def _ways_to_write(value: str) -> set[str]:
    """Return a value as plain text, and as Python, JSON, URLs and base64 write it."""
    content = os.fsencode(value)
    in_base64 = base64.b64encode(content).decode()
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], quote(content), quote_plus(content), in_base64}
