"""`serve` and `export --web` refuse what they cannot do, each with its exit code and a way out."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli import Ask, refusal
from helpers.processes import start_command
from helpers.serving import served


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_a_taken_port_exits_4(ask: Ask, completed_run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message, hint = refusal(ask("serve", str(completed_run), "--port", str(port)), 4)
    assert message == f"port {port} of 127.0.0.1 is taken by another process"
    assert "--port 0" in hint


@pytest.mark.parametrize("command", [("serve",), ("export", "--web=page")])
def test_a_damaged_model_exits_3(ask: Ask, home: Path, completed_run: Path, command: tuple[str, ...]) -> None:
    for file in ("result.json", "run.json"):
        (home / file).write_bytes((completed_run / file).read_bytes())
    (home / "model.onnx").write_bytes((completed_run / "model.onnx").read_bytes()[:-1])
    name, *flags = command
    message, hint = refusal(ask(name, str(home), *flags), 3)
    assert message.endswith("model.onnx is not the file that the training wrote")
    assert "resume" in hint
    assert not (home / "page").exists()


@pytest.mark.parametrize("port", ["65536", "-1", "web"])
def test_a_port_that_is_not_one_exits_2(ask: Ask, completed_run: Path, port: str) -> None:
    message, _ = refusal(ask("serve", str(completed_run), f"--port={port}"))
    assert message == f"--port {port} isn't valid"


def test_a_port_without_a_value_exits_2(ask: Ask, completed_run: Path) -> None:
    message, hint = refusal(ask("serve", str(completed_run), "--port"))
    assert (message, hint) == ("--port needs a value", "write --port=PORT, or leave it out")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", ".example", "a" * 64])
def test_a_host_that_is_not_this_machine_exits_2(ask: Ask, completed_run: Path, host: str) -> None:
    message, hint = refusal(ask("serve", str(completed_run), "--host", host, "--port", "0"))
    assert message.startswith(f"--host {host}: ")
    assert "127.0.0.1" in hint


def test_settings_that_it_would_ignore_are_refused(ask: Ask) -> None:
    assert refusal(ask("serve", "latest", "train.epochs=3"))[0] == "serve does not take train.epochs=3"
    assert refusal(ask("serve"))[0] == "serve needs one RUN"
    assert refusal(ask("export", "latest", "--runtime=x"))[0] == "export needs --web FOLDER"
    both = refusal(ask("export", "latest", "--web=a", "--litert=b"))[0]
    assert both == "export does not take --web and --litert at once"


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "prometheus_client"])
def test_without_the_extra_it_exits_2_and_names_it(small_run: Path, package: str) -> None:
    without = f"import sys; sys.modules[{package!r}] = None; from mnist_cnn.cli.main import main"
    code = f"{without}; sys.exit(main({['serve', str(small_run)]}))"
    ended = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    message, hint = ended.stderr.splitlines()
    assert message == f"error: serve needs {package}, which isn't installed"
    assert hint.endswith("-m pip install 'mnist-cnn[serve]'")


def test_beyond_loopback_it_warns(small_run: Path, tmp_path: Path) -> None:
    process = start_command("serve", str(small_run), "--port", "0", "--host", "0.0.0.0", cwd=tmp_path)  # noqa: S104
    assert process.stderr is not None
    assert process.stdout is not None
    assert process.stderr.readline().startswith("warning: 0.0.0.0 is not a loopback address")
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith(f"serving {small_run} at http://0.0.0.0:")
    assert err == "stopped\n"


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_an_ipv6_address_is_served(small_run: Path, tmp_path: Path) -> None:
    with served(small_run, tmp_path, "--host", "::1") as running:
        assert running.url.startswith("http://[::1]:")
        assert running.get("health").json()["model"] == small_run.name


def test_an_export_needs_an_empty_folder(ask: Ask, home: Path, completed_run: Path) -> None:
    (home / "page").mkdir()
    (home / "page" / "notes.txt").write_text("mine", encoding="utf-8")
    message, _ = refusal(ask("export", str(completed_run), "--web", "page"))
    assert message == "page is not an empty folder"


def test_an_export_without_npm_exits_4_and_names_the_way_out(
    ask: Ask, home: Path, completed_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(home))
    message, hint = refusal(ask("export", str(completed_run), "--web", "page"), 4)
    assert message.startswith("npm not found; it downloads onnxruntime-web@")
    assert "--runtime FOLDER" in hint
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "npm could not download onnxruntime-web@"),
        ("echo > other.tgz", "npm downloaded another onnxruntime-web@"),
    ],
)
def test_an_export_whose_download_fails_exits_4_and_leaves_nothing(  # noqa: PLR0913, PLR0917 - fixtures
    ask: Ask, home: Path, completed_run: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    programs = home.parent / "bin"
    programs.mkdir()
    (programs / "npm").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (programs / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    message, hint = refusal(ask("export", str(completed_run), "--web", "page"), 4)
    assert message.startswith(reason)
    assert "--runtime FOLDER" in hint
    assert list(home.iterdir()) == []


def test_a_runtime_folder_that_lacks_a_file_exits_2(ask: Ask, home: Path, completed_run: Path) -> None:
    (home / "ort.wasm.bundle.min.mjs").touch()
    message, _ = refusal(ask("export", str(completed_run), "--web", "page", "--runtime", "."))
    assert message.startswith("--runtime . does not hold ort.wasm.bundle.min.mjs and ")
    assert not (home / "page").exists()


def test_export_answers_as_json(ask: Ask, home: Path, completed_run: Path) -> None:
    (home / "ort").mkdir()
    for name in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (home / "ort" / name).write_bytes(b"x")
    answer = ask("export", str(completed_run), "--web", "pages/one", "--runtime", "ort", "--json").json()
    files = [home / "pages" / "one" / name for name in answer["files"]]
    assert sum(file.stat().st_size for file in files) == answer["bytes"]
    assert json.loads((home / "pages" / "one" / "model.json").read_text())["name"] == completed_run.name
