"""Compares each request and response with the published documents, as far as they go.

The facts are in azure-ml-rest.json: endpoints and types. It also lists, with reasons, where the client is
known to differ ("client") and which calls no document covers ("unpublished", "not_covered"). There are no
other exceptions; add a new one there, with its reason.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any

from .rules import facts

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .messages import Json, Request, Response

PYTHON_TYPES: Mapping[str, Any] = {
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "any": object,
    "scalar": (str, int, float),
}
RECORDED: Mapping[str, tuple[str, ...]] = {"ErrorResponse": ("statusCode",), "RootError": ("debugInfo",)}
"""Members that no document has, though the real service was seen to send them (azure-ml-recorded.json)."""


def violations(request: Request, response: Response | None) -> tuple[str, ...]:
    """Return how a client's request or this service's response disagrees with the documents."""
    found = _endpoint(request.method, request.path)
    if found is None:
        place = request.host + request.path
        listed = (*facts()["unpublished"], *facts()["not_covered"])
        known = any(re.search(entry["match"], place, re.IGNORECASE) for entry in listed)
        return () if known else (f"{request.method} {place}: in no document, and in no list of exceptions",)
    is_refused = response is not None and 400 <= response.status < 500  # the request is wrong, as expected
    texts = [] if is_refused else list(_of_request(found, request))
    texts += _of_response(found, response) if response else ()
    return tuple(f"{found['name']} {text}" for text in texts)


def _of_request(endpoint: Json, request: Request) -> Iterator[str]:
    client = facts()["client"]
    query = endpoint.get("query") or {}
    more = client["extra_query"].get(endpoint["name"], [])
    for name, rule in query.items():
        if rule.get("required") and name not in request.query:
            yield f"?{name}: required"
    for name in request.query:
        is_document_wide = name == "api-version"  # clients of other generations send it everywhere
        if name not in query and name not in more and not is_document_wide:
            yield f"?{name}: unknown"
    body = endpoint.get("request")
    if body and (request.body or body.get("body_required")):
        try:
            sent = request.json()
        except ValueError:
            yield "request: not JSON"
        else:
            yield from mismatches(f"ref:{body['type']}", sent, "request", by_client=True)


def _of_response(endpoint: Json, response: Response) -> Iterator[str]:
    published, headers = endpoint["response"], {name.lower() for name, _ in response.headers}
    if response.status not in published["status"]:
        if response.status < 400:
            yield f"response: status {response.status} is not published"
        elif endpoint.get("error"):
            yield from mismatches(f"ref:{endpoint['error']['type']}", response.json(), "error")
        return
    if response.status == 404:
        yield from mismatches(f"ref:{endpoint['error']['type']}", response.json(), "error")
        return
    for name, rule in (published.get("headers") or {}).items():
        if response.status in rule["on"] and name.lower() not in headers:
            yield f"response: header {name} is missing"
    if published["type"] and response.status != 204:
        yield from mismatches(f"ref:{published['type']}", response.json(), "response")


@functools.cache
def _endpoint(method: str, path: str) -> Json | None:
    """Return the endpoint of a request: the match with the most literal characters."""
    hits = [
        (len(re.sub(r"\{[^}]*\}", "", entry[key.replace("regex", "template")])), -index, entry)
        for index, entry in enumerate(facts()["endpoints"])
        if entry["method"] == method
        for key in ("path_regex", "client_path_regex")
        if key in entry and re.match(entry[key], path, re.IGNORECASE)
    ]
    best = max(hits, key=lambda hit: hit[:2], default=None)
    return best[2] if best else None


def mismatches(kind: str, value: Any, where: str, *, by_client: bool = False) -> Iterator[str]:
    """Yield how a JSON value differs from `kind`, a type in the notation of azure-ml-rest.json."""
    head, _, rest = kind.partition(":")
    match head:
        case "list" | "map":
            yield from _of_items(head, rest, value, where, by_client=by_client)
        case "enum":
            if value not in _allowed(rest, by_client=by_client):
                yield f"{where}: {value!r} is not in {rest}"
        case "pattern":
            if not isinstance(value, str) or not re.search(facts()["patterns"][rest], value):
                yield f"{where}: {value!r} does not match {rest}"
        case "ref":
            yield from _of_object(rest, value, where, by_client=by_client)
        case _:
            yield from _of_plain(head, value, where)


def _of_items(head: str, kind: str, value: Any, where: str, *, by_client: bool) -> Iterator[str]:
    """Check the items of a list, or a map's values that are not null."""
    if not isinstance(value, list if head == "list" else dict):
        yield f"{where}: not a {head}"
        return
    items = enumerate(value) if isinstance(value, list) else value.items()
    for key, item in items:
        if item is not None or head == "list":
            yield from mismatches(kind, item, f"{where}[{key}]", by_client=by_client)


def _allowed(enum: str, *, by_client: bool) -> list[str]:
    client, allowed = facts()["client"], list(facts()["enums"][enum])
    if by_client:
        allowed += client["enum_values_sent_outside_spec"].get(enum, [])
        if enum in client["enum_values_compared_ignoring_case"]:
            allowed += [value.lower() for value in allowed]
    return allowed


def _of_plain(head: str, value: Any, where: str) -> Iterator[str]:
    wrong = not isinstance(value, PYTHON_TYPES.get(head, str))
    wrong = wrong or (isinstance(value, bool) and head in {"integer", "number"})
    formats = facts()["formats"]
    if wrong or (head in formats and not re.search(formats[head], value)):
        yield f"{where}: {value!r} is not {head}"


def _of_object(name: str, value: Any, where: str, *, by_client: bool) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{where}: not an object"
        return
    shape, client = facts()["types"][name], facts()["client"]
    renamed = client["renamed_request_keys"].get(name, {}) if by_client else {}
    more = client["extra_request_fields"].get(name, []) if by_client else RECORDED.get(name, ())
    types = {**shape["fields"], **(client["request_field_types"].get(name, {}) if by_client else {})}
    fields = {renamed.get(key, key): item for key, item in value.items()}
    for key in shape["required"]:
        if fields.get(key) is None:
            yield f"{where}.{key}: required"
    for key, item in fields.items():
        if key not in shape["fields"] and key not in more:
            yield f"{where}.{key}: unknown"
        elif item is not None and key in types:
            yield from mismatches(types[key], item, f"{where}.{key}", by_client=by_client)
