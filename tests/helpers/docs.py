"""The files that docs/extending.md shows."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "extending.md"


def file_in_docs(name: str) -> str:
    """Return the code block that opens with a comment naming this file."""
    blocks: list[str] = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    found = [block for block in blocks if block.startswith(f"# {name}\n")]
    assert len(found) == 1, f"docs/extending.md has {len(found)} blocks for {name}"
    return found[0]
