"""The README's tutorial, command by command as it stands there, then the same training here.

Run inside the loopback service, in an empty folder with a workspace's config.json:

    python -m tests.azure.loopback -- python tests/azure/rehearsal.py [KEY=VALUE...]

What is given is added to both trainings, for a shorter rehearsal. Ends with 0 where every command did, the
model is good and both trainings ended in the same weights.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "clusters.md"
LEAST_ACCURACY = 0.98


def commands() -> list[list[str]]:
    """Return the command lines of the README's tutorial."""
    section = PAGE.read_text(encoding="utf-8").partition("## The tutorial, cell by cell")[2]
    block = re.search(r"```\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block.group(1).splitlines()]


def perform(words: list[str]) -> None:
    """Run a command line of the README with this Python; end the rehearsal where it fails."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, *words[1:]], check=False).returncode
    print(f"[{time.monotonic() - started:.1f} s, exit code {code}]", flush=True)
    if code:
        sys.exit(code)


def result(run: str) -> dict[str, object]:
    read: dict[str, object] = json.loads((Path(run) / "result.json").read_text(encoding="utf-8"))
    return read


def main(overrides: list[str]) -> None:
    for words in commands():
        is_training = "train.epochs=10" in words and "plan" not in words
        perform([*words, *overrides, "run_dir=runs/there"] if is_training else words)
    perform(["python", "-m", "mnist_cnn", "train.epochs=10", "save_h5=true", *overrides, "run_dir=runs/here"])
    there, here = result("runs/there"), result("runs/here")
    print(f"\ntest accuracy {there['accuracy']}, weights_sha256 {there['weights_sha256']}")
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert there[name] == here[name], f"{name}: {there[name]} there, {here[name]} here"
    assert float(str(there["accuracy"])) >= LEAST_ACCURACY or overrides
    print("the same weights there and here")


if __name__ == "__main__":
    main(sys.argv[1:])
