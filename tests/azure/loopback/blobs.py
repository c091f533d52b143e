"""The storage account: signs URLs for clients, stores blobs for handlers, forwards requests to Azurite."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import http.client
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from .messages import Request, Response

if TYPE_CHECKING:
    from .tenancy import Tenancy

VERSION = "2019-12-12"
PROTOCOLS = "https,http"
"""http too, because TLS ends at the proxy and Azurite gets plain requests."""
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}
MAX_PAGES = 1000


class BlobStore:
    """The account's blobs. Container and blob names are as in a URL, decoded."""

    def __init__(self, tenancy: Tenancy, port: int) -> None:
        self.tenancy = tenancy
        self._port = port

    def forward(self, request: Request) -> Response:
        """Forward a client's request to Azurite unchanged; its Host header names the account."""
        return self._send(request.method, request.target, request.headers, request.body)

    def create_container(self, container: str) -> None:
        self._call("PUT", f"/{container}", {"restype": "container"}, expect=(201, 409))

    def put(self, container: str, name: str, content: bytes) -> None:
        headers = {"x-ms-blob-type": "BlockBlob"}
        self._call("PUT", f"/{container}/{quote(name)}", {}, content, headers, expect=(201,))

    def get(self, container: str, name: str) -> bytes:
        return self._call("GET", f"/{container}/{quote(name)}", {}, expect=(200,)).body

    def exists(self, container: str, name: str) -> bool:
        return self._call("HEAD", f"/{container}/{quote(name)}", {}, expect=(200, 404)).status == 200

    def delete(self, container: str, name: str) -> None:
        self._call("DELETE", f"/{container}/{quote(name)}", {}, expect=(202, 404))

    def names(self, container: str, prefix: str = "") -> list[str]:
        """Return the names of all blobs that start with `prefix`."""
        query = {"restype": "container", "comp": "list", "prefix": prefix}
        names: list[str] = []
        for _page in range(MAX_PAGES):
            root = ET.fromstring(self._call("GET", f"/{container}", query, expect=(200,)).body)  # noqa: S314 - Azurite's
            names += [name.text or "" for name in root.iterfind("Blobs/Blob/Name")]
            marker = root.findtext("NextMarker")
            if not marker:
                break
            query["marker"] = marker
        return names

    def signed_url(self, container: str, name: str, permissions: str = "r") -> str:
        """Return a URL that gives access to one blob for eight hours (`permissions`: r, rw, ...).

        Without a name it gives access to the container.
        """
        kind, path = ("b", f"{container}/{name}") if name else ("c", container)
        resource = f"/blob/{self.tenancy.account}/{path}"
        start, end = _times()
        fields = [permissions, start, end, resource, "", "", PROTOCOLS, VERSION, kind, "", "", "", "", "", ""]
        query = {"sp": permissions, "st": start, "se": end, "spr": PROTOCOLS, "sv": VERSION, "sr": kind}
        signed = urlencode({**query, "sig": self._sign("\n".join(fields))})
        return f"https://{self.tenancy.blob_host}/{quote(path)}?{signed}"

    def account_signature(self) -> dict[str, str]:
        """Return the query that gives access to the whole account for a day."""
        start, end = _times()
        account = {"sp": "rwdlac", "ss": "b", "srt": "sco", "st": start, "se": end, "spr": PROTOCOLS}
        fields = [self.tenancy.account, *account.values(), VERSION]
        fields.insert(-2, "")  # no range of addresses
        return {**account, "sv": VERSION, "sig": self._sign("\n".join(fields) + "\n")}

    def _call(  # noqa: PLR0913 - a request has that many parts
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        expect: tuple[int, ...],
    ) -> Response:
        target = path + "?" + urlencode({**query, **self.account_signature()})
        response = self._send(method, target, headers or {}, body)
        if response.status not in expect:
            raise RuntimeError(
                f"Azurite answers {response.status} to {method} {path}: {response.body[:500]!r}"
            )
        return response

    def _send(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        try:
            connection.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
            kept = {name: text for name, text in headers.items() if name.lower() not in HOP_BY_HOP}
            kept.setdefault("Host", self.tenancy.blob_host)
            for name, text in kept.items():
                connection.putheader(name, text)
            if body or method in {"PUT", "POST"}:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            reply = connection.getresponse()
            content = reply.read()
            back = tuple((name, text) for name, text in reply.getheaders() if name.lower() not in HOP_BY_HOP)
            length = reply.getheader("Content-Length") if method == "HEAD" else None
            return Response(reply.status, content, back, int(length) if length else None)
        finally:
            connection.close()

    def _sign(self, text: str) -> str:
        key = base64.b64decode(self.tenancy.account_key)
        return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def _times() -> tuple[str, str]:
    """Return from when to when a signature is valid: as recorded, 10 minutes ago until in 8 hours."""
    now = dt.datetime.now(dt.UTC)
    start, end = now - dt.timedelta(minutes=10), now + dt.timedelta(hours=8)
    return start.strftime("%Y-%m-%dT%H:%M:%SZ"), end.strftime("%Y-%m-%dT%H:%M:%SZ")
