"""Runs the tutorial of docs/azure.md command by command, then the same training on this machine.

Run it inside the loopback service, which provides an empty folder with a workspace's config.json:

    python -m tests.azure.loopback -- python tests/azure/rehearsal.py [KEY=VALUE...]

The overrides apply to both trainings, for example to make them shorter. The exit code is 0 if every command
succeeds, the model is accurate enough and both trainings end with the same weights.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "azure.md"
MIN_ACCURACY = 0.98


def commands() -> list[list[str]]:
    """Return the command lines of the tutorial of docs/azure.md."""
    section = PAGE.read_text(encoding="utf-8").partition("## The tutorial, cell by cell")[2]
    block = re.search(r"```\n(.*?)```", section, flags=re.DOTALL)
    assert block is not None
    return [shlex.split(line) for line in block.group(1).splitlines()]


def run(words: list[str]) -> None:
    """Run one of its command lines with this Python; exit if it fails."""
    print(f"\n$ {shlex.join(words)}", flush=True)
    started = time.monotonic()
    code = subprocess.run([sys.executable, *words[1:]], check=False).returncode
    print(f"[{time.monotonic() - started:.1f} s, exit code {code}]", flush=True)
    if code:
        sys.exit(code)


def read_result(folder: str) -> dict[str, object]:
    result: dict[str, object] = json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    return result


def main(overrides: list[str]) -> None:
    for words in commands():
        is_training = "train.epochs=10" in words and "plan" not in words
        run([*words, *overrides, "run_dir=runs/cluster"] if is_training else words)
    run(["python", "-m", "mnist_cnn", "train.epochs=10", "save_h5=true", *overrides, "run_dir=runs/local"])
    cluster, local = read_result("runs/cluster"), read_result("runs/local")
    print(f"\ntest accuracy {cluster['accuracy']}, weights_sha256 {cluster['weights_sha256']}")
    for name in ("job_digest", "weights_sha256", "accuracy"):
        assert cluster[name] == local[name], f"{name}: {cluster[name]} on the cluster, {local[name]} locally"
    assert float(str(cluster["accuracy"])) >= MIN_ACCURACY or overrides
    print("the weights are the same on the cluster and locally")


if __name__ == "__main__":
    main(sys.argv[1:])
