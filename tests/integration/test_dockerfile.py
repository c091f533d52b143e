"""The Dockerfile's commands, in a clean folder and an environment of their own. Docker itself is not needed.

The environment sees the packages of this one, so that none of the large ones is downloaded again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import site
import subprocess
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
from dockerfile_parse import DockerfileParser
from faults.readers.given_files import draw_digit
from helpers.processes import TINY, Ended, wait_until

ROOT = Path(__file__).parents[2]
NOT_RUN = ("python -m venv", "useradd")
"""How the commands begin that only an image needs."""

pytestmark = pytest.mark.usefixtures("unmeasured")


class Instruction(NamedTuple):
    """A line of the Dockerfile, and the stage that it belongs to."""

    stage: str
    name: str
    value: str

    def words(self) -> list[str]:
        """Return the words of a command that Docker starts without a shell."""
        words: list[str] = json.loads(self.value[self.value.index("[") :])
        return words


def instructions() -> list[Instruction]:
    stage, found = "", []
    for each in DockerfileParser(str(ROOT), cache_content=True).structure:
        name, value = each["instruction"], each["value"]
        if name == "FROM":
            stage = value.rpartition(" AS ")[2]
        if name != "COMMENT":
            found.append(Instruction(stage, name, value))
    return found


def of(stage: str, name: str) -> list[Instruction]:
    return [each for each in instructions() if (each.stage, each.name) == (stage, name)]


def context(folder: Path) -> Path:
    """Return a copy of what Docker gets of this checkout: `.dockerignore` names it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    for name in (line[1:] for line in lines if line.startswith("!")):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


class Image(NamedTuple):
    """The folder and the environment in which the commands run."""

    work: Path
    environment: dict[str, str]

    def start(self, *words: str) -> subprocess.Popen[str]:
        program = shutil.which(words[0], path=self.environment["PATH"])
        assert program is not None, words
        return subprocess.Popen(
            [program, *words[1:]],
            cwd=self.work,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self, *words: str) -> Ended:
        process = self.start(*words)
        out, err = process.communicate(timeout=180)
        return Ended(process.returncode, out, err)

    def run(self, *words: str) -> str:
        ended = self.end(*words)
        assert ended.code == 0, ended.out + ended.err
        return ended.out


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The package, as the Dockerfile's commands install it."""
    folder = tmp_path_factory.mktemp("image")
    venv.create(folder / "venv", with_pip=False)
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    (packages / "of-the-tests.pth").write_text("\n".join(site.getsitepackages()))
    for name in ("src", "work", "home"):
        (folder / name).mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTHON"))}
    path = f"{folder / 'venv' / 'bin'}:/usr/bin:/bin"
    environment = {**kept, "PATH": path, "HOME": str(folder / "home")}
    pip = folder / "venv" / "bin" / "pip"
    pip.write_text('#!/bin/sh\nexec python -m pip "$@"\n')
    pip.chmod(0o755)
    source = Image(context(folder / "src"), environment)
    for command in of("build", "RUN"):
        text = re.sub(r"^(--\S+\s+)+", "", command.value)
        if not text.startswith(NOT_RUN):
            source.run("sh", "-ec", text)
    return Image(folder / "work", environment)


def test_the_stages_and_their_instructions() -> None:
    found = instructions()
    bases = [each.value for each in found if each.name == "FROM"]
    python = "python:3.12-slim-bookworm"
    assert bases == [f"{python} AS build", f"{python} AS base", "base AS serve", "base AS train"]
    assert [each.value for each in of("base", "USER")] == ["1000"]
    assert not [each for each in found if each.stage in ("serve", "train") and each.name in ("RUN", "USER")]
    copied = [each.value for each in found if each.name == "COPY"]
    assert copied == ["pyproject.toml .", ". .", "--from=build /opt/mnist-cnn /opt/mnist-cnn"]
    begin = [re.sub(r"^(--\S+\s+)+", "", each.value) for each in found if each.name == "RUN"]
    assert [text.startswith(NOT_RUN) for text in begin] == [True, False, False, True]


@pytest.mark.long
def test_the_image_trains_and_predicts(image: Image) -> None:
    (entry,), (default,) = of("train", "ENTRYPOINT"), of("train", "CMD")
    assert "Usage:" in image.run(*entry.words(), *default.words())
    image.run(*entry.words(), *TINY)
    assert [row["status"] for row in json.loads(image.run(*entry.words(), "list", "--json"))] == ["completed"]
    draw_digit(image.work / "digit.png")
    assert image.run(*entry.words(), "predict", "latest", "digit.png").startswith("digit.png: ")
    where = image.run("python", "-c", "import mnist_cnn; print(mnist_cnn.__file__)")
    assert str(image.work.parent / "venv") in where


def test_the_image_serves_and_knows_its_health(image: Image) -> None:
    (entry,), (default,), (health,) = (of("serve", name) for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"))
    if not (image.work / "runs").exists():
        image.run("mnist-cnn", *TINY)
    server = image.start(*entry.words(), *default.words())
    try:
        wait_until(lambda: image.end(*health.words()).code == 0, server)
    finally:
        server.terminate()
        out, err = server.communicate(timeout=60)
    assert server.returncode == 0, out + err
    assert image.end(*health.words()).code != 0


def test_the_folder_of_the_volume_for_downloads_is_in_the_image() -> None:
    """Docker would make a missing one for root, and its user could not write there."""
    volumes = re.findall(r"--volume [\w-]+:(/[\w./]+)", (ROOT / "docs" / "docker.md").read_text())
    (made,) = [each.value for each in of("base", "RUN")]
    folders = made.partition("install --directory --mode 1777 ")[2].split()
    assert volumes
    assert set(volumes) <= set(folders)
