"""What Azure refuses, or accepts and lets fail: names, sizes, cluster settings, environments.

Pure functions. Patterns of names and limits come from the published documents (azure-ml-rest.json).
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

SIZES_BY_CORES = {
    1: "D1_v2",
    2: "D2_v2 D11_v2 DS2_v2 DS11_v2 D2s_v3 D2ds_v4 F2s_v2",
    4: "D3_v2 D12_v2 DS3_v2 DS12_v2 D4s_v3 D4ds_v4 E4s_v3 F4s_v2 NC4as_T4_v3",
    8: "F8s_v2",
    24: "NC24ads_A100_v4",
}
VM_CORES = {f"STANDARD_{name.upper()}": n for n, names in SIZES_BY_CORES.items() for name in names.split()}
"""The VM sizes that clusters can have here, in capitals as the service returns them, with their cores."""
UNSPECIFIED_SIZE = "STANDARD_DS3_V2"
RETIRING = re.compile(r"STANDARD_DS?\d+_V2")
"""Sizes that Azure will retire; here, each cluster that has them carries the service's warning."""

SUBNET = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft\.Network/virtualNetworks/[^/]+/subnets/[^/]+"
)


@functools.cache
def facts() -> Json:
    """Return the facts from the published documents, of the calls of both SDKs."""
    names = ("azure-ml-rest.json", "azure-ml-rest-v2.json")
    first, second = (json.loads((Path(__file__).parent / name).read_text()) for name in names)
    merged = {key: {**first[key], **second[key]} for key in ("sources", "types", "enums")}
    client = {key: {**first["client"][key], **values} for key, values in second["client"].items()}
    merged["client"] = {**first["client"], **client}
    return {**first, **merged, "endpoints": [*first["endpoints"], *second["endpoints"]]}


def check_compute_name(name: str) -> None:
    if not _matches("compute_name_safe", name):
        text = (
            f"The specified compute name {name} is invalid: it must be between 2 and 16 characters, start"
            " with a letter, end with a letter or digit and hold letters, digits and hyphens."
        )
        raise Refusal(400, "BadArgument", text)


def check_cluster(body: Json) -> None:
    """Check the settings of a new cluster."""
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
    if idle is not None and not _matches("nodeIdleTimeBeforeScaleDown", idle):
        raise Refusal(400, "BadArgument", f"Invalid nodeIdleTimeBeforeScaleDown: {idle}")
    subnet = settings.get("subnet")
    if subnet is not None and not SUBNET.fullmatch(str(subnet.get("id"))):
        raise Refusal(400, "BadArgument", f"Invalid subnet: {subnet.get('id')}")


def check_run_id(run_id: str) -> None:
    if not _matches("run_id", run_id):
        raise Refusal(400, "ValidationError", f"RunId {run_id!r} is invalid.")


def check_experiment_name(name: str) -> None:
    if not _matches("experiment_name_client", name):
        raise Refusal(400, "ValidationError", f"Experiment name {name!r} is invalid.")


def _matches(pattern: str, text: str) -> bool:
    return re.search(facts()["patterns"][pattern], text) is not None


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
    """Return why an environment's image cannot be built, or None.

    An image can have this Python's minor version, and each package in the version that is installed here.
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
    """Check conda's `python=3.11` and `python=3.11.7`, and ranges such as `python>=3.11`."""
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
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"ERROR: No matching distribution found for {line}"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"ERROR: No matching distribution found for {line}"
    return None


def seconds(duration: str) -> float:
    """Return an ISO 8601 duration of days, hours, minutes and seconds in seconds."""
    found = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?)?", duration)
    if found is None:
        return 1800.0
    return sum(float(n or 0) * unit for n, unit in zip(found.groups(), (86400, 3600, 60, 1), strict=True))
