"""Requests and responses as handlers see them, without sockets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Json = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Request:
    """One request; `names` holds the path's parts by their names in the route's template."""

    method: str
    host: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def path(self) -> str:
        """The decoded path with one leading slash (the client sometimes sends two)."""
        return "/" + unquote(urlsplit("//host/" + self.target.lstrip("/")).path).lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit("//host/" + self.target.lstrip("/")).query, keep_blank_values=True))

    def json(self) -> Any:
        """The body as JSON; an empty body is an empty object."""
        return json.loads(self.body) if self.body else {}


@dataclasses.dataclass(frozen=True)
class Response:
    """One response. `content_length` replaces the body's length in an answer to HEAD."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    content_length: int | None = None

    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


def answer(value: Any = None, status: int = 200, **headers: str) -> Response:
    """Return a JSON response, empty for None; an underscore in a header's name means a hyphen."""
    named = tuple((name.replace("_", "-"), text) for name, text in headers.items())
    if value is None:
        return Response(status, headers=named)
    body = json.dumps(value).encode()
    return Response(status, body, (("Content-Type", "application/json; charset=utf-8"), *named))
