"""Compares each answer with what the real service was seen to answer (azure-ml-recorded.json).

Recordings have a few calls only. Where they differ from the published documents, they win.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from .recorded_shapes import facts, fits, flat_mismatches, mismatches, template
from .tenancy import LOGIN, MANAGEMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .messages import Json, Request, Response

OF_ERROR_BODY = ("history", "execution", "metric", "artifact", "content")
"""The parts of the data plane that answer with the recorded shape of an error."""
SOMETIMES_SENT = re.compile(r"\{.*\||absent|as sent|Content-|x-ms-meta")
"""Recorded headers that depend on the request, or that the HTTP server adds."""
JOB_FAILED = "\nJobFailed: "
NO_CONTENT = 204
LOG_URL_LIFE = dt.timedelta(hours=8, minutes=10)


def violations(request: Request, response: Response | None) -> tuple[str, ...]:
    """Return how an answer disagrees with the recordings."""
    if response is None:
        return ()
    endpoint = _endpoint(request.method, request.host, request.path)
    name = endpoint["id"] if endpoint else f"{request.method} {request.path.rpartition('/')[2]}"
    if response.status >= 400:
        found = list(_of_error(request, response))
    else:
        found = list(_of_success(endpoint, request, response)) if endpoint else []
        if request.path.endswith("/details") and "/runs/" in request.path:
            found += _of_details(response.json())
    return tuple(f"{name} {text}" for text in found)


@functools.cache
def _endpoint(method: str, host: str, path: str) -> Json | None:
    for endpoint in facts()["endpoints"]:
        is_login, is_arm = endpoint["host"].startswith("login."), endpoint["host"].startswith("management.")
        if (host == LOGIN, host == MANAGEMENT) != (is_login, is_arm):
            continue
        if endpoint["method"] == method and template(endpoint["path"]).fullmatch(path):
            return dict(endpoint)
    return None


def _of_success(endpoint: Json, request: Request, response: Response) -> Iterator[str]:
    recorded = [entry for entry in endpoint["responses"] if entry["status"] < 400]
    same = [entry for entry in recorded if entry["status"] == response.status]
    if recorded and not same and response.status != NO_CONTENT:
        yield f"status {response.status}, recorded {', '.join(str(entry['status']) for entry in recorded)}"
    if not same:
        return
    yield from min((list(_of_answer(entry, request, response)) for entry in same), key=len)


def _of_answer(recorded: Json, request: Request, response: Response) -> Iterator[str]:
    sent = {name.lower() for name, _ in response.headers}
    for name, kind in (recorded.get("headers") or {}).items():
        if kind is None and name.lower() in sent:
            yield f"header {name}: the service does not send it"
        if kind is not None and not SOMETIMES_SENT.search(f"{name} {kind}") and name.lower() not in sent:
            yield f"header {name}: missing"
    body = recorded.get("body")
    text = re.match(r"the JSON text (\w+)", body) if isinstance(body, str) else None
    if (body is None and response.body) or (text and response.body.decode() != text[1]):
        yield f"a body, {response.body[:60]!r}; recorded was {body}"
    elif isinstance(body, dict) and any("{" in name for name in body):
        yield from _of_refused_artifacts(body, response.json())
    elif isinstance(body, dict) and not _is_without_witness(response.json()):
        yield from flat_mismatches(body, response.json(), is_put=request.method == "PUT")


def _is_without_witness(body: Any) -> bool:
    """Return whether a body is a failed operation, or a compute or secret of another type."""
    properties = (body.get("properties") or {}) if isinstance(body, dict) else {}
    is_other = properties.get("computeType", "AmlCompute") != "AmlCompute"
    is_other |= isinstance(body, dict) and body.get("secretsType", "AccountKey") != "AccountKey"
    return is_other or "Failed" in (properties.get("provisioningState"), (body or {}).get("status"))


def _of_refused_artifacts(shape: Json, body: Json) -> Iterator[str]:
    """Check the errors within a status of 200, one for each path that exists."""
    for path, refusal in (body.get("errors") or {}).items():
        for name, kind in shape.items():
            member = name.rpartition(".")[2]
            if not fits(kind, refusal["error"].get(member)):
                yield f"errors[{path}].error.{member}: {refusal['error'].get(member)!r} is not {kind}"


def _of_error(request: Request, response: Response) -> Iterator[str]:
    shapes = facts()["errors"]
    if request.host == MANAGEMENT:
        names = ["error.mfe", "error.arm_proxy"]
    elif request.path.split("/")[1] in OF_ERROR_BODY:
        names = ["error.data_plane"]
    else:
        return
    found = [list(mismatches(shapes[name]["shape"], response.json(), "error")) for name in names]
    yield from min(found, key=len)


# -- a run's details, which were seen as SDK v1 prints them --------------------------------------------------


def _of_details(details: Json) -> Iterator[str]:
    yield from _of_run_error(details.get("error"))
    for warning in details.get("warnings") or []:
        yield from _of_warning(warning)
    yield from _of_logs(details)
    if details.get("runDefinition"):
        properties = details.get("properties") or {}
        always = facts()["v1_printed"]["properties"]["always"]
        yield from (f"properties: {name} is missing" for name in always if name not in properties)
        yield from _of_definition(details["runDefinition"])
    if details["status"] == "Preparing" and details.get("startTimeUtc") is not None:
        yield "startTimeUtc: a run that is being prepared has none"


def _of_run_error(error: Json | None) -> Iterator[str]:
    """Check the error of a failed run. SDK v1 prints no null, so that other members must be null."""
    if error is None:
        return
    shape = facts()["errors"]["run.error.user_program"]["shape"]
    message = error["error"]["message"]
    if not fits(shape["error"]["message"], message):
        recorded = facts()["errors"]["run.error.job_failed"]["shape"]["error"]["message"]
        if JOB_FAILED in message and message != recorded:
            yield f"error.error.message: {message!r} is not {recorded!r}"
        return
    for known, part, where in ((shape, error, "error"), (shape["error"], error["error"], "error.error")):
        for name, value in part.items():
            if name not in known and value is not None:
                yield f"{where}.{name}: {value!r} must be null"
    for name in ("message", "messageParameters", "details"):
        yield from mismatches(shape["error"][name], error["error"].get(name), f"error.error.{name}")
    if error.get("time") != shape["time"]:
        yield f"error.time: {error.get('time')!r} is not {shape['time']}"


def _of_warning(warning: Json) -> Iterator[str]:
    shape = facts()["errors"]["run.warning.secondary"]["shape"]
    if warning.get("source") != shape["source"]:
        return
    yield from (f"warning.{name}: was not recorded" for name in warning if name not in shape)
    try:
        inner = json.loads(warning["message"])["error"]
    except (ValueError, TypeError, KeyError):
        yield f"warning.message: {str(warning.get('message'))[:60]!r} is not the JSON of an error"
        return
    if JOB_FAILED not in inner["message"] or inner.get("innerError") is not None:
        yield "warning.message: its error is not the recorded one"


def _of_logs(details: Json) -> Iterator[str]:
    """Check the names of the logs, and how long their addresses are valid."""
    for name, url in (details.get("logFiles") or {}).items():
        if not any(known.fullmatch(name) for known in _log_names()):
            yield f"logFiles: {name} is not a recorded name"
        if details["status"] == "Preparing" and "image_build" not in name:
            yield f"logFiles: {name} exists while the run is being prepared"
        query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
        start, end = (dt.datetime.fromisoformat(query[key]) for key in ("st", "se"))
        if end - start != LOG_URL_LIFE or query["sp"] != "r":
            yield f"logFiles: {name} can be read for {end - start}, with the permissions {query['sp']}"


@functools.cache
def _log_names() -> tuple[re.Pattern[str], ...]:
    """Return the expressions of all names that were seen, and of a script's own logs."""
    listed = facts()["v1_printed"]["logs"]
    names = [name for group, names in listed.items() if group not in ("sources", "notes") for name in names]
    several = [name.partition("(several nodes: ")[2] for name in names]
    names += [f"azureml-logs/{log}" for text in several for log in re.findall(r"[\w{}-]+\.txt", text)]
    own = re.compile(r"logs/(?!azureml/).*")
    return (own, *(template(name) for name in names))


def _of_definition(definition: Any) -> Iterator[str]:
    prose = facts()["v1_printed"]["runDefinition"]["y2021"]
    members = re.search(r"members ([\w ]+)", prose)
    names = members[1].split() if members else []
    yield from (f"runDefinition.{name}: missing" for name in names if name not in definition)
    yield from (f"runDefinition.{name}: not in camel case" for name in definition if not name[:1].islower())
    if not isinstance(definition.get("maxRunDurationSeconds"), int):
        yield "runDefinition.maxRunDurationSeconds: the service fills it in"
    for name in ("framework", "communicator"):
        if not str(definition.get(name))[:1].isupper():
            yield f"runDefinition.{name}: {definition.get(name)!r} is not a word with a capital"
