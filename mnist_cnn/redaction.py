"""Removes passwords, keys and tokens from texts and exceptions."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import threading
from collections.abc import Iterable
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, unquote

_KEYS = r"(?:access|account|api|private|secret|shared|storage)[_-]?key"
# Here and below a match starts at the start of a word: the search would take quadratic time otherwise.
_NAMES = rf"(?<![\w-])[\w-]*(?:pass(?:word|wd|phrase)|secret|token|credential|{_KEYS})"
_VALUE = r"[^\s&\"',;}]+"
_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_PATTERNS = (
    re.compile(rf"(?i)\b(sig(?:=|%3D)|bearer\s+|sharedkey(?:lite)?\s+[^:\s]+:){_VALUE}"),
    re.compile(rf"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:\w+\s+)?{_VALUE}"),
    re.compile(rf"(?i)({_NAMES}[\"']?\s*[:=]\s*)(?:{_QUOTED}|{_VALUE})"),
    # A password with a slash, which some libraries allow, ends at the last @ of its word.
    re.compile(
        r"(?i)((?::|%3A)(?:/|%2F){2})(?:(?!%2F|%3A|%40)[^\s/:@\"'])*(?::|%3A)"
        r"(?:(?!(?::|%3A)(?:/|%2F){2})[^\s\"'])+(?=@|%40)"
    ),
    # The user and password of a URL, also if the URL is encoded, or a path that has lost a slash.
    re.compile(r"(?i)((?::|%3A)(?:/|%2F){1,2})(?:(?!%2F)[^\s/\"'])+(?=@|%40)"),
    # An access token (RFC 7519), whatever precedes it in its word.
    re.compile(r"(?<![\w-])(?=[\w-]+\.[\w-]+\.[\w-])((?:[\w-]*?-)??)eyJ[\w-]+\.[\w-]+\.[\w-]+"),
    re.compile(r"()(?<![\w+/])[\w+/]{86}=="),  # the 64 bytes of a storage account's key
)
_SECRET_VARIABLE = re.compile(rf"(?i){_NAMES}$")
_SHORTEST = 8
"""Least length of a variable's value to redact.

In characters. Ordinary words contain shorter values.
"""
_LOGINS = (re.compile(r"://([^\s/]+)@"), re.compile(r"://([^\s/:@]*:\S+)@"))
"""The user and password in a variable's URL.

Some libraries allow a slash in the password.
"""
_LOGIN = re.compile(r"(?<=://)(?:[^\s/:@]*:\S+|[^\s/]+)@")


class Redacted(Exception):  # noqa: N818 - it stands for any exception
    """A foreign exception without secrets: its type and message."""


def redact(text: str) -> str:
    """Replace signatures, tokens, keys and passwords by ***.

    Also the values of environment variables whose names say that they are secret, and passwords in the URLs
    of any variable.
    """
    for secret in _secrets_in(tuple(os.environ.items())):
        text = text.replace(secret, "***")
    for pattern in _PATTERNS:
        text = pattern.sub(r"\1***", text)
    return text


def without_login(url: str) -> str:
    """Return a URL without its user and password."""
    return _LOGIN.sub("", url, count=1)


class RedactedStream:
    """A text stream that redacts every line it writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line = ""  # the end of what was written, which is not a whole line yet
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            lines, newline, self._line = (self._line + text).rpartition("\n")
            if newline:
                self._stream.write(redact(lines) + newline)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._lock:
            line, self._line = self._line, ""
            self._stream.write(redact(line))
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redacted(stream: TextIO) -> TextIO:
    """Return a stream that redacts its input.

    Threads and libraries may write to it too.
    """
    return cast("TextIO", RedactedStream(stream))


def without_secrets(error: BaseException) -> Redacted:
    """Return an exception and its causes without secrets."""
    shown = Redacted(redact(f"{type(error).__name__}: {error}")).with_traceback(error.__traceback__)
    inner = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if inner is not None:
        shown.__cause__ = without_secrets(inner)
    return shown


@functools.lru_cache(maxsize=1)
def _secrets_in(variables: tuple[tuple[str, str], ...]) -> list[str]:
    """Return the secrets in environment variables, longest first.

    Includes every way to write them.
    """
    secrets = set[str]()
    for name, value in variables:
        if _SECRET_VARIABLE.search(name):
            secrets.add(value.strip())
        for login in (login for pattern in _LOGINS for login in pattern.findall(value)):
            password = login.partition(":")[2]
            secrets |= {login, unquote(login), password, unquote(password)}
    written = {text for secret in secrets if len(secret) >= _SHORTEST for text in _ways_to_write(secret)}
    return sorted(written, key=len, reverse=True)


def _ways_to_write(value: str) -> set[str]:
    """Return the ways to write a value.

    As plain text, and as Python, JSON, URLs and base64 write it.
    """
    content = os.fsencode(value)
    in_url = {quote(content), quote(content, safe=""), quote_plus(content)}
    in_base64 = base64.b64encode(content).decode()
    return {value, repr(value)[1:-1], json.dumps(value)[1:-1], *in_url, in_base64}
