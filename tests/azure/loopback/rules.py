"""What Azure refuses or lets fail: names, sizes, cluster settings, environments. Pure functions.

The names' rules and the limits come from the facts of the published documents (azure-ml-rest.json).
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from .refusals import Refusal

if TYPE_CHECKING:
    from .messages import Json

VM_SIZES = {
    "Standard_D1_v2": (1, 0),
    "Standard_D2_v2": (2, 0),
    "Standard_D3_v2": (4, 0),
    "Standard_D11_v2": (2, 0),
    "Standard_D12_v2": (4, 0),
    "Standard_DS2_v2": (2, 0),
    "Standard_DS3_v2": (4, 0),
    "Standard_DS11_v2": (2, 0),
    "Standard_DS12_v2": (4, 0),
    "Standard_D2s_v3": (2, 0),
    "Standard_D4s_v3": (4, 0),
    "Standard_E4s_v3": (4, 0),
    "Standard_F2s_v2": (2, 0),
    "Standard_F4s_v2": (4, 0),
    "Standard_F8s_v2": (8, 0),
    "Standard_NC6": (6, 1),
    "Standard_NC6s_v3": (6, 1),
    "Standard_NC4as_T4_v3": (4, 1),
    "Standard_NC24ads_A100_v4": (24, 1),
}
"""Sizes that clusters can have here: name -> (cores, GPUs)."""

SUPPLIED = {"azureml-defaults": "azureml-core"}
"""Packages that an image gets and the node's interpreter has only the working part of."""


@functools.cache
def facts() -> Json:
    """The facts of the published documents."""
    loaded: Json = json.loads((Path(__file__).parent / "azure-ml-rest.json").read_text())
    return loaded


def vm_size(name: str) -> str | None:
    """Return the size as Azure writes it (names compare without case), or None if there is none."""
    return next((known for known in VM_SIZES if known.lower() == name.lower()), None)


def check_compute_name(name: str) -> None:
    pattern = facts()["patterns"]["compute_name_safe"]
    if not re.search(pattern, name):
        text = (
            f"The specified compute name {name} is invalid: it must be between 2 and 16 characters, start"
            " with a letter, end with a letter or digit and hold letters, digits and hyphens."
        )
        raise Refusal(400, "BadArgument", text)


def check_cluster(body: Json) -> None:
    """Check the settings of a cluster that is to be made."""
    properties = body.get("properties") or {}
    if properties.get("computeType") != "AmlCompute":
        raise Refusal(400, "BadArgument", f"Unsupported compute type {properties.get('computeType')}.")
    settings = properties.get("properties") or {}
    scale = settings.get("scaleSettings") or {}
    most, least = scale.get("maxNodeCount"), scale.get("minNodeCount") or 0
    limit = facts()["limits"]["cluster_nodes_default_max"]
    if not isinstance(most, int) or not 0 <= least <= most <= limit:
        text = (
            f"Invalid scale settings: minimum {least}, maximum {most}; a cluster has at most {limit} nodes."
        )
        raise Refusal(400, "BadArgument", text)
    idle = scale.get("nodeIdleTimeBeforeScaleDown")
    if idle is not None and not re.search(facts()["patterns"]["nodeIdleTimeBeforeScaleDown"], idle):
        raise Refusal(400, "BadArgument", f"Invalid nodeIdleTimeBeforeScaleDown: {idle}")


def check_run_id(run_id: str) -> None:
    if not re.search(facts()["patterns"]["run_id"], run_id):
        raise Refusal(400, "ValidationError", f"RunId {run_id!r} is invalid.")


def check_experiment_name(name: str) -> None:
    if not re.search(facts()["patterns"]["experiment_name_client"], name):
        raise Refusal(400, "ValidationError", f"Experiment name {name!r} is invalid.")


def check_run_document(document: Json) -> None:
    """Check tags, properties and texts of a run against their limits."""
    limits = facts()["limits"]
    for field in ("tags", "properties"):
        entries = document.get(field) or {}
        if len(entries) > limits[f"run_{field}_max"]:
            raise Refusal(400, "ValidationError", f"A run has at most {limits[f'run_{field}_max']} {field}.")
        word = {"tags": "tag", "properties": "property"}[field]
        for key, value in entries.items():
            longest = limits[f"run_{word}_key_chars_max"], limits[f"run_{word}_value_chars_max"]
            if len(key) > longest[0] or len(str(value or "")) > longest[1]:
                raise Refusal(400, "ValidationError", f"The {word} {key[:100]!r} is too long.")
    for field, limit in (
        ("displayName", "run_display_name_chars_max"),
        ("description", "run_description_chars_max"),
    ):
        if len(document.get(field) or "") > limits[limit]:
            raise Refusal(400, "ValidationError", f"{field} is longer than {limits[limit]} characters.")


def environment_problem(environment: Json) -> str | None:
    """Return why no image could be built for an environment, or None.

    What can be had is what the node's interpreter has: this Python's minor version and, of each package
    that is asked for, the version that is installed here.
    """
    python = environment.get("python") or {}
    if python.get("userManagedDependencies"):
        return None
    wanted = (python.get("condaDependencies") or {}).get("dependencies") or []
    for entry in wanted:
        problem = None
        if isinstance(entry, dict):
            problem = next(filter(None, map(_pip_problem, entry.get("pip") or [])), None)
        elif re.match(r"python\s*[=<>!]", entry):
            problem = _python_problem(entry)
        if problem:
            return problem
    return None


def _python_problem(entry: str) -> str | None:
    """Conda's `python=3.11` and `python=3.11.7`, and ranges such as `python>=3.11`."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    version = entry.removeprefix("python").strip()
    exact = re.fullmatch(r"={1,2}(\d+\.\d+)(\.[\d*]+)*", version)
    if exact:
        return None if exact[1] == here else f"ResolvePackageNotFound: {entry}"
    try:
        fits = SpecifierSet(version).contains(f"{here}.{sys.version_info.micro}")
    except InvalidSpecifier:
        fits = False
    return None if fits else f"ResolvePackageNotFound: {entry}"


def _pip_problem(line: Any) -> str | None:
    if str(line).startswith("--"):
        return None
    try:
        requirement = Requirement(str(line))
    except InvalidRequirement:
        return f"Invalid requirement: {line!r}"
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    name = SUPPLIED.get(requirement.name.lower(), requirement.name)
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"ERROR: No matching distribution found for {line}"
    if name == requirement.name and not requirement.specifier.contains(version, prereleases=True):
        return f"ERROR: No matching distribution found for {line}"
    return None
