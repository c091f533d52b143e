"""A stream that says it is a terminal."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """Text that is written to a terminal, with its escape sequences."""

    def isatty(self) -> bool:
        return True
