"""What gives access is taken out of a text before anybody else reads it."""

from __future__ import annotations

import os
import re

_NAMES = r"[\w-]*(?:pass(?:word|wd)|secret|token|account_?key|shared_?key|credential)"
_PATTERNS = (
    re.compile(r"(?i)\b(sig=|bearer\s+|sharedkey\s+[^:\s]+:)[^\s&\"',;}]+"),
    re.compile(rf"(?i)({_NAMES}[\"']?\s*[:=]\s*[\"']?)[^\s&\"',;}}]+"),
)
_SECRET_VARIABLE = re.compile(rf"(?i){_NAMES}$")
_SHORTEST = 8
"""Characters: a shorter value of a variable is no secret, and is found in innocent words."""


def redact(text: str) -> str:
    """Replace signatures, tokens, keys and passwords by ***, and values of variables that hold such."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name):
            text = text.replace(value, "***")
    for pattern in _PATTERNS:
        text = pattern.sub(r"\1***", text)
    return text
