"""The command `serve`: a model as a web service.

It has a page to draw on.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from mnist_cnn import launch, registered
from mnist_cnn.cli import report
from mnist_cnn.errors import ConfigurationError
from mnist_cnn.version import installation_hint

if TYPE_CHECKING:
    from mnist_cnn.cli.command import Command

HOST, PORT = "127.0.0.1", "8000"
HIGHEST_PORT = 65535


def serve(command: Command) -> int:
    """Serve a run's model until Ctrl-C or SIGTERM."""
    command.allow_only("runs_dir")
    word = command.run_argument()
    host, port = command.flags.get("--host", HOST) or HOST, _port(command.flags.get("--port", PORT))
    try:
        from mnist_cnn.serving import app, server
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        if package == "mnist_cnn":
            raise
        hint = installation_hint("serve")
        raise ConfigurationError(f"serve needs {package}, which isn't installed", hint) from error
    from mnist_cnn.prediction.predictor import load_predictor

    folder = launch.find_model(word, command.overrides, command.config_dirs)
    predictor = load_predictor(folder, threads=1)  # requests share the processors, not the layers of one
    web = app.application(app.Service(predictor, registered.name_of(folder)))
    with server.bind(host, port) as listener, suppress(KeyboardInterrupt):
        _announce(listener, server.url_of(listener), str(folder), as_json=command.as_json)
        server.serve(web, listener)
    report.print_lossy("stopped", sys.stderr)
    return 0


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > HIGHEST_PORT:
        hint = f"give a number from 0 to {HIGHEST_PORT}; 0 takes any free port"
        raise ConfigurationError(f"--port {text} isn't valid", hint)
    return int(text)


def _announce(listener: socket.socket, url: str, model: str, *, as_json: bool) -> None:
    if as_json:
        report.print_json({"url": url, "model": model})
        sys.stdout.flush()
    else:
        report.print_lossy(f"serving {model} at {url} (Ctrl-C stops it)", sys.stdout)
    address = ipaddress.ip_address(listener.getsockname()[0])
    if not address.is_loopback:
        warning = f"warning: {address} is not a loopback address: everyone who reaches it can use the model"
        report.print_lossy(warning, sys.stderr)
