"""The loopback service's node: which packages its interpreter has, and which image can be built."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
from loopback import interpreter
from loopback.process import Process, Processes
from loopback.rules import environment_problem

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NUMPY = f"numpy=={importlib.metadata.version('numpy')}"


def test_the_nodes_interpreter_hides_the_project_and_shows_the_rest(tmp_path: Path) -> None:
    python = interpreter.make(tmp_path / "node", hidden=["filelock", *interpreter.HIDDEN])
    names = ("filelock", "mnist_cnn", "numpy", "keras")
    code = f"from importlib.util import find_spec; print([bool(find_spec(name)) for name in {names}])"
    ended = subprocess.run(
        [python, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60, env={}
    )
    assert ended.stdout.strip() == "[False, False, True, True]"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the SDK is for Python 3.11")
def test_the_node_has_the_sdks_core_without_its_plug_ins(tmp_path: Path) -> None:
    python = interpreter.make(tmp_path / "node")
    code = (
        "import importlib.metadata as m; "
        "print([point.dist.name for point in m.entry_points(group='azureml_run_type_providers')])"
    )
    ended = subprocess.run([python, "-P", "-c", code], capture_output=True, text=True, check=True, env={})
    assert ended.stdout.strip() == "['azureml-core']"


@pytest.mark.parametrize(
    ("conda", "pip", "problem"),
    [
        (f"python={HERE}", ["keras", NUMPY, "--no-deps"], None),
        (f"python={HERE}.1", ["numpy>=2", "no-such-package; python_version < '3'"], None),
        (f"python>={HERE}", [], None),
        ("python=3.8.13", [], "ResolvePackageNotFound: python=3.8.13"),
        ("python<3.8", [], "ResolvePackageNotFound: python<3.8"),
        (f"python={HERE}", ["numpy==0.0.1"], "No matching distribution found for numpy==0.0.1"),
        (f"python={HERE}", ["no-such-package"], "No matching distribution found for no-such-package"),
        (f"python={HERE}", ["not a requirement"], "Invalid requirement: 'not a requirement'"),
    ],
)
def test_an_image_can_have_what_is_installed_here(conda: str, pip: list[str], problem: str | None) -> None:
    environment = {"python": {"condaDependencies": {"dependencies": [conda, {"pip": pip}]}}}
    found = environment_problem(environment)
    assert found is None if problem is None else problem in (found or "")


def test_an_environment_that_users_manage_is_never_checked() -> None:
    dependencies = {"dependencies": ["python=2.7"]}
    managed = {"userManagedDependencies": True, "condaDependencies": dependencies}
    assert environment_problem({"python": managed}) is None


def test_a_process_that_fails_ends_those_of_the_other_nodes(tmp_path: Path) -> None:
    scripts = ("sleep 600", "echo I fail; exit 3", "true")
    commands = [["/bin/sh", "-c", f"{script}"] for script in scripts]
    processes = Processes([Process(command, tmp_path, {}, lambda _: None) for command in commands])
    assert processes.wait(60) == 3
    assert processes.log() == "I fail\n"


def test_the_last_node_of_a_job_can_be_lost(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "sleep 600"]
    processes = Processes([Process(command, tmp_path, {}, lambda _: None) for _ in range(2)])
    assert not processes.has_lost_node
    processes.lose_node()
    assert processes.wait(60) == -9
    assert processes.has_lost_node
